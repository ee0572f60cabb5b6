"""The handlers of the commands on projects."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Mapping
from typing import Any

from nexus_protocol import InvalidArgument

from nexus.capability import Context, handles
from nexus.hints import command_line
from nexus.projects.commands import (
    CompleteProject,
    CreateProject,
    DeleteProject,
    FailProject,
    GetProject,
    GetProjectHoldings,
    ListProjects,
    PauseProject,
    Project,
    ProjectDeleted,
    ProjectFixed,
    ProjectHoldings,
    ProjectNotEmpty,
    ProjectRecord,
    ProjectRunning,
    ResumeProject,
    UpdateProject,
)
from nexus.projects.states import ProjectStatus
from nexus.projects.store import PROJECTS, move, refuse_taken_root
from nexus.records.contents import Contents, Held, all_contents, held_by
from nexus.records.handlers import creates, lists, updates
from nexus.records.project_settings import check_settings
from nexus.records.scope import ANYWHERE, DEFAULT_ID
from nexus.store import Reader, Transaction

__all__ = [
    "complete_project",
    "create_project",
    "delete_project",
    "fail_project",
    "get_project",
    "get_project_holdings",
    "list_projects",
    "pause_project",
    "resume_project",
    "update_project",
]

_SHOWN = 1000
_HELD_AT_ONCE = 200
_RUNNING_SHOWN = 20


def _complete(tx: Transaction, command: CreateProject) -> Mapping[str, Any]:
    check_settings(command.settings, f'cannot create project "{command.name}"')
    if command.root_path is not None:
        _check_root(tx, command.root_path, command.id, f'cannot create project "{command.name}"')
    return {"status": ProjectStatus.CREATED}


def _check_update(tx: Transaction, project: Project, command: UpdateProject, cannot: str) -> None:
    check_settings(command.settings, cannot)
    if project.id == DEFAULT_ID and (command.name not in (None, project.name) or command.root_path is not None):
        raise ProjectFixed(
            f"{cannot}: it always exists, has no folder and keeps its name",
            hint=f"Create another one: {command_line('nexusctl', 'project', 'create', 'NAME')}",
            details={"id": project.id, "name": project.name},
        )
    if command.root_path is not None:
        _check_root(tx, command.root_path, project.id, cannot)


def _check_root(tx: Transaction, root: str, project_id: str | None, cannot: str) -> None:
    # A client looks for a folder by its resolved path, character for character: another spelling is never found.
    if root != "/" and any(part in ("", ".", "..") for part in root[1:].split("/")):
        raise InvalidArgument(
            f"{cannot}: root_path is not resolved: {root}",
            hint="Give the path without links, .., . and empty parts.",
            details={"path": "root_path"},
        )
    refuse_taken_root(tx, root, project_id, cannot)


def _named(reader: Reader, ctx: Context, reference: str | None) -> Project:
    """The project with this reference, else the one that the request speaks in."""
    if reference is not None:
        return PROJECTS.resolve(reader, reference, ANYWHERE)
    return PROJECTS.get(reader, ctx.scope(reader).home("cannot find the project"))


@handles(GetProject)
def get_project(ctx: Context, command: GetProject) -> Project:
    return ctx.store.read(lambda reader: _named(reader, ctx, command.project), snapshot=True)


@handles(GetProjectHoldings)
async def get_project_holdings(ctx: Context, command: GetProjectHoldings) -> ProjectHoldings:
    """Read it in steps: a project may have tens of thousands of records, and other clients are answered meanwhile."""
    project = await ctx.store.fetch(lambda reader: _named(reader, ctx, command.project))
    counts: dict[str, dict[str, int]] = {}
    records: list[ProjectRecord] = []
    for of in all_contents():
        after, states = "", Counter[str]()
        while True:
            held = await ctx.store.fetch(
                functools.partial(of.held, project_id=project.id, after=after, limit=_HELD_AT_ONCE)
            )
            states.update(each.state for each in held)
            records += map(_record, held[: _SHOWN - len(records)])
            if len(held) < _HELD_AT_ONCE:
                break
            after = held[-1].name
            await asyncio.sleep(0)
        if states:
            counts[of.kind] = dict(states)
    return ProjectHoldings(project=project, counts=counts, records=records)


def _record(held: Held) -> ProjectRecord:
    return ProjectRecord(held.kind, held.id, held.name, held.state)


def _deleted(ctx: Context, reply: ProjectDeleted) -> None:
    for of in all_contents():
        if of.after is not None and (ids := [each.id for each in reply.records if each.kind == of.kind]):
            of.after(ctx, ids)


@handles(DeleteProject, after=_deleted)
def delete_project(tx: Transaction, ctx: Context, command: DeleteProject) -> ProjectDeleted:
    project = PROJECTS.resolve(tx, command.project, ANYWHERE)
    cannot = f'cannot delete project "{project.name}"'
    PROJECTS.expect(project, cannot, command.if_revision, command.if_state_revision)
    if project.id == DEFAULT_ID:
        raise ProjectFixed(f"{cannot}: it always exists", details={"id": project.id, "name": project.name})
    holdings = held_by(tx, project.id)
    _refuse_running(project, holdings, cannot)
    if holdings and not command.cascade:
        counts = {of.kind: len(held) for of, held in holdings}
        words = " and ".join(f"{len(held)} {of.word}{'s' * (len(held) > 1)}" for of, held in holdings)
        raise ProjectNotEmpty(
            f"{cannot}: it has {words}",
            hint=f"Delete them too: {command_line('nexusctl', 'project', 'delete', project.name, '--cascade')}",
            details={"id": project.id, "name": project.name, "records": counts},
        )
    for of, held in holdings:
        of.delete(tx, ctx.operation, project.id, held)
    PROJECTS.delete(tx, ctx.operation, project, ("root_path",))
    return ProjectDeleted(project, [_record(each) for _of, held in holdings for each in held])


def _refuse_running(project: Project, holdings: list[tuple[Contents, list[Held]]], cannot: str) -> None:
    running = [(of, each) for of, held in holdings for each in held if each.runs]
    if not running:
        return
    (of, first), *others = running
    more = f", and {len(others)} more run" if others else ""
    raise ProjectRunning(
        f'{cannot}: {of.word} "{first.name}" is {first.state}{more}; stop what runs first',
        hint=f"See what it has: {command_line('nexusctl', 'project', 'inspect', project.name)}",
        details={
            "id": project.id,
            "name": project.name,
            "running": [
                {"kind": each.kind, "id": each.id, "name": each.name, "state": each.state}
                for _of, each in running[:_RUNNING_SHOWN]
            ],
        },
    )


create_project = creates(PROJECTS, CreateProject, _complete)
list_projects = lists(PROJECTS, ListProjects, "projects")
update_project = updates(PROJECTS, UpdateProject, _check_update)


def _moves(command: type[Any], name: str, event: str) -> Any:
    """Make the handler of a command that moves a project."""

    @handles(command)
    def handler(tx: Transaction, ctx: Context, command: Any) -> Project:
        project = PROJECTS.resolve(tx, command.project, ANYWHERE)
        PROJECTS.expect(project, f'cannot {name} project "{project.name}"', None, command.if_state_revision)
        return move(tx, ctx.operation, project, name, event, getattr(command, "reason", None))

    return handler


pause_project = _moves(PauseProject, "pause", "paused")
resume_project = _moves(ResumeProject, "resume", "resumed")
complete_project = _moves(CompleteProject, "complete", "completed")
fail_project = _moves(FailProject, "fail", "failed")
