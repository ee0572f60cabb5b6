"""All SQL of projects that ``records.Table`` does not have."""

from __future__ import annotations

from nexus.hints import command_line, joined
from nexus.journal.operation import Operation
from nexus.projects.commands import (
    Project,
    ProjectAmbiguous,
    ProjectChanged,
    ProjectCursorInvalid,
    ProjectIdTaken,
    ProjectMoveRefused,
    ProjectNameTaken,
    ProjectNotFound,
    ProjectRootTaken,
)
from nexus.projects.states import PROJECT_MOVES, ProjectStatus
from nexus.records.beginning import on_begin
from nexus.records.errors import RecordErrors
from nexus.records.table import Table
from nexus.store import Reader, Transaction

__all__ = ["PROJECTS", "move", "refuse_taken_root"]

PROJECTS = Table(
    Project,
    "projects",
    kind="project",
    word="project",
    look="project inspect",
    errors=RecordErrors(
        ProjectNotFound, ProjectAmbiguous, ProjectNameTaken, ProjectIdTaken, ProjectChanged, ProjectCursorInvalid
    ),
    observed=("status", "completed_at"),
    order=("name",),
    descending=False,
    told=("root_path", "mode"),
)


def refuse_taken_root(reader: Reader, root_path: str, project_id: str | None, cannot: str) -> None:
    """Refuse a folder that another project than ``project_id`` has.

    Raises:
        ProjectRootTaken: one has it.
    """
    row = reader.one("SELECT id, name FROM projects WHERE root_path = ?", (root_path,))
    if row is not None and row[0] != project_id:
        raise ProjectRootTaken(
            f'{cannot}: project "{row[1]}" has the folder {root_path}',
            hint=f"Look at it: {command_line('nexusctl', 'project', 'inspect', row[1])}",
            details={"id": row[0], "name": row[1], "root_path": root_path},
        )


def move(tx: Transaction, operation: Operation, project: Project, name: str, event: str, reason: str | None) -> Project:
    """Carry out a move of ``PROJECT_MOVES``; the event has the reason, if there is one.

    Raises:
        ProjectMoveRefused: the status of the project does not allow it.
    """
    allowed_in, status = PROJECT_MOVES[name]
    if project.status not in allowed_in:
        lines = {
            "pause": f"Pause it: {command_line('nexusctl', 'project', 'pause', project.name)}",
            "resume": f"Let it go on: {command_line('nexusctl', 'project', 'resume', project.name)}",
            "complete": f"Complete it: {command_line('nexusctl', 'project', 'complete', project.name)}",
            "fail": f"Give it up: {command_line('nexusctl', 'project', 'fail', project.name)}",
        }
        allowed = [each for each in lines if project.status in PROJECT_MOVES[each][0]]
        raise ProjectMoveRefused(
            f'cannot {name} project "{project.name}": it is {project.status}, which allows {", ".join(allowed)}',
            hint=joined(*(lines[each] for each in allowed)),
            details={"id": project.id, "name": project.name, "status": project.status.value, "allowed": allowed},
        )
    completed_at = max([tx.now, project.created_at]) if status is ProjectStatus.COMPLETED else None
    changes = {"status": status, "completed_at": completed_at}
    detail = {} if reason is None else {"reason": reason}
    changed = PROJECTS.write(tx, operation, project.id, changes, [(f"project.{event}", detail)])
    assert changed is not None
    return changed


def _begin(tx: Transaction, operation: Operation, project_id: str) -> None:
    project = PROJECTS.by_id(tx, project_id)
    if project is not None and project.status in PROJECT_MOVES["begin"][0]:
        move(tx, operation, project, "begin", "begun", None)


on_begin(_begin)
