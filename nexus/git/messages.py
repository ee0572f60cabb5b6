"""Turns the output of a failed git into an error with a hint, and checks what git would refuse. It runs nothing."""

from __future__ import annotations

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
    """The error that a line of git, ssh or curl stands for. The case of letters in a line does not count."""

    signs: tuple[_Sign, ...]
    """One of them in a line decides."""
    error: type[NexusError]
    reason: str
    hint: str
    words: tuple[str, ...]
    """The command line at the end of the hint."""


class _Sign(NamedTuple):
    """Words that a line has in this order, in lower case."""

    words: tuple[str, ...]
    unbroken: bool
    """Whether what is between the words has no blanks."""
    at_start: bool
    at_end: bool

    def is_in(self, line: str) -> bool:
        """Whether a line, in lower case, has them. No part of the line is searched twice."""
        end = 0
        for number, word in enumerate(self.words):
            last = end
            if number + 1 == len(self.words) and self.at_end:
                found = len(line) - len(word) if line.endswith(word) else -1
            else:
                found = line.find(word, end)
            if found < last or (number == 0 and self.at_start and found > 0):
                return False
            if number and self.unbroken and any(character.isspace() for character in line[last:found]):
                return False
            end = found + len(word)
        return True


def _sign(text: str) -> _Sign:
    """``*`` stands for any text, ``+`` for text without blanks, ``^`` and ``$`` for the ends of the line."""
    unbroken = "+" in text
    words = text.lower().strip("^$").split("+" if unbroken else "*")
    return _Sign(tuple(words), unbroken, text.startswith("^"), text.endswith("$"))


def _rule(signs: tuple[str, ...], error: type[NexusError], reason: str, hint: str, *words: str) -> _Rule:
    return _Rule(tuple(map(_sign, signs)), error, reason, hint, words)


_RULES = (
    _rule(
        ("REMOTE HOST IDENTIFICATION HAS CHANGED", "offending *key"),
        errors.GitHostKey,
        "the host key of {host} has changed",
        "Ask its administrator whether the key was replaced; if so, remove the old one:",
        *("ssh-keygen", "-R", "{known_host}"),
    ),
    _rule(
        ("Host key verification failed", "No + host key is known"),
        errors.GitHostKey,
        "the host key of {host} is unknown",
        "Connect once by hand and compare the fingerprint:",
        *("ssh", "{port_option}", "{port}", "{host_name}"),
    ),
    _rule(
        ("SSL certificate problem", "server certificate verification failed", "certificate subject name"),
        errors.GitHostKey,
        "the certificate of {host} is not trusted",
        "Check the URL; for a private certificate authority, set http.sslCAInfo in git's configuration.",
    ),
    _rule(
        (
            "Authentication failed for",
            "could not read Username",
            "could not read Password",
            "HTTP Basic: Access denied",
            "requested URL returned error: 401",
            "requested URL returned error: 403",
            "Invalid username or password",
            "Invalid username or token",
        ),
        errors.GitAuthentication,
        "{host} {authentication}",
        "{credentials}",
    ),
    _rule(
        (
            "^+: Permission denied (",
            "^Permission denied (",
            "Too many authentication failures",
            "Permission to + denied",
        ),
        errors.GitAuthentication,
        "{host} {authentication}",
        "{credentials}",
    ),
    _rule(
        (
            "^Remote branch + not found in upstream",
            "^fatal: Remote branch + not found in upstream",
            "^warning: Remote branch + not found in upstream",
        ),
        errors.GitUnknownBranch,
        "the remote has no such branch",
        "Leave out the branch, or choose one that exists:",
        *("git", "ls-remote", "--heads", "{url_word}"),
    ),
    _rule(
        (
            "does not appear to be a git repository",
            "repository '*' not found",
            "repository '*' does not exist",
            "Repository not found",
            "not found: did you run git update-server-info",
            "requested URL returned error: 404",
            "project you were looking for could not be found",
            "access denied or repository not exported",
        ),
        errors.GitRemoteNotFound,
        "there is no repository at {url}",
        "Check the URL; some hosts answer the same when the credentials are insufficient.",
    ),
    _rule(
        (
            "Could not resolve host",
            "Failed to connect",
            "Couldn't connect to server",
            "Connection refused",
            "Connection timed out",
            "Connection reset",
            "Connection closed",
            "unable to connect to",
            "Network is unreachable",
            "No route to host",
            "Operation timed out",
            "early EOF",
            "the remote end hung up",
            "RPC failed",
            "transfer closed",
            "Temporary failure in name resolution",
            "requested URL returned error: 5",
            "unexpected disconnect",
            "kex_exchange_identification",
        ),
        errors.GitUnreachable,
        "{host} cannot be reached, or closed the connection",
        "Check the URL and the network, and try again.",
    ),
    _rule(
        ("detected dubious ownership", "unsafe repository"),
        errors.GitNotOwned,
        "the repository belongs to another user, and git does not trust it",
        "If you trust it:",
        *("git", "config", "--global", "--add", "safe.directory", "{directory}"),
    ),
    _rule(
        ("transport '*' not allowed",),
        errors.GitBadUrl,
        "the URL leads to a transport that is not allowed",
        "Allowed are https, ssh, git and files; check url.*.insteadOf in git's configuration.",
    ),
    _rule(
        ("No space left on device", "Disk quota exceeded"),
        errors.GitDiskFull,
        "the disk is full",
        "Make room, and try again.",
    ),
    _rule(
        (
            "Unable to create '*.lock': File exists",
            "Another git process seems to be running",
            "cannot lock ref '*': is at * but expected",
        ),
        errors.GitBusy,
        "another git process has the repository locked, or left its lock when it was killed",
        "Wait for it; if no git runs there, remove the .lock file that the details name.",
    ),
    _rule(
        ("Permission denied$", "Read-only file system$", "Operation not permitted$"),
        errors.GitPermission,
        "the daemon's user is not permitted to do this in the file system",
        "Look at the owner and the permissions of {directory}.",
    ),
    _rule(
        ("already checked out at", "already used by worktree at"),
        errors.GitBranchElsewhere,
        "the branch is checked out in another work tree",
        "Check it out there, or remove that work tree:",
        *("git", "-C", "{directory}", "worktree", "list"),
    ),
    _rule(
        ("not a git repository",),
        errors.GitNotARepository,
        "{directory} is not a git repository",
        "Clone the repository first, or correct the path.",
    ),
)

