"""Archives: a backup of a database together with the files that its rows refer to, as one compressed tar.

Members, in this order: ``nexus-backup.json`` (format, schema version, time), ``nexus.db``, the files of each set below
a folder of its name, and ``end.json`` with the SHA-256 of all before it. They are plain files, in the format of GNU tar
(POSIX.1-1988 headers, base-256 for sizes from 8 GiB on), which ``tar xzf`` reads. What is written and read is a stream:
no member but a blob is ever in memory as a whole. An archive that is read is not trusted: its headers are read here,
and not by ``tarfile``, which follows links and extensions of unbounded size.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import sqlite3
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Any, NamedTuple

from nexus.store.backup import fsync_directory, verify_database
from nexus.store.base import DatabaseDamaged, DiskFull, SchemaMismatch
from nexus.store.connection import connect
from nexus.store.files import FileCounts, FileSet, each_referred, find_referred, is_problem, make_folders
from nexus.store.migrate import target_version

__all__ = ["SUFFIX", "Head", "extract_archive", "is_archive", "read_head", "require_version", "write_archive"]

SUFFIX = ".tar.gz"

_FORMAT = 1
_HEAD, _DATABASE, _END = "nexus-backup.json", "nexus.db", "end.json"
_BLOCK = 512
_CHUNK = 256 * 1024
_MAX_JSON = 64 * 1024
_LEVEL = 4
_SPARE_BYTES = 16 * 1024 * 1024
"""What a restore leaves free on the disk."""
_MAGIC = b"\x1f\x8b"


class Head(NamedTuple):
    """The first member of an archive."""

    schema_version: int
    created_at: int
    last_event: int
    """The highest number of an event in its database."""


def is_archive(path: Path) -> bool:
    """Whether a file begins as an archive does. A database begins otherwise."""
    try:
        with path.open("rb") as file:
            return file.read(2) == _MAGIC
    except OSError:
        return False


# Writing


class _Writer:
    def __init__(self, file: IO[bytes]) -> None:
        self._gzip = gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=file, mtime=0)
        self._digest = hashlib.sha256()

    def add(self, name: str, size: int, chunks: Iterable[bytes]) -> None:
        self._write(_header(name, size))
        written = 0
        for chunk in chunks:
            written += len(chunk)
            self._write(chunk)
        assert written == size, name
        self._write(bytes(-size % _BLOCK))

    def add_json(self, name: str, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.add(name, len(data), (data,))

    def end(self, counts: Sequence[FileCounts]) -> None:
        files = [each._asdict() for each in counts]
        self.add_json(_END, {"sha256": self._digest.hexdigest(), "files": files})
        self._gzip.write(bytes(2 * _BLOCK))
        self._gzip.close()

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        self._gzip.write(data)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info.tobuf(tarfile.GNU_FORMAT, "ascii", "strict")


def write_archive(
    target: Path, copy: Path, database: Path, sets: Sequence[FileSet], head: Head, label: str
) -> list[FileCounts]:
    """Write an archive of ``copy``, a consistent copy of ``database``, and of the files beside ``database``.

    It is complete, verified and durable when the call returns; until then it is under ``target`` all the same, which is
    a temporary name. Returns what it holds of each set. ``label`` is its name for errors.

    Raises:
        OSError: a file cannot be read or written.
        DatabaseDamaged: what was written is not what can be read.
    """
    counts: list[FileCounts] = []
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        writer = _Writer(file)
        writer.add_json(_HEAD, {"format": _FORMAT, **head._asdict()})
        with copy.open("rb") as source:
            writer.add(_DATABASE, os.fstat(source.fileno()).st_size, iter(lambda: source.read(_CHUNK), b""))
        with contextlib.closing(connect(f"{copy.as_uri()}?mode=ro", uri=True)) as connection:
            for files in sets:
                counts.append(_add_set(writer, files, database, connection))
        writer.end(counts)
        file.flush()
        os.fsync(file.fileno())
    with _Reader(target, label) as reader:
        for member in reader.members():
            for _chunk in member.chunks:
                pass
    return counts


def _add_set(writer: _Writer, files: FileSet, database: Path, connection: sqlite3.Connection) -> FileCounts:
    folder, counts = files.folder(database), FileCounts(files.name)
    for referred in each_referred(files, connection):
        size = None
        for part in files.parts(folder, referred.name):
            writer.add(f"{files.name}/{part.path}", part.size_bytes, part.chunks)
            size = (size or 0) + part.size_bytes
        if size is not None:
            counts = counts._replace(files=counts.files + 1, size_bytes=counts.size_bytes + size)
        elif referred.size_bytes is not None:
            problem = files.problem(folder, referred, deep=True) or "missing"
            if is_problem(files, connection, referred.name, problem):
                counts = counts._replace(
                    missing=counts.missing + (problem == "missing"), damaged=counts.damaged + (problem == "damaged")
                )
    return counts


# Reading


class _Member(NamedTuple):
    name: str
    size_bytes: int
    chunks: Iterator[bytes]
    """The content, which must be read before the next member."""


class _Reader:
    """Reads the members of an archive, strictly. All that is wrong with it is ``DatabaseDamaged``."""

    def __init__(self, path: Path, label: str) -> None:
        self.label = label
        self._file = path.open("rb")
        self._gzip = gzip.GzipFile(fileobj=self._file, mode="rb")
        self._digest = hashlib.sha256()

    def __enter__(self) -> _Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gzip.close()
        self._file.close()

    def damaged(self, what: str) -> DatabaseDamaged:
        return DatabaseDamaged(f"cannot use {self.label}: {what}")

    def members(self) -> Iterator[_Member]:
        """The members before the last, each checked for its form; at the end, that nothing is missing or changed."""
        while True:
            digest = self._digest.hexdigest()
            name, size = self._next_header()
            if name == _END:
                break
            left = [size]
            yield _Member(name, size, self._content(left))
            if left[0]:
                raise AssertionError(name)
            self._read(-size % _BLOCK)
        end = self._json(size)
        if end.get("sha256") != digest:
            raise self.damaged("its content is not what was written")
        self._read(-size % _BLOCK)
        if self._read(2 * _BLOCK).strip(b"\0") or self._more():
            raise self.damaged("it has content after its end")

    def head(self) -> Head:
        """The first member."""
        name, size = self._next_header()
        head = self._json(size) if name == _HEAD else {}
        self._read(-size % _BLOCK)
        return self.as_head(head)

    def as_head(self, head: dict[str, Any]) -> Head:
        values = {name: value for name in Head._fields if isinstance(value := head.get(name), int)}
        if head.get("format") not in (None, _FORMAT):
            raise SchemaMismatch(
                f"cannot use {self.label}: a newer version of Nexus made it", expected=target_version(), found=None
            )
        if head.get("format") is None or len(values) != len(Head._fields):
            raise self.damaged("it is not a backup of Nexus")
        return Head(**values)

    def json_of(self, member: _Member) -> dict[str, Any]:
        """The content of a small member."""
        if member.size_bytes > _MAX_JSON:
            raise self.damaged(f"{member.name} is too large")
        return self._decoded(b"".join(member.chunks))

    def _json(self, size: int) -> dict[str, Any]:
        if size > _MAX_JSON:
            raise self.damaged("a description in it is too large")
        return self._decoded(self._read(size))

    def _decoded(self, data: bytes) -> dict[str, Any]:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise self.damaged("it is not a backup of Nexus")
        return value

    def _next_header(self) -> tuple[str, int]:
        block = self._read(_BLOCK)
        try:
            info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.HeaderError, ValueError):
            raise self.damaged("it is not an archive of Nexus, or it is cut") from None
        if info.type != tarfile.REGTYPE or info.size < 0:
            raise self.damaged(f"{info.name!r} in it is not a plain file")
        return info.name, info.size

    def _content(self, left: list[int]) -> Iterator[bytes]:
        while left[0]:
            data = self._read(min(_CHUNK, left[0]))
            left[0] -= len(data)
            yield data

    def _read(self, size: int) -> bytes:
        found = []
        try:
            while size and (data := self._gzip.read(size)):
                size -= len(data)
                self._digest.update(data)
                found.append(data)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise self.damaged(f"it is damaged or cut ({error})") from error
        if size:
            raise self.damaged("it is cut")
        return b"".join(found)

    def _more(self) -> bool:
        try:
            return bool(self._gzip.read(1))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise self.damaged(f"it is damaged or cut ({error})") from error


def read_head(path: Path) -> Head:
    """Read what the first member of an archive says.

    Raises:
        DatabaseDamaged: it is no archive of Nexus.
        OSError: it cannot be read.
    """
    with _Reader(path, str(path)) as reader:
        return reader.head()


def require_version(version: int, path: Path) -> None:
    """Refuse a backup that this program cannot use.

    Raises:
        SchemaMismatch: it is newer than this program, or not a Nexus database.
    """
    if not 1 <= version <= target_version():
        raise SchemaMismatch(
            f"cannot restore {path}: "
            + (f"its schema version is {version}" if version else "it is not a Nexus database"),
            expected=target_version(),
            found=version,
        )


def extract_archive(path: Path, database: Path, staged: Path, sets: Sequence[FileSet]) -> int:
    """Extract an archive: the database to ``database``, the files to ``staged``, with a folder for each set.

    Only files that rows of the database refer to are extracted; any other one makes the archive unusable. All is
    durable when the call returns, and it was read to its end. Returns the schema version.

    Raises:
        DatabaseDamaged: the archive is damaged, or holds what no backup holds.
        SchemaMismatch: this program cannot use it.
        DiskFull: there is no room for it.
        OSError: a file cannot be read or written.
    """
    by_name = {files.name: files for files in sets}
    with _Reader(path, str(path)) as reader, contextlib.ExitStack() as stack:
        connection: sqlite3.Connection | None = None
        version = 0
        for place, member in enumerate(reader.members()):
            if place == 0:
                reader.as_head(reader.json_of(member) if member.name == _HEAD else {})
            elif place == 1:
                if member.name != _DATABASE:
                    raise reader.damaged("it is not a backup of Nexus")
                _extract(reader, member, database)
                version = verify_database(database, path)
                require_version(version, path)
                connection = connect(f"{database.as_uri()}?mode=ro", uri=True)
                stack.callback(connection.close)
            else:
                assert connection is not None
                _extract_file(reader, member, staged, by_name, connection)
        if connection is None:
            raise reader.damaged("it has no database")
    for parent, _folders, _names in os.walk(staged):
        fsync_directory(Path(parent))
    return version


def _extract_file(
    reader: _Reader, member: _Member, staged: Path, sets: dict[str, FileSet], connection: sqlite3.Connection
) -> None:
    kind, _slash, rest = member.name.partition("/")
    files, relative = sets.get(kind), PurePosixPath(rest)
    # The path is one that the set itself gives to its files, to the letter: neither absolute nor leading up.
    name = None if files is None or str(relative) != rest else files.name_of(relative)
    try:
        referred = None if files is None or name is None else find_referred(files, connection, name)
    except sqlite3.Error as error:  # a changed byte may be in the schema, where no check of pages finds it
        raise reader.damaged(f"its database is damaged ({error})") from error
    if files is None or referred is None:
        raise reader.damaged(f"no record in it refers to its file {member.name!r}")
    if files.checked and referred.size_bytes != member.size_bytes:
        raise reader.damaged(f"its file {member.name} has another size than its record says")
    target = staged / files.name / relative
    make_folders(target.parent)
    try:
        _extract(reader, member, target)
    except FileExistsError:
        raise reader.damaged(f"it has the file {member.name} twice") from None
    if files.checked and files.problem(staged / files.name, referred, deep=True) is not None:
        raise reader.damaged(f"its file {member.name} is damaged")


def _extract(reader: _Reader, member: _Member, target: Path) -> None:
    usage = os.statvfs(target.parent)
    free = usage.f_bavail * usage.f_frsize
    if member.size_bytes + _SPARE_BYTES > free:
        raise DiskFull(
            f"cannot restore {reader.label}: {member.name} in it has {member.size_bytes} bytes, "
            f"and {free} are free in {target.parent}",
            hint="Free disk space, then try again. Nothing was changed.",
        )
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for chunk in member.chunks:
            file.write(chunk)
        file.flush()
        os.fsync(descriptor)
