"""The public contract of projects: the record, the commands, the errors."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field
from nexus_protocol.command import Command, Effect, Record, command
from nexus_protocol.errors import FailedPrecondition
from nexus_protocol.events import event

from nexus.projects.states import ProjectMode, ProjectStatus
from nexus.records.errors import (
    ProjectNotFound,
    RecordAmbiguous,
    RecordChanged,
    RecordCursorInvalid,
    RecordIdTaken,
    RecordNameTaken,
)
from nexus.records.events import record_events
from nexus.records.fields import ClientId, Cursor, Metadata, Name, PageLimit, Reference, Revision, StateRevision

__all__ = [
    "CompleteProject",
    "CreateProject",
    "DeleteProject",
    "FailProject",
    "GetProject",
    "GetProjectHoldings",
    "ListProjects",
    "PauseProject",
    "Project",
    "ProjectAmbiguous",
    "ProjectChanged",
    "ProjectCursorInvalid",
    "ProjectFixed",
    "ProjectIdTaken",
    "ProjectMoveRefused",
    "ProjectNameTaken",
    "ProjectNotEmpty",
    "ProjectNotFound",
    "ProjectPage",
    "ProjectDeleted",
    "ProjectHoldings",
    "ProjectRecord",
    "ProjectRootTaken",
    "ProjectRunning",
    "ResumeProject",
    "UpdateProject",
]

record_events(
    "project",
    "A project",
    created={"root_path": "its folder", "mode": "genesis or evolution"},
    deleted={"root_path": "its folder"},
)

event("project.begun", "Work in a project began: its first task was claimed.")
event("project.paused", "A project was paused.", reason="why, if that was given")
event("project.resumed", "A project goes on.")
event("project.completed", "A project was completed.")
event("project.failed", "A project was given up.", reason="why, if that was given")

ProjectReference = Annotated[Reference, Meta(extra={"completes": "project"})]
RootPath = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=4096,
        pattern=r"^/[^\x00]*$",
        description="the folder of its nexus.toml, absolute and resolved; no other project has it",
        extra={"option": "--root", "path": "real"},
    ),
]
Description = Annotated[str, Meta(max_length=16_384, description="what it is about")]
Mode = Annotated[ProjectMode, Meta(description="genesis: begins from nothing; evolution: continues what is there")]
RepositoryUrl = Annotated[str, Meta(max_length=4096, pattern=r"^[^\x00-\x20\x7f]*$", description="its repository")]
Reason = Annotated[str, Meta(min_length=1, max_length=4096, description="why, in words: the event tells it")]
Settings = Annotated[
    Metadata,
    Meta(
        description="settings of the project, 16 KiB at most: max_parallel_agents, test_coverage_target, "
        "max_task_minutes, qa_max_iterations and checkpoint_interval_hours are whole numbers; other keys are free"
    ),
]


class ProjectAmbiguous(RecordAmbiguous):
    """Several ids begin with this reference; ``details.matches`` lists some of them."""

    type = "project.ambiguous"


class ProjectNameTaken(RecordNameTaken):
    """Another project has this name."""

    type = "project.name_taken"


class ProjectIdTaken(RecordIdTaken):
    """A project with this id exists and differs from the request."""

    type = "project.id_taken"


class ProjectChanged(RecordChanged):
    """The project has another revision than ``if_revision``; ``details.revision`` is the present one."""

    type = "project.changed"


class ProjectCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by ListProjects for these filters."""

    type = "project.cursor_invalid"


class ProjectRootTaken(RecordNameTaken):
    """Another project has this folder; ``details`` has its ``name`` and ``id``."""

    type = "project.root_taken"


class ProjectFixed(FailedPrecondition):
    """The project ``default`` has no folder, keeps its name and is never deleted."""

    type = "project.fixed"


class ProjectNotEmpty(FailedPrecondition):
    """The project has records; ``details.records`` is the number of each kind."""

    type = "project.not_empty"


class ProjectRunning(FailedPrecondition):
    """Something of the project runs; ``details.running`` lists some of it."""

    type = "project.running"


class ProjectMoveRefused(FailedPrecondition):
    """The status of the project does not allow this; ``details.allowed`` are the moves that it allows."""

    type = "project.move_refused"


class Project(Record):
    """A project. Optional fields are present only if they are set."""

    id: str
    name: str
    mode: ProjectMode
    status: ProjectStatus
    created_at: int
    updated_at: int
    revision: int
    """Counts the changes of its configuration, from 1."""
    state_revision: int
    """Counts the changes of its status, from 0."""
    description: str | None = None
    root_path: str | None = None
    """The folder of its ``nexus.toml``, with all links resolved."""
    repository_url: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    completed_at: int | None = None


