"""Random commands on tasks for ``support.mutations``: by number, so that some find one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nexus_protocol import Command

from nexus.ledger.states import TaskType
from nexus.ledger.tasks.commands import (
    AddTaskComment,
    AddTaskNote,
    ApproveTask,
    BlockTask,
    ClaimTask,
    CompleteTask,
    CreateTask,
    CreateTaskGraph,
    DeleteTask,
    FailTask,
    GraphFeature,
    GraphTask,
    QueueTask,
    RejectTask,
    ResetTask,
    SubmitTask,
    UnblockTask,
    UnqueueTask,
    UpdateTask,
)

if TYPE_CHECKING:
    from support.mutations import Pool

__all__ = ["TASK_MAKERS"]


def _task(pool: Pool) -> str:
    return str(pool.chance.randint(1, 6))


def _create(pool: Pool) -> Command[Any]:
    waits = [_task(pool)] if pool.chance.random() < 0.4 else []
    type_ = pool.chance.choice([TaskType.AUTO, TaskType.AUTO, TaskType.CHECKPOINT])
    return CreateTask(pool.words(), type=type_, depends_on=waits, tags=["x"])


def _claim(pool: Pool) -> Command[Any]:
    named = _task(pool) if pool.chance.random() < 0.5 else None
    return ClaimTask(f"a{pool.chance.randrange(3)}", task=named, take_over=pool.chance.random() < 0.3)


def _graph(pool: Pool) -> Command[Any]:
    tasks = [
        GraphTask(ref="a", name=pool.words(), feature="f"),
        GraphTask(ref="b", name=pool.words(), depends_on=["a"]),
    ]
    return CreateTaskGraph(tasks, [GraphFeature("f", pool.words())])


TASK_MAKERS: dict[str, tuple[int, Callable[[Pool], Command[Any]]]] = {
    "CreateTask": (6, _create),
    "CreateTaskGraph": (2, _graph),
    "ClaimTask": (6, _claim),
    "UpdateTask": (3, lambda pool: UpdateTask(_task(pool), name=pool.words(), add_depends_on=[_task(pool)])),
    "DeleteTask": (2, lambda pool: DeleteTask(_task(pool), cascade=pool.chance.random() < 0.5)),
    "QueueTask": (2, lambda pool: QueueTask(_task(pool))),
    "UnqueueTask": (1, lambda pool: UnqueueTask(_task(pool))),
    "SubmitTask": (2, lambda pool: SubmitTask(_task(pool))),
    "CompleteTask": (3, lambda pool: CompleteTask(_task(pool))),
    "FailTask": (1, lambda pool: FailTask(_task(pool), reason="no")),
    "BlockTask": (1, lambda pool: BlockTask(_task(pool), blocked_by=_task(pool))),
    "UnblockTask": (1, lambda pool: UnblockTask(_task(pool))),
    "ResetTask": (2, lambda pool: ResetTask(_task(pool))),
    "ApproveTask": (1, lambda pool: ApproveTask(_task(pool))),
    "RejectTask": (1, lambda pool: RejectTask(_task(pool), reason="no")),
    "AddTaskNote": (2, lambda pool: AddTaskNote(_task(pool), pool.words())),
    "AddTaskComment": (1, lambda pool: AddTaskComment(_task(pool), pool.words())),
}
"""For each command how often it is made, and how."""
