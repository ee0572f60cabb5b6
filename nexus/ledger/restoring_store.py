"""The SQL of what a restore of a project's checkpoint means for the ledger, beside the rows themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from nexus.journal.operation import Operation
from nexus.ledger.agents import store as agents
from nexus.ledger.features.store import FEATURES
from nexus.ledger.leases.store import LEASES, end
from nexus.ledger.states import LeaseState
from nexus.ledger.tasks.records import Task
from nexus.ledger.tasks.store import TASKS
from nexus.store import Reader, Transaction

__all__ = [
    "blocked_elsewhere",
    "blocking_elsewhere",
    "count_completed_anew",
    "count_open_anew",
    "dependents_elsewhere",
    "release_agents",
    "revoke_leases",
    "statuses",
    "write_dependencies",
    "write_links",
]

_AT_ONCE = 500
_OPEN_OF = (
    "SELECT waiting.id, waiting.open_dependencies, count(each.depends_on_id), "
    "sum(CASE WHEN other.status = 'completed' THEN 1 ELSE 0 END) "
    "FROM tasks AS waiting LEFT JOIN task_dependency AS each ON each.task_id = waiting.id "
    "LEFT JOIN tasks AS other ON other.id = each.depends_on_id WHERE {where} "
    "GROUP BY waiting.id, waiting.open_dependencies"
)


def _parts(ids: Iterable[str]) -> Iterable[tuple[list[str], str]]:
    """Ids in parts, each with its placeholders."""
    every = list(ids)
    for start in range(0, len(every), _AT_ONCE):
        part = every[start : start + _AT_ONCE]
        yield part, ", ".join("?" * len(part))


def statuses(reader: Reader, ids: Collection[str]) -> dict[str, str]:
    """The statuses of those of the tasks that are there."""
    found: dict[str, str] = {}
    for part, marks in _parts(sorted(ids)):
        found |= dict(reader.all(f"SELECT id, status FROM tasks WHERE id IN ({marks})", part))
    return found


def revoke_leases(tx: Transaction, operation: Operation, project_id: str, why: str) -> int:
    """Revoke every live lease on a task of a project; returns how many there were."""
    sql = f"{LEASES.select} WHERE lease.state = 'live' AND lease.resource_kind = 'task' AND lease.project_id = ?"
    held = [LEASES.decode(row) for row in tx.all(sql, (project_id,))]
    for lease in held:
        end(tx, operation, lease, LeaseState.REVOKED, why)
    return len(held)


def release_agents(tx: Transaction, operation: Operation, project_id: str) -> None:
    """Note that no agent has a task of a project, none of which has a live lease."""
    sql = (
        "SELECT agents.id, tasks.id FROM agents JOIN tasks ON tasks.id = agents.current_task_id "
        "WHERE tasks.project_id = ?"
    )
    for agent_id, task_id in tx.all(sql, (project_id,)):
        agents.finished(tx, operation, agent_id, task_id, completed=False, failed=False)


def dependents_elsewhere(reader: Reader, project_id: str, ids: Collection[str]) -> list[tuple[str, str]]:
    """The tasks of other projects that depend on some of these: the id of each, and of what it depends on."""
    found: list[tuple[str, str]] = []
    for part, marks in _parts(ids):
        found += reader.all(
            "SELECT each.task_id, each.depends_on_id FROM task_dependency AS each "
            f"JOIN tasks ON tasks.id = each.task_id WHERE each.depends_on_id IN ({marks}) AND tasks.project_id <> ?",
            (*part, project_id),
        )
    return found


def blocked_elsewhere(reader: Reader, project_id: str) -> list[Task]:
    """The blocked tasks of other projects that wait for a completed task of this one."""
    rows = reader.all(
        f"{TASKS.select} JOIN tasks AS other ON other.id = tasks.blocked_by "
        "WHERE other.project_id = ? AND other.status = 'completed' AND tasks.project_id <> ? "
        "AND tasks.status = 'blocked' ORDER BY tasks.id",
        (project_id, project_id),
    )
    return [TASKS.decode(row) for row in rows]


def blocking_elsewhere(reader: Reader, project_id: str, ids: Collection[str]) -> list[str]:
    """Those of the tasks by which tasks of other projects are blocked."""
    found: list[str] = []
    for part, marks in _parts(ids):
        found += [
            row[0]
            for row in reader.all(
                f"SELECT blocked_by FROM tasks WHERE blocked_by IN ({marks}) AND project_id <> ? GROUP BY blocked_by",
                (*part, project_id),
            )
        ]
    return found


def write_dependencies(
    tx: Transaction, forgotten: Iterable[str], dependencies: Iterable[tuple[str, Sequence[str]]]
) -> None:
    """Write the rows of the column ``depends_on`` of some tasks anew, and delete those of others."""
    given = list(dependencies)
    keys = [(id_,) for id_ in (*forgotten, *(id_ for id_, _on in given))]
    tx.execute_many("DELETE FROM task_dependency WHERE task_id = ?", keys)
    rows = [(id_, on) for id_, every in given for on in every]
    tx.execute_many("INSERT INTO task_dependency (task_id, depends_on_id) VALUES (?, ?)", rows)


def write_links(tx: Transaction, forgotten: Iterable[str], links: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Write the rows of the column ``linked_features`` of some requirements anew, and delete those of others."""
    given = list(links)
    keys = [(id_,) for id_ in (*forgotten, *(id_ for id_, _features in given))]
    tx.execute_many("DELETE FROM requirement_feature WHERE requirement_id = ?", keys)
    rows = [(id_, feature) for id_, every in given for feature in every]
    tx.execute_many("INSERT INTO requirement_feature (requirement_id, feature_id) VALUES (?, ?)", rows)


def count_open_anew(tx: Transaction, project_id: str) -> None:
    """Count the open dependencies of every task that is in a project, or depends on a task there."""
    elsewhere = (
        "waiting.id IN (SELECT above.task_id FROM task_dependency AS above JOIN tasks AS own "
        "ON own.id = above.depends_on_id WHERE own.project_id = ?) AND waiting.project_id <> ?"
    )
    changed = []
    for where, parameters in (("waiting.project_id = ?", (project_id,)), (elsewhere, (project_id, project_id))):
        for id_, noted, all_, completed in tx.all(_OPEN_OF.format(where=where), parameters):
            if noted != all_ - completed:
                changed.append((all_ - completed, id_))
    TASKS.rows.update_many(tx, ("open_dependencies",), changed)


def count_completed_anew(tx: Transaction, operation: Operation, project_id: str) -> None:
    """Count the completed tasks of each feature of a project, where the number is another one."""
    rows = tx.all(
        "SELECT features.id, features.completed_tasks, count(tasks.id) FROM features "
        "LEFT JOIN tasks ON tasks.feature_id = features.id AND tasks.status = 'completed' "
        "WHERE features.project_id = ? GROUP BY features.id, features.completed_tasks",
        (project_id,),
    )
    for id_, noted, count in rows:
        if noted != count:
            FEATURES.write(tx, operation, id_, {"completed_tasks": count})
