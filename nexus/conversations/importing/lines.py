"""Reads the lines of a file with bounded memory: a line of any length is read past, and only a bounded one is given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

__all__ = ["MAX_LINE_BYTES", "Line", "read_lines"]

MAX_LINE_BYTES = 32 * 1024 * 1024
"""The longest line that is given: a message of 4 MiB and images beside it."""
_READ_BYTES = 256 * 1024


class Line(NamedTuple):
    """A line of a file."""

    offset: int
    """Where it begins."""
    data: bytes
    """Its bytes, without the end; empty where it is longer than ``MAX_LINE_BYTES``."""
    end: int
    """Where the next one begins."""
    is_whole: bool
    """Whether it has an end, and the file does not end within it."""

    @property
    def is_too_long(self) -> bool:
        """Whether its bytes are not given."""
        return not self.data and self.end - self.offset > MAX_LINE_BYTES


def read_lines(file: BinaryIO, offset: int, most: int = MAX_LINE_BYTES) -> Iterator[Line]:
    """Every line from an offset on; the last one may have no end yet.

    Raises:
        OSError: the file cannot be read.
    """
    file.seek(offset)
    start = offset
    pending: list[bytes] = []
    size = 0
    while chunk := file.read(_READ_BYTES):
        begin = 0
        while (at := chunk.find(b"\n", begin)) >= 0:
            size += at - begin
            if size <= most:
                pending.append(chunk[begin:at])
                yield Line(start, b"".join(pending), start + size + 1, True)
            else:
                yield Line(start, b"", start + size + 1, True)
            start += size + 1
            pending.clear()
            size, begin = 0, at + 1
        rest = len(chunk) - begin
        size += rest
        if size <= most:
            pending.append(chunk[begin:])
        else:
            pending.clear()
    if size:
        yield Line(start, b"".join(pending) if size <= most else b"", start + size, False)
