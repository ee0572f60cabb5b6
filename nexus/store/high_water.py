"""The high water of fences, in a small database beside the database: people put older databases in its place.

It is ``.nexus.db.fences`` for ``nexus.db``. For each resource that ever had a lease it has the highest epoch that was
granted, and the highest whose lease is over. It is written, durably, before the change of the database is: what it says
may be ahead of the database and is never behind it. An older copy of the database, however it came there, then has no
lease that is over, and gives no epoch for a second time.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from nexus.store.aside import set_aside
from nexus.store.base import FenceMark
from nexus.store.connection import connect
from nexus.trust import Untrusted, require_trusted

__all__ = ["HighWater", "high_water_file"]

T = TypeVar("T")

_log = logging.getLogger("nexus.store")

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS dead (kind TEXT NOT NULL, id TEXT NOT NULL, epoch INTEGER NOT NULL, "
    "granted INTEGER NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID"
)
_RAISE = (
    "INSERT INTO dead (kind, id, epoch, granted) VALUES (?, ?, ?, ?) ON CONFLICT (kind, id) DO UPDATE SET "
    "epoch = max(epoch, excluded.epoch), granted = max(granted, excluded.granted)"
)


def high_water_file(database: str | os.PathLike[str]) -> Path:
    """The file beside the database; beside the real one, where the path is a symbolic link."""
    folder, name = os.path.split(os.path.realpath(database))
    return Path(folder, f".{name}.fences")


class HighWater:
    """The marks beside one database. Used by one thread at a time; ``path`` None keeps them in memory.

    There is no file before the first mark. One that is damaged is set aside; while none can be written, the marks are
    kept in memory and written with the next ones.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._unwritten: list[FenceMark] = []

    def mark(self, kind: str, id_: str) -> FenceMark:
        """What is known of a resource."""
        rows = self._read("SELECT kind, id, epoch, granted FROM dead WHERE kind = ? AND id = ?", (kind, id_))
        found = [*rows, *(mark for mark in self._unwritten if (mark.kind, mark.id) == (kind, id_))]
        return FenceMark(kind, id_, max((m.dead for m in found), default=0), max((m.granted for m in found), default=0))

    def marks(self) -> list[FenceMark]:
        """What is known of every resource."""
        return [*self._read("SELECT kind, id, epoch, granted FROM dead ORDER BY kind, id"), *self._unwritten]

    def write(self, marks: Iterable[FenceMark]) -> None:
        """Raise marks, durably. It logs a failure and raises none: the fence in the database holds meanwhile."""
        wanted = [*self._unwritten, *marks]

        def insert(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany(_RAISE, wanted)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

        try:
            self._use(insert, create=True)
            self._unwritten = []
        except (sqlite3.Error, OSError, Untrusted) as error:
            self._unwritten = wanted
            _log.warning("the epochs of leases cannot be noted in %s: %s", self._path, error)

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _read(self, sql: str, parameters: Sequence[str] = ()) -> list[FenceMark]:
        try:
            rows = self._use(lambda connection: connection.execute(sql, parameters).fetchall(), create=False)
        except (sqlite3.Error, OSError, Untrusted) as error:
            _log.warning("the epochs of leases cannot be read from %s: %s", self._path, error)
            rows = None
        return [FenceMark(*row) for row in rows or ()]

    def _use(self, fn: Callable[[sqlite3.Connection], T], *, create: bool) -> T | None:
        """Call ``fn`` with the connection, again with a new file where this one is damaged; None without a file."""
        for again in (True, False):
            try:
                connection = self._open(create)
                return None if connection is None else fn(connection)
            except sqlite3.DatabaseError as error:
                damaged = getattr(error, "sqlite_errorcode", 0) & 0xFF in (
                    sqlite3.SQLITE_CORRUPT,
                    sqlite3.SQLITE_NOTADB,
                )
                if not (damaged and again and self._path is not None):
                    raise
                self.close()
                _log.warning("%s is damaged (%s): it is kept as %s", self._path, error, set_aside(self._path))
        raise AssertionError

    def _open(self, create: bool) -> sqlite3.Connection | None:
        if self._connection is not None:
            return self._connection
        if self._path is None:
            connection = connect(":memory:", isolation_level=None, check_same_thread=False)
        else:
            if os.path.lexists(self._path):
                require_trusted(os.fspath(self._path), "the file of epochs")
            elif not create:
                return None
            else:
                os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            connection = connect(self._path, isolation_level=None, check_same_thread=False, timeout=5)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                error = sqlite3.DatabaseError(problem)
                error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
                raise error
            connection.execute(_SCHEMA)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection
