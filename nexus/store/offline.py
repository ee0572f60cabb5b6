"""What is done to the database of a stopped daemon: restore a backup, migrate to a version, check from end to end.

Restore and migrate hold the database's lock, so that no daemon can start in the middle, and refuse while one runs.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import NamedTuple

from nexus_protocol.errors import FailedPrecondition

from nexus.locks import FileLock, LockHeld
from nexus.store.backup import backup_database, fsync_directory, sqlite_failure, verify_database
from nexus.store.base import DatabaseDamaged, InitError, SchemaMismatch, StoreError
from nexus.store.migrate import stored_version, target_version
from nexus.store.sqlite import SqliteStore, set_aside

__all__ = ["CheckReport", "Restored", "check_database", "database_lock", "migrate_database", "restore_database"]


class DaemonRuns(StoreError, FailedPrecondition):
    """A running daemon holds the database."""

    type = "store.daemon_runs"


class Restored(NamedTuple):
    """What a restore did."""

    path: str
    schema_version: int
    next_seq: int
    """The first number that an event can have from now on."""
    set_aside: str | None
    """Where the replaced database is now."""


class CheckReport(NamedTuple):
    """What a check found: no problems means a sound database."""

    path: str
    schema_version: int
    tables: dict[str, int]
    """Rows by table."""
    problems: list[str]


def database_lock(path: Path) -> FileLock:
    """The lock that whoever uses the database ``path`` for writing holds for as long as it does."""
    path = path.absolute()
    return FileLock(path.with_name(path.name + ".lock"))


def _locked(path: Path, doing: str) -> FileLock:
    lock = database_lock(path)
    try:
        lock.acquire()
    except LockHeld as held:
        raise DaemonRuns(
            f"cannot {doing} while the daemon runs (pid {held.pid or 'unknown'})",
            hint="Stop it first: nexusctl daemon stop",
        ) from held
    except OSError as error:
        raise InitError(f"cannot {doing}: {lock.path} cannot be made: {error.strerror}") from error
    return lock


def restore_database(path: Path, source: Path) -> Restored:
    """Put the backup ``source`` in the place of the database ``path``, which is set aside under a dated name.

    Event numbers go on above the highest of the replaced database, so that a watcher's cursor stays true; the
    first new event is ``database.restored``.

    Raises:
        DaemonRuns: a daemon uses the database.
        DatabaseDamaged: the backup is not a sound database.
        SchemaMismatch: the backup is newer than this program, or not of Nexus.
    """
    path, source = path.absolute(), source.absolute()
    if not source.is_file():
        raise InitError(f"cannot restore {source}: there is no such file", hint=f"Backups are in {path.parent}/backups")
    if path.exists() and os.path.samestat(path.stat(), source.stat()):
        raise InitError(f"cannot restore {source}: it is the database itself")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(path, "restore the database"):
        version = verify_database(source)
        if not 1 <= version <= target_version():
            raise SchemaMismatch(
                f"cannot restore {source}: "
                + (f"its schema version is {version}" if version else "it is not a Nexus database"),
                expected=target_version(),
                found=version,
            )
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            backup_database(source, partial)
            highest = _highest_seq(path)
            next_seq = _continue_journal(partial, highest, source)
            aside = set_aside(path) if path.exists() else None
            partial.rename(path)
            fsync_directory(path.parent)
        finally:
            partial.unlink(missing_ok=True)
        return Restored(str(path), version, next_seq, str(aside) if aside else None)


def _highest_seq(path: Path) -> int:
    """The highest event number that the database ever gave out."""
    if not path.exists():
        return 0
    try:
        # For writing: the log of a daemon that was killed belongs to it, and is read into it here.
        with contextlib.closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as connection:
            if stored_version(connection) is None:
                return 0
            row = connection.execute(
                "SELECT max(n) FROM (SELECT seq AS n FROM sqlite_sequence WHERE name = 'journal' UNION ALL "
                "SELECT CAST(value AS INTEGER) FROM schema_meta WHERE key = 'journal_seq')"
            ).fetchone()
            return int(row[0] or 0)
    except sqlite3.Error:
        # Damaged, so nobody can tell: the time in milliseconds is above any count of events.
        return int(time.time() * 1000)


def _continue_journal(path: Path, highest: int, source: Path) -> int:
    now = int(time.time() * 1000)
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'journal'").fetchone():
                own = connection.execute("SELECT value FROM schema_meta WHERE key = 'journal_seq'").fetchone()
                highest = max(highest, int(own[0]) if own else 0)
                connection.execute(
                    "INSERT OR REPLACE INTO schema_meta (key, value) VALUES ('journal_seq', ?)", (str(highest),)
                )
                connection.execute("COMMIT")
                return highest + 1
            own = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'journal'").fetchone()
            seq = max(highest, own[0] if own else 0) + 1
            connection.execute(
                "INSERT INTO journal (seq, at, kind, subject_kind, subject_id, subject_name, actor, uid, pid, detail) "
                "VALUES (?, ?, 'database.restored', 'database', ?, ?, 'nexusctl', ?, ?, '{}')",
                (seq, now, str(path.parent), source.name, os.getuid(), os.getpid()),
            )
            connection.execute("COMMIT")
            return int(seq)
    except sqlite3.Error as error:
        raise sqlite_failure(error, f"restore {source}") from error


def migrate_database(path: Path, backup_directory: Path, target: int) -> tuple[int, int]:
    """Take the database of a stopped daemon to schema version ``target``, forward or back; gives (from, to).

    A verified backup is made first.

    Raises:
        DaemonRuns: a daemon uses the database.
        InitError: it cannot be opened, or a step failed.
    """
    path = path.absolute()
    if not path.exists():
        raise InitError(f"cannot migrate {path}: there is no such file")
    if not 1 <= target <= target_version():
        raise InitError(f"cannot migrate to version {target}: there are versions 1 to {target_version()}")
    with _locked(path, "migrate the database"):
        store = SqliteStore(path, backup_directory)
        current = store.current_version()
        store.init(target=target)
        store.close_now()
        return current, target


def check_database(path: Path) -> CheckReport:
    """Read the whole database, without changing it; it may be in use.

    Raises:
        InitError: there is no such file, or it cannot be opened.
        DatabaseDamaged: it is not an SQLite database.
    """
    path = path.absolute()
    if not path.is_file():
        raise InitError(f"cannot check {path}: there is no such file")
    problems: list[str] = []
    tables: dict[str, int] = {}
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            raw = stored_version(connection)
            problems += [row[0] for row in connection.execute("PRAGMA integrity_check(20)") if row[0] != "ok"]
            problems += [
                f"table {table}: row {rowid} refers to a row of {parent} that is not there"
                for table, rowid, parent, _ in connection.execute("PRAGMA foreign_key_check")
            ]
            names = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' "
                "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
            ).fetchall()
            for (name,) in names:
                tables[name] = connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
            if "journal" in tables:
                problems += _check_journal(connection)
    except sqlite3.Error as error:
        raise DatabaseDamaged(f"cannot check {path}: {error}", hint="nexusctl db restore BACKUP") from error
    version = int(raw) if raw is not None and raw.isdigit() else 0
    if not version:
        problems.append("this is not a Nexus database: it has no schema version")
    elif version > target_version():
        problems.append(f"its schema version is {version}, this program knows {target_version()} and older")
    return CheckReport(str(path), version, tables, problems)


def _check_journal(connection: sqlite3.Connection) -> list[str]:
    highest = connection.execute("SELECT coalesce(max(seq), 0) FROM journal").fetchone()[0]
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'journal'").fetchone()
    if highest > (row[0] if row else 0):
        return [f"the journal holds event {highest}, but would give out lower numbers again"]
    return []
