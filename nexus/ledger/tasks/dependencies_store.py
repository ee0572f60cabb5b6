"""The SQL of what tasks depend on: the rows of the column ``depends_on``, and the counts of those that are open."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from nexus.journal.rows import derived
from nexus.store import Reader, Transaction

__all__ = ["Named", "cycle_from", "dependents", "forget", "named", "open_counts_below", "open_of", "write_rows"]

derived("task_dependency", "the column depends_on of tasks")

# One that was deleted counts as open: its end makes no task ready.
_OPEN = (
    "(SELECT count(*) FROM task_dependency AS each LEFT JOIN tasks AS other ON other.id = each.depends_on_id "
    "WHERE each.task_id = {task} AND (other.id IS NULL OR other.status <> 'completed'))"
)
_REACHED = (
    "WITH RECURSIVE reached (id) AS (SELECT depends_on_id FROM task_dependency WHERE task_id = ? "
    "UNION SELECT next.depends_on_id FROM reached JOIN task_dependency AS next ON next.task_id = reached.id) "
)
_DEPENDENTS = (
    "WITH RECURSIVE found (id) AS (SELECT task_id FROM task_dependency WHERE depends_on_id = ? "
    "UNION SELECT next.task_id FROM found JOIN task_dependency AS next ON next.depends_on_id = found.id) "
)


_FEW = 1000


class Named(NamedTuple):
    """A task by what names it, and its status."""

    id: str
    number: int
    name: str
    status: str
    project_id: str
    project: str
    assigned_agent: str | None
    blocked_by: str | None


def write_rows(tx: Transaction, task_id: str, depends_on: Iterable[str]) -> int:
    """Write the rows of a task's column; returns how many of these tasks are open."""
    tx.execute("DELETE FROM task_dependency WHERE task_id = ?", (task_id,))
    for id_ in depends_on:
        tx.execute("INSERT INTO task_dependency (task_id, depends_on_id) VALUES (?, ?)", (task_id, id_))
    row = tx.one(f"SELECT {_OPEN.format(task='?')} AS open", (task_id,))
    assert row is not None
    count: int = row[0]
    return count


def forget(tx: Transaction, task_id: str) -> None:
    """Delete the rows of what a task depends on. Those of tasks that depend on it stay: they keep waiting."""
    tx.execute("DELETE FROM task_dependency WHERE task_id = ?", (task_id,))


def open_counts_below(reader: Reader, task_id: str) -> list[tuple[str, int]]:
    """The tasks that depend on one directly, each with the number of its open dependencies."""
    counted = _OPEN.format(task="direct.task_id")
    return reader.all(
        f"SELECT direct.task_id, {counted} FROM task_dependency AS direct WHERE direct.depends_on_id = ?", (task_id,)
    )


def open_of(reader: Reader, task_id: str) -> list[tuple[str, Named | None]]:
    """The ids of a task's open dependencies, with what is there of them; None was deleted."""
    rows = reader.all(
        "SELECT each.depends_on_id FROM task_dependency AS each LEFT JOIN tasks AS other "
        "ON other.id = each.depends_on_id WHERE each.task_id = ? AND (other.id IS NULL OR other.status <> 'completed') "
        "ORDER BY other.project_id, other.number",
        (task_id,),
    )
    return [(id_, named(reader, id_)) for (id_,) in rows]


def named(reader: Reader, task_id: str) -> Named | None:
    """What names a task."""
    row = reader.one(
        "SELECT tasks.id, tasks.number, tasks.name, tasks.status, tasks.project_id, projects.name, "
        "tasks.assigned_agent, tasks.blocked_by FROM tasks JOIN projects ON projects.id = tasks.project_id "
        "WHERE tasks.id = ?",
        (task_id,),
    )
    return None if row is None else Named(*row)


def dependents(reader: Reader, task_id: str, *, all_: bool, limit: int = -1) -> list[str]:
    """The ids of the tasks that depend on one, directly, or with ``all_`` also through others."""
    if not all_:
        rows = reader.all(
            "SELECT task_id FROM task_dependency WHERE depends_on_id = ? ORDER BY task_id LIMIT ?", (task_id, limit)
        )
    else:
        rows = reader.all(f"{_DEPENDENTS}SELECT id FROM found ORDER BY id LIMIT ?", (task_id, limit))
    return [row[0] for row in rows]


def cycle_from(reader: Reader, task_id: str) -> list[str] | None:
    """A shortest circle of dependencies through a task, with its id at both ends; None if there is none."""
    # A circle passes through what depends on the task, which is most often little, and through what it depends on.
    above = {row[0] for row in reader.all(f"{_DEPENDENTS}SELECT id FROM found LIMIT {_FEW}", (task_id,))}
    if len(above) < _FEW and task_id not in above:
        return None
    if reader.one(f"{_REACHED}SELECT 1 FROM reached WHERE id = ?", (task_id, task_id)) is None:
        return None
    edges: dict[str, list[str]] = {}
    for of, on in reader.all(
        f"{_REACHED}SELECT task_id, depends_on_id FROM task_dependency JOIN reached ON reached.id = task_id", (task_id,)
    ):
        edges.setdefault(of, []).append(on)
    came_from: dict[str, str] = {}
    layer = [task_id]
    while layer:
        following: list[str] = []
        for node in layer:
            for other in edges.get(node, ()):
                if other == task_id:
                    path = [node]
                    while path[-1] != task_id:
                        path.append(came_from[path[-1]])
                    return [*reversed(path), task_id]
                if other not in came_from:
                    came_from[other] = node
                    following.append(other)
        layer = following
    raise AssertionError("a circle was reached")
