"""Reads logs while their writer goes round them: before any step of the reader, all that it saw may be deleted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.runtimes import collect
from support.written_logs import CLOCK, SMALL, Truth, Written, assert_true

from nexus.runtime import CursorGone, Log, LogPiece, log_search, segments

pytestmark = pytest.mark.usefixtures("clock")

STEPS = ("access", "fstat", "listdir", "lseek", "open", "pread", "stat")
"""The functions of ``os`` by which a reader looks at a log."""
MAX_STEPS = 1000
LINES_A_WRITE = 40
SEGMENT = SMALL // 8


class OsWithWriter:
    """``os`` for a reader, with a function that runs before each step and is given the number of the step."""

    def __init__(self, before: Callable[[int], None]) -> None:
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


@contextlib.contextmanager
def writing_before(before: Callable[[int], None]) -> Iterator[OsWithWriter]:
    """Run a function before each step of a reader."""
    with pytest.MonkeyPatch.context() as patch:
        stepping = OsWithWriter(before)
        for module in (segments, log_search):
            patch.setattr(module, "os", stepping)
        yield stepping


class Rounds:
    """A log of lines in both streams."""

    def __init__(self, folder: Path) -> None:
        self.written = CLOCK["log"] = Written(folder)
        self.log = self.written.log
        self.lines = 0

    def write(self, size: int) -> None:
        """Write at least so many bytes."""
        until = sum(self.sizes().values()) + size
        while sum(self.sizes().values()) < until:
            numbers = range(self.lines, self.lines + LINES_A_WRITE)
            for stream in (1, 2):
                self.written.put(stream, b"".join(b"line %08d of %d\n" % (number, stream) for number in numbers))
            self.lines += LINES_A_WRITE

    def sizes(self) -> dict[int, int]:
        """How much of each stream was written."""
        return {stream: self.written.writer.total[stream] for stream in (1, 2)}

    def close(self) -> None:
        CLOCK.clear()
        self.written.close()


def read(rounds: Rounds, options: dict[str, Any]) -> list[LogPiece]:
    async def scenario() -> list[LogPiece]:
        until = asyncio.Event()
        until.set()
        return await collect(rounds.log, mark_start=True, until=until, **options)

    return asyncio.run(scenario())


def assert_complete(rounds: Rounds, options: dict[str, Any], pieces: list[LogPiece], sizes: dict[int, int]) -> None:
    """Assert that pieces are what was asked for, up to an end that the log had since it had ``sizes``."""
    starts, ends = (
        {stream: piece.cursor.offsets[stream - 1] for stream in (1, 2) if options.get("stream") in (None, stream)}
        for piece in (pieces[0], pieces[-1])
    )
    within_line = {stream for stream, start in starts.items() if not Truth(rounds.written, stream).begins_line(start)}
    if "after" in options:
        assert starts == dict(zip((1, 2), options["after"].offsets, strict=True))
    elif options.get("lines") == 0 and not options.get("follow"):
        assert starts == ends
    else:
        # One of the streams may have none of the last lines.
        enough = any if "lines" in options else all
        assert enough(starts[stream] < end for stream, end in ends.items()) or options.get("lines") == 0
    assert_true(pieces, rounds.written, {s: start for s, start in starts.items() if s not in within_line}, ends)
    assert all(sizes[stream] <= end <= rounds.sizes()[stream] for stream, end in ends.items())


@pytest.mark.parametrize(
    ("size", "every"),
    [(SEGMENT, 0), (SMALL + SEGMENT, 0), (SEGMENT, 3), (SMALL + SEGMENT, 7)],
    ids=["a segment", "all", "a segment again and again", "all again and again"],
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stream": 2},
        {"lines": 0},
        {"lines": 1},
        {"lines": 100},
        {"since": 1},
        {"after": "the first line"},
        {"follow": True},
        {"follow": True, "lines": 0},
        {"follow": True, "after": "the first line"},
    ],
    ids=str,
)
def test_log_is_read_or_its_gaps_are_marked_whenever_the_writer_deletes_it(
    root: Path, options: dict[str, Any], size: int, every: int
) -> None:
    moments = range(1, every + 1) if every else range(1, MAX_STEPS)
    for moment in moments:
        rounds = Rounds(root / str(moment))
        rounds.write(1000)
        chosen = dict(options)
        if "after" in options:
            chosen["after"] = read(rounds, {})[-1].cursor
            rounds.write(1000)
        sizes = rounds.sizes()

        def write(step: int, moment: int = moment, rounds: Rounds = rounds) -> None:
            if step == moment or (every and step % every == moment % every):
                rounds.write(size)

        with writing_before(write) as reader:
            pieces = read(rounds, chosen)
        assert_complete(rounds, chosen, pieces, sizes)
        rounds.close()
        if reader.steps < moment:
            return
    assert every, "the reader takes no more steps than that"


@pytest.mark.parametrize("deletion", ["folder", "files", "owner"])
@pytest.mark.parametrize("options", [{}, {"lines": 100}, {"since": 1}, {"after": ""}, {"follow": True}], ids=str)
def test_reading_ends_whenever_the_whole_log_is_deleted(root: Path, options: dict[str, Any], deletion: str) -> None:
    for moment in range(1, MAX_STEPS):
        rounds = Rounds(root / str(moment) / "log")
        rounds.write(2 * SEGMENT)
        chosen = dict(options)
        if "after" in options:
            chosen["after"] = read(rounds, {})[-1].cursor

        def delete(step: int, moment: int = moment, rounds: Rounds = rounds) -> None:
            if step == moment:
                folder = rounds.log.folder
                if deletion == "files":
                    for path in folder.iterdir():
                        path.unlink()
                else:
                    shutil.rmtree(folder if deletion == "folder" else folder.parent)

        with writing_before(delete) as reader, contextlib.suppress(CursorGone if "after" in options else ()):
            read(rounds, chosen)
        rounds.close()
        if reader.steps < moment:
            return
    pytest.fail("the reader takes no more steps than that")


def test_tail_never_fails_whenever_the_writer_deletes_the_log(root: Path) -> None:
    for moment in range(1, MAX_STEPS):
        rounds = Rounds(root / str(moment))
        rounds.write(2 * SEGMENT)

        def write(step: int, moment: int = moment, rounds: Rounds = rounds) -> None:
            if step == moment:
                rounds.write(SMALL + SEGMENT)

        with writing_before(write) as reader:
            tail = rounds.log.tail(3)
        # The log may have ended within the last line of each stream.
        written = b"\n".join(rounds.written.everything(stream) for stream in (1, 2))
        assert all(line in written for line in tail)
        rounds.close()
        if reader.steps < moment:
            assert len(tail) == 3
            return
    pytest.fail("the reader takes no more steps than that")


@pytest.mark.parametrize("options", [{}, {"follow": True}], ids=str)
def test_reading_leaves_no_descriptor(root: Path, options: dict[str, Any]) -> None:
    """The rest of a line is yielded at the end, with a cursor, which names the log."""
    rounds = Rounds(root / "log")
    rounds.written.put(1, b"begun")
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    assert [piece.data for piece in read(rounds, options)] == [b"", b"begun"]
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before
    rounds.close()


def test_follower_of_a_log_without_output_ends_behind_a_fast_writer(root: Path) -> None:
    for moment in range(1, MAX_STEPS):
        rounds = Rounds(root / str(moment))

        def write(step: int, moment: int = moment, rounds: Rounds = rounds) -> None:
            if step >= moment and step % 3 == 0:
                rounds.write(SEGMENT)

        with writing_before(write) as reader:
            read(rounds, {"follow": True})
        rounds.close()
        if reader.steps < moment:
            return
    pytest.fail("the reader takes no more steps than that")


def test_follower_that_began_before_the_log_marks_all_that_it_missed(root: Path) -> None:
    async def scenario() -> None:
        log = Log(root / "log")
        until = asyncio.Event()
        follower = asyncio.create_task(collect(log, follow=True, mark_start=True, until=until))
        await asyncio.sleep(0)
        rounds = Rounds(log.folder)
        rounds.write(2 * SMALL)
        until.set()
        assert_true(await follower, rounds.written, {1: 0, 2: 0}, rounds.sizes())
        rounds.close()

    asyncio.run(scenario())
