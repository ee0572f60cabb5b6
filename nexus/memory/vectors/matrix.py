"""The file of a matrix: its format, how it is verified, built and changed. It knows no database and no socket.

A reader sees a whole matrix or none: a new one takes its place by a rename, and one that is changed in place says so in
its header until every byte and checksum is written. Nothing is flushed to the disk: what a crash of the machine tore
has a wrong checksum, and is built again.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import zlib
from array import array
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from nexus.memory.vectors.engines import Engine, Rows
from nexus.memory.vectors.states import MAX_DIMENSION, VALUE_BYTES

__all__ = ["HEADER_BYTES", "Damaged", "Matrix", "State", "build", "open_matrix", "paths_of", "peek"]

HEADER_BYTES = 4096
_MAGIC = b"NXVECTOR"
_VERSION = 1
_FIELDS = struct.Struct("<8sIIQQqII")
"""Magic, version, dimension, count, generation, time, whether it is whole, the checksum of the file of ids."""
_CHECKSUM = struct.Struct("<I")
_WHOLE, _CHANGING = 1, 0
_BLOCK_BYTES = 256 * 1024
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


class Damaged(Exception):
    """The files are no whole matrix; the text says why."""


class State(NamedTuple):
    """Which rows of the database a matrix has."""

    dimension: int
    generation: int
    changed_at: int


class Matrix:
    """An open matrix, its rows in memory."""

    def __init__(self, path: Path, state: State, ids: list[str], checksums: array[int]) -> None:
        self.path = path
        self.state = state
        self.ids = ids
        self.checksums = checksums
        self._places: dict[str, int] | None = None
        self.rows = self._map()

    def _map(self) -> Rows:
        fd = os.open(self.path, os.O_RDONLY | _FLAGS)
        try:
            size = HEADER_BYTES + len(self.ids) * self.state.dimension * VALUE_BYTES
            if os.fstat(fd).st_size != size:
                raise Damaged("the size is wrong")
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
            data = mmap.mmap(fd, size, flags=flags, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        self._seen = self._look()
        return Rows(data, HEADER_BYTES, self.state.dimension, len(self.ids))

    def _look(self) -> list[tuple[int, ...]] | None:
        try:
            found = [path.lstat() for path in (self.path, self.path.with_suffix(".ids"))]
        except OSError:
            return None
        return [(each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns) for each in found]

    def is_untouched(self) -> bool:
        """Whether the files are those that were read, and no other program has changed them."""
        return self._look() == self._seen is not None

    @property
    def places(self) -> dict[str, int]:
        """The row of each id."""
        if self._places is None:
            self._places = {name: place for place, name in enumerate(self.ids)}
        return self._places

    def change(self, changes: Mapping[str, bytes | None], state: State, beat: Callable[[], None]) -> None:
        """Set the rows of ids to vectors of length 1, or take them out (None). After an error it is ``Damaged``.

        Raises:
            OSError: the files cannot be written.
        """
        size = self.state.dimension * VALUE_BYTES
        places = self.places
        writes: dict[int, bytes] = {}

        def row(place: int) -> bytes:
            start = HEADER_BYTES + place * size
            return writes[place] if place in writes else self.rows.data[start : start + size]

        for name in [name for name, data in changes.items() if data is None and name in places]:
            place, last = places.pop(name), len(self.ids) - 1
            if place != last:
                # The last row takes the place of the one that goes.
                writes[place] = row(last)
                self.ids[place] = self.ids[last]
                places[self.ids[place]] = place
            self.ids.pop()
            writes.pop(last, None)
        for name, data in changes.items():
            if data is not None:
                if name not in places:
                    places[name] = len(self.ids)
                    self.ids.append(name)
                writes[places[name]] = data
        fd = os.open(self.path, os.O_RDWR | _FLAGS)
        try:
            _write_header(fd, self.state, self.rows.count, 0, _CHANGING)
            per_block = _block_rows(state.dimension)
            for place, data in writes.items():
                _write(fd, data, HEADER_BYTES + place * size)
            os.ftruncate(fd, HEADER_BYTES + len(self.ids) * size)
            # The last block has another number of rows than before, or is another one.
            touched = {place // per_block for place in writes} | {(len(self.ids) - 1) // per_block}
            blocks = -(-len(self.ids) // per_block)
            self.checksums = self.checksums[:blocks]
            self.checksums.extend([0] * (blocks - len(self.checksums)))
            for block in sorted(block for block in touched if 0 <= block < blocks):
                beat()
                data = os.pread(fd, per_block * size, HEADER_BYTES + block * per_block * size)
                self.checksums[block] = zlib.crc32(data)
            _finish(fd, self.path, state, self.ids, self.checksums)
        finally:
            os.close(fd)
        self.state = state
        self.rows = self._map()


def paths_of(directory: Path, collection: str, project_id: str) -> tuple[Path, Path]:
    """The two files of a matrix.

    Raises:
        ValueError: the names cannot be those of files.
    """
    for name in (collection, project_id):
        if not 0 < len(name) <= 64 or not all(c.isascii() and (c.isalnum() or c in "-_") for c in name):
            raise ValueError(f"{name!r} cannot be the name of a file")
    path = directory / collection / f"{project_id}.f32"
    return path, path.with_suffix(".ids")


def peek(path: Path) -> State | None:
    """Which rows a matrix has, by its header alone; None if it is missing, or cannot be used as it is."""
    try:
        return _read_header(path)[0]
    except (OSError, struct.error, Damaged):
        return None


def open_matrix(path: Path, beat: Callable[[], None]) -> Matrix:
    """Open a matrix and verify all of it. ``beat`` is called every few ms.

    Raises:
        Damaged: it is missing, of another version, was being changed, or has a wrong size or checksum.
    """
    try:
        state, count, checksum = _read_header(path)
        beside = path.with_suffix(".ids").read_bytes()
        if zlib.crc32(beside) != checksum:
            raise Damaged("the checksum of the ids is wrong")
        per_block = _block_rows(state.dimension)
        checksums = array("I")
        cut = -(-count // per_block) * _CHECKSUM.size
        checksums.extend(value for (value,) in _CHECKSUM.iter_unpack(beside[:cut]))
        ids = beside[cut:].decode().split("\n") if count else []
        if len(ids) != count:
            raise Damaged("the number of ids is wrong")
        matrix = Matrix(path, state, ids, checksums)
    except (OSError, struct.error, UnicodeDecodeError) as error:
        raise Damaged(str(error)) from error
    size = per_block * state.dimension * VALUE_BYTES
    with memoryview(matrix.rows.data) as data:
        for block, checksum in enumerate(checksums):
            beat()
            start = HEADER_BYTES + block * size
            with data[start : start + size] as part:
                if zlib.crc32(part) != checksum:
                    raise Damaged(f"the checksum of block {block} is wrong")
    return matrix


def build(
    path: Path,
    state: State,
    batches: Iterable[list[tuple[str, bytes]]],
    read: Callable[[], None],
    engine: Engine,
    beat: Callable[[], None],
) -> tuple[Matrix, int]:
    """Make a matrix of ids and embeddings, in the place of the one that is there; gives it and how many it left out.

    ``read`` is called once all batches were taken, before what a slow engine has left.

    Raises:
        OSError: the files cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_suffix(".new")
    with contextlib.suppress(FileNotFoundError):
        partial.unlink()
    fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
    try:
        building = _Building(fd, state.dimension, engine)
        for batch in batches:
            beat()
            building.add(batch)
        building.end()
        read()
        building.complete(beat)
        ids, bad, checksums = building.ids, building.bad, building.checksums
        ids = _without(fd, ids, bad, checksums, state.dimension)
        _finish(fd, path, state, ids, checksums)
        os.rename(partial, path)  # noqa: PTH104
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    return Matrix(path, state, ids, checksums), building.skipped + len(bad)


