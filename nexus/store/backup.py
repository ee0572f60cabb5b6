"""Backups of the database: made while it is in use, verified before they get their name, and pruned by age.

It knows SQLite files and folders, and not whether a daemon runs.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from nexus.runtime.procfs import process_exists
from nexus.store.base import BackupInfo, DatabaseDamaged, DiskFull, PathUnusable, QueryError, StoreConflict, StoreError
from nexus.store.connection import connect
from nexus.store.migrate import stored_version, version_number

__all__ = [
    "backup_database",
    "copy_database",
    "fsync_directory",
    "give_name",
    "moment_of",
    "no_file",
    "os_failure",
    "own_backups",
    "partial_name",
    "prune_backups",
    "readable",
    "remove_partial",
    "remove_partials",
    "sqlite_failure",
    "timestamp",
    "verify_database",
]

KEPT_BACKUPS = 3
"""The newest backups with generated names of each kind, a database or an archive, which are never deleted: their age
may be an error of the clock."""

_DAY_MS = 24 * 60 * 60 * 1000

_NAME = re.compile(r"(?P<stem>.+)-(?P<at>\d{8}T\d{6}\.\d{3}Z)\.(?P<end>db|tar\.gz)")
_COMPANIONS = ("", "-journal", "-wal", "-shm")
_PARTIAL = re.compile(r"\..+\.(?P<pid>\d+)\.part(-journal|-wal|-shm)?")
_numbers = itertools.count()


def timestamp(now_ms: int | None = None) -> str:
    """Format a time in UTC as in the names of backups, such as ``20260131T093000.125Z``."""
    now_ms = int(time.time() * 1000) if now_ms is None else now_ms
    moment = datetime.fromtimestamp(now_ms // 1000, UTC)
    return f"{moment:%Y%m%dT%H%M%S}.{now_ms % 1000:03d}Z"


def sqlite_failure(error: sqlite3.Error, doing: str) -> StoreError:
    """Translate an error of SQLite to an error of the store; ``doing`` completes the sentence "cannot …"."""
    code = getattr(error, "sqlite_errorcode", 0) or 0
    if code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE:
        return DiskFull(
            f"cannot {doing}: the disk is full", hint="Free disk space, then try again. Nothing was changed."
        )
    if code == sqlite3.SQLITE_CORRUPT_VTAB:
        return QueryError(
            f"cannot {doing}: the search index is damaged", hint="Rebuild it: nexusctl db reindex\nNothing else is."
        )
    if code & 0xFF == sqlite3.SQLITE_CONSTRAINT:
        return StoreConflict(f"cannot {doing}: {error}")
    return QueryError(f"cannot {doing}: {error}")


def os_failure(error: OSError, doing: str) -> StoreError:
    """Translate an error of the file system to an error of the store."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f"cannot {doing}: the disk is full", hint="Free disk space, then try again. Nothing was changed."
        )
    return PathUnusable(f"cannot {doing}: {error.strerror}", hint="Give a path in a folder that you can write to.")


def fsync_directory(directory: Path) -> None:
    """Make the entries of a directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def no_file(path: Path) -> str:
    """Why a path is none of a plain file, as a clause."""
    return "it is no plain file" if os.path.lexists(path) else "there is no such file"


def readable(data: bytes) -> str:
    """Text of a database that may be damaged: SQLite's own sentences quote what is in it."""
    return data.decode(errors="replace")