class ProjectPage(Record):
    """One page of projects, sorted by name, and the cursor of the next page."""

    projects: list[Project]
    next_cursor: str | None = None


class ProjectRecord(Record):
    """A record that a project has."""

    kind: str
    """``service`` or ``vm``."""
    id: str
    name: str
    state: str


class ProjectHoldings(Record):
    """What a project has."""

    project: Project
    counts: dict[str, dict[str, int]]
    """By kind, the number of records in each state."""
    records: list[ProjectRecord]
    """By kind, then by name; the first thousand."""


class ProjectDeleted(Record):
    """The deleted project, and the records that were deleted with it."""

    project: Project
    records: list[ProjectRecord]


@command(0x0500, Effect.CHANGE, errors=(ProjectNameTaken, ProjectIdTaken, ProjectRootTaken), in_project=False)
class CreateProject(Command[Project]):
    """Create a project in status created.

    With an ``id`` chosen by the client, a request can be repeated after a lost reply: if a project with this id and
    the same fields exists, it is returned.
    """

    name: Annotated[Name, Meta(extra={"metavar": "NAME"})]
    description: Description | None = None
    mode: Mode = ProjectMode.GENESIS
    root_path: RootPath | None = None
    repository_url: RepositoryUrl | None = None
    settings: Settings | None = None
    id: ClientId | None = None


@command(0x0501, Effect.READ, errors=(ProjectCursorInvalid,), large_reply=True, all_projects=True)
class ListProjects(Command[ProjectPage]):
    """List projects, sorted by name.

    A page ends at ``limit`` records or 1 MiB, whichever comes first; ``next_cursor`` is present when more follow.
    """

    status: Annotated[ProjectStatus, Meta(description="only projects in this status")] | None = None
    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(0x0502, Effect.READ, errors=(ProjectNotFound, ProjectAmbiguous))
class GetProject(Command[Project]):
    """Get one project: without a reference, the one that the request speaks in."""

    project: ProjectReference | None = None


@command(
    0x0503,
    Effect.CHANGE,
    errors=(ProjectNotFound, ProjectAmbiguous, ProjectChanged, ProjectFixed, ProjectNotEmpty, ProjectRunning),
    in_project=False,
)
class DeleteProject(Command[ProjectDeleted]):
    """Delete a project of which nothing runs; with ``cascade`` its records too, each with an event of its own."""

    project: ProjectReference
    cascade: Annotated[bool, Meta(description="delete its records too")] = False
    if_revision: Revision | None = None
    if_state_revision: StateRevision | None = None


@command(
    0x0504,
    Effect.CHANGE,
    errors=(ProjectNotFound, ProjectAmbiguous, ProjectChanged, ProjectFixed, ProjectNameTaken, ProjectRootTaken),
    in_project=False,
)
class UpdateProject(Command[Project]):
    """Change a project. Its records keep it when it is renamed, or when its folder is another one."""

    project: ProjectReference
    name: Name | None = None
    description: Description | None = None
    mode: Mode | None = None
    root_path: RootPath | None = None
    repository_url: RepositoryUrl | None = None
    settings: Settings | None = None
    if_revision: Revision | None = None


@command(0x0505, Effect.READ, errors=(ProjectNotFound, ProjectAmbiguous), large_reply=True)
class GetProjectHoldings(Command[ProjectHoldings]):
    """Get what a project has: without a reference, the one that the request speaks in."""

    project: ProjectReference | None = None


_MOVED = (ProjectNotFound, ProjectAmbiguous, ProjectChanged, ProjectMoveRefused)


@command(0x0506, Effect.CHANGE, errors=_MOVED, in_project=False)
class PauseProject(Command[Project]):
    """Pause a project: none of its tasks is ready until it is resumed."""

    project: ProjectReference
    reason: Reason | None = None
    if_state_revision: StateRevision | None = None


@command(0x0507, Effect.CHANGE, errors=_MOVED, in_project=False)
class ResumeProject(Command[Project]):
    """Let a project that was paused, completed or given up go on; it is in progress then."""

    project: ProjectReference
    if_state_revision: StateRevision | None = None


@command(0x0508, Effect.CHANGE, errors=_MOVED, in_project=False)
class CompleteProject(Command[Project]):
    """Complete a project, whatever its tasks are; none of them is ready then."""

    project: ProjectReference
    if_state_revision: StateRevision | None = None


@command(0x0509, Effect.CHANGE, errors=_MOVED, in_project=False)
class FailProject(Command[Project]):
    """Give a project up; none of its tasks is ready then."""

    project: ProjectReference
    reason: Reason | None = None
    if_state_revision: StateRevision | None = None
