"""Reads the log that shims write: from its end, from a time, from a run, while it grows and while old parts go.

It never writes. The format is described at the top of ``native/nexus-shim.c``; how lines are made of it is here.
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
_PARTIAL_S = 0.1
_TICK_S = 0.05
_STEPS_A_TURN = 8


class LogPiece(NamedTuple):
    """Some output of one stream (1 is standard output, 2 is standard error), and when it came (ms).

    It is at most 64 KiB and ends with a line, where the line is not longer than that; ``at`` is when the first of its
    bytes came. A piece with ``lost`` has no data: so many bytes of the stream had no room on the disk.
    """

    at: int
    stream: int
    data: bytes
    lost: int = 0


class Log:
    """The output of all runs of one owner, as far as it is kept; ``folder`` may not be there yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tail(self, lines: int, *, from_run: str | None = None) -> list[bytes]:
        """The last lines without their ends, for an error message; they are cut where they are very long.

        It reads 64 KiB at most, at once. ``from_run`` leaves out what other runs wrote before it.
        """
        starts: dict[int, Position] = {}
        for _ in find_lines(self.folder, lines, STREAMS, self._run_start(from_run), starts, most_bytes=_TAIL_BYTES):
            pass
        found: list[bytes] = []
        made = _Lines()
        with Reader(self.folder, min(starts.values())) as reader:
            while (bit := reader.next()) is not None:
                for piece in made.feed(_from(bit, starts)):
                    found += piece.data.splitlines()
        for piece in made.flush():
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
        """What was written, in order within each stream and by arrival between both: all that is kept, if not limited.

        ``lines`` is how many of the last lines, ``since`` (ms) from when on, ``stream`` 1 or 2 which of both, and
        ``from_run`` which run is the first; together they give what each of them allows. With ``follow`` it goes on
        with what comes, over all later runs, until ``until`` is set (then it ends with all that was there) or the log
        is deleted. A line that has not ended is given at the end, or when nothing came for 100 ms.

        Nothing that is still kept is left out or given twice; a reader that is slower than the writer goes on with the
        oldest that is kept.
        """
        streams = STREAMS if stream is None else (stream,)
        least = self._run_start(from_run)
        if since is not None:
            found: list[Position] = []
            await _in_turns(find_since(self.folder, since, found))
            least = max(least, *found)
        starts = dict.fromkeys(streams, least)
        if lines is not None:
            await _in_turns(find_lines(self.folder, lines, streams, least, starts))
        made = _Lines()
        with Reader(self.folder, min(starts.values())) as reader:
            steps = 0
            while True:
                # Looked at first: what was written before it was set is read after.
                last = not follow or (until is not None and until.is_set())
                bit = reader.next()
                if bit is not None:
                    if bit.stream & ~LOST in starts:
                        for piece in made.feed(_from(bit, starts)):
                            yield piece
                    steps += 1
                    if steps % _STEPS_A_TURN == 0:
                        await asyncio.sleep(0)
                    continue
                if last:
                    break
                changed = await _Ticker.changed(reader, until, _PARTIAL_S if made.waits() else None)
                for piece in made.flush(older_s=_PARTIAL_S):
                    yield piece
                if changed and reader.is_gone():
                    break
        for piece in made.flush():
            yield piece

    def _run_start(self, run_id: str | None) -> Position:
        """Where a run's output begins; the begin of the log where nobody knows the run."""
        status = None if run_id is None else read_status(self.folder.parent / run_id / "status")
        if status is None or status.run is None or status.run.segment < 0:
            return Position(0, 0, 0)
        return Position(status.run.segment, status.run.index_bytes // 16, 0)


async def _in_turns(work: Iterator[None]) -> None:
    """Let the others have their turn between the steps of a search."""
    for step, _ in enumerate(work):
        if step % _STEPS_A_TURN == 0:
            await asyncio.sleep(0)


def _from(bit: Chunk, starts: dict[int, Position]) -> Chunk:
    """The part of a bit that is not before the start of its stream."""
    start = starts[bit.stream & ~LOST]
    if bit.place >= start:
        return bit
    if bit.place[:2] < start[:2]:
        return bit._replace(data=b"", lost=0)
    return bit._replace(data=bit.data[start.taken - bit.place.taken :])


class _Lines:
    """Makes pieces that end with a line."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[int, bytes]] = {}
        self._since_s: dict[int, float] = {}

    def waits(self) -> bool:
        """Whether a line has begun and not ended."""
        return bool(self._open)

    def feed(self, bit: Chunk) -> Iterator[LogPiece]:
        """What is whole now."""
        stream = bit.stream & ~LOST
        if bit.lost:
            yield from self._flush(stream)
            yield LogPiece(bit.at, stream, b"", bit.lost)
        if not bit.data:
            return
        at, before = self._open.pop(stream, (bit.at, b""))
        data = before + bit.data if before else bit.data
        while data:
            cut = data.rfind(b"\n", 0, MAX_PIECE_BYTES) + 1
            if not cut and len(data) >= MAX_PIECE_BYTES:
                cut = MAX_PIECE_BYTES
            if not cut:
                self._open[stream] = (at, data)
                self._since_s[stream] = time.monotonic()
                return
            yield LogPiece(at, stream, data[:cut])
            at, data = bit.at, data[cut:]

    def flush(self, older_s: float = 0) -> Iterator[LogPiece]:
        """What is there of lines that have not ended, the older first, and for how long nothing has come."""
        until_s = time.monotonic() - older_s
        for stream in sorted(self._open, key=lambda each: self._open[each][0]):
            if self._since_s[stream] <= until_s:
                yield from self._flush(stream)

    def _flush(self, stream: int) -> Iterator[LogPiece]:
        if stream in self._open:
            at, data = self._open.pop(stream)
            yield LogPiece(at, stream, data)


class _Ticker:
    """One clock for all readers of a loop that wait: a look at a file's size costs less than a microsecond."""

    _of: ClassVar[dict[asyncio.AbstractEventLoop, _Ticker]] = {}

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[asyncio.Future[None], tuple[Reader, asyncio.Event | None]] = {}
        self._ticks = 0

    @classmethod
    async def changed(cls, reader: Reader, until: asyncio.Event | None, timeout_s: float | None) -> bool:
        """Wait until there is something to read, or ``until`` is set; False when the time was over before."""
        loop = asyncio.get_running_loop()
        ticker = cls._of.get(loop)
        if ticker is None:
            ticker = cls._of[loop] = cls(loop)
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
            del self._of[self._loop]