class _Building:
    """Rows on their way into a file. A fast engine works on each block when it is full, a slow one in the end."""

    def __init__(self, fd: int, dimension: int, engine: Engine) -> None:
        self.ids: list[str] = []
        self.bad: list[int] = []
        """The rows that have no direction."""
        self.skipped = 0
        """How many were left out because they have another length."""
        self.checksums = array("I")
        self._fd = fd
        self._dimension = dimension
        self._size = dimension * VALUE_BYTES
        self._engine = engine
        self._block_bytes = _block_rows(dimension) * self._size
        self._block = bytearray()
        self._at = 0

    def add(self, batch: list[tuple[str, bytes]]) -> None:
        """Take rows as the database has them."""
        good = [
            row
            for row in batch
            if type(row[1]) is bytes and len(row[1]) == self._size and type(row[0]) is str and "\n" not in row[0]
        ]
        self.skipped += len(batch) - len(good)
        self.ids += [row[0] for row in good]
        self._block += b"".join([row[1] for row in good])
        while len(self._block) >= self._block_bytes:
            rest = self._block[self._block_bytes :]
            del self._block[self._block_bytes :]
            self._write(self._block)
            self._block = rest

    def end(self) -> None:
        """All rows were given."""
        if self._block:
            self._write(self._block)
            self._block = bytearray()

    def complete(self, beat: Callable[[], None]) -> None:
        """Do what a slow engine has left."""
        if not self._engine.is_fast:
            end, self._at = self._at, 0
            while self._at < end:
                beat()
                block = bytearray(min(self._block_bytes, end - self._at))
                if os.preadv(self._fd, [block], HEADER_BYTES + self._at) != len(block):
                    raise OSError("the file was shortened")
                self._normalise(block)

    def _write(self, block: bytearray) -> None:
        if self._engine.is_fast:
            self._normalise(block)
        else:
            _write(self._fd, block, HEADER_BYTES + self._at)
            self._at += len(block)

    def _normalise(self, block: bytearray) -> None:
        first = self._at // self._size
        self.bad += [first + row for row in self._engine.normalise(block, self._dimension)]
        self.checksums.append(zlib.crc32(block))
        _write(self._fd, block, HEADER_BYTES + self._at)
        self._at += len(block)


