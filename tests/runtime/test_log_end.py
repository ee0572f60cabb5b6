"""The end of one stream: over segments that are full, deleted or being written, and over runs."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.written_logs import CLOCK, SMALL, Written

from nexus.runtime import Log, log_search, segments
from nexus.runtime.segments import list_segments

pytestmark = pytest.mark.usefixtures("clock")

SEGMENT = SMALL // 8
STEPS = ("access", "fstat", "listdir", "lseek", "open", "pread", "stat")
MAX_STEPS = 1000


def oldest_retained(written: Written, stream: int) -> int:
    """How many bytes of a stream were before the oldest output that the log has."""
    return log_search.oldest_offsets(written.folder)[stream]


@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.integers(1, 3000)), max_size=60),
    st.integers(0, 20_000),
    st.booleans(),
)
def test_end_of_a_stream_is_its_last_retained_bytes(chunks: list[tuple[int, int]], max_bytes: int, twice: bool) -> None:
    folder = Path(tempfile.mkdtemp())
    written = CLOCK["log"] = Written(folder / "log")
    try:
        for number, (stream, size) in enumerate(chunks):
            # Chunks that are written within 2 ms of each other share an entry.
            written.put(stream, bytes((number + at) % 256 for at in range(size)), later_ms=number % 3)
            if twice and number % 20 == 10:
                written.reopen()
        for stream in (1, 2):
            everything = written.everything(stream)
            expected = everything[max(0, len(everything) - max_bytes) :] if max_bytes else b""
            if chunks:
                expected = everything[max(oldest_retained(written, stream), len(everything) - len(expected)) :]
            assert written.log.end_of(stream, max_bytes) == expected
    finally:
        CLOCK.clear()
        written.close()
        shutil.rmtree(folder)


def test_log_without_output_has_no_end(root: Path) -> None:
    assert Log(root / "none").end_of(1, 100) == b""
    (root / "empty").mkdir()
    assert Log(root / "empty").end_of(1, 100) == b""


@pytest.mark.parametrize("size", [SEGMENT - 100, SEGMENT, 2 * SEGMENT + 1, SMALL * 20])
def test_end_spans_segments_and_the_flood_of_the_other_stream(written: Written, size: int) -> None:
    last = bytes(number % 251 for number in range(10_000))
    written.put(2, b"early\n")
    written.put(1, last)
    for _ in range(0, size, 1000):
        written.put(2, b"x" * 1000)
    expected = last[oldest_retained(written, 1) :]
    assert written.log.end_of(1, 9_000) == expected[-9_000:]
    assert len(expected) == (0 if size > SMALL else 10_000)
    assert written.log.end_of(2, 2_000) == b"x" * 2_000


def test_end_reads_only_the_segments_that_hold_it(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(200):
        written.put(1, b"%06d" % number * 100)
    opened: list[int] = []
    open_part = segments.open_part

    def watch(folder: Path | int, number: int, kind: str) -> int:
        opened.append(number)
        return open_part(folder, number, kind)

    monkeypatch.setattr(segments, "open_part", watch)
    assert written.log.end_of(1, 1000) == written.everything(1)[-1000:]
    oldest, *others = list_segments(written.folder)
    assert len(others) > 4
    # Of the oldest one the first entries are read, which say how much was deleted.
    assert set(opened) <= {oldest, *others[-2:]}


def test_end_of_a_log_with_a_missing_segment_is_what_is_behind_it(written: Written) -> None:
    for _ in range(60):
        written.put(1, b"x" * 1000)
    written.put(1, b"the end")
    numbers = list_segments(written.folder)
    whole = len(written.log.end_of(1, SMALL))
    for kind in ("idx", "log"):
        (written.folder / f"{numbers[-2]}.{kind}").unlink()
    left = written.log.end_of(1, SMALL)
    assert left.endswith(b"the end")
    assert 0 < len(left) < whole - SEGMENT // 2
    assert left == written.everything(1)[-len(left) :]


def test_lost_bytes_are_left_out(written: Written) -> None:
    written.put(1, b"before\n")
    written.lose(1, b"lost\n")
    written.put(1, b"after\n")
    assert written.log.end_of(1, 9) == b"after\n"
    assert written.log.end_of(1, 100) == b"before\nafter\n"


def test_output_of_earlier_runs_is_left_out(written: Written) -> None:
    written.put(1, b"first run\n")
    written.reopen()
    run = written.folder.parent / "run-2"
    run.mkdir()
    at = f"{written.writer.segment} {written.writer.index_bytes} {written.writer.data_bytes}"
    (run / "status").write_bytes(f"run 1 boot 1 2 3 4 5 {at} 6 7".encode().ljust(512))
    assert written.log.end_of(1, 100, from_run="run-2") == b""
    written.put(1, b"second run\n")
    assert written.log.end_of(1, 100, from_run="run-2") == b"second run\n"
    assert written.log.end_of(1, 4, from_run="run-2") == b"run\n"
    assert written.log.end_of(1, 100) == b"first run\nsecond run\n"


class OsWithWriter:
    """``os`` for a reader, with a function that runs before each step of it."""

    def __init__(self, before: Any) -> None:
        self.steps = 0
        self._before = before

    def __getattr__(self, name: str) -> Any:
        function = getattr(os, name)
        if name not in STEPS:
            return function

        def call(*arguments: Any, **options: Any) -> Any:
            self.steps += 1
            self._before(self.steps)
            return function(*arguments, **options)

        return call


@pytest.fixture
def numbered(written: Written) -> Written:
    """A log whose first stream is numbered lines, with more output than it retains."""
    write_lines(written, SMALL * 2)
    return written


def write_lines(written: Written, size: int) -> None:
    """Write numbered lines of 16 bytes."""
    first = sum(len(data) for _at, _stream, data in written.pieces) // 16
    for number in range(first, first + size // 16, 40):
        written.put(1, b"".join(b"%015d\n" % each for each in range(number, number + 40)))


@pytest.mark.parametrize("size", [640, SEGMENT, SMALL + SEGMENT], ids=["some", "a segment", "all"])
def test_end_is_whole_whenever_the_writer_goes_on(
    numbered: Written, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for moment in range(1, MAX_STEPS):
        before = len(numbered.everything(1))
        stepping = OsWithWriter(lambda step, at=moment: write_lines(numbered, size) if step == at else None)
        with monkeypatch.context() as patch:
            for module in (segments, log_search):
                patch.setattr(module, "os", stepping)
            found = numbered.log.end_of(1, 4000)
        everything = numbered.everything(1)
        end = everything.rindex(found) + len(found)
        assert len(found) == 4000
        assert before <= end <= len(everything)
        if stepping.steps < moment:
            return
    raise AssertionError("the reader makes too many steps")
