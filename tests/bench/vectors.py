"""The measures of vectors, through a daemon: the nearest, a matrix that is built again, Pings beside it, and memory.

The rows are written before the daemon starts, in one transaction and with random embeddings.
"""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bench.measures import Measure, Sample, duration, paced_pings
from bench.world import World
from support.daemon import DaemonProcess

from nexus.client import BlockingClient
from nexus.memory.vectors.commands import SearchVectors
from nexus.memory.vectors.index import vectors_directory
from nexus.memory.vectors.states import Collection
from nexus.projects.commands import CreateProject
from nexus.store.connection import connect
from nexus.system.commands import SetSetting

__all__ = ["VECTOR_MEASURES"]

_CHUNKS = 100_000
_EPISODES = 20_000
_SHORT, _LONG = 384, 1536
_CHUNK = (
    "INSERT INTO code_chunks (id, project_id, file, start_line, end_line, content, embedding, chunk_type, language, "
    "hash, indexed_at, doc) VALUES (?, ?, ?, 1, 20, 'text', ?, 'function', 'python', 'h', 1, ?)"
)
_EPISODE = (
    "INSERT INTO episodes (id, number, project_id, type, content, embedding, created_at, updated_at, doc) "
    "VALUES (?, ?, ?, 'decision', 'text', ?, 1, 1, ?)"
)
_COLLECTION = (
    "INSERT INTO vector_collection (project_id, collection, dimension, generation, changed_at) VALUES (?, ?, ?, 1, 1)"
)
_CHANGE = (
    "INSERT INTO vector_change (project_id, collection, generation, record_id, changed_at) VALUES (?, ?, 1, 'x', 1)"
)
_DOC = (
    "INSERT INTO record_number (project_id, kind, last) VALUES ('', 'doc', ?) "
    "ON CONFLICT (project_id, kind) DO UPDATE SET last = excluded.last"
)


