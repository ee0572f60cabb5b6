"""Compares the log reader with a simple model, for any output, any chunking and any amount of retained data."""

from __future__ import annotations

import asyncio
import itertools
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runtimes import collect, joined
from support.written_logs import CLOCK, SMALL, Written

from nexus.runtime import Log, LogPiece
from nexus.runtime.logs import MAX_PIECE_BYTES
from nexus.runtime.segments import ENTRY, list_segments

pytestmark = pytest.mark.usefixtures("clock")


def read(log: Log, **options: object) -> list[LogPiece]:
    return asyncio.run(collect(log, **options))


def assert_pieces_end_with_lines(pieces: list[LogPiece]) -> None:
    """Assert that each piece ends with a line, unless the line is longer than a piece or is its run's last."""
    for stream in (1, 2):
        mine = [piece for piece in pieces if piece.stream == stream and piece.data]
        assert all(len(piece.data) <= MAX_PIECE_BYTES for piece in mine)
        for piece, following in itertools.pairwise(mine):
            if following.continues:
                assert len(piece.data) == MAX_PIECE_BYTES
                assert b"\n" not in piece.data


def split(data: bytes) -> list[bytes]:
    """Split bytes behind each line feed, and only there."""
    return re.findall(rb"[^\n]*\n|[^\n]+", data)


def printed(pieces: list[LogPiece], stream: int) -> list[bytes]:
    """The lines of a stream, as a program prints them that joins pieces only where one continues the other."""
    lines: list[bytes] = []
    for piece in pieces:
        if piece.stream == stream and piece.data:
            assert not (piece.continues and lines[-1].endswith(b"\n"))
            before = lines.pop() if piece.continues else b""
            lines += split(before + piece.data)
    return lines


def written_lines(written: Written, stream: int) -> list[bytes]:
    """The lines that a stream was written, each run's on their own."""
    runs: list[bytes] = []
    for number, (_at, which, data) in enumerate(written.pieces):
        if number in written.runs or not runs:
            runs.append(b"")
        if which == stream:
            runs[-1] += data
    return [line for run in runs for line in split(run)]


def model_lines(
    pieces: list[tuple[int, int, bytes]], runs: set[int], lines: int, streams: tuple[int, ...]
) -> dict[int, bytes]:
    """The last lines in the order of their ends, found by walking over every byte. A run's last line ends with it."""
    ended: list[tuple[int, bytes]] = []
    begun: dict[int, bytearray] = {}
    touched: dict[int, int] = {}
    order = itertools.count()
    marks: list[tuple[int, int, bytes]] = []
    for number, (_at, stream, data) in enumerate(pieces):
        if number in runs:
            marks += [(touched[each], each, bytes(rest)) for each, rest in begun.items()]
            begun.clear()
        if stream not in streams:
            continue
        for byte in data:
            begun.setdefault(stream, bytearray()).append(byte)
            touched[stream] = next(order)
            if byte == 10:
                marks.append((touched[stream], stream, bytes(begun.pop(stream))))
    marks += [(touched[stream], stream, bytes(rest)) for stream, rest in begun.items()]
    ended = [(stream, line) for _order, stream, line in sorted(marks)]
    last = ended[-lines:] if lines else []
    return {each: b"".join(line for stream, line in last if stream == each) for each in (1, 2)}


texts = st.lists(
    st.tuples(
        st.sampled_from((1, 2)),
        st.one_of(
            st.binary(min_size=1, max_size=40),
            st.sampled_from(
                (b"\n", b"a\n", b"\n\n", b"no end", b"\xff\xfe\n", b"x" * 3000, b"y" * 9000 + b"\n", b"z\n" * 2000)
            ),
        ),
        st.sampled_from((0, 1, 5, 1000)),
    ),
    max_size=40,
)


