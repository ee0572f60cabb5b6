"""Repositories through the system's git: read, check out, pull, clone, without ever losing uncommitted work.

It knows paths, URLs and credentials, and neither services nor requests. ``process`` and ``operation`` run git,
``remote`` limits what it may reach, ``messages`` explains its failures.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from nexus_protocol.errors import NexusError

from nexus.git import errors
from nexus.git.facts import (
    ANSWER_CHARS,
    Branch,
    Budget,
    Commit,
    PullResult,
    RepoState,
    ahead_and_behind,
    milliseconds,
    refs,
    short,
)
from nexus.git.leftovers import StagingFolder
from nexus.git.messages import (
    checked_revision,
    explain,
    refuse_dirty,
    refuse_unfinished,
    unknown_branch,
    unknown_commit,
)
from nexus.git.operation import OnProgress, Operation, git_environment
from nexus.git.process import (
    Fields,
    Progress,
    base_environment,
    check_version,
    finish_despite_cancel,
    run_git,
    with_config,
)
from nexus.git.remote import Access, Auth, parse_url, without_credentials
from nexus.git.settings import HARMLESS
from nexus.git.submodules import initialise_all, update
from nexus.hints import command_line

__all__ = ["Auth", "Branch", "Commit", "OnProgress", "Progress", "PullResult", "RepoState", "Repository", "clone"]

LOG_LIMIT = BRANCH_LIMIT = 10_000
REMOTE_LIMIT = 100

_locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()


def _lock(path: Path) -> asyncio.Lock:
    """The lock for changes at ``path``. Reads take none."""
    key = os.path.realpath(path)
    lock = _locks.get(key)
    if lock is None:
        lock = _locks[key] = asyncio.Lock()
    return lock


class Repository:
    """The work tree whose top is ``path``.

    ``auth`` says how git authenticates: not at all, with ssh's own keys and agent, or with ``token``, which is sent
    only to the scheme, host and port of ``url``, whatever the repository's configuration says. ``environment`` is that
    of git and of the repository's hooks (default: this process's own), ``umask`` theirs (default: that of the session
    which started the daemon). Changes of one path wait for each other; reads do not wait, and run no program that the
    repository names. Checking out and pulling run its hooks and filters, as git does by hand; no git that has the token
    runs them.

    Every method raises ``GitMissing``, ``GitNotARepository``, ``GitNotOwned``, ``GitPermission`` and ``GitFailed``;
    its docstring names what else it raises. A cancelled method leaves a usable repository: a transfer ends at once, a
    change of the work tree that has begun gets 5 s to finish.
    """

    def __init__(
        self,
        path: Path,
        *,
        url: str | None = None,
        auth: Auth = "none",
        token: str | None = None,
        environment: Mapping[str, str] | None = None,
        umask: int | None = None,
    ) -> None:
        self.path = path
        self._umask = umask
        self._access = Access(auth, token, url)
        self._environment = base_environment(os.environ if environment is None else environment)

    def __repr__(self) -> str:
        return f"Repository({str(self.path)!r})"

    def _operation(self, doing: str) -> Operation:
        return Operation(self.path, self._access, self._environment, doing, self._umask)

    @asynccontextmanager
    async def _change(self, doing: str) -> AsyncIterator[Operation]:
        """An operation that excludes other changes of this path by this process."""
        async with _lock(self.path):
            operation = self._operation(doing)
            await operation.begin_change()
            yield operation

    # Reading

    async def status(self) -> RepoState:
        """What is checked out, how it compares to its upstream as last fetched, and what has changed."""
        return await self._operation(f"look at {self.path}").status()

    async def log(self, limit: int = 20, revision: str | None = None, *, skip: int = 0) -> list[Commit]:
        """``limit`` commits (10,000 at most), newest first, from ``revision`` back, without the first ``skip``.

        A repository without commits gives an empty list.

        Raises:
            GitUnknownCommit: there is no commit ``revision``.
            GitBadName: it is not a valid name.
        """
        git = self._operation(f"list the commits of {self.path}")
        start = await git.resolve("HEAD" if revision is None else checked_revision(revision, git.doing))
        if start is None and revision is not None:
            raise unknown_commit(revision, git.doing, None)
        if start is None:
            start = (await git.status()).commit
            if start is None:
                return []
        commits: list[Commit] = []
        budget = Budget()

        def receive(record: list[str]) -> None:
            identity, name, email, at, subject, decoration = record
            commit = Commit(identity, short(name), short(email), milliseconds(at), short(subject), refs(decoration))
            if not budget.spend(identity, commit.author_name, commit.author_email, commit.subject, *commit.refs):
                raise _too_much(git)
            commits.append(commit)

        await git.read(
            "log",
            "-z",
            "--no-ext-diff",
            "--no-textconv",
            "--no-show-signature",
            "--no-notes",
            "--no-patch",
            "--decorate=short",
            "--encoding=UTF-8",
            "--format=tformat:%H%x00%an%x00%ae%x00%at%x00%s%x00%D",
            f"--max-count={min(max(limit, 0), LOG_LIMIT)}",
            f"--skip={max(skip, 0)}",
            start,
            "--",
            fields=Fields(6, receive),
        )
        return commits

    async def branches(self, remote: bool = False) -> list[Branch]:
        """The local branches by name, 10,000 at most; with ``remote`` those of the remotes as last fetched, too."""
        found: list[Branch] = []
        budget = Budget()
        git = self._operation(f"list the branches of {self.path}")

        def receive(record: list[str]) -> None:
            name, commit, head, upstream, track, at, symbolic = record
            name = name.removeprefix("\n")
            if symbolic:
                return
            if not budget.spend(name, commit, upstream):
                raise _too_much(git)
            ahead, behind = ahead_and_behind(track) if upstream else (None, None)
            local = name.startswith("refs/heads/")
            found.append(
                Branch(
                    name=name.removeprefix("refs/heads/" if local else "refs/remotes/"),
                    commit=commit,
                    current=head == "*",
                    remote=not local,
                    upstream=upstream or None,
                    ahead=ahead,
                    behind=behind,
                    at=milliseconds(at),
                )
            )

        await git.read(
            "for-each-ref",
            f"--count={BRANCH_LIMIT}",
            "--format=%(refname)%00%(objectname)%00%(HEAD)%00%(upstream:short)%00%(upstream:track,nobracket)%00"
            "%(committerdate:unix)%00%(symref)%00",
            "refs/heads/",
            *(["refs/remotes/"] if remote else []),
            fields=Fields(7, receive),
        )
        return found

    # Checking out

    async def checkout_branch(self, name: str, create: bool = False) -> RepoState:
        """Check out a branch; with ``create`` make it from what is checked out, which keeps uncommitted changes.

        For a branch that only a remote has, a local one is made that follows it. An unknown branch is fetched once.

        Raises:
            GitDirty: uncommitted changes or untracked files would be lost.
            GitUnknownBranch, GitBranchExists, GitBranchAmbiguous, GitBranchElsewhere, GitBadName, GitInProgress,
            GitBusy, GitHookFailed, GitDiskFull
        """
        async with self._change(f'{"create" if create else "check out"} the branch "{name}" in {self.path}') as git:
            await git.check_branch_name(name)
            state = await git.status()
            if not create and state.branch == name:
                return state
            refuse_unfinished(state, git.doing, self.path)
            if create:
                if await git.ref(f"refs/heads/{name}") is not None:
                    raise errors.GitBranchExists(
                        f"cannot {git.doing}: a branch of this name exists", hint="Check it out without creating it."
                    )
                await git.change("switch", "--no-track", "--create", name)
            else:
                refuse_dirty(state, git.doing, self.path)
                target = await self._branch(git, name)
                if target is None:
                    problem = await self._fetch_once(git)
                    target = await self._branch(git, name)
                    if target is None:
                        raise unknown_branch(git.doing, problem)
                await git.change("switch", "--no-overwrite-ignore", *target)
            return await git.status()

    async def _branch(self, git: Operation, name: str) -> list[str] | None:
        """The arguments that switch to ``name``; None where there is no such branch."""
        if await git.ref(f"refs/heads/{name}") is not None:
            return ["--no-guess", name]
        config = await git.settings()
        remotes = await self._remotes_with(git, config.remotes(), name)
        default = config.get("checkout.defaultremote")
        if len(remotes) > 1 and default in remotes:
            remotes = [default]
        if len(remotes) > 1:
            raise errors.GitBranchAmbiguous(
                f"cannot {git.doing}: several remotes have it ({', '.join(remotes[:10])})",
                hint=f"Choose one: {command_line('git', '-C', self.path, 'switch', '--track', f'{remotes[0]}/{name}')}",
                details={"remotes": remotes[:100]},
            )
        return ["--create", name, "--track", f"refs/remotes/{remotes[0]}/{name}"] if remotes else None

    async def _remotes_with(self, git: Operation, remotes: list[str], name: str) -> list[str]:
        """Those of the first 100 remotes that have a branch, as last fetched."""
        wanted = {f"refs/remotes/{remote}/{name}": remote for remote in remotes[:REMOTE_LIMIT]}
        found: set[str] = set()

        def receive(record: list[str]) -> None:
            found.add(record[0].removeprefix("\n"))

        if wanted:
            await git.read("for-each-ref", "--format=%(refname)%00", *wanted, fields=Fields(1, receive))
        return [remote for ref, remote in wanted.items() if ref in found]

    async def checkout_commit(self, commit: str) -> RepoState:
        """Check out a commit without a branch (HEAD is detached), by its id, a tag or another of git's names for it.

        An unknown commit is fetched once.

        Raises:
            GitDirty: uncommitted changes or untracked files would be lost.
            GitUnknownCommit, GitBadName, GitInProgress, GitBusy, GitHookFailed, GitDiskFull
        """
        async with self._change(f'check out "{commit}" in {self.path}') as git:
            revision = checked_revision(commit, git.doing)
            state = await git.status()
            refuse_unfinished(state, git.doing, self.path)
            target = await git.resolve(revision)
            if target is None:
                problem = await self._fetch_once(git)
                target = await git.resolve(revision)
                if target is None:
                    raise unknown_commit(commit, git.doing, problem)
            if state.branch is None and state.commit == target:
                return state
            refuse_dirty(state, git.doing, self.path)
            await git.change("switch", "--no-overwrite-ignore", "--detach", target)
            return await git.status()

    async def _fetch_once(self, git: Operation) -> NexusError | None:
        """Fetch from the remote that the branch follows, or the main one; gives the error when that fails."""
        config = await git.settings()
        name = config.main_remote((await git.status()).branch)
        try:
            if name is not None:
                await git.fetch(name)
        except NexusError as error:
            return error
        return None

    # Pulling

    async def pull(self, progress: OnProgress | None = None) -> PullResult:
        """Fetch, and move the branch forward to its upstream; never merges, never rebases. Then update the submodules.

        A submodule in which a branch, or a commit that no remote has, is checked out stays as it is.
        ``progress`` is called on the event loop for each step that git reports. A branch that is ahead stays as it is.

        Raises:
            GitDirty, GitDetached, GitDiverged, GitInProgress, GitNoRemote, GitNoUpstream, GitUpstreamGone: the
                state of the repository does not allow a pull.
            GitAuthentication, GitHostKey, GitUnreachable, GitRemoteNotFound, GitBadUrl: the remote.
            GitBusy, GitHookFailed, GitDiskFull
        """
        async with self._change(f"pull into {self.path}") as git:
            state = await git.status()
            refuse_unfinished(state, git.doing, self.path)
            remote, ref = await self._upstream(git, state)
            refuse_dirty(state, git.doing, self.path)
            if remote == ".":
                target = await git.ref(ref)
            else:
                await git.fetch(remote, progress)
                target = await git.fetched()
            if target is not None:
                pulled = await self._forward(git, state.commit, target, progress)
                await update(git, remote, progress)
                return pulled
            if state.commit is None:
                return PullResult(None, None, 0)
            raise errors.GitUpstreamGone(
                f'cannot {git.doing}: the remote "{remote}" has no branch "{ref.removeprefix("refs/heads/")}" any more',
                hint="Set another upstream: "
                + command_line("git", "-C", self.path, "branch", "--set-upstream-to", "REMOTE/BRANCH"),
            )

    async def _forward(
        self, git: Operation, before: str | None, target: str, progress: OnProgress | None
    ) -> PullResult:
        behind = await git.count(target if before is None else f"{before}..{target}")
        if before is not None:
            if not behind:
                return PullResult(before, before, 0)
            ahead = await git.count(f"{target}..{before}")
            if ahead:
                raise errors.GitDiverged(
                    f"cannot {git.doing}: the branch has commits of its own ({ahead}), and so has its upstream "
                    f"({behind})",
                    hint=f"Rebase or merge by hand: {command_line('git', '-C', self.path, 'pull', '--rebase')}",
                    details={"ahead": ahead, "behind": behind},
                )
        await git.change(
            "merge",
            "--ff-only",
            "--no-stat",
            "--no-overwrite-ignore",
            "--progress",
            target,
            progress=progress,
            GIT_REFLOG_ACTION="pull",
        )
        return PullResult(before, target, behind)

    async def _upstream(self, git: Operation, state: RepoState) -> tuple[str, str]:
        """The remote and the full name of the branch there that the current branch follows."""
        if state.branch is None:
            raise errors.GitDetached(
                f"cannot {git.doing}: no branch is checked out", hint="Check out a branch first, then pull."
            )
        config = await git.settings()
        remotes = config.remotes()
        remote = config.get(f"branch.{state.branch}.remote")
        ref = config.get(f"branch.{state.branch}.merge")
        if remote != "." and (not remotes or (remote is not None and remote not in remotes)):
            missing = f'has no remote "{remote}"' if remote else "has no remote"
            raise errors.GitNoRemote(
                f"cannot {git.doing}: the repository {missing}",
                hint=f"Add it: {command_line('git', '-C', self.path, 'remote', 'add', remote or 'origin', 'URL')}",
            )
        if remote is None or ref is None:
            raise errors.GitNoUpstream(
                f'cannot {git.doing}: the branch "{state.branch}" has no upstream branch',
                hint="Set one: "
                + command_line("git", "-C", self.path, "branch", "--set-upstream-to", f"{remotes[0]}/{state.branch}"),
            )
        return remote, ref


async def clone(
    url: str,
    path: Path,
    *,
    branch: str | None = None,
    auth: Auth = "none",
    token: str | None = None,
    submodules: bool = True,
    progress: OnProgress | None = None,
    environment: Mapping[str, str] | None = None,
    umask: int | None = None,
) -> Repository:
    """Clone ``url`` to ``path``, which must be absent or an empty folder, with ``branch`` checked out.

    ``submodules`` are initialised, too. Hooks of the user's own template run for the checkout, which has no token.

    The clone is made in a hidden folder beside ``path`` and moved when it is complete, so that neither a cancel nor
    the end of this process leaves a partial one; what an earlier process left is removed. ``progress`` is called on
    the event loop for each step that git reports. ``umask`` is for the clone and the folders above it.

    Raises:
        GitPathTaken, GitPermission, GitDiskFull: the path.
        GitBadUrl, GitAuthentication, GitHostKey, GitUnreachable, GitRemoteNotFound, GitUnknownBranch: the remote.
        GitMissing, GitBadName, GitNotOwned, GitFailed
    """
    doing = f"clone into {path}"
    remote = parse_url(url)
    if remote.secret:
        raise errors.GitBadUrl(
            f"cannot {doing}: the URL holds a password or a token, which git would store in the repository",
            hint=f"Give the URL without it ({without_credentials(url)}), and the token separately.",
        )
    if remote.transport == "file" and not url.startswith("/") and "://" not in url:
        raise errors.GitBadUrl(
            f"cannot {doing}: the path of the repository is not absolute", hint="Give an absolute path."
        )
    if branch is not None:
        checked_revision(branch, doing)
    async with _lock(path):
        staging = StagingFolder(path, doing, umask)
        try:
            await finish_despite_cancel(asyncio.to_thread(staging.make))
            access = Access(auth, token, url)
            await _clone_into(staging, url, branch, access, doing, progress, environment, submodules=submodules)
            await finish_despite_cancel(asyncio.to_thread(staging.move))
        finally:
            await finish_despite_cancel(asyncio.to_thread(staging.remove))
    return Repository(path, url=url, auth=auth, token=token, environment=environment, umask=umask)


async def _clone_into(
    staging: StagingFolder,
    url: str,
    branch: str | None,
    access: Access,
    doing: str,
    progress: OnProgress | None,
    environment: Mapping[str, str] | None,
    *,
    submodules: bool,
) -> None:
    user = base_environment(os.environ if environment is None else environment)
    base = git_environment(user, staging.folder)
    await check_version(staging.folder, base)
    shown = await run_git(["ls-remote", "--get-url", "--", url], directory=staging.folder, environment=base)
    remote = parse_url(os.fsdecode(shown.output).rstrip("\n"))
    access.check(remote, doing)
    ssh = await run_git(["config", "--get", "core.sshCommand"], directory=staging.folder, environment=base)
    quiet = with_config(base, HARMLESS)
    with access.opened(remote, quiet, os.fsdecode(ssh.output).rstrip("\n")) as (opened, descriptors):
        # Checked out afterwards, by a git without the token: that one runs the hooks of the user's template.
        result = await run_git(
            [
                *("clone", "--progress", "--no-checkout", "--no-recurse-submodules"),
                *([f"--branch={branch}"] if branch else []),
                *("--", url, staging.clone.name),
            ],
            directory=staging.folder,
            environment=opened,
            descriptors=(*descriptors, staging.lock),
            umask=staging.umask,
            progress=progress,
        )
    if result.code:
        raise explain(doing, result.lines, result.code, access=access, remote=remote, directory=staging.path)
    git = Operation(
        staging.clone, access, user, doing, staging.umask, shown_path=staging.path, descriptors=(staging.lock,)
    )
    if await git.resolve("HEAD") is not None:
        await git.change("checkout", "--force", "--progress", progress=progress)
        if submodules:
            await initialise_all(git, remote, progress)


def _too_much(git: Operation) -> errors.GitFailed:
    return errors.GitFailed(
        f"cannot {git.doing}: the answer would be larger than {ANSWER_CHARS // 1024 // 1024} MiB",
        hint="Ask for fewer of them, with a limit, or look at them with git itself.",
    )
