"""One function for each git command on a service's repository.

``nexus.git.repository`` runs git and reads its output.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from nexus_protocol import NexusError

from nexus.capability import Context, Stream, encode_each, handles
from nexus.git.errors import (
    GitAuthentication,
    GitDetached,
    GitDirty,
    GitDiverged,
    GitNotARepository,
    GitUnknownBranch,
    GitUnknownCommit,
)
from nexus.git.repository import Progress, Repository, RepoState, clone
from nexus.hints import command_line, joined
from nexus.journal.rows import Subject, record
from nexus.records.scope import reference_of
from nexus.services import store
from nexus.services.commands import (
    CheckoutBranch,
    GetRepoStatus,
    GitCheckoutCommit,
    GitClone,
    GitListBranches,
    GitLog,
    GitPull,
)
from nexus.services.configuration.command import umask_of
from nexus.services.errors import ServiceInvalid, ServiceNoRepository
from nexus.services.records import (
    GitBranch,
    GitBranchList,
    GitCommit,
    GitCommitList,
    GitProgress,
    RepoStatus,
    Service,
)
from nexus.services.states import GitAuthType
from nexus.streams import send_progress

__all__ = [
    "checkout_branch",
    "get_repo_status",
    "git_checkout_commit",
    "git_clone",
    "git_list_branches",
    "git_log",
    "git_pull",
]

_MAX_TOKEN_BYTES = 4096


@handles(GetRepoStatus)
async def get_repo_status(ctx: Context, command: GetRepoStatus) -> RepoStatus:
    service, repository = _repository(ctx, command.service)
    with _with_hint(service):
        return _status(repository, await repository.status())


@handles(CheckoutBranch)
async def checkout_branch(ctx: Context, command: CheckoutBranch) -> RepoStatus:
    service, repository = _repository(ctx, command.service)
    with _with_hint(service):
        state = await repository.checkout_branch(command.branch, create=command.create)
    await _record(ctx, service, "checked_out", {"branch": command.branch, "commit": state.commit})
    return _status(repository, state)


@handles(GitCheckoutCommit)
async def git_checkout_commit(ctx: Context, command: GitCheckoutCommit) -> RepoStatus:
    service, repository = _repository(ctx, command.service)
    with _with_hint(service):
        state = await repository.checkout_commit(command.commit)
    await _record(ctx, service, "checked_out", {"commit": state.commit})
    return _status(repository, state)


@handles(GitLog)
async def git_log(ctx: Context, command: GitLog) -> GitCommitList:
    service, repository = _repository(ctx, command.service)
    with _with_hint(service):
        commits = await repository.log(command.limit, command.revision)
    return GitCommitList(
        await encode_each(
            GitCommit(c.id, c.author_name, c.author_email, c.at, c.subject, list(c.refs)) for c in commits
        )
    )


@handles(GitListBranches)
async def git_list_branches(ctx: Context, command: GitListBranches) -> GitBranchList:
    service, repository = _repository(ctx, command.service)
    with _with_hint(service):
        branches = await repository.branches(remote=command.remote)
    return GitBranchList(
        await encode_each(
            GitBranch(b.name, b.commit, b.current, b.remote, b.upstream, b.ahead, b.behind, b.at) for b in branches
        )
    )


@handles(GitPull)
async def git_pull(ctx: Context, command: GitPull, stream: Stream[GitProgress]) -> RepoStatus:
    service, repository = _repository(ctx, command.service, await _token(ctx, command.service, command.token))
    with _with_hint(service):
        pulled = await send_progress(stream, lambda report: repository.pull(lambda done: report(_progress(done))))
    status = _status(repository, await repository.status())
    if pulled.before != pulled.after:
        await _record(ctx, service, "pulled", {"from": pulled.before, "to": pulled.after, "commits": pulled.commits})
        return msgspec.structs.replace(status, pulled_from=pulled.before, pulled_commits=pulled.commits)
    return status


@handles(GitClone)
async def git_clone(ctx: Context, command: GitClone, stream: Stream[GitProgress]) -> RepoStatus:
    service = _service(ctx, command.service)
    missing = [name for name, value in (("repo_url", service.repo_url), ("repo_path", service.repo_path)) if not value]
    if service.repo_url is None or service.repo_path is None:
        options = [word for name in missing for word in (f"--{name.replace('_', '-')}", name.split("_")[1].upper())]
        raise ServiceInvalid(
            f'cannot clone for service "{service.name}": it has no {" and no ".join(missing)}',
            hint=f"Set it: {command_line('nexusctl', 'service', 'update', reference_of(service), *options)}",
            details={"path": missing[0]},
        )
    token = await _token(ctx, command.service, command.token)
    url, path = service.repo_url, Path(service.repo_path)
    repository = await send_progress(
        stream,
        lambda report: clone(
            url,
            path,
            branch=service.git_branch,
            auth=service.git_auth_type.value,
            token=token,
            submodules=command.submodules,
            umask=umask_of(service),
            progress=lambda done: report(_progress(done)),
        ),
    )
    state = await repository.status()
    await _record(ctx, service, "cloned", {"path": service.repo_path, "commit": state.commit})
    return _status(repository, state)


@contextlib.contextmanager
def _with_hint(service: Service) -> Iterator[None]:
    """Add the command of nexusctl that helps, where there is one, to the hint of an error of git."""
    try:
        yield
    except NexusError as error:
        error.hint = joined(error.hint, *_hints(error, service))
        raise


def _hints(error: NexusError, service: Service) -> Iterator[str]:
    """Commands of nexusctl that help; the errors of ``nexus.git`` know no service."""
    name = reference_of(service)
    kind = type(error)
    if kind is GitDetached:
        yield f"Check out a branch: {command_line('nexusctl', 'service', 'git', 'checkout', name, 'BRANCH')}"
    elif kind in (GitDirty, GitDiverged):
        yield f"See its state: {command_line('nexusctl', 'service', 'git', 'status', name)}"
    elif kind is GitNotARepository and service.repo_url is not None:
        yield f"Clone it: {command_line('nexusctl', 'service', 'git', 'clone', name)}"
    elif kind is GitUnknownBranch:
        yield f"List them: {command_line('nexusctl', 'service', 'git', 'branches', name)}"
        yield f"Create it: {command_line('nexusctl', 'service', 'git', 'checkout', name, 'BRANCH', '--create')}"
    elif kind is GitUnknownCommit:
        yield f"List them: {command_line('nexusctl', 'service', 'git', 'log', name)}"
        yield f"Pull what the remote has: {command_line('nexusctl', 'service', 'git', 'pull', name)}"


def _service(ctx: Context, reference: str) -> Service:
    return ctx.store.read(lambda reader: store.resolve(reader, reference, ctx.scope(reader)))


def _repository(ctx: Context, reference: str, token: str | None = None) -> tuple[Service, Repository]:
    """The service and its repository, which may not exist yet: operations on it fail then."""
    service = _service(ctx, reference)
    if service.repo_path is None:
        raise ServiceNoRepository(
            f'cannot use the repository of service "{service.name}": it has none',
            hint="Set its path: "
            + command_line("nexusctl", "service", "update", reference_of(service), "--repo-path", "PATH"),
        )
    auth: Any = service.git_auth_type.value
    return service, Repository(
        Path(service.repo_path), url=service.repo_url, auth=auth, token=token, umask=umask_of(service)
    )


async def _token(ctx: Context, reference: str, given: str | None) -> str | None:
    """The token for git: that of the request, else that in the service's token file."""
    service = _service(ctx, reference)
    if service.git_auth_type is not GitAuthType.TOKEN or given is not None:
        return given if service.git_auth_type is GitAuthType.TOKEN else None
    if service.git_token_file is None:
        raise GitAuthentication(
            f'cannot reach the remote of service "{service.name}": it authenticates with a token, and none was given',
            hint="Name a file that holds the token: "
            f"{command_line('nexusctl', 'service', 'update', reference_of(service), '--git-token-file', 'PATH')}\n"
            "Or set NEXUS_GIT_TOKEN for nexusctl.",
        )
    return await asyncio.to_thread(_read_token, service.name, service.git_token_file)


