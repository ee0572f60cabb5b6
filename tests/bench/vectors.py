"""The measures of vectors: the nearest of 100,000, and a matrix that is built again from its rows.

The process that searches is asked as the daemon asks it, from a loop of this program.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import statistics
import threading
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from bench.measures import Measure, Sample, duration, paced_pings
from bench.world import World

from nexus.client import BlockingClient
from nexus.memory.vectors.index import VectorIndex, vectors_directory
from nexus.store.connection import connect

__all__ = ["VECTOR_MEASURES"]

T = TypeVar("T")

_ROWS = 100_000
_PROJECT = "bench"
_SCHEMA = """
    CREATE TABLE code_chunks (id TEXT PRIMARY KEY, project_id TEXT, embedding BLOB);
    CREATE INDEX code_chunks_project ON code_chunks (project_id);
    CREATE TABLE vector_collection (project_id TEXT, collection TEXT, dimension INTEGER, generation INTEGER,
        changed_at INTEGER, PRIMARY KEY (project_id, collection));
    CREATE TABLE vector_change (project_id TEXT, collection TEXT, generation INTEGER, record_id TEXT,
        changed_at INTEGER, PRIMARY KEY (project_id, collection, generation, record_id));
"""


class _Collection:
    """A database with the rows of one collection, and the process that searches them."""

    def __init__(self, world: World, dimension: int) -> None:
        self.path = world.new_root() / "nexus.db"
        self.rows = _ROWS // 10 if world.quick else _ROWS
        self._chance = np.random.default_rng(7)
        self._dimension = dimension
        with contextlib.closing(connect(self.path, isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode = WAL").fetchone()
            database.execute("PRAGMA synchronous = OFF")
            database.executescript(_SCHEMA)
            database.execute("BEGIN")
            database.executemany(
                "INSERT INTO code_chunks VALUES (?, ?, ?)",
                ((str(uuid.uuid4()), _PROJECT, self.vector()) for _ in range(self.rows)),
            )
            database.execute("INSERT INTO vector_collection VALUES (?, 'chunks', ?, 1, 1)", (_PROJECT, dimension))
            database.execute("COMMIT")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._loop = asyncio.new_event_loop()
        self.index = self.run(self._make())
        world.callback(self._close)
        self.nearest()

    async def _make(self) -> VectorIndex:
        return VectorIndex(self.path, idle_s=lambda: 3600)

    def _close(self) -> None:
        self.run(self.index.close())
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    def vector(self) -> bytes:
        return self._chance.standard_normal(self._dimension, np.float32).tobytes()

    def nearest(self) -> None:
        found = self.run(self.index.nearest("chunks", _PROJECT, self.vector(), 10, 1, timeout_s=120))
        assert len(found.hits) == 10

    def rebuild(self) -> None:
        Path(vectors_directory(self.path), "chunks", f"{_PROJECT}.f32").unlink()
        synced = self.run(self.index.sync("chunks", _PROJECT))
        assert synced.rebuilt
        assert synced.rows == self.rows


@functools.cache
def _collection(world: World, dimension: int) -> _Collection:
    return _Collection(world, dimension)


def _latency(dimension: int, world: World) -> Sample:
    made = _collection(world, dimension)
    return Sample(1000 * statistics.median(duration(made.nearest) for _ in range(5 if world.quick else 20)))


def _rebuild(world: World) -> Sample:
    made = _collection(world, 384)
    return Sample(1000 * statistics.median(duration(made.rebuild) for _ in range(3)))


def _pings(world: World) -> Sample:
    """The Pings of a client of a daemon while one search follows the other."""
    made = _collection(world, 384)
    daemon = world.full
    stop = threading.Event()

    def search() -> None:
        while not stop.is_set():
            made.nearest()

    with world.all_cores(daemon), BlockingClient(daemon.socket_path) as client:
        os.sched_setaffinity(made.index.pid, world.cores)
        thread = threading.Thread(target=search)
        thread.start()
        try:
            latencies = paced_pings(client, 200)
        finally:
            stop.set()
            thread.join()
    return Sample(1000 * statistics.quantiles(latencies, n=100)[98])


VECTOR_MEASURES = (
    Measure("vectors", f"nearest 10 of {_ROWS:,} vectors of 384", "ms", 30.0, False, functools.partial(_latency, 384)),
    Measure(
        "vectors-long",
        f"nearest 10 of {_ROWS:,} vectors of 1536",
        "ms",
        120.0,
        False,
        functools.partial(_latency, 1536),
    ),
    Measure("vectors-rebuild", f"rebuild of a matrix of {_ROWS:,} vectors of 384", "ms", 300.0, False, _rebuild),
    Measure("vectors-ping", "Ping beside searches of vectors, p99", "ms", 10.0, False, _pings),
)
"""In the order of the table."""
