"""Nearest by cosine for the daemon: one process that searches, started by the first request and ended when it is idle.

Requests are in turn. Neither numpy nor a matrix is ever loaded here. It knows no command and no table.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nexus.memory.vectors.child import WorkerChild
from nexus.memory.vectors.errors import VectorDimensionMismatch, VectorsTimedOut, VectorsUnavailable
from nexus.memory.vectors.matrix import State, paths_of, peek
from nexus.memory.vectors.messages import (
    MAX_CANDIDATES,
    MAX_LIMIT,
    Behind,
    Failed,
    FindNearest,
    Found,
    GaveUp,
    Synced,
    SyncMatrix,
)
from nexus.memory.vectors.states import TABLES
from nexus.memory.vectors.validation import dimension_of, embedding
from nexus.tasks import BackgroundTasks

__all__ = ["IDLE_S", "TIMEOUT_S", "Nearest", "SyncResult", "VectorIndex", "vectors_directory"]

_log = logging.getLogger("nexus.memory.vectors")

IDLE_S = 60.0
TIMEOUT_S = 10.0
_TRIES = 3
"""How often a matrix is brought up to its rows for one search, if another program keeps on changing its files."""


class Nearest(NamedTuple):
    """The nearest of a search, the best first; of equal scores, by id."""

    hits: list[tuple[str, float]]
    """Ids and cosines, from -1 to 1 with six decimals."""
    engine: str
    """``numpy``, or ``python`` where numpy is not installed, which is a hundred times slower."""
    generation: int
    """Which rows were searched: those of this generation of the collection; 0 if it has none."""


class SyncResult(NamedTuple):
    """A matrix that has the rows of its collection."""

    engine: str
    dimension: int
    """0 without a collection."""
    generation: int
    rows: int
    skipped: int
    """Rows that a rebuild left out, because their embedding is no vector of the collection."""
    rebuilt: bool


def vectors_directory(database: Path) -> Path:
    """The folder of the matrices of a database."""
    return database.with_name(f"{database.name}-vectors")


class VectorIndex:
    """The matrices of one database. ``close`` ends the process.

    Its methods raise ``VectorsUnavailable`` where the process cannot be started or cannot use the files,
    ``VectorsWorkerEnded`` where it is killed meanwhile, and ``VectorsTimedOut``. After each of them, and after a
    cancelled request, the next request has right results.
    """

    def __init__(
        self,
        database: Path,
        *,
        idle_s: Callable[[], float] = lambda: IDLE_S,
        engine: Callable[[], str] = lambda: "auto",
    ) -> None:
        """Start nothing yet. The folder of the database is trusted.

        ``engine`` gives ``auto``, ``numpy`` or ``python``; a process of another one is replaced by the next request.
        """
        self._database = database.absolute()
        self._directory = vectors_directory(self._database)
        self._idle_s = idle_s
        self._engine = engine
        self._turn = asyncio.Lock()
        self._child: WorkerChild | None = None
        self._child_engine = ""
        self._idle_timer: asyncio.TimerHandle | None = None
        self._tasks = BackgroundTasks("vector index", _log)
        self._closed = False

    @property
    def pid(self) -> int:
        """The id of the process that searches; 0 without one."""
        return self._child.pid if self._child is not None and self._child.usable else 0

    async def nearest(
        self,
        collection: str,
        project_id: str,
        query: bytes | Sequence[float],
        limit: int,
        generation: int,
        candidates: Sequence[str] | None = None,
        *,
        filters: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Nearest:
        """The ``limit`` rows of a collection that are nearest to ``query`` by cosine.

        ``generation`` is that of the row of ``vector_collection`` which the caller has read: a matrix with another one
        is first brought up to the rows. The rows that are searched are of that generation or of a later one.
        ``candidates`` are the ids to choose from, at most 100,000; unknown ones are passed over. ``filters`` are what
        the rows to choose from must have, as ``FindNearest`` says; the process looks for them. ``limit`` is at most
        1000.

        Raises:
            VectorInvalid: the query is no vector.
            VectorDimensionMismatch: it has another dimension than the collection.
        """
        data = embedding(query)
        if not 1 <= limit <= MAX_LIMIT:
            raise ValueError(f"the limit {limit} is not between 1 and {MAX_LIMIT}")
        names = None if candidates is None else list(candidates)
        if names is not None and len(names) > MAX_CANDIDATES:
            raise ValueError(f"more than {MAX_CANDIDATES} candidates")
        self._check_names(collection, project_id)
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + timeout_s
        async with self._worker(ends_at) as child:
            for _ in range(_TRIES):
                left = ends_at - loop.time()
                wanted, left_ms = generation, max(int(left * 1000), 0)
                reply = await child.ask(
                    lambda number, wanted=wanted, left_ms=left_ms: FindNearest(  # type: ignore[misc]
                        number, collection, project_id, wanted, data, limit, names, left_ms, dict(filters or {})
                    ),
                    left,
                )
                if isinstance(reply, Found):
                    return Nearest(reply.hits, reply.engine, generation)
                if isinstance(reply, GaveUp):
                    raise VectorsTimedOut(
                        "cannot search vectors: the time of the search is over",
                        hint="Install the extra vectors of nexusd: without numpy a search is a hundred times slower.",
                    )
                if isinstance(reply, Failed):
                    raise _failure(reply, data)
                assert isinstance(reply, Behind)
                synced = await self._bring_up(child, collection, project_id, ends_at - loop.time())
                if not synced.dimension:
                    return Nearest([], synced.engine, 0)
                generation = synced.generation
        raise VectorsUnavailable("cannot search vectors: another program keeps on changing the files of the matrix")

    async def sync(self, collection: str, project_id: str, *, timeout_s: float | None = None) -> SyncResult:
        """Bring the matrix of a collection up to its rows, as ``nearest`` does by itself."""
        self._check_names(collection, project_id)
        loop = asyncio.get_running_loop()
        ends_at = None if timeout_s is None else loop.time() + timeout_s
        async with self._worker(ends_at) as child:
            return await self._bring_up(
                child, collection, project_id, None if ends_at is None else ends_at - loop.time()
            )

    async def matrix(self, collection: str, project_id: str) -> State | None:
        """Which rows the matrix of a collection has, by its header, read in a thread; None if it is missing."""
        path, _ids = paths_of(self._directory, collection, project_id)
        return await asyncio.to_thread(peek, path)

    def next_engine(self) -> str:
        """The name of the engine that a process would have which is started now."""
        return "python" if self._engine() == "python" or importlib.util.find_spec("numpy") is None else "numpy"

    async def forget(self, project_id: str) -> None:
        """Remove the files of a project, in a thread; its rows are gone. Each new process does so, too."""
        for collection in TABLES:
            paths = paths_of(self._directory, collection, project_id)
            await asyncio.to_thread(lambda paths=paths: [path.unlink(missing_ok=True) for path in paths])  # type: ignore[misc]

    async def close(self) -> None:
        """End the process. Requests that come later are refused."""
        self._closed = True
        self._cancel_timer()
        async with self._turn:
            self._end_child()
        if ending := list(self._tasks):
            await asyncio.wait(ending)

    async def _bring_up(
        self, child: WorkerChild, collection: str, project_id: str, timeout_s: float | None
    ) -> SyncResult:
        reply = await child.ask(lambda number: SyncMatrix(number, collection, project_id), timeout_s)
        if isinstance(reply, Failed):
            raise _failure(reply, b"")
        assert isinstance(reply, Synced)
        if reply.damage:
            _log.warning("the matrix %s of project %s was built again: %s", collection, project_id, reply.damage)
        return SyncResult(reply.engine, reply.dimension, reply.generation, reply.rows, reply.skipped, reply.rebuilt)

    def _check_names(self, collection: str, project_id: str) -> None:
        if collection not in TABLES:
            raise ValueError(f"there is no collection {collection!r}")
        paths_of(self._directory, collection, project_id)

    @contextlib.asynccontextmanager
    async def _worker(self, ends_at: float | None) -> AsyncIterator[WorkerChild]:
        """The process, for one request; others wait."""
        try:
            async with asyncio.timeout_at(ends_at):
                await self._turn.acquire()
        except TimeoutError:
            raise VectorsTimedOut("cannot search vectors: the searches before it took too long") from None
        try:
            self._cancel_timer()
            yield await self._running_child()
        finally:
            self._arm_timer()
            self._turn.release()

    async def _running_child(self) -> WorkerChild:
        if self._closed:
            raise VectorsUnavailable("cannot search vectors: the daemon stops")
        engine = self._engine()
        if self._child is not None and (not self._child.usable or engine != self._child_engine):
            self._end_child()
        if self._child is None:
            try:
                self._child, self._child_engine = WorkerChild(self._database, self._directory, engine), engine
            except OSError as error:
                raise VectorsUnavailable(
                    f"cannot search vectors: the process cannot be started: {error.strerror or error}"
                ) from None
            try:
                await self._child.start()
            except BaseException:
                self._end_child()
                raise
        return self._child

    def _end_child(self) -> None:
        """Have the process ended; another one waits for the lock of the folder until it is."""
        child, self._child = self._child, None
        if child is not None:
            self._tasks.spawn(child.close())

    def _arm_timer(self) -> None:
        if not self._closed and self._child is not None:
            self._idle_timer = asyncio.get_running_loop().call_later(self._idle_s(), self._end_idle)

    def _cancel_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _end_idle(self) -> None:
        self._idle_timer = None
        if self._turn.locked():
            return
        if self._child is not None and self._child.usable and self._child.busy:
            self._arm_timer()
        else:
            self._end_child()


def _failure(reply: Failed, query: bytes) -> Exception:
    if reply.kind == "dimension":
        given = dimension_of(query)
        return VectorDimensionMismatch(
            f"cannot search vectors: the query has {given} values, and those of the collection have {reply.expected}",
            hint="Use the model that made the other vectors, or reset the collection for the new one.",
            details={"given": given, "expected": reply.expected},
        )
    return VectorsUnavailable(reply.message, hint="Look at the folder beside the database, and at the free disk space.")
