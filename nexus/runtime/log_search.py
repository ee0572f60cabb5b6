"""Searches a log: where its last lines begin, where a time begins, where a line begins, where it ends.

Every search is a generator that yields between steps and returns what it found. It reads no further than it must, and
never writes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

from nexus.runtime.segments import (
    BLOCK_ENTRIES,
    CHUNK_BYTES,
    ENTRY,
    LOST,
    MARK,
    STREAMS,
    WITHIN_LINE,
    Entry,
    Position,
    Reader,
    bytes_before,
    first_offsets,
    list_segments,
    open_oldest,
    open_part,
    read_entries,
    stream_of,
)

__all__ = [
    "End",
    "find_end",
    "find_lines",
    "find_next_line",
    "find_offset",
    "find_since",
    "is_within_line",
    "oldest_offsets",
]


class End(NamedTuple):
    """The end that a log had: as a position, and as how many bytes each stream had."""

    position: Position
    offsets: dict[int, int]


def find_end(folder: Path) -> Generator[None, None, End | None]:
    """Find the present end; None where there is no output."""
    with Reader(folder) as reader:
        position = yield from reader.to_end()
        return None if position is None else End(position, {stream: reader.offsets[stream] for stream in STREAMS})


def oldest_offsets(folder: Path) -> dict[int, int]:
    """How many bytes of each stream were before the oldest output that exists; empty where there is none."""
    number = 0
    while (found := open_oldest(folder, number)) is not None:
        number, data, index = found
        try:
            first = first_offsets(index, number)
        finally:
            os.close(data)
            os.close(index)
        if first is not None:
            return first
        number += 1
    return {}


def find_offset(folder: Path, position: Position, stream: int) -> Generator[None, None, int | None]:
    """How many bytes a stream had before a position; None where that is not known, because it was deleted."""
    with Reader(folder) as reader:
        yield from reader.seek(position)
        if reader.segment != position.segment or not _is_known(folder, position.segment):
            return None
        return reader.offsets[stream]


def _is_known(folder: Path, number: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        index = open_part(folder, number, "idx")
        try:
            return first_offsets(index, number) is not None
        finally:
            os.close(index)
    return False


def find_since(folder: Path, since: int, end: Position) -> Generator[None, None, Position]:
    """Find the first bytes before ``end`` that were written at ``since`` (ms) or later, else the end.

    Where the writer has deleted all that was to be searched, returns the oldest position at which they may have been.
    """
    numbers = [number for number in list_segments(folder) if number <= end.segment]
    found = end if numbers else Position(end.segment, 0, 0)
    times: list[int | None] = [_first_time(folder, number) for number in numbers]
    for at, number in enumerate(numbers):
        following = times[at + 1] if at + 1 < len(numbers) else None
        if following is not None and following < since:
            continue
        try:
            index = open_part(folder, number, "idx")
        except FileNotFoundError:
            found = min(found, Position(number, 0, 0))
            continue
        found = end
        try:
            for entry_number, entry in enumerate(read_entries(index, 0, os.fstat(index).st_size)):
                if entry.at >= since and not entry.stream & MARK:
                    return min(Position(number, entry_number, 0), end)
                if entry_number % BLOCK_ENTRIES == 0:
                    yield
        finally:
            os.close(index)
    return found


def _first_time(folder: Path, number: int) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        index = open_part(folder, number, "idx")
        try:
            return next((entry.at for entry in read_entries(index, 0, BLOCK_ENTRIES) if not entry.stream & MARK), None)
        finally:
            os.close(index)
    return None


def find_next_line(folder: Path, position: Position, stream: int, end: int) -> Generator[None, None, int | None]:
    """Where the first whole line of a stream begins from a position on, as an offset below ``end``.

    None where a line begins at the position itself, or no line begins behind it.
    """
    with Reader(folder, (stream,)) as reader:
        yield from reader.seek(position)
        at_position = reader.segment == position.segment and (position.entry or position.offset)
        if at_position and not (yield from is_within_line(folder, position, stream)):
            return None
        is_first = True
        while (chunk := reader.next()) is not None:
            yield
            if chunk.stream != stream:
                continue
            if chunk.offset >= end:
                break
            if not chunk.data:
                # At the beginning of a segment a mark says whether a line begins here.
                if chunk.lost or chunk.run_begins or (is_first and not at_position and not chunk.within_line):
                    return None if is_first else chunk.offset
                is_first = False
                continue
            if is_first and not at_position and chunk.offset == 0:
                return None
            is_first = False
            cut = chunk.data.find(b"\n") + 1
            if cut:
                return chunk.offset + cut if chunk.offset + cut < end else None
    return None


def is_within_line(folder: Path, position: Position, stream: int) -> Generator[None, None, bool]:
    """Whether the last byte of a stream before a position does not end a line."""
    with contextlib.ExitStack() as files:
        try:
            index = open_part(folder, position.segment, "idx")
            files.callback(os.close, index)
            data = open_part(folder, position.segment, "log")
            files.callback(os.close, data)
        except FileNotFoundError:
            return False
        end = position.entry + (1 if position.offset else 0)
        while end > 0:
            begin = max(0, end - BLOCK_ENTRIES)
            block = list(read_entries(index, begin, end))
            for number in range(begin + len(block) - 1, begin - 1, -1):
                entry = block[number - begin]
                if stream_of(entry) != stream:
                    continue
                if entry.stream & (LOST | MARK):
                    return bool(entry.stream & WITHIN_LINE)
                length = position.offset if number == position.entry else entry.length
                if length:
                    return os.pread(data, 1, bytes_before(index, number) + length - 1) != b"\n"
            end = begin
            yield
    return False


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
        if self.lines_left < 0:
            self.lines_left = 0
            return len(data)
        ends = data.count(b"\n")
        if ends <= self.lines_left:
            self.lines_left -= ends
            return None
        at = len(data)
        for _ in range(self.lines_left + 1):
            at = data.rfind(b"\n", 0, at)
        self.lines_left = 0
        return at + 1

    def pass_mark(self, entry: Entry) -> bool:
        """Pass a mark; returns whether the first of the last lines of its stream begins there.

        The first line of a run begins with it. Around lost bytes a reader leaves out both halves of the line that was
        cut: the one before is not counted, because ``seen`` stays, and the one behind is taken back.
        """
        stream = stream_of(entry)
        if stream not in self.open & self.seen or (entry.stream & MARK and not entry.length):
            return False
        if entry.stream & LOST and entry.stream & WITHIN_LINE:
            self.lines_left = max(self.lines_left, 0) + 1
            return False
        if self.lines_left <= 0:
            self.open.discard(stream)
            return True
        if entry.stream & MARK:
            self.seen.discard(stream)
        return False


def find_lines(
    folder: Path, lines: int, streams: tuple[int, ...], first: Position, end: Position, *, max_bytes: int | None = None
) -> Generator[None, None, dict[int, Position]]:
    """Find where the last ``lines`` lines before ``end`` begin in each stream, not before ``first``.

    Reads backwards until all positions are found, or ``max_bytes`` have been read.
    """
    counter = _LineCounter(lines, streams, max_bytes)
    starts: dict[int, Position] = {}
    position = max(first, end)
    for number in reversed(list_segments(folder)):
        if number > end.segment:
            continue
        if number < first.segment or counter.is_done() or counter.is_exhausted():
            break
        with contextlib.ExitStack() as files:
            try:
                index = open_part(folder, number, "idx")
                files.callback(os.close, index)
                data = open_part(folder, number, "log")
                files.callback(os.close, data)
            except FileNotFoundError:
                break
            entry = first.entry if number == first.segment else 0
            limit = end if number == end.segment else Position(number, os.fstat(index).st_size // ENTRY.size, 0)
            scan = _scan_backwards(index, data, entry, limit, counter, starts)
            for position in scan:  # noqa: B007 - used below
                yield
    for stream in counter.open:
        starts[stream] = position if counter.is_done() or counter.is_exhausted() else first
    return starts


def _scan_backwards(
    index: int, data: int, first_entry: int, limit: Position, counter: _LineCounter, starts: dict[int, Position]
) -> Generator[Position]:
    """Scan a segment from ``limit`` to ``first_entry``; yields the position that it has reached."""
    number = limit.segment
    end = limit.entry + (1 if limit.offset else 0)
    offset = -1
    while end > first_entry:
        begin = max(end - BLOCK_ENTRIES, first_entry)
        block = list(read_entries(index, begin, end))
        if limit.offset and begin + len(block) - 1 == limit.entry:
            block[-1] = block[-1]._replace(length=limit.offset)  # what was added since does not count
        if offset < 0:
            offset = bytes_before(index, begin)
            offset += sum(0 if each.stream & (LOST | MARK) else each.length for each in block)
        for entry_number in range(begin + len(block) - 1, begin - 1, -1):
            entry = block[entry_number - begin]
            if entry.stream & (LOST | MARK):
                if counter.pass_mark(entry):
                    starts[stream_of(entry)] = Position(number, entry_number, 0)
                continue
            left = entry.length
            offset -= left
            yield Position(number, entry_number, left)
            while left > 0 and entry.stream in counter.open and not counter.is_done() and not counter.is_exhausted():
                size = min(left, CHUNK_BYTES)
                left -= size
                found = os.pread(data, size, offset + left)
                if not found:
                    continue
                line_start = counter.scan(entry.stream, found)
                if line_start is not None:
                    starts[entry.stream] = Position(number, entry_number, left + line_start)
                    counter.open.discard(entry.stream)
                if counter.bytes_left is not None:
                    counter.bytes_left -= size
                yield Position(number, entry_number, left)
            if counter.is_done() or counter.is_exhausted():
                return
        end = begin
