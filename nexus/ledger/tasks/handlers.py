"""The handlers that create, show, change and delete tasks; those of their moves are in ``moves_handlers``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
from nexus_protocol import InvalidArgument
from nexus_protocol.errors import NotFound

from nexus.capability import Context, handles
from nexus.hints import command_line
from nexus.journal.rows import record
from nexus.ledger.agents.store import AGENTS, agent_named
from nexus.ledger.features.store import FEATURES, SUB_FEATURES, count_completed
from nexus.ledger.leases import store as leases
from nexus.ledger.leases.records import Lease
from nexus.ledger.names_store import names_of
from nexus.ledger.states import TaskStatus
from nexus.ledger.tasks import dependencies_store as dependencies
from nexus.ledger.tasks import store
from nexus.ledger.tasks.commands import (
    CLEARABLE,
    AddTaskComment,
    AddTaskNote,
    CountTasks,
    CreateTask,
    DeleteTask,
    GetTask,
    ListReadyTasks,
    ListTasks,
    UpdateTask,
)
from nexus.ledger.tasks.errors import TaskCycle, TaskInvalid, TaskNeeded
from nexus.ledger.tasks.moves import KIND
from nexus.ledger.tasks.records import Task, TaskCounts, TaskLease, TaskMade, TaskPage, TasksDeleted
from nexus.ledger.tasks.store import TASKS
from nexus.records.handlers import check_cleared, check_metadata, lists
from nexus.records.links import Target, linked, target
from nexus.records.pages import decode_cursor, encode_cursor, read_page
from nexus.records.project_settings import project_setting
from nexus.records.scope import Scope, handle, reference_of
from nexus.store import Reader, Transaction

__all__ = [
    "add_task_comment",
    "add_task_note",
    "count_tasks",
    "create_task",
    "delete_task",
    "get_task",
    "list_ready_tasks",
    "list_tasks",
    "update_task",
]

_PLAIN = (
    "name", "description", "kind", "size", "priority", "tags", "metadata", "max_iterations", "estimated_minutes",
)  # fmt: skip
_SHOWN = 20


def _task_ids(reader: Reader, reference: str, scope: Scope) -> dict[str, str]:
    return {KIND: TASKS.resolve(reader, reference, scope).id}


target(Target(KIND, _task_ids))

list_tasks = lists(TASKS, ListTasks, "tasks", {"feature_id": "feature", "assigned_agent": "agent"})


# What tasks refer to


def resolve_all(reader: Reader, scope: Scope, references: Sequence[str]) -> list[str]:
    """The ids of the tasks with these references, each once."""
    return list(dict.fromkeys(TASKS.resolve(reader, reference, scope).id for reference in references))


def _place(
    tx: Transaction, scope: Scope, project_id: str, feature: str | None, sub_feature: str | None, cannot: str
) -> dict[str, str]:
    """The ids of the feature and the sub-feature that are given; that of a sub-feature gives its feature as well.

    Raises:
        TaskInvalid: they are of another project, or the sub-feature is of another feature.
    """
    found: dict[str, str] = {}
    if feature is not None:
        of = FEATURES.resolve(tx, feature, scope)
        _check_project(of, project_id, "feature", cannot)
        found["feature_id"] = of.id
    if sub_feature is not None:
        part = SUB_FEATURES.resolve(tx, sub_feature, scope)
        _check_project(part, project_id, "sub_feature", cannot)
        if found.get("feature_id", part.feature_id) != part.feature_id:
            raise TaskInvalid(
                f"{cannot}: sub-feature {part.number} is of another feature",
                hint="Leave out the feature: the sub-feature tells it.",
                details={"path": "sub_feature_id"},
            )
        found |= {"feature_id": part.feature_id, "sub_feature_id": part.id}
    return found


def _check_project(record: Any, project_id: str, word: str, cannot: str) -> None:
    if record.project_id != project_id:
        raise TaskInvalid(
            f"{cannot}: {word.replace('_', '-')} {record.number} is in the project {record.project}",
            hint="Name one of the task's own project.",
            details={"path": f"{word}_id"},
        )


def refuse_cycle(tx: Transaction, task: Task, cannot: str) -> None:
    """Refuse rows of dependencies by which a task would depend on itself.

    Raises:
        TaskCycle: it would.
    """
    cycle = dependencies.cycle_from(tx, task.id)
    if cycle is None:
        return
    ends = cycle if len(cycle) <= 2 * _SHOWN else [*cycle[:_SHOWN], *cycle[-_SHOWN:]]
    names = [dependencies.named(tx, id_) for id_ in ends]
    shown = [str(each.number) if each.project_id == task.project_id else f"{each.project}/{each.number}"
             for each in names if each is not None]  # fmt: skip
    spelled = shown if len(ends) == len(cycle) else [*shown[:_SHOWN], "…", *shown[_SHOWN:]]
    raise TaskCycle(
        f"{cannot}: tasks would wait for each other: {' → '.join(spelled)}",
        hint=f"Look at what it waits for: {command_line('nexusctl', 'task', 'why', reference_of(task))}",
        details={"cycle": shown, "length": len(cycle) - 1},
    )


# Commands


@handles(CreateTask, size_bytes=lambda _command: 4096)
def create_task(tx: Transaction, ctx: Context, command: CreateTask) -> Task:
    cannot = f'cannot create task "{command.name}"'
    check_metadata(command, cannot)
    scope = ctx.scope(tx)
    project_id = scope.home(cannot)
    fields: dict[str, Any] = {name: getattr(command, name) for name in (*_PLAIN, "type", "id")}
    fields["project_id"] = project_id
    fields |= _place(tx, scope, project_id, command.feature_id, command.sub_feature_id, cannot)
    fields["depends_on"] = resolve_all(tx, scope, command.depends_on or ())
    present = None if command.id is None else TASKS.by_id(tx, command.id)
    if present is not None:
        return _repeated(present, fields, cannot)
    return insert_task(tx, ctx, fields)


def insert_task(tx: Transaction, ctx: Context, fields: dict[str, Any]) -> Task:
    """Insert a task with the rows of its ``depends_on``. No task depends on it yet, so that there is no cycle."""
    if fields.get("max_iterations") is None:
        fields["max_iterations"] = project_setting(tx, fields["project_id"], "qa_max_iterations")
    task = TASKS.insert(tx, ctx.operation, fields)
    if not task.depends_on:
        return task
    count = dependencies.write_rows(tx, task.id, task.depends_on)
    TASKS.rows.update(tx, task.id, {"open_dependencies": count})
    return msgspec.structs.replace(task, open_dependencies=count)


def _repeated(present: Task, fields: dict[str, Any], cannot: str) -> Task:
    """The task that the same request made before.

    Raises:
        TaskIdTaken: it differs from the request.
    """
    if fields["tags"]:
        fields["tags"] = list(dict.fromkeys(fields["tags"]))
    if all(value in (None, [], {}) or getattr(present, name) == value for name, value in fields.items()):
        return present
    raise TASKS.errors.id_taken(
        f"{cannot}: task {present.number} has the id {present.id} and differs from this request",
        hint="To repeat a request, give the fields that the task has now; for another one choose another id.",
        details={"id": present.id, "name": handle(present)},
    )


@handles(GetTask)
async def get_task(ctx: Context, command: GetTask) -> Task:
    return await ctx.store.fetch(lambda reader: whole(reader, TASKS.resolve(reader, command.task, ctx.scope(reader))))


def whole(reader: Reader, task: Task) -> Task:
    """A task with its notes, its comments and its live lease."""
    return msgspec.structs.replace(
        task,
        notes=store.notes_of(reader, task.id),
        comments=store.comments_of(reader, task.id),
        lease=lease_of(reader, task, leases.live_lease(reader, KIND, task.id)),
        names=names_of(
            reader,
            task.project_id,
            {
                "feature": [task.feature_id],
                "sub_feature": [task.sub_feature_id],
                "task": [*task.depends_on, task.blocked_by],
                "agent": [task.assigned_agent],
            },
        ),
    )


def lease_of(reader: Reader, task: Task, lease: Lease | None) -> TaskLease | None:
    """What a task tells of its lease."""
    if lease is None:
        return None
    agent = AGENTS.by_id(reader, lease.holder)
    now_ms = int(time.time() * 1000)
    age_ms = 0 if task.claimed_at is None or task.claimed_at > now_ms else now_ms - task.claimed_at
    return TaskLease(
        id=lease.id,
        epoch=lease.epoch,
        holder=lease.holder,
        agent=None if agent is None else agent.name,
        ttl_ms=lease.ttl_ms,
        age_ms=age_ms,
        overdue=age_ms > project_setting(reader, task.project_id, "max_task_minutes") * 60_000,
    )


@handles(UpdateTask, size_bytes=lambda _command: 4096)
def update_task(tx: Transaction, ctx: Context, command: UpdateTask) -> Task:
    scope = ctx.scope(tx)
    task = TASKS.resolve(tx, command.task, scope)
    cannot = f"cannot update task {task.number}"
    check_metadata(command, cannot)
    TASKS.expect(task, cannot, command.if_revision)
    held = {name: getattr(command, name) for name in ("worktree_path", "branch_name")}
    clear = set(command.clear or ())
    changes: dict[str, Any] = {name: value for name in _PLAIN if (value := getattr(command, name)) is not None} | {
        name: value for name, value in held.items() if value is not None
    }
    changes |= _place(tx, scope, task.project_id, command.feature_id, command.sub_feature_id, cannot)
    check_cleared(clear, CLEARABLE, changes, cannot, TaskInvalid)
    changes |= dict.fromkeys(clear)
    if changes.get("feature_id", task.feature_id) != task.feature_id:
        changes.setdefault("sub_feature_id", None)
    depends_on = _changed_dependencies(tx, scope, task, command)
    if not changes and depends_on is None:
        raise InvalidArgument(
            f"{cannot}: no field to change was given",
            hint=f"Give at least one of {', '.join(UpdateTask.__struct_fields__[1:-2])} and clear.",
            details={"path": ""},
        )
    if changes.keys() & held.keys():
        leases.guard(tx, ctx, KIND, task.id, cannot)
    if depends_on is not None and depends_on != task.depends_on:
        changes["depends_on"] = depends_on
        changes["open_dependencies"] = dependencies.write_rows(tx, task.id, depends_on)
        refuse_cycle(tx, task, cannot)
    if task.status is TaskStatus.COMPLETED and changes.get("feature_id", task.feature_id) != task.feature_id:
        for feature_id, by in ((task.feature_id, -1), (changes["feature_id"], 1)):
            if feature_id is not None:
                count_completed(tx, ctx.operation, feature_id, by)
    updated = TASKS.update(tx, ctx.operation, task, changes)
    _tell_holder(tx, ctx, task, [name for name in changes if getattr(updated, name) != getattr(task, name)])
    return updated


def _tell_holder(tx: Transaction, ctx: Context, task: Task, changed: Sequence[str]) -> None:
    """Record an event for the holder of a task's lease, where another client has changed the task."""
    lease = leases.live_lease(tx, KIND, task.id) if changed else None
    if lease is None or (ctx.request.lease is not None and ctx.request.lease.id == lease.id):
        return
    detail = {"lease": lease.id, "holder": lease.holder, "changed": sorted(changed)}
    record(tx, ctx.operation, "task.edited", store.subject_of(task), detail)


