"""One operation on one work tree: runs its git processes, and queries the facts that it needs.

It decides nothing: ``repository`` decides what may be done when, and in which order.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nexus_protocol.errors import NexusError

from nexus.git import errors
from nexus.git.facts import Config, RepoState
from nexus.git.leftovers import Leftovers
from nexus.git.messages import explain
from nexus.git.process import Fields, Progress, Result, check_version, run_git, with_config
from nexus.git.remote import Access, Remote, mask_url, parse_url

__all__ = ["OnProgress", "Operation", "git_environment"]

OnProgress = Callable[[Progress], object]

# Colour may be set to "always", and a maintenance in the background would outlive the operation.
_SETTINGS = (("color.ui", "false"), ("gc.autoDetach", "false"), ("maintenance.autoDetach", "false"))

_IN_PROGRESS = (
    ("rebase-merge", "rebase"),
    ("rebase-apply", "rebase"),
    ("MERGE_HEAD", "merge"),
    ("CHERRY_PICK_HEAD", "cherry-pick"),
    ("REVERT_HEAD", "revert"),
    ("BISECT_LOG", "bisect"),
)


def git_environment(environment: Mapping[str, str], directory: Path, **extra: str) -> dict[str, str]:
    """The environment of a git that works in ``directory``, and never in a repository above it."""
    ceiling = os.path.dirname(os.path.realpath(directory))  # noqa: PTH120
    return with_config({**environment, "GIT_CEILING_DIRECTORIES": ceiling, **extra}, _SETTINGS)


class Operation:
    """An operation at ``path``. ``doing`` describes it in errors: ``pull into /srv/web``."""

    def __init__(
        self, path: Path, access: Access, environment: Mapping[str, str], doing: str, umask: int | None
    ) -> None:
        self.path = path
        self.doing = doing
        self._access = access
        self._environment = environment
        self._umask = umask
        self._leftovers: Leftovers | None = None

    async def begin_change(self) -> None:
        """Record the locks that exist before a change, so that a cancel removes only those that git leaves."""
        self._require_work_tree()
        self._leftovers = await Leftovers.before(self.path, await self.git_dir())

    # Running git

    async def read(
        self, *arguments: str, fields: Fields | None = None, accepted: tuple[int, ...] | None = (0,)
    ) -> Result:
        """Run a git that changes nothing, not even its index; exit codes beside ``accepted`` (None: all) are errors."""
        environment = git_environment(self._environment, self.path, GIT_OPTIONAL_LOCKS="0")
        return await self._run(arguments, environment, receive=fields.feed if fields else None, accepted=accepted)

    async def change(self, *arguments: str, progress: OnProgress | None = None, **extra: str) -> None:
        """Run a git that changes the work tree or what is checked out. ``extra`` are variables for git and its hooks.

        Raises:
            GitHookFailed: git succeeded, and a hook that ran afterwards failed.
        """
        before = await self._head()
        environment = git_environment(self._environment, self.path, **extra)
        try:
            await self._run(arguments, environment, progress=progress, may_finish=True)
        except errors.GitFailed as error:
            if await self._head() == before:
                raise
            raise errors.GitHookFailed(
                f"cannot {self.doing} completely: git succeeded, but a hook that ran afterwards failed",
                hint="The details have the last lines that the hook wrote.",
                details=error.details,
            ) from None

    async def fetch(self, name: str, progress: OnProgress | None = None) -> None:
        """Fetch from a remote, as it is configured.

        Raises:
            GitAuthentication, GitHostKey, GitUnreachable, GitRemoteNotFound, GitBadUrl
        """
        shown = await self.read("ls-remote", "--get-url", "--", name)
        remote = parse_url(os.fsdecode(shown.output).rstrip("\n"))
        self._access.check(remote, self.doing)
        ssh = (await self.config()).get("core.sshcommand")
        base = git_environment(self._environment, self.path)
        await check_version(self.path, base)
        with self._access.opened(remote, base, ssh) as (environment, descriptors):
            await self._run(
                ["fetch", "--progress", "--", name],
                environment,
                remote=remote,
                descriptors=descriptors,
                progress=progress,
            )

    async def _run(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        remote: Remote | None = None,
        descriptors: Sequence[int] = (),
        progress: OnProgress | None = None,
        receive: Callable[[bytes], None] | None = None,
        may_finish: bool = False,
        accepted: tuple[int, ...] | None = (0,),
    ) -> Result:
        self._require_work_tree()
        try:
            result = await run_git(
                arguments,
                directory=self.path,
                environment=environment,
                descriptors=descriptors,
                umask=self._umask,
                progress=progress,
                receive=receive,
                may_finish=may_finish,
            )
        except asyncio.CancelledError:
            if self._leftovers is not None:
                await self._leftovers.remove()
            raise
        except OSError as error:
            raise errors.GitFailed(f"cannot {self.doing}: {error.strerror}", hint=f"Look at {self.path}.") from None
        if accepted is not None and result.code not in accepted:
            raise self._error(result, remote)
        return result

    def _require_work_tree(self) -> None:
        if not os.path.lexists(self.path / ".git"):
            raise errors.GitNotARepository(
                f"cannot {self.doing}: {self.path} is not the top of a git repository's work tree",
                hint="Clone the repository first, or correct the path.",
            )

    def _error(self, result: Result, remote: Remote | None) -> NexusError:
        return explain(self.doing, result.lines, result.code, access=self._access, remote=remote, directory=self.path)

    # Queries

    async def status(self) -> RepoState:
        """What is checked out, and what has changed."""
        head: dict[str, str] = {}
        counts = {"changed": 0, "staged": 0, "untracked": 0, "conflicted": 0}
        moved_submodules = 0

        def receive(record: list[str]) -> None:
            nonlocal moved_submodules
            kind, _, rest = record[0].partition(" ")
            if kind == "#":
                key, _, value = rest.partition(" ")
                head[key] = value
            elif kind == "?":
                counts["untracked"] += 1
            elif kind == "u":
                counts["conflicted"] += 1
            elif kind in ("1", "2"):
                counts["staged"] += rest[0] != "."
                counts["changed"] += rest[1] != "."
                # A submodule at another commit; no operation here touches its work tree.
                moved_submodules += rest[1] != "." and rest[3] == "S"

        await self.read(
            "status",
            "--porcelain=v2",
            "--branch",
            "--ahead-behind",
            "-z",
            "--no-renames",
            "--untracked-files=normal",
            "--ignore-submodules=dirty",
            fields=Fields(1, receive),
        )
        config = await self.config()
        branch = head.get("branch.head")
        branch = None if branch == "(detached)" else branch
        commit = head.get("branch.oid")
        ahead, behind = (abs(int(part)) for part in head.get("branch.ab", "+0 -0").split())
        has_upstream = "branch.ab" in head
        name = config.main_remote(branch)
        url = config.get(f"remote.{name}.url") if name is not None else None
        git_dir = await self.git_dir()
        return RepoState(
            branch=branch,
            commit=None if commit == "(initial)" else commit,
            upstream=head.get("branch.upstream"),
            ahead=ahead if has_upstream else None,
            behind=behind if has_upstream else None,
            dirty=bool(counts["changed"] > moved_submodules or counts["staged"] or counts["conflicted"]),
            remote_url=mask_url(url) if url else None,
            in_progress=next((what for name, what in _IN_PROGRESS if (git_dir / name).exists()), None),
            **counts,
        )

    async def config(self) -> Config:
        """The settings of remotes and of upstream branches."""
        config = Config()
        await self.read(
            "config",
            "-z",
            "--get-regexp",
            r"^(remote\..*\.url|branch\..*\.(remote|merge)|checkout\.defaultremote|core\.sshcommand)$",
            fields=Fields(1, lambda record: config.add(record[0])),
            accepted=(0, 1),
        )
        return config

    async def resolve(self, revision: str) -> str | None:
        """The id of the commit that ``revision`` names, None where it names none."""
        return self._found(
            await self.read(
                "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}", accepted=None
            )
        )

    async def ref(self, name: str) -> str | None:
        """The id that a full name such as ``refs/heads/main`` stands for, None where there is none."""
        return self._found(await self.read("show-ref", "--verify", "--hash", "--", name, accepted=None))

    def _found(self, result: Result) -> str | None:
        if result.code == 0:
            return result.output.decode("ascii", "replace").strip()
        if result.code != 1:
            # Either there is none, or git could not look: its output tells which.
            error = self._error(result, None)
            if not isinstance(error, errors.GitFailed):
                raise error
        return None

    async def count(self, span: str) -> int:
        """How many commits are in ``A..B``."""
        return int((await self.read("rev-list", "--count", span, "--")).output)

    async def check_branch_name(self, name: str) -> None:
        """Refuse what git does not allow as the name of a branch.

        Raises:
            GitBadName: with the rules.
        """
        allowed = name and not name.startswith("-") and name not in ("HEAD", "@") and "\0" not in name
        if not allowed or (await self.read("check-ref-format", f"refs/heads/{name}", accepted=None)).code:
            raise errors.GitBadName(
                f"cannot {self.doing}: git does not allow this name for a branch",
                hint="No blanks, no '..', none of ~^:?*[\\, not '-' first, not '/' or '.lock' last.",
            )

    async def git_dir(self) -> Path:
        """The folder of the repository: ``.git``, or the folder that this file names."""
        git_dir = self.path / ".git"
        if git_dir.is_dir():
            return git_dir
        shown = await self.read("rev-parse", "--absolute-git-dir")
        return Path(os.fsdecode(shown.output.removesuffix(b"\n")))

    async def fetched(self) -> str | None:
        """The commit that the last fetch marked as the one to merge, None where there was none."""
        with ((await self.git_dir()) / "FETCH_HEAD").open(encoding="utf-8", errors="replace") as lines:
            # Commits that are to be merged come first.
            identity, mark, *_ = (*next(lines, "").split("\t"), "", "not-for-merge")
        return identity if re.fullmatch("[0-9a-f]{40,64}", identity) and not mark else None

    async def _head(self) -> tuple[bytes, str | None]:
        symbolic = await self.read("symbolic-ref", "--quiet", "HEAD", accepted=None)
        return symbolic.output, await self.resolve("HEAD")
