"""All SQL of tasks that ``records.Table`` does not have; that of their dependencies is in ``dependencies_store``."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from nexus.journal.operation import Operation
from nexus.journal.rows import Rows, Subject
from nexus.ledger.features.store import count_completed
from nexus.ledger.leases import store as leases
from nexus.ledger.states import LeaseState, TaskReason, TaskSize, TaskStatus, TaskType
from nexus.ledger.tasks import dependencies_store as dependencies
from nexus.ledger.tasks.errors import (
    TaskAmbiguous,
    TaskChanged,
    TaskCursorInvalid,
    TaskIdTaken,
    TaskNotFound,
)
from nexus.ledger.tasks.records import Task, TaskComment, TaskNote
from nexus.records.contents import Contents, Held, contents, numbered
from nexus.records.errors import RecordErrors, RecordNameTaken
from nexus.records.links import unlinked
from nexus.records.table import Table
from nexus.store import Reader, Transaction

__all__ = [
    "COMMENT_ROWS",
    "NOTE_ROWS",
    "TASKS",
    "add_comment",
    "add_note",
    "best_ready",
    "blocked_by",
    "comments_of",
    "counts",
    "delete_tasks",
    "has_red_and_green",
    "is_ready",
    "live_claims",
    "notes_of",
    "put_comment",
    "put_note",
    "ready_page",
    "project_status",
    "subject_of",
    "tasks_of",
]

TASKS = Table(
    Task,
    "tasks",
    kind="task",
    word="task",
    look="task inspect",
    errors=RecordErrors(
        TaskNotFound, TaskAmbiguous, RecordNameTaken, TaskIdTaken, TaskChanged, TaskCursorInvalid
    ),
    observed=(
        "status", "assigned_agent", "worktree_path", "branch_name", "blocked_by", "reason", "reason_code",
        "qa_iterations", "actual_minutes", "claimed_at", "started_at", "completed_at",
    ),
    volatile=("open_dependencies",),
    order=("number", "id"),
    descending=False,
    indexed=("status", "feature_id", "assigned_agent"),
    told=("name", "type"),
    state="status",
    computed=("notes", "comments", "lease", "names"),
    searchable=True,
)  # fmt: skip
NOTE_ROWS = Rows("task_note", ("id", "task_id", "kind", "text", "at", "agent_id", "actor"), kind="task")
COMMENT_ROWS = Rows("task_comment", ("id", "task_id", "text", "at", "agent_id", "actor"), kind="task")

_SHOWN = 200
_FROM_READY = TASKS.select.replace(" FROM tasks", " FROM ready_tasks AS tasks")
"""The query for what is ready, by the one definition of it."""


# Reading


def tasks_of(
    reader: Reader, feature_id: str | None = None, sub_feature_id: str | None = None, limit: int = -1
) -> list[tuple[str, int, str]]:
    """The ids, numbers and names of the tasks of a feature or a sub-feature, by number."""
    column, value = ("feature_id", feature_id) if sub_feature_id is None else ("sub_feature_id", sub_feature_id)
    sql = f"SELECT id, number, name FROM tasks WHERE {column} = ? ORDER BY number LIMIT ?"
    return reader.all(sql, (value, limit))


def ready_page(reader: Reader, project_id: str | None, after: tuple[int, int, str] | None, count: int) -> list[Task]:
    """At most ``count`` ready tasks after a priority, a number and an id, the best first."""
    conditions: list[str] = []
    parameters: list[Any] = []
    if project_id is not None:
        conditions.append("tasks.project_id = ?")
        parameters.append(project_id)
    if after is not None:
        conditions.append("(tasks.priority, tasks.number, tasks.id) > (?, ?, ?)")
        parameters += after
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    order = "tasks.priority, tasks.number, tasks.id"
    rows = reader.all(f"{_FROM_READY}{where} ORDER BY {order} LIMIT ?", (*parameters, count))
    return [TASKS.decode(row) for row in rows]


def best_ready(
    reader: Reader,
    project_id: str,
    *,
    feature_id: str | None,
    tag: str | None,
    type: TaskType | None,
    size: TaskSize | None,
) -> Task | None:
    """The ready task of a project with the best priority, then the lowest number, that an agent may claim."""
    conditions = ["tasks.project_id = ?", "tasks.type <> 'checkpoint'"]
    parameters: list[Any] = [project_id]
    for column, value in (("feature_id", feature_id), ("type", type), ("size", size)):
        if value is not None:
            conditions.append(f"tasks.{column} = ?")
            parameters.append(TASKS.encode(column, value))
    if tag is not None:
        conditions.append("EXISTS (SELECT 1 FROM tag WHERE kind = 'task' AND tag = ? AND record_id = tasks.id)")
        parameters.append(tag)
    where = " AND ".join(conditions)
    row = reader.one(f"{_FROM_READY} WHERE {where} ORDER BY tasks.priority, tasks.number LIMIT 1", parameters)
    return None if row is None else TASKS.decode(row)


def is_ready(reader: Reader, task_id: str) -> bool:
    """Whether a task is ready."""
    return reader.one("SELECT 1 FROM ready_tasks WHERE id = ?", (task_id,)) is not None


def counts(reader: Reader, project_id: str | None, feature_id: str | None) -> tuple[dict[str, int], int]:
    """The number of tasks in each status that has some, and of those that are ready."""
    wanted = {"project_id": project_id, "feature_id": feature_id}
    given = {column: value for column, value in wanted.items() if value is not None}
    where = f" WHERE {' AND '.join(f'{column} = ?' for column in given)}" if given else ""
    values = list(given.values())
    by_status: dict[str, int] = dict(
        reader.all(f"SELECT status, count(*) FROM tasks{where} GROUP BY status ORDER BY status", values)
    )
    # In groups, so that the index of what is ready is read and not every task that waits.
    grouped = reader.all(f"SELECT count(*) FROM ready_tasks{where} GROUP BY priority", values)
    return by_status, sum(count for (count,) in grouped)


def live_claims(reader: Reader, project_id: str) -> int:
    """How many tasks of a project have a live lease."""
    row = reader.one(
        "SELECT count(*) FROM lease WHERE state = 'live' AND resource_kind = 'task' AND project_id = ?", (project_id,)
    )
    assert row is not None
    count: int = row[0]
    return count


def project_status(reader: Reader, project_id: str) -> str:
    """The status of a project that exists."""
    row = reader.one("SELECT status FROM projects WHERE id = ?", (project_id,))
    assert row is not None
    status: str = row[0]
    return status


def blocked_by(reader: Reader, task_id: str) -> list[Task]:
    """The tasks that are blocked until this one is completed."""
    rows = reader.all(f"{TASKS.select} WHERE tasks.blocked_by = ? ORDER BY tasks.id", (task_id,))
    return [TASKS.decode(row) for row in rows]


def notes_of(reader: Reader, task_id: str) -> list[TaskNote]:
    """The last notes of a task, in their order."""
    sql = (
        "SELECT id, kind, text, at, agent_id, actor FROM task_note WHERE task_id = ? ORDER BY at DESC, id DESC LIMIT ?"
    )
    return [
        TaskNote(id=id_, kind=kind, text=text, at=at, agent_id=agent_id, actor=actor)
        for id_, kind, text, at, agent_id, actor in reversed(reader.all(sql, (task_id, _SHOWN)))
    ]


def comments_of(reader: Reader, task_id: str) -> list[TaskComment]:
    """The last comments on a task, in their order."""
    sql = "SELECT id, text, at, agent_id, actor FROM task_comment WHERE task_id = ? ORDER BY at DESC, id DESC LIMIT ?"
    return [
        TaskComment(id=id_, text=text, at=at, agent_id=agent_id, actor=actor)
        for id_, text, at, agent_id, actor in reversed(reader.all(sql, (task_id, _SHOWN)))
    ]


def has_red_and_green(reader: Reader, task_id: str) -> tuple[bool, bool]:
    """Whether a task has a note of kind red, and whether one of kind green is later than some red one."""
    first = reader.one("SELECT at FROM task_note WHERE task_id = ? AND kind = 'red' ORDER BY at LIMIT 1", (task_id,))
    if first is None:
        return False, False
    green = reader.one(
        "SELECT 1 FROM task_note WHERE task_id = ? AND kind = 'green' AND at > ? LIMIT 1", (task_id, first[0])
    )
    return True, green is not None


# Writing


def add_note(tx: Transaction, operation: Operation, task: Task, *, kind: str, text: str, agent_id: str | None) -> None:
    """Add a note, later than those that the task has."""
    id_ = str(uuid.uuid4())
    row = {
        "id": id_,
        "task_id": task.id,
        "kind": kind,
        "text": text,
        "at": _next_at(tx, "task_note", task.id),
        "agent_id": agent_id,
        "actor": operation.caller.actor,
    }
    put_note(tx, operation, subject_of(task), row)


def add_comment(tx: Transaction, operation: Operation, task: Task, *, text: str, agent_id: str | None) -> None:
    """Add a comment, later than those that the task has."""
    id_ = str(uuid.uuid4())
    row = {
        "id": id_,
        "task_id": task.id,
        "text": text,
        "at": _next_at(tx, "task_comment", task.id),
        "agent_id": agent_id,
        "actor": operation.caller.actor,
    }
    put_comment(tx, operation, subject_of(task), row)


def put_note(tx: Transaction, operation: Operation, subject: Subject, row: Mapping[str, Any]) -> None:
    """Add a note with the id and the time that it has; ``subject`` is its task."""
    after = NOTE_ROWS.insert(tx, row)
    detail = {"note_kind": row["kind"], "note_id": row["id"]}
    NOTE_ROWS.record(tx, operation, subject, row["id"], None, after, [("task.noted", detail)])


def put_comment(tx: Transaction, operation: Operation, subject: Subject, row: Mapping[str, Any]) -> None:
    """Add a comment with the id and the time that it has; ``subject`` is its task."""
    after = COMMENT_ROWS.insert(tx, row)
    COMMENT_ROWS.record(tx, operation, subject, row["id"], None, after, [("task.commented", {"comment_id": row["id"]})])


def _next_at(tx: Transaction, table: str, task_id: str) -> int:
    """The time of a new row: the clock may not have moved since the last one, or have been set back."""
    row = tx.one(f"SELECT at FROM {table} WHERE task_id = ? ORDER BY at DESC LIMIT 1", (task_id,))
    return tx.now if row is None or row[0] < tx.now else int(row[0]) + 1


def subject_of(task: Task) -> Subject:
    """What the events of a task are about."""
    return Subject("task", task.id, str(task.number), task.project_id)


def delete_tasks(tx: Transaction, operation: Operation, ids: list[str]) -> None:
    """Delete tasks with what belongs to them.

    A task beside these that waits for one of them keeps waiting. It no longer depends on one that was completed.
    """
    deleted = set(ids)
    for id_ in ids:
        task = TASKS.by_id(tx, id_)
        if task is None:
            continue
        if task.status is TaskStatus.COMPLETED:
            for dependent in dependencies.dependents(tx, id_, all_=False):
                other = None if dependent in deleted else TASKS.by_id(tx, dependent)
                if other is not None:
                    left = [each for each in other.depends_on if each != id_]
                    TASKS.update(tx, operation, other, {"depends_on": left})
                    dependencies.write_rows(tx, other.id, left)
        _delete(tx, operation, task)


def _delete(tx: Transaction, operation: Operation, task: Task) -> None:
    lease = leases.live_lease(tx, "task", task.id)
    if lease is not None:
        leases.end(tx, operation, lease, LeaseState.REVOKED, f"task {task.number} was deleted")
        task = TASKS.get(tx, task.id)
    for waiting in blocked_by(tx, task.id):
        changes = {
            "blocked_by": None,
            "reason": f"task {task.number}, which blocked it, was deleted",
            "reason_code": TaskReason.GIVEN,
        }
        TASKS.update(tx, operation, waiting, changes)
    for rows in (NOTE_ROWS, COMMENT_ROWS):
        for (key,) in tx.all(f"SELECT id FROM {rows.name} WHERE task_id = ?", (task.id,)):
            rows.record(tx, operation, subject_of(task), key, rows.delete(tx, key), None)
    unlinked(tx, operation, "task", task.id)
    dependencies.forget(tx, task.id)
    if task.status is TaskStatus.COMPLETED and task.feature_id is not None:
        count_completed(tx, operation, task.feature_id, -1)
    TASKS.delete(tx, operation, task, ("name", "status"))


def _delete_held(tx: Transaction, operation: Operation, _project_id: str, held: list[Held]) -> None:
    delete_tasks(tx, operation, [each.id for each in held])


# Here, so that whatever imports this module to delete features is declared after it.
contents(Contents("task", "task", numbered(TASKS), _delete_held))
