"""The search for a circle of dependencies, beside the plainest one."""

from __future__ import annotations

import collections
import itertools
import random
import sqlite3
from collections.abc import Sequence
from typing import Any

import pytest

from nexus.ledger.tasks import dependencies_store
from nexus.ledger.tasks.dependencies_store import cycle_from
from nexus.store import Row

GRAPHS = 400


class Rows:
    """A reader of a database in memory."""

    def __init__(self, edges: set[tuple[str, str]]) -> None:
        self._connection = sqlite3.connect(":memory:")
        self._connection.execute("CREATE TABLE task_dependency (task_id TEXT, depends_on_id TEXT)")
        self._connection.executemany("INSERT INTO task_dependency VALUES (?, ?)", edges)

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        """The first row."""
        rows = self.all(sql, parameters)
        return rows[0] if rows else None

    def all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows."""
        return self._connection.execute(sql, parameters).fetchall()


def shortest(edges: set[tuple[str, str]], start: str) -> int | None:
    """The number of dependencies in a shortest circle through a task."""
    far = {start: 0}
    queue = collections.deque([start])
    while queue:
        node = queue.popleft()
        for of, on in edges:
            if of == node and on == start:
                return far[node] + 1
            if of == node and on not in far:
                far[on] = far[node] + 1
                queue.append(on)
    return None


def test_circle_is_a_shortest_one_whatever_is_read_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(3)
    circles = 0
    for _ in range(GRAPHS):
        for name, sizes in {"_DEPTH": (1, 2, 3, 256), "_MOST": (2, 4, 8, 300), "_MANY": (4, 8, 100)}.items():
            monkeypatch.setattr(dependencies_store, name, chance.choice(sizes))
        nodes = [f"task-{number}" for number in range(chance.randint(1, 14))]
        edges = {(chance.choice(nodes), chance.choice(nodes)) for _ in range(chance.randint(0, 2 * len(nodes)))}
        rows = Rows(edges)
        for start in nodes[:3]:
            found, length = cycle_from(rows, start), shortest(edges, start)
            if found is None:
                assert length is None, (edges, start)
                continue
            circles += 1
            assert len(found) - 1 == length, (edges, start)
            assert found[0] == found[-1] == start
            assert edges >= set(itertools.pairwise(found))
        rows.close()
    assert circles > GRAPHS / 2
