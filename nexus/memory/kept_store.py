"""The SQL of the embeddings of deleted episodes, which are kept while a checkpoint may have the episode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nexus.memory.episodes.store import COLLECTION, EPISODES
from nexus.memory.vectors import store as vectors
from nexus.memory.vectors.errors import VectorDimensionMismatch
from nexus.store import Transaction

__all__ = ["keep", "prune", "put_back"]

_AT_ONCE = 500


def _slices(ids: Iterable[str]) -> Iterator[tuple[list[str], str]]:
    every = list(ids)
    for start in range(0, len(every), _AT_ONCE):
        some = every[start : start + _AT_ONCE]
        yield some, ", ".join("?" * len(some))


def keep(tx: Transaction, project_id: str, ids: Iterable[str]) -> None:
    """Keep the embeddings of episodes that are about to be deleted, and take them out of the collection."""
    for some, marks in _slices(ids):
        embedded = [
            row[0] for row in tx.all(f"SELECT id FROM episodes WHERE id IN ({marks}) AND embedding IS NOT NULL", some)
        ]
        tx.execute_many(
            "INSERT INTO kept_embedding (episode_id, project_id, embedding, deleted_at) "
            "SELECT id, project_id, embedding, ? FROM episodes WHERE id = ? "
            "ON CONFLICT (episode_id) DO UPDATE SET embedding = excluded.embedding, deleted_at = excluded.deleted_at",
            [(tx.now, id_) for id_ in embedded],
        )
        vectors.forget(tx, project_id, COLLECTION, embedded)


def put_back(tx: Transaction, project_id: str, ids: Iterable[str]) -> None:
    """Give episodes that came back the embeddings that they had.

    One of another dimension than the collection has now is left out: it is of another model.
    """
    for some, marks in _slices(ids):
        kept = tx.all(f"SELECT episode_id, embedding FROM kept_embedding WHERE episode_id IN ({marks})", some)
        for id_, embedding in kept:
            try:
                vectors.write(tx, project_id, COLLECTION, id_, embedding)
            except VectorDimensionMismatch:
                continue
            EPISODES.rows.update(tx, id_, {"embedding": embedding})
        tx.execute_many("DELETE FROM kept_embedding WHERE episode_id = ?", [(id_,) for id_, _embedding in kept])


def prune(tx: Transaction, project_id: str) -> None:
    """Forget the embeddings that no checkpoint of a project can have: all are of after the deletion."""
    tx.execute(
        "DELETE FROM kept_embedding WHERE project_id = ? AND NOT EXISTS (SELECT 1 FROM checkpoints "
        "WHERE checkpoints.project_id = kept_embedding.project_id "
        "AND checkpoints.created_at <= kept_embedding.deleted_at)",
        (project_id,),
    )
