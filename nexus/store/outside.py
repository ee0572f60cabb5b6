"""A helper process of the daemon reads its database: one connection that cannot write, with snapshots and batches.

The daemon itself reads by its store. It knows no table.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nexus.store.backup import sqlite_failure
from nexus.store.connection import connect

__all__ = ["OutsideReader"]

_MAPPED_BYTES = 4 * 1024**3
"""So much of the database is read through a mapping, which saves a copy of every page."""
_DOING = "read the database"


class OutsideReader:
    """A connection of a process beside the daemon. Its methods raise ``StoreError`` where SQLite fails."""

    def __init__(self, database: Path) -> None:
        """Open the database at an absolute path; it must exist."""
        with _translated():
            self._connection = connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=5, isolation_level=None)
            self._connection.execute(f"PRAGMA mmap_size = {_MAPPED_BYTES}").fetchone()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """All reads in the block see one state of the database. The write-ahead log grows as long as it lasts."""
        with _translated():
            self._connection.execute("BEGIN")
        try:
            yield
        finally:
            with _translated():
                self._connection.execute("ROLLBACK")

    def rows(self, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Every row of a query."""
        with _translated():
            return self._connection.execute(sql, parameters).fetchall()

    def batches(self, sql: str, parameters: Sequence[Any], size: int) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of a query in lists of at most ``size``."""
        with _translated():
            cursor = self._connection.execute(sql, parameters)
        while True:
            with _translated():
                rows = cursor.fetchmany(size)
            if not rows:
                return
            yield rows

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise sqlite_failure(error, _DOING) from error
