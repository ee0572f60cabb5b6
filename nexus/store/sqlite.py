"""``SqliteStore``: the state store on one SQLite file in write-ahead mode.

Three ways to the file and no others: the writer's connection in its own thread, a read-only connection in the event
loop's thread, and the backup's connection. Nobody opens the database file with anything but SQLite: closing any
other descriptor of it would drop SQLite's locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from nexus.store.backup import backup_database, fsync_directory, prune_backups, sqlite_failure, timestamp
from nexus.store.base import (
    BackupInfo,
    DatabaseDamaged,
    DatabaseStatus,
    InitError,
    QueryError,
    Reader,
    SchemaMismatch,
    StoreConflict,
    StoreError,
    StoreUnavailable,
    Transaction,
)
from nexus.store.migrate import applied_migrations, migrate, stored_version, target_version
from nexus.store.writer import SqliteReader, Writer

__all__ = ["SqliteStore"]

T = TypeVar("T")

_log = logging.getLogger("nexus.store")

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class SqliteStore:
    """``StateStore`` on the SQLite file ``path``; its own copies go to ``backup_directory``."""

    def __init__(self, path: Path, backup_directory: Path) -> None:
        self.path = path.absolute()
        self.backup_directory = backup_directory
        self._reading: sqlite3.Connection | None = None
        self._writer: Writer | None = None
        self._identity: tuple[int, int] | None = None
        self._journal_listeners: dict[object, Callable[[], None]] = {}

    # Opening

    def init(self, *, target: int | None = None) -> None:
        """See ``StateStore.init``. ``target`` is the schema version to bring it to, by default the newest."""
        target = target_version() if target is None else target
        old_mask = os.umask(0o077)
        try:
            self._make_parent()
            current = self._preflight()
            if current is not None and current != target:
                self._backup_before_migration(target)
            writing = self._open_writing()
            try:
                self._check_sound(writing)
                migrate(writing, current or 0, target)
            except BaseException:
                writing.close()
                raise
            self._open_reading()
        except sqlite3.Error as error:
            raise self._init_error(error) from error
        finally:
            os.umask(old_mask)
        status = os.stat(self.path)  # noqa: PTH116
        self._identity = (status.st_dev, status.st_ino)
        self._writer = Writer(writing, f"{self.path}-wal", self._wake_journal)
        self._writing = writing

    def start(self) -> None:
        """Begin to take writes, in the running event loop."""
        assert self._writer is not None, "init comes first"
        self._writer.start(asyncio.get_running_loop())

    def _make_parent(self) -> None:
        parent = self.path.parent
        try:
            parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise InitError(
                f"cannot create directory {parent}: {error.strerror}",
                hint="Make it yourself, or give another database: nexusd --db PATH",
            ) from error

    def _init_error(self, error: sqlite3.Error) -> StoreError:
        code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
        if code in _DAMAGED:
            return DatabaseDamaged(
                f"cannot open database {self.path}: the file is damaged ({error}); it was left as it is",
                hint=f"Put a backup in its place: nexusctl db restore BACKUP   (backups: {self.backup_directory})",
            )
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            return InitError(
                f"cannot open database {self.path}: it or its folder cannot be written",
                hint=f"Look at the permissions: ls -ld {self.path.parent} {self.path}",
            )
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return InitError(
                f"cannot open database {self.path}: another process keeps it locked",
                hint="Close whatever else has it open, such as an sqlite3 shell.",
            )
        return sqlite_failure(error, f"open database {self.path}")

    def _preflight(self) -> int | None:
        """Look at what is there before anything is changed; gives its schema version, None for a fresh start."""
        try:
            size = os.stat(self.path).st_size  # noqa: PTH116
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InitError(f"cannot open database {self.path}: {error.strerror}") from error
        if self.path.is_dir():
            raise InitError(
                f"cannot open database {self.path}: it is a directory", hint="Give a file: nexusd --db PATH"
            )
        if size == 0:
            return None
        with contextlib.closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            raw = stored_version(connection)
            tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]
        newest = target_version()
        if raw is None:
            if not tables:
                return None
            raise SchemaMismatch(
                f"cannot use database {self.path}: it is an SQLite file, but not one of Nexus; it was left as it is",
                expected=newest,
                found=None,
                hint="Give another database: nexusd --db PATH",
            )
        version = int(raw) if raw.isdigit() and len(raw) < 10 else 0
        if version > newest:
            raise SchemaMismatch(
                f"cannot use database {self.path}: its schema version is {version}, "
                f"this nexusd knows {newest} and older; it was left as it is",
                expected=newest,
                found=version,
                hint="Run the newer nexusd that made it, or restore an older backup: nexusctl db restore BACKUP",
            )
        if version < 1:
            self._set_aside(raw)
            return None
        return version

    def _set_aside(self, raw: str) -> None:
        aside = set_aside(self.path)
        _log.warning(
            "schema version mismatch: no migration starts from version %r; "
            "the database is kept as %s and a fresh one is made",
            raw,
            aside,
        )

    def _backup_before_migration(self, target: int) -> None:
        directory = self.backup_directory
        copy = directory / f"{self.path.stem}-before-v{target}-{timestamp()}.db"
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            backup_database(self.path, copy)
        except (OSError, StoreError) as error:
            raise InitError(
                f"cannot migrate database {self.path}: there is no backup of it ({error})",
                hint=f"Make it possible to write to {directory}, then start again. Nothing was changed.",
            ) from error
        _log.info("the database was copied to %s before its migration", copy)

    def _open_writing(self) -> sqlite3.Connection:
        connection = self._connect()
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise InitError(
                    f"cannot open database {self.path}: failed to enable WAL mode: journal_mode is '{mode}'",
                    hint="Put it on a local file system: nexusd --db PATH",
                )
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA temp_store = MEMORY")
            if connection.execute("PRAGMA foreign_keys").fetchone()[0] != 1:
                raise InitError(f"cannot open database {self.path}: this SQLite does not enforce foreign keys")
            # A file or folder that cannot be written shows here, not at the first change.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self.path, timeout=5, isolation_level=None, check_same_thread=False, cached_statements=256
        )

    def _check_sound(self, connection: sqlite3.Connection) -> None:
        problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise DatabaseDamaged(
                f"cannot open database {self.path}: the file is damaged ({problem}); it was left as it is",
                hint=f"Put a backup in its place: nexusctl db restore BACKUP   (backups: {self.backup_directory})",
            )

    def _open_reading(self) -> None:
        self._reading = self._connect()
        self._reading.execute("PRAGMA query_only = ON")
        self._reading.execute("PRAGMA temp_store = MEMORY")

    def current_version(self) -> int:
        """The schema version of the file as it is, without opening the store; 0 for one that is empty.

        Raises:
            InitError: it is not a database that this program can work with.
        """
        try:
            return self._preflight() or 0
        except sqlite3.Error as error:
            raise self._init_error(error) from error

    # Using

    def status(self) -> DatabaseStatus:
        """See ``StateStore.status``. A search index's own tables are not counted."""

        def look(reader: Reader) -> tuple[list[str], int, list[tuple[str, str]]]:
            tables = reader.all(
                "SELECT name FROM pragma_table_list WHERE type IN ('table', 'virtual') AND schema = 'main' "
                "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
            )
            rows = reader.all("SELECT key, value FROM schema_meta WHERE key = 'version' OR key LIKE 'migration:%'")
            meta = {str(key): str(value) for key, value in rows}
            version = int(meta.pop("version", "0"))
            return [name for (name,) in tables], version, list(meta.items())

        tables, version, migrations = self.read(look)
        try:
            size = os.stat(self.path).st_size  # noqa: PTH116
        except OSError as error:
            raise QueryError(f"cannot read the database {self.path}: {error.strerror}") from error
        assert self._reading is not None
        return DatabaseStatus(
            path=str(self.path),
            table_count=len(tables),
            size_bytes=size,
            schema_version=version,
            journal_mode=self._reading.execute("PRAGMA journal_mode").fetchone()[0],
            foreign_keys=True,  # init refuses to go on without them
            tables=tables,
            migrations=applied_migrations(migrations),
        )

    def read(self, fn: Callable[[Reader], T], *, snapshot: bool = False) -> T:
        """See ``StateStore.read``."""
        connection = self._reading
        if connection is None:
            raise StoreUnavailable("cannot read: the store is closed")
        try:
            if not snapshot:
                return fn(SqliteReader(connection))
            connection.execute("BEGIN")
            try:
                return fn(SqliteReader(connection))
            finally:
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise sqlite_failure(error, "read the database") from error

    async def write(self, fn: Callable[[Transaction], T], *, size_bytes: int = 256) -> T:
        """See ``StateStore.write``."""
        if self._writer is None:
            raise StoreUnavailable("cannot write: the store is closed")
        return await self._writer.write(fn, size_bytes)

    async def backup(self, path: Path | None = None, *, keep_days: int = 30) -> BackupInfo:
        """Make a verified copy in a thread of its own.

        Without ``path`` it goes to the backup directory under a dated name, and copies of that kind that are older
        than ``keep_days`` are deleted. A given path must not be there yet.
        """
        return await asyncio.to_thread(self.backup_now, path, keep_days=keep_days)

    def backup_now(self, path: Path | None = None, *, keep_days: int = 30) -> BackupInfo:
        """``backup``, blocking."""
        if path is not None:
            return backup_database(self.path, path)
        directory = self.backup_directory
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise QueryError(f"cannot create directory {directory}: {error.strerror}") from error
        info = backup_database(self.path, directory / f"{self.path.stem}-{timestamp()}.db")
        return info._replace(pruned=prune_backups(directory, self.path.stem, keep_days))

    def on_journal(self, listener: Callable[[], None]) -> Callable[[], None]:
        """See ``StateStore.on_journal``."""
        key = object()
        self._journal_listeners[key] = listener
        return lambda: self._journal_listeners.pop(key, None) and None

    def _wake_journal(self) -> None:
        for listener in list(self._journal_listeners.values()):
            listener()

    def problem(self) -> StoreError | None:
        """See ``StateStore.problem``."""
        try:
            status = os.stat(self.path)  # noqa: PTH116
            same = (status.st_dev, status.st_ino) == self._identity
        except OSError:
            same = False
        if not same:
            return StoreUnavailable(
                f"the database file {self.path} was deleted or replaced while the daemon runs",
                hint="What is written now is lost when the daemon ends. Save it first: nexusctl db backup PATH",
            )
        return self._writer.fault if self._writer is not None else StoreUnavailable("the store is closed")

    async def close(self) -> None:
        """See ``StateStore.close``."""
        if self._writer is not None:
            await self._writer.close()
        self.close_now()

    def close_now(self) -> None:
        """Release the files; for whoever never called ``start``."""
        if self._reading is not None:
            self._reading.close()
            self._reading = None
        if self._writer is not None:
            self._writer = None
            # The last connection to close empties the write-ahead log into the database and removes it.
            self._writing.close()


def set_aside(path: Path) -> Path:
    """Rename a database, with its ``-wal`` and ``-shm``, to a dated name beside it; gives the new name.

    Raises:
        StoreConflict: there is no free name.
    """
    base = f"{path.name}.set-aside-{timestamp()}"
    for suffix in ("", *(f".{number}" for number in range(1, 100))):
        aside = path.with_name(base + suffix)
        if not os.path.lexists(aside):
            break
    else:
        raise StoreConflict(f"cannot set {path} aside: there is no free name for it")
    # The log goes first: the database must never meet a fresh one in between.
    for end in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + end).rename(aside.with_name(aside.name + end))
    fsync_directory(path.parent)
    return aside
