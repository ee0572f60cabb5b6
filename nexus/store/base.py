"""The public interface of the store: the protocols, the transaction, the errors. No SQL, no files.

StoreError
├── InitError              the store cannot be opened; message and hint are shown when the daemon starts
│   ├── SchemaMismatch     the database is newer than the program, or not a Nexus database
│   └── DatabaseDamaged    the file is not a readable database
├── QueryError             a read or a statement failed
├── ReadTimedOut           a read took longer than it may
├── StoreConflict          a constraint of the schema refused a change
├── DiskFull               nothing was changed, because the disk is full
├── OutcomeUnknown         the disk failed during a commit
├── StoreUnavailable       nothing was tried: the database is locked or its disk fails
└── PathUnusable           a file cannot be created at the given path
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from nexus_protocol.errors import (
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    NexusError,
    ResourceExhausted,
    Unavailable,
)

__all__ = [
    "PLAIN_BACKUP",
    "AppliedMigration",
    "BackupAt",
    "BackupInfo",
    "BackupOptions",
    "DatabaseDamaged",
    "DatabaseStatus",
    "DiskFull",
    "InitError",
    "FenceMark",
    "OutcomeUnknown",
    "PathUnusable",
    "QueryError",
    "ReadTimedOut",
    "Reader",
    "Row",
    "SchemaMismatch",
    "StateStore",
    "StoreConflict",
    "StoreError",
    "StoreUnavailable",
    "Transaction",
]

T = TypeVar("T")

Row = tuple[Any, ...]


class StoreError(NexusError):
    """Base class of the store's errors."""


class InitError(StoreError, Internal):
    """The store cannot be opened."""

    type = "store.init"


class SchemaMismatch(InitError):
    """This program cannot work with the database's schema. The database was not changed."""

    type = "store.schema_mismatch"

    def __init__(self, message: str, *, expected: int, found: int | None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint, details={"expected": expected, "found": found})
        self.expected = expected
        self.found = found


class DatabaseDamaged(InitError):
    """The file cannot be read as a database. It was not changed."""

    type = "store.damaged"


class QueryError(StoreError, Internal):
    """A statement failed."""

    type = "store.query"


class ReadTimedOut(StoreError, DeadlineExceeded):
    """A read took longer than it may."""

    type = "store.read_timed_out"


class StoreConflict(StoreError, Conflict):
    """A constraint of the schema refused the change."""

    type = "store.conflict"


class DiskFull(StoreError, ResourceExhausted):
    """The disk is full; nothing was changed."""

    type = "store.disk_full"


class OutcomeUnknown(StoreError, Unavailable):
    """The disk failed during the commit: after a restart the change may or may not be there."""

    type = "store.outcome_unknown"


class StoreUnavailable(StoreError, Unavailable):
    """The change was not tried, because the database cannot be written at present."""

    type = "store.unavailable"


class PathUnusable(StoreError, FailedPrecondition):
    """No file can be created at this path."""

    type = "store.path_unusable"


class Reader(Protocol):
    """Read access to the data. Each call returns its complete result."""

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        """Return the first row, or None."""

    def all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Return all rows."""


class FenceMark(NamedTuple):
    """What is known of the epochs of one resource."""

    kind: str
    id: str
    dead: int
    """The highest epoch whose lease is over; 0 without one."""
    granted: int
    """The highest epoch that was given out; 0 without one."""


class Transaction(Reader, Protocol):
    """A write transaction. It is committed as a whole or not at all.

    A function that is given a transaction may run several times: it must have no effect outside the transaction, and
    must not keep a reference to it.
    """

    now: int
    """Milliseconds since the Unix epoch, the same for the whole transaction."""

    operation: int | None
    """The operation whose row is known to be there once this transaction is committed; None before its first change."""

    notes: dict[Any, Any]
    """What a function notes for those that are called after it in this transaction. It ends with the transaction."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement; returns the number of rows that it changed.

        Raises:
            StoreConflict: a constraint of the schema is violated.
        """

    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement for each of many rows of parameters.

        Raises:
            StoreConflict: a constraint of the schema is violated.
        """

    def count(self, kind: str, state: str, by: int) -> None:
        """Note that so many more records of a kind are in a state, for ``StateStore.counted``."""

    def mark_journal(self) -> None:
        """Note that this transaction wrote to the journal: the journal's listeners are called after the commit."""

    def operation_number(self) -> int:
        """A number above those of all operations. It is given once, also if the transaction is rolled back."""

    def on_commit(self, fn: Callable[[], None]) -> None:
        """Call ``fn`` in the event loop once this transaction is durable, before its waiter goes on; at most once."""

    def digest(self, data: bytes) -> bytes:
        """See ``StateStore.digest``."""

    def fence_mark(self, kind: str, id_: str) -> FenceMark:
        """The high water of a resource's epochs, which no older database in the place of this one takes back."""

    def fence_marks(self) -> list[FenceMark]:
        """The high water of every resource."""

    def mark_fence(self, mark: FenceMark) -> None:
        """Raise the high water of a resource before this transaction is committed; ``on_fences`` is told after it."""


