"""The files of a log as a reader sees them: places in it, one bit after another, and the search for a place.

Nothing here waits; what may take long is a generator that stops now and then. It knows bytes and streams, and newlines
only to count them.
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

__all__ = ["ENTRY", "LOST", "STREAMS", "Chunk", "Position", "Reader", "find_lines", "find_since", "segments"]

ENTRY = struct.Struct("=QII")
"""One entry of an index: ms, length, stream."""
STREAMS = (1, 2)
LOST = 0x80
"""Set in an entry's stream: so many bytes were lost there, and none are in the data."""

_STREAM_AT = 12 if sys.byteorder == "little" else 15
"""Where an entry has the byte that tells its stream."""
_CHUNK = 64 * 1024
_BLOCK = 4096
_TICKS_BETWEEN_LOOKS = 8
_IDLE_TICKS = 100
"""After so many ticks without anything new, a reader looks at every fourth alone."""


class Position(NamedTuple):
    """A place between two bytes: segment, entry of its index, bytes of that entry before it."""

    segment: int
    entry: int
    taken: int


class Chunk(NamedTuple):
    """Some bytes of one entry, at most 64 KiB, and where they begin."""

    place: Position
    at: int
    stream: int
    data: bytes
    lost: int = 0


class _Entry(NamedTuple):
    at: int
    length: int
    stream: int


def segments(folder: Path) -> list[int]:
    """The numbers of the segments that are there, the oldest first."""
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
    """Goes through a log from a place on; ``next`` gives None at its end, and later what has come since."""

    def __init__(self, folder: Path, place: Position) -> None:
        self._folder = folder
        self._number = place.segment
        self._entry = place.entry
        self._taken = place.taken
        self._offset = 0
        self._size = 0
        self._data = -1
        self._index = -1
        self._next_name = ""
        self._ticks = 0
        self._block: list[_Entry] = []
        self._block_at = 0

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
        """The next bytes, None when there are no more now."""
        while True:
            if self._index < 0 and not self._open_next(self._number):
                return None
            bit = self._next_here()
            if bit is not None:
                return bit
            following = self._following()
            if following is None:
                return None
            # Nothing is added to a segment when the next one is there: what is not seen now never comes.
            bit = self._next_here()
            if bit is not None:
                return bit
            self._close()
            self._number, self._entry, self._taken = following, 0, 0

    def has_changed(self, tick: int) -> bool:
        """Whether it is worth while to try again, told in a microsecond; each few ticks it looks further."""
        self._ticks += 1
        if self._ticks > _IDLE_TICKS and tick % 4:
            return False
        if self._data >= 0 and os.lseek(self._data, 0, os.SEEK_END) != self._size:
            return True
        if self._index < 0:
            return bool(segments(self._folder))
        if tick % _TICKS_BETWEEN_LOOKS:
            return False
        return os.fstat(self._index).st_nlink == 0 or os.path.exists(self._next_name)

    def is_gone(self) -> bool:
        """Whether the log that was read has been deleted."""
        return self._index >= 0 and not os.path.exists(self._folder)

    def _open_next(self, least: int) -> bool:
        for number in segments(self._folder):
            if number < least:
                continue
            try:
                self._data = _open(self._folder, number, "log")
                self._index = _open(self._folder, number, "idx")
            except FileNotFoundError:
                # The writer has dropped it meanwhile.
                self._close()
                continue
            if number != self._number:
                self._number, self._entry, self._taken = number, 0, 0
            self._next_name = f"{self._folder}/{number + 1}.idx"
            self._block, self._block_at = [], 0
            self._offset = self._taken + _bytes_before(self._index, self._entry)
            return True
        return False

    def _following(self) -> int | None:
        """The number of the next segment there is."""
        if os.path.exists(self._next_name):
            return self._number + 1
        return next((number for number in segments(self._folder) if number > self._number), None)

    def _next_here(self) -> Chunk | None:
        while (found := self._look()) is not None:
            entry, final = found
            place = Position(self._number, self._entry, self._taken)
            if entry.stream & LOST:
                self._entry, self._taken = self._entry + 1, 0
                return Chunk(place, entry.at, entry.stream, b"", entry.length)
            left = entry.length - self._taken
            data = os.pread(self._data, min(left, _CHUNK), self._offset) if left > 0 else b""
            if data:
                self._ticks = 0
                self._offset += len(data)
                self._taken += len(data)
                return Chunk(place, entry.at, entry.stream, data)
            if not final:
                return None
            # Where a writer was killed the bytes of an entry may be missing, and never come.
            self._entry, self._taken = self._entry + 1, 0
        return None

    def _look(self) -> tuple[_Entry, bool] | None:
        """The entry that is next, and whether it is final: the last one may still grow."""
        at = self._entry - self._block_at
        if not 0 <= at < len(self._block) - 1:
            self._size = os.lseek(self._data, 0, os.SEEK_END)
            self._block_at = self._entry
            count = len(os.pread(self._index, _BLOCK * ENTRY.size, self._entry * ENTRY.size)) // ENTRY.size
            # Read twice: what had another behind it in the first look is final in the second.
            self._block = list(_entries(self._index, self._entry, self._entry + count))
            at = 0
        if at >= len(self._block):
            return None
        return self._block[at], at < len(self._block) - 1


