"""What checkpoints have of the ledger, and what a restore means beside the rows: leases, counts, other projects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from nexus.journal.operation import Operation
from nexus.ledger import restoring_store as store
from nexus.ledger.features.store import FEATURES, SUB_FEATURES
from nexus.ledger.leases.peers import require_person
from nexus.ledger.requirements.store import REQUIREMENTS
from nexus.ledger.sessions.store import SESSIONS
from nexus.ledger.states import TaskReason, TaskStatus
from nexus.ledger.tasks import dependencies_store as dependencies
from nexus.ledger.tasks.moves import move
from nexus.ledger.tasks.store import COMMENT_ROWS, NOTE_ROWS, TASKS, blocked_by
from nexus.records.checkpointed import Changes, Part, Rowset, Rules, checkpoint_rules, checkpointed
from nexus.records.errors import RestoreRefused
from nexus.store import Reader, Transaction

__all__ = ["PARTS"]

_TEXTS = frozenset({"name", "description"})
PARTS = (
    Part("feature", FEATURES.rows, FEATURES, deleted=("name",), texts=_TEXTS, order=0),
    Part("sub_feature", SUB_FEATURES.rows, SUB_FEATURES, deleted=("name", "feature_id"), order=1),
    Part(
        "task",
        TASKS.rows,
        TASKS,
        frozenset({"open_dependencies"}),
        deleted=("name", "status"),
        texts=_TEXTS,
        order=2,
    ),
    Part("task_note", NOTE_ROWS, parent=("task_id", "task"), order=3),
    Part("task_comment", COMMENT_ROWS, parent=("task_id", "task"), order=4),
    Part(
        "requirement",
        REQUIREMENTS.rows,
        REQUIREMENTS,
        deleted=("category",),
        texts=frozenset({"description", "source", "user_stories", "acceptance_criteria"}),
        order=5,
    ),
    Part("session", SESSIONS.rows, SESSIONS, deleted=("type", "title", "status"), order=6),
)
"""What a checkpoint has of the ledger: no agents, leases or metrics, which are of the time and not the plan."""

_SHOWN = 5
_ids = msgspec.json.Decoder(list[str]).decode


class _Outside(NamedTuple):
    """The tasks of other projects that tasks to restore name, and the statuses of those that are there."""

    named: frozenset[str]
    statuses: dict[str, str]


def _outside(reader: Reader, wanted: Mapping[str, Rowset]) -> _Outside:
    tasks = wanted["task"]
    on, by = tasks.places["depends_on"], tasks.places["blocked_by"]
    named = {row[by] for row in tasks.rows.values() if row[by] is not None}
    named.update(id_ for row in tasks.rows.values() if row[on] != "[]" for id_ in _ids(row[on]))
    elsewhere = frozenset(named - tasks.rows.keys())
    return _Outside(elsewhere, store.statuses(reader, elsewhere))


def _is_same(reader: Reader, outside: _Outside) -> bool:
    return store.statuses(reader, outside.named) == outside.statuses


def _adjust(wanted: Mapping[str, Rowset], outside: _Outside) -> None:
    """No task is in progress without a live lease, or blocked by one that is over."""
    tasks = wanted["task"]
    status, by = tasks.places["status"], tasks.places["blocked_by"]
    for id_, row in list(tasks.rows.items()):
        if row[status] == TaskStatus.IN_PROGRESS.value:
            tasks.put(id_, {"status": TaskStatus.PENDING.value, "assigned_agent": None})
        elif row[by] is None or row[by] in tasks.rows:
            continue
        elif row[by] not in outside.statuses:
            gone = "the task of another project that blocked it was deleted"
            tasks.put(id_, {"blocked_by": None, "reason": gone, "reason_code": TaskReason.GIVEN.value})
        elif outside.statuses[row[by]] == TaskStatus.COMPLETED.value:
            free = {"status": TaskStatus.PENDING.value, "blocked_by": None, "reason": None, "reason_code": None}
            tasks.put(id_, free)


def _before(tx: Transaction, operation: Operation, project_id: str, why: str) -> int:
    ended = store.revoke_leases(tx, operation, project_id, why)
    if ended:
        require_person(operation.caller.pid, "cannot restore the checkpoint")
    store.release_agents(tx, operation, project_id)
    return ended


def _refuse(tx: Transaction, cannot: str, changes: Mapping[str, Changes], now: Mapping[str, Rowset]) -> None:
    """Tasks of other projects would wait for a deleted one forever."""
    removed = changes["task"].removed
    if not removed:
        return
    tasks = now["task"]
    project_id = tasks.value(removed[0], "project_id")
    waiting = {
        task_id: on
        for task_id, on in store.dependents_elsewhere(tx, project_id, removed)
        if tasks.value(on, "status") != TaskStatus.COMPLETED.value
    }
    if not waiting:
        return
    shown = []
    for task_id, on in list(waiting.items())[:_SHOWN]:
        other = dependencies.named(tx, task_id)
        assert other is not None
        shown.append(f"{other.project}/{other.number} on {tasks.value(on, 'number')}")
    more = f" and {len(waiting) - _SHOWN} more" if len(waiting) > _SHOWN else ""
    raise RestoreRefused(
        f"{cannot}: tasks of other projects depend on tasks that it would delete: {', '.join(shown)}{more}",
        hint="Complete these tasks, or take the dependencies away first.",
        details={"ids": list(waiting)[:_SHOWN]},
    )


def _deleting(
    tx: Transaction, operation: Operation, project_id: str, changes: Mapping[str, Changes], now: Mapping[str, Rowset]
) -> None:
    """Tasks of other projects do not refer to what goes, as where it is deleted by hand."""
    removed = changes["task"].removed
    for task_id, _on in store.dependents_elsewhere(tx, project_id, removed):
        task = TASKS.get(tx, task_id)
        left = [id_ for id_ in task.depends_on if id_ not in set(removed)]
        TASKS.update(tx, operation, task, {"depends_on": left})
        dependencies.write_rows(tx, task_id, left)
    for id_ in store.blocking_elsewhere(tx, project_id, removed):
        for waiting in blocked_by(tx, id_):
            if waiting.project_id != project_id:
                reason = f"task {now['task'].value(id_, 'number')}, which blocked it, was deleted"
                values = {"blocked_by": None, "reason": reason, "reason_code": TaskReason.GIVEN}
                TASKS.update(tx, operation, waiting, values)


def _listed(changes: Changes, wanted: Rowset, column: str) -> Iterable[tuple[str, list[str]]]:
    """The ids in a column that is a list, of the rows where it has changed."""
    place = wanted.places[column]
    for id_ in (*changes.added, *(id_ for id_, columns in changes.changed.items() if column in columns)):
        yield id_, _ids(wanted.rows[id_][place])


def _after(
    tx: Transaction, operation: Operation, project_id: str, changes: Mapping[str, Changes], wanted: Mapping[str, Rowset]
) -> None:
    tasks, requirements = changes["task"], changes["requirement"]
    store.write_dependencies(tx, tasks.removed, _listed(tasks, wanted["task"], "depends_on"))
    store.write_links(tx, requirements.removed, _listed(requirements, wanted["requirement"], "linked_features"))
    _refuse_circles(tx, wanted["task"])
    if any(tasks):
        store.count_open_anew(tx, project_id)
        store.count_completed_anew(tx, operation, project_id)
    for waiting in store.blocked_elsewhere(tx, project_id):
        move(tx, operation, waiting, "unblock", TaskStatus.PENDING)


def _refuse_circles(tx: Transaction, tasks: Rowset) -> None:
    """A circle leads through another project: in this one there was none."""
    on = tasks.places["depends_on"]
    for id_, row in tasks.rows.items():
        if row[on] == "[]" or tasks.rows.keys() >= set(_ids(row[on])):
            continue
        if dependencies.cycle_from(tx, id_) is not None:
            number: Any = tasks.value(id_, "number")
            raise RestoreRefused(
                f"cannot restore the checkpoint: task {number} would wait for itself through a task of another project",
                hint="Take a dependency of that task on one of this project away first.",
                details={"ids": [id_]},
            )


for _part in PARTS:
    checkpointed(_part)
checkpoint_rules(
    Rules(
        outside=_outside,
        is_same=_is_same,
        adjust=_adjust,
        before=_before,
        refuse=_refuse,
        deleting=_deleting,
        after=_after,
    )
)
