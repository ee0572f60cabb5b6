"""The writer thread: it takes queued writes, commits them together, and wakes the event loop once per group.

Group commit: up to 128 writes share one commit (and its fsync). If one of them fails, all are rolled back and run
again, each in its own savepoint, so that a failed write rolls back only itself; so are the next groups. If SQLite rolls
back a whole group, the thread commits a *fence*, a small write that settles what is on the disk, and then runs each
write again, alone. A write function may therefore run several times.

Before and after each commit the thread looks whether the files are in their places. It alone changes the database file,
by the checkpoints that it makes after a commit, and so it knows when another program does.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from nexus.store.backup import sqlite_failure
from nexus.store.base import DiskFull, FenceMark, OutcomeUnknown, Row, StoreError, StoreUnavailable, Transaction
from nexus.store.high_water import HighWater
from nexus.store.placement import Placement
from nexus.tasks import deliver_again

__all__ = ["CountChange", "Numbers", "SqliteReader", "SqliteTransaction", "Writer", "last_operation"]

T = TypeVar("T")

_log = logging.getLogger("nexus.store")

MAX_GROUP_WRITES = 128
MAX_GROUP_BYTES = 1024 * 1024
WAL_LIMIT_BYTES = 8 * 1024 * 1024
"""Above this size the writer tries to truncate the write-ahead log, at most once a second."""
CACHE_KIB, LARGE_CACHE_KIB = 2000, 32 * 1024
"""Of pages, at most; the larger one for a group of more than ``MAX_GROUP_BYTES``, whose pages would be written and read
again and again."""
GUARDED_GROUPS = 64
"""So many groups have a savepoint for each write, after a write that failed."""
LOG_LOOK_GROUPS = 8
"""The position of the log is looked at after each so many groups."""
PROBE_INTERVAL_S = 1.0


class SqliteReader:
    """``Reader`` on a connection."""

    __slots__ = ("_connection",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        # All rows are fetched: an open cursor would keep an old snapshot for every later read.
        rows = self._connection.execute(sql, parameters).fetchall()
        return rows[0] if rows else None

    def all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return self._connection.execute(sql, parameters).fetchall()


class SqliteTransaction(SqliteReader):
    """``Transaction`` on the writer's connection."""

    __slots__ = ("_numbers", "committed", "counts", "fences", "journaled", "notes", "now", "operation")

    def __init__(self, connection: sqlite3.Connection, now: int, numbers: Numbers) -> None:
        super().__init__(connection)
        self.now = now
        self.operation: int | None = None
        self.notes: dict[Any, Any] = {}
        self.journaled = False
        self.counts: list[CountChange] = []
        self.committed: list[Callable[[], None]] = []
        self.fences: list[FenceMark] = []
        self._numbers = numbers

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        try:
            return super().one(sql, parameters)
        except sqlite3.IntegrityError as error:
            raise sqlite_failure(error, "change the database") from error

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        try:
            return self._connection.execute(sql, parameters).rowcount
        except sqlite3.IntegrityError as error:
            raise sqlite_failure(error, "change the database") from error

    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        try:
            self._connection.executemany(sql, rows)
        except sqlite3.IntegrityError as error:
            raise sqlite_failure(error, "change the database") from error

    def mark_journal(self) -> None:
        self.journaled = True

    def count(self, kind: str, state: str, by: int) -> None:
        self.counts.append(CountChange(kind, {state: by}))

    def operation_number(self) -> int:
        return self._numbers.next_operation(self._connection)

    def on_commit(self, fn: Callable[[], None]) -> None:
        self.committed.append(fn)

    def digest(self, data: bytes) -> bytes:
        return self._numbers.digest(data)

    def fence_mark(self, kind: str, id_: str) -> FenceMark:
        return self._numbers.high_water.mark(kind, id_)

    def fence_marks(self) -> list[FenceMark]:
        return self._numbers.high_water.marks()

    def mark_fence(self, mark: FenceMark) -> None:
        self.fences.append(mark)


def last_operation(connection: sqlite3.Connection) -> int:
    """The highest number that a database has given an operation, also if it has none at present; 0 without any."""
    sql = "SELECT max(CAST(value AS INTEGER)) FROM schema_meta WHERE key = 'operation_pruned_id'"
    highest = int(connection.execute(sql).fetchone()[0] or 0)
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'operation'").fetchone():
        highest = max(highest, int(connection.execute("SELECT max(id) FROM operation").fetchone()[0] or 0))
    return highest


