"""Episodes and chunks with embeddings, written beside a daemon by the statements of the stores."""

from __future__ import annotations

import contextlib
import json
import math
import time
import uuid
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nexus.memory.vectors.states import TABLES
from nexus.memory.vectors.store import forget, write
from nexus.memory.vectors.validation import embedding
from nexus.records.scope import DEFAULT_ID
from nexus.records.table import next_number
from nexus.store.connection import connect
from nexus.store.fulltext import index_named
from nexus.store.writer import Numbers, SqliteTransaction

__all__ = ["Memory", "cosines"]

_INSERT_EPISODE = (
    "INSERT INTO episodes (id, number, project_id, type, content, summary, embedding, task_id, created_at, updated_at, "
    "doc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_CHUNK = (
    "INSERT INTO code_chunks (id, project_id, file, start_line, end_line, content, embedding, symbols, chunk_type, "
    "language, hash, indexed_at, doc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'h', ?, ?)"
)


class Memory:
    """The memory of one project in the database of a daemon. ``vectors`` has the embeddings that are there, by id."""

    def __init__(self, database: Path, project_id: str = DEFAULT_ID) -> None:
        self.project_id = project_id
        self.vectors: dict[str, dict[str, Sequence[float]]] = {"episodes": {}, "chunks": {}}
        self._connection = connect(database, isolation_level=None, timeout=60)
        # A checkpoint by another program looks to the daemon like a write over its file.
        self._connection.execute("PRAGMA wal_autocheckpoint = 0").fetchone()
        self._numbers = Numbers(b"k" * 32)
        self._open: SqliteTransaction | None = None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @contextlib.contextmanager
    def together(self) -> Iterator[SqliteTransaction]:
        """One transaction for all that is written in the block."""
        if self._open is not None:
            yield self._open
            return
        self._connection.execute("BEGIN IMMEDIATE")
        self._open = SqliteTransaction(self._connection, int(time.time() * 1000), self._numbers)
        try:
            yield self._open
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        finally:
            self._open = None

    def episode(
        self,
        content: str,
        vector: Sequence[float] | None = None,
        *,
        type: str = "decision",
        summary: str | None = None,
        task_id: str | None = None,
    ) -> str:
        """Add an episode; returns its id."""
        id_ = str(uuid.uuid4())
        with self.together() as tx:
            data = self._embedding(tx, "episodes", id_, vector)
            number, doc = next_number(tx, self.project_id, "episode"), next_number(tx, "", "doc")
            tx.execute(
                _INSERT_EPISODE,
                (id_, number, self.project_id, type, content, summary, data, task_id, tx.now, tx.now, doc),
            )
        return id_

    def chunk(
        self,
        file: str,
        content: str,
        vector: Sequence[float] | None = None,
        *,
        type: str = "function",
        language: str = "python",
        symbols: Sequence[str] = (),
    ) -> str:
        """Add a chunk of the lines 3 to 9 of a file; returns its id."""
        id_ = str(uuid.uuid4())
        with self.together() as tx:
            data = self._embedding(tx, "chunks", id_, vector)
            named = json.dumps(list(symbols))
            doc = next_number(tx, "", "doc")
            tx.execute(
                _INSERT_CHUNK, (id_, self.project_id, file, 3, 9, content, data, named, type, language, tx.now, doc)
            )
            index_named(tx, [(doc, file, f"{named}\n{content}")])
        return id_

    def embed(self, collection: str, id_: str, vector: Sequence[float] | None) -> None:
        """Set the embedding of a record, or remove it."""
        with self.together() as tx:
            data = self._embedding(tx, collection, id_, vector)
            tx.execute(f"UPDATE {TABLES[collection]} SET embedding = ? WHERE id = ?", (data, id_))

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        """Delete records."""
        with self.together() as tx:
            forget(tx, self.project_id, collection, ids)
            for id_ in ids:
                tx.execute(f"DELETE FROM {TABLES[collection]} WHERE id = ?", (id_,))
                self.vectors[collection].pop(id_, None)

    def _embedding(
        self, tx: SqliteTransaction, collection: str, id_: str, vector: Sequence[float] | None
    ) -> bytes | None:
        data = None if vector is None else embedding(vector)
        write(tx, self.project_id, collection, id_, data)
        self.vectors[collection].pop(id_, None)
        if vector is not None:
            self.vectors[collection][id_] = vector
        return data


def cosines(vectors: Mapping[str, Sequence[float]], query: Sequence[float]) -> dict[str, float]:
    """The cosine of each vector as float32 with a query, as doubles."""

    def of(a: Sequence[float], b: Sequence[float]) -> float:
        length = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(x * x for x in b))
        return math.fsum(x * y for x, y in zip(a, b, strict=True)) / length

    wanted = array("f", query)
    return {id_: of(array("f", vector), wanted) for id_, vector in vectors.items()}
