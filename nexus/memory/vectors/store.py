"""The SQL by which the daemon keeps what it says of embeddings: dimensions, generations and changes.

A record's own store writes the column; it calls ``write`` and ``forget`` in the same transaction. The docstring of
``nexus.memory.vectors`` has the rules of the tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from nexus.journal.operation import Operation
from nexus.journal.rows import Subject, derived, journaled_tables, record
from nexus.memory.vectors.errors import VectorInvalid, mismatch
from nexus.memory.vectors.states import MAX_DIMENSION, TABLES, VALUE_BYTES
from nexus.store import Reader, Transaction

__all__ = [
    "CollectionRow",
    "clear",
    "collection_row",
    "collections_of",
    "count_embeddings",
    "delete_of_project",
    "every_collection",
    "forget",
    "projects_gone",
    "prune_changes",
    "write",
]

derived("vector_collection", "the embeddings of episodes and chunks")
derived("vector_change", "the embeddings of episodes and chunks")


class CollectionRow(NamedTuple):
    """What is known of the embeddings of a collection of a project."""

    project_id: str
    collection: str
    dimension: int
    generation: int
    has_embeddings: bool
    """Whether a record has one. Without any, the next one fixes another dimension."""


# Writing


def write(tx: Transaction, project_id: str, collection: str, record_id: str, embedding: bytes | None) -> None:
    """Note that a record is to have this embedding, or none. It is called before or after the column is written.

    The first embedding of a collection fixes the dimension of the others.

    Raises:
        VectorDimensionMismatch: the others have another number of values.
        VectorInvalid: it is no whole number of values, or has too many.
    """
    row = _row(tx, project_id, collection)
    if embedding is None:
        if row is not None:
            _note(tx, project_id, collection, row[0], row[1], (record_id,))
        return
    given, rest = divmod(len(embedding), VALUE_BYTES)
    if rest or not 1 <= given <= MAX_DIMENSION:
        raise VectorInvalid(
            f"cannot use the vector: it has {len(embedding)} bytes, and 1 to {MAX_DIMENSION} values of {VALUE_BYTES} "
            "bytes are allowed",
            details={"bytes": len(embedding)},
        )
    if row is None:
        tx.execute(
            "INSERT INTO vector_collection (project_id, collection, dimension, generation, changed_at) "
            "VALUES (?, ?, ?, 0, ?)",
            (project_id, collection, given, tx.now),
        )
        row = (given, 0)
    elif given != row[0] and _has_others(tx, project_id, collection, record_id, len(embedding)):
        raise mismatch("cannot use the vector", "it", given, row[0])
    _note(tx, project_id, collection, given, row[1], (record_id,))


def forget(tx: Transaction, project_id: str, collection: str, record_ids: Iterable[str]) -> None:
    """Note that records are deleted, before or after it."""
    row = _row(tx, project_id, collection)
    if row is not None:
        _note(tx, project_id, collection, row[0], row[1], record_ids)


def _note(
    tx: Transaction, project_id: str, collection: str, dimension: int, generation: int, record_ids: Iterable[str]
) -> None:
    """Note changes, under one new generation for the whole transaction."""
    key = ("vectors", project_id, collection)
    noted = tx.notes.get(key)
    if noted != (dimension, generation):
        # Another write of this transaction may have raised it before, for another dimension.
        generation += noted is None or noted[1] != generation
        tx.execute(
            "UPDATE vector_collection SET dimension = ?, generation = ?, changed_at = ? "
            "WHERE project_id = ? AND collection = ?",
            (dimension, generation, tx.now, project_id, collection),
        )
        tx.notes[key] = (dimension, generation)
    for record_id in record_ids:
        tx.execute(
            "INSERT INTO vector_change (project_id, collection, generation, record_id, changed_at) "
            "VALUES (?, ?, ?, ?, ?) ON CONFLICT (project_id, collection, generation, record_id) DO NOTHING",
            (project_id, collection, generation, record_id, tx.now),
        )


def clear(tx: Transaction, operation: Operation, project_id: str, collection: str, limit: int, *, first: bool) -> int:
    """Remove the embeddings of at most ``limit`` records; returns of how many. The ``first`` step has the event."""
    table = TABLES[collection]
    if first:
        count = count_embeddings(tx, project_id, collection)[0]
        if count:
            subject = Subject("vectors", project_id, collection, project_id)
            record(tx, operation, "vectors.reset", subject, {"collection": collection, "embeddings": count})
    ids = [
        row[0]
        for row in tx.all(
            f"SELECT id FROM {table} WHERE project_id = ? AND embedding IS NOT NULL LIMIT ?", (project_id, limit)
        )
    ]
    if not ids:
        return 0
    operation.enter(tx, project_id)
    forget(tx, project_id, collection, ids)
    if table == "code_chunks":
        marks = ", ".join("?" * len(ids))
        tx.execute(f"UPDATE code_chunks SET embedding = NULL WHERE id IN ({marks})", ids)
    else:
        rows = journaled_tables()[table]  # the column is volatile: no image has it
        for id_ in ids:
            rows.update(tx, id_, {"embedding": None})
    return len(ids)


def delete_of_project(tx: Transaction, project_id: str) -> None:
    """Delete what is known of the embeddings of a project."""
    tx.execute("DELETE FROM vector_change WHERE project_id = ?", (project_id,))
    tx.execute("DELETE FROM vector_collection WHERE project_id = ?", (project_id,))


def prune_changes(tx: Transaction, project_id: str, collection: str, keep: int, limit: int) -> int:
    """Delete the changes of a collection but the last ``keep``, the oldest first and each generation as a whole.

    It ends at the first generation with which it has deleted ``limit``; returns how many it deleted.
    """
    of = "FROM vector_change WHERE project_id = ? AND collection = ?"
    kept = tx.one(
        f"SELECT generation {of} ORDER BY generation DESC LIMIT 1 OFFSET ?", (project_id, collection, keep - 1)
    )
    if kept is None:
        return 0
    row = tx.one(
        f"SELECT generation {of} AND generation < ? ORDER BY generation LIMIT 1 OFFSET ?",
        (project_id, collection, kept[0], limit - 1),
    )
    last = kept[0] - 1 if row is None else row[0]
    return tx.execute(f"DELETE {of} AND generation <= ?", (project_id, collection, last))


# Reading


def _row(reader: Reader, project_id: str, collection: str) -> tuple[int, int] | None:
    row = reader.one(
        "SELECT dimension, generation FROM vector_collection WHERE project_id = ? AND collection = ?",
        (project_id, collection),
    )
    return None if row is None else (row[0], row[1])


def _has_embeddings(reader: Reader, project_id: str, collection: str) -> bool:
    found = reader.one(
        f"SELECT 1 FROM {TABLES[collection]} WHERE project_id = ? AND embedding IS NOT NULL LIMIT 1", (project_id,)
    )
    return found is not None


def _has_others(reader: Reader, project_id: str, collection: str, besides: str, size: int) -> bool:
    """Whether another record has an embedding of another size: columns may be written before they are noted."""
    found = reader.one(
        f"SELECT 1 FROM {TABLES[collection]} WHERE project_id = ? AND embedding IS NOT NULL AND id <> ? "
        "AND length(embedding) <> ? LIMIT 1",
        (project_id, besides, size),
    )
    return found is not None


def collection_row(reader: Reader, project_id: str, collection: str) -> CollectionRow | None:
    """What is known of a collection; None if no record ever had an embedding."""
    row = _row(reader, project_id, collection)
    if row is None:
        return None
    return CollectionRow(project_id, collection, *row, _has_embeddings(reader, project_id, collection))


def collections_of(reader: Reader, project_id: str | None) -> list[tuple[str, str, str]]:
    """The collections with records, of a project or of all: the id and the name of the project, and the collection."""
    found: list[tuple[str, str, str]] = []
    for collection, table in TABLES.items():
        condition, parameters = ("", []) if project_id is None else (" AND projects.id = ?", [project_id])
        rows = reader.all(
            f"SELECT projects.id, projects.name FROM projects WHERE EXISTS "
            f"(SELECT 1 FROM {table} WHERE {table}.project_id = projects.id){condition}",
            parameters,
        )
        found += [(id_, name, collection) for id_, name in rows]
    return sorted(found, key=lambda each: (each[1], each[2]))


def count_embeddings(reader: Reader, project_id: str, collection: str) -> tuple[int, int]:
    """How many records of a collection have an embedding, and how many have none; it may take some ms."""
    table = TABLES[collection]
    row = reader.one(f"SELECT count(*) FROM {table} WHERE project_id = ? AND embedding IS NOT NULL", (project_id,))
    every = reader.one(f"SELECT count(*) FROM {table} WHERE project_id = ?", (project_id,))
    assert row is not None
    assert every is not None
    return row[0], every[0] - row[0]


def every_collection(reader: Reader) -> list[tuple[str, str]]:
    """The ids of projects, each with a collection that has or had embeddings."""
    return [(row[0], row[1]) for row in reader.all("SELECT project_id, collection FROM vector_collection")]


def projects_gone(reader: Reader) -> list[str]:
    """The ids of projects that have been deleted, and whose collections are there still."""
    rows = reader.all(
        "SELECT DISTINCT project_id FROM vector_collection "
        "WHERE NOT EXISTS (SELECT 1 FROM projects WHERE projects.id = vector_collection.project_id)"
    )
    return [row[0] for row in rows]