@given(texts=texts, lines=st.integers(0, 30), chosen=st.sampled_from((None, 1, 2)), reopen=st.integers(0, 40))
def test_log_reads_back_the_retained_output(
    texts: list[tuple[int, bytes, int]], lines: int, chosen: int | None, reopen: int
) -> None:
    directory = Path(tempfile.mkdtemp())
    written = Written(directory / "log")
    CLOCK["log"] = written
    try:
        for number, (stream, data, later_ms) in enumerate(texts):
            if number == reopen:
                written.reopen()
            written.put(stream, data, later_ms=later_ms)
        kept = sum(file.stat().st_size for file in written.folder.iterdir())
        assert kept <= SMALL
        pieces = read(written.log)
        assert_pieces_end_with_lines(pieces)
        total = sum(len(data) for _at, _stream, data in written.pieces)
        for stream in (1, 2):
            assert written.everything(stream).endswith(joined(pieces, stream))
        if total < SMALL // 2:
            assert joined(pieces, 1) == written.everything(1)
            assert joined(pieces, 2) == written.everything(2)
            assert [printed(pieces, stream) for stream in (1, 2)] == [written_lines(written, each) for each in (1, 2)]
            streams = (1, 2) if chosen is None else (chosen,)
            some = read(written.log, lines=lines, stream=chosen)
            assert_pieces_end_with_lines(some)
            expected = model_lines(written.pieces, written.runs, lines, streams)
            assert {each: joined(some, each) for each in (1, 2)} == expected
        else:
            # The newest output is retained: at least seven eighths of the bound, less the size of the index.
            assert sum(len(piece.data) for piece in pieces) >= SMALL // 2
    finally:
        CLOCK.clear()
        written.close()
        shutil.rmtree(directory)


def test_since_starts_at_the_given_time_and_pieces_have_the_time_of_their_first_byte(written: Written) -> None:
    for number in range(2000):
        written.put(1 + number % 2, f"line {number}\n".encode(), later_ms=10)
    pieces = read(written.log)
    assert all(piece.at in range(1_000_000, written.at + 1) for piece in pieces)
    at = written.at - 500 * 10
    some = read(written.log, since=at)
    assert joined(some) == b"".join(f"line {number}\n".encode() for number in range(1499, 2000))
    assert some[0].at == at
    assert read(written.log, since=written.at + 1) == []
    assert joined(read(written.log, since=0)) == joined(pieces)
    assert joined(read(written.log, since=at, lines=3)) == b"line 1997\nline 1998\nline 1999\n"
    assert joined(read(written.log, since=written.at, lines=3)) == b"line 1999\n"
    assert len(joined(read(written.log, since=at, stream=2)).splitlines()) == 251


def test_streams_are_interleaved_by_arrival(written: Written) -> None:
    for number in range(20):
        written.put(1, f"out {number}\n".encode())
        written.put(2, f"err {number}\n".encode())
    assert [piece.data.split()[0] for piece in read(written.log)] == [b"out", b"err"] * 20
    assert all(piece.stream == 2 for piece in read(written.log, stream=2))
    assert joined(read(written.log, lines=3)) == b"err 18\nout 19\nerr 19\n"
    assert written.log.tail(3) == [b"err 18", b"out 19", b"err 19"]


def test_output_that_arrives_at_once_shares_an_entry(written: Written) -> None:
    for number in range(100):
        written.put(1, f"{number}\n".encode(), later_ms=0)
    (index,) = written.folder.glob("*.idx")
    assert index.stat().st_size == ENTRY.size
    assert len(read(written.log)) == 1


def test_one_byte_writes_stay_within_the_bound_including_their_index(written: Written) -> None:
    for number in range(20_000):
        written.put(1 + number % 2, b"x")
    assert sum(file.stat().st_size for file in written.folder.iterdir()) <= SMALL
    assert len(joined(read(written.log))) > SMALL // ENTRY.size // 2


def test_torn_end_is_repaired_by_the_next_run(written: Written) -> None:
    written.put(1, b"whole\n")
    written.put(2, b"torn")
    index = written.folder / "0.idx"
    with index.open("ab") as file:
        file.write(ENTRY.pack(written.at, 1000, 1) + b"half")
    assert joined(read(written.log)) == b"whole\ntorn"
    written.reopen()
    written.put(1, b"again\n")
    assert joined(read(written.log), 1) == b"whole\nagain\n"
    assert joined(read(written.log), 2) == b"torn"


def test_lowered_bound_applies_from_the_next_run(written: Written) -> None:
    written.bound = 8 * SMALL
    written.reopen()
    for _ in range(300):
        written.put(1, b"x" * 999 + b"\n")
    assert sum(file.stat().st_size for file in written.folder.iterdir()) > SMALL
    written.bound = SMALL
    written.reopen()
    assert sum(file.stat().st_size for file in written.folder.iterdir()) <= SMALL


