"""Reads the segment files of a log: positions, chunks in order, and searches by time or number of lines.

Nothing here waits; long searches are generators that yield between steps. It knows bytes and streams, and newlines only
to count them.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

__all__ = ["ENTRY", "LOST", "STREAMS", "Chunk", "Position", "Reader", "find_lines", "find_since", "list_segments"]

ENTRY = struct.Struct("=QII")
"""One entry of an index: time in ms, length in bytes, stream."""
STREAMS = (1, 2)
LOST = 0x80
"""Flag in an entry's stream: ``length`` bytes were lost at this point, and none are in the data file."""

_STREAM_BYTE = 12 if sys.byteorder == "little" else 15
"""Offset in an entry of the byte that holds the stream."""
_CHUNK_BYTES = 64 * 1024
_BLOCK_ENTRIES = 4096
_TICKS_BETWEEN_CHECKS = 8
_IDLE_TICKS = 100
"""After this many ticks without new data, a reader checks only on every fourth tick."""


class Position(NamedTuple):
    """A position between two bytes of a log: segment, entry of its index, byte offset in that entry."""

    segment: int
    entry: int
    offset: int


class Chunk(NamedTuple):
    """At most 64 KiB of one entry, and the position where they begin; ``lost`` bytes instead for a loss mark."""

    position: Position
    at: int
    stream: int
    data: bytes
    lost: int = 0


class _Entry(NamedTuple):
    at: int
    length: int
    stream: int


