"""The project that a file is applied to: which one it is, and how it is made or gets its folder.

It knows nothing of records beside the field ``managed_by``: the file that made a record, as a path from
the folder of its project; in a project without a folder, the absolute path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from nexus_protocol.command import Command
from nexus_protocol.context import ProjectRoot

from nexus.cli.apply.reader import ProjectFile, ProjectFileInvalid
from nexus.cli.output import Named, printable
from nexus.cli.place import PROJECT_FILE, find_root
from nexus.hints import command_line
from nexus.projects.commands import (
    CreateProject,
    GetProject,
    ListProjects,
    Project,
    ProjectChanged,
    ProjectNameTaken,
    ProjectNotFound,
    ProjectRootTaken,
    UpdateProject,
)
from nexus.records.fields import NAME_PATTERN

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = [
    "DEFAULT",
    "OUTRUN",
    "InProject",
    "Managed",
    "Target",
    "enter_target",
    "find_target",
    "is_name",
    "present_project",
    "project_name",
]

DEFAULT = "default"
"""The project that always exists, and has neither a folder nor another name."""
OUTRUN = (ProjectNameTaken, ProjectRootTaken, ProjectChanged)
"""The errors of ``enter_target`` after another client was faster: the choice is to be made again."""
_BATCH = 200
"""Updates in one transaction; the records that it answers with have to fit into a frame."""
_NAME_LENGTH = 64


def is_name(text: str) -> bool:
    """Whether a project can have this name."""
    return len(text) <= _NAME_LENGTH and re.match(NAME_PATTERN, text) is not None


def project_name(path: str) -> str:
    """The name by which versions before projects knew a file without the key ``project``: FOLDER-HASH8.

    A database from before has a project of this name for the records of such a file.
    """
    import hashlib

    folder = re.sub(r"[^A-Za-z0-9_-]", "-", Path(path).parent.name)[:40].lstrip("_-") or "root"
    return f"{folder}-{hashlib.sha256(os.fsencode(Path(path).resolve())).hexdigest()[:8]}"


class Managed(Named, Protocol):
    """A record that a file may have made."""

    @property
    def managed_by(self) -> str | None:
        """The file, as ``Target.managed_by`` is; None for a record made by hand."""


class InProject(Managed, Protocol):
    """One that is in a project."""

    @property
    def project(self) -> str:
        """The name of its project."""


class Target(NamedTuple):
    """The project that a file is applied to."""

    file: str
    """The file's path, with the links of its folder resolved."""
    name: str
    id: str = ""
    """Empty for a project that the plan makes."""
    root: str | None = None
    """Its folder, once the plan is carried out."""
    adopts: bool = False
    """Whether the file takes over the records of a project without a folder, which do not know their file."""
    binds: bool = False
    """Whether the plan gives the project its folder."""
    revision: int = 0
    shared: tuple[str, ...] = ()
    """Records that stayed in the project ``default`` because several files had made them: ``s:ID``, ``v:ID``."""
    note: str | None = None
    """What a person should know of the choice, in the form of a hint."""

    @property
    def managed_by(self) -> str:
        """The field ``managed_by`` of the records that the file makes."""
        return self.file if self.root is None else os.path.relpath(self.file, self.root)

    def manager(self, record: Managed) -> str | None:
        """The path of the file that made a record of the project; None for a record made by hand."""
        path = record.managed_by
        if path is None:
            return None
        if self.adopts and path == PROJECT_FILE:
            return self.file
        return path if self.root is None else os.path.normpath(f"{self.root}/{path}" if path[0] != "/" else path)

    def manages(self, record: Managed) -> bool:
        """Whether the file made the record."""
        return self.manager(record) == self.file

    def renamed(self, records: Iterable[Managed]) -> dict[str, str]:
        """The records whose ``managed_by`` changes when the file takes over the project, by id, with the new value.

        A migrated record names no particular file; one that was made before the project had a folder has an absolute
        path.
        """
        if not self.adopts:
            return {}
        changed = {}
        for record in records:
            path = self.manager(record)
            if path is not None:
                new = path if self.root is None or path[0] != "/" else os.path.relpath(path, self.root)
                if new != record.managed_by:
                    changed[record.id] = new
        return changed


def find_target(app: App, file: ProjectFile) -> Target:
    """Choose the project of a file. It reads, and changes nothing.

    Raises:
        ProjectFileInvalid: the path of the file is not UTF-8.
        ProjectNotFound: an option names a project that does not exist and cannot be made.
    """
    folder, name = os.path.split(file.path)
    if f"{folder}/".startswith("/dev/") or not os.path.isfile(file.path):  # noqa: PTH113 - as place.py does
        # A stream, such as the shell's <(COMMAND): it has no folder, and another name in each run.
        folder, name = os.getcwd(), "-"  # noqa: PTH109
    at = os.path.join(os.path.realpath(folder), name)  # noqa: PTH118
    root = find_root(folder) or os.path.dirname(at)  # noqa: PTH120
    try:
        at.encode()
    except UnicodeEncodeError:
        raise ProjectFileInvalid(f"cannot use {file.path!r}: its path is not UTF-8") from None
    known_as = file.key if file.key is not None else project_name(file.path)
    option = app.project_option
    found = _named_project(app, known_as if option is None else option)
    if found is None and option is not None:
        if not is_name(option):
            raise ProjectNotFound(f'project "{option}" not found', details={"project": option})
        # Without the folder the next apply would take it for a project to adopt, and give it the folder then.
        free = option == known_as and _of_root(app, root) is None
        return Target(at, option, root=root if free else None, note=_option_note(file, option))
    if found is not None and found.root_path is None and found.name == known_as:
        binds = found.name != DEFAULT and _of_root(app, root) is None
        return _existing(at, found, root=root if binds else None, adopts=True, binds=binds)
    if found is not None and option is not None:
        return _existing(at, found, note=_option_note(file, found.name))
    here = _of_root(app, root)
    if here is not None:
        return _existing(at, here, note=_name_note(file, here.name, found, root))
    return _new(app, file, at, root)


