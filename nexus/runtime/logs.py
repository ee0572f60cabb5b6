"""Reads the log that shims write: from its end, a time, a run or a cursor, and while it is written.

It never writes. ``segments`` reads the files, ``log_search`` finds where to begin, ``log_lines`` makes whole lines.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple, TypeVar

from nexus.runtime.log_lines import MAX_PIECE_BYTES, NO_OUTPUT, CursorGone, LineSplitter, LogCursor, LogPiece
from nexus.runtime.log_search import (
    End,
    find_end,
    find_lines,
    find_next_line,
    find_offset,
    find_since,
    is_within_line,
    oldest_offsets,
)
from nexus.runtime.segments import ENTRY, STREAMS, Position, Reader
from nexus.runtime.status import now_ms, read_status

__all__ = ["MAX_PIECE_BYTES", "LogCursor", "CursorGone", "Log", "LogPiece"]

FoundT = TypeVar("FoundT")

_TAIL_BYTES = 64 * 1024
_MAX_END_READS = 4
"""How often the end of a stream is read until the writer has deleted none of it meanwhile."""
_PARTIAL_LINE_S = 0.1
_TICK_S = 0.05
_STEPS_PER_TURN = 8
_BEGINNING = Position(0, 0, 0)


class _Start(NamedTuple):
    """Where each stream begins and how the line before was left, as in a cursor, and a position before all of them."""

    position: Position
    offsets: dict[int, int | None]
    within: dict[int, str]


class Log:
    """The retained output of all runs of one owner; ``folder`` may not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tail(self, lines: int, *, from_run: str | None = None) -> list[bytes]:
        """The last lines without their newlines, for an error message; very long lines are cut.

        Reads 64 KiB at most, and blocks. ``from_run`` leaves out the output of runs before that one.
        """
        end = _at_once(find_end(self.folder))
        if end is None or lines <= 0:
            return []
        first = self._run_start(from_run) or _BEGINNING
        starts = _at_once(find_lines(self.folder, lines, STREAMS, first, end.position, max_bytes=_TAIL_BYTES))
        offsets = {stream: _at_once(find_offset(self.folder, start, stream)) for stream, start in starts.items()}
        found: list[bytes] = []
        with Reader(self.folder) as reader:
            _at_once(reader.seek(min(starts.values())))
            splitter = LineSplitter(offsets, {}, reader.log_id)
            while not splitter.has_reached(end.offsets) and (chunk := reader.next()) is not None:
                for piece in splitter.feed(chunk, end.offsets):
                    found += piece.data.splitlines()
            for piece in splitter.flush():
                found += piece.data.splitlines()
        return found[-lines:]

    def end_of(self, stream: int, max_bytes: int, *, from_run: str | None = None) -> bytes:
        """The last ``max_bytes`` of one stream (1 or 2), or what the log still has of them.

        Reads those bytes, and the indexes of the segments that hold them; blocks. The first and the last character may
        be cut. Bytes that were lost on a full disk count, and are left out. ``from_run`` leaves out the output of runs
        before that one. While the log is written, it is an end that the stream had during the call.
        """
        found = b""
        for _ in range(_MAX_END_READS):
            found, is_whole = self._read_end(stream, max_bytes, from_run)
            if is_whole:
                break
        return found

    def _read_end(self, stream: int, max_bytes: int, from_run: str | None) -> tuple[bytes, bool]:
        """Read the end of a stream once; False where the writer deleted some of it before it was read."""
        oldest = oldest_offsets(self.folder).get(stream, 0)
        end = _at_once(find_end(self.folder))
        if end is None or max_bytes <= 0:
            return b"", True
        limit = end.offsets[stream]
        run = self._run_start(from_run)
        begin = 0 if run is None else _at_once(find_offset(self.folder, run, stream)) or 0
        begin = max(begin, limit - max_bytes, oldest)
        data, is_whole = bytearray(), True
        with Reader(self.folder, (stream,)) as reader:
            _at_once(reader.skip_to({stream: begin}))
            at = begin
            while at < limit and (chunk := reader.next()) is not None:
                if chunk.stream != stream:
                    continue
                if chunk.offset > at or chunk.anew:
                    is_whole = False
                    data.clear()  # what is before a hole is not the end
                data += chunk.data[max(0, begin - chunk.offset) : max(0, limit - chunk.offset)]
                at = max(at, chunk.offset + len(chunk.data) + chunk.lost)
        return bytes(data), is_whole and at >= limit

    async def pieces(
        self,
        *,
        lines: int | None = None,
        since: int | None = None,
        stream: int | None = None,
        follow: bool = False,
        from_run: str | None = None,
        after: LogCursor | None = None,
        mark_start: bool = False,
        until: asyncio.Event | None = None,
    ) -> AsyncIterator[LogPiece]:
        """Yield the retained output, in order within each stream and by arrival between the two.

        ``lines`` limits it to the last lines, ``since`` (ms) to lines that began at that time or later, ``stream`` (1
        or 2) to one stream, ``from_run`` to that run and later ones, ``after`` to what is behind a cursor; limits
        combine. It ends at the end that the log has now. With ``follow`` it continues with new output, over all later
        runs, until ``until`` is set (after yielding all that was written before) or the log is deleted. An unterminated
        line is yielded at the end of its run, at the end, or when its stream was silent for 100 ms.

        Output that is deleted before it was read is marked by a piece with ``lost``, as are bytes for which the disk
        had no space. With ``mark_start`` the first piece has no data, and the cursor of where the output begins.

        Raises:
            CursorGone: ``after`` is no place of this log.
        """
        streams = STREAMS if stream is None else (stream,)
        with Reader(self.folder, streams) as reader:
            if after is not None and after.log not in (0, reader.log_id()):
                raise CursorGone
            if after is None and not reader.log_id():
                after = NO_OUTPUT  # so that what is deleted before it is read is missing
            oldest = oldest_offsets(self.folder)
            end = await _in_steps(find_end(self.folder)) or End(_BEGINNING, dict.fromkeys(STREAMS, 0))
            if after is not None and any(after.offsets[each - 1] > end.offsets[each] for each in streams):
                raise CursorGone
            begin = await _in_steps(self._find_start(streams, lines, since, from_run, after is None, end, follow))
            if after is not None:
                begin = _later(begin, after)
                await _in_steps(reader.skip_to({each: offset or 0 for each, offset in begin.offsets.items()}))
            else:
                await _in_steps(reader.seek(begin.position))
                _complete(begin, reader, oldest, end)
            splitter = LineSplitter(begin.offsets, begin.within, reader.log_id, after or NO_OUTPUT)
            if mark_start:
                yield LogPiece(now_ms(), streams[0], b"", cursor=splitter.cursor())
            limit, last = (None, False) if follow else (end, True)
            steps = 0
            while True:
                if until is not None and until.is_set() and not last:
                    # Everything that was written before is read, and not what a fast writer adds meanwhile.
                    limit, last = await _in_steps(find_end(self.folder)), True
                    if limit is None and not reader.is_gone():
                        break
                if limit is not None and _is_passed(reader, splitter, limit):
                    break
                chunk = reader.next()
                if chunk is not None:
                    for piece in splitter.feed(chunk, None if limit is None else limit.offsets):
                        yield piece
                    steps += 1
                    if steps % _STEPS_PER_TURN == 0:
                        await asyncio.sleep(0)
                    continue
                if last:
                    break
                # All that there is was read, so a stream that had nothing for that long was silent, and not the client.
                for piece in splitter.flush(older_s=_PARTIAL_LINE_S):
                    yield piece
                timeout_s = _PARTIAL_LINE_S if splitter.is_waiting() else None
                changed = await _Ticker.wait_for_change(reader, until, timeout_s)
                if changed and reader.is_gone():
                    break
            for piece in splitter.finish(None if limit is None else limit.offsets):
                yield piece

    def _run_start(self, run_id: str | None) -> Position | None:
        """Where a run's output begins; None where the run is unknown."""
        status = None if run_id is None else read_status(self.folder.parent / run_id / "status")
        if status is None or status.run is None or status.run.segment < 0:
            return None
        return Position(status.run.segment, status.run.index_bytes // ENTRY.size, 0)

    def _find_start(
        self,
        streams: tuple[int, ...],
        lines: int | None,
        since: int | None,
        from_run: str | None,
        whole_line: bool,
        end: End,
        follow: bool,
    ) -> Generator[None, None, _Start]:
        """Find where the output begins that a request asks for.

        ``whole_line``: what is left of a line of which the beginning was deleted is left out, unless there is no other.
        """
        run = self._run_start(from_run)
        first = run or _BEGINNING
        if since is not None:
            first = max(first, (yield from find_since(self.folder, since, end.position)))
        starts = dict.fromkeys(streams, first)
        if lines is not None:
            starts = yield from find_lines(self.folder, lines, streams, first, end.position)
        start = _Start(min(starts.values()), {}, {})
        for stream, position in starts.items():
            offset: int | None
            if position == end.position != _BEGINNING:
                offset = end.offsets[stream]  # known even if the segment is deleted by now
            else:
                offset = yield from find_offset(self.folder, position, stream)
            if position == first and first != run and (whole_line or since is not None):
                line = yield from find_next_line(self.folder, first, stream, end.offsets[stream])
                offset = offset if line is None else line
            start.offsets[stream] = offset
            is_at_end = follow and position != run and offset is not None and offset >= end.offsets[stream]
            if is_at_end and (yield from is_within_line(self.folder, end.position, stream)):
                start.within[stream] = "~"
        return start


def _complete(start: _Start, reader: Reader, oldest: Mapping[int, int], end: End) -> None:
    """Set the offsets that are not known from where the reader has come to, which is behind what was deleted."""
    known = reader.known_offsets()
    for stream, offset in start.offsets.items():
        if offset is not None:
            continue
        found = known.get(stream)
        if reader.segment > end.position.segment or (found or 0) > end.offsets[stream]:
            # All that was asked for was deleted meanwhile; a gap says how much.
            found = oldest.get(stream, found)
        start.offsets[stream] = found


def _later(start: _Start, after: LogCursor) -> _Start:
    """The later of both places in each stream."""
    later = _Start(start.position, dict(start.offsets), dict(start.within))
    for stream, offset in start.offsets.items():
        if offset is None or after.offsets[stream - 1] >= offset:
            later.offsets[stream] = after.offsets[stream - 1]
            later.within[stream] = after.within[stream - 1]
    return later


def _is_passed(reader: Reader, splitter: LineSplitter, limit: End) -> bool:
    return splitter.has_reached(limit.offsets) or reader.segment > limit.position.segment


async def _in_steps(search: Generator[None, None, FoundT]) -> FoundT:
    """Run a search, and yield to the event loop every few steps."""
    try:
        while True:
            next(search)
            await asyncio.sleep(0)
            for _ in range(_STEPS_PER_TURN - 1):
                next(search)
    except StopIteration as end:
        found: FoundT = end.value
        return found


def _at_once(search: Generator[None, None, FoundT]) -> FoundT:
    try:
        while True:
            next(search)
    except StopIteration as end:
        found: FoundT = end.value
        return found


class _Ticker:
    """One timer that polls for all waiting readers of an event loop; checking a file's size takes less than 1 µs."""

    _by_loop: ClassVar[dict[asyncio.AbstractEventLoop, _Ticker]] = {}

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[asyncio.Future[None], tuple[Reader, asyncio.Event | None]] = {}
        self._ticks = 0

    @classmethod
    async def wait_for_change(cls, reader: Reader, until: asyncio.Event | None, timeout_s: float | None) -> bool:
        """Wait until the log may have changed or ``until`` is set; False after ``timeout_s`` without either."""
        loop = asyncio.get_running_loop()
        ticker = cls._by_loop.get(loop)
        if ticker is None:
            ticker = cls._by_loop[loop] = cls(loop)
            loop.call_later(_TICK_S, ticker._tick)
        waiter: asyncio.Future[None] = loop.create_future()
        ticker._waiting[waiter] = (reader, until)
        try:
            return bool((await asyncio.wait([waiter], timeout=timeout_s))[0])
        finally:
            ticker._waiting.pop(waiter, None)

    def _tick(self) -> None:
        self._ticks += 1
        for waiter, (reader, until) in self._waiting.items():
            if not waiter.done() and ((until is not None and until.is_set()) or reader.has_changed(self._ticks)):
                waiter.set_result(None)
        if self._waiting:
            self._loop.call_later(_TICK_S, self._tick)
        else:
            del self._by_loop[self._loop]
