"""What the rest of Nexus may know of the store: the interface, the transaction, the errors. No SQL, no files.

StoreError
├── InitError              the store cannot be opened; a sentence and a hint for whoever starts the daemon
│   ├── SchemaMismatch     the database is newer than the program, or not of Nexus at all
│   └── DatabaseDamaged    the file is not readable as a database
├── QueryError             a read failed, or a statement did
├── StoreConflict          a constraint of the schema refused a change
├── DiskFull               nothing was changed, because there is no room
├── OutcomeUnknown         the disk failed in the middle of a commit
├── StoreUnavailable       nothing was tried: the database is locked or its disk fails
└── PathUnusable           a file cannot be made where it was asked for
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from nexus_protocol.errors import Conflict, FailedPrecondition, Internal, NexusError, ResourceExhausted, Unavailable

__all__ = [
    "AppliedMigration",
    "BackupInfo",
    "DatabaseDamaged",
    "DatabaseStatus",
    "DiskFull",
    "InitError",
    "OutcomeUnknown",
    "PathUnusable",
    "QueryError",
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
    """Anything that goes wrong in the store."""


class InitError(StoreError, Internal):
    """The store cannot be opened."""

    type = "store.init"


class SchemaMismatch(InitError):
    """The database's schema is not one that this program can work with, and it was left as it is."""

    type = "store.schema_mismatch"

    def __init__(self, message: str, *, expected: int, found: int | None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint, details={"expected": expected, "found": found})
        self.expected = expected
        self.found = found


class DatabaseDamaged(InitError):
    """The file cannot be read as a database. It was left as it is."""

    type = "store.damaged"


class QueryError(StoreError, Internal):
    """A statement failed."""

    type = "store.query"


class StoreConflict(StoreError, Conflict):
    """A constraint of the schema refused the change."""

    type = "store.conflict"


class DiskFull(StoreError, ResourceExhausted):
    """There is no room for the change; nothing was changed."""

    type = "store.disk_full"


class OutcomeUnknown(StoreError, Unavailable):
    """The disk failed while the change was being committed: after a restart it may be there or not."""

    type = "store.outcome_unknown"


class StoreUnavailable(StoreError, Unavailable):
    """The change was not tried, because the database cannot be written now."""

    type = "store.unavailable"


class PathUnusable(StoreError, FailedPrecondition):
    """No file can be made at this place."""

    type = "store.path_unusable"


class Reader(Protocol):
    """One consistent look at the data. Results are always fetched whole."""

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        """The first row, or None."""

    def all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows."""


class Transaction(Reader, Protocol):
    """A change in the making. What is done through it is committed as a whole, or not at all.

    The function that is given one may run twice, so it must have no effect outside of it, and it must not keep it.
    """

    now: int
    """Milliseconds since the Unix epoch, the same for the whole change."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement; gives the number of rows that it changed.

        Raises:
            StoreConflict: a constraint of the schema is violated.
        """

    def mark_journal(self) -> None:
        """Say that this change wrote to the journal, so that whoever watches it is woken after the commit."""


class AppliedMigration(NamedTuple):
    """One step of the schema that the database has taken."""

    version: int
    name: str
    applied_at: int | None
    """Milliseconds since the epoch."""


class DatabaseStatus(NamedTuple):
    """What there is to say of the database without touching its contents."""

    path: str
    table_count: int
    size_bytes: int
    schema_version: int
    journal_mode: str
    foreign_keys: bool
    tables: list[str]
    migrations: list[AppliedMigration]


class BackupInfo(NamedTuple):
    """A finished, verified copy."""

    path: str
    size_bytes: int
    schema_version: int
    pruned: int
    """How many older copies were deleted."""


class StateStore(Protocol):
    """Durable state. Implemented by ``nexus.store.sqlite.SqliteStore``."""

    def init(self) -> None:
        """Open the store and bring its schema up to date.

        Raises:
            InitError: it cannot be opened; the message says why and the hint what to do.
        """

    def status(self) -> DatabaseStatus:
        """Where the database is and what it holds.

        Raises:
            QueryError: it cannot be read.
        """

    def read(self, fn: Callable[[Reader], T], *, snapshot: bool = False) -> T:
        """Run ``fn`` on a view of everything that is committed, at once and in the calling thread.

        It is for point reads and short pages. With ``snapshot`` several statements see the same state.

        Raises:
            QueryError: a statement failed.
        """

    async def write(self, fn: Callable[[Transaction], T], *, size_bytes: int = 256) -> T:
        """Run ``fn`` in a transaction of its own; gives its result when the change is durable.

        An exception of ``fn`` undoes its change and is raised here. ``size_bytes`` is roughly what it writes.

        Raises:
            DiskFull: nothing was changed.
            OutcomeUnknown: the disk failed during the commit.
            StoreUnavailable: nothing was tried.
            StoreConflict, QueryError: a statement failed, and nothing was changed.
        """

    async def backup(self, path: Path | None = None, *, keep_days: int = 30) -> BackupInfo:
        """Make a verified, consistent copy while the store is in use; see ``nexus.store.backup``."""

    def on_journal(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` in the event loop after each commit that wrote to the journal; gives how to stop that."""

    def problem(self) -> StoreError | None:
        """What keeps the store from being written, or from being where it was opened; None when all is well."""

    async def close(self) -> None:
        """Finish the writes that are queued and release the store."""
