"""One operation on one work tree: runs its git processes, and queries the facts that it needs.

It decides nothing: ``repository`` decides what may be done when, and in which order.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nexus_protocol.errors import NexusError

from nexus.git import errors
from nexus.git.facts import RepoState, short
from nexus.git.leftovers import Leftovers, first_line
from nexus.git.messages import explain
from nexus.git.process import Fields, Progress, Result, check_version, run_git, with_config
from nexus.git.remote import ANY_TRANSPORT, NO_TRANSPORT, Access, Remote, mask_url, parse_url
from nexus.git.settings import HARMLESS, Settings, TooManySettings

__all__ = ["OnProgress", "Operation", "git_environment"]

OnProgress = Callable[[Progress], object]

# Colour may be set to "always", a maintenance in the background would outlive the operation, and only ``submodules``
# decides what happens to submodules.
_SETTINGS = (
    ("color.ui", "false"),
    ("core.fsmonitor", "false"),
    ("gc.autoDetach", "false"),
    ("maintenance.autoDetach", "false"),
    ("submodule.recurse", "false"),
)

_GITMODULES_BYTES = 1024 * 1024
_MAX_SUBMODULES = 1000

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
    made = {**environment, "GIT_CEILING_DIRECTORIES": ceiling, "GIT_ALLOW_PROTOCOL": ANY_TRANSPORT, **extra}
    return with_config(made, _SETTINGS)


class Operation:
    """An operation at ``path``. ``doing`` describes it in errors: ``pull into /srv/web``.

    ``umask`` is that of every git, and it inherits ``descriptors``. ``shown_path`` is what errors call the path.
    """

    def __init__(
        self,
        path: Path,
        access: Access,
        environment: Mapping[str, str],
        doing: str,
        umask: int | None,
        *,
        shown_path: Path | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        self.path = path
        self._shown_path = shown_path or path
        self._descriptors = tuple(descriptors)
        self.doing = doing
        self._access = access
        self._environment = environment
        self._umask = umask
        self._leftovers: Leftovers | None = None
        self._settings: Settings | None = None

    async def begin_change(self) -> None:
        """Record the locks that exist before a change, so that a cancel removes only those that git leaves."""
        self._require_work_tree()
        self._leftovers = await Leftovers.before(self.path, await self.git_dir())

    # Running git

    async def read(
        self, *arguments: str, fields: Fields | None = None, accepted: tuple[int, ...] | None = (0,)
    ) -> Result:
        """Run a git that changes nothing, not even its index; exit codes beside ``accepted`` (None: all) are errors.

        It runs no program that the repository names, and contacts no remote.
        """
        environment = await self._harmless()
        return await self._run(arguments, environment, receive=fields.feed if fields else None, accepted=accepted)

    async def _harmless(self) -> dict[str, str]:
        """The environment of a git that runs no program of the repository."""
        settings = await self.settings()
        try:
            return with_config(self._reading(), [*HARMLESS, *settings.without_programs()])
        except TooManySettings as error:
            raise self._too_many(error) from None

    def _reading(self) -> dict[str, str]:
        return git_environment(
            self._environment,
            self.path,
            GIT_OPTIONAL_LOCKS="0",
            GIT_ALLOW_PROTOCOL=NO_TRANSPORT,
            GIT_LITERAL_PATHSPECS="1",
            GIT_NO_LAZY_FETCH="1",
        )

    def _too_many(self, error: TooManySettings) -> errors.GitFailed:
        return errors.GitFailed(f"cannot {self.doing}: {error}", hint=f"Look at {self.path / '.git' / 'config'}.")

    async def change(self, *arguments: str, progress: OnProgress | None = None, **extra: str) -> None:
        """Run a git that changes the work tree or what is checked out, with the hooks and filters of the repository.

        It has no token. ``extra`` are variables for git and its hooks.

        Raises:
            GitHookFailed: git succeeded, and a hook that ran afterwards failed.
        """
        before = await self._head()
        environment = git_environment(self._environment, self.path, **extra)
        self._settings = None
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
        """Fetch from a remote, as it is configured; no hook runs.

        Raises:
            GitAuthentication, GitHostKey, GitUnreachable, GitRemoteNotFound, GitBadUrl
        """
        remote = await self.remote(name)
        local = ["--upload-pack=git-upload-pack"] if remote.transport == "file" else []
        await self.contact(
            remote, "fetch", "--progress", "--no-recurse-submodules", *local, "--", name, progress=progress
        )

    async def remote(self, name: str) -> Remote:
        """The remote that a name stands for, as git reaches it: after ``url.*.insteadOf``.

        Raises:
            GitBadUrl: it cannot be used.
        """
        shown = await self.read("ls-remote", "--get-url", "--", name)
        return parse_url(os.fsdecode(shown.output).rstrip("\n"))

    async def contact(
        self,
        remote: Remote,
        *arguments: str,
        progress: OnProgress | None = None,
        also: Sequence[Settings] = (),
        submodules: bool = False,
    ) -> None:
        """Run a git that contacts a remote, perhaps with the token, and runs no program that the repository names.

        ``also`` are the settings of repositories that it works in beside this one. With ``submodules`` the remotes are
        those of the submodules of what is at ``remote``.

        Raises:
            GitAuthentication, GitHostKey, GitUnreachable, GitRemoteNotFound, GitBadUrl
        """
        self._access.check(remote, self.doing)
        settings = await self.settings()
        if self._access.sends_token(remote):
            self._refuse_redirecting(settings, *also)
        found = next((key for one in also for key in one.senders()), None)
        if found is not None:
            raise errors.GitFailed(
                f"cannot {self.doing}: a submodule's own setting {found} names a program",
                hint="Remove it from the configuration of the submodule, or update the submodule by hand.",
            )
        base = await self._harmless()
        base = with_config(base, [pair for one in also for pair in one.without_programs()])
        del base["GIT_OPTIONAL_LOCKS"], base["GIT_NO_LAZY_FETCH"]
        if settings.is_own("core.gitproxy"):
            base["GIT_PROXY_COMMAND"] = ""
        await check_version(self.path, base)
        self._settings = None
        ssh = settings.trusted("core.sshcommand")
        with self._access.opened(remote, base, ssh, submodules=submodules) as (environment, descriptors):
            await self._run(
                arguments,
                environment,
                remote=None if submodules else remote,
                descriptors=descriptors,
                progress=progress,
            )

    def _refuse_redirecting(self, *settings: Settings) -> None:
        found = next((key for one in settings for key in one.redirecting()), None)
        if found is not None:
            raise errors.GitAuthentication(
                f"cannot {self.doing}: the repository's own setting {found} would decide where the token goes",
                hint=f"Remove it from {self.path / '.git' / 'config'}, or set it in your own configuration of git.",
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
                descriptors=(*self._descriptors, *descriptors),
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
            raise errors.GitFailed(
                f"cannot {self.doing}: {error.strerror}", hint=f"Look at {self._shown_path}."
            ) from None
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
        return explain(
            self.doing, result.lines, result.code, access=self._access, remote=remote, directory=self._shown_path
        )

    # Queries

    async def status(self) -> RepoState:
        """What is checked out, and what has changed."""
        head: dict[str, str] = {}
        counts = {"changed": 0, "staged": 0, "untracked": 0, "conflicted": 0}
        moved = 0

        def receive(record: list[str]) -> None:
            nonlocal moved
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
                moved += rest[1] != "." and rest[3] == "S"

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
        config = await self.settings()
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
            dirty=bool(counts["changed"] > moved or counts["staged"] or counts["conflicted"]),
            remote_url=short(mask_url(url)) if url else None,
            in_progress=next((what for name, what in _IN_PROGRESS if (git_dir / name).exists()), None),
            uninitialized_submodules=[path for path, populated in await self.submodules() if not populated][:100],
            **counts,
        )

    async def settings(self) -> Settings:
        """The settings of the repository, its user and the system; read again after a change."""
        if self._settings is None:
            self._settings = await self.list_settings("config", "--list", "-z", "--show-scope")
        return self._settings

    async def list_settings(self, *command: str) -> Settings:
        """What a git command that gives records of ``git config --show-scope`` gives.

        Raises:
            GitFailed: the command fails, or there are too many settings.
        """
        return await self._list_settings(command, lambda record: record)

    async def list_settings_of(self, file: Path) -> Settings:
        """The settings of a file that belongs to the repository, and of those that it includes.

        Raises:
            GitFailed: it cannot be read, or there are too many settings.
        """
        command = ("config", "--file", str(file), "--includes", "--list", "-z", "--show-scope")
        return await self._list_settings(command, lambda record: ["local", record[1]])

    async def _list_settings(self, command: Sequence[str], change: Callable[[list[str]], list[str]]) -> Settings:
        settings = Settings()
        fields = Fields(2, lambda record: settings.add(change(record)))
        try:
            await self._run(command, with_config(self._reading(), HARMLESS), receive=fields.feed)
        except TooManySettings as error:
            raise self._too_many(error) from None
        return settings

    async def submodules(self) -> list[tuple[str, bool]]:
        """The paths of the submodules (1,000 at most) in the index, and whether each has a repository."""
        named: list[str] = []
        listed = self.path / ".gitmodules"
        try:
            status = listed.lstat()
        except OSError:
            return []
        if not stat.S_ISREG(status.st_mode) or status.st_size > _GITMODULES_BYTES:
            return []

        def receive(record: list[str]) -> None:
            path = record[0].partition("\n")[2]
            if path and len(named) < _MAX_SUBMODULES and not {".", "..", ""} & set(path.split("/")):
                named.append(path)

        # An unreadable file is what git itself reports when it is used.
        await self.read(
            *("config", "--file", ".gitmodules", "--no-includes", "-z", "--get-regexp", r"^submodule\..*\.path$"),
            fields=Fields(1, receive),
            accepted=None,
        )
        if not named:
            return []
        links: dict[str, None] = {}

        def add(record: list[str]) -> None:
            mode, _, path = record[0].partition("\t")
            if mode.startswith("160000 ") and len(links) < _MAX_SUBMODULES:
                links[path] = None

        await self.read("ls-files", "--stage", "-z", "--", *named, fields=Fields(1, add))
        return await asyncio.to_thread(lambda: [(path, os.path.lexists(self.path / path / ".git")) for path in links])

    def inside(self, path: str) -> Operation:
        """The same operation in the repository of a submodule."""
        return Operation(
            self.path / path,
            self._access,
            self._environment,
            self.doing,
            self._umask,
            descriptors=self._descriptors,
        )

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
        # Commits that are to be merged come first.
        line = await asyncio.to_thread(first_line, await self.git_dir() / "FETCH_HEAD")
        identity, mark, *_ = (*line.split("\t", 2), "", "not-for-merge")
        return identity if re.fullmatch("[0-9a-f]{40,64}", identity) and not mark else None

    async def _head(self) -> tuple[bytes, str | None]:
        symbolic = await self.read("symbolic-ref", "--quiet", "HEAD", accepted=None)
        return symbolic.output, await self.resolve("HEAD")
