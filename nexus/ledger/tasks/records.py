"""The records of tasks, and the annotated types that records and commands share."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field
from nexus_protocol.command import Record

from nexus.ledger.states import TaskKind, TaskReason, TaskSize, TaskStatus, TaskType
from nexus.records.fields import Reference

__all__ = [
    "ClaimedTask",
    "Recovery",
    "Task",
    "TaskComment",
    "TaskCounts",
    "TaskExplanation",
    "TaskGraph",
    "TaskLease",
    "TaskMade",
    "TaskNote",
    "TaskPage",
    "TaskReference",
    "TasksDeleted",
    "TaskWait",
]

TaskReference = Annotated[
    Reference,
    Meta(
        description="the number of the task in its project, as 12 or #12, else its id or a unique prefix of it; "
        "PROJECT/12 is that in another project",
        extra={"completes": "task", "metavar": "TASK"},
    ),
]


class TaskNote(Record, kw_only=True):
    """A note on how a task is carried out."""

    id: str
    kind: str
    """``note``, or a word of the client; a task of type tdd needs ``red`` and ``green``."""
    text: str
    at: int
    agent_id: str | None = None
    actor: str | None = None
    """The name that the client gave itself."""


class TaskComment(Record, kw_only=True):
    """A comment on a task."""

    id: str
    text: str
    at: int
    agent_id: str | None = None
    actor: str | None = None
    """The name that the client gave itself."""


class TaskLease(Record, kw_only=True):
    """The live lease of a task."""

    id: str
    epoch: int
    holder: str
    """The id of an agent."""
    agent: str | None = None
    """Its name."""
    ttl_ms: int
    """It ends when it is not renewed for so long."""
    age_ms: int
    """Since the task was claimed."""
    overdue: bool = False
    """Whether that is more than max_task_minutes of the project."""


class Task(Record, kw_only=True):
    """A task. Optional fields are present only if they are set."""

    id: str
    number: int
    """It identifies the task in its project, and is given once."""
    project_id: str
    project: str
    """The name of its project."""
    feature_id: str | None = None
    sub_feature_id: str | None = None
    name: str
    """For people; it may be that of another task as well."""
    description: str | None = None
    type: TaskType = TaskType.AUTO
    kind: TaskKind = TaskKind.FEATURE
    status: TaskStatus = TaskStatus.PENDING
    size: TaskSize = TaskSize.SMALL
    priority: int = 5
    """1 is the highest."""
    tags: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    assigned_agent: str | None = None
    """The id of the agent that works on it, or did."""
    worktree_path: str | None = None
    branch_name: str | None = None
    depends_on: list[str] = field(default_factory=list)
    """The ids of the tasks that must be completed before it is ready."""
    open_dependencies: int = 0
    """How many of these are not completed. One that was deleted never is."""
    blocked_by: str | None = None
    """The id of the task whose completion unblocks it."""
    reason: str | None = None
    """Why it is failed or blocked."""
    reason_code: TaskReason | None = None
    """The same for programs."""
    qa_iterations: int = 0
    """How often it was rejected."""
    max_iterations: int = 50
    """At so many rejects it is blocked, and a person decides."""
    estimated_minutes: int = 15
    actual_minutes: int | None = None
    """From its first claim to its completion."""
    claimed_at: int | None = None
    """When it was claimed last."""
    started_at: int | None = None
    """When it was claimed first."""
    completed_at: int | None = None
    created_at: int
    updated_at: int
    revision: int
    """Counts the changes of its configuration, from 1."""
    state_revision: int
    """Counts the changes of its status and what belongs to it, from 0."""
    notes: list[TaskNote] = field(default_factory=list)
    """Of GetTask: the last 200, in their order."""
    comments: list[TaskComment] = field(default_factory=list)
    """Of GetTask: the last 200, in their order."""
    lease: TaskLease | None = None
    """Of GetTask: the live lease."""
    names: dict[str, str] = field(default_factory=dict)
    """Of GetTask, for people, by id: what the records are called whose ids it has, as ``#12 Log in``."""


class TaskPage(Record):
    """One page of tasks, and the cursor of the next page."""

    tasks: list[Task]
    next_cursor: str | None = None


class TasksDeleted(Record):
    """The tasks that were deleted: the named one first."""

    task: Task
    dependents: list[TaskMade] = field(default_factory=list)
    """Those that depended on it, directly or through others."""


class TaskMade(Record):
    """A task by what names it."""

    id: str
    number: int
    name: str
    """Of a graph: its temporary name."""


class Recovery(Record):
    """Where the work on a task was left."""

    continue_point: dict[str, Any] | None = None
    """The newest continue point of the task: ``number``, ``last_action``, ``saved_at`` and so on."""
    checkpoint: dict[str, Any] | None = None
    """The newest checkpoint of its project: ``number`` and so on."""


class ClaimedTask(Record):
    """A task that was claimed, and the lease by which its holder may change it."""

    task: Task
    lease: TaskLease
    recovery: Recovery | None = None
    """Where its work was left, if it had begun before."""


class TaskCounts(Record):
    """How many tasks a project has."""

    by_status: dict[str, int]
    """Statuses without tasks are left out."""
    ready: int
    total: int


class TaskWait(Record, kw_only=True):
    """What a task waits for, directly or through others."""

    id: str
    depth: int
    """1: the task waits for it directly."""
    number: int | None = None
    """Absent where it was deleted."""
    project: str | None = None
    name: str | None = None
    status: TaskStatus | None = None
    agent: str | None = None
    """The name of the agent that works on it."""
    by: str
    """The id of the task that waits for it."""


class TaskExplanation(Record):
    """Why a task is not ready, or that it is."""

    task: Task
    ready: bool
    why: str
    """One sentence."""
    chain: list[TaskWait] = field(default_factory=list)
    """What it waits for, the nearest first; 200 at most."""
    recovery: Recovery | None = None
    """Where its work was left, if it has begun and is not completed."""


class TaskGraph(Record):
    """What was made of a graph."""

    features: list[TaskMade]
    tasks: list[TaskMade]
