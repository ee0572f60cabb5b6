"""The domain errors of tasks.

::

    NotFound            TaskNotFound
    Conflict            TaskAmbiguous, TaskChanged, TaskIdTaken, TaskClaimed
    InvalidArgument     TaskCursorInvalid, TaskCycle, TaskInvalid
    FailedPrecondition  TaskMoveRefused, TaskNeeded, TaskNoneReady, TaskNotReady, TaskNotesNeeded, TaskIsCheckpoint,
                        TaskLimit
    PermissionDenied    TaskNeedsPerson
"""

from __future__ import annotations

from nexus_protocol.errors import Conflict, FailedPrecondition, InvalidArgument, PermissionDenied

from nexus.records.errors import RecordAmbiguous, RecordChanged, RecordCursorInvalid, RecordIdTaken, RecordNotFound

__all__ = [
    "TaskAmbiguous",
    "TaskChanged",
    "TaskClaimed",
    "TaskCursorInvalid",
    "TaskCycle",
    "TaskIdTaken",
    "TaskInvalid",
    "TaskIsCheckpoint",
    "TaskLimit",
    "TaskMoveRefused",
    "TaskNeeded",
    "TaskNeedsPerson",
    "TaskNoneReady",
    "TaskNotFound",
    "TaskNotReady",
    "TaskNotesNeeded",
]


class TaskNotFound(RecordNotFound):
    """No task has this number or id."""

    type = "task.not_found"


class TaskAmbiguous(RecordAmbiguous):
    """Several tasks have an id that begins so, or this number in their projects."""

    type = "task.ambiguous"


class TaskIdTaken(RecordIdTaken):
    """A task with the id exists and differs from the request."""

    type = "task.id_taken"


class TaskChanged(RecordChanged):
    """The task has another revision than the request expects."""

    type = "task.changed"


class TaskCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by this list for these filters."""

    type = "task.cursor_invalid"


class TaskClaimed(Conflict):
    """Another claim was first; ``details`` has the ``holder``, its name as ``agent``, and ``age_ms``."""

    type = "task.claimed"


class TaskCycle(InvalidArgument):
    """Tasks would depend on each other in a circle; ``details.cycle`` are their numbers, the first one at both ends.

    Of a long one these are the first 20 and the last 20; ``details.length`` is how many tasks it has.
    """

    type = "task.cycle"


class TaskInvalid(InvalidArgument):
    """Fields of the request do not go together; ``details.path`` is one of them."""

    type = "task.invalid"


class TaskMoveRefused(FailedPrecondition):
    """The status of the task does not allow the move; ``details.allowed`` are the moves that it allows."""

    type = "task.move_refused"


class TaskNeeded(FailedPrecondition):
    """Others depend on the task; ``details.dependents`` are some of them."""

    type = "task.needed"


class TaskNoneReady(FailedPrecondition):
    """No task that fits can be claimed at present."""

    type = "task.none_ready"


class TaskNotReady(FailedPrecondition):
    """The task waits for others, or for its project; ``details.open`` are the numbers of those tasks."""

    type = "task.not_ready"


class TaskNotesNeeded(FailedPrecondition):
    """A task of type tdd lacks a note of kind red, or after it one of kind green; ``details.kind`` is the next one."""

    type = "task.notes_needed"


class TaskIsCheckpoint(FailedPrecondition):
    """A person decides about a task of type checkpoint: it is approved or rejected, and nothing else ends it."""

    type = "task.checkpoint"


class TaskLimit(FailedPrecondition):
    """As many tasks are claimed as max_parallel_agents of the project allows; ``details.limit`` is that number."""

    type = "task.limit"


class TaskNeedsPerson(PermissionDenied):
    """A checkpoint is decided by a person: the client belongs to a job or a service, or has ended."""

    type = "task.needs_person"