_OVERWRITTEN = (
    *(_sign(f"would be overwritten by {what}") for what in ("checkout", "merge", "switch")),
    *(_sign(f"would be removed by {what}") for what in ("checkout", "merge", "switch")),
    _sign("would lose untracked files"),
    _sign("Untracked working tree file '*' would be"),
)
_NAME_CONFLICT = (_sign("; cannot create"), _sign("a branch named * already exists"))

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
    local = [line.lower() for line in own if not line.startswith("remote:")]
    everything = [line.removeprefix("remote:").strip().lower() for line in own]
    host = remote.host if remote is not None and remote.host else "the remote"
    name, _, port = host.partition(":") if host.count(":") == 1 and host[-1].isdigit() else (host, "", "")
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
    if _any_in(_OVERWRITTEN, local):
        files = [line.strip() for line in own if line.startswith("\t")][:20]
        look = command_line("git", "-C", directory, "status")
        return errors.GitDirty(
            f"cannot {doing}: files that are not committed would be overwritten",
            hint=f"Commit them or move them away: {', '.join(files[:5]) or look}",
            details={"files": files, **details},
        )
    if _any_in(_NAME_CONFLICT, local):
        return errors.GitBranchExists(
            f"cannot {doing}: its name conflicts with that of an existing branch",
            hint="Choose another name; branches a and a/b cannot both exist.",
            details=details,
        )
    for text in (local, everything):
        for rule in _RULES:
            if _any_in(rule.signs, text):
                return rule.error(
                    f"cannot {doing}: {rule.reason.format(**values)}",
                    hint=_hint(rule, values),
                    details=details,
                )
    if code < 0:
        reason = f"git was ended by signal {-code}"
    else:
        last = next((line for line in own if line.startswith(("fatal:", "error:"))), own[-1] if own else "")
        reason = (
            last.removeprefix("fatal: ").removeprefix("error: ")[:300] or f"git exited with code {code} and no message"
        )
    return errors.GitFailed(
        f"cannot {doing}: {reason}", hint="The details have the last lines that git wrote.", details=details
    )


def _any_in(signs: Sequence[_Sign], lines: Sequence[str]) -> bool:
    return any(sign.is_in(line) for line in lines for sign in signs)


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
