"""The handlers that move tasks: queue, submit, complete, fail, block, approve, reject and their opposites."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nexus.capability import Context, handles
from nexus.hints import command_line
from nexus.ledger.leases import store as leases
from nexus.ledger.leases.peers import is_person
from nexus.ledger.states import READY, TaskReason, TaskStatus, TaskType
from nexus.ledger.tasks import moves
from nexus.ledger.tasks.commands import (
    ApproveTask,
    BlockTask,
    CompleteTask,
    FailTask,
    QueueTask,
    RejectTask,
    ResetTask,
    SubmitTask,
    UnblockTask,
    UnqueueTask,
)
from nexus.ledger.tasks.errors import TaskInvalid, TaskIsCheckpoint, TaskMoveRefused, TaskNeedsPerson
from nexus.ledger.tasks.records import Task
from nexus.ledger.tasks.store import TASKS
from nexus.records.scope import reference_of
from nexus.store import Transaction

__all__ = [
    "approve_task",
    "block_task",
    "complete_task",
    "fail_task",
    "queue_task",
    "reject_task",
    "reset_task",
    "submit_task",
    "unblock_task",
    "unqueue_task",
]


def _begun(tx: Transaction, ctx: Context, reference: str, name: str, *, guarded: bool = True) -> Task:
    """The task that a request moves, if its status and its lease allow it."""
    task = TASKS.resolve(tx, reference, ctx.scope(tx))
    cannot = _cannot(name, task)
    moves.check_move(task, name, cannot)
    if guarded:
        leases.guard(tx, ctx, moves.KIND, task.id, cannot)
    return task


def _cannot(name: str, task: Task) -> str:
    return f"cannot {name} task {task.number}"


@handles(QueueTask)
def queue_task(tx: Transaction, ctx: Context, command: QueueTask) -> Task:
    task = _begun(tx, ctx, command.task, "queue")
    return moves.move(tx, ctx.operation, task, "queue", TaskStatus.QUEUED)


@handles(UnqueueTask)
def unqueue_task(tx: Transaction, ctx: Context, command: UnqueueTask) -> Task:
    task = _begun(tx, ctx, command.task, "unqueue")
    return moves.move(tx, ctx.operation, task, "unqueue", TaskStatus.PENDING)


@handles(SubmitTask)
def submit_task(tx: Transaction, ctx: Context, command: SubmitTask) -> Task:
    task = _begun(tx, ctx, command.task, "submit")
    submitted = moves.move(tx, ctx.operation, task, "submit", TaskStatus.IN_REVIEW)
    if not command.keep_lease:
        moves.end_lease(tx, ctx.operation, task, f"task {task.number} was submitted")
    return submitted


@handles(CompleteTask)
def complete_task(tx: Transaction, ctx: Context, command: CompleteTask) -> Task:
    task = _begun(tx, ctx, command.task, "complete", guarded=False)
    cannot = _cannot("complete", task)
    if task.type is TaskType.CHECKPOINT:
        raise TaskIsCheckpoint(
            f"{cannot}: it is a checkpoint, about which a person decides",
            hint=f"Approve it: {command_line('nexusctl', 'task', 'approve', reference_of(task))}",
            details={"id": task.id},
        )
    if task.status is not TaskStatus.IN_REVIEW:
        leases.guard(tx, ctx, moves.KIND, task.id, cannot)
    if task.status in READY and task.open_dependencies:
        raise moves.not_ready(tx, task, cannot)
    return moves.complete(tx, ctx.operation, task, "complete", cannot)


@handles(FailTask)
def fail_task(tx: Transaction, ctx: Context, command: FailTask) -> Task:
    task = _begun(tx, ctx, command.task, "fail")
    changes = {"reason": command.reason, "reason_code": TaskReason.GIVEN, "blocked_by": None}
    return moves.stop(tx, ctx.operation, task, "fail", TaskStatus.FAILED, changes)


@handles(BlockTask)
def block_task(tx: Transaction, ctx: Context, command: BlockTask) -> Task:
    task = _begun(tx, ctx, command.task, "block")
    cannot = _cannot("block", task)
    if command.blocked_by is None:
        if command.reason is None:
            raise TaskInvalid(
                f"{cannot}: neither a reason nor a task is given",
                hint="Say why with reason, or until when with blocked_by.",
                details={"path": "reason"},
            )
        changes = {"reason": command.reason, "reason_code": TaskReason.GIVEN}
        return moves.stop(tx, ctx.operation, task, "block", TaskStatus.BLOCKED, changes)
    blocker = TASKS.resolve(tx, command.blocked_by, ctx.scope(tx))
    if blocker.id == task.id or blocker.status is TaskStatus.COMPLETED:
        why = "it cannot wait for itself" if blocker.id == task.id else f"task {blocker.number} is completed"
        raise TaskInvalid(f"{cannot}: {why}", hint="Name another task.", details={"path": "blocked_by"})
    reason = command.reason or f"it waits for task {blocker.number}"
    changes = {"reason": reason, "reason_code": TaskReason.BLOCKER, "blocked_by": blocker.id}
    return moves.stop(tx, ctx.operation, task, "block", TaskStatus.BLOCKED, changes)


@handles(UnblockTask)
def unblock_task(tx: Transaction, ctx: Context, command: UnblockTask) -> Task:
    task = _begun(tx, ctx, command.task, "unblock")
    return moves.move(tx, ctx.operation, task, "unblock", TaskStatus.PENDING)


@handles(ResetTask)
def reset_task(tx: Transaction, ctx: Context, command: ResetTask) -> Task:
    task = _begun(tx, ctx, command.task, "reset")
    return moves.reset(tx, ctx.operation, task)


# What a person decides


async def _require_person(ctx: Context, reference: str, name: str, line: Callable[[Task], str]) -> None:
    """Refuse a decision about a checkpoint by a client that is below a job or a service.

    Raises:
        TaskNeedsPerson: it is, or its process has ended.
    """
    task = await ctx.store.fetch(lambda reader: TASKS.resolve(reader, reference, ctx.scope(reader)))
    if task.type is TaskType.CHECKPOINT and not await asyncio.to_thread(is_person, ctx.caller.pid):
        raise TaskNeedsPerson(
            f"{_cannot(name, task)}: a person decides about a checkpoint, and this client is of a job or a service",
            hint=f"Decide it in a terminal of your own: {line(task)}",
            details={"id": task.id},
        )


def _check_decided(task: Task, name: str) -> None:
    """Refuse to decide about a task that is not in review and no checkpoint.

    Raises:
        TaskMoveRefused: it is none.
    """
    moves.check_move(task, name, _cannot(name, task))
    if task.type is not TaskType.CHECKPOINT and task.status in READY:
        raise TaskMoveRefused(
            f"{_cannot(name, task)}: it is {task.status}, and only a checkpoint is decided without a review",
            hint=f"Look at it: {command_line('nexusctl', 'task', 'inspect', reference_of(task))}",
            details={"id": task.id, "status": task.status.value, "allowed": ["claim", "complete", "fail", "block"]},
        )


@handles(ApproveTask)
async def approve_task(ctx: Context, command: ApproveTask) -> Task:
    await _require_person(
        ctx, command.task, "approve", lambda task: command_line("nexusctl", "task", "approve", reference_of(task))
    )

    def approve(tx: Transaction) -> Task:
        task = TASKS.resolve(tx, command.task, ctx.scope(tx))
        _check_decided(task, "approve")
        return moves.complete(tx, ctx.operation, task, "approve", _cannot("approve", task))

    return await ctx.store.write(approve)


@handles(RejectTask)
async def reject_task(ctx: Context, command: RejectTask) -> Task:
    await _require_person(
        ctx, command.task, "reject", lambda task: command_line("nexusctl", "task", "reject", reference_of(task))
    )

    def reject(tx: Transaction) -> Task:
        task = TASKS.resolve(tx, command.task, ctx.scope(tx))
        _check_decided(task, "reject")
        return moves.reject(tx, ctx.operation, task, command.reason)

    return await ctx.store.write(reject)
