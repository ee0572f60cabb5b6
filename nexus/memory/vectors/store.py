"""The SQL of vectors: what a record's embedding is, and how many values those of a collection have."""

from __future__ import annotations

from collections.abc import Iterable

from nexus.memory.vectors.errors import VectorDimensionMismatch
from nexus.store import Transaction

__all__ = ["forget", "write"]


def write(tx: Transaction, project_id: str, collection: str, record_id: str, embedding: bytes | None) -> None:
    """Set the embedding of a record, or unset it.

    Raises:
        VectorDimensionMismatch: it has another number of values than the collection.
    """
    generation = 1
    row = tx.one(
        "SELECT dimension, generation FROM vector_collection WHERE project_id = ? AND collection = ?",
        (project_id, collection),
    )
    if row is not None:
        generation = row[1] + 1
        if embedding is not None and row[0] * 4 != len(embedding):
            raise VectorDimensionMismatch(
                f"cannot use the vector: it has {len(embedding) // 4} values, and those there have {row[0]}",
                hint="Use the model that made the other vectors, or reset the collection for the new one.",
                details={"given": len(embedding) // 4, "expected": row[0]},
            )
    elif embedding is not None:
        tx.execute(
            "INSERT INTO vector_collection (project_id, collection, dimension, generation, changed_at) "
            "VALUES (?, ?, ?, ?, ?)",
            (project_id, collection, len(embedding) // 4, generation, tx.now),
        )
    tx.execute("UPDATE code_chunks SET embedding = ? WHERE id = ?", (embedding, record_id))
    forget(tx, project_id, collection, [record_id])


def forget(tx: Transaction, project_id: str, collection: str, record_ids: Iterable[str]) -> None:
    """Note that the embeddings of records are gone, with the records."""
    tx.execute(
        "UPDATE vector_collection SET generation = generation + 1, changed_at = ? "
        "WHERE project_id = ? AND collection = ?",
        (tx.now, project_id, collection),
    )
