"""The SQL of vectors: what the process that searches reads of a collection. The rows are written by others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from nexus.journal.rows import derived
from nexus.memory.vectors.errors import VectorDimensionMismatch
from nexus.store import Transaction
from nexus.store.outside import OutsideReader

__all__ = ["COLLECTIONS", "Collection", "changed_since", "embedding_of", "embeddings", "is_known", "read_collection"]

COLLECTIONS = {"episodes": "episodes", "chunks": "code_chunks"}
"""The table of each collection."""
_BATCH = 64
"""Few enough for the memory nearest to the processor."""


class Collection(NamedTuple):
    """A row of ``vector_collection``."""

    dimension: int
    generation: int
    changed_at: int


def read_collection(reader: OutsideReader, collection: str, project_id: str) -> Collection | None:
    """What the rows of a collection are; None if it has none."""
    rows = reader.rows(
        "SELECT dimension, generation, changed_at FROM vector_collection WHERE project_id = ? AND collection = ?",
        (project_id, collection),
    )
    return Collection(*rows[0]) if rows else None


def is_known(reader: OutsideReader, collection: str, project_id: str, generation: int, changed_at: int) -> bool:
    """Whether the collection's history has this generation with this time, and so every one after it."""
    return bool(
        reader.rows(
            "SELECT 1 FROM vector_change WHERE project_id = ? AND collection = ? AND generation = ? "
            "AND changed_at = ? LIMIT 1",
            (project_id, collection, generation, changed_at),
        )
    )


def changed_since(
    reader: OutsideReader, collection: str, project_id: str, generation: int, most: int
) -> list[str] | None:
    """The ids of the records that were changed after a generation; None if they are more than ``most``."""
    rows = reader.rows(
        "SELECT DISTINCT record_id FROM vector_change WHERE project_id = ? AND collection = ? AND generation > ? "
        "LIMIT ?",
        (project_id, collection, generation, most + 1),
    )
    return [row[0] for row in rows] if len(rows) <= most else None


def embedding_of(reader: OutsideReader, collection: str, project_id: str, record_id: str) -> bytes | None:
    """The embedding of a record; None if it has none, or is not there."""
    rows = reader.rows(
        f"SELECT embedding FROM {COLLECTIONS[collection]} WHERE id = ? AND project_id = ?", (record_id, project_id)
    )
    return rows[0][0] if rows else None


def embeddings(reader: OutsideReader, collection: str, project_id: str) -> Iterator[list[tuple[str, bytes]]]:
    """The ids and embeddings of all records that have one, in batches."""
    yield from reader.batches(
        f"SELECT id, embedding FROM {COLLECTIONS[collection]} WHERE project_id = ? AND embedding IS NOT NULL",
        (project_id,),
        _BATCH,
    )


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
