"""Turns the output of a failed git into an error with a hint, and checks what git would refuse. It runs nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nexus_protocol.errors import NexusError

from nexus.git import errors
from nexus.git.facts import RepoState
from nexus.git.remote import Access, Remote, mask_url
from nexus.hints import command_line

__all__ = ["checked_revision", "explain", "refuse_dirty", "refuse_unfinished", "unknown_branch", "unknown_commit"]


class _Rule(NamedTuple):
    """The error that a line of git, ssh or curl stands for."""

    pattern: re.Pattern[str]
    error: type[NexusError]
    reason: str
    hint: str
    words: tuple[str, ...]
    """The command line at the end of the hint."""


def _rule(pattern: str, error: type[NexusError], reason: str, hint: str, *words: str) -> _Rule:
    return _Rule(re.compile(pattern, re.MULTILINE | re.IGNORECASE), error, reason, hint, words)


_RULES = (
    _rule(
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|offending .*key",
        errors.GitHostKey,
        "the host key of {host} has changed",
        "Ask its administrator whether the key was replaced; if so, remove the old one:",
        *("ssh-keygen", "-R", "{known_host}"),
    ),
    _rule(
        r"Host key verification failed|No \w+ host key is known",
        errors.GitHostKey,
        "the host key of {host} is unknown",
        "Connect once by hand and compare the fingerprint:",
        *("ssh", "{port_option}", "{port}", "{host_name}"),
    ),
    _rule(
        r"SSL certificate problem|server certificate verification failed|certificate subject name",
        errors.GitHostKey,
        "the certificate of {host} is not trusted",
        "Check the URL; for a private certificate authority, set http.sslCAInfo in git's configuration.",
    ),
    _rule(
        r"Authentication failed for|could not read (Username|Password)|HTTP Basic: Access denied|"
        r"requested URL returned error: 40[13]|Invalid username or (password|token)",
        errors.GitAuthentication,
        "{host} {authentication}",
        "{credentials}",
    ),
    _rule(
        r"^\S*: Permission denied \(|^Permission denied \(|Too many authentication failures|Permission to \S+ denied",
        errors.GitAuthentication,
        "{host} {authentication}",
        "{credentials}",
    ),
    _rule(
        r"^(fatal: |warning: )?Remote branch \S+ not found in upstream",
        errors.GitUnknownBranch,
        "the remote has no such branch",
        "Leave out the branch, or choose one that exists:",
        *("git", "ls-remote", "--heads", "{url_word}"),
    ),
    _rule(
        r"does not appear to be a git repository|repository '.*' (not found|does not exist)|Repository not found|"
        r"not found: did you run git update-server-info|requested URL returned error: 404|"
        r"project you were looking for could not be found|access denied or repository not exported",
        errors.GitRemoteNotFound,
        "there is no repository at {url}",
        "Check the URL; some hosts answer the same when the credentials are insufficient.",
    ),
    _rule(
        r"Could not resolve host|Failed to connect|Couldn't connect to server|"
        r"Connection (refused|timed out|reset|closed)|"
        r"unable to connect to|Network is unreachable|No route to host|Operation timed out|early EOF|"
        r"the remote end hung up|RPC failed|transfer closed|Temporary failure in name resolution|"
        r"requested URL returned error: 5\d\d|unexpected disconnect|kex_exchange_identification",
        errors.GitUnreachable,
        "{host} cannot be reached, or closed the connection",
        "Check the URL and the network, and try again.",
    ),
    _rule(
        r"detected dubious ownership|unsafe repository",
        errors.GitNotOwned,
        "the repository belongs to another user, and git does not trust it",
        "If you trust it:",
        *("git", "config", "--global", "--add", "safe.directory", "{directory}"),
    ),
    _rule(
        r"transport '.*' not allowed",
        errors.GitBadUrl,
        "the URL leads to a transport that is not allowed",
        "Allowed are https, ssh, git and files; check url.*.insteadOf in git's configuration.",
    ),
    _rule(
        r"No space left on device|Disk quota exceeded",
        errors.GitDiskFull,
        "the disk is full",
        "Make room, and try again.",
    ),
    _rule(
        r"Unable to create '.*\.lock': File exists|Another git process seems to be running|"
        r"cannot lock ref '.*': is at \w+ but expected",
        errors.GitBusy,
        "another git process has the repository locked, or left its lock when it was killed",
        "Wait for it; if no git runs there, remove the .lock file that the details name.",
    ),
    _rule(
        r"(Permission denied|Read-only file system|Operation not permitted)$",
        errors.GitPermission,
        "the daemon's user is not permitted to do this in the file system",
        "Look at the owner and the permissions of {directory}.",
    ),
    _rule(
        r"already (checked out|used by worktree) at",
        errors.GitBranchElsewhere,
        "the branch is checked out in another work tree",
        "Check it out there, or remove that work tree:",
        *("git", "-C", "{directory}", "worktree", "list"),
    ),
    _rule(
        r"not a git repository",
        errors.GitNotARepository,
        "{directory} is not a git repository",
        "Clone the repository first, or correct the path.",
    ),
)

_OVERWRITTEN = re.compile(
    r"would be (?:overwritten|removed) by (?:checkout|merge|switch)|would lose untracked files|"
    r"Untracked working tree file '.*' would be"
)
_NAME_CONFLICT = re.compile(r"; cannot create|a branch named .* already exists")

_CREDENTIALS = {
    "none": "The repository is used without credentials; set ssh or token as its authentication.",
    "ssh": "Give the daemon an agent (SSH_AUTH_SOCK) that has a key which the host knows: ssh-add -l",
    "token": "Check that the token is valid and may read the repository.",
}


def explain(
    doing: str, lines: Sequence[str], code: int, *, access: Access, remote: Remote | None, directory: Path
) -> NexusError:
    """The error that git's output stands for. ``doing`` is what could not be done: ``pull into /srv/web``."""
    own = [line for line in access.clean(lines) if not line.startswith(("Cloning into", "From "))]
    # The lines of git and ssh themselves decide. Those of the remote are shown, and matched only afterwards, for hosts
    # that give the reason in no other way.
    local = "\n".join(line for line in own if not line.startswith("remote:"))
    everything = "\n".join(line.removeprefix("remote:").strip() for line in own)
    host = remote.host if remote is not None and remote.host else "the remote"
    name, _, port = host.partition(":") if re.fullmatch(r"[^:]*:\d+", host) else (host, "", "")
    values = {
        "host": host,
        "known_host": f"[{name}]:{port}" if port else name,
        "host_name": name if remote is not None and remote.host else "HOST",
        "port_option": "-p" if port else "",
        "port": port,
        "url": mask_url(remote.url) if remote is not None else "the remote's URL",
        "url_word": mask_url(remote.url) if remote is not None else "URL",
        "directory": str(directory),
        "authentication": "requires credentials" if access.auth == "none" else "rejected the credentials",
        "credentials": _CREDENTIALS[access.auth],
    }
    details: dict[str, Any] = {"git": own[-10:]}
    if _OVERWRITTEN.search(local):
        files = [line.strip() for line in own if line.startswith("\t")][:20]
        look = command_line("git", "-C", directory, "status")
        return errors.GitDirty(
            f"cannot {doing}: files that are not committed would be overwritten",
            hint=f"Commit them or move them away: {', '.join(files[:5]) or look}",
            details={"files": files, **details},
        )
    if _NAME_CONFLICT.search(local):
        return errors.GitBranchExists(
            f"cannot {doing}: its name conflicts with that of an existing branch",
            hint="Choose another name; branches a and a/b cannot both exist.",
            details=details,
        )
    for text in (local, everything):
        for rule in _RULES:
            if rule.pattern.search(text):
                return rule.error(
                    f"cannot {doing}: {rule.reason.format(**values)}",
                    hint=_hint(rule, values),
                    details=details,
                )
    if code < 0:
        reason = f"git was ended by signal {-code}"
    else:
        last = next((line for line in own if line.startswith(("fatal:", "error:"))), own[-1] if own else "")
        reason = re.sub(r"^(fatal|error): ", "", last)[:300] or f"git exited with code {code} and no message"
    return errors.GitFailed(
        f"cannot {doing}: {reason}", hint="The details have the last lines that git wrote.", details=details
    )


