"""Reads the log that shims write and splits it into lines: from the end, a time or a run, and while it is written.

It never writes. The format is described at the top of ``native/nexus-shim.c``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

from nexus.runtime.segments import LOST, STREAMS, Chunk, Position, Reader, find_lines, find_since
from nexus.runtime.status import read_status

__all__ = ["MAX_PIECE_BYTES", "Log", "LogPiece"]

MAX_PIECE_BYTES = 64 * 1024
_TAIL_BYTES = 64 * 1024
_PARTIAL_LINE_S = 0.1
_TICK_S = 0.05
_STEPS_PER_TURN = 8


class LogPiece(NamedTuple):
    """Output of one stream (1 is standard output, 2 is standard error).

    ``data`` is at most 64 KiB and ends at the end of a line, unless the line is longer; ``at`` (ms) is when its first
    byte was written. A piece with ``lost`` has no data: the disk had no space for that many bytes of the stream.
    """

    at: int
    stream: int
    data: bytes
    lost: int = 0


class Log:
    """The retained output of all runs of one owner; ``folder`` may not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tail(self, lines: int, *, from_run: str | None = None) -> list[bytes]:
        """The last lines without their newlines, for an error message; very long lines are cut.

        Reads 64 KiB at most, and blocks. ``from_run`` leaves out the output of runs before that one.
        """
        starts: dict[int, Position] = {}
        for _ in find_lines(self.folder, lines, STREAMS, self._run_start(from_run), starts, max_bytes=_TAIL_BYTES):
            pass
        found: list[bytes] = []
        splitter = _LineSplitter()
        with Reader(self.folder, min(starts.values())) as reader:
            while (chunk := reader.next()) is not None:
                for piece in splitter.feed(_clip(chunk, starts)):
                    found += piece.data.splitlines()
        for piece in splitter.flush():
            found += piece.data.splitlines()
        return found[-lines:] if lines > 0 else []

    async def pieces(
        self,
        *,
        lines: int | None = None,
        since: int | None = None,
        stream: int | None = None,
        follow: bool = False,
        from_run: str | None = None,
        until: asyncio.Event | None = None,
    ) -> AsyncIterator[LogPiece]:
        """Yield the retained output, in order within each stream and by arrival between the two.

        ``lines`` limits it to the last lines, ``since`` (ms) to output from that time on, ``stream`` (1 or 2) to one
        stream, ``from_run`` to that run and later ones; limits combine. With ``follow`` it continues with new output,
        over all later runs, until ``until`` is set (after yielding all that was written before) or the log is deleted.
        An unterminated line is yielded at the end, or when its stream was silent for 100 ms.

        Retained output is neither skipped nor repeated. A reader that is overtaken by the writer continues with the
        oldest retained output.
        """
        streams = STREAMS if stream is None else (stream,)
        first = self._run_start(from_run)
        if since is not None:
            found: list[Position] = []
            await _run_in_steps(find_since(self.folder, since, found))
            first = max(first, *found)
        starts = dict.fromkeys(streams, first)
        if lines is not None:
            await _run_in_steps(find_lines(self.folder, lines, streams, first, starts))
        splitter = _LineSplitter()
        with Reader(self.folder, min(starts.values())) as reader:
            steps = 0
            while True:
                # Checked before reading, so that everything written before ``until`` was set is read.
                last = not follow or (until is not None and until.is_set())
                chunk = reader.next()
                if chunk is not None:
                    if chunk.stream & ~LOST in starts:
                        for piece in splitter.feed(_clip(chunk, starts)):
                            yield piece
                    steps += 1
                    if steps % _STEPS_PER_TURN == 0:
                        await asyncio.sleep(0)
                    continue
                if last:
                    break
                timeout_s = _PARTIAL_LINE_S if splitter.has_partial_line() else None
                changed = await _Ticker.wait_for_change(reader, until, timeout_s)
                for piece in splitter.flush(older_s=_PARTIAL_LINE_S):
                    yield piece
                if changed and reader.is_gone():
                    break
        for piece in splitter.flush():
            yield piece

    def _run_start(self, run_id: str | None) -> Position:
        """Where a run's output begins; the beginning of the log where the run is unknown."""
        status = None if run_id is None else read_status(self.folder.parent / run_id / "status")
        if status is None or status.run is None or status.run.segment < 0:
            return Position(0, 0, 0)
        return Position(status.run.segment, status.run.index_bytes // 16, 0)


async def _run_in_steps(search: Iterator[None]) -> None:
    """Run a search, and yield to the event loop every few steps."""
    for step, _ in enumerate(search):
        if step % _STEPS_PER_TURN == 0:
            await asyncio.sleep(0)


def _clip(chunk: Chunk, starts: dict[int, Position]) -> Chunk:
    """Remove the part of a chunk that is before the start of its stream."""
    start = starts[chunk.stream & ~LOST]
    if chunk.position >= start:
        return chunk
    if chunk.position[:2] < start[:2]:
        return chunk._replace(data=b"", lost=0)
    return chunk._replace(data=chunk.data[start.offset - chunk.position.offset :])


class _LineSplitter:
    """Turns chunks into pieces that end at the end of a line."""

    def __init__(self) -> None:
        self._partial: dict[int, tuple[int, bytes]] = {}
        self._partial_since_s: dict[int, float] = {}

    def has_partial_line(self) -> bool:
        """Whether a line has begun and not ended."""
        return bool(self._partial)

    def feed(self, chunk: Chunk) -> Iterator[LogPiece]:
        """Add a chunk; yields the pieces that are complete now."""
        stream = chunk.stream & ~LOST
        if chunk.lost:
            yield from self._flush(stream)
            yield LogPiece(chunk.at, stream, b"", chunk.lost)
        if not chunk.data:
            return
        at, before = self._partial.pop(stream, (chunk.at, b""))
        data = before + chunk.data if before else chunk.data
        while data:
            cut = data.rfind(b"\n", 0, MAX_PIECE_BYTES) + 1
            if not cut and len(data) >= MAX_PIECE_BYTES:
                cut = MAX_PIECE_BYTES
            if not cut:
                self._partial[stream] = (at, data)
                self._partial_since_s[stream] = time.monotonic()
                return
            yield LogPiece(at, stream, data[:cut])
            at, data = chunk.at, data[cut:]

    def flush(self, older_s: float = 0) -> Iterator[LogPiece]:
        """Yield unterminated lines, the older first, whose streams were silent for at least ``older_s``."""
        until_s = time.monotonic() - older_s
        for stream in sorted(self._partial, key=lambda each: self._partial[each][0]):
            if self._partial_since_s[stream] <= until_s:
                yield from self._flush(stream)

    def _flush(self, stream: int) -> Iterator[LogPiece]:
        if stream in self._partial:
            at, data = self._partial.pop(stream)
            yield LogPiece(at, stream, data)


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
