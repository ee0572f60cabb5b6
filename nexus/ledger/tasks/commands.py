"""The commands of tasks, and the kinds of their events.

It is longer than 500 lines because clients, the command line and the documentation are derived from this one list.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta
from nexus_protocol.command import Command, Effect, Record, Repeat, command
from nexus_protocol.events import event

from nexus.ledger.agents.errors import AgentAmbiguous, AgentMoveRefused, AgentNotFound
from nexus.ledger.agents.records import AgentReference
from nexus.ledger.features.errors import (
    FeatureAmbiguous,
    FeatureNotFound,
    SubFeatureAmbiguous,
    SubFeatureNotFound,
)
from nexus.ledger.features.records import FeatureReference, SubFeatureReference
from nexus.ledger.states import OnLost, TaskKind, TaskSize, TaskStatus, TaskType
from nexus.ledger.tasks.errors import (
    TaskAmbiguous,
    TaskChanged,
    TaskClaimed,
    TaskCursorInvalid,
    TaskCycle,
    TaskIdTaken,
    TaskInvalid,
    TaskIsCheckpoint,
    TaskLimit,
    TaskMoveRefused,
    TaskNeeded,
    TaskNeedsPerson,
    TaskNoneReady,
    TaskNotesNeeded,
    TaskNotFound,
    TaskNotReady,
)
from nexus.ledger.tasks.records import (
    ClaimedTask,
    Task,
    TaskCounts,
    TaskExplanation,
    TaskGraph,
    TaskPage,
    TaskReference,
    TasksDeleted,
)
from nexus.records.errors import LeaseNeedsPerson, LeaseRequired, QueryInvalid
from nexus.records.events import record_events
from nexus.records.fields import ClientId, Cursor, Match, Metadata, PageLimit, Revision, StateRevision, Tag, Tags

__all__ = [
    "CLEARABLE",
    "AddTaskComment",
    "AddTaskNote",
    "ApproveTask",
    "BlockTask",
    "ClaimTask",
    "CompleteTask",
    "CountTasks",
    "CreateTask",
    "CreateTaskGraph",
    "DeleteTask",
    "ExplainTask",
    "FailTask",
    "GetTask",
    "GraphFeature",
    "GraphTask",
    "ListReadyTasks",
    "ListTasks",
    "QueueTask",
    "RejectTask",
    "ResetTask",
    "SubmitTask",
    "UnblockTask",
    "UnqueueTask",
    "UpdateTask",
]

record_events(
    "task",
    "A task",
    created={"name": "its name", "type": "its type"},
    deleted={"name": "its name", "status": "its status"},
)
event(
    "task.moved",
    "The status of a task changed.",
    **{"move": "claim, submit and so on", "from": "its status before", "to": "and now", "agent": "the agent's id"},
    continue_point="of a task that is free again: the number of its newest continue point",
    checkpoint="and that of the newest checkpoint of its project",
)
event("task.escalated", "A task was rejected max_iterations times: a person decides.", qa_iterations="how often")
event(
    "task.edited",
    "A task with a live lease was changed or commented on by another client than the holder of the lease.",
    lease="the id of the lease",
    holder="the id of the agent that holds it",
    changed="the fields; comments, where one was added",
)
event("task.noted", "A note was added to a task.", note_kind="its kind", note_id="its id")
event("task.commented", "A comment was added to a task.", comment_id="its id")

_LOOKUP = (TaskNotFound, TaskAmbiguous)
_CHANGE = (*_LOOKUP, TaskChanged)
_PLACE = (FeatureNotFound, FeatureAmbiguous, SubFeatureNotFound, SubFeatureAmbiguous)
_MOVE = (*_LOOKUP, TaskMoveRefused, LeaseRequired)

_LINE = r"^[^\x00-\x1f\x7f]*$(?!\n)"
_TEXT = r"^[^\x00]*$"
TaskName = Annotated[str, Meta(min_length=1, max_length=200, pattern=_LINE, description="what is to be done")]
Description = Annotated[str, Meta(max_length=65_536, pattern=_TEXT, description="what is to be done, in full")]
Type = Annotated[
    TaskType,
    Meta(description="auto: an agent does it; checkpoint: a person decides; tdd: it needs a red and a green note"),
]
Kind = Annotated[TaskKind, Meta(description="what it is for")]
Size = Annotated[TaskSize, Meta(description="how large it is")]
Priority = Annotated[int, Meta(ge=1, le=1000, description="1 is the highest")]
MaxIterations = Annotated[
    int, Meta(ge=1, le=10_000, description="at so many rejects it is blocked, and a person decides")
]
Minutes = Annotated[int, Meta(ge=0, le=1_000_000, description="the estimated minutes")]
Feature = Annotated[FeatureReference, Meta(description="its feature", extra={"option": "--feature"})]
SubFeature = Annotated[
    SubFeatureReference, Meta(description="its sub-feature, of that feature", extra={"option": "--sub-feature"})
]
Tasks = Annotated[list[TaskReference], Meta(max_length=1000)]
Reason = Annotated[str, Meta(min_length=1, max_length=4096, pattern=_TEXT, description="why, for people")]
NoteKind = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=32,
        pattern=r"^[a-z][a-z0-9_-]*$(?!\n)",
        description="note, red, green, or any other word",
    ),
]
Text = Annotated[str, Meta(min_length=1, max_length=16_384, pattern=_TEXT)]
Worktree = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=4096,
        pattern=r"^/[^\x00]*$",
        description="the folder of its work, absolute",
        extra={"option": "--worktree", "path": True},
    ),
]
Branch = Annotated[
    str,
    Meta(min_length=1, max_length=255, pattern=_LINE, description="its branch", extra={"option": "--branch"}),
]
CLEARABLE = ("description", "feature_id", "sub_feature_id", "worktree_path", "branch_name")
"""The fields of a task that an update can unset."""
_BIG = 256 * 1024
"""Of the payload of a request with a description, or with many references."""


@command(0x0520, Effect.CHANGE, errors=(TaskIdTaken, *_LOOKUP, *_PLACE, TaskInvalid), max_payload=_BIG)
class CreateTask(Command[Task]):
    """Create a task, which is pending.

    With an ``id`` of the client, a request that is repeated after a lost reply returns the same task.
    """

    name: TaskName
    description: Description | None = None
    feature_id: Feature | None = None
    sub_feature_id: SubFeature | None = None
    type: Type = TaskType.AUTO
    kind: Kind = TaskKind.FEATURE
    size: Size = TaskSize.SMALL
    priority: Priority = 5
    tags: Tags | None = None
    metadata: Metadata | None = None
    depends_on: (
        Annotated[
            Tasks,
            Meta(
                description="a task that must be completed before it is ready",
                extra={"option": "--depends-on", "metavar": "TASK"},
            ),
        ]
        | None
    ) = None
    max_iterations: (
        Annotated[MaxIterations, Meta(description="at so many rejects it is blocked (default: that of the project)")]
        | None
    ) = None
    estimated_minutes: Annotated[Minutes, Meta(extra={"option": "--minutes"})] = 15
    id: ClientId | None = None


@command(0x0521, Effect.READ, errors=(TaskCursorInvalid, QueryInvalid), large_reply=True, all_projects=True)
class ListTasks(Command[TaskPage]):
    """List tasks by their numbers.

    A page ends at ``limit`` tasks or 1 MiB, whichever comes first; ``next_cursor`` is set when more follow.
    """

    feature_id: Annotated[Feature, Meta(description="only tasks of this feature")] | None = None
    status: Annotated[TaskStatus, Meta(description="only tasks in this status")] | None = None
    assigned_agent: (
        Annotated[AgentReference, Meta(description="only tasks of this agent", extra={"option": "--agent"})] | None
    ) = None
    type: Annotated[TaskType, Meta(description="only tasks of this type")] | None = None
    kind: Annotated[TaskKind, Meta(description="only tasks of this kind")] | None = None
    tag: Annotated[Tag, Meta(description="only tasks with this tag")] | None = None
    match: Match | None = None
    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(0x0522, Effect.READ, errors=_LOOKUP, large_reply=True)
class GetTask(Command[Task]):
    """Get a task with its notes, its comments and its live lease."""

    task: TaskReference


@command(
    0x0523,
    Effect.CHANGE,
    errors=(*_CHANGE, *_PLACE, TaskInvalid, TaskCycle, LeaseRequired),
    max_payload=_BIG,
)
class UpdateTask(Command[Task]):
    """Change a task; absent fields keep theirs.

    Only ``worktree_path`` and ``branch_name`` need the lease, if the task has one.
    """

    task: TaskReference
    name: TaskName | None = None
    description: Description | None = None
    feature_id: Feature | None = None
    sub_feature_id: SubFeature | None = None
    kind: Kind | None = None
    size: Size | None = None
    priority: Priority | None = None
    tags: Tags | None = None
    metadata: Metadata | None = None
    add_depends_on: (
        Annotated[
            Tasks,
            Meta(
                description="a further task that must be completed before it",
                extra={"option": "--depends-on", "metavar": "TASK"},
            ),
        ]
        | None
    ) = None
    remove_depends_on: (
        Annotated[
            Tasks,
            Meta(
                description="a task that it does not depend on any more",
                extra={"option": "--not-depends-on", "metavar": "TASK"},
            ),
        ]
        | None
    ) = None
    max_iterations: MaxIterations | None = None
    estimated_minutes: Annotated[Minutes, Meta(extra={"option": "--minutes"})] | None = None
    worktree_path: Worktree | None = None
    branch_name: Branch | None = None
    clear: (
        Annotated[
            list[Annotated[str, Meta(max_length=32)]],
            Meta(
                max_length=5,
                description=f"fields to unset, of {', '.join(CLEARABLE)}",
                extra={"metavar": "FIELD"},
            ),
        ]
        | None
    ) = None
    if_revision: Revision | None = None


@command(0x0524, Effect.CHANGE, errors=(*_CHANGE, TaskNeeded, LeaseRequired))
class DeleteTask(Command[TasksDeleted]):
    """Delete a task that no other depends on, with its notes and comments; with ``cascade`` those others too.

    Tasks that it blocks stay blocked.
    """

    task: TaskReference
    cascade: Annotated[bool, Meta(description="delete the tasks that depend on it, too")] = False
    if_revision: Revision | None = None
    if_state_revision: StateRevision | None = None


@command(0x0525, Effect.READ, errors=(TaskCursorInvalid,), large_reply=True, all_projects=True)
class ListReadyTasks(Command[TaskPage]):
    """List the tasks that can be begun now, the best first: by priority, then by number."""

    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(0x0526, Effect.READ, errors=_LOOKUP, large_reply=True)
class ExplainTask(Command[TaskExplanation]):
    """Tell why a task is not ready: what it waits for, and the chain below that."""

    task: TaskReference


@command(0x0527, Effect.READ)
class CountTasks(Command[TaskCounts]):
    """Count the tasks of a project by status, and those that are ready."""

    feature_id: Annotated[Feature, Meta(description="only tasks of this feature")] | None = None


@command(
    0x0528,
    Effect.CHANGE,
    errors=(
        *_LOOKUP, *_PLACE[:2],
        AgentNotFound, AgentAmbiguous, AgentMoveRefused, TaskClaimed, TaskIsCheckpoint, TaskLimit,
        TaskMoveRefused, TaskNoneReady, TaskNotReady, TaskInvalid, LeaseNeedsPerson,
    ),
)  # fmt: skip
class ClaimTask(Command[ClaimedTask]):
    """Claim a task for an agent: grant a lease on it, and begin it.

    Without ``task`` it is the best ready one that fits the filters, by priority and then by number. Of any number of
    claims of one task exactly one wins. A live lease is taken over by a person: a client that belongs to a job or a
    service is refused.
    """

    agent: AgentReference
    task: TaskReference | None = None
    feature_id: Annotated[Feature, Meta(description="only a task of this feature")] | None = None
    tag: Annotated[Tag, Meta(description="only a task with this tag")] | None = None
    type: Annotated[TaskType, Meta(description="only a task of this type")] | None = None
    size: Annotated[TaskSize, Meta(description="only a task of this size")] | None = None
    ttl_ms: Annotated[
        int, Meta(ge=1000, le=7 * 86_400_000, description="the lease ends when it is not renewed for so long")
    ] = 120_000
    pid: (
        Annotated[int, Meta(ge=1, le=2**31 - 1, description="a process that renews the lease while it lives")] | None
    ) = None
    on_lost: Annotated[OnLost, Meta(description="what becomes of its jobs and services when the lease is lost")] = (
        OnLost.STOP
    )
    worktree_path: Worktree | None = None
    branch_name: Branch | None = None
    take_over: Annotated[bool, Meta(description="revoke the lease of another agent")] = False


@command(0x0529, Effect.CHANGE, errors=_MOVE)
class QueueTask(Command[Task]):
    """Say that a pending task is wanted soon."""

    task: TaskReference


@command(0x052A, Effect.CHANGE, errors=_MOVE)
class UnqueueTask(Command[Task]):
    """Make a queued task pending."""

    task: TaskReference


@command(0x052B, Effect.CHANGE, errors=_MOVE)
class SubmitTask(Command[Task]):
    """Submit the work on a task for its review. Its lease ends unless it is kept."""

    task: TaskReference
    keep_lease: Annotated[bool, Meta(description="keep the lease, to go on after a reject")] = False


@command(0x052C, Effect.CHANGE, errors=(*_MOVE, TaskIsCheckpoint, TaskNotReady, TaskNotesNeeded))
class CompleteTask(Command[Task]):
    """Complete a task. Its lease ends, and tasks that waited for it alone become ready."""

    task: TaskReference


@command(0x052D, Effect.CHANGE, errors=_MOVE)
class FailTask(Command[Task]):
    """Fail a task. Its lease ends; tasks that depend on it keep waiting."""

    task: TaskReference
    reason: Reason | None = None


@command(0x052E, Effect.CHANGE, errors=(*_MOVE, TaskInvalid))
class BlockTask(Command[Task]):
    """Block a task, for a reason or until another task is completed. Its lease ends."""

    task: TaskReference
    reason: Reason | None = None
    blocked_by: Annotated[TaskReference, Meta(description="the task whose completion unblocks it")] | None = None


@command(0x052F, Effect.CHANGE, errors=_MOVE)
class UnblockTask(Command[Task]):
    """Make a blocked task pending."""

    task: TaskReference


@command(0x0530, Effect.CHANGE, errors=_MOVE)
class ResetTask(Command[Task]):
    """Make a blocked, failed or completed task pending, as if it had not been begun."""

    task: TaskReference


@command(0x0531, Effect.ACT, errors=(*_MOVE, TaskNotesNeeded, TaskNeedsPerson), repeat=Repeat.AGAIN)
class ApproveTask(Command[Task]):
    """Approve a task in review, or a checkpoint: it is completed.

    A checkpoint is approved by a person: a client that runs below a job or a service is refused.
    """

    task: TaskReference


@command(0x0532, Effect.ACT, errors=(*_MOVE, TaskNeedsPerson), repeat=Repeat.REFUSE)
class RejectTask(Command[Task]):
    """Reject a task in review, which is then worked on again; or a checkpoint, which fails.

    At ``max_iterations`` rejects the task is blocked, until a person resets it.
    """

    task: TaskReference
    reason: Reason | None = None


@command(0x0533, Effect.CHANGE, errors=(*_LOOKUP, AgentNotFound, AgentAmbiguous, LeaseRequired))
class AddTaskNote(Command[Task]):
    """Add a note to a task. That of an agent needs the lease, if the task has one."""

    task: TaskReference
    text: Annotated[Text, Meta(description="the note")]
    kind: NoteKind = "note"
    agent: Annotated[AgentReference, Meta(description="the agent whose note it is")] | None = None


@command(0x0534, Effect.CHANGE, errors=(*_LOOKUP, AgentNotFound, AgentAmbiguous))
class AddTaskComment(Command[Task]):
    """Add a comment to a task."""

    task: TaskReference
    text: Annotated[Text, Meta(description="the comment")]
    agent: Annotated[AgentReference, Meta(description="the agent whose comment it is")] | None = None


GraphName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z_][A-Za-z0-9._-]*$(?!\n)",
        description="its name in this request: a letter or _, then A-Z a-z 0-9 . _ -",
    ),
]


class GraphFeature(Record):
    """A feature of a graph that is to be created."""

    ref: GraphName
    name: TaskName
    description: Description | None = None


class GraphTask(Record, kw_only=True):
    """A task of a graph that is to be created."""

    ref: GraphName
    name: TaskName
    description: Description | None = None
    feature: str | None = None
    """The name of a feature in this request, else a reference to one that is there."""
    type: TaskType = TaskType.AUTO
    kind: TaskKind = TaskKind.FEATURE
    size: TaskSize = TaskSize.SMALL
    priority: Priority = 5
    tags: Annotated[list[Tag], Meta(max_length=64)] = msgspec.field(default_factory=list)
    estimated_minutes: Minutes = 15
    depends_on: Annotated[list[str], Meta(max_length=1000)] = msgspec.field(default_factory=list)
    """Names of tasks in this request, or references to tasks that are there."""


@command(
    0x0535,
    Effect.CHANGE,
    errors=(*_LOOKUP, *_PLACE[:2], TaskInvalid, TaskCycle),
    max_payload=4 * 1024 * 1024,
)
class CreateTaskGraph(Command[TaskGraph]):
    """Create features, tasks and their dependencies in one transaction, all or nothing.

    They name each other by their ``ref``, which is forgotten after the request.
    """

    tasks: Annotated[list[GraphTask], Meta(min_length=1, max_length=2000, extra={"option": None})]
    features: Annotated[list[GraphFeature], Meta(max_length=500, extra={"option": None})] = msgspec.field(
        default_factory=list
    )
