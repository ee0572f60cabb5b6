"""``SqliteStore``: the state store on one SQLite file in write-ahead mode.

It opens the file in three ways: the writer's connection in its own thread, a read-only connection in the event loop's
thread, and the backup's connection. The database file is only ever opened by SQLite: closing any other descriptor of
it would drop SQLite's POSIX locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import sqlite3
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from nexus.hints import command_line
from nexus.store.aside import COMPANIONS, free_name, set_aside
from nexus.store.backup import backup_database, sqlite_failure, timestamp
from nexus.store.backup_folder import make_backup, newest_backup
from nexus.store.base import (
    PLAIN_BACKUP,
    BackupAt,
    BackupInfo,
    BackupOptions,
    DatabaseDamaged,
    DatabaseStatus,
    DiskFull,
    InitError,
    QueryError,
    Reader,
    SchemaMismatch,
    StoreConflict,
    StoreError,
    StoreUnavailable,
    Transaction,
)
from nexus.store.connection import connect
from nexus.store.files import FileSet
from nexus.store.fulltext import IS_OF_INDEX
from nexus.store.high_water import HighWater, high_water_file
from nexus.store.migrate import (
    applied_migrations,
    migrate,
    refuse_to_revert,
    stored_version,
    target_version,
    version_number,
)
from nexus.store.placement import Placement
from nexus.store.scans import Scans
from nexus.store.writer import CountChange, Numbers, SqliteReader, SqliteTransaction, Writer
from nexus.tasks import uninterrupted
from nexus.trust import Untrusted, make_trusted, require_trusted

__all__ = ["SqliteStore", "database_file"]

T = TypeVar("T")

_log = logging.getLogger("nexus.store")

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def database_file(path: Path) -> Path:
    """Resolve symbolic links in ``path``, as SQLite does: the write-ahead log is beside the real file."""
    return Path(os.path.realpath(path))


class SqliteStore:
    """``StateStore`` on the SQLite file ``path``; backups go to ``backup_directory``.

    ``digest_key`` is the key of its digests (16 to 64 bytes); by default one of this process alone. ``files`` are what
    its rows refer to beside the database.
    """

    def __init__(
        self, path: Path, backup_directory: Path, *, digest_key: bytes | None = None, files: Sequence[FileSet] = ()
    ) -> None:
        self._path = database_file(path)
        self._files = files
        self.backup_directory = backup_directory
        self._read_connection: sqlite3.Connection | None = None
        self._writer: Writer | None = None
        self._placement = Placement(self._path)
        self._scans = Scans(self._connect_to_scan)
        self._high_water = HighWater(high_water_file(self._path))
        self._numbers = Numbers(digest_key or os.urandom(32), self._high_water)
        self._backup_lock = asyncio.Lock()
        self._journal_listeners: dict[object, Callable[[], None]] = {}
        self._fence_listeners: list[Callable[[set[tuple[str, str]]], None]] = []

    @property
    def path(self) -> Path:
        """See ``StateStore.path``."""
        return self._path

    # Opening

    def init(self, *, target: int | None = None, before_new: Callable[[], None] | None = None) -> None:
        """See ``StateStore.init``. ``target`` is the schema version to migrate to, by default the newest.

        ``before_new`` is called before a new database is made, where there is none, or an empty one, or one of an
        unknown version. What it raises ends the call with nothing changed.
        """
        target = target_version() if target is None else target
        old_mask = os.umask(0o077)
        try:
            self._make_parent()
            current = self._preflight(before_new)
            if current is not None and current != target:
                with contextlib.closing(self.open_unchanged()) as reader:
                    refuse_to_revert(reader, current, target)  # before a backup is made for nothing
                self._backup_before_migration(target)
            connection = self._open_write_connection()
            try:
                migrate(connection, current or 0, target)
                if current != target:
                    # Moves the new schema from the log into the file, so that the reported size includes it.
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except BaseException:
                connection.close()
                raise
            self._open_read_connection()
        except sqlite3.Error as error:
            raise self._init_error(error) from error
        finally:
            os.umask(old_mask)
        try:
            self._placement.note()
        except OSError as error:
            connection.close()
            raise InitError(f"cannot open database {self.path}: {error}") from error
        self._writer = Writer(connection, self._placement, self._numbers, self._notify_journal, self._notify_fences)
        self._write_connection = connection

    def id(self) -> str | None:
        """What tells this database from others, and is the same in its copies: the time of its first migration, in ms.

        None for a database of a version that did not note it. To be called after ``init``.
        """
        rows = self.read(lambda reader: reader.all("SELECT key, value FROM schema_meta WHERE key = 'migration:0001'"))
        times = [migration.applied_at for migration in applied_migrations([(key, value) for key, value in rows])]
        return str(times[0]) if times and times[0] is not None else None

    def last_event(self) -> int:
        """The highest number that an event of the journal was given; 0 without any. To be called after ``init``."""
        rows = self.read(lambda reader: reader.all("SELECT seq FROM sqlite_sequence WHERE name = 'journal'"))
        return int(rows[0][0]) if rows else 0

    def digest(self, data: bytes) -> bytes:
        """See ``StateStore.digest``."""
        return self._numbers.digest(data)

    def start(self) -> None:
        """Start the writer; results are delivered to the running event loop."""
        assert self._writer is not None, "call init first"
        self._writer.start(asyncio.get_running_loop())

    def _make_parent(self) -> None:
        parent = self.path.parent
        try:
            make_trusted(os.fspath(parent), "the database's folder")
            for suffix in ("", *COMPANIONS):
                if os.path.lexists(f"{self.path}{suffix}"):
                    require_trusted(f"{self.path}{suffix}", "database")
        except Untrusted as error:
            raise InitError(error.message, hint=error.hint) from error
        except OSError as error:
            raise InitError(
                f"cannot create directory {parent}: {error.strerror}",
                hint="Create it yourself, or give another database: nexusd --db PATH",
            ) from error

    def _init_error(self, error: sqlite3.Error) -> StoreError:
        code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
        if code in _DAMAGED:
            return self._damaged(error)
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            return InitError(
                f"cannot open database {self.path}: the file or its folder is not writable",
                hint=f"Look at the permissions: {command_line('ls', '-ld', self.path.parent, self.path)}",
            )
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return InitError(
                f"cannot open database {self.path}: another process has locked it",
                hint="Close other programs that have it open, such as an sqlite3 shell.",
            )
        failure = sqlite_failure(error, f"open database {self.path}")
        return failure if isinstance(failure, DiskFull) else InitError(failure.message, hint=failure.hint)

    def _damaged(self, problem: object) -> DatabaseDamaged:
        return DatabaseDamaged(
            f"cannot open database {self.path}: the file is damaged ({problem}); it was not changed",
            hint=f"Restore a backup: nexusctl db restore BACKUP\nBackups are in {self.backup_directory}",
        )

    def _preflight(self, before_new: Callable[[], None] | None = None) -> int | None:
        """Check the file before anything is changed; returns its schema version, None for a new database."""
        before_new = before_new or (lambda: None)
        try:
            status = os.stat(self.path)  # noqa: PTH116
        except FileNotFoundError:
            status = None
        except OSError as error:
            raise InitError(f"cannot open database {self.path}: {error.strerror}") from error
        if status is not None and not stat.S_ISREG(status.st_mode):
            what = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise InitError(f"cannot open database {self.path}: it is {what}", hint="Give a file: nexusd --db PATH")
        if status is None or not status.st_size:
            before_new()
            self._keep_orphaned_log()
            return None
        with contextlib.closing(self.open_unchanged()) as connection:
            raw = stored_version(connection)
            tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]
            self._refuse_unknown(raw, tables)
            # Before any connection that can write: closing one would write the log into a damaged file.
            problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise self._damaged(problem)
        if raw is None:
            before_new()
            return None
        version = version_number(raw)
        if version < 1:
            before_new()
            _log.warning(
                "schema version mismatch: no migration starts from version %r; "
                "the database is kept as %s and a new one is created",
                raw,
                set_aside(self.path),
            )
            return None
        return version

    def open_unchanged(self) -> sqlite3.Connection:
        """Open a connection that changes nothing, and creates no files beside a database that is not in use.

        Where a daemon begins to use the database meanwhile, the reads may be inconsistent, or fail.

        Raises:
            sqlite3.Error: the file cannot be opened.
        """
        unused = not any(os.path.lexists(f"{self.path}{end}") for end in ("-wal", "-journal"))
        mode = "mode=ro&immutable=1" if unused else "mode=ro"
        connection = connect(f"{self.path.as_uri()}?{mode}", uri=True, timeout=5)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            connection.close()
            if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_READONLY_ROLLBACK:
                raise
            # A crash left a hot rollback journal: only a connection that can write can roll it back.
            return self._connect()
        except BaseException:
            connection.close()
            raise
        return connection

    def _keep_orphaned_log(self) -> None:
        """Keep a write-ahead log without a database: SQLite would delete it, and it may hold all of the data."""
        with contextlib.suppress(FileNotFoundError):
            if os.stat(f"{self.path}-wal").st_size:  # noqa: PTH116
                aside = set_aside(self.path)
                _log.warning("the database is missing or empty, but its write-ahead log is not: kept as %s-wal", aside)

    def _refuse_unknown(self, raw: str | None, tables: int) -> None:
        newest = target_version()
        if raw is None:
            if not tables:
                return
            raise SchemaMismatch(
                f"cannot use database {self.path}: it is an SQLite file, but not a Nexus database; it was not changed",
                expected=newest,
                found=None,
                hint="Give another database: nexusd --db PATH",
            )
        version = version_number(raw)
        if version > newest:
            raise SchemaMismatch(
                f"cannot use database {self.path}: its schema version is {version}, "
                f"this nexusd knows {newest} and older; it was not changed",
                expected=newest,
                found=version,
                hint="Run the newer nexusd that created it, or restore an older backup: nexusctl db restore BACKUP",
            )

    def _backup_before_migration(self, target: int) -> None:
        directory = self.backup_directory
        copy = directory / f"{self.path.stem}-before-v{target}-{timestamp()}.db"
        try:
            make_trusted(os.fspath(directory), "the folder of backups")
            backup_database(self.path, copy)
        except (OSError, StoreError, Untrusted) as error:
            if isinstance(error.__cause__, DatabaseDamaged):
                raise self._damaged(error.__cause__.message) from error
            raise InitError(
                f"cannot migrate database {self.path}: it cannot be backed up first ({error})",
                hint=f"Make {directory} writable, then start again. Nothing was changed.",
            ) from error
        _log.info("the database was backed up to %s before its migration", copy)

    def _open_write_connection(self) -> sqlite3.Connection:
        connection = self._connect()
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise InitError(
                    f"cannot open database {self.path}: failed to enable WAL mode: journal_mode is '{mode}'",
                    hint="Use a path on a local file system: nexusd --db PATH",
                )
            # The writer makes the checkpoints: at any other time a change of the file is another program's.
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute("PRAGMA secure_delete = ON")  # what is deleted is not left in the file
            if connection.execute("PRAGMA foreign_keys").fetchone()[0] != 1:
                raise InitError(f"cannot open database {self.path}: this SQLite does not enforce foreign keys")
            # Detects a file or folder that is not writable now, not at the first change. BEGIN IMMEDIATE alone is not
            # enough: on a read-only file SQLite turns it into a read transaction.
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA user_version = {version}")
            connection.execute("ROLLBACK")
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self) -> sqlite3.Connection:
        return connect(self.path, timeout=5, isolation_level=None, check_same_thread=False, cached_statements=256)

    def _connect_to_read(self) -> sqlite3.Connection:
        # Read-only, so that it writes nothing into the file when it is closed last; see close_now.
        connection = connect(
            f"{self.path.as_uri()}?mode=ro",
            uri=True,
            timeout=5,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA temp_store = MEMORY")
        return connection

    def _connect_to_scan(self) -> sqlite3.Connection:
        if self._read_connection is None:
            raise StoreUnavailable("cannot read: the store is closed")
        if (problem := self._placement.problem(self._read_connection)) is not None:
            raise problem
        return self._connect_to_read()

    def _open_read_connection(self) -> None:
        self._read_connection = self._connect_to_read()
        # After its first read it has every file open, and works even if they are deleted or renamed.
        self._read_connection.execute("SELECT count(*) FROM sqlite_master").fetchone()

    def current_version(self) -> int:
        """Return the schema version of the file, without opening the store; 0 for an empty file.

        Raises:
            InitError: this program cannot work with the file.
        """
        try:
            return self._preflight() or 0
        except sqlite3.Error as error:
            raise self._init_error(error) from error

    # Using

    def status(self) -> DatabaseStatus:
        """See ``StateStore.status``. A search index's own tables are not counted."""

        def read_schema(reader: Reader) -> tuple[list[str], str, int, list[tuple[str, str]]]:
            tables = reader.all(
                "SELECT name FROM pragma_table_list WHERE type = 'table' AND schema = 'main' "
                f"AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND NOT {IS_OF_INDEX} ORDER BY name"
            )
            rows = reader.all("SELECT key, value FROM schema_meta WHERE key = 'version' OR key LIKE 'migration:%'")
            meta = {str(key): str(value) for key, value in rows}
            version = version_number(meta.pop("version", None))
            mode = reader.all("PRAGMA journal_mode")[0][0]
            return [name for (name,) in tables], mode, version, list(meta.items())

        tables, mode, version, migrations = self.read(read_schema)
        try:
            size = os.stat(self.path).st_size  # noqa: PTH116
        except OSError as error:
            raise QueryError(f"cannot read the database {self.path}: {error.strerror}") from error
        return DatabaseStatus(
            path=str(self.path),
            table_count=len(tables),
            size_bytes=size,
            schema_version=version,
            journal_mode=mode,
            foreign_keys=True,  # init fails without them
            tables=tables,
            migrations=applied_migrations(migrations),
        )

    def read(self, fn: Callable[[Reader], T], *, snapshot: bool = False) -> T:
        """See ``StateStore.read``."""
        connection = self._read_connection
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

    async def fetch(self, fn: Callable[[Reader], T], *, snapshot: bool = False) -> T:
        """See ``StateStore.fetch``. It does not wait: a point read takes less time than a change of threads."""
        return self.read(fn, snapshot=snapshot)

    async def scan(self, fn: Callable[[Reader], T], *, limit_s: float) -> T:
        """See ``StateStore.scan``."""
        if self._read_connection is None:
            raise StoreUnavailable("cannot read: the store is closed")
        return await self._scans.run(fn, limit_s)

    async def write(self, fn: Callable[[Transaction], T], *, size_bytes: int = 256) -> T:
        """See ``StateStore.write``."""
        if self._writer is None:
            raise StoreUnavailable("cannot write: the store is closed")
        # What is said of the request, such as where it speaks, holds for the writer's thread as well.
        context = contextvars.copy_context()
        return await self._writer.write(lambda tx: context.run(fn, tx), size_bytes)

    async def counted(self, kind: str, count: Callable[[Reader], dict[str, int]]) -> dict[str, int]:
        """See ``StateStore.counted``."""
        if self._writer is None:
            raise StoreUnavailable("cannot count: the store is closed")
        counts = self._writer.counts
        if kind not in counts:

            def total(tx: Transaction) -> dict[str, int]:
                assert isinstance(tx, SqliteTransaction)
                states = count(tx)
                tx.counts.append(CountChange(kind, states, is_total=True))
                return states

            counted = await self._writer.write(total, 0)
            if kind not in counts:
                return counted  # a write whose outcome is unknown has made the writer forget its counts since
        return {state: number for state, number in counts[kind].items() if number}

    async def backup(self, path: Path | None = None, options: BackupOptions = PLAIN_BACKUP) -> BackupInfo:
        """Make a verified backup in a separate thread; see ``backup_now``.

        One backup is made at a time. Cancelling does not stop a backup that has begun: the file would appear all the
        same, so its result is returned, and the caller is cancelled at its next wait.
        """
        async with self._backup_lock:
            return await uninterrupted(asyncio.to_thread(self.backup_now, path, options))

    def backup_now(self, path: Path | None = None, options: BackupOptions = PLAIN_BACKUP) -> BackupInfo:
        """The blocking form of ``backup``.

        Without ``path`` it goes to the backup directory under a dated name, and dated backups are pruned: see
        ``prune_backups``. A given path must not exist.
        """
        if self._read_connection is None:
            raise StoreUnavailable("cannot back up: the store is closed")
        # If the file was deleted or replaced, only the open connection still reaches the data. Other reads on that
        # connection wait meanwhile, so it is used only then.
        problem = self._placement.problem(self._read_connection)
        source = self.path if problem is None else self._read_connection
        return make_backup(source, self.path, path, self.backup_directory, self._files, options)

    def newest_backup(self, now_ms: int) -> BackupAt | None:
        """See ``StateStore.newest_backup``."""
        return newest_backup(self.backup_directory, self.path.stem, now_ms)

    def on_journal(self, listener: Callable[[], None]) -> Callable[[], None]:
        """See ``StateStore.on_journal``."""
        key = object()
        self._journal_listeners[key] = listener
        return lambda: self._journal_listeners.pop(key, None) and None

    def on_fences(self, listener: Callable[[set[tuple[str, str]]], None]) -> None:
        """See ``StateStore.on_fences``."""
        self._fence_listeners.append(listener)

    def _notify_fences(self, raised: set[tuple[str, str]]) -> None:
        for listener in self._fence_listeners:
            listener(raised)

    def _notify_journal(self) -> None:
        for listener in list(self._journal_listeners.values()):
            listener()

    def problem(self) -> StoreError | None:
        """See ``StateStore.problem``."""
        if self._writer is None or self._read_connection is None:
            return StoreUnavailable("the store is closed")
        return self._placement.problem(self._read_connection) or self._writer.fault

    async def close(self) -> None:
        """See ``StateStore.close``."""
        if self._writer is not None:
            await self._writer.close()
        self.close_now()

    def close_now(self) -> None:
        """Close the connections of a store whose ``start`` was not called."""
        self._high_water.close()
        self._scans.close()
        self._scans = Scans(self._connect_to_scan)
        foreign = self._writer is not None and self._placement.is_foreign(self._write_connection)
        if foreign and self._placement.is_replaced:
            # The file may live on under another name: it gets what is only in the log.
            with contextlib.suppress(sqlite3.Error):
                self._write_connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if self._read_connection is not None and not foreign:
            self._read_connection.close()
        if self._writer is not None:
            self._writer = None
            # Closing the last connection that can write moves the log into the database and deletes it. The file of
            # another program gets nothing, since the read-only connection is still open.
            self._write_connection.close()
        if self._read_connection is not None and foreign:
            self._read_connection.close()
            with contextlib.suppress(StoreConflict):
                self._placement.set_log_aside(free_name(self.path))
        self._placement.close()
        self._read_connection = None
