"""The SQL of tasks."""

from __future__ import annotations

from collections.abc import Sequence

from nexus.journal.operation import Operation
from nexus.store import Reader, Transaction

__all__ = ["delete_tasks", "tasks_of"]


def tasks_of(
    reader: Reader, feature_id: str | None = None, sub_feature_id: str | None = None, limit: int = 20
) -> list[tuple[str, int, str]]:
    """The ids, numbers and names of the tasks of a feature or a sub-feature, by number: at most ``limit``."""
    column, value = ("feature_id", feature_id) if sub_feature_id is None else ("sub_feature_id", sub_feature_id)
    return reader.all(f"SELECT id, number, name FROM tasks WHERE {column} = ? ORDER BY number LIMIT ?", [value, limit])


def delete_tasks(tx: Transaction, _operation: Operation, ids: Sequence[str]) -> None:
    """Delete tasks."""
    for id_ in ids:
        tx.execute("DELETE FROM tasks WHERE id = ?", (id_,))
