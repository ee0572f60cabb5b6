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
_DEPENDENTS = (
    "WITH RECURSIVE found (id) AS (SELECT task_id FROM task_dependency WHERE depends_on_id = ? "
    "UNION SELECT next.task_id FROM found JOIN task_dependency AS next ON next.depends_on_id = found.id) "
)

_MANY = 100
"""How many tasks are asked for at a time."""
_STEP = 4
_DEPTH, _MOST = 256, 300
"""How many layers, and how many edges, are read at a time where each task depends on one other."""


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
    """A shortest circle of dependencies through a task, with its id at both ends; None if there is none.

    It is searched for in both directions, first where less is to be seen: of a task that depends on thousands, few
    tasks depend most often.
    """
    ways = (_Way(reader, "task_id", "depends_on_id"), _Way(reader, "depends_on_id", "task_id"))
    came_from: tuple[dict[str, str], dict[str, str]] = ({}, {})
    layers = [[task_id], [task_id]]
    while True:
        way = 0 if len(layers[0]) <= len(layers[1]) else 1
        seen, opposite = came_from[way], came_from[1 - way]
        following: list[str] = []
        for node, other in ways[way].edges(layers[way]):
            if other == task_id or other in opposite:
                circle = [*reversed(_back(seen, node, task_id)), *_back(opposite, other, task_id)]
                return circle if way == 0 else circle[::-1]
            if other not in seen:
                seen[other] = node
                following.append(other)
        if not following:
            return None
        layers[way] = following


class _Way:
    """The edges from tasks in one direction."""

    def __init__(self, reader: Reader, of: str, on: str) -> None:
        self._reader = reader
        self._of_some = f"SELECT {of}, {on} FROM task_dependency WHERE {of} IN "
        self._further = (
            f"WITH RECURSIVE further (node, other, depth) AS (SELECT {of}, {on}, 1 FROM task_dependency WHERE {of} = ? "
            f"UNION ALL SELECT next.{of}, next.{on}, depth + 1 FROM further JOIN task_dependency AS next "
            f"ON next.{of} = further.other WHERE depth < {_DEPTH}) SELECT node, other, depth FROM further LIMIT {_MOST}"
        )
        self._is_narrow = True
        """Whether what follows a task has been little: then it is read by one statement for many layers."""
        self._ahead: dict[str, list[tuple[str, str]]] = {}
        """The edges from each task that was read ahead."""

    def edges(self, nodes: list[str]) -> list[tuple[str, str]]:
        """The edges from some tasks."""
        if len(nodes) == 1 and self._is_narrow:
            (node,) = nodes
            if node not in self._ahead:
                self._read_ahead(node)
            if node in self._ahead:
                return self._ahead[node]
        found: list[tuple[str, str]] = []
        for first in range(0, len(nodes), _MANY):
            part = nodes[first : first + _MANY]
            # A few lengths alone, so that most of these statements are prepared already.
            part += part[:1] * (-len(part) % _STEP)
            found += self._reader.all(f"{self._of_some}({', '.join('?' * len(part))})", part)
        return found

    def _read_ahead(self, start: str) -> None:
        rows = self._reader.all(self._further, (start,))
        self._is_narrow = len(rows) < _MOST
        if not self._is_narrow:
            return  # some edges of any task may be missing
        ahead: dict[str, list[tuple[str, str]]] = {start: []}
        for node, other, depth in rows:
            if node in ahead:
                ahead[node].append((node, other))
            else:
                ahead[node] = [(node, other)]
            if depth < _DEPTH and other not in ahead:
                ahead[other] = []
        self._ahead = ahead


def _back(came_from: dict[str, str], node: str, start: str) -> list[str]:
    """The way from a node back to where a search began."""
    path = [node]
    while path[-1] != start:
        path.append(came_from[path[-1]])
    return path
