"""The handlers of the commands on projects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nexus.hints import command_line
from nexus.projects.commands import (
    DEFAULT_ID,
    CreateProject,
    DeleteProject,
    GetProject,
    ListProjects,
    Project,
    ProjectFixed,
    ProjectNotEmpty,
    UpdateProject,
)
from nexus.projects.states import ProjectStatus
from nexus.projects.store import PROJECTS, records_of, refuse_taken_root
from nexus.records.handlers import creates, deletes, gets, lists, updates
from nexus.store import Transaction

__all__ = ["create_project", "delete_project", "get_project", "list_projects", "update_project"]


def _complete(tx: Transaction, command: CreateProject) -> Mapping[str, Any]:
    if command.root_path is not None:
        refuse_taken_root(tx, command.root_path, command.id, f'cannot create project "{command.name}"')
    return {"status": ProjectStatus.CREATED}


def _check_update(tx: Transaction, project: Project, command: UpdateProject, cannot: str) -> None:
    if project.id == DEFAULT_ID and (command.name not in (None, project.name) or command.root_path is not None):
        raise ProjectFixed(
            f"{cannot}: it always exists, has no folder and keeps its name",
            hint=f"Create another one: {command_line('nexusctl', 'project', 'create', 'NAME')}",
            details={"id": project.id, "name": project.name},
        )
    if command.root_path is not None:
        refuse_taken_root(tx, command.root_path, project.id, cannot)


def _check_delete(tx: Transaction, project: Project, _command: DeleteProject, cannot: str) -> None:
    if project.id == DEFAULT_ID:
        raise ProjectFixed(f"{cannot}: it always exists", details={"id": project.id, "name": project.name})
    counts = records_of(tx, project.id)
    if counts:
        words = " and ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in counts.items())
        raise ProjectNotEmpty(
            f"{cannot}: it has {words}",
            hint="Remove these first.",
            details={"id": project.id, "name": project.name, "records": counts},
        )


create_project = creates(PROJECTS, CreateProject, _complete)
get_project = gets(PROJECTS, GetProject)
list_projects = lists(PROJECTS, ListProjects, "projects")
update_project = updates(PROJECTS, UpdateProject, _check_update)
delete_project = deletes(PROJECTS, DeleteProject, _check_delete, told=("root_path",))