def _without(fd: int, ids: list[str], bad: list[int], checksums: array[int], dimension: int) -> list[str]:
    """Take rows out of a file that is being built: those behind them move up."""
    if not bad:
        return ids
    per_block, size = _block_rows(dimension), dimension * VALUE_BYTES
    left_out = set(bad)
    place = first = bad[0]
    for row in range(first, len(ids)):
        if row not in left_out:
            _write(fd, os.pread(fd, size, HEADER_BYTES + row * size), HEADER_BYTES + place * size)
            place += 1
    os.ftruncate(fd, HEADER_BYTES + place * size)
    del checksums[first // per_block :]
    for start in range(first // per_block * per_block, place, per_block):
        data = os.pread(fd, min(per_block, place - start) * size, HEADER_BYTES + start * size)
        checksums.append(zlib.crc32(data))
    return [name for row, name in enumerate(ids) if row not in left_out]


def _block_rows(dimension: int) -> int:
    return max(1, _BLOCK_BYTES // (dimension * VALUE_BYTES))


def _read_header(path: Path) -> tuple[State, int, int]:
    """The state, the number of rows, and the checksum of the file of ids."""
    fd = os.open(path, os.O_RDONLY | _FLAGS)
    try:
        data = os.read(fd, HEADER_BYTES)
    finally:
        os.close(fd)
    magic, version, dimension, count, generation, changed_at, whole, checksum = _FIELDS.unpack_from(data)
    if magic != _MAGIC or version != _VERSION:
        raise Damaged("the header is of another version")
    if _CHECKSUM.unpack_from(data, _FIELDS.size)[0] != zlib.crc32(data[: _FIELDS.size]):
        raise Damaged("the checksum of the header is wrong")
    if whole != _WHOLE:
        raise Damaged("it was being changed")
    if not 0 < dimension <= MAX_DIMENSION:
        raise Damaged("the dimension is wrong")
    return State(dimension, generation, changed_at), count, checksum


def _write_header(fd: int, state: State, count: int, checksum: int, whole: int) -> None:
    data = _FIELDS.pack(_MAGIC, _VERSION, state.dimension, count, state.generation, state.changed_at, whole, checksum)
    _write(fd, (data + _CHECKSUM.pack(zlib.crc32(data))).ljust(HEADER_BYTES, b"\0"), 0)


def _finish(fd: int, path: Path, state: State, ids: list[str], checksums: array[int]) -> None:
    """Write the file of ids, then the header that makes the matrix whole."""
    data = b"".join([_CHECKSUM.pack(value) for value in checksums]) + "\n".join(ids).encode()
    partial = path.with_suffix(".ids.new")
    with contextlib.suppress(FileNotFoundError):
        partial.unlink()
    ids_fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
    try:
        _write(ids_fd, data, 0)
    finally:
        os.close(ids_fd)
    os.rename(partial, path.with_suffix(".ids"))  # noqa: PTH104
    _write_header(fd, state, len(ids), zlib.crc32(data), _WHOLE)


def _write(fd: int, data: bytes | bytearray, at: int) -> None:
    """Write all of it; a full disk may take a part first."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written
