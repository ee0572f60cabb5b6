"""Maintenance of the database without the daemon: restore a backup, migrate to a version, check the whole file.

Restore and migrate hold the database's lock, so that no daemon can start meanwhile, and refuse while a daemon runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nexus_protocol.errors import FailedPrecondition

from nexus.hints import command_line
from nexus.locks import FileLock, LockHeld, holder
from nexus.store.archive import is_archive
from nexus.store.aside import free_name, set_aside
from nexus.store.backup import no_file, readable, remove_partials, sqlite_failure
from nexus.store.base import DatabaseDamaged, InitError, StoreError
from nexus.store.connection import connect
from nexus.store.files import FileCounts, FileSet, Note, Swept, check_files, keep_beside, place_files
from nexus.store.fulltext import (
    IS_OF_INDEX,
    OF_INDEX,
    check_index,
    count_docs,
    has_index,
    rebuild_at_once,
    stale_reason,
)
from nexus.store.migrate import (
    available_migrations,
    refuse_to_revert,
    stored_version,
    target_version,
    version_number,
)
from nexus.store.processes_folder import ProcessesFolder, noted_event
from nexus.store.restore_files import count_missing, read_notes, stage_backup
from nexus.store.sqlite import SqliteStore, database_file
from nexus.store.writer import SqliteReader, last_operation
from nexus.trust import Untrusted, make_trusted

__all__ = [
    "CheckReport",
    "MigrationPlan",
    "Restored",
    "check_database",
    "database_lock",
    "migrate_database",
    "plan_migration",
    "refuse_if_used",
    "reindex_database",
    "restore_database",
    "set_processes_aside",
    "sweep_files",
]


class DaemonRuns(StoreError, FailedPrecondition):
    """A running daemon holds the database."""

    type = "store.daemon_runs"


class Restored(NamedTuple):
    """What a restore did."""

    path: str
    schema_version: int
    next_seq: int
    """The lowest number that the next event can have."""
    set_aside: str | None
    """The new path of the replaced database; None if there was none."""
    with_files: bool = False
    """Whether the backup held the files that its rows refer to."""
    missing: dict[str, int] | None = None
    """How many files that its rows refer to are missing, by kind."""
    notes: tuple[Note, ...] = ()
    """What a daemon does with it that a person may not expect."""


class CheckReport(NamedTuple):
    """The result of a check: the database is intact when ``problems`` is empty."""

    path: str
    schema_version: int
    tables: dict[str, int]
    """The number of rows by table."""
    problems: list[str]
    files: dict[str, dict[str, int]]
    """For each kind of files beside the database: how many there are to be, their bytes, how many are not intact."""
    file_problems: list[str]
    """What is wrong with these files, while the database itself is intact."""
    behind: str | None = None
    """Why the search index must be rebuilt; None where it need not be."""


def database_lock(path: Path) -> FileLock:
    """Return the lock that every process holds while it may write to the database ``path``."""
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
        make_trusted(str(lock.path.parent), "the database's folder")
        lock.acquire()
    except LockHeld as held:
        raise _daemon_runs(doing, held.pid) from held
    except Untrusted as error:
        raise InitError(error.message, hint=error.hint) from error
    except OSError as error:
        raise InitError(f"cannot {doing}: {lock.path} cannot be created: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def restore_database(path: Path, source: Path, sets: Sequence[FileSet] = ()) -> Restored:
    """Replace the database ``path`` by the backup ``source``; the old database is kept under a dated name.

    A backup with files puts those of ``sets`` to their places before. What the old database refers to gets second names
    beside it. Nothing is deleted, and a log that is there stays as it is.

    Event numbers continue above the highest number of the replaced database, so that the cursors of watchers stay
    valid. The first new event is ``database.restored`` (if the backup's schema has events). The old database is
    replaced in the last step, so a restore that is killed can simply be repeated.

    Raises:
        DaemonRuns: a daemon uses the database.
        DatabaseDamaged: the backup is damaged or not a database.
        SchemaMismatch: the backup is newer than this program, or not a Nexus database.
        DiskFull: the disk is full; nothing was changed.
        InitError: the backup cannot be read, or ``path`` cannot be written.
    """
    path, source = database_file(path), source.absolute()
    if not source.is_file():
        raise InitError(f"cannot restore {source}: {no_file(source)}", hint=f"Backups are in {path.parent}/backups")
    if path.exists() and os.path.samestat(path.stat(), source.stat()):
        raise InitError(f"cannot restore {source}: it is the database itself")
    if path.is_dir():
        raise InitError(f"cannot restore to {path}: it is a directory")
    with _locked(path, "restore the database"):
        for prefix in (f".{path.name}.", f"..{path.name}."):
            remove_partials(path.parent, prefix)
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        staged = path.with_name(f".{path.name}.files.{os.getpid()}.part")
        try:
            partial.unlink(missing_ok=True)
            version = stage_backup(source, path, partial, staged, sets)
            # Also above what the processes were started with: the restored database is the one of theirs.
            last = _last_numbers_of_file(path)
            highest = max(last.seq, noted_event(ProcessesFolder(path).path))
            next_seq = _continue_journal(partial, last._replace(seq=highest), source)
            # A restore that is killed here has added files that no row refers to, and changed nothing else.
            place_files(sets, path, staged)
            name = free_name(path)
            keep_beside(sets, path, name)
            aside = set_aside(path, replacement=partial, name=name)
        except OSError as error:
            raise InitError(f"cannot restore {source} to {path}: {error.strerror}") from error
        finally:
            partial.unlink(missing_ok=True)
            shutil.rmtree(staged, ignore_errors=True)
        archive, missing = is_archive(source), count_missing(path, sets)
        notes = tuple(read_notes(path, sets))
        return Restored(str(path), version, next_seq, str(aside) if aside else None, archive, missing, notes)


class _Last(NamedTuple):
    """The highest numbers that a database gave an event and an operation."""

    seq: int
    operation: int


def _last_numbers_of_file(path: Path) -> _Last:
    """Return the highest numbers that the database file ever assigned; 0 without a file."""
    if not path.exists() or not path.stat().st_size:
        return _Last(0, 0)
    try:
        # Read-only: a damaged file is not changed.
        with contextlib.closing(connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("quick_check found damage")
            known = stored_version(connection) is not None
            last = _Last(_last_seq(connection), last_operation(connection)) if known else _Last(0, 0)
        # Write the log of a killed daemon into the file, so that the steps that follow cannot separate the two.
        with contextlib.closing(connect(path, timeout=5, isolation_level=None)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return last
    except sqlite3.Error:
        # The numbers are unknown when the file is damaged; the time in milliseconds is above any of them.
        return _Last(*[int(time.time() * 1000)] * 2)


def _last_seq(connection: sqlite3.Connection) -> int:
    """Return the highest event number that an intact database has assigned."""
    highest = 0
    for table, sql in (
        ("sqlite_sequence", "SELECT max(seq) FROM sqlite_sequence WHERE name = 'journal'"),
        ("journal", "SELECT max(seq) FROM journal"),
        ("schema_meta", "SELECT max(CAST(value AS INTEGER)) FROM schema_meta WHERE key LIKE 'journal\\_%' ESCAPE '\\'"),
    ):
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
            highest = max(highest, int(connection.execute(sql).fetchone()[0] or 0))
    return highest


def _continue_journal(path: Path, last: _Last, source: Path) -> int:
    now = int(time.time() * 1000)
    try:
        with contextlib.closing(connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            highest = max(last.seq, _last_seq(connection))
            # Also where the backup is older than operations are: the daemon migrates it.
            if last.operation > last_operation(connection):
                connection.execute(
                    "INSERT OR REPLACE INTO schema_meta (key, value) VALUES ('operation_pruned_id', ?)",
                    (str(last.operation),),
                )
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
    """The effect of a migration."""

    current: int
    drops: dict[str, int]
    """The tables that would be dropped, with their number of rows."""


def plan_migration(path: Path, target: int) -> MigrationPlan:
    """Determine what a migration to schema version ``target`` would do, without changing anything.

    Raises:
        DaemonRuns: a daemon uses the database.
        InitError: the database cannot be opened, or the older schema cannot hold its rows.
    """
    path = database_file(path)
    if not path.is_file():
        raise InitError(f"cannot migrate {path}: {no_file(path)}")
    refuse_if_used(path, "migrate the database")
    drops: dict[str, int] = {}
    try:
        with contextlib.closing(SqliteStore(path, path.parent).open_unchanged()) as connection:
            current = version_number(stored_version(connection))
            refuse_to_revert(connection, current, target)
            there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            for migration in available_migrations()[target:current]:
                for statement in migration.down:
                    found = re.match(r"DROP\s+TABLE\s+(?:IF\s+EXISTS\s+)?(\w+)", statement, re.IGNORECASE)
                    if (
                        found and found[1] in there and not found[1].startswith(OF_INDEX)
                    ):  # not one that the step itself makes, to rebuild a table
                        drops[found[1]] = connection.execute(f'SELECT count(*) FROM "{found[1]}"').fetchone()[0]
    except sqlite3.Error as error:
        raise InitError(f"cannot migrate {path}: {error}", hint="Check it: nexusctl db check") from error
    return MigrationPlan(current, drops)


def refuse_if_used(path: Path, doing: str) -> None:
    """Check early, before the user is asked to confirm, that no daemon uses the database.

    Raises:
        DaemonRuns: a daemon uses the database.
    """
    pid = holder(database_lock(path).path)
    if pid is not None:
        raise _daemon_runs(doing, pid)


def set_processes_aside(path: Path, backup_directory: Path) -> Path | None:
    """Set the processes of another database aside, so that a daemon can start with ``path``; as ``nexusd --fresh``.

    The database is made, or migrated, as the daemon would. Returns the new name of the processes' folder; None where
    they are those of the database.

    Raises:
        DaemonRuns: a daemon uses the database.
        InitError: the database cannot be opened, or the folder not renamed.
    """
    with _locked(database_file(path), "set the processes aside"):
        folder = ProcessesFolder(path, fresh=True)
        store = SqliteStore(path, backup_directory)
        folder.open_store(store)
        store.close_now()
        return folder.aside


def migrate_database(path: Path, backup_directory: Path, target: int) -> tuple[int, int]:
    """Migrate the database to schema version ``target``, up or down; returns (from, to).

    A verified backup is made first, unless the older schema cannot hold the rows: then nothing is written at all.

    Raises:
        DaemonRuns: a daemon uses the database.
        InitError: the database cannot be opened, the older schema cannot hold its rows, or a step failed.
    """
    path = database_file(path)
    if not path.exists():
        raise InitError(f"cannot migrate {path}: {no_file(path)}")
    if not 1 <= target <= target_version():
        raise InitError(f"cannot migrate to version {target}: the versions are 1 to {target_version()}")
    with _locked(path, "migrate the database"):
        store = SqliteStore(path, backup_directory)
        current = store.current_version()
        store.init(target=target)
        store.close_now()
        return current, target


def sweep_files(path: Path, sets: Sequence[FileSet], grace_ms: int, *, dry_run: bool) -> Swept:
    """Delete the files that no row of a database refers to, older than ``grace_ms``; see ``FileSet.sweep_store``.

    Raises:
        DaemonRuns: a daemon uses the database.
        InitError: the database cannot be opened, or is not of this schema.
    """
    path = database_file(path)
    if not path.is_file():
        raise InitError(f"cannot sweep the files of {path}: {no_file(path)}", hint="Name the database: --db PATH")
    with _locked(path, "sweep files"):
        store = SqliteStore(path, path.parent)
        if store.current_version() != target_version():
            raise InitError(
                f"cannot sweep the files of {path}: it has another schema version than this program",
                hint="Start the daemon, which migrates it: nexusctl daemon start",
            )
        store.init()
        return asyncio.run(_sweep(store, sets, int(time.time() * 1000) - grace_ms, dry_run))


async def _sweep(store: SqliteStore, sets: Sequence[FileSet], before_at: int, dry_run: bool) -> Swept:
    store.start()
    try:
        swept = [await files.sweep_store(store, before_at, dry_run) for files in sets]
    finally:
        await store.close()
    return Swept(*(sum(values) for values in zip(*filter(None, swept), strict=True))) if any(swept) else Swept(0, 0, 0)


def reindex_database(path: Path) -> int:
    """Make the search index again, in one transaction; returns how many texts it has.

    Raises:
        DaemonRuns: a daemon uses the database.
        InitError: the file does not exist, or its schema has no search index.
        StoreError: the database cannot be read or written.
    """
    path = database_file(path)
    if not path.is_file():
        raise InitError(f"cannot rebuild the search index of {path}: {no_file(path)}")
    with _locked(path, "rebuild the search index"):
        try:
            with contextlib.closing(connect(path, timeout=5, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous = FULL")
                if not has_index(connection):
                    raise InitError(
                        f"cannot rebuild the search index of {path}: its schema has none",
                        hint="Migrate it: " + command_line("nexusctl", "db", "migrate", "--to", target_version()),
                    )
                connection.execute("BEGIN IMMEDIATE")
                rebuild_at_once(connection)
                connection.execute("COMMIT")
                return count_docs(SqliteReader(connection))
        except sqlite3.Error as error:
            raise sqlite_failure(error, f"rebuild the search index of {path}") from error


def check_database(path: Path, sets: Sequence[FileSet] = (), *, deep: bool = False) -> CheckReport:
    """Check the whole database, and the files of ``sets``, without changing anything; it may be in use.

    With ``deep`` the content of the files is read.

    Raises:
        InitError: the file does not exist.
        DatabaseDamaged: the file is not an SQLite database.
    """
    path = path.absolute()
    if not path.is_file():
        raise InitError(f"cannot check {path}: {no_file(path)}")
    problems: list[str] = []
    tables: dict[str, int] = {}
    files: list[FileCounts] = []
    file_problems: list[str] = []
    try:
        with contextlib.closing(connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            connection.text_factory = readable
            raw = stored_version(connection)
            problems += [row[0] for row in connection.execute("PRAGMA integrity_check(20)") if row[0] != "ok"]
            problems += [
                f"table {table}: row {rowid} refers to a row of {parent} that does not exist"
                for table, rowid, parent, _ in connection.execute("PRAGMA foreign_key_check")
            ]
            names = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' "
                f"AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND NOT {IS_OF_INDEX} ORDER BY name"
            ).fetchall()
            for (name,) in names:
                tables[name] = connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
            if "journal" in tables:
                problems += _check_journal(connection)
            files, file_problems = check_files(sets, path, connection, deep=deep)
            behind = None if problems else _behind(connection)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise DatabaseDamaged(
            f"cannot check {path}: {error}", hint="Restore a backup: nexusctl db restore BACKUP"
        ) from error
    version = version_number(raw)
    if not version:
        problems.append("this is not a Nexus database: it has no schema version")
    elif version > target_version():
        problems.append(f"its schema version is {version}, this program knows {target_version()} and older")
    counts = {each.name: {key: value for key, value in each._asdict().items() if key != "name"} for each in files}
    return CheckReport(str(path), version, tables, problems, counts, file_problems, behind)


def _behind(connection: sqlite3.Connection) -> str | None:
    """Why the search index is behind; None where it is not.

    SQLite's own check does not look at what the index holds, and the index's check needs a connection that writes, and
    so would hold up a daemon: a private copy is checked, which SQLite deletes by itself.
    """
    if not has_index(connection):
        return None
    if (reason := stale_reason(SqliteReader(connection))) is not None:
        return reason
    with contextlib.closing(connect("", isolation_level=None)) as copy:
        connection.backup(copy)
        return check_index(copy)


def _check_journal(connection: sqlite3.Connection) -> list[str]:
    highest = connection.execute("SELECT coalesce(max(seq), 0) FROM journal").fetchone()[0]
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'journal'").fetchone()
    if highest > (row[0] if row else 0):
        return [f"the journal holds event {highest}, but would assign lower numbers again"]
    return []
