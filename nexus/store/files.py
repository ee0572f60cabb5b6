"""The files beside a database that its rows refer to, as backup, restore and check see them.

A capability declares its kind of files as a ``FileSet``; the list of all comes from above. Nothing here knows a table.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from nexus.store.backup import fsync_directory
from nexus.store.base import Reader, StateStore
from nexus.store.connection import connect
from nexus.store.writer import SqliteReader

__all__ = [
    "FileCounts",
    "FilePart",
    "FileSet",
    "Note",
    "Referred",
    "Swept",
    "check_files",
    "beside",
    "count_files",
    "each_referred",
    "find_referred",
    "is_problem",
    "keep_beside",
    "link_unit",
    "make_folders",
    "notes_of",
    "place_files",
    "sync_folders",
]

_PAGE = 500
_MAX_SENTENCES = 20


class Referred(NamedTuple):
    """What rows refer to: one blob, or one log."""

    name: str
    size_bytes: int | None
    """Of its file; None where the rows do not tell it, or do not tell whether it must be there."""


class FilePart(NamedTuple):
    """One file of what rows refer to, as it was when it was opened."""

    path: str
    """Relative to the folder of the set, with slashes."""
    size_bytes: int
    chunks: Iterator[bytes]
    """Its content; exactly ``size_bytes``."""


class FileCounts(NamedTuple):
    """How many files of a set rows refer to, and how many of them are not there as they should be."""

    name: str
    files: int = 0
    size_bytes: int = 0
    missing: int = 0
    damaged: int = 0


class Swept(NamedTuple):
    """What a sweep deleted, or would delete."""

    files: int
    size_bytes: int
    temporary: int
    """Unfinished and unknown files among them."""


class Note(NamedTuple):
    """What a person should know of a database that was restored."""

    sentence: str
    hint: str


class FileSet(ABC):
    """One kind of files: blobs, or logs."""

    name: str
    """In an archive and in the name of a folder; the plural that sentences use."""
    one: str
    """The singular."""
    table: str
    """The table with the rows; a database of an older schema, without it, has no such files."""
    checked: bool
    """Whether a row tells the size of its file, and a check reports what is missing."""

    @abstractmethod
    def folder(self, database: Path) -> Path:
        """Where the files of a database are."""

    @abstractmethod
    def referred(self, reader: Reader, after: str, limit: int) -> list[Referred]:
        """What the rows refer to, sorted by name, after a name."""

    @abstractmethod
    def find(self, reader: Reader, name: str) -> Referred | None:
        """What the rows refer to by this name."""

    @abstractmethod
    def name_of(self, path: PurePosixPath) -> str | None:
        """The name that a relative path of a file belongs to; None where no file of this set has such a path."""

    @abstractmethod
    def unit(self, name: str) -> PurePosixPath:
        """The file or folder that holds all files of a name; it appears at once."""

    @abstractmethod
    def parts(self, folder: Path, name: str) -> Iterator[FilePart]:
        """The files of a name that are intact. What vanishes meanwhile is left out."""

    @abstractmethod
    def problem(self, folder: Path, referred: Referred, *, deep: bool) -> str | None:
        """``missing`` or ``damaged``; None where it is as the rows say. ``deep`` reads the content."""

    def users(self, reader: Reader, name: str) -> str | None:
        """Who needs it, as the end of a sentence; None where its row alone is left, which a sweep may have met."""
        return ""

    def note(self, reader: Reader) -> Note | None:
        """What a daemon does with the rows of a restored database that a person may not expect; None for nothing."""
        return None

    async def sweep_store(self, store: StateStore, before_at: int, dry_run: bool) -> Swept | None:
        """Delete what no row of a store refers to and is older than a time, while no daemon runs; or only count it.

        None where files of this set are not swept: they are deleted with their rows.
        """
        return None


def each_referred(files: FileSet, connection: sqlite3.Connection) -> Iterator[Referred]:
    """Everything that the rows of a database refer to, in pages: no read lasts long."""
    reader, after = SqliteReader(connection), ""
    while _has_rows(files, connection) and (page := files.referred(reader, after, _PAGE)):
        yield from page
        after = page[-1].name


def find_referred(files: FileSet, connection: sqlite3.Connection, name: str) -> Referred | None:
    """What the rows of a database refer to by a name."""
    return files.find(SqliteReader(connection), name) if _has_rows(files, connection) else None


def is_problem(files: FileSet, connection: sqlite3.Connection, name: str, problem: str) -> bool:
    """Whether what is not intact is to be told: not what was swept since, or what is missing and nothing needs."""
    if find_referred(files, connection, name) is None:
        return False
    return problem != "missing" or files.users(SqliteReader(connection), name) is not None


def notes_of(sets: Sequence[FileSet], connection: sqlite3.Connection) -> list[Note]:
    """What a person should know of a database that was restored."""
    reader = SqliteReader(connection)
    return [note for files in sets if _has_rows(files, connection) and (note := files.note(reader)) is not None]


def _has_rows(files: FileSet, connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (files.table,)).fetchone())


def count_files(sets: Sequence[FileSet], database: Path, copy: Path) -> list[FileCounts]:
    """Count what the rows of ``copy`` refer to beside ``database``."""
    found = []
    with contextlib.closing(connect(f"{copy.as_uri()}?mode=ro", uri=True)) as connection:
        for files in sets:
            folder, counts = files.folder(database), FileCounts(files.name)
            for referred in each_referred(files, connection):
                size = _size_of(folder / files.unit(referred.name))
                if size is not None:
                    counts = counts._replace(files=counts.files + 1, size_bytes=counts.size_bytes + size)
                elif referred.size_bytes is not None and is_problem(files, connection, referred.name, "missing"):
                    counts = counts._replace(missing=counts.missing + 1)
            found.append(counts)
    return found


def _size_of(path: Path) -> int | None:
    """The size of a file, or of the files in a folder; None where there is none."""
    try:
        entries = list(path.iterdir())
    except NotADirectoryError:
        entries = [path]
    except OSError:
        return None
    sizes = []
    for entry in entries:
        with contextlib.suppress(OSError):  # a segment that the shim has deleted meanwhile
            sizes.append(entry.lstat().st_size)
    return sum(sizes) if sizes else None


def check_files(
    sets: Sequence[FileSet], database: Path, connection: sqlite3.Connection, *, deep: bool
) -> tuple[list[FileCounts], list[str]]:
    """Look whether what the rows refer to is there; returns the numbers, and a sentence for each problem."""
    found, sentences = [], []
    reader = SqliteReader(connection)
    for files in sets:
        if not files.checked:
            continue
        folder, counts, told = files.folder(database), FileCounts(files.name), 0
        for referred in each_referred(files, connection):
            problem = files.problem(folder, referred, deep=deep)
            if problem is not None and not is_problem(files, connection, referred.name, problem):
                continue
            counts = counts._replace(
                files=counts.files + 1,
                size_bytes=counts.size_bytes + (referred.size_bytes or 0),
                missing=counts.missing + (problem == "missing"),
                damaged=counts.damaged + (problem == "damaged"),
            )
            if problem is not None:
                told += 1
                if told <= _MAX_SENTENCES:
                    users = files.users(reader, referred.name) or ""
                    sentences.append(f"{files.one} {referred.name} is {problem}{users}")
        if told > _MAX_SENTENCES:
            sentences.append(f"{told - _MAX_SENTENCES} more {files.name} are missing or damaged")
        found.append(counts)
    return found, sentences


def make_folders(folder: Path) -> None:
    """Make a folder, and those above it, for this user alone and durably."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):
            each.mkdir(mode=0o700)
        fsync_directory(each.parent)


