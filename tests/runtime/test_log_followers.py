"""Compares what a follower of any speed prints with what was written: deleted segments, lost bytes, runs, cursors."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runtimes import collect, joined
from support.written_logs import CLOCK, SMALL, Truth, Written, assert_true

from nexus.runtime import CursorGone, Log, LogCursor, LogPiece, logs
from nexus.runtime.log_lines import MAX_PIECE_BYTES, NO_OUTPUT
from nexus.runtime.segments import list_segments

TURNS = 64
"""How often the event loop turns in one step of a follower; it never waits for a timer in them."""


pytestmark = pytest.mark.usefixtures("clock")


def read(written: Written, **options: object) -> list[LogPiece]:
    return asyncio.run(collect(written.log, **options))


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

    async def take(self) -> None:
        """Wait for one piece."""
        self.pieces.append(await (self._next or anext(self._source)))
        self._next = None

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


def run_with_log(scenario: Callable[[Written], Coroutine[Any, Any, None]]) -> None:
    """Run one example of a property test with a log of its own: fixtures live as long as all examples."""
    directory = Path(tempfile.mkdtemp())
    written = Written(directory / "log")
    CLOCK["log"] = written
    try:
        asyncio.run(scenario(written))
    finally:
        CLOCK.clear()
        written.close()
        shutil.rmtree(directory)


@given(
    steps=st.lists(st.one_of(writes, writes, reads, losses, others), max_size=60),
    chosen=st.sampled_from((None, 1, 2)),
)
def test_follower_of_any_speed_prints_the_output_and_gaps_of_the_right_size(
    steps: list[tuple[str, int, bytes | str, int]], chosen: int | None
) -> None:
    async def scenario(written: Written) -> None:
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

    run_with_log(scenario)


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
    streams = (1, 2) if chosen is None else (chosen,)

    async def scenario(written: Written) -> None:
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

    run_with_log(scenario)


def test_line_that_lost_bytes_cut_is_left_out_on_both_sides_and_counted(written: Written) -> None:
    written.put(1, b"whole\nhalf of ")
    written.put(2, b"other stream\n")
    written.lose(1, b"a line, and the beginning")
    written.put(1, b" of another\nnext\n")
    pieces = read(written)
    assert [(piece.stream, piece.data, piece.lost) for piece in pieces] == [
        (1, b"whole\n", 0),
        (2, b"other stream\n", 0),
        (1, b"", len(b"half of a line, and the beginning of another\n")),
        (1, b"next\n", 0),
    ]
    assert joined(read(written, lines=1), 1) == b"next\n"
    assert joined(read(written, lines=3)) == b"whole\nother stream\nnext\n"
    assert [piece.lost for piece in read(written, stream=2)] == [0]


def test_lost_bytes_at_the_end_of_a_run_stay_marked_in_the_next(written: Written) -> None:
    written.put(1, b"first\n")
    written.lose(1, b"lost\n")
    written.reopen()
    (_, gap) = read(written)
    assert gap.lost == 5
    written.put(1, b"second\n")
    written.reopen()
    written.put(1, b"third\n")
    for pieces in (read(written), read(written, after=NO_OUTPUT)):
        assert [(piece.data, piece.lost) for piece in pieces] == [
            (b"first\n", 0),
            (b"", 5),
            (b"second\n", 0),
            (b"third\n", 0),
        ]


def test_lines_of_two_runs_are_not_joined(written: Written) -> None:
    written.put(1, b"unfinished")
    written.put(2, b"warning")
    written.reopen()
    written.put(2, b"new warning\n")
    written.put(1, b"new\n")
    pieces = read(written)
    assert {piece.data for piece in pieces} == {b"new warning\n", b"new\n", b"unfinished", b"warning"}
    assert not any(piece.continues for piece in pieces)
    assert joined(read(written, lines=2)) == b"new warning\nnew\n"
    assert [piece.data for piece in read(written, lines=3, stream=1)] == [b"unfinished", b"new\n"]


def test_long_line_is_given_in_one_go_and_the_other_stream_waits_for_its_end(written: Written) -> None:
    for number in range(8):
        written.put(1, b"x" * 20_000)
        written.put(2, b"error %d\n" % number)
    written.put(1, b"\n")
    written.bound = 64 * SMALL
    pieces = read(written)
    first = next(at for at, piece in enumerate(pieces) if piece.stream == 1)
    last = max(at for at, piece in enumerate(pieces) if piece.stream == 1)
    assert [piece.continues for piece in pieces[first : last + 1]] == [False] + [True] * (last - first)
    assert all(piece.stream == 1 for piece in pieces[first : last + 1])


def test_followed_line_without_an_end_does_not_hold_back_the_other_stream(written: Written) -> None:
    async def scenario() -> None:
        follower = written.log.pieces(follow=True)
        written.put(1, b"x" * (16 * MAX_PIECE_BYTES))
        written.put(2, b"error\n")
        for _ in range(16):
            assert len((await anext(follower)).data) == MAX_PIECE_BYTES
        assert (await anext(follower)).data == b"error\n"
        written.put(1, b"the rest\n")
        rest = await anext(follower)
        assert (rest.data, rest.continues) == (b"the rest\n", True)
        await cast("AsyncGenerator[LogPiece]", follower).aclose()

    written.bound = 64 * SMALL
    written.reopen()
    asyncio.run(scenario())


def test_follower_that_begins_within_a_line_begins_with_the_next_one(written: Written) -> None:
    async def scenario(**options: Any) -> None:
        written.put(1, b"line\nbegun ")
        follower = Follower(written.log, **options)
        await follower.step()
        written.put(1, b"and ")
        await follower.step()
        await follower.break_off()
        await follower.step()
        written.put(1, b"ended\nwhole\n")
        await follower.finish()
        assert joined(follower.pieces) == b"whole\n"
        assert not any(piece.lost for piece in follower.pieces)

    asyncio.run(scenario(lines=0, mark_start=True))
    asyncio.run(scenario(since=written.at + 1_000_000, mark_start=True))


def test_since_begins_with_the_first_line_that_began_then(written: Written) -> None:
    written.put(1, b"old\nalso ")
    written.put(1, b"old\nnew\n")
    assert joined(read(written, since=written.at)) == b"new\n"
    written.put(1, b"begun")
    assert joined(read(written, since=written.at)) == b"begun"


@pytest.mark.parametrize(
    "bad", ["", "x", "1.2", "1.2.3.4", "1.2+~.3", "1.-2.3", "g.2.3", "1.2.3\n", "1." + "9" * 40 + ".3"]
)
def test_cursor_of_another_form_is_refused(bad: str) -> None:
    with pytest.raises(CursorGone):
        LogCursor.parse(bad)


def test_cursor_of_a_log_that_was_deleted_is_refused(written: Written, root: Path) -> None:
    written.put(1, b"first\n")
    (piece,) = read(written)
    assert read(written, after=piece.cursor) == []
    with pytest.raises(CursorGone):
        asyncio.run(collect(Log(root / "none"), after=piece.cursor))
    with pytest.raises(CursorGone):
        read(written, after=piece.cursor._replace(offsets=(7, 0)))
    other = Written(root / "other")
    other.put(1, b"other\n")
    with pytest.raises(CursorGone):
        read(other, after=piece.cursor)
    other.close()


def test_cursor_from_before_the_first_output_gives_all(root: Path) -> None:
    folder = root / "later" / "log"

    async def begin() -> LogPiece:
        follower = cast("AsyncGenerator[LogPiece]", Log(folder).pieces(follow=True, mark_start=True))
        try:
            return await anext(follower)
        finally:
            await follower.aclose()

    start = asyncio.run(begin())
    written = Written(folder)
    written.put(2, b"first\n")
    assert joined(read(written, after=start.cursor)) == b"first\n"
    written.close()


def test_cursor_of_deleted_output_says_how_much_is_gone(written: Written) -> None:
    written.put(1, b"first\n")
    (piece,) = read(written)
    for number in range(20_000):
        written.put(1 + number % 2, b"%d\n" % number)
    pieces = read(written, after=piece.cursor)
    ends = {stream: len(written.everything(stream)) for stream in (1, 2)}
    assert_true(pieces, written, {1: 6, 2: 0}, ends)
    assert sum(1 for piece in pieces if piece.lost) == 2
    assert len(list_segments(written.folder)) <= 8


def test_follower_of_a_log_whose_files_were_deleted_reads_the_new_ones(written: Written) -> None:
    async def scenario() -> None:
        follower = Follower(written.log)
        written.put(1, b"old\nunfinished")
        await follower.step()
        for path in written.folder.iterdir():
            path.unlink()
        written.reopen()
        written.put(1, b"new\n")
        while len(follower.pieces) < 3:
            await follower.take()
        await follower.break_off()
        assert [piece.data for piece in follower.pieces] == [b"old\n", b"unfinished", b"new\n"]
        assert not follower.pieces[2].continues

    asyncio.run(scenario())


def test_followers_of_a_log_that_is_deleted_and_written_anew_end(written: Written) -> None:
    async def scenario() -> None:
        written.put(1, b"old\n")
        follower = written.log.pieces(follow=True)
        assert (await anext(follower)).data == b"old\n"
        shutil.rmtree(written.folder)
        anew = Written(written.folder)
        anew.put(1, b"new\n")
        assert [piece async for piece in follower] == []
        anew.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("options", [{"lines": 100}, {"lines": 1}, {"since": 1}], ids=str)
def test_output_that_is_deleted_while_its_beginning_is_looked_for_is_a_gap(
    written: Written, options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    written.put(1, b"x" * SMALL)
    size = sum(len(data) for _at, _stream, data in written.pieces)

    def overtaken(search: Any) -> Any:
        def find(*arguments: Any) -> Any:
            found = yield from search(*arguments)
            written.put(1, b"y" * 2 * SMALL)
            return found

        return find

    for name in ("find_lines", "find_since"):
        monkeypatch.setattr(logs, name, overtaken(getattr(logs, name)))
    pieces = read(written, **options)
    assert joined(pieces) == b""
    (gap,) = pieces
    assert 0 < gap.lost <= size
    assert gap.cursor.offsets[0] == size
