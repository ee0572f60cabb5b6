"""Copies the output of a run from its host into the log here, where it is read as that of any run.

The shim there keeps segments as the shim here does; the sh runner two files. What was copied is told by the totals of
the log here, so that a daemon that was killed copies nothing twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nexus.remote.session import Gone, Session
from nexus.remote.state import RunState
from nexus.runtime.shim import LogWriter

__all__ = ["OutputCopy"]

_ENTRY = struct.Struct("=QII")
"""An entry of an index: a time or total, a length, and a stream with its marks (``native/nexus-shim.c``)."""
_LOST, _MARK = 0x80, 0x40
_CHUNK_BYTES = 256 * 1024
"""What is copied of one run before the next one's turn."""
_INDEX_BYTES = 64 * 1024
_PLAIN = {"out": 1, "err": 2}


class _Piece(NamedTuple):
    stream: int
    data: bytes
    lost: int = 0


class OutputCopy:
    """The copy of one run. ``base`` are the totals of both streams in the log here when the run began.

    ``is_resumed`` says that an earlier daemon began it.
    """

    def __init__(self, folder: Path, bound: int, base: Sequence[int] | None, *, is_resumed: bool) -> None:
        """Open the log here, and hold its lock. Blocks.

        Raises:
            OSError: it cannot be opened, or another run still holds it.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._writer = LogWriter(self._folder, bound)
        except BaseException:
            os.close(self._folder)
            raise
        if is_resumed:
            self._writer.run_begins = False
        totals = self._writer.total[1:]
        self.base = tuple(totals if base is None else base)
        self._have = [0, *(total - before for total, before in zip(totals, self.base, strict=True))]
        """By stream, how much of the run's output the log here has had, what was lost included."""
        self._seen = [0, 0, 0]
        """By stream, how far the output there was followed."""
        self._writing = threading.Lock()
        """Held while a thread writes: descriptors that are closed meanwhile may be those of other files."""
        self._segment = -1
        self._index_at = self._data_at = self._partial = 0

    async def copy(self, session: Session, run_id: str, state: RunState) -> bool:
        """Copy some of what there is; returns whether there may be more of it.

        Raises:
            HostUnreachable: the session is over.
        """
        pieces: list[_Piece] = []
        try:
            if any(name in state.sizes for name in _PLAIN):
                return await self._copy_plain(session, run_id, state, pieces)
            return await self._copy_segments(session, run_id, state, pieces)
        except Gone:
            return False  # the oldest segment was dropped meanwhile; the next look says so
        finally:
            if pieces:
                await asyncio.to_thread(self._append, pieces)

    async def finish(self) -> None:
        """Write what is left, to the disk, and release the log."""
        await asyncio.to_thread(self._finish)

    def close(self) -> None:
        """Release the log. What a thread writes at this moment is completed first."""
        with self._writing:
            self._close()

    def _close(self) -> None:
        if self._folder >= 0:
            self._writer.close()
            os.close(self._folder)
            self._folder = -1

    def _finish(self) -> None:
        with self._writing:
            if self._folder < 0:
                return
            with contextlib.suppress(OSError):
                self._writer.write_last_marks()
                for descriptor in (self._writer.data, self._writer.index):
                    if descriptor >= 0:
                        os.fsync(descriptor)
            self._close()

    async def _copy_plain(self, session: Session, run_id: str, state: RunState, pieces: list[_Piece]) -> bool:
        more = False
        for name, stream in _PLAIN.items():
            self._seen[stream] = max(self._seen[stream], self._have[stream])
            left = state.sizes.get(name, 0) - self._seen[stream]
            if left > 0:
                data = await session.request("tail", run_id, name, self._seen[stream], min(left, _CHUNK_BYTES))
                self._add(pieces, stream, data)
                more = more or left > _CHUNK_BYTES
        return more

    async def _copy_segments(self, session: Session, run_id: str, state: RunState, pieces: list[_Piece]) -> bool:
        names = [name for name in state.sizes if name.startswith("log/") and name.endswith(".idx")]
        numbers = sorted(int(name[4:-4]) for name in names)
        later = [number for number in numbers if number > self._segment]
        if self._segment in numbers and await self._copy_segment(session, run_id, state, pieces):
            return True
        if not later:
            return False
        # The next one exists once this one is full. Where this one was dropped, the next one's marks say what is lost.
        self._segment = later[0]
        self._index_at = self._data_at = self._partial = 0
        return True

    async def _copy_segment(self, session: Session, run_id: str, state: RunState, pieces: list[_Piece]) -> bool:
        """Copy some of the present segment; returns whether there was anything."""
        name = f"log/{self._segment}"
        index_left = min(state.sizes[f"{name}.idx"] // _ENTRY.size * _ENTRY.size - self._index_at, _INDEX_BYTES)
        data_left = min(state.sizes.get(f"{name}.log", 0) - self._data_at, _CHUNK_BYTES)
        is_new = index_left > _ENTRY.size or data_left > 0 or (index_left == _ENTRY.size and not self._partial)
        if index_left <= 0 or not is_new:
            return False
        index = await session.request("tail", run_id, f"{name}.idx", self._index_at, index_left)
        data = b""
        if data_left > 0:
            data = await session.request("tail", run_id, f"{name}.log", self._data_at, data_left)
        before = (self._index_at, self._partial)
        self._parse(index, data, pieces)
        return (self._index_at, self._partial) != before

    def _parse(self, index: bytes, data: bytes, pieces: list[_Piece]) -> None:
        at = 0
        for offset in range(0, len(index), _ENTRY.size):
            total, length, marks = _ENTRY.unpack_from(index, offset)
            stream = marks & 3
            if stream not in (1, 2):
                return  # the index has become shorter
            if marks & _MARK:
                if total > self._seen[stream]:  # the segments before were deleted before they could be copied
                    self._add(pieces, stream, b"", total - self._seen[stream])
            elif marks & _LOST:
                self._add(pieces, stream, b"", length)
            else:
                some = data[at : at + length - self._partial]
                self._add(pieces, stream, some)
                at += len(some)
                self._data_at += len(some)
                self._partial += len(some)
                # The last entry may still grow.
                if self._partial < length or offset + _ENTRY.size == len(index):
                    return
            self._partial = 0
            self._index_at += _ENTRY.size

    def _add(self, pieces: list[_Piece], stream: int, data: bytes, lost: int = 0) -> None:
        """Follow the output by a piece, of which the log here gets what it has not had."""
        size = lost or len(data)
        known = max(self._have[stream] - self._seen[stream], 0)
        self._seen[stream] += size
        self._have[stream] = max(self._have[stream], self._seen[stream])
        if known < size:
            pieces.append(_Piece(stream, data[known:], max(lost - known, 0)))

    def _append(self, pieces: list[_Piece]) -> None:
        with self._writing:
            for stream, data, lost in pieces if self._folder >= 0 else ():
                if lost:
                    self._writer.lost[stream] += lost
                else:
                    self._writer.append(stream, data)
