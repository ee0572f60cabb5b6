"""``nexusctl project``: the verbs of projects, and how projects are printed."""

from __future__ import annotations

from typing import Any

from nexus.cli.output import Column, format_time
from nexus.cli.records import Noun, record_group
from nexus.projects.commands import CreateProject, DeleteProject, GetProject, ListProjects, UpdateProject

__all__ = ["project"]

_PROJECT = Noun("project", "projects", "project", "projects")
_COLUMNS = (
    Column("NAME", lambda project: project["name"], 20),
    Column("STATUS", lambda project: project["status"], 12),
    Column("MODE", lambda project: project["mode"], 10),
    Column("ROOT", lambda project: project.get("root_path"), 30),
    Column("CREATED", lambda project: format_time(project["created_at"] or None), wide=True),
    Column("ID", lambda project: project["id"], wide=True),
)


def _lines(project: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        ("Name", project["name"]),
        ("ID", project["id"]),
        ("Status", project["status"]),
        ("Mode", project["mode"]),
        ("Root", project.get("root_path")),
        ("Repository", project.get("repository_url")),
        ("Description", project.get("description")),
        ("Created", format_time(project["created_at"] or None)),
        ("Completed", format_time(project.get("completed_at"))),
    ]


_CREATE_HELP = """Create a project: a scope in which names are unique.

\b
    nexusctl project create shop --root ~/shop
"""

project = record_group(
    _PROJECT,
    "Manage projects.",
    CreateProject,
    ListProjects,
    GetProject,
    UpdateProject,
    DeleteProject,
    columns=_COLUMNS,
    lines=_lines,
    helps=(
        "Create a project.",
        "List projects.",
        "Show a project.",
        "Change a project.",
        "Delete a project that has no records.",
    ),
    told=lambda project: f"status: {project['status']}",
    create_help=_CREATE_HELP,
)
