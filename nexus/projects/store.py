"""All SQL of projects that ``records.Table`` does not have."""

from __future__ import annotations

from nexus.hints import command_line
from nexus.projects.commands import (
    Project,
    ProjectAmbiguous,
    ProjectChanged,
    ProjectCursorInvalid,
    ProjectIdTaken,
    ProjectNameTaken,
    ProjectNotFound,
    ProjectRootTaken,
)
from nexus.records.errors import RecordErrors
from nexus.records.table import Table
from nexus.store import Reader

__all__ = ["PROJECTS", "refuse_taken_root"]

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