def place_files(sets: Sequence[FileSet], database: Path, staged: Path) -> None:
    """Move files from ``staged``, with a folder for each set, to their places beside a database, durably.

    A file replaces one of its name; a folder that is there already stays as it is. A call that is interrupted can be
    repeated with what is left.
    """
    for files in sets:
        source, target = staged / files.name, files.folder(database)
        touched: set[Path] = set()
        for path in _units(files, source):
            there = target / path
            make_folders(there.parent)
            try:
                (source / path).rename(there)
            except OSError:
                if not there.is_dir():
                    raise
            touched.add(there.parent)
        sync_folders(touched)


def _units(files: FileSet, folder: Path) -> Iterator[PurePosixPath]:
    """The units of a set that are in a folder."""
    seen = None
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            relative = PurePosixPath(Path(parent, name).relative_to(folder).as_posix())
            owner = files.name_of(relative)
            if owner is not None and owner != seen:
                seen = owner
                yield files.unit(owner)


def keep_beside(sets: Sequence[FileSet], database: Path, aside: Path, source: Path | None = None) -> None:
    """Give what the rows of ``database`` refer to second names, beside a copy of it that is called ``aside``.

    The folder of a set there is the copy's name and that of the set, such as ``nexus.db.set-aside-…-blobs``: a restore
    of the copy finds it. Where the file system has no hard links, nothing is kept.
    ``source`` is the file that is read for the rows, by default the database.
    """
    try:
        connection = connect(f"{(source or database).as_uri()}?mode=ro", uri=True, timeout=5)
    except sqlite3.Error:
        return
    with contextlib.closing(connection):
        for files in sets:
            folder, target = files.folder(database), beside(aside, files)
            touched: set[Path] = set()
            try:
                for referred in each_referred(files, connection):
                    unit = files.unit(referred.name)
                    touched |= link_unit(folder / unit, target / unit)
            except sqlite3.Error:
                pass  # a damaged database: what can be read of it is kept
            sync_folders(touched)


def sync_folders(folders: Iterable[Path]) -> None:
    """Make the entries of folders durable."""
    for folder in folders:
        fsync_directory(folder)


def beside(copy: Path, files: FileSet) -> Path:
    """The folder of a set beside a copy of a database that is no daemon's."""
    return copy.with_name(f"{copy.name}-{files.name}")


def link_unit(source: Path, target: Path, *, copies: bool = False) -> set[Path]:
    """Give a file, or the files of a folder, second names; what is there already, or cannot be linked, is left out.

    With ``copies`` a file that cannot be linked is copied. Returns the folder that is to be made durable, if any.
    """
    try:
        pairs = [(old, target / old.name) for old in source.iterdir()]
    except NotADirectoryError:
        pairs = [(source, target)]
    except OSError:
        return set()
    if not pairs:
        return set()
    make_folders(pairs[0][1].parent)
    for old, new in pairs:
        try:
            os.link(old, new, follow_symlinks=False)
        except FileExistsError:
            continue
        except OSError:
            if copies and old.is_file():
                shutil.copyfile(old, new, follow_symlinks=False)
                new.chmod(0o600)
                with new.open("rb") as file:
                    os.fsync(file.fileno())
    return {pairs[0][1].parent}
