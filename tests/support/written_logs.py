"""Logs that a test writes with the shim's own writer, at times that it sets."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nexus.runtime import Log, LogPiece
from nexus.runtime.log_lines import MAX_CUT_BYTES, MAX_PIECE_BYTES
from nexus.runtime.shim import LogWriter as Writer

__all__ = ["CLOCK", "SMALL", "Truth", "Written", "assert_true", "writer_clock"]

SMALL = 64 * 1024
"""The bound of a log in most tests: segments of 8 KiB."""


class Written:
    """A log that a test writes at times that it sets, with a record of all that was ever written."""

    def __init__(self, folder: Path, bound: int = SMALL) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.bound = bound
        self.log = Log(folder)
        self.pieces: list[tuple[int, int, bytes]] = []
        self.runs: set[int] = set()
        """The numbers of the pieces that are the first of a run."""
        self.at = 1_000_000
        self._fd = os.open(folder, os.O_RDONLY)
        self.reopen()

    def reopen(self) -> None:
        """Open the log with a new writer, as the next run does."""
        if hasattr(self, "writer"):
            self.writer.write_last_marks()
            self.writer.close()
        self.runs.add(len(self.pieces))
        self.writer = Writer(self._fd, self.bound)

    def put(self, stream: int, data: bytes, *, later_ms: int = 10) -> None:
        self.at += later_ms
        self.pieces.append((self.at, stream, data))
        self.writer.append(stream, data)

    def lose(self, stream: int, data: bytes) -> None:
        """Lose output, as on a full disk."""
        self.at += 10
        self.pieces.append((self.at, stream, data))
        self.writer._lose(stream, memoryview(data))

    def close(self) -> None:
        self.writer.close()
        os.close(self._fd)

    def everything(self, stream: int) -> bytes:
        return b"".join(data for _at, which, data in self.pieces if which == stream)


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

    def is_far_in_line(self, at: int) -> bool:
        """Whether so much of a line is before a place that its rest after a gap is given."""
        return at >= MAX_CUT_BYTES and b"\n" not in self.data[at - MAX_CUT_BYTES : at]


def assert_true(pieces: list[LogPiece], written: Written, starts: dict[int, int], ends: dict[int, int]) -> None:
    """Assert that data and gaps together are the output between these offsets, and join no halves of lines."""
    for stream, start in starts.items():
        truth = Truth(written, stream)
        at, unfinished, after_gap = start, False, False
        for piece in pieces:
            if piece.stream != stream:
                continue
            if piece.lost:
                assert not piece.data
                at, unfinished, after_gap = at + piece.lost, False, True
            elif piece.data:
                assert len(piece.data) <= MAX_PIECE_BYTES
                assert truth.data[at : at + len(piece.data)] == piece.data
                assert not any(at < run < at + len(piece.data) for run in truth.runs)
                assert piece.continues == (unfinished and at not in truth.runs)
                assert piece.continues or truth.begins_line(at) or (after_gap and truth.is_far_in_line(at))
                at += len(piece.data)
                after_gap = False
                unfinished = not piece.data.endswith(b"\n")
            assert piece.cursor.offsets[stream - 1] == at
        assert at == ends[stream]


CLOCK: dict[str, Written] = {}
"""The log whose ``at`` is the present time of the writer's clock."""


@contextlib.contextmanager
def writer_clock() -> Iterator[None]:
    """Replace the writer's clock by one that the tests advance."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nexus.runtime.shim._now_ms", lambda: CLOCK["log"].at if CLOCK else 1)
        yield