def _changed_dependencies(tx: Transaction, scope: Scope, task: Task, command: UpdateTask) -> list[str] | None:
    """The new ``depends_on``; None where the request does not name any."""
    if command.add_depends_on is None and command.remove_depends_on is None:
        return None
    removed = set()
    for reference in command.remove_depends_on or ():
        # The id of one that was deleted is found in the list alone.
        gone = reference.lower() in task.depends_on
        removed.add(reference.lower() if gone else TASKS.resolve(tx, reference, scope).id)
    kept = [id_ for id_ in task.depends_on if id_ not in removed]
    return list(dict.fromkeys([*kept, *resolve_all(tx, scope, command.add_depends_on or ())]))


@handles(DeleteTask, size_bytes=lambda _command: 4096)
def delete_task(tx: Transaction, ctx: Context, command: DeleteTask) -> TasksDeleted:
    task = TASKS.resolve(tx, command.task, ctx.scope(tx))
    cannot = f"cannot delete task {task.number}"
    TASKS.expect(task, cannot, command.if_revision, command.if_state_revision)
    ids = dependencies.dependents(tx, task.id, all_=command.cascade)
    others = [each for id_ in ids if (each := dependencies.named(tx, id_)) is not None]
    if others and not command.cascade:
        numbers = [str(each.number) for each in others[:_SHOWN]]
        more = " and others" if len(others) > _SHOWN else ""
        raise TaskNeeded(
            f"{cannot}: {'task' if len(others) == 1 else 'tasks'} {', '.join(numbers)}{more} "
            f"{'depends' if len(others) == 1 else 'depend'} on it",
            hint="Delete them too: " + command_line("nexusctl", "task", "delete", reference_of(task), "--cascade"),
            details={"id": task.id, "dependents": [{"id": each.id, "number": each.number} for each in others[:_SHOWN]]},
        )
    for id_ in (task.id, *(each.id for each in others)):
        leases.guard(tx, ctx, KIND, id_, cannot)
    store.delete_tasks(tx, ctx.operation, [*(each.id for each in others), task.id])
    return TasksDeleted(task, [TaskMade(each.id, each.number, each.name) for each in others])


