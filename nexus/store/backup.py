"""Copies of the database: made while it is in use, verified before they count, and pruned by age.

Knows SQLite files and folders. Whether a daemon runs is not its business.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from nexus.runtime.procfs import process_exists
from nexus.store.base import BackupInfo, DatabaseDamaged, DiskFull, PathUnusable, QueryError, StoreConflict, StoreError
from nexus.store.migrate import stored_version, version_number

__all__ = [
    "backup_database",
    "fsync_directory",
    "prune_backups",
    "remove_partials",
    "sqlite_failure",
    "timestamp",
    "verify_database",
]

_DAY_MS = 24 * 60 * 60 * 1000

_NAME = re.compile(r"(?P<stem>.+)-(?P<at>\d{8}T\d{6}\.\d{3}Z)\.db")
_COMPANIONS = ("", "-journal", "-wal", "-shm")
_PARTIAL = re.compile(r"\..+\.(?P<pid>\d+)\.part(-journal|-wal|-shm)?")
_numbers = itertools.count()


def timestamp(now_ms: int | None = None) -> str:
    """A time in UTC as it stands in our file names, such as ``20260131T093000.125Z``."""
    now_ms = int(time.time() * 1000) if now_ms is None else now_ms
    moment = datetime.fromtimestamp(now_ms // 1000, UTC)
    return f"{moment:%Y%m%dT%H%M%S}.{now_ms % 1000:03d}Z"


def sqlite_failure(error: sqlite3.Error, doing: str) -> StoreError:
    """The error of the store for an error of SQLite; ``doing`` completes the sentence "cannot …"."""
    code = getattr(error, "sqlite_errorcode", 0) or 0
    if code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE:
        return DiskFull(f"cannot {doing}: the disk is full", hint="Make room, then try again: nothing was changed.")
    if code & 0xFF == sqlite3.SQLITE_CONSTRAINT:
        return StoreConflict(f"cannot {doing}: {error}")
    return QueryError(f"cannot {doing}: {error}")


def os_failure(error: OSError, doing: str) -> StoreError:
    """The same for an error of the file system."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"cannot {doing}: the disk is full", hint="Make room, then try again: nothing was changed.")
    return PathUnusable(f"cannot {doing}: {error.strerror}", hint="Give a path in a folder that you can write to.")


def fsync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def verify_database(path: Path) -> int:
    """Check a database file from end to end; gives its schema version (0 where it has none).

    Raises:
        DatabaseDamaged: it is not a database, or not a sound one.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            problems = connection.execute("PRAGMA integrity_check(1)").fetchall()
            if problems != [("ok",)]:
                raise DatabaseDamaged(f"cannot use {path}: {problems[0][0]}")
            if connection.execute("PRAGMA foreign_key_check").fetchone():
                raise DatabaseDamaged(f"cannot use {path}: rows refer to rows that are not there")
            return version_number(stored_version(connection))
    except sqlite3.Error as error:
        raise DatabaseDamaged(f"cannot use {path}: {error}") from error


def backup_database(source: Path | sqlite3.Connection, target: Path) -> BackupInfo:
    """Copy the database ``source``, which may be in use, to ``target``, verified and durable.

    A connection as the source is for a database whose file has lost its name. The copy appears under its own name only
    when it is complete. It may block for as long as the copying takes.

    Raises:
        StoreConflict: ``target`` is there already.
        DiskFull: there is no room for it.
        PathUnusable: it cannot be written there.
        QueryError: the copy is not sound.
    """
    # A name of its own for each copy: two at once to the same target must not write into one file.
    partial = target.with_name(f".{target.name}.{next(_numbers)}.{os.getpid()}.part")
    try:
        if os.path.lexists(target):
            raise StoreConflict(f"cannot back up to {target}: it is there already")
        _copy(source, partial)
        version = verify_database(partial)
        try:
            os.link(partial, target)
        except FileExistsError:
            raise StoreConflict(f"cannot back up to {target}: it is there already") from None
        except OSError:  # a file system without hard links
            partial.rename(target)
        fsync_directory(target.parent)
        return BackupInfo(str(target), target.stat().st_size, version, 0)
    except sqlite3.Error as error:
        raise sqlite_failure(error, f"back up to {target}") from error
    except DatabaseDamaged as error:
        raise QueryError(f"cannot back up to {target}: the copy is not sound: {error.message}") from error
    except OSError as error:
        raise os_failure(error, f"back up to {target}") from error
    finally:
        for end in _COMPANIONS:
            with contextlib.suppress(OSError):
                partial.with_name(partial.name + end).unlink(missing_ok=True)


def _copy(source: Path | sqlite3.Connection, partial: Path) -> None:
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with contextlib.ExitStack() as stack:
        if isinstance(source, Path):
            reader = sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=5, isolation_level=None)
            stack.callback(reader.close)
            # The backup itself would wait for a locked database without end; with its read lock taken it never waits.
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
        else:
            reader = source
        writer = sqlite3.connect(partial, isolation_level=None)
        stack.callback(writer.close)
        # No journal for what is thrown away when it fails.
        writer.execute("PRAGMA journal_mode = OFF").fetchone()
        # All pages in one step: a stepwise copy starts again at every write and may never end.
        reader.backup(writer, pages=-1)
        # The copy is one self-contained file, without a -wal beside it.
        writer.execute("PRAGMA journal_mode = DELETE").fetchone()
    fd = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def own_backups(directory: Path, stem: str) -> Iterator[tuple[Path, int]]:
    """The backups that we named ourselves for the database ``stem``, with their times in milliseconds.

    What a migration kept (``…-before-…``) is not among them.
    """
    with contextlib.suppress(FileNotFoundError):
        for entry in sorted(directory.iterdir()):
            match = _NAME.fullmatch(entry.name)
            if match and match["stem"] == stem:
                try:
                    moment = datetime.strptime(match["at"], "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
                except ValueError:
                    continue  # no such day: not a name that we gave
                yield entry, int(moment.timestamp() * 1000)


def prune_backups(directory: Path, stem: str, keep_days: int) -> int:
    """Delete our own backups that are older than ``keep_days``, but never the newest; gives their number."""
    backups = sorted(own_backups(directory, stem), key=lambda item: item[1])
    oldest = int(time.time() * 1000) - keep_days * _DAY_MS
    pruned = 0
    for path, at in backups[:-1]:
        if at < oldest:
            with contextlib.suppress(OSError):
                path.unlink()
                pruned += 1
    remove_partials(directory)
    return pruned


def remove_partials(directory: Path, prefix: str = ".") -> None:
    """Delete the copies, of those whose names begin so, that a killed process left behind."""
    with contextlib.suppress(OSError):
        for entry in directory.iterdir():
            match = _PARTIAL.fullmatch(entry.name)
            if match and entry.name.startswith(prefix) and not process_exists(int(match["pid"])):
                entry.unlink(missing_ok=True)
