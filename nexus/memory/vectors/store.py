"""The SQL of collections of vectors: their dimension, and what changed. The vectors are in the rows of others."""

from __future__ import annotations

from collections.abc import Iterable

from nexus.journal.rows import derived
from nexus.memory.vectors.errors import VectorDimensionMismatch
from nexus.store import Transaction

__all__ = ["forget", "write"]

derived("vector_collection", "the embeddings of episodes and chunks")
derived("vector_change", "the embeddings of episodes and chunks")


def write(tx: Transaction, project_id: str, collection: str, record_id: str, embedding: bytes | None) -> None:
    """Note a new embedding of a record, or that it has none any more; the first one fixes the dimension.

    Raises:
        VectorDimensionMismatch: it has another number of values than those of the collection.
    """
    row = tx.one(
        "SELECT dimension, generation FROM vector_collection WHERE project_id = ? AND collection = ?",
        (project_id, collection),
    )
    given = 0 if embedding is None else len(embedding) // 4
    if row is None:
        if embedding is None:
            return
        tx.execute(
            "INSERT INTO vector_collection (project_id, collection, dimension, generation, changed_at) "
            "VALUES (?, ?, ?, 0, ?)",
            (project_id, collection, given, tx.now),
        )
        row = (given, 0)
    if embedding is not None and given != row[0]:
        raise VectorDimensionMismatch(
            f"cannot use the vector: it has {given} values, and those of the collection have {row[0]}",
            details={"given": given, "expected": row[0]},
        )
    tx.execute(
        "UPDATE vector_collection SET generation = ?, changed_at = ? WHERE project_id = ? AND collection = ?",
        (row[1] + 1, tx.now, project_id, collection),
    )
    tx.execute(
        "INSERT INTO vector_change (project_id, collection, generation, record_id, changed_at) VALUES (?, ?, ?, ?, ?)",
        (project_id, collection, row[1] + 1, record_id, tx.now),
    )


def forget(tx: Transaction, project_id: str, collection: str, record_ids: Iterable[str]) -> None:
    """Note that records are deleted."""
    for record_id in record_ids:
        write(tx, project_id, collection, record_id, None)
