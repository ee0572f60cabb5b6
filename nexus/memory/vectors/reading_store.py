"""The SQL of vectors: what the process that searches reads of a collection. The rows are written by others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from nexus.memory.vectors.states import TABLES
from nexus.store.outside import OutsideReader

__all__ = [
    "Collection",
    "changed_since",
    "embedding_of",
    "embeddings",
    "is_known",
    "matching",
    "read_collection",
]

_CONDITIONS = {
    "file": "file >= ? AND substr(file, 1, ?) = ?",
    "language": "language = ?",
    "task_id": "task_id = ?",
}
_TYPES = {"episodes": "type = ?", "chunks": "chunk_type = ?"}
_MATCHING_BATCH = 1000
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
        f"SELECT embedding FROM {TABLES[collection]} WHERE id = ? AND project_id = ?", (record_id, project_id)
    )
    return rows[0][0] if rows else None


def embeddings(reader: OutsideReader, collection: str, project_id: str) -> Iterator[list[tuple[str, bytes]]]:
    """The ids and embeddings of all records that have one, in batches."""
    yield from reader.batches(
        f"SELECT id, embedding FROM {TABLES[collection]} WHERE project_id = ? AND embedding IS NOT NULL",
        (project_id,),
        _BATCH,
    )


def matching(
    reader: OutsideReader, collection: str, project_id: str, filters: Mapping[str, str]
) -> Iterator[list[tuple[str]]]:
    """The ids of the records with an embedding that meet the filters, in batches."""
    conditions = ""
    parameters: list[str | int] = [project_id]
    for name, value in filters.items():
        conditions += f" AND {_TYPES[collection] if name == 'type' else _CONDITIONS[name]}"
        parameters += [value, len(value), value] if name == "file" else [value]
    yield from reader.batches(
        f"SELECT id FROM {TABLES[collection]} WHERE project_id = ? AND embedding IS NOT NULL{conditions}",
        parameters,
        _MATCHING_BATCH,
    )
