"""The folder of backups: makes a backup there or at a given path, finds the newest, and lists all.

It knows names and files, and not whether a daemon runs.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nexus.store.archive import SUFFIX, Head, read_head, write_archive
from nexus.store.backup import (
    backup_database,
    copy_database,
    give_name,
    moment_of,
    os_failure,
    own_backups,
    partial_name,
    prune_backups,
    remove_partial,
    sqlite_failure,
    timestamp,
)
from nexus.store.base import (
    BackupAt,
    BackupInfo,
    BackupOptions,
    DatabaseDamaged,
    PathUnusable,
    QueryError,
    StoreConflict,
    StoreError,
)
from nexus.store.connection import connect
from nexus.store.files import FileSet, count_files
from nexus.store.migrate import stored_version, version_number
from nexus.trust import Untrusted, make_trusted

__all__ = ["ListedBackup", "list_backups", "make_backup", "newest_backup"]

_LISTED = re.compile(r"(?P<stem>.+?)(?:-before-v(?P<version>\d+))?-(?P<at>\d{8}T\d{6}\.\d{3}Z)\.(?:db|tar\.gz)")


def make_backup(
    source: Path | sqlite3.Connection,
    database: Path,
    path: Path | None,
    directory: Path,
    sets: Sequence[FileSet],
    options: BackupOptions,
) -> BackupInfo:
    """Back up ``database``, read from ``source``, to ``path``, or under a dated name to ``directory``; see there.

    Raises:
        StoreConflict: ``path`` exists.
        DiskFull: the disk is full.
        PathUnusable: the backup cannot be written.
        QueryError: the copy is damaged.
    """
    if path is not None:
        return _make(source, database, path, sets, options)
    try:
        make_trusted(os.fspath(directory), "the folder of backups")
    except Untrusted as error:
        raise PathUnusable(error.message, hint=error.hint) from error
    except OSError as error:
        raise os_failure(error, f"create directory {directory}") from error
    suffix = SUFFIX if options.with_files else ".db"
    info = _make(source, database, directory / f"{database.stem}-{timestamp(options.dated_ms)}{suffix}", sets, options)
    return info._replace(pruned=prune_backups(directory, database.stem, options.keep_days, options.now_ms))


def _make(
    source: Path | sqlite3.Connection, database: Path, target: Path, sets: Sequence[FileSet], options: BackupOptions
) -> BackupInfo:
    if options.with_files:
        return _archive(source, database, target, sets)
    info = backup_database(source, target)
    return info._replace(files=tuple(count_files(sets, database, target)))


def _archive(source: Path | sqlite3.Connection, database: Path, target: Path, sets: Sequence[FileSet]) -> BackupInfo:
    copy, partial = partial_name(target), partial_name(target)
    doing = f"back up to {target}"
    try:
        if os.path.lexists(target):
            raise StoreConflict(f"cannot {doing}: it already exists")
        version = copy_database(source, copy)
        head = Head(version, int(time.time() * 1000), _last_event(copy) or 0)
        counts = write_archive(partial, copy, database, sets, head, str(target))
        give_name(partial, target)
        return BackupInfo(str(target), target.stat().st_size, version, 0, tuple(counts), with_files=True)
    except sqlite3.Error as error:
        raise sqlite_failure(error, doing) from error
    except DatabaseDamaged as error:
        raise QueryError(f"cannot {doing}: the copy is damaged: {error.message}") from error
    except OSError as error:
        raise os_failure(error, doing) from error
    finally:
        remove_partial(copy)
        remove_partial(partial)


def newest_backup(directory: Path, stem: str, now_ms: int) -> BackupAt | None:
    """The newest backup of a database with a generated name whose time is not after ``now_ms``.

    Raises:
        PathUnusable: the folder cannot be read.
    """
    try:
        found = [(at, path) for path, at in own_backups(directory, stem) if at <= now_ms]
    except OSError as error:
        raise PathUnusable(f"cannot read the folder of backups {directory}: {error.strerror}") from error
    if not found:
        return None
    at, path = max(found)
    return BackupAt(path, at, _last_event(path))


def _last_event(path: Path) -> int | None:
    """The highest number of an event in a backup; None where it cannot be read."""
    try:
        if path.name.endswith(SUFFIX):
            return read_head(path).last_event
        with _opened(path) as connection:
            row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'journal'").fetchone()
            return int(row[0]) if row else 0
    except (OSError, sqlite3.Error, StoreError):
        return None


def _opened(path: Path) -> contextlib.closing[sqlite3.Connection]:
    # A backup is never written: SQLite makes no files beside it.
    return contextlib.closing(connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True))


class ListedBackup(NamedTuple):
    """A backup in the folder."""

    path: str
    at: int
    """The time in its name (ms)."""
    size_bytes: int
    schema_version: int | None
    """None where it cannot be read."""
    with_files: bool
    before_version: int | None
    """The schema version that it was made before a migration to; None for any other backup."""


def list_backups(directory: Path, stem: str) -> list[ListedBackup]:
    """The backups of a database with generated names, those before migrations included; newest first."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in directory.iterdir():
            match = _LISTED.fullmatch(path.name)
            at = moment_of(match["at"]) if match else None
            if match is None or at is None or match["stem"] != stem or not path.is_file():
                continue
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                continue  # pruned meanwhile
            with_files, before = path.name.endswith(SUFFIX), match["version"]
            found.append(
                ListedBackup(
                    str(path),
                    at,
                    size,
                    _version(path, with_files),
                    with_files,
                    None if before is None else int(before),
                )
            )
    return sorted(found, key=lambda backup: (backup.at, backup.path), reverse=True)


def _version(path: Path, with_files: bool) -> int | None:
    try:
        if with_files:
            return read_head(path).schema_version
        with _opened(path) as connection:
            return version_number(stored_version(connection)) or None
    except (OSError, sqlite3.Error, StoreError):
        return None
