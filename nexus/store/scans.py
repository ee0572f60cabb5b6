"""Reads that may take long: each in a thread and on a connection of its own, with a time limit.

The event loop and the writer go on meanwhile. A read whose time is over, or whose request was cancelled, is ended where
SQLite next looks, which is every few microseconds.
"""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from nexus.store.backup import sqlite_failure
from nexus.store.base import Reader, ReadTimedOut
from nexus.store.writer import SqliteReader

__all__ = ["SCANS_AT_ONCE", "Scans"]

T = TypeVar("T")

SCANS_AT_ONCE = 2
"""Others wait. Each has a connection, with a cache of 2 MiB."""
_LOOK_OPERATIONS = 1000
"""SQLite's operations between two looks at the time: some microseconds."""


class Scans:
    """The long reads of one store. ``connect`` opens a connection that only reads."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._idle: list[sqlite3.Connection] = []
        self._busy: set[sqlite3.Connection] = set()
        self._threads = ThreadPoolExecutor(SCANS_AT_ONCE, "store-scan")
        self._closed = False

    async def run(self, fn: Callable[[Reader], T], limit_s: float) -> T:
        """See ``StateStore.scan``."""
        scan = _Scan(self, fn, limit_s)
        context = contextvars.copy_context()
        future: asyncio.Future[T] = asyncio.get_running_loop().run_in_executor(self._threads, context.run, scan.run)
        try:
            return await future
        except asyncio.CancelledError:
            scan.stop()  # its thread ends it, and has the connection back by itself
            raise

    def close(self) -> None:
        """End the reads that run, and close the connections."""
        self._closed = True
        for connection in list(self._busy):
            connection.interrupt()
        self._threads.shutdown(cancel_futures=True)
        while self._idle:
            self._idle.pop().close()

    # In the threads

    def take(self) -> sqlite3.Connection:
        """A connection for one read."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        self._busy.add(connection)
        return connection

    def give_back(self, connection: sqlite3.Connection) -> None:
        """Keep a connection for the next read."""
        self._busy.discard(connection)
        self._idle.append(connection)

    @property
    def is_closed(self) -> bool:
        """Whether no further read begins."""
        return self._closed


class _Scan(Generic[T]):
    """One read."""

    def __init__(self, scans: Scans, fn: Callable[[Reader], T], limit_s: float) -> None:
        self._scans = scans
        self._fn = fn
        self._limit_s = limit_s
        self._ends_at = 0.0
        self._stopped = False

    def stop(self) -> None:
        """End the read, from another thread."""
        self._stopped = True

    def _is_over(self) -> bool:
        return self._stopped or self._scans.is_closed or time.monotonic() > self._ends_at

    def run(self) -> T:
        """Read, in the thread.

        Raises:
            ReadTimedOut: the time is over, or the store is closed.
            QueryError: a statement failed.
        """
        self._ends_at = time.monotonic() + self._limit_s
        try:
            if self._is_over():
                raise self._timed_out()
            connection = self._scans.take()
        except sqlite3.Error as error:
            raise sqlite_failure(error, "read the database") from error
        try:
            connection.set_progress_handler(self._is_over, _LOOK_OPERATIONS)
            connection.execute("BEGIN")
            try:
                return self._fn(SqliteReader(connection))
            finally:
                connection.set_progress_handler(None, 0)
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_INTERRUPT:
                raise self._timed_out() from None
            raise sqlite_failure(error, "read the database") from error
        finally:
            self._scans.give_back(connection)

    def _timed_out(self) -> ReadTimedOut:
        return ReadTimedOut(
            f"cannot read all of it within {self._limit_s:g} s", hint="Ask for less, or with more words."
        )
