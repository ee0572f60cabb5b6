"""Compares what a follower of any speed prints with what was written: deleted segments, lost bytes, runs, cursors."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runtimes import collect
from support.written_logs import CLOCK, Written, writer_clock

from nexus.runtime import Log, LogCursor, LogPiece
from nexus.runtime.logs import MAX_PIECE_BYTES

TURNS = 64
"""How often the event loop turns in one step of a follower; it never waits for a timer in them."""


@pytest.fixture(autouse=True, scope="module")
def clock() -> Iterator[None]:
    with writer_clock():
        yield


@pytest.fixture
def written(root: Path) -> Iterator[Written]:
    made = Written(root / "owner" / "log")
    CLOCK["log"] = made
    yield made
    CLOCK.clear()
    made.close()


def read(written: Written, **options: object) -> list[LogPiece]:
    return asyncio.run(collect(written.log, **options))


class Truth:
    """What a stream was written, and where its runs began."""

    def __init__(self, written: Written, stream: int) -> None:
        self.data = written.everything(stream)
        self.runs = set()
        size = 0
        for number, (_at, which, data) in enumerate(written.pieces):
            if number in written.runs:
                self.runs.add(size)
            size += len(data) if which == stream else 0

    def begins_line(self, at: int) -> bool:
        return at == 0 or at in self.runs or self.data[at - 1 : at] == b"\n"


def assert_true(pieces: list[LogPiece], written: Written, starts: dict[int, int], ends: dict[int, int]) -> None:
    """Assert that data and gaps together are the output between these offsets, and join no halves of lines."""
    for stream, start in starts.items():
        truth = Truth(written, stream)
        at, unfinished = start, False
        for piece in pieces:
            if piece.stream != stream:
                continue
            if piece.lost:
                assert not piece.data
                at, unfinished = at + piece.lost, False
            elif piece.data:
                assert len(piece.data) <= MAX_PIECE_BYTES
                assert truth.data[at : at + len(piece.data)] == piece.data
                assert not any(at < run < at + len(piece.data) for run in truth.runs)
                assert piece.continues == (unfinished and at not in truth.runs)
                assert piece.continues or truth.begins_line(at)
                at += len(piece.data)
                unfinished = not piece.data.endswith(b"\n")
            assert piece.cursor.offsets[stream - 1] == at
        assert at == ends[stream]


class Follower:
    """A follower that a test lets read as fast or as slowly as it likes, and that continues from its last cursor."""

    def __init__(self, log: Log, **options: Any) -> None:
        self.log = log
        self.options = options
        self.until = asyncio.Event()
        self.pieces: list[LogPiece] = []
        self._begin()

    def _begin(self) -> None:
        pieces = self.log.pieces(follow=True, until=self.until, **self.options)
        self._source = cast("AsyncGenerator[LogPiece]", pieces)
        self._next: asyncio.Task[LogPiece] | None = None

    async def step(self) -> None:
        """Take one piece, if there is one."""
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._source))
        for _ in range(TURNS):
            if self._next.done():
                self.pieces.append(self._next.result())
                self._next = None
                return
            await asyncio.sleep(0)

    async def break_off(self) -> None:
        """End, with whatever was read and not given, and begin anew from the cursor."""
        await self._end()
        if self.pieces:
            self.options = {
                "stream": self.options.get("stream"),
                "after": LogCursor.parse(str(self.pieces[-1].cursor)),
            }
        self._begin()

    async def _end(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait([self._next])
        with contextlib.suppress(RuntimeError):
            await self._source.aclose()

    async def finish(self) -> None:
        """Read all that was written until now."""
        self.until.set()
        if self._next is not None:
            with contextlib.suppress(StopAsyncIteration):
                self.pieces.append(await self._next)
        self.pieces += [piece async for piece in self._source]


BLOBS = {
    "flood": b"".join(b"%06d of a flood\n" % number for number in range(1500)),
    "short lines": b"z\n" * 2000,
    "part of a line": b"x" * 3000,
    "long line": b"y" * 9000 + b"\n",
    "longer than a piece": b"long" * 20_000 + b"\n",
}
chunks = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.sampled_from((b"\n", b"a\n", b"\n\n", b"no end", b"\xff\xfe\n")),
    st.sampled_from(sorted(BLOBS)),
)


def blob(data: bytes | str) -> bytes:
    """The bytes of a chunk, which has a name if it is large."""
    return BLOBS[data] if isinstance(data, str) else data


writes = st.tuples(st.just("write"), st.sampled_from((1, 2)), chunks, st.sampled_from((0, 1, 5, 1000)))
losses = st.tuples(
    st.just("lose"), st.sampled_from((1, 2)), st.sampled_from((b"lost", b"lost\n", b"\nhalf")), st.just(0)
)
others = st.tuples(st.sampled_from(("run", "break")), st.just(0), st.just(b""), st.just(0))
reads = st.tuples(st.just("read"), st.integers(1, 20), st.just(b""), st.just(0))


@given(
    steps=st.lists(st.one_of(writes, writes, reads, losses, others), max_size=60),
    chosen=st.sampled_from((None, 1, 2)),
)
def test_follower_of_any_speed_prints_the_output_and_gaps_of_the_right_size(
    steps: list[tuple[str, int, bytes | str, int]], chosen: int | None
) -> None:
    directory = Path(tempfile.mkdtemp())
    written = Written(directory / "log")
    CLOCK["log"] = written

    async def scenario() -> None:
        follower = Follower(written.log, stream=chosen, mark_start=True)
        await follower.step()
        assert [(piece.data, piece.cursor.offsets) for piece in follower.pieces] == [(b"", (0, 0))]
        for kind, number, data, later_ms in steps:
            if kind == "write":
                written.put(number, blob(data), later_ms=later_ms)
            elif kind == "lose":
                written.lose(number, blob(data))
            elif kind == "run":
                written.reopen()
            elif kind == "break":
                await follower.break_off()
            else:
                for _ in range(number):
                    await follower.step()
        written.writer.write_last_marks()
        await follower.finish()
        streams = (1, 2) if chosen is None else (chosen,)
        assert {piece.stream for piece in follower.pieces} <= set(streams)
        ends = {stream: len(written.everything(stream)) for stream in streams}
        assert_true(follower.pieces, written, dict.fromkeys(streams, 0), ends)

    try:
        asyncio.run(scenario())
    finally:
        CLOCK.clear()
        written.close()
        shutil.rmtree(directory)


@given(
    before=st.lists(writes, max_size=30),
    meanwhile=st.lists(writes, min_size=1, max_size=10),
    chosen=st.sampled_from((None, 1, 2)),
    lines=st.sampled_from((None, 0, 3, 1000)),
)
def test_read_without_follow_ends_where_the_log_ended_whatever_is_written_meanwhile(
    before: list[tuple[str, int, bytes | str, int]],
    meanwhile: list[tuple[str, int, bytes | str, int]],
    chosen: int | None,
    lines: int | None,
) -> None:
    directory = Path(tempfile.mkdtemp())
    written = Written(directory / "log")
    CLOCK["log"] = written
    streams = (1, 2) if chosen is None else (chosen,)

    async def scenario() -> None:
        for _kind, stream, data, later_ms in before:
            written.put(stream, blob(data), later_ms=later_ms)
        ends = {stream: len(written.everything(stream)) for stream in streams}
        pieces: list[LogPiece] = []
        async for piece in written.log.pieces(stream=chosen, lines=lines, mark_start=True):
            pieces.append(piece)
            for _kind, stream, data, later_ms in meanwhile:
                written.put(stream, blob(data), later_ms=later_ms)
        starts = {stream: pieces[0].cursor.offsets[stream - 1] for stream in streams}
        truths = {stream: Truth(written, stream) for stream in streams}
        for stream, start in starts.items():
            # A whole line is first, unless there is none.
            rest = truths[stream].data[start : ends[stream]]
            assert truths[stream].begins_line(start) or b"\n" not in rest.removesuffix(b"\n")
        if any(piece.data for piece in pieces):
            begun = {stream: start for stream, start in starts.items() if truths[stream].begins_line(start)}
            assert_true(pieces, written, begun, ends)

    try:
        asyncio.run(scenario())
    finally:
        CLOCK.clear()
        written.close()
        shutil.rmtree(directory)