class AppliedMigration(NamedTuple):
    """A migration that was applied to the database."""

    version: int
    name: str
    applied_at: int | None
    """Milliseconds since the epoch."""


class DatabaseStatus(NamedTuple):
    """The state of the database file and of its schema."""

    path: str
    table_count: int
    size_bytes: int
    schema_version: int
    journal_mode: str
    foreign_keys: bool
    tables: list[str]
    migrations: list[AppliedMigration]


class BackupInfo(NamedTuple):
    """A finished, verified backup."""

    path: str
    size_bytes: int
    schema_version: int
    pruned: int
    """The number of older backups that were deleted."""
    files: tuple[tuple[str, int, int, int, int], ...] = ()
    """``FileCounts`` for each set of files that the rows refer to."""
    with_files: bool = False
    """Whether the files are in the backup."""


class BackupAt(NamedTuple):
    """A backup that is there."""

    path: Path
    at: int
    """The time in its name (ms)."""
    last_event: int | None
    """The highest number of an event that it has; None where it cannot be read."""


class BackupOptions(NamedTuple):
    """How a backup is made."""

    keep_days: int = 30
    """Older backups with generated names are deleted; see ``prune_backups``."""
    now_ms: int | None = None
    """The present time for that; None is that of the wall clock."""
    dated_ms: int | None = None
    """The time in the generated name; None is that of the wall clock."""
    with_files: bool = False
    """Whether it is an archive that also holds the files that the rows refer to."""


PLAIN_BACKUP = BackupOptions()
"""A backup of the database alone."""


class StateStore(Protocol):
    """Durable state. Implemented by ``nexus.store.sqlite.SqliteStore``."""

    @property
    def path(self) -> Path:
        """Where the database is."""

    def init(self) -> None:
        """Open the store and migrate its schema to the newest version.

        Raises:
            InitError: the store cannot be opened.
        """

    def status(self) -> DatabaseStatus:
        """Describe the database: its path, size, schema and tables.

        Raises:
            QueryError: the database cannot be read.
        """

    def read(self, fn: Callable[[Reader], T], *, snapshot: bool = False) -> T:
        """Run ``fn`` on the committed data, synchronously in the calling thread.

        It is for point reads and short pages. With ``snapshot`` all statements of ``fn`` see the same state.

        Raises:
            QueryError: a statement failed.
        """

    async def fetch(self, fn: Callable[[Reader], T], *, snapshot: bool = False) -> T:
        """``read`` for a coroutine: a store that must ask another process waits for it here.

        Raises:
            QueryError: a statement failed.
        """

    async def scan(self, fn: Callable[[Reader], T], *, limit_s: float) -> T:
        """``read`` for what may take long: ``fn`` runs in a thread of its own, on one state of the data.

        It must not use what belongs to the event loop. Two such reads run at a time, others wait.

        Raises:
            ReadTimedOut: it took longer than ``limit_s``.
            QueryError: a statement failed.
        """

    async def write(self, fn: Callable[[Transaction], T], *, size_bytes: int = 256) -> T:
        """Run ``fn`` in a transaction of its own; returns its result when the change is durable.

        An exception of ``fn`` rolls its change back and is raised here. ``size_bytes`` estimates what it writes.

        Raises:
            DiskFull: nothing was changed.
            OutcomeUnknown: the disk failed during the commit.
            StoreUnavailable: nothing was tried.
            StoreConflict, QueryError: a statement failed; nothing was changed.
        """

    async def counted(self, kind: str, count: Callable[[Reader], dict[str, int]]) -> dict[str, int]:
        """The number of records of a kind in each state; states without records are left out.

        ``count`` counts them in the database. It is called once, in the writer's thread; from then on the changes are
        added that each transaction noted by ``Transaction.count``.

        Raises:
            StoreError: they were not counted yet, and the store cannot be written.
        """

    async def backup(self, path: Path | None = None, options: BackupOptions = PLAIN_BACKUP) -> BackupInfo:
        """Make a verified, consistent backup while the store is in use; see ``nexus.store.backup``."""

    def backup_now(self, path: Path | None = None, options: BackupOptions = PLAIN_BACKUP) -> BackupInfo:
        """The blocking form of ``backup``, for a thread."""

    def newest_backup(self, now_ms: int) -> BackupAt | None:
        """The newest backup with a generated name that is not of the future. Blocks."""

    def digest(self, data: bytes) -> bytes:
        """Return a digest of ``data``, 16 bytes, that nobody can make without the key of this store."""

    def on_journal(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` in the event loop after each commit with journal rows; returns an unsubscribe function."""

    def on_fences(self, listener: Callable[[set[tuple[str, str]]], None]) -> None:
        """Call ``listener`` in the event loop after each commit that raised fences, with the kinds and ids of these."""

    def problem(self) -> StoreError | None:
        """Return why the store cannot be written, or that its file was deleted or replaced; None without a problem."""

    async def close(self) -> None:
        """Finish the queued writes and close the store."""