class Numbers:
    """What transactions of one database are given: the numbers of operations, digests, and the high water of fences."""

    def __init__(self, key: bytes, high_water: HighWater | None = None) -> None:
        self._key = key
        self.high_water = high_water or HighWater(None)
        self._last: int | None = None

    def next_operation(self, connection: sqlite3.Connection) -> int:
        """See ``Transaction.operation_number``. Called in the writer's thread alone."""
        if self._last is None:
            self._last = last_operation(connection)
        self._last += 1
        return self._last

    def digest(self, data: bytes) -> bytes:
        """See ``StateStore.digest``."""
        return hashlib.blake2b(data, digest_size=16, key=self._key).digest()


class CountChange(NamedTuple):
    """What a transaction changes in the number of records of a kind; with ``is_total`` it has counted them."""

    kind: str
    states: dict[str, int]
    is_total: bool = False


class _Job:
    """One queued write: its function, the future of its waiter, and its result or error."""

    __slots__ = (
        "_token",
        "committed",
        "counts",
        "delivered",
        "error",
        "fences",
        "fn",
        "future",
        "journaled",
        "result",
        "size_bytes",
    )

    def __init__(self, fn: Callable[[Transaction], Any], future: asyncio.Future[None], size_bytes: int) -> None:
        self.fn = fn
        self.future = future
        self.size_bytes = size_bytes
        self.result: Any = None
        self.error: BaseException | None = None
        self.journaled = False
        self.counts: list[CountChange] = []
        self.committed: list[Callable[[], None]] = []
        self.fences: list[FenceMark] = []
        self.delivered = False
        self._token = [None]

    def claim(self) -> bool:
        """True only for the first caller: either the writer takes the job, or the waiter withdraws it."""
        try:
            self._token.pop()
        except IndexError:
            return False
        return True


class _GroupLost(Exception):
    """SQLite rolled back the group's transaction, with the savepoints released in it.

    After a failed COMMIT (``at_commit``) the disk may hold the group nevertheless.
    """

    def __init__(self, *, at_commit: bool = False) -> None:
        super().__init__()
        self.at_commit = at_commit


