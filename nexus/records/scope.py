"""The scope of a request: the project in whose names it speaks. Identity needs none: an id is found in any project."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

from nexus_protocol.context import ALL_PROJECTS, ProjectRoot

from nexus.hints import command_line
from nexus.records.errors import ProjectNotFound
from nexus.store import Reader

__all__ = [
    "speaks_elsewhere",
    "ANYWHERE",
    "DEFAULT",
    "DEFAULT_ID",
    "DEFAULT_NAME",
    "Scope",
    "project_name",
    "handle",
    "qualified",
    "reference_of",
    "scope_of",
]

DEFAULT_ID = "00000000-0000-4000-8000-000000000000"
"""The id of the project ``default``, which always exists."""
DEFAULT_NAME = "default"


class Scope(NamedTuple):
    """Where names are looked up: in one project, in all of them, or in none because a folder has no project yet."""

    project_id: str | None
    """None: all projects, unless ``root`` is set."""
    root: str | None = None
    """The folder that has no project."""
    changes: bool = False
    """Whether the request is to change something."""

    @property
    def is_nowhere(self) -> bool:
        """Whether no name is in scope."""
        return self.root is not None

    def home(self, cannot: str) -> str:
        """The project of a new record. ``cannot`` begins the sentence of the error.

        Raises:
            ProjectNotFound: there is none.
        """
        if self.project_id is None:
            raise self.no_project(cannot)
        return self.project_id

    def no_project(self, cannot: str) -> ProjectNotFound:
        """The error for a folder without a project."""
        return ProjectNotFound(
            f"{cannot}: no project has the folder {self.root}", hint=self.hint(), details={"root": self.root}
        )

    def hint(self) -> str:
        """What to do about a folder without a project."""
        return (
            f"Make it from the folder's nexus.toml: {command_line('nexusctl', 'apply')}\n"
            "Or name another project: -p PROJECT, such as -p default"
        )


_elsewhere: ContextVar[bool] = ContextVar("elsewhere", default=False)
"""Whether the request of this context speaks in another project than ``default``."""

ANYWHERE = Scope(None)
DEFAULT = Scope(DEFAULT_ID)


class Scoped(Protocol):
    """A record with a name in a project."""

    @property
    def project(self) -> str:
        """The name of its project."""

    @property
    def name(self) -> str:
        """Unique among the records of its kind in the project."""


def scope_of(reader: Reader, project: str | ProjectRoot | None, *, changes: bool = False) -> Scope:
    """The scope that a request names: an id, a name, ``*``, the root of a project, or nothing for ``default``.

    Raises:
        ProjectNotFound: no project has this id or name.
    """
    if project is None:
        return Scope(DEFAULT_ID, changes=changes)
    if isinstance(project, ProjectRoot):
        row = reader.one("SELECT id FROM projects WHERE root_path = ?", (project.root,))
        return Scope(None, project.root, changes) if row is None else Scope(row[0], changes=changes)
    if project == ALL_PROJECTS:
        return Scope(None, changes=changes)
    # No name has the form of an id, so one of the two conditions decides.
    row = reader.one("SELECT id FROM projects WHERE id = ? OR name = ?", (project.lower(), project))
    if row is None:
        raise ProjectNotFound(
            f'project "{project}" not found',
            hint=f"List projects: {command_line('nexusctl', 'project', 'list')}",
            details={"project": project},
        )
    return Scope(row[0], changes=changes)


def project_name(reader: Reader, project_id: str) -> str:
    """The name of a project that exists."""
    row = reader.one("SELECT name FROM projects WHERE id = ?", (project_id,))
    assert row is not None
    name: str = row[0]
    return name


def speaks_elsewhere(project: str | ProjectRoot | None) -> None:
    """Note for this context (contextvars) which project its request names, for ``qualified``."""
    _elsewhere.set(project not in (None, DEFAULT_ID, DEFAULT_NAME))


def qualified(project: str, name: str) -> str:
    """The reference to a record that works where the request was made, for hints.

    It is ``P/NAME``, but for ``NAME`` in ``default`` where the request speaks there.
    """
    return name if project == DEFAULT_NAME and not _elsewhere.get() else f"{project}/{name}"


def handle(record: Any) -> str:
    """How sentences and references name a record in its project: by its number, else by its name."""
    number = getattr(record, "number", None)
    return record.name if number is None else str(number)


def reference_of(record: Any) -> str:
    """``qualified`` for a record, which may be of a kind that has no project."""
    return qualified(getattr(record, "project", DEFAULT_NAME), handle(record))
