"""Whether the files of an open database are still in their places, and what to do when they are not.

SQLite goes on with the files that it has open when others are put in their places, or when another program writes over
them; what it commits then is lost. Their identities and times are looked at. Where the database has another time, its
content is compared, through SQLite: the daemon opens the files in no other way.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nexus.store.base import StoreUnavailable
from nexus.store.connection import connect
from nexus.store.wal import WriteAheadLog, identity

__all__ = ["Placement"]

_log = logging.getLogger("nexus.store")

_GONE_HINT = (
    "Save its data before the daemon stops: nexusctl db backup PATH\n"
    "Then: nexusctl daemon stop; nexusctl db restore PATH; nexusctl daemon start"
)
_CHANGED_HINT = (
    "Put a backup in its place with the daemon stopped: nexusctl daemon stop; nexusctl db restore BACKUP\n"
    "Then: nexusctl daemon start"
)
_LOG_HINT = (
    "A stop writes what the log holds into the database. Save its data first: nexusctl db backup PATH\n"
    "Then: nexusctl daemon restart"
)


MAX_COMPARED_BYTES = 64 * 1024 * 1024
"""A larger database that another program has changed is not compared, but refused."""


class _Mark(NamedTuple):
    """What the files looked like when only SQLite had changed them."""

    identity: tuple[int, int]
    content: tuple[int, int]
    """Size and time of change of the database. In write-ahead mode only a checkpoint changes them."""
    log_index: tuple[int, int] | None
    """The identity of the log's index."""


class Placement:
    """The places of the database ``path``, its write-ahead log and the log's index."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._name = os.fspath(path)
        self._index_name = f"{path}-shm"
        self.log: WriteAheadLog | None = None
        """The log, from ``note`` to ``close``."""
        self._mark: _Mark | None = None
        self._foreign: tuple[int, int] | None = None
        """Size and time of change of a content that was compared and is not SQLite's."""
        self._lock = threading.Lock()
        """Held for the changes of the mark after its first."""
        self._checkpoints = 0
        """The begins and ends of checkpoints. They are in the writer's thread, while another thread may look."""

    def note(self) -> None:
        """Note the files as they are: they were just opened.

        Raises:
            OSError: the database or its log cannot be found or opened.
        """
        status = os.stat(self._name)  # noqa: PTH116
        self.log = WriteAheadLog(f"{self.path}-wal")
        self._mark = _Mark(
            (status.st_dev, status.st_ino), (status.st_size, status.st_mtime_ns), identity(self._index_name)
        )

    def close(self) -> None:
        """Close the log. Every file is in its place for what is asked later."""
        self._mark = None
        if self.log is not None:
            self.log.close()
            self.log = None

    @contextlib.contextmanager
    def checkpoint(self) -> Iterator[None]:
        """Note the content of the database as the block leaves it. A file that took its place is not noted."""
        self._checkpoints += 1
        try:
            yield
        finally:
            with self._lock:
                with contextlib.suppress(OSError):
                    status = os.stat(self._name)  # noqa: PTH116
                    if self._mark is not None and (status.st_dev, status.st_ino) == self._mark.identity:
                        self._mark = self._mark._replace(content=(status.st_size, status.st_mtime_ns))
                if self.log is not None:
                    self.log.note_size()
                self._checkpoints += 1

    @property
    def is_replaced(self) -> bool:
        """Whether the database is no longer the noted file: it was deleted, renamed or replaced."""
        return self._mark is not None and identity(self._name) != self._mark.identity

    def is_foreign(self, connection: sqlite3.Connection) -> bool:
        """Whether the file at the database's place is another one, or another program wrote over it."""
        return self._found(connection) not in (None, "log", "shortened")

    def problem(self, connection: sqlite3.Connection, *, with_index: bool = True) -> StoreUnavailable | None:
        """What is wrong; None while every file is in its place. ``connection`` is one of the calling thread.

        Without ``with_index`` the log's index is left out: SQLite makes a lost one anew from the log.
        """
        found = self._found(connection, with_index)
        if found is None:
            return None
        if found == "gone":
            return StoreUnavailable(
                f"the database file {self.path} was deleted or replaced while the daemon was running", hint=_GONE_HINT
            )
        if found == "changed":
            return StoreUnavailable(
                f"another program wrote to the database file {self.path} while the daemon was running",
                hint=_CHANGED_HINT,
            )
        if found == "shortened":
            return StoreUnavailable(
                f"the write-ahead log of the database {self.path} was shortened while the daemon was running",
                hint=_CHANGED_HINT,
            )
        return StoreUnavailable(
            f"the write-ahead log of the database {self.path} was deleted or replaced while the daemon was running",
            hint=_LOG_HINT,
        )

    def _found(self, connection: sqlite3.Connection, with_index: bool = True) -> str | None:
        checkpoints, mark = self._checkpoints, self._mark
        if mark is None:
            return None
        try:
            status = os.stat(self._name)  # noqa: PTH116
        except OSError:
            return "gone"
        if (status.st_dev, status.st_ino) != mark.identity:
            return "gone"
        content = (status.st_size, status.st_mtime_ns)
        if content != mark.content and not self._is_checkpointing_since(checkpoints):
            # A checkpoint by an sqlite3 shell leaves what the connection sees; a copy over the file does not.
            if content == self._foreign or not self._holds_what(connection, content[0]):
                self._foreign = content
                return "changed"
            with self._lock:
                if not self._is_checkpointing_since(checkpoints):
                    self._mark = mark._replace(content=content)
        if self.log is not None and not self.log.is_in_place:
            return "log"
        # A checkpoint may have emptied the log, which loses nothing: that of an sqlite3 shell, or one under way here.
        if (
            self.log is not None
            and not self.log.is_whole
            and not self._is_checkpointing_since(checkpoints)
            and not self._holds_what(connection, status.st_size)
        ):
            return "shortened"
        if with_index and mark.log_index is not None and identity(self._index_name) != mark.log_index:
            return "log"
        return None

    def _is_checkpointing_since(self, checkpoints: int) -> bool:
        """Whether a checkpoint is or was under way since there were so many begins and ends of one."""
        return checkpoints % 2 == 1 or checkpoints != self._checkpoints

    def _holds_what(self, connection: sqlite3.Connection, size_bytes: int) -> bool:
        """Whether the file alone, without the log, holds exactly what ``connection`` sees."""
        if size_bytes > MAX_COMPARED_BYTES:
            return False
        uri = f"{self.path.as_uri()}?mode=ro&immutable=1"
        try:
            with contextlib.closing(connect(uri, uri=True)) as alone:
                return alone.serialize() == connection.serialize()
        except (sqlite3.Error, MemoryError, AttributeError):  # an SQLite without serialize has no such method
            return False

    def set_log_aside(self, aside: Path) -> None:
        """Rename the log to ``aside`` with the suffix of a log: a database that took this one's place must not get it.

        A log that is not the noted one stays.
        """
        if self._mark is None or self.log is None:
            return
        kept = False
        for name, is_noted, suffix in (
            (self.log.path, self.log.is_in_place, "-wal"),
            (self._index_name, self._mark.log_index == identity(self._index_name), "-shm"),
        ):
            if is_noted:
                with contextlib.suppress(OSError):
                    Path(name).rename(f"{aside}{suffix}")
                    kept = True
        if kept:
            _log.warning("the write-ahead log of the database that was here is kept as %s-wal", aside)