def verify_database(path: Path, label: Path | None = None) -> int:
    """Run SQLite's full integrity check on a file; returns its schema version (0 if it has none).

    ``label`` is what errors call the file, such as the archive that it comes from.

    Raises:
        DatabaseDamaged: the file is not a database, or is damaged.
    """
    cannot = f"cannot use {label or path}"
    try:
        with contextlib.closing(connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            connection.text_factory = readable
            problems = connection.execute("PRAGMA integrity_check(1)").fetchall()
            if problems != [("ok",)]:
                raise DatabaseDamaged(f"{cannot}: {' '.join(problems[0][0].split())}")
            if connection.execute("PRAGMA foreign_key_check").fetchone():
                raise DatabaseDamaged(f"{cannot}: rows refer to rows that do not exist")
            return version_number(stored_version(connection))
    except sqlite3.Error as error:
        raise DatabaseDamaged(f"{cannot}: {error}") from error
    except UnicodeDecodeError as error:  # the message of an error of SQLite, which quotes the damage
        raise DatabaseDamaged(f"{cannot}: it is damaged") from error


def backup_database(source: Path | sqlite3.Connection, target: Path) -> BackupInfo:
    """Copy the database ``source``, which may be in use, to ``target``, verified and durable.

    ``source`` is a connection when the database's file was deleted or replaced. The copy appears under the name
    ``target`` only when it is complete. The call blocks while the data is copied.

    Raises:
        StoreConflict: ``target`` exists.
        DiskFull: the disk is full.
        PathUnusable: ``target`` cannot be written.
        QueryError: the copy is damaged.
    """
    partial = partial_name(target)
    try:
        if os.path.lexists(target):
            raise StoreConflict(f"cannot back up to {target}: it already exists")
        version = copy_database(source, partial)
        give_name(partial, target)
        return BackupInfo(str(target), target.stat().st_size, version, 0)
    except sqlite3.Error as error:
        raise sqlite_failure(error, f"back up to {target}") from error
    except DatabaseDamaged as error:
        raise QueryError(f"cannot back up to {target}: the copy is damaged: {error.message}") from error
    except OSError as error:
        raise os_failure(error, f"back up to {target}") from error
    finally:
        remove_partial(partial)


def partial_name(target: Path) -> Path:
    """A temporary name beside ``target``, which no other copy has: two must not write to one file."""
    return target.with_name(f".{target.name}.{next(_numbers)}.{os.getpid()}.part")


def copy_database(source: Path | sqlite3.Connection, partial: Path) -> int:
    """Copy a database to a temporary name, and verify the copy; returns its schema version."""
    _copy(source, partial)
    return verify_database(partial)


def give_name(partial: Path, target: Path) -> None:
    """Give a finished copy its name, durably.

    Raises:
        StoreConflict: a file has it.
    """
    try:
        os.link(partial, target)
    except FileExistsError:
        raise StoreConflict(f"cannot back up to {target}: it already exists") from None
    except OSError:  # a file system without hard links
        partial.rename(target)
    fsync_directory(target.parent)


def remove_partial(partial: Path) -> None:
    """Delete an unfinished copy, with what SQLite may have left beside it."""
    for suffix in _COMPANIONS:
        with contextlib.suppress(OSError):
            partial.with_name(partial.name + suffix).unlink(missing_ok=True)


def _copy(source: Path | sqlite3.Connection, partial: Path) -> None:
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with contextlib.ExitStack() as stack:
        if isinstance(source, Path):
            reader = connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=5, isolation_level=None)
            stack.callback(reader.close)
            # backup() waits without a limit for a locked database; with the read lock already taken it never waits.
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
        else:
            reader = source
        writer = connect(partial, isolation_level=None)
        stack.callback(writer.close)
        # No journal: a copy that fails is deleted.
        writer.execute("PRAGMA journal_mode = OFF").fetchone()
        # All pages in one step: a stepwise copy starts again after every write and may never finish.
        reader.backup(writer, pages=-1)
        # Makes the copy one self-contained file, without a -wal beside it.
        writer.execute("PRAGMA journal_mode = DELETE").fetchone()
    fd = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def own_backups(directory: Path, stem: str) -> Iterator[tuple[Path, int]]:
    """Iterate over the backups with generated names of the database ``stem``, with their times in milliseconds.

    Backups made before a migration (``…-before-…``) are not included.
    """
    with contextlib.suppress(FileNotFoundError):
        for entry in sorted(directory.iterdir()):
            match = _NAME.fullmatch(entry.name)
            at = moment_of(match["at"]) if match and match["stem"] == stem else None
            if at is not None:
                yield entry, at


def moment_of(text: str) -> int | None:
    """The time (ms) that ``timestamp`` has formatted; None for an impossible date, which no generated name has."""
    try:
        moment = datetime.strptime(text, "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
    except ValueError:
        return None
    return round(moment.timestamp() * 1000)


def prune_backups(directory: Path, stem: str, keep_days: int, now_ms: int | None = None) -> int:
    """Delete backups with generated names that are older than ``keep_days``, except the newest three of each kind.

    The names and the present time, ``now_ms``, are of a wall clock that may be wrong. A backup of the future is kept,
    and is none of the newest three. Returns how many were deleted.
    """
    now_ms = int(time.time() * 1000) if now_ms is None else now_ms
    backups = sorted(own_backups(directory, stem), key=lambda item: item[1])
    oldest = now_ms - keep_days * _DAY_MS
    pruned = 0
    for kind in {path.suffix for path, _at in backups}:
        for path, at in [(path, at) for path, at in backups if at <= now_ms and path.suffix == kind][:-KEPT_BACKUPS]:
            if at < oldest:
                with contextlib.suppress(OSError):
                    path.unlink()
                    pruned += 1
    remove_partials(directory)
    return pruned


def remove_partials(directory: Path, prefix: str = ".") -> None:
    """Delete unfinished copies, whose names begin with ``prefix``, of processes that no longer exist."""
    with contextlib.suppress(OSError):
        for entry in directory.iterdir():
            match = _PARTIAL.fullmatch(entry.name)
            if match and entry.name.startswith(prefix) and not process_exists(int(match["pid"])):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)