def _hint(rule: _Rule, values: dict[str, str]) -> str:
    words = [word.format(**values) for word in rule.words]
    line = command_line(*(word for word in words if word))  # without a port there is no option for it
    return f"{rule.hint.format(**values)} {line}".rstrip()


def checked_revision(revision: str, doing: str) -> str:
    """``revision``, if it is one word that git cannot take for an option.

    Raises:
        GitBadName: it is not.
    """
    if (
        not revision
        or revision.startswith("-")
        or len(revision) > 1000
        or any(c <= " " or c == "\x7f" for c in revision)
    ):
        raise errors.GitBadName(
            f"cannot {doing}: this is not a valid name of a commit",
            hint="Give a commit's id, a tag or a branch, such as origin/main.",
        )
    return revision


def unknown_commit(commit: str, doing: str, problem: NexusError | None) -> errors.GitUnknownCommit:
    return errors.GitUnknownCommit(
        f'cannot {doing}: there is no commit "{commit}"{_not_fetched(problem)}',
        hint="List the commits with the log; pull first if only the remote has the commit.",
    )


def unknown_branch(doing: str, problem: NexusError | None) -> errors.GitUnknownBranch:
    return errors.GitUnknownBranch(
        f"cannot {doing}: there is no such branch, locally or at a remote{_not_fetched(problem)}",
        hint="List the branches, or create it.",
    )


def _not_fetched(problem: NexusError | None) -> str:
    return "" if problem is None else f" (the remote could not be asked: {problem.message})"


def refuse_unfinished(state: RepoState, doing: str, path: Path) -> None:
    if state.in_progress is not None:
        abort = "reset" if state.in_progress == "bisect" else "--abort"
        raise errors.GitInProgress(
            f"cannot {doing}: a {state.in_progress} is not finished",
            hint=f"Finish it, or abort it: {command_line('git', '-C', path, state.in_progress, abort)}",
        )


def refuse_dirty(state: RepoState, doing: str, path: Path) -> None:
    if state.dirty:
        counts = {"staged": state.staged, "changed": state.changed, "conflicted": state.conflicted}
        raise errors.GitDirty(
            f"cannot {doing}: {', '.join(f'{count} {what}' for what, count in counts.items() if count)} "
            "and not committed",
            hint=f"Commit the changes, or git stash them: {command_line('git', '-C', path, 'stash')}",
            details=counts,
        )