def test_tail_cuts_a_very_long_line(written: Written) -> None:
    written.bound = 64 * SMALL
    written.reopen()
    written.put(1, b"x" * 1_000_000)
    (line,) = written.log.tail(2)
    assert set(line) == {ord("x")}
    assert len(line) <= 2 * 64 * 1024
    assert written.log.tail(0) == []


def test_empty_or_missing_log_yields_nothing(root: Path, written: Written) -> None:
    assert read(written.log) == read(Log(root / "none")) == []
    assert written.log.tail(5) == Log(root / "none").tail(5) == []
    assert read(Log(root / "none"), lines=5, since=3) == []


def test_follower_gets_each_byte_once_across_segments_and_runs(written: Written) -> None:
    numbers = range(3000)

    async def scenario() -> bytes:
        until = asyncio.Event()
        reading = asyncio.create_task(collect(written.log, follow=True, until=until))
        for number in numbers:
            written.put(1, f"{number}\n".encode())
            if number % 100 == 0:
                await asyncio.sleep(0.01)
            if number % 700 == 0:
                written.reopen()
        until.set()
        return joined(await reading)

    written.bound = 16 * SMALL
    written.reopen()
    assert asyncio.run(scenario()) == b"".join(f"{number}\n".encode() for number in numbers)


async def overtaken(written: Written, output: Iterable[bytes]) -> list[LogPiece]:
    """What a follower gets of output that is written while it does not read."""
    until = asyncio.Event()
    follower = written.log.pieces(follow=True, until=until)
    written.put(1, b"first\n")
    assert (await anext(follower)).data == b"first\n"
    for data in output:
        written.put(1, data)
    until.set()
    return [piece async for piece in follower]


def test_overtaken_follower_continues_with_the_oldest_retained_output(written: Written) -> None:
    rest = joined(asyncio.run(overtaken(written, (f"{number}\n".encode() for number in range(40_000)))))
    assert rest.endswith(b"39999\n")
    assert written.everything(1).endswith(rest[-10_000:])
    assert len(list_segments(written.folder)) <= 8


def test_overtaken_follower_gets_the_end_of_a_line_that_is_longer_than_the_log(written: Written) -> None:
    written.bound = 16 * SMALL
    written.reopen()

    async def scenario() -> None:
        rest = await overtaken(written, (f"{number:4096}".encode() for number in range(1000)))
        assert rest[0].lost
        data = joined(rest)
        assert written.everything(1).endswith(data)
        assert len(data) >= 8 * SMALL
        again = [piece async for piece in written.log.pieces(after=rest[0].cursor)]
        assert joined(again) == data

    asyncio.run(scenario())


def test_follower_gets_an_unterminated_line_and_its_rest_later(written: Written) -> None:
    async def scenario() -> None:
        follower = written.log.pieces(follow=True, lines=0)
        waiting = asyncio.ensure_future(anext(follower))
        await asyncio.sleep(0)
        written.put(1, b"Password: ")
        assert (await waiting).data == b"Password: "
        written.put(1, b"ok\n")
        assert (await anext(follower)).data == b"ok\n"
        await follower.aclose()  # type: ignore[attr-defined]

    asyncio.run(scenario())


def test_follower_waits_for_a_missing_log_and_ends_when_it_is_deleted(
    root: Path,
) -> None:
    async def scenario() -> None:
        folder = root / "later" / "log"
        early = Log(folder).pieces(follow=True)
        first = asyncio.ensure_future(anext(early))
        await asyncio.sleep(0)
        written = Written(folder)
        CLOCK["log"] = written
        written.put(1, b"hello\n")
        assert (await first).data == b"hello\n"
        late = written.log.pieces(follow=True)
        assert (await anext(late)).data == b"hello\n"
        written.close()
        shutil.rmtree(folder)
        assert [piece async for piece in early] == [piece async for piece in late] == []

    asyncio.run(scenario())


def test_lost_bytes_are_reported_where_they_are_missing(written: Written) -> None:
    written.put(1, b"before\n")
    written.writer.lost[1] = 4711
    written.put(1, b"after\n")
    pieces = read(written.log)
    assert [(piece.data, piece.lost) for piece in pieces] == [(b"before\n", 0), (b"", 4711), (b"after\n", 0)]
    assert joined(read(written.log, lines=1)) == b"after\n"
    assert [piece.lost for piece in read(written.log, stream=2)] == []