def _read_token(name: str, path: str) -> str:
    cannot = f'cannot read the git token of service "{name}" from {path}'
    try:
        # O_NONBLOCK: to open a FIFO must not block the thread.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise GitAuthentication(f"{cannot}: {error.strerror}", hint="Look at the file and its permissions.") from None
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise GitAuthentication(f"{cannot}: it is not a regular file", hint="Put the token into a regular file.")
        if status.st_mode & 0o077:
            raise GitAuthentication(
                f"{cannot}: other users may read it",
                hint=f"Restrict its permissions: {command_line('chmod', '600', path)}",
            )
        text = file.read(_MAX_TOKEN_BYTES + 1).decode("ascii", "replace").strip()
    if not text or len(text) > _MAX_TOKEN_BYTES or not (text.isascii() and text.isprintable()) or " " in text:
        raise GitAuthentication(
            f"{cannot}: it does not hold a token", hint="The file must hold the token and nothing else."
        )
    return text


def _progress(progress: Progress) -> GitProgress:
    return GitProgress(progress.phase, progress.percent, progress.done, progress.total)


def _status(repository: Repository, state: RepoState) -> RepoStatus:
    return RepoStatus(
        path=str(repository.path),
        dirty=state.dirty,
        commit=state.commit,
        branch=state.branch,
        upstream=state.upstream,
        ahead=state.ahead,
        behind=state.behind,
        staged=state.staged,
        changed=state.changed,
        untracked=state.untracked,
        conflicted=state.conflicted,
        remote_url=state.remote_url,
        in_progress=state.in_progress,
        uninitialized_submodules=state.uninitialized_submodules,
    )


async def _record(ctx: Context, service: Service, what: str, detail: dict[str, Any]) -> None:
    await ctx.store.write(
        lambda tx: record(
            tx,
            ctx.operation,
            f"service.{what}",
            Subject("service", service.id, service.name, service.project_id),
            detail,
        )
    )
