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
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from nexus.store.backup import (
    backup_database,
    fsync_directory,
    os_failure,
    prune_backups,
    sqlite_failure,
    timestamp,
)
from nexus.store.base import (
    BackupInfo,
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
from nexus.store.migrate import applied_migrations, migrate, stored_version, target_version, version_number
from nexus.store.writer import SqliteReader, Writer

__all__ = ["SqliteStore", "database_file", "set_aside"]

T = TypeVar("T")

_log = logging.getLogger("nexus.store")

_LOOK_INTERVAL_S = 1.0
"""How often the file is looked for while writes come."""

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_COMPANIONS = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database: without them it may be half of itself, and with those of another it is lost."""


def database_file(path: Path) -> Path:
    """The file that ``path`` means. Links are followed, as SQLite does: a log is beside the file itself."""
    return Path(os.path.realpath(path))


class SqliteStore:
    """``StateStore`` on the SQLite file ``path``; its own copies go to ``backup_directory``."""

    def __init__(self, path: Path, backup_directory: Path) -> None:
        self.path = database_file(path)
        self.backup_directory = backup_directory
        self._reading: sqlite3.Connection | None = None
        self._writer: Writer | None = None
        self._identity: tuple[int, int] | None = None
        self._backup_lock = asyncio.Lock()
        self._seen_in_place_at = -_LOOK_INTERVAL_S
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
                migrate(writing, current or 0, target)
                if current != target:
                    # The new schema belongs into the file itself, whose size is shown, and not only into its log.
                    writing.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
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
            return self._damaged(error)
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
        failure = sqlite_failure(error, f"open database {self.path}")
        return failure if isinstance(failure, DiskFull) else InitError(failure.message, hint=failure.hint)

    def _damaged(self, problem: object) -> DatabaseDamaged:
        return DatabaseDamaged(
            f"cannot open database {self.path}: the file is damaged ({problem}); it was left as it is",
            hint=f"Put a backup in its place: nexusctl db restore BACKUP   (backups: {self.backup_directory})",
        )

    def _preflight(self) -> int | None:
        """Look at what is there before anything is changed; gives its schema version, None for a fresh start."""
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
            self._keep_orphaned_log()
            return None
        with contextlib.closing(self._open_looking()) as connection:
            raw = stored_version(connection)
            tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]
            self._refuse_unknown(raw, tables)
            # Before any connection that could write: closing one would move the log into a damaged file.
            problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise self._damaged(problem)
        if raw is None:
            return None
        version = version_number(raw)
        if version < 1:
            _log.warning(
                "schema version mismatch: no migration starts from version %r; "
                "the database is kept as %s and a fresh one is made",
                raw,
                set_aside(self.path),
            )
            return None
        return version

    def _open_looking(self) -> sqlite3.Connection:
        """A connection that changes nothing, and leaves no new files beside a database that lies still."""
        still = not any(os.path.lexists(f"{self.path}{end}") for end in ("-wal", "-journal"))
        mode = "mode=ro&immutable=1" if still else "mode=ro"
        connection = sqlite3.connect(f"{self.path.as_uri()}?{mode}", uri=True, timeout=5)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            connection.close()
            if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_READONLY_ROLLBACK:
                raise
            # A crash left a change half done: only a connection that may write can take it back.
            return self._connect()
        except BaseException:
            connection.close()
            raise
        return connection

    def _keep_orphaned_log(self) -> None:
        """SQLite would delete a write-ahead log without its database, and the log may hold all of it."""
        with contextlib.suppress(FileNotFoundError):
            if os.stat(f"{self.path}-wal").st_size:  # noqa: PTH116
                aside = set_aside(self.path)
                _log.warning("the database is gone or empty, but its log is not: kept as %s-wal", aside)

    def _refuse_unknown(self, raw: str | None, tables: int) -> None:
        newest = target_version()
        if raw is None:
            if not tables:
                return
            raise SchemaMismatch(
                f"cannot use database {self.path}: it is an SQLite file, but not one of Nexus; it was left as it is",
                expected=newest,
                found=None,
                hint="Give another database: nexusd --db PATH",
            )
        version = version_number(raw)
        if version > newest:
            raise SchemaMismatch(
                f"cannot use database {self.path}: its schema version is {version}, "
                f"this nexusd knows {newest} and older; it was left as it is",
                expected=newest,
                found=version,
                hint="Run the newer nexusd that made it, or restore an older backup: nexusctl db restore BACKUP",
            )

    def _backup_before_migration(self, target: int) -> None:
        directory = self.backup_directory
        copy = directory / f"{self.path.stem}-before-v{target}-{timestamp()}.db"
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            backup_database(self.path, copy)
        except (OSError, StoreError) as error:
            if isinstance(error.__cause__, DatabaseDamaged):
                raise self._damaged(error.__cause__.message) from error
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
            # A file or folder that cannot be written shows here, not at the first change. BEGIN alone would not do:
            # SQLite makes a read transaction of it where it may only read.
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA user_version = {version}")
            connection.execute("ROLLBACK")
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self.path, timeout=5, isolation_level=None, check_same_thread=False, cached_statements=256
        )

    def _open_reading(self) -> None:
        self._reading = self._connect()
        self._reading.execute("PRAGMA query_only = ON")
        self._reading.execute("PRAGMA temp_store = MEMORY")
        # From its first read on it has every file open, and works even if they lose their names.
        self._reading.execute("SELECT count(*) FROM sqlite_master").fetchone()

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

        def look(reader: Reader) -> tuple[list[str], str, int, list[tuple[str, str]]]:
            tables = reader.all(
                "SELECT name FROM pragma_table_list WHERE type IN ('table', 'virtual') AND schema = 'main' "
                "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
            )
            rows = reader.all("SELECT key, value FROM schema_meta WHERE key = 'version' OR key LIKE 'migration:%'")
            meta = {str(key): str(value) for key, value in rows}
            version = version_number(meta.pop("version", None))
            mode = reader.all("PRAGMA journal_mode")[0][0]
            return [name for (name,) in tables], mode, version, list(meta.items())

        tables, mode, version, migrations = self.read(look)
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
        now = time.monotonic()
        if now - self._seen_in_place_at >= _LOOK_INTERVAL_S:
            # Acknowledging what nobody will find again would be a lie; a look at each write would cost too much.
            if not self._in_place():
                raise self._gone("cannot write: ")
            self._seen_in_place_at = now
        return await self._writer.write(fn, size_bytes)

    async def backup(self, path: Path | None = None, *, keep_days: int = 30) -> BackupInfo:
        """Make a verified copy in a thread of its own.

        Without ``path`` it goes to the backup directory under a dated name, and copies of that kind that are older
        than ``keep_days`` are deleted. A given path must not be there yet. One copy is made at a time; one that has
        begun is seen to its end, also when it is cancelled, since the copy would be there all the same.
        """
        async with self._backup_lock:
            copying = asyncio.ensure_future(asyncio.to_thread(self.backup_now, path, keep_days=keep_days))
            while True:
                try:
                    return await asyncio.shield(copying)
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    if copying.cancelled() or task is None:
                        raise
                    task.uncancel()

    def backup_now(self, path: Path | None = None, *, keep_days: int = 30) -> BackupInfo:
        """``backup``, blocking."""
        if self._reading is None:
            raise StoreUnavailable("cannot back up: the store is closed")
        # Under its name there may be nothing by now, or another file; the open connection still has ours. Its other
        # readers wait meanwhile, so it is not the ordinary way.
        source = self.path if self._in_place() else self._reading
        if path is not None:
            return backup_database(source, path)
        directory = self.backup_directory
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise os_failure(error, f"create directory {directory}") from error
        info = backup_database(source, directory / f"{self.path.stem}-{timestamp()}.db")
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
        if not self._in_place():
            return self._gone()
        return self._writer.fault if self._writer is not None else StoreUnavailable("the store is closed")

    def _gone(self, cannot: str = "") -> StoreUnavailable:
        return StoreUnavailable(
            f"{cannot}the database file {self.path} was deleted or replaced while the daemon runs",
            hint="Save what it held before the daemon ends: nexusctl db backup PATH\n"
            "Then: nexusctl daemon stop; nexusctl db restore PATH; nexusctl daemon start",
        )

    def _in_place(self) -> bool:
        try:
            status = os.stat(self.path)  # noqa: PTH116
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

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


def set_aside(path: Path, *, replacement: Path | None = None) -> Path | None:
    """Rename a database, with its ``-wal`` and ``-shm``, to a dated name beside it; gives the new name.

    ``replacement`` takes its place in the same moment. None is given when there was nothing to set aside.

    Raises:
        StoreConflict: there is no free name.
        OSError: the directory cannot be changed.
    """
    ends = [end for end in (*_COMPANIONS, "") if os.path.lexists(f"{path}{end}")]
    base = f"{path.name}.set-aside-{timestamp()}"
    for suffix in ("", *(f".{number}" for number in range(1, 100))):
        aside = path.with_name(base + suffix)
        if not any(os.path.lexists(f"{aside}{end}") for end in ("", *_COMPANIONS)):
            break
    else:
        raise StoreConflict(f"cannot set {path} aside: there is no free name for it")
    # The log goes first: what comes next under the name must never meet it.
    for end in ends:
        old, new = path.with_name(path.name + end), aside.with_name(aside.name + end)
        if end or replacement is None or not _link(old, new):
            with contextlib.suppress(FileNotFoundError):
                old.rename(new)
    if replacement is not None:
        replacement.rename(path)
    fsync_directory(path.parent)
    return aside if ends else None


def _link(old: Path, new: Path) -> bool:
    """A second name for a file, so that the first is never without one; False where there are no hard links."""
    try:
        os.link(old, new)
    except OSError:
        return False
    return True
