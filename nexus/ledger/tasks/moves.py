"""The moves of tasks: the one place that changes the status of a task, and what follows from it in its transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nexus.hints import command_line
from nexus.journal.operation import Operation
from nexus.journal.rows import record
from nexus.ledger import recovery
from nexus.ledger.agents import store as agents
from nexus.ledger.features.store import count_completed
from nexus.ledger.leases import store as leases
from nexus.ledger.leases.records import Lease
from nexus.ledger.metrics import store as metrics
from nexus.ledger.states import READY, TASK_MOVES, LeaseState, MetricType, TaskReason, TaskStatus, TaskType
from nexus.ledger.tasks import dependencies_store as dependencies
from nexus.ledger.tasks import store
from nexus.ledger.tasks.errors import TaskMoveRefused, TaskNotesNeeded, TaskNotReady
from nexus.ledger.tasks.records import Task
from nexus.ledger.tasks.store import TASKS
from nexus.records.scope import reference_of
from nexus.store import Reader, Transaction

_SHOWN = 5

__all__ = [
    "KIND",
    "check_move",
    "complete",
    "end_lease",
    "move",
    "not_ready",
    "recount_below",
    "reject",
    "reset",
    "stop",
]

KIND = "task"
"""The kind of the resource that a lease on a task is for."""
_MINUTE_MS = 60_000
_AT_WORK = frozenset({TaskStatus.IN_PROGRESS, TaskStatus.IN_REVIEW})
_NO_REASON = {"reason": None, "reason_code": None, "blocked_by": None}


def check_move(task: Task, name: str, cannot: str) -> None:
    """Refuse a move that the status of the task does not allow; ``cannot`` begins the sentence.

    Raises:
        TaskMoveRefused: it does not.
    """
    if task.status in TASK_MOVES[name][0]:
        return
    allowed = [move for move, (sources, _targets) in TASK_MOVES.items() if task.status in sources]
    if task.type is not TaskType.CHECKPOINT and task.status is not TaskStatus.IN_REVIEW:
        allowed = [move for move in allowed if move not in ("approve", "reject")]
    allowed = [move for move in allowed if move != "release"]
    raise TaskMoveRefused(
        f"{cannot}: it is {task.status}, which allows {', '.join(allowed) or 'no move'}",
        hint=f"Look at it: {command_line('nexusctl', 'task', 'inspect', reference_of(task))}",
        details={"id": task.id, "status": task.status.value, "allowed": allowed},
    )


def move(
    tx: Transaction,
    operation: Operation,
    task: Task,
    name: str,
    to: TaskStatus,
    changes: Mapping[str, Any] | None = None,
) -> Task:
    """Carry out a move that ``check_move`` allowed, with the event; returns the new task."""
    sources, targets = TASK_MOVES[name]
    assert task.status in sources, (task.status, name)
    assert to in targets, (to, name)
    values = {"status": to, **(changes or {})}
    if task.status in (TaskStatus.BLOCKED, TaskStatus.FAILED):
        values = {**_NO_REASON, **values}
    agent = values.get("assigned_agent") or task.assigned_agent
    detail: dict[str, Any] = {"move": name, "from": task.status.value, "to": to.value}
    if agent:
        detail["agent"] = agent
    if to in READY and task.status in _AT_WORK:
        detail |= recovery.told(tx, task)
    moved = TASKS.update(tx, operation, task, values, event="moved", detail=detail)
    if TaskStatus.COMPLETED in (task.status, to) and task.status is not to:
        recount_below(tx, task.id)
        if task.feature_id is not None:
            count_completed(tx, operation, task.feature_id, 1 if to is TaskStatus.COMPLETED else -1)
    return moved


def recount_below(tx: Transaction, task_id: str) -> None:
    """Write the number of open dependencies of each task that depends directly on one."""
    for dependent, count in dependencies.open_counts_below(tx, task_id):
        TASKS.rows.update(tx, dependent, {"open_dependencies": count})


def complete(tx: Transaction, operation: Operation, task: Task, name: str, cannot: str) -> Task:
    """Complete a task, by the move ``name``: what waits for it goes on, and its figures are kept.

    Raises:
        TaskNotesNeeded: it is of type tdd, and a note is missing.
    """
    _check_notes(tx, task, cannot)
    changes: dict[str, Any] = {"completed_at": tx.now}
    minutes = None
    if task.started_at is not None:
        minutes = (tx.now - task.started_at) / _MINUTE_MS if tx.now > task.started_at else 0.0
        changes["actual_minutes"] = round(minutes)
    completed = move(tx, operation, task, name, TaskStatus.COMPLETED, changes)
    for waiting in store.blocked_by(tx, task.id):
        if waiting.status is TaskStatus.BLOCKED:
            move(tx, operation, waiting, "unblock", TaskStatus.PENDING)
    figures = [(MetricType.QA_ITERATIONS, float(task.qa_iterations))]
    if minutes is not None:
        figures.append((MetricType.TASK_DURATION, minutes))
    for type_, value in figures if task.assigned_agent is not None or minutes is not None else ():
        metrics.add(
            tx,
            operation,
            project_id=task.project_id,
            type=type_,
            value=value,
            agent_id=task.assigned_agent,
            task_id=task.id,
        )
    if task.assigned_agent is not None:
        agents.finished(tx, operation, task.assigned_agent, task.id, completed=True, failed=False)
    end_lease(tx, operation, task, f"task {task.number} was completed")
    return completed


def _check_notes(tx: Transaction, task: Task, cannot: str) -> None:
    if task.type is not TaskType.TDD:
        return
    red, green = store.has_red_and_green(tx, task.id)
    if red and green:
        return
    kind = "green" if red else "red"
    after = ", after the red one" if red else ""
    line = command_line("nexusctl", "task", "note", reference_of(task), "TEXT", "--kind", kind)
    raise TaskNotesNeeded(
        f"{cannot}: it is of type tdd and has no note of kind {kind}{after}",
        hint=f"Add what the {'passing' if red else 'failing'} test printed: {line}",
        details={"id": task.id, "kind": kind},
    )


def reject(tx: Transaction, operation: Operation, task: Task, reason: str | None) -> Task:
    """Reject a task: its work goes on, a person decides, or a checkpoint fails."""
    if task.type is TaskType.CHECKPOINT:
        changes: dict[str, Any] = {"reason": reason, "reason_code": TaskReason.REJECTED}
        return move(tx, operation, task, "reject", TaskStatus.FAILED, changes)
    count = task.qa_iterations + 1
    if count >= task.max_iterations:
        why = f"it was rejected {count} times" + ("" if reason is None else f", at last: {reason}")
        changes = {"qa_iterations": count, "reason": why, "reason_code": TaskReason.ESCALATED, "assigned_agent": None}
        blocked = move(tx, operation, task, "reject", TaskStatus.BLOCKED, changes)
        record(tx, operation, "task.escalated", store.subject_of(task), {"qa_iterations": count})
        _leave(tx, operation, task, failed=False)
        return blocked
    if leases.live_lease(tx, KIND, task.id) is not None:
        return move(tx, operation, task, "reject", TaskStatus.IN_PROGRESS, {"qa_iterations": count, "reason": reason})
    changes = {"qa_iterations": count, "assigned_agent": None, "reason": reason}
    return move(tx, operation, task, "reject", TaskStatus.QUEUED, changes)


def stop(
    tx: Transaction, operation: Operation, task: Task, name: str, to: TaskStatus, changes: Mapping[str, Any]
) -> Task:
    """End the work on a task without its completion: it fails, or is blocked."""
    failed = to is TaskStatus.FAILED
    kept = {} if failed else {"assigned_agent": None}
    stopped = move(tx, operation, task, name, to, {**changes, **kept})
    _leave(tx, operation, task, failed=failed)
    return stopped


def _leave(tx: Transaction, operation: Operation, task: Task, *, failed: bool) -> None:
    if task.assigned_agent is not None:
        agents.finished(tx, operation, task.assigned_agent, task.id, completed=False, failed=failed)
    end_lease(tx, operation, task, None)


def reset(tx: Transaction, operation: Operation, task: Task) -> Task:
    """Make a task as if it had not been begun."""
    changes = {
        "assigned_agent": None,
        "worktree_path": None,
        "branch_name": None,
        "qa_iterations": 0,
        "actual_minutes": None,
        "claimed_at": None,
        "started_at": None,
        "completed_at": None,
    }
    return move(tx, operation, task, "reset", TaskStatus.PENDING, {**_NO_REASON, **changes})


def end_lease(tx: Transaction, operation: Operation, task: Task, reason: str | None) -> None:
    """Release the lease of a task, if it has a live one."""
    lease = leases.live_lease(tx, KIND, task.id)
    if lease is not None:
        leases.end(tx, operation, lease, LeaseState.RELEASED, reason)


def _lease_ended(tx: Transaction, operation: Operation, lease: Lease) -> None:
    """Where the task of a lease that ended is still being worked on, it is pending again."""
    task = TASKS.by_id(tx, lease.resource_id)
    if task is None or task.assigned_agent != lease.holder:
        return
    if task.status is TaskStatus.IN_PROGRESS:
        move(tx, operation, task, "release", TaskStatus.PENDING, {"assigned_agent": None})
    if task.status in _AT_WORK:
        agents.finished(tx, operation, lease.holder, task.id, completed=False, failed=False)


def _left(reader: Reader, lease: Lease) -> dict[str, Any]:
    """What the event of the end of a lease says of where the work on its task was left."""
    task = TASKS.by_id(reader, lease.resource_id)
    return {} if task is None else recovery.told(reader, task)


leases.resource(KIND, _lease_ended, _left)


def not_ready(reader: Reader, task: Task, cannot: str) -> TaskNotReady:
    """The error for a task that waits for others, or for its project; ``cannot`` begins the sentence."""
    waits = [named for _id, named in dependencies.open_of(reader, task.id)]
    numbers = [str(each.number) if each.project_id == task.project_id else f"{each.project}/{each.number}"
               for each in waits if each is not None]  # fmt: skip
    if not waits:
        status = store.project_status(reader, task.project_id)
        why = f'project "{task.project}" is {status}'
    elif not numbers:
        why = "a task that it depends on was deleted"
    else:
        more = " and others" if len(waits) > _SHOWN else ""
        why = f"it waits for {'task' if len(waits) == 1 else 'tasks'} {', '.join(numbers[:_SHOWN])}{more}"
    return TaskNotReady(
        f"{cannot}: {why}",
        hint=f"See what it waits for: {command_line('nexusctl', 'task', 'why', reference_of(task))}",
        details={"id": task.id, "open": numbers[:100]},
    )