def present_project(app: App) -> Project:
    """The project of this run.

    Raises:
        ProjectNotFound: the option, or the folder, has none.
    """
    return app.call(GetProject())


def _named_project(app: App, name: str) -> Project | None:
    """The project with exactly this id or name; None if there is none."""
    try:
        return app.call(GetProject(), project=name)
    except ProjectNotFound:
        return None


def _of_root(app: App, root: str) -> Project | None:
    try:
        return app.call(GetProject(), project=ProjectRoot(root))
    except ProjectNotFound:
        return None


def _existing(
    at: str,
    project: Project,
    *,
    root: str | None = None,
    adopts: bool = False,
    binds: bool = False,
    note: str | None = None,
) -> Target:
    shared = project.settings.get("shared")
    return Target(
        at,
        project.name,
        project.id,
        root if binds else project.root_path,
        adopts,
        binds,
        project.revision,
        tuple(one for one in shared if isinstance(one, str)) if isinstance(shared, list) else (),
        note,
    )


def _new(app: App, file: ProjectFile, at: str, root: str) -> Target:
    """The project to make: with the name of the file's key, else of the folder, else of the folder with a number."""
    there = {project.name: project for project in _all_projects(app)}
    first = file.key if file.key is not None else _folder_name(root)
    name = next(name for name in (first, *_numbered(_folder_name(root), len(there) + 2)) if name not in there)
    other = there.get(first)
    if other is not None and not _is_there(other):
        moved = command_line("nexusctl", "project", "update", first, "--root", root)
        gone = printable(other.root_path or "")
        note: str | None = f'The folder of project "{first}" is gone: {gone}\nIf it is here now, first: {moved}'
    else:
        note = _name_note(file, name, other, root)
    return Target(at, name, root=root, note=note)


def _all_projects(app: App) -> list[Project]:
    page = app.call(ListProjects(limit=10_000), project=DEFAULT)
    projects = page.projects
    while cursor := page.next_cursor:
        page = app.call(ListProjects(limit=10_000, cursor=cursor), project=DEFAULT)
        projects += page.projects
    return projects


def _is_there(project: Project) -> bool:
    """Whether the folder of a project is there, as far as this user can see; so is one that it does not have."""
    root = project.root_path
    return root is None or os.path.lexists(root)


def _folder_name(root: str) -> str:
    """The name of a folder as that of a project."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", os.path.basename(root)).lstrip("._-")[:_NAME_LENGTH]  # noqa: PTH119
    return name if is_name(name) else f"project-{name}".rstrip("-")


def _numbered(name: str, count: int) -> Iterable[str]:
    yield name
    for number in range(2, count + 2):
        ending = f"-{number}"
        yield name[: _NAME_LENGTH - len(ending)] + ending


def _option_note(file: ProjectFile, name: str) -> str | None:
    if file.key in (None, name):
        return None
    return f'The file is for the project "{file.key}", and is applied to "{name}", which -p or NEXUS_PROJECT names.'


def _name_note(file: ProjectFile, name: str, other: Project | None, root: str) -> str | None:
    """What to say where the project of a file has another name than its key; ``other`` is the project of that name."""
    if file.key in (None, name):
        return None
    here = printable(root)  # a line end in it would end the line of the hint
    if other is None:
        rename = command_line("nexusctl", "project", "update", name, "--name", file.key or "")
        return f'The project of {here} is "{name}", and the file says "{file.key}". To rename it: {rename}'
    there = printable(str(other.root_path))
    return f'The file says "{file.key}", which is the project of {there}. That of {here} is "{name}".'


def enter_target(app: App, target: Target, renames: Iterable[Command[Any]] = ()) -> Target:
    """Make the project, or give it its folder, as the plan says; further requests go to it.

    ``renames`` are updates of records, which are carried out before: the next apply repeats what was interrupted.

    Raises:
        NexusError: one of ``OUTRUN``, if another client was faster, or another one.
    """
    if not target.id:
        made = app.call(CreateProject(target.name, root_path=target.root), project=DEFAULT)
        app.enter(made.id)
        return target._replace(id=made.id)
    bind = UpdateProject(target.id, root_path=target.root, if_revision=target.revision)
    commands = [*renames, *([bind] if target.binds else [])]
    for first in range(0, len(commands), _BATCH):
        app.connect().batch(commands[first : first + _BATCH], timeout_s=app.timeout_s, project=target.id)
    app.enter(target.id)
    return target