class Writer:
    """Owns the writing connection and its thread, from ``start`` to ``close``."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        placement: Placement,
        numbers: Numbers,
        on_journal: Callable[[], None],
        on_fences: Callable[[set[tuple[str, str]]], None],
    ) -> None:
        self._connection = connection
        self._placement = placement
        self._misplaced = False
        assert placement.log is not None
        self._log = placement.log
        self._numbers = numbers
        self._on_journal = on_journal
        self._on_fences = on_fences
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = False
        self._last_truncation = 0.0
        self._groups = 0
        self._guarded = 0
        """How many of the next groups have a savepoint for each write."""
        self.counts: dict[str, Counter[str]] = {}
        """The number of records by kind and state, of the kinds that were counted. Changed in the event loop alone."""
        self.fault: StoreError | None = None
        """Why writes fail at present; None while they succeed."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread; results are delivered in ``loop``."""
        self._loop = loop
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    async def write(self, fn: Callable[[Transaction], T], size_bytes: int) -> T:
        """See ``StateStore.write``.

        A write that is cancelled while it waits in the queue is withdrawn. One that the thread has already taken may be
        durable, so that "cancelled" could be wrong: the result is returned, and the cancellation is delivered again at
        the task's next wait.
        """
        if self._loop is None or self._thread is None or self._closing:
            raise StoreUnavailable("cannot write: the store is closed")
        job = _Job(fn, self._loop.create_future(), size_bytes)
        self._queue.put(job)
        cancelled = False
        while not job.delivered:
            try:
                # asyncio.shield would cost another turn of the loop; instead a cancelled future is replaced.
                await job.future
            except asyncio.CancelledError:
                if job.claim():
                    raise
                cancelled = True
                job.future = self._loop.create_future()
        if cancelled:
            deliver_again()
        error = job.error
        if error is not None:
            # Its traceback has frames with the job: no cycle may keep what the write holds until a collection.
            job.error = None
            try:
                raise error
            finally:
                del error
        return job.result  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Commit the queued writes, then end the thread. Later writes are refused."""
        if self._thread is None:
            return
        self._closing = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self._thread = None

    # Everything below runs in the writer's thread.

    def _run(self) -> None:
        while True:
            group = self._next_group()
            if group is None:
                return
            jobs = [job for job in group if job.claim()]
            if jobs:
                try:
                    self._commit(jobs)
                except BaseException as error:
                    _log.critical("the store's writer failed: %r", error, exc_info=True)
                    for job in jobs:
                        job.error = job.error or StoreUnavailable(f"cannot write: {error!r}")
                # After the delivery the event loop is busy with it: each system call would give up the GIL to it.
                self._groups += 1
                due = self._groups % LOG_LOOK_GROUPS == 0 and self._log.is_due
                self._call_soon(self._deliver, jobs)
                if due:
                    self._checkpoint_due()

    def _next_group(self) -> list[_Job] | None:
        while True:
            try:
                job = self._queue.get(timeout=PROBE_INTERVAL_S if self.fault else None)
                break
            except queue.Empty:
                self._fence()
        if job is None:
            return None
        group = [job]
        size = job.size_bytes
        while len(group) < MAX_GROUP_WRITES and size < MAX_GROUP_BYTES:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._queue.put(None)
                break
            group.append(job)
            size += job.size_bytes
        return group

    def _call_soon(self, fn: Callable[..., None], *args: Any) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(fn, *args)
        except RuntimeError:
            _log.warning("writes finished after the event loop was closed")

    def _deliver(self, jobs: list[_Job]) -> None:
        """In the event loop: wake the waiters of these writes."""
        journaled = False
        fenced: set[tuple[str, str]] = set()
        for job in jobs:
            if job.error is None:
                journaled = journaled or job.journaled
                fenced.update((mark.kind, mark.id) for mark in job.fences)
                for change in job.counts:
                    self._count(change)
                for committed in job.committed:
                    committed()
            elif isinstance(job.error, OutcomeUnknown):
                self.counts.clear()
            job.delivered = True
            if not job.future.done():
                job.future.set_result(None)
        if journaled:
            self._on_journal()
        if fenced:
            self._on_fences(fenced)

    def _count(self, change: CountChange) -> None:
        if change.is_total:
            self.counts[change.kind] = Counter(change.states)
        elif change.kind in self.counts:
            self.counts[change.kind].update(change.states)

    def _commit(self, jobs: list[_Job]) -> None:
        problem = self._find_misplaced()
        if problem is not None:
            for job in jobs:
                job.error = StoreUnavailable(f"cannot write: {problem.message}", hint=problem.hint)
            return
        self._commit_in_place(jobs)
        problem = self._find_misplaced()
        if problem is None:
            self._log.note_size()
        if problem is not None:
            for job in jobs:
                job.error = job.error or OutcomeUnknown(
                    f"cannot tell whether the change is kept: {problem.message}", hint=problem.hint
                )

    def _find_misplaced(self) -> StoreUnavailable | None:
        problem = self._placement.problem(self._connection, with_index=False)
        if problem is not None and not self._misplaced:
            _log.error("writes are refused: %s", problem.message)
        elif problem is None and self._misplaced:
            _log.warning("the database's files are in their places again")
        self._misplaced = problem is not None
        return problem

    def _commit_in_place(self, jobs: list[_Job]) -> None:
        if self.fault is not None and not isinstance(self.fault, DiskFull) and not self._fence():
            for job in jobs:
                job.error = StoreUnavailable(f"cannot write: {self.fault.message}", hint=self.fault.hint)
            return
        try:
            self._transaction(jobs)
        except _GroupLost as lost:
            if self._fence():
                for job in jobs:
                    self._commit_alone(job)
            else:
                self._fail_lost(jobs, lost)
        else:
            self._probe_after_doubt(jobs)

    def _probe_after_doubt(self, jobs: list[_Job]) -> None:
        """After a fault or a full disk, find out whether writes succeed at present."""
        if self.fault is not None or any(isinstance(job.error, DiskFull) for job in jobs):
            self._fence()

    def _commit_alone(self, job: _Job) -> None:
        job.error = None
        try:
            self._transaction([job])
        except _GroupLost as lost:
            if self._fence():
                # The fence is durable, so the lost write is not on the disk.
                job.error = self._failure(lost.__cause__)
            else:
                self._fail_lost([job], lost)
        else:
            self._probe_after_doubt([job])

    def _fail_lost(self, jobs: list[_Job], lost: _GroupLost) -> None:
        """Set the errors of lost writes while no fence can be committed.

        A commit that failed on a full disk is certainly absent: its last page, which makes it valid, had no room.
        """
        cause = lost.__cause__
        for job in jobs:
            job.error = self._failure(cause)
            if isinstance(job.error, DiskFull):
                continue
            if lost.at_commit:
                job.error = OutcomeUnknown(
                    f"cannot tell whether the change was made: {cause}",
                    hint="The disk fails. Once it works, check the record, or repeat the request with the same id.",
                )
            elif self.fault is not None:
                job.error = StoreUnavailable(f"cannot write: {self.fault.message}", hint=self.fault.hint)

    @staticmethod
    def _failure(cause: BaseException | None) -> BaseException:
        if isinstance(cause, sqlite3.Error):
            return sqlite_failure(cause, "write to the database")
        if isinstance(cause, StopIteration):
            return RuntimeError(f"a write raised {cause!r}, which no future can carry")
        return cause or StoreUnavailable("cannot write to the database")

    def _transaction(self, jobs: list[_Job]) -> None:
        """Run and commit ``jobs`` together; a job that fails does not affect the others.

        Raises:
            _GroupLost: nothing is committed, as far as this connection can tell.
        """
        connection = self._connection
        execute = connection.execute
        is_large = sum(job.size_bytes for job in jobs) > MAX_GROUP_BYTES
        if is_large:
            execute(f"PRAGMA cache_size = -{LARGE_CACHE_KIB}")
        try:
            self._transaction_of(jobs)
        finally:
            if is_large:
                with contextlib.suppress(sqlite3.Error):
                    execute(f"PRAGMA cache_size = -{CACHE_KIB}")

    def _transaction_of(self, jobs: list[_Job]) -> None:
        connection = self._connection
        execute = connection.execute
        try:
            execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            for job in jobs:
                job.error = self._cannot_begin(error)
            return
        now = int(time.time() * 1000)
        alone = len(jobs) == 1
        guarded = not alone and self._guarded > 0
        self._guarded -= guarded
        failed = 0
        for job in jobs:
            transaction = SqliteTransaction(connection, now, self._numbers)
            try:
                if guarded:
                    execute("SAVEPOINT job")
                job.result = job.fn(transaction)
                if guarded:
                    execute("RELEASE job")
                elif not connection.in_transaction:
                    raise sqlite3.OperationalError("a write ended the transaction of its group")
                job.journaled = transaction.journaled
                job.counts = transaction.counts
                job.committed = transaction.committed
                job.fences = transaction.fences
            except BaseException as error:
                if not connection.in_transaction:
                    raise _GroupLost from error
                try:
                    if guarded:
                        execute("ROLLBACK TO job")
                        execute("RELEASE job")
                    else:
                        execute("ROLLBACK")
                except sqlite3.Error as broken:
                    raise _GroupLost from broken
                if not alone and not guarded:
                    self._guarded = GUARDED_GROUPS
                    self._transaction(jobs)
                    return
                job.error = self._failure(error)
                failed += 1
        if alone and failed:
            return
        fences = [mark for job in jobs if job.error is None for mark in job.fences]
        if fences:
            # Before the commit: what it says may be ahead of the database, and is never behind it.
            self._numbers.high_water.write(fences)
        try:
            # At a commit FTS5 merges segments of the search index, and frees many pages whose words are in others now.
            execute("PRAGMA secure_delete = FAST")
            execute("COMMIT")
        except sqlite3.Error as error:
            raise _GroupLost(at_commit=True) from error
        finally:
            with contextlib.suppress(sqlite3.Error):  # the error of the commit is what is told
                execute("PRAGMA secure_delete = ON")

    def _fence(self) -> bool:
        """Commit a small write, which settles what is on the disk; return whether it succeeded."""
        execute = self._connection.execute
        try:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            execute("BEGIN IMMEDIATE")
            execute(
                "INSERT INTO schema_meta (key, value) VALUES ('fence', '1') "
                "ON CONFLICT (key) DO UPDATE SET value = CAST(value AS INTEGER) + 1"
            )
            execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                try:
                    execute("ROLLBACK")
                except sqlite3.Error as broken:
                    _log.error("cannot roll back: %s", broken)
            self._note_fault(sqlite_failure(error, "write to the database"), error)
            return False
        self._recovered()
        return True

    def _cannot_begin(self, error: sqlite3.Error) -> StoreError:
        if (getattr(error, "sqlite_errorcode", 0) & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StoreUnavailable(
                "cannot write: another process holds a lock on the database",
                hint="Close other programs that have it open, such as an sqlite3 shell.",
            )
        failure = sqlite_failure(error, "write to the database")
        self._note_fault(failure, error)
        return failure if isinstance(failure, DiskFull) else StoreUnavailable(failure.message)

    def _note_fault(self, fault: StoreError, cause: BaseException) -> None:
        if self.fault is None or type(self.fault) is not type(fault):
            _log.error("the database cannot be written: %s", cause)
        self.fault = fault

    def _recovered(self) -> None:
        if self.fault is not None:
            _log.warning("the database can be written again")
            self.fault = None

    def _checkpoint_due(self) -> None:
        now = time.monotonic()
        if now - self._last_truncation >= 1.0 and self._log.size_bytes > WAL_LIMIT_BYTES:
            self._last_truncation = now
            self._checkpoint("TRUNCATE", busy_ms=20)
        else:
            self._checkpoint("PASSIVE", busy_ms=0)

    def _checkpoint(self, mode: str, *, busy_ms: int) -> None:
        """Copy the log into the database, unless another program has changed the database."""
        if self._placement.problem(self._connection) is not None:
            return
        try:
            self._connection.execute(f"PRAGMA busy_timeout = {busy_ms}")
            try:
                with self._placement.checkpoint():
                    _, frames, _ = self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
                self._log.note_checkpoint(frames)
            finally:
                self._connection.execute("PRAGMA busy_timeout = 5000")
        except sqlite3.Error as error:
            _log.debug("cannot copy the write-ahead log into the database: %s", error)
