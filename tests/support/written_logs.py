"""Logs that a test writes with the shim's own writer, at times that it sets."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nexus.runtime import Log
from nexus.runtime.shim import _LogWriter as Writer

__all__ = ["CLOCK", "SMALL", "Written", "writer_clock"]

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
            self.writer._close()
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
        self.writer._close()
        os.close(self._fd)

    def everything(self, stream: int) -> bytes:
        return b"".join(data for _at, which, data in self.pieces if which == stream)


CLOCK: dict[str, Written] = {}
"""The log whose ``at`` is the present time of the writer's clock."""


@contextlib.contextmanager
def writer_clock() -> Iterator[None]:
    """Replace the writer's clock by one that the tests advance."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nexus.runtime.shim._now_ms", lambda: CLOCK["log"].at if CLOCK else 1)
        yield
