"""Stages what a backup holds before a restore changes anything, and counts what is missing afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from nexus.store.archive import extract_archive, is_archive, read_head, require_version
from nexus.store.backup import backup_database, fsync_directory, os_failure, verify_database
from nexus.store.connection import connect
from nexus.store.files import FileSet, Note, beside, each_referred, is_problem, link_unit, notes_of

__all__ = ["count_missing", "read_notes", "stage_backup", "verify_backup"]


def verify_backup(source: Path) -> int:
    """Check a backup that is about to be restored, as far as that needs no room; returns its schema version.

    An archive is read as a whole when it is restored.

    Raises:
        DatabaseDamaged: it is damaged, or no backup.
        SchemaMismatch: this program cannot use it.
    """
    version = read_head(source).schema_version if is_archive(source) else verify_database(source)
    require_version(version, source)
    return version


def stage_backup(source: Path, path: Path, partial: Path, staged: Path, sets: Sequence[FileSet]) -> int:
    """Put the database of a backup to ``partial``, and its files to ``staged``, durably; returns the schema version.

    The files of a backup that is a database are those beside it, of a database that a restore has set aside. What is
    beside ``path``, the database that is replaced, is not staged again.

    Raises:
        DatabaseDamaged: the backup is damaged, or no backup.
        SchemaMismatch: this program cannot use it.
        DiskFull: there is no room for it.
    """
    staged.mkdir(mode=0o700)
    if is_archive(source):
        try:
            return extract_archive(source, partial, staged, sets)
        except OSError as error:
            raise os_failure(error, f"restore {source}") from error
    version = verify_database(source)
    require_version(version, source)
    backup_database(source, partial)
    with contextlib.closing(connect(f"{partial.as_uri()}?mode=ro", uri=True)) as connection:
        for files in sets:
            kept, there = beside(source, files), files.folder(path)
            if not kept.is_dir():
                continue
            for referred in each_referred(files, connection):
                unit = files.unit(referred.name)
                if os.path.lexists(there / unit):
                    continue
                link_unit(kept / unit, staged / files.name / unit, copies=True)
                if files.problem(staged / files.name, referred, deep=True) == "damaged":
                    _remove(staged / files.name / unit)
    for parent, _folders, _names in os.walk(staged):
        fsync_directory(Path(parent))
    return version


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def count_missing(path: Path, sets: Sequence[FileSet]) -> dict[str, int]:
    """How many files of each set that is checked are not intact beside a database; sets without any are left out."""
    found: dict[str, int] = {}
    with contextlib.closing(connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
        for files in sets:
            if files.checked:
                folder = files.folder(path)
                missing = sum(
                    problem is not None and is_problem(files, connection, referred.name, problem)
                    for referred in each_referred(files, connection)
                    for problem in (files.problem(folder, referred, deep=False),)
                )
                found |= {files.name: missing} if missing else {}
    return found


def read_notes(path: Path, sets: Sequence[FileSet]) -> list[Note]:
    """What a person should know of a restored database."""
    with contextlib.closing(connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
        return notes_of(sets, connection)
