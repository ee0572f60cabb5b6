"""The commands of continue points, and the kinds of their events."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from nexus_protocol.command import Command, Effect, command
from nexus_protocol.events import event

from nexus.ledger.agents.records import AgentReference
from nexus.ledger.tasks.errors import TaskAmbiguous, TaskNotFound
from nexus.ledger.tasks.records import TaskReference
from nexus.memory.continue_points.errors import (
    ContinuePointAmbiguous,
    ContinuePointChanged,
    ContinuePointCursorInvalid,
    ContinuePointIdTaken,
    ContinuePointInvalid,
    ContinuePointNotFound,
)
from nexus.memory.continue_points.records import (
    ContinuePoint,
    ContinuePointPage,
    ContinuePointReference,
    ResumePoint,
)
from nexus.records.errors import LeaseRequired
from nexus.records.events import written_event
from nexus.records.fields import ClientId, Cursor, PageLimit, Revision, StateRevision

__all__ = [
    "CreateContinuePoint",
    "DeleteContinuePoint",
    "GetContinuePoint",
    "GetResumePoint",
    "ListContinuePoints",
]

event(
    "continue_point.created",
    "A continue point was saved.",
    task_id="the id of the task",
    agent_id="the id of the agent that has it",
)
event("continue_point.deleted", "A continue point was deleted.", task_id="the id of its task")
written_event("continue_point", "A continue point")

_LOOKUP = (ContinuePointNotFound, ContinuePointAmbiguous)
_TASK = (TaskNotFound, TaskAmbiguous, ContinuePointInvalid)

_TEXT = r"^[^\x00]*$"
_LINE = r"^[^\x00-\x1f\x7f]*$(?!\n)"
Action = Annotated[str, Meta(min_length=1, max_length=4096, pattern=_TEXT, description="what was done last")]
File = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=4096,
        pattern=_LINE,
        description="the file that is worked on, as a path from the worktree, or an absolute one",
    ),
]
Line = Annotated[int, Meta(ge=1, le=2**31 - 1, description="the line in it")]
Function = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=500,
        pattern=_LINE,
        description="the function in it",
        extra={"option": "--function", "metavar": "NAME"},
    ),
]
Step = Annotated[str, Meta(min_length=1, max_length=1000, pattern=_TEXT)]
Steps = Annotated[
    list[Step],
    Meta(max_length=50, description="what is to be done next", extra={"option": "--next", "metavar": "TEXT"}),
]
OfTask = Annotated[TaskReference, Meta(description="the task (default: that of the lease)")]


@command(0x0580, Effect.CHANGE, errors=(ContinuePointIdTaken, *_TASK, LeaseRequired), max_payload=256 * 1024)
class CreateContinuePoint(Command[ContinuePoint]):
    """Save where the work on a task is. While the task has a live lease, its holder alone may.

    Of a task the newest 50 are kept. With an ``id`` chosen by the client, a request can be repeated after a lost
    reply: if a continue point with this id and the same fields exists, it is returned.
    """

    last_action: Action
    task: OfTask | None = None
    file: File | None = None
    line: Line | None = None
    function_name: Function | None = None
    next_steps: Steps | None = None
    id: ClientId | None = None


@command(0x0581, Effect.READ, errors=(ContinuePointCursorInvalid,), large_reply=True, all_projects=True)
class ListContinuePoints(Command[ContinuePointPage]):
    """List continue points, newest first.

    A page ends at ``limit`` records or 1 MiB, whichever comes first; ``next_cursor`` is present when more follow.
    """

    task_id: (
        Annotated[TaskReference, Meta(description="only those of this task", extra={"option": "--task"})] | None
    ) = None
    agent_id: (
        Annotated[AgentReference, Meta(description="only those of this agent", extra={"option": "--agent"})] | None
    ) = None
    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(0x0582, Effect.READ, errors=_LOOKUP, large_reply=True)
class GetContinuePoint(Command[ContinuePoint]):
    """Get one continue point."""

    continue_point: ContinuePointReference


@command(0x0583, Effect.CHANGE, errors=(*_LOOKUP, ContinuePointChanged, LeaseRequired))
class DeleteContinuePoint(Command[ContinuePoint]):
    """Delete a continue point. While its task has a live lease, its holder alone may."""

    continue_point: ContinuePointReference
    if_revision: Revision | None = None
    if_state_revision: StateRevision | None = None


@command(0x0584, Effect.READ, errors=_TASK, large_reply=True)
class GetResumePoint(Command[ResumePoint]):
    """Get what is to be known to go on with a task: its newest continue point, its worktree and its branch."""

    task: OfTask | None = None
