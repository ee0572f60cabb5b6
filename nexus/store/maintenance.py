"""What is done to the database of a stopped daemon: restore a backup, migrate to a version, check from end to end.

Restore and migrate hold the database's lock, so that no daemon can start in the middle, and refuse while one runs.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nexus_protocol.errors import FailedPrecondition

from nexus.locks import FileLock, LockHeld, holder
from nexus.store.backup import backup_database, remove_partials, sqlite_failure, verify_database
from nexus.store.base import DatabaseDamaged, InitError, SchemaMismatch, StoreError
from nexus.store.migrate import available_migrations, stored_version, target_version, version_number
from nexus.store.sqlite import SqliteStore, database_file, set_aside

__all__ = [
    "CheckReport",
    "MigrationPlan",
    "Restored",
    "check_database",
    "database_lock",
    "migrate_database",
    "plan_migration",
    "refuse_if_used",
    "restore_database",
]


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
    path = database_file(path)
    return FileLock(path.with_name(path.name + ".lock"))


def _daemon_runs(doing: str, pid: int | None) -> DaemonRuns:
    return DaemonRuns(
        f"cannot {doing} while the daemon runs (pid {pid or 'unknown'})", hint="Stop it first: nexusctl daemon stop"
    )


@contextlib.contextmanager
def _locked(path: Path, doing: str) -> Iterator[None]:
    lock = database_lock(path)
    try:
        lock.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock.acquire()
    except LockHeld as held:
        raise _daemon_runs(doing, held.pid) from held
    except OSError as error:
        raise InitError(f"cannot {doing}: {lock.path} cannot be made: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def restore_database(path: Path, source: Path) -> Restored:
    """Put the backup ``source`` in the place of the database ``path``, which is set aside under a dated name.

    Event numbers go on above the highest of the replaced database, so that a watcher's cursor stays true; the
    first new event is ``database.restored`` (where the backup's schema has events). Until the very last step the old
    database is in its place, so a restore that is killed can simply be repeated.

    Raises:
        DaemonRuns: a daemon uses the database.
        DatabaseDamaged: the backup is not a sound database.
        SchemaMismatch: the backup is newer than this program, or not of Nexus.
        DiskFull: there is no room for it; nothing was changed.
        InitError: it cannot be read, or its place not be written.
    """
    path, source = database_file(path), source.absolute()
    if not source.is_file():
        raise InitError(f"cannot restore {source}: there is no such file", hint=f"Backups are in {path.parent}/backups")
    if path.exists() and os.path.samestat(path.stat(), source.stat()):
        raise InitError(f"cannot restore {source}: it is the database itself")
    if path.is_dir():
        raise InitError(f"cannot restore to {path}: it is a directory")
    with _locked(path, "restore the database"):
        version = verify_database(source)
        if not 1 <= version <= target_version():
            raise SchemaMismatch(
                f"cannot restore {source}: "
                + (f"its schema version is {version}" if version else "it is not a Nexus database"),
                expected=target_version(),
                found=version,
            )
        for prefix in (f".{path.name}.", f"..{path.name}."):
            remove_partials(path.parent, prefix)
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            partial.unlink(missing_ok=True)
            backup_database(source, partial)
            highest = _highest_seq(path)
            next_seq = _continue_journal(partial, highest, source)
            aside = set_aside(path, replacement=partial)
        except OSError as error:
            raise InitError(f"cannot restore {source} to {path}: {error.strerror}") from error
        finally:
            partial.unlink(missing_ok=True)
        return Restored(str(path), version, next_seq, str(aside) if aside else None)


def _highest_seq(path: Path) -> int:
    """The highest event number that the database ever gave out."""
    if not path.exists() or not path.stat().st_size:
        return 0
    try:
        # Only to look: a damaged one stays as it is.
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("the check found damage")
            highest = _given_out(connection) if stored_version(connection) is not None else 0
        # The log of a daemon that was killed belongs to it, and is read into it here: then no moment of what follows
        # can part the two.
        with contextlib.closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return highest
    except sqlite3.Error:
        # Damaged, so nobody can tell: the time in milliseconds is above any count of events.
        return int(time.time() * 1000)


def _given_out(connection: sqlite3.Connection) -> int:
    """The highest event number that a sound database says it gave out."""
    highest = 0
    for table, sql in (
        ("sqlite_sequence", "SELECT max(seq) FROM sqlite_sequence WHERE name = 'journal'"),
        ("journal", "SELECT max(seq) FROM journal"),
        ("schema_meta", "SELECT max(CAST(value AS INTEGER)) FROM schema_meta WHERE key LIKE 'journal\\_%' ESCAPE '\\'"),
    ):
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
            highest = max(highest, int(connection.execute(sql).fetchone()[0] or 0))
    return highest


def _continue_journal(path: Path, highest: int, source: Path) -> int:
    now = int(time.time() * 1000)
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            highest = max(highest, _given_out(connection))
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'journal'").fetchone():
                connection.execute(
                    "INSERT OR REPLACE INTO schema_meta (key, value) VALUES ('journal_seq', ?)", (str(highest),)
                )
                connection.execute("COMMIT")
                return highest + 1
            seq = highest + 1
            connection.execute(
                "INSERT INTO journal (seq, at, kind, subject_kind, subject_id, subject_name, actor, uid, pid, detail) "
                "VALUES (?, ?, 'database.restored', 'database', ?, ?, 'nexusctl', ?, ?, '{}')",
                (seq, now, str(path.parent), source.name, os.getuid(), os.getpid()),
            )
            connection.execute("COMMIT")
            return seq
    except sqlite3.Error as error:
        raise sqlite_failure(error, f"restore {source}") from error


class MigrationPlan(NamedTuple):
    """What a migration would do."""

    current: int
    drops: dict[str, int]
    """The tables that the older schema lacks, with their rows."""


def plan_migration(path: Path, target: int) -> MigrationPlan:
    """Look at what going to schema version ``target`` would do, without changing anything.

    Raises:
        DaemonRuns: a daemon uses the database.
        InitError: it cannot be opened.
    """
    path = database_file(path)
    if not path.is_file():
        raise InitError(f"cannot migrate {path}: there is no such file")
    refuse_if_used(path, "migrate the database")
    drops: dict[str, int] = {}
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            current = version_number(stored_version(connection))
            for migration in available_migrations()[target:current]:
                for statement in migration.down:
                    found = re.match(r"DROP\s+TABLE\s+(?:IF\s+EXISTS\s+)?(\w+)", statement, re.IGNORECASE)
                    if found:
                        drops[found[1]] = connection.execute(f'SELECT count(*) FROM "{found[1]}"').fetchone()[0]
    except sqlite3.Error as error:
        raise InitError(f"cannot migrate {path}: {error}", hint="Look at it: nexusctl db check") from error
    return MigrationPlan(current, drops)


def refuse_if_used(path: Path, doing: str) -> None:
    """Refuse what a running daemon would not allow, before anybody is asked about it.

    Raises:
        DaemonRuns: a daemon uses the database.
    """
    pid = holder(database_lock(path).path)
    if pid is not None:
        raise _daemon_runs(doing, pid)


def migrate_database(path: Path, backup_directory: Path, target: int) -> tuple[int, int]:
    """Take the database of a stopped daemon to schema version ``target``, forward or back; gives (from, to).

    A verified backup is made first.

    Raises:
        DaemonRuns: a daemon uses the database.
        InitError: it cannot be opened, or a step failed.
    """
    path = database_file(path)
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
    version = version_number(raw)
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