class _Memory:
    """A daemon whose project ``short`` has chunks of 384 and episodes of 1536, and whose ``long`` chunks of 1536."""

    def __init__(self, world: World) -> None:
        self._part = 10 if world.quick else 1
        self._chance = np.random.default_rng(7)
        self.daemon = world.new_daemon().start()
        with BlockingClient(self.daemon.socket_path) as client:
            client.call(SetSetting("vectors.idle_seconds", 3600))
            self.short, self.long = (client.call(CreateProject(name)).id for name in ("short", "long"))
        self.daemon.stop()
        self._fill(self.daemon)
        self.daemon.start()
        self.client = world.enter(BlockingClient(self.daemon.socket_path, project=self.short))
        self._elsewhere = world.enter(BlockingClient(self.daemon.socket_path, project=self.long))
        for search in (self.chunks, self.episodes, self.long_chunks):
            search()
        self.worker = _worker_of(self.daemon)

    def _fill(self, daemon: DaemonProcess) -> None:
        docs = iter(range(1_000_000, 10_000_000))
        with contextlib.closing(connect(daemon.database, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous = OFF")
            database.execute("BEGIN")
            for project_id, dimension in ((self.short, _SHORT), (self.long, _LONG)):
                database.executemany(
                    _CHUNK,
                    (
                        (str(uuid.uuid4()), project_id, f"src/{number}.py", data, next(docs))
                        for number, data in enumerate(self._vectors(_CHUNKS, dimension))
                    ),
                )
                database.execute(_COLLECTION, (project_id, "chunks", dimension))
                database.execute(_CHANGE, (project_id, "chunks"))
            database.executemany(
                _EPISODE,
                (
                    (str(uuid.uuid4()), number, self.short, data, next(docs))
                    for number, data in enumerate(self._vectors(_EPISODES, _LONG), 1)
                ),
            )
            database.execute(_COLLECTION, (self.short, "episodes", _LONG))
            database.execute(_CHANGE, (self.short, "episodes"))
            database.execute(_DOC, (next(docs),))
            database.execute("COMMIT")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def _vectors(self, count: int, dimension: int) -> Iterator[bytes]:
        for _ in range(count // self._part):
            yield self._chance.standard_normal(dimension, np.float32).tobytes()

    def _search(self, client: BlockingClient, collection: Collection, dimension: int) -> None:
        query = self._chance.standard_normal(dimension).tolist()
        while True:
            try:
                found = client.call(SearchVectors(collection, query, 10))
            except Exception as error:
                if getattr(error, "type", "") != "vectors.timed_out":
                    raise
                continue  # the first matrix of a slow machine
            assert len(found.hits) == 10
            assert found.engine == "numpy"
            return

    def chunks(self) -> None:
        self._search(self.client, Collection.CHUNKS, _SHORT)

    def episodes(self) -> None:
        self._search(self.client, Collection.EPISODES, _LONG)

    def long_chunks(self) -> None:
        self._search(self._elsewhere, Collection.CHUNKS, _LONG)

    def rebuild(self) -> None:
        Path(vectors_directory(self.daemon.database), "chunks", f"{self.short}.f32").unlink()
        self.chunks()


def _worker_of(daemon: DaemonProcess) -> int:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"nexus.memory.vectors.worker" in words and os.fsencode(daemon.database) in words:
                return int(folder.name)
    raise AssertionError("no process searches")


@functools.cache
def _memory(world: World) -> _Memory:
    return _Memory(world)


@contextlib.contextmanager
def _all_cores(world: World, made: _Memory) -> Iterator[None]:
    """Daemon, clients and the process that searches on all cores: on one they would take turns."""
    with world.all_cores(made.daemon):
        for thread in Path(f"/proc/{made.worker}/task").iterdir():
            os.sched_setaffinity(int(thread.name), world.cores)
        yield


def _latency(search: Callable[[_Memory], None], world: World) -> Sample:
    made = _memory(world)
    with _all_cores(world, made):
        return Sample(1000 * statistics.median(duration(lambda: search(made)) for _ in range(5 if world.quick else 20)))


def _rebuild(world: World) -> Sample:
    made = _memory(world)
    with _all_cores(world, made):
        return Sample(1000 * statistics.median(duration(made.rebuild) for _ in range(3)))


def _pings(world: World) -> Sample:
    """The Pings of a client while another one searches, one search after the other."""
    made = _memory(world)
    stop = threading.Event()

    def search() -> None:
        while not stop.is_set():
            made.chunks()
            made.episodes()

    with _all_cores(world, made), BlockingClient(made.daemon.socket_path) as client:
        thread = threading.Thread(target=search)
        thread.start()
        try:
            latencies = paced_pings(client, 400)
        finally:
            stop.set()
            thread.join()
    return Sample(1000 * statistics.quantiles(latencies, n=100)[98])


def _resident(world: World) -> Sample:
    """The daemon's own memory after a hundred searches; the process that searches has the matrices."""
    made = _memory(world)
    for _ in range(50):
        made.chunks()
        made.episodes()
    time.sleep(0.1)
    return Sample(made.daemon.rss_bytes() / 1024**2)


def _measure(name: str, title: str, unit: str, target: float, sample: Callable[[World], Any]) -> Measure:
    return Measure(name, title, unit, target, False, sample)


VECTOR_MEASURES = (
    _measure(
        "vectors",
        f"SearchVectors, 10 of {_CHUNKS:,} of 384",
        "ms",
        30.0,
        functools.partial(_latency, _Memory.chunks),
    ),
    _measure(
        "vectors-episodes",
        f"SearchVectors, 10 of {_EPISODES:,} of 1536",
        "ms",
        30.0,
        functools.partial(_latency, _Memory.episodes),
    ),
    _measure(
        "vectors-long",
        f"SearchVectors, 10 of {_CHUNKS:,} of 1536",
        "ms",
        120.0,
        functools.partial(_latency, _Memory.long_chunks),
    ),
    _measure("vectors-rebuild", f"SearchVectors without the matrix of {_CHUNKS:,} of 384", "ms", 300.0, _rebuild),
    _measure("vectors-ping", "Ping beside SearchVectors, p99", "ms", 10.0, _pings),
    _measure("vectors-memory", "the daemon with these vectors, resident", "MiB", 60.0, _resident),
)
"""In the order of the table."""