def _entries(index: int, first: int, end: int) -> Iterator[_Entry]:
    while first < end:
        raw = os.pread(index, min(end - first, _BLOCK) * ENTRY.size, first * ENTRY.size)
        raw = raw[: len(raw) // ENTRY.size * ENTRY.size]
        if not raw:
            return
        for fields in ENTRY.iter_unpack(raw):
            yield _Entry(*fields)
        first += len(raw) // ENTRY.size


def _bytes_before(index: int, end: int) -> int:
    """How much data the first ``end`` entries have. No entry becomes an object: there may be a million."""
    total = at = 0
    while at < end:
        raw = os.pread(index, min(end - at, _BLOCK) * ENTRY.size, at * ENTRY.size)
        raw = raw[: len(raw) // ENTRY.size * ENTRY.size]
        if not raw:
            break
        total += sum(memoryview(raw).cast("I")[2::4])
        if raw[_STREAM_AT :: ENTRY.size].translate(None, bytes(STREAMS)):
            total -= sum(length for _at, length, stream in ENTRY.iter_unpack(raw) if stream & LOST)
        at += len(raw) // ENTRY.size
    return total


def find_since(folder: Path, since: int, found: list[Position]) -> Iterator[None]:
    """Put the place of the first bytes that came at ``since`` (ms) or later into ``found``; else the end of the log."""
    numbers = segments(folder)
    firsts = []
    for number in numbers:
        first = None
        with contextlib.suppress(FileNotFoundError):
            index = _open(folder, number, "idx")
            try:
                first = next(_entries(index, 0, 1), None)
            finally:
                os.close(index)
        firsts.append(since if first is None else first.at)
    for at, number in enumerate(numbers):
        if at + 1 < len(numbers) and firsts[at + 1] < since:
            continue
        with contextlib.suppress(FileNotFoundError):
            index = _open(folder, number, "idx")
            try:
                for which, entry in enumerate(_entries(index, 0, os.fstat(index).st_size // ENTRY.size)):
                    if entry.at >= since:
                        found.append(Position(number, which, 0))
                        return
                    if which % _BLOCK == 0:
                        yield
            finally:
                os.close(index)
    found.append(_end(folder, numbers))


def _end(folder: Path, numbers: list[int]) -> Position:
    """Behind the last byte; what an entry still grows by comes after it."""
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


class _Search:
    """Counts lines backwards: the last N are those that ended last; what has not ended yet ended with its last byte."""

    def __init__(self, lines: int, streams: tuple[int, ...], most_bytes: int | None) -> None:
        self.left = lines
        self.open = set(streams)
        self.seen: set[int] = set()
        self.most_bytes = most_bytes

    def over(self) -> bool:
        """Whether nothing that is further ahead can belong to it."""
        return not self.open or (self.left <= 0 and not self.open & self.seen)

    def spent(self) -> bool:
        """Whether it has read as much as it may."""
        return self.most_bytes is not None and self.most_bytes <= 0

    def scan(self, stream: int, data: bytes) -> int | None:
        """Look at the bytes before those that were seen; gives where the first line begins, if that is among them."""
        if stream not in self.seen:
            self.seen.add(stream)
            if not data.endswith(b"\n"):
                self.left -= 1
        ends = data.count(b"\n")
        if ends <= self.left:
            self.left -= ends
            return None
        at = len(data)
        for _ in range(self.left + 1):
            at = data.rfind(b"\n", 0, at)
        self.left = 0
        return at + 1


def find_lines(
    folder: Path,
    lines: int,
    streams: tuple[int, ...],
    least: Position,
    starts: dict[int, Position],
    *,
    most_bytes: int | None = None,
) -> Iterator[None]:
    """Put into ``starts`` where the last ``lines`` lines begin in each stream, not before ``least``.

    It reads backwards and stops as soon as it knows, or has read ``most_bytes``.
    """
    search = _Search(lines, streams, most_bytes)
    numbers = segments(folder)
    here = max(least, _end(folder, numbers))
    for number in reversed(numbers):
        if number < least.segment or search.over() or search.spent():
            break
        with contextlib.ExitStack() as files:
            try:
                index, data = _open(folder, number, "idx"), -1
                files.callback(os.close, index)
                data = _open(folder, number, "log")
                files.callback(os.close, data)
            except FileNotFoundError:
                break
            first = least.entry if number == least.segment else 0
            for here in _backwards(index, data, number, first, search, starts):  # noqa: B007 - used after the loop
                yield
    for stream in search.open:
        starts[stream] = here if search.over() or search.spent() else least


def _backwards(
    index: int, data: int, number: int, first: int, search: _Search, starts: dict[int, Position]
) -> Iterator[Position]:
    """Go through a segment from its end; gives where it is."""
    end = os.fstat(index).st_size // ENTRY.size
    offset = -1
    while end > first:
        begin = max(end - _BLOCK, first)
        block = list(_entries(index, begin, end))
        if offset < 0:
            # The last entry may grow, so what was read of it counts.
            offset = _bytes_before(index, begin) + sum(0 if each.stream & LOST else each.length for each in block)
        for which in range(begin + len(block) - 1, begin - 1, -1):
            entry = block[which - begin]
            if entry.stream & LOST:
                continue
            left = entry.length
            offset -= left
            yield Position(number, which, left)
            while left > 0 and entry.stream in search.open and not search.over() and not search.spent():
                size = min(left, _CHUNK)
                left -= size
                bytes_here = os.pread(data, size, offset + left)
                if not bytes_here:
                    continue
                found = search.scan(entry.stream, bytes_here)
                if found is not None:
                    starts[entry.stream] = Position(number, which, left + found)
                    search.open.discard(entry.stream)
                if search.most_bytes is not None:
                    search.most_bytes -= size
                yield Position(number, which, left)
            if search.over() or search.spent():
                return
        end = begin