def list_segments(folder: Path) -> list[int]:
    """The numbers of the existing segments, the oldest first."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(
        int(stem) for stem, dot, kind in (name.partition(".") for name in names) if kind == "idx" and stem.isdigit()
    )


def _open(folder: Path, number: int, kind: str) -> int:
    return os.open(folder / f"{number}.{kind}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


class Reader:
    """Reads a log from a position on; ``next`` returns None at the end of the log, and later what was added since."""

    def __init__(self, folder: Path, position: Position) -> None:
        self._folder = folder
        self._segment = position.segment
        self._entry = position.entry
        self._entry_offset = position.offset
        self._data_offset = 0
        self._data_size = 0
        self._data = -1
        self._index = -1
        self._next_name = ""
        self._idle_ticks = 0
        self._block: list[_Entry] = []
        self._block_start = 0

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        for fd in (self._data, self._index):
            if fd >= 0:
                os.close(fd)
        self._data = self._index = -1

    def next(self) -> Chunk | None:
        """The next chunk, or None when there is no more data at present."""
        while True:
            if self._index < 0 and not self._open_next(self._segment):
                return None
            chunk = self._next_in_segment()
            if chunk is not None:
                return chunk
            following = self._find_following()
            if following is None:
                return None
            # Read again: the writer adds nothing to a segment once the next one exists, so this segment is complete.
            chunk = self._next_in_segment()
            if chunk is not None:
                return chunk
            self._close()
            self._segment, self._entry, self._entry_offset = following, 0, 0

    def has_changed(self, tick: int) -> bool:
        """Whether ``next`` may have something new.

        Takes about a microsecond. The checks for a new or deleted segment cost more, and run every few ticks.
        """
        self._idle_ticks += 1
        if self._idle_ticks > _IDLE_TICKS and tick % 4:
            return False
        if self._data >= 0 and os.lseek(self._data, 0, os.SEEK_END) != self._data_size:
            return True
        if self._index < 0:
            return bool(list_segments(self._folder))
        if tick % _TICKS_BETWEEN_CHECKS:
            return False
        return os.fstat(self._index).st_nlink == 0 or os.path.exists(self._next_name)

    def is_gone(self) -> bool:
        """Whether the log has been deleted since the reader opened it."""
        return self._index >= 0 and not os.path.exists(self._folder)

    def _open_next(self, first: int) -> bool:
        """Open the oldest existing segment from number ``first`` on."""
        for number in list_segments(self._folder):
            if number < first:
                continue
            try:
                self._data = _open(self._folder, number, "log")
                self._index = _open(self._folder, number, "idx")
            except FileNotFoundError:
                # The writer has deleted the segment in the meantime.
                self._close()
                continue
            if number != self._segment:
                self._segment, self._entry, self._entry_offset = number, 0, 0
            self._next_name = f"{self._folder}/{number + 1}.idx"
            self._block, self._block_start = [], 0
            self._data_offset = self._entry_offset + _bytes_before(self._index, self._entry)
            return True
        return False

    def _find_following(self) -> int | None:
        """The number of the next existing segment."""
        if os.path.exists(self._next_name):
            return self._segment + 1
        return next((number for number in list_segments(self._folder) if number > self._segment), None)

    def _next_in_segment(self) -> Chunk | None:
        while (found := self._peek_entry()) is not None:
            entry, final = found
            position = Position(self._segment, self._entry, self._entry_offset)
            if entry.stream & LOST:
                self._entry, self._entry_offset = self._entry + 1, 0
                return Chunk(position, entry.at, entry.stream, b"", entry.length)
            left = entry.length - self._entry_offset
            data = os.pread(self._data, min(left, _CHUNK_BYTES), self._data_offset) if left > 0 else b""
            if data:
                self._idle_ticks = 0
                self._data_offset += len(data)
                self._entry_offset += len(data)
                return Chunk(position, entry.at, entry.stream, data)
            if not final:
                return None
            # If the writer was killed, bytes of an entry may be missing for good.
            self._entry, self._entry_offset = self._entry + 1, 0
        return None

    def _peek_entry(self) -> tuple[_Entry, bool] | None:
        """The next entry, and whether it is final: the last entry of an index may still grow."""
        at = self._entry - self._block_start
        if not 0 <= at < len(self._block) - 1:
            self._data_size = os.lseek(self._data, 0, os.SEEK_END)
            self._block_start = self._entry
            count = len(os.pread(self._index, _BLOCK_ENTRIES * ENTRY.size, self._entry * ENTRY.size)) // ENTRY.size
            # Read twice: an entry that another one followed in the first read is final in the second.
            self._block = list(_entries(self._index, self._entry, self._entry + count))
            at = 0
        if at >= len(self._block):
            return None
        return self._block[at], at < len(self._block) - 1


def _entries(index: int, first: int, end: int) -> Iterator[_Entry]:
    while first < end:
        raw = os.pread(index, min(end - first, _BLOCK_ENTRIES) * ENTRY.size, first * ENTRY.size)
        raw = raw[: len(raw) // ENTRY.size * ENTRY.size]
        if not raw:
            return
        for fields in ENTRY.iter_unpack(raw):
            yield _Entry(*fields)
        first += len(raw) // ENTRY.size


def _bytes_before(index: int, end: int) -> int:
    """The number of data bytes of the first ``end`` entries. Makes no object per entry: there may be a million."""
    total = at = 0
    while at < end:
        raw = os.pread(index, min(end - at, _BLOCK_ENTRIES) * ENTRY.size, at * ENTRY.size)
        raw = raw[: len(raw) // ENTRY.size * ENTRY.size]
        if not raw:
            break
        total += sum(memoryview(raw).cast("I")[2::4])
        if raw[_STREAM_BYTE :: ENTRY.size].translate(None, bytes(STREAMS)):
            total -= sum(length for _at, length, stream in ENTRY.iter_unpack(raw) if stream & LOST)
        at += len(raw) // ENTRY.size
    return total


def find_since(folder: Path, since: int, found: list[Position]) -> Iterator[None]:
    """Find the first bytes that were written at ``since`` (ms) or later, else the end of the log.

    Appends the position to ``found``, and yields between steps.
    """
    numbers = list_segments(folder)
    first_times = []
    for number in numbers:
        first = None
        with contextlib.suppress(FileNotFoundError):
            index = _open(folder, number, "idx")
            try:
                first = next(_entries(index, 0, 1), None)
            finally:
                os.close(index)
        first_times.append(since if first is None else first.at)
    for at, number in enumerate(numbers):
        if at + 1 < len(numbers) and first_times[at + 1] < since:
            continue
        with contextlib.suppress(FileNotFoundError):
            index = _open(folder, number, "idx")
            try:
                for entry_number, entry in enumerate(_entries(index, 0, os.fstat(index).st_size // ENTRY.size)):
                    if entry.at >= since:
                        found.append(Position(number, entry_number, 0))
                        return
                    if entry_number % _BLOCK_ENTRIES == 0:
                        yield
            finally:
                os.close(index)
    found.append(_end_of_log(folder, numbers))


def _end_of_log(folder: Path, numbers: list[int]) -> Position:
    """The position after the last byte; if the last entry grows, its new bytes are after this position."""
    if not numbers:
        return Position(0, 0, 0)
    with contextlib.suppress(FileNotFoundError):
        index = _open(folder, numbers[-1], "idx")
        try:
            count = os.fstat(index).st_size // ENTRY.size
            for entry in _entries(index, count - 1, count) if count else ():
                return Position(numbers[-1], count - 1, 0 if entry.stream & LOST else entry.length)
        finally:
            os.close(index)
    return Position(numbers[-1], 0, 0)


class _LineCounter:
    """Counts lines backwards over all streams: the last N lines are the N that ended last.

    An unterminated line counts as ended at its last byte. ``open`` has the streams whose start is not found yet.
    """

    def __init__(self, lines: int, streams: tuple[int, ...], max_bytes: int | None) -> None:
        self.lines_left = lines
        self.open = set(streams)
        self.seen: set[int] = set()
        self.bytes_left = max_bytes

    def is_done(self) -> bool:
        """Whether nothing earlier in the log can belong to the last lines."""
        return not self.open or (self.lines_left <= 0 and not self.open & self.seen)

    def is_exhausted(self) -> bool:
        """Whether the limit of bytes to read is used up."""
        return self.bytes_left is not None and self.bytes_left <= 0

    def scan(self, stream: int, data: bytes) -> int | None:
        """Count the lines of the bytes that precede those scanned before.

        Returns the offset in ``data`` where the first of the last lines begins, or None if it begins earlier.
        """
        if stream not in self.seen:
            self.seen.add(stream)
            if not data.endswith(b"\n"):
                self.lines_left -= 1
        ends = data.count(b"\n")
        if ends <= self.lines_left:
            self.lines_left -= ends
            return None
        at = len(data)
        for _ in range(self.lines_left + 1):
            at = data.rfind(b"\n", 0, at)
        self.lines_left = 0
        return at + 1


def find_lines(
    folder: Path,
    lines: int,
    streams: tuple[int, ...],
    first: Position,
    starts: dict[int, Position],
    *,
    max_bytes: int | None = None,
) -> Iterator[None]:
    """Find where the last ``lines`` lines begin in each stream, not before ``first``.

    Puts the positions into ``starts``, and yields between steps. Reads backwards until all positions are found, or
    ``max_bytes`` have been read.
    """
    counter = _LineCounter(lines, streams, max_bytes)
    numbers = list_segments(folder)
    position = max(first, _end_of_log(folder, numbers))
    for number in reversed(numbers):
        if number < first.segment or counter.is_done() or counter.is_exhausted():
            break
        with contextlib.ExitStack() as files:
            try:
                index, data = _open(folder, number, "idx"), -1
                files.callback(os.close, index)
                data = _open(folder, number, "log")
                files.callback(os.close, data)
            except FileNotFoundError:
                break
            entry = first.entry if number == first.segment else 0
            for position in _scan_backwards(index, data, number, entry, counter, starts):  # noqa: B007 - used below
                yield
    for stream in counter.open:
        starts[stream] = position if counter.is_done() or counter.is_exhausted() else first


def _scan_backwards(
    index: int, data: int, number: int, first_entry: int, counter: _LineCounter, starts: dict[int, Position]
) -> Iterator[Position]:
    """Scan a segment from its end to ``first_entry``; yields the position that it has reached."""
    end = os.fstat(index).st_size // ENTRY.size
    offset = -1
    while end > first_entry:
        begin = max(end - _BLOCK_ENTRIES, first_entry)
        block = list(_entries(index, begin, end))
        if offset < 0:
            # The last entry may grow, so its length at the time of this read counts.
            offset = _bytes_before(index, begin) + sum(0 if each.stream & LOST else each.length for each in block)
        for entry_number in range(begin + len(block) - 1, begin - 1, -1):
            entry = block[entry_number - begin]
            if entry.stream & LOST:
                continue
            left = entry.length
            offset -= left
            yield Position(number, entry_number, left)
            while left > 0 and entry.stream in counter.open and not counter.is_done() and not counter.is_exhausted():
                size = min(left, _CHUNK_BYTES)
                left -= size
                block_data = os.pread(data, size, offset + left)
                if not block_data:
                    continue
                line_start = counter.scan(entry.stream, block_data)
                if line_start is not None:
                    starts[entry.stream] = Position(number, entry_number, left + line_start)
                    counter.open.discard(entry.stream)
                if counter.bytes_left is not None:
                    counter.bytes_left -= size
                yield Position(number, entry_number, left)
            if counter.is_done() or counter.is_exhausted():
                return
        end = begin