@handles(ListReadyTasks)
async def list_ready_tasks(ctx: Context, command: ListReadyTasks) -> TaskPage:
    scope = await ctx.store.fetch(ctx.scope)
    if scope.is_nowhere:
        return TaskPage([])
    bound = ("ready", scope.project_id)
    after: tuple[int, int, str] | None = None
    if command.cursor is not None:
        hint = "Give that of this list, or list from the start."
        after = decode_cursor(command.cursor, bound, tuple[int, int, str], TASKS.errors.cursor_invalid, hint)

    async def read(after: tuple[int, int, str] | None, count: int) -> list[Task]:
        return await ctx.store.fetch(lambda reader: store.ready_page(reader, scope.project_id, after, count))

    def position(task: Task) -> tuple[int, int, str]:
        return task.priority, task.number, task.id

    tasks, last = await read_page(read, position, None, after, command.limit)
    return TaskPage(tasks, None if last is None else encode_cursor(bound, last))


@handles(CountTasks)
async def count_tasks(ctx: Context, command: CountTasks) -> TaskCounts:
    def count(reader: Reader) -> tuple[dict[str, int], int]:
        scope = ctx.scope(reader)
        if scope.is_nowhere:
            return {}, 0
        feature_id = None
        if command.feature_id is not None:
            try:
                feature_id = linked(reader, "feature", command.feature_id, scope)["feature"]
            except NotFound:
                return {}, 0
        return store.counts(reader, scope.project_id, feature_id)

    by_status, ready = await ctx.store.fetch(count)
    return TaskCounts(by_status, ready, sum(by_status.values()))


@handles(AddTaskNote, size_bytes=lambda _command: 4096)
def add_task_note(tx: Transaction, ctx: Context, command: AddTaskNote) -> Task:
    task = TASKS.resolve(tx, command.task, ctx.scope(tx))
    agent_id = None
    if command.agent is not None:
        agent_id = agent_named(tx, command.agent).id
        leases.guard(tx, ctx, KIND, task.id, f"cannot add a note to task {task.number}")
    store.add_note(tx, ctx.operation, task, kind=command.kind, text=command.text, agent_id=agent_id)
    _tell_holder(tx, ctx, task, ["notes"])
    return whole(tx, task)


@handles(AddTaskComment, size_bytes=lambda _command: 4096)
def add_task_comment(tx: Transaction, ctx: Context, command: AddTaskComment) -> Task:
    task = TASKS.resolve(tx, command.task, ctx.scope(tx))
    agent_id = None if command.agent is None else agent_named(tx, command.agent).id
    store.add_comment(tx, ctx.operation, task, text=command.text, agent_id=agent_id)
    _tell_holder(tx, ctx, task, ["comments"])
    return whole(tx, task)
