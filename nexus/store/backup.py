"""Copies of the database: made while it is in use, verified before they count, and pruned by age.

Knows SQLite files and folders. Whether a daemon runs is not its business.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from nexus.store.base import BackupInfo, DatabaseDamaged, DiskFull, QueryError, StoreConflict, StoreError
from nexus.store.migrate import stored_version

__all__ = ["backup_database", "fsync_directory", "sqlite_failure", "timestamp", "verify_database"]

_DAY_MS = 24 * 60 * 60 * 1000

_NAME = re.compile(r"(?P<stem>.+)-(?P<at>\d{8}T\d{6}\.\d{3}Z)\.db")
_PARTIAL = re.compile(r"\..+\.(?P<pid>\d+)\.part")


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
            version = stored_version(connection) or "0"
            return int(version) if version.isdigit() else 0
    except sqlite3.Error as error:
        raise DatabaseDamaged(f"cannot use {path}: {error}") from error


def backup_database(source: Path, target: Path) -> BackupInfo:
    """Copy the database ``source``, which may be in use, to ``target``, verified and durable.

    The copy appears under its name only when it is complete. It may block for as long as the copying takes.

    Raises:
        StoreConflict: ``target`` is there already.
        DiskFull: there is no room for it.
        QueryError: it cannot be written, or the copy is not sound.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
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
        raise QueryError(
            f"cannot back up to {target}: {error.strerror}", hint="Give a path in a folder that you can write to."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _copy(source: Path, partial: Path) -> None:
    old_mask = os.umask(0o077)
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as reader,
            contextlib.closing(sqlite3.connect(partial, isolation_level=None)) as writer,
        ):
            # All pages in one step: a stepwise copy starts again at every write and may never end.
            reader.backup(writer, pages=-1)
            # The copy is one self-contained file, without a -wal beside it.
            writer.execute("PRAGMA journal_mode = DELETE").fetchone()
    finally:
        os.umask(old_mask)
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
                moment = datetime.strptime(match["at"], "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
                yield entry, int(moment.timestamp() * 1000)


def prune_backups(directory: Path, stem: str, keep_days: int) -> int:
    """Delete our own backups that are older than ``keep_days``, but never the newest; gives their number."""
    backups = sorted(own_backups(directory, stem), key=lambda item: item[1])
    oldest = int(time.time() * 1000) - keep_days * _DAY_MS
    pruned = 0
    for path, at in backups[:-1]:
        if at < oldest:
            path.unlink(missing_ok=True)
            pruned += 1
    with contextlib.suppress(OSError):
        _remove_partials(directory)
    return pruned


def _remove_partials(directory: Path) -> None:
    """Copies that a killed process left behind."""
    for entry in directory.iterdir():
        match = _PARTIAL.fullmatch(entry.name)
        if match and not Path(f"/proc/{match['pid']}").exists():
            entry.unlink(missing_ok=True)
