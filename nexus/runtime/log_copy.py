"""Reads a log as files, for a backup: a consistent prefix of each segment, also while the shim writes.

The format is described at the top of ``native/nexus-shim.c``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from nexus.runtime.segments import CHUNK_BYTES, ENTRY, LOST, MARK, list_segments, open_part

__all__ = ["segment_files"]


def segment_files(folder: Path) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    """The files of a log: name, size, content; each must be read before the next. A segment that is deleted meanwhile
    is left out.

    An entry of an index is written before its bytes, and the last one may grow: what is given of both files is what
    was in both.
    """
    for number in list_segments(folder):
        opened: list[int] = []
        try:
            try:
                opened += [open_part(folder, number, "idx"), open_part(folder, number, "log")]
            except FileNotFoundError:
                continue
            index, data = opened
            entries = os.pread(index, os.fstat(index).st_size, 0)
            entries, size = _cut(entries, os.fstat(data).st_size)
            yield f"{number}.log", size, _content(data, size)
            yield f"{number}.idx", len(entries), iter((entries,))
        finally:
            for descriptor in opened:
                os.close(descriptor)


def _cut(raw: bytes, data_bytes: int) -> tuple[bytes, int]:
    """The whole entries whose bytes are all in a data file of this size, the last one perhaps shortened; and theirs."""
    raw = raw[: len(raw) // ENTRY.size * ENTRY.size]
    total = 0
    for at in range(0, len(raw), ENTRY.size):
        time, length, stream = ENTRY.unpack_from(raw, at)
        if stream & (LOST | MARK):
            continue
        if total + length > data_bytes:
            left = data_bytes - total
            return raw[:at] + (ENTRY.pack(time, left, stream) if left else b""), data_bytes
        total += length
    return raw, total


def _content(descriptor: int, size: int) -> Iterator[bytes]:
    at = 0
    while at < size:
        data = os.pread(descriptor, min(CHUNK_BYTES, size - at), at)
        if not data:  # cut by another program
            data = bytes(min(CHUNK_BYTES, size - at))
        yield data
        at += len(data)
