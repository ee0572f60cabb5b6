"""The handlers of the commands on continue points, and what the ledger is told of them."""

from __future__ import annotations

from typing import Any

from nexus.capability import Context, handles
from nexus.journal.operation import Operation
from nexus.ledger import recovery
from nexus.ledger.agents.store import AGENTS
from nexus.ledger.leases.store import LEASES, guard
from nexus.ledger.recovery import Recoverable
from nexus.ledger.tasks.records import Task
from nexus.ledger.tasks.store import TASKS
from nexus.memory.continue_points.commands import (
    CreateContinuePoint,
    DeleteContinuePoint,
    GetContinuePoint,
    GetResumePoint,
    ListContinuePoints,
)
from nexus.memory.continue_points.errors import ContinuePointInvalid
from nexus.memory.continue_points.records import ContinuePoint, ResumePoint
from nexus.memory.continue_points.store import (
    CONTINUE_POINTS,
    delete,
    delete_of_task,
    drop_old,
    newest,
    with_names,
)
from nexus.records.contents import Contents, Held, contents, numbered
from nexus.records.handlers import lists
from nexus.records.links import Link, link
from nexus.store import Reader, Transaction

__all__ = [
    "create_continue_point",
    "delete_continue_point",
    "get_continue_point",
    "get_resume_point",
    "list_continue_points",
]

KEPT = 50
"""Continue points of a task."""
_TASK = "task"
_GIVEN = ("last_action", "file", "line", "function_name", "next_steps")


def _delete_all(tx: Transaction, operation: Operation, _project_id: str, held: list[Held]) -> None:
    for each in held:
        point = CONTINUE_POINTS.by_id(tx, each.id)
        if point is not None:  # those of tasks that are deleted before have gone with them
            delete(tx, operation, point)


def _newest(reader: Reader, task: Recoverable) -> dict[str, Any] | None:
    point = newest(reader, task.project_id, task.id)
    if point is None:
        return None
    names = ("id", "number", *_GIVEN, "saved_at")
    return {name: value for name in names if (value := getattr(point, name)) not in (None, [])}


contents(Contents("continue_point", "continue point", numbered(CONTINUE_POINTS), _delete_all))
link(Link(_TASK, delete_of_task))
recovery.register("continue_point", _newest)

list_continue_points = lists(
    CONTINUE_POINTS,
    ListContinuePoints,
    "continue_points",
    {"task_id": "task", "agent_id": "agent"},
    complete=with_names,
)


def _task(reader: Reader, ctx: Context, reference: str | None, cannot: str) -> Task:
    """The task that a request names, else that of its lease.

    Raises:
        TaskNotFound, TaskAmbiguous: the reference names no single one.
        ContinuePointInvalid: it names none, and has no lease on one.
    """
    scope = ctx.scope(reader)
    if reference is not None:
        return TASKS.resolve(reader, reference, scope)
    lease = None if ctx.request.lease is None else LEASES.by_id(reader, ctx.request.lease.id)
    if lease is None or lease.resource_kind != _TASK:
        scope.home(cannot)
        raise ContinuePointInvalid(
            f"{cannot}: no task is named, and the request is made under no lease on one",
            hint="Name the task, or give the lease of its claim: in NEXUS_LEASE, or by --lease.",
            details={"path": "task"},
        )
    return TASKS.get(reader, lease.resource_id)


def _shown(reader: Reader, point: ContinuePoint) -> ContinuePoint:
    return with_names(reader, [point])[0]


@handles(CreateContinuePoint, size_bytes=lambda _command: 4096)
def create_continue_point(tx: Transaction, ctx: Context, command: CreateContinuePoint) -> ContinuePoint:
    task = _task(tx, ctx, command.task, "cannot save where the work is")
    cannot = f"cannot save where the work on task {task.number} is"
    fields: dict[str, Any] = {name: getattr(command, name) for name in (*_GIVEN, "id")}
    fields |= {"project_id": task.project_id, "task_id": task.id}
    present = None if command.id is None else CONTINUE_POINTS.by_id(tx, command.id)
    if present is not None:
        return _repeated(tx, present, fields, cannot)
    lease = guard(tx, ctx, _TASK, task.id, cannot)
    fields |= {
        "agent_id": task.assigned_agent if lease is None else lease.holder,
        "iteration_count": task.qa_iterations,
        "saved_at": tx.now,
    }
    point = CONTINUE_POINTS.insert(tx, ctx.operation, fields)
    drop_old(tx, ctx.operation, task.project_id, task.id, KEPT)
    return _shown(tx, point)


def _repeated(tx: Transaction, present: ContinuePoint, fields: dict[str, Any], cannot: str) -> ContinuePoint:
    """The continue point that the same request made before.

    Raises:
        ContinuePointIdTaken: it differs from the request.
    """
    if all((getattr(present, name) or None) == (value or None) for name, value in fields.items()):
        return _shown(tx, present)
    raise CONTINUE_POINTS.errors.id_taken(
        f"{cannot}: continue point {present.number} has the id {present.id} and differs from this request",
        hint="To repeat a request, give the fields that it has; for another one choose another id.",
        details={"id": present.id, "name": present.name},
    )


@handles(GetContinuePoint)
def get_continue_point(ctx: Context, command: GetContinuePoint) -> ContinuePoint:
    return ctx.store.read(
        lambda reader: _shown(reader, CONTINUE_POINTS.resolve(reader, command.continue_point, ctx.scope(reader)))
    )


@handles(DeleteContinuePoint)
def delete_continue_point(tx: Transaction, ctx: Context, command: DeleteContinuePoint) -> ContinuePoint:
    point = _shown(tx, CONTINUE_POINTS.resolve(tx, command.continue_point, ctx.scope(tx)))
    cannot = f"cannot delete continue point {point.number}"
    CONTINUE_POINTS.expect(point, cannot, command.if_revision, command.if_state_revision)
    guard(tx, ctx, _TASK, point.task_id, cannot)
    delete(tx, ctx.operation, point)
    return point


@handles(GetResumePoint)
def get_resume_point(ctx: Context, command: GetResumePoint) -> ResumePoint:
    return ctx.store.read(lambda reader: _resume(reader, ctx, command), snapshot=True)


def _resume(reader: Reader, ctx: Context, command: GetResumePoint) -> ResumePoint:
    task = _task(reader, ctx, command.task, "cannot tell where the work is")
    agent = None if task.assigned_agent is None else AGENTS.by_id(reader, task.assigned_agent)
    point = newest(reader, task.project_id, task.id)
    left = recovery.recovery_of(reader, task)
    return ResumePoint(
        task_id=task.id,
        number=task.number,
        project_id=task.project_id,
        project=task.project,
        name=task.name,
        status=task.status,
        agent=None if agent is None else agent.name,
        worktree_path=task.worktree_path,
        branch_name=task.branch_name,
        continue_point=None if point is None else _shown(reader, point),
        checkpoint=None if left is None else left.checkpoint,
    )
