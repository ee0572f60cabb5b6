"""Turns the chunks of a log into pieces of whole lines, and marks what is missing between them.

It reads no file. A line is never joined from halves: of two streams, of two runs, or around bytes that are gone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from nexus.runtime.segments import STREAMS, Chunk

__all__ = ["MAX_CUT_BYTES", "MAX_PIECE_BYTES", "NO_OUTPUT", "CursorGone", "LogCursor", "LineSplitter", "LogPiece"]

MAX_PIECE_BYTES = 64 * 1024
MAX_CUT_BYTES = 256 * 1024
"""At most so much is left out of a line that a gap cuts: of output without line ends, the rest is worth more."""
_MAX_LINE_BYTES = 1024 * 1024
"""A longer line is given before its end has come."""
_MAX_HELD_BYTES = 256 * 1024
"""How much output of one stream waits for the end of a long line of the other."""
_MAX_UNMARKED_BYTES = 1024 * 1024
"""A gap of this size is marked even if the line that it cut has not ended."""
_CURSOR = re.compile(r"([0-9a-f]{1,16})\.([0-9]{1,19})([-+~]?)\.([0-9]{1,19})([-+~]?)")


class CursorGone(Exception):
    """The log that a cursor is a place of was deleted, or the cursor is of another log."""


class LogCursor(NamedTuple):
    """A place in the output of one owner, over all its runs, that stays valid while old output is deleted.

    ``log`` tells the log from one that took its place. ``offsets`` is how many bytes of each stream are before the
    place, and ``within`` whether these end within a line: ``+`` if its first part was given, and else its rest is left
    out, with a gap for it (``-``) or as what is before the beginning (``~``).
    """

    log: int
    offsets: tuple[int, int]
    within: tuple[str, str]

    def __str__(self) -> str:
        places = (f"{offset}{state}" for offset, state in zip(self.offsets, self.within, strict=True))
        return ".".join((f"{self.log:x}", *places))

    @classmethod
    def parse(cls, text: str) -> LogCursor:
        """The cursor of which this is the text.

        Raises:
            CursorGone: it is the text of no cursor.
        """
        found = _CURSOR.fullmatch(text)
        if found is None:
            raise CursorGone
        return cls(int(found[1], 16), (int(found[2]), int(found[4])), (found[3], found[5]))


NO_OUTPUT = LogCursor(0, (0, 0), ("", ""))
"""The place before all output of a log that does not exist yet."""


class LogPiece(NamedTuple):
    """Output of one stream (1 is standard output, 2 is standard error).

    ``data`` is at most 64 KiB and ends at the end of a line, unless the line is longer, was silent while it was
    followed, or was never ended. ``continues``: it continues the line that the stream's piece before left unfinished.
    ``at`` (ms) is when its first byte was written. A piece with ``lost`` has no data: so many bytes of the stream are
    missing here, because they were deleted before they were read or the disk was full, with the rest of the lines that
    this cut, or the first 256 KiB of it. ``cursor`` is the place behind the piece.
    """

    at: int
    stream: int
    data: bytes
    lost: int = 0
    continues: bool = False
    cursor: LogCursor = NO_OUTPUT


class _Stream:
    """What has been read of a stream and not given yet: a gap, and behind it a part of a line."""

    def __init__(self, offset: int | None, within: str) -> None:
        self.read = offset
        """The offset of the next byte to take; None if it is the first that comes."""
        self.given = (offset or 0, within)
        """The place behind the last piece that was given, as in a cursor."""
        self.at = 0
        self.line = bytearray()
        self.gap = 0
        self.since_s = 0.0
        self.continues = within == "+"
        """Whether the next piece continues the line of the last one."""
        self.skips = within in ("-", "~")
        """Whether bytes are left out up to the end of a line."""
        self.counts = within == "-"
        """Whether those are part of a gap; otherwise they are the rest of a line from before the beginning."""
        self.skipped = 0
        """How much of such a line was left out since its gap."""


class LineSplitter:
    """Turns chunks into pieces.

    ``offsets`` says where each stream begins, None for the first byte that comes, and ``within`` how the line before it
    was left; both for the streams that are wanted. The cursor keeps ``start`` for the other ones. ``log`` gives the
    log's id.
    """

    def __init__(
        self,
        offsets: Mapping[int, int | None],
        within: Mapping[int, str],
        log: Callable[[], int],
        start: LogCursor = NO_OUTPUT,
    ) -> None:
        self._streams = {number: _Stream(offset, within.get(number, "")) for number, offset in offsets.items()}
        self._log = log
        self._start = start
        self._at = 0
        """The newest time that was seen."""
        self._long = 0
        """The stream of which a part of a long line was given; pieces of the other one wait for the line's end."""
        self._held: list[tuple[LogPiece, str]] = []
        self._held_bytes = 0

    def cursor(self) -> LogCursor:
        """The place behind all pieces that were given."""
        places = [
            self._streams[number].given if number in self._streams else (offset, within)
            for number, offset, within in zip(STREAMS, self._start.offsets, self._start.within, strict=True)
        ]
        (out, out_within), (err, err_within) = places
        return LogCursor(self._log(), (out, err), (out_within, err_within))

    def is_waiting(self) -> bool:
        """Whether something was read that has not been given yet."""
        return bool(self._held) or any(stream.line or stream.gap for stream in self._streams.values())

    def has_reached(self, limit: Mapping[int, int]) -> bool:
        """Whether everything before these offsets was read."""
        return all(stream.read is not None and stream.read >= limit[number] for number, stream in self._streams.items())

    def feed(self, chunk: Chunk, limit: Mapping[int, int] | None = None) -> Iterator[LogPiece]:
        """Add a chunk, up to the offset in ``limit``; yields the pieces that are complete now."""
        self._at = max(self._at, chunk.at)
        stream = self._streams.get(chunk.stream)
        if stream is None:
            return
        if chunk.anew:
            yield from self.flush()
            self._streams[chunk.stream] = stream = _Stream(chunk.offset, "~" if chunk.within_line else "")
        if stream.read is None:
            stream.read, stream.given = chunk.offset, (chunk.offset, stream.given[1])
        end = chunk.offset + chunk.lost + len(chunk.data)
        if limit is not None:
            end = min(end, limit[chunk.stream])
        missing = min(chunk.offset, end) - stream.read
        if missing > 0:
            self._lose(stream, missing, chunk.within_line or bool(chunk.data))
        if chunk.run_begins and chunk.offset == stream.read:
            yield from self._begin_run(chunk.stream, stream)
        if end > stream.read:
            size = end - stream.read
            if chunk.lost:
                self._lose(stream, size, chunk.within_line)
            else:
                stream.read = end
                begin = end - size - chunk.offset
                yield from self._add(chunk.stream, stream, chunk.at, chunk.data[begin : begin + size])
        if stream.gap >= _MAX_UNMARKED_BYTES:
            yield from self._mark_gap(chunk.stream, stream)

    def finish(self, limit: Mapping[int, int] | None) -> Iterator[LogPiece]:
        """Yield all that is left. What is missing up to ``limit`` is gone."""
        for number, stream in self._streams.items():
            if limit is not None and stream.read is not None and stream.read < limit[number]:
                self._lose(stream, limit[number] - stream.read, within_line=False)
        yield from self.flush()

    def flush(self, older_s: float = 0) -> Iterator[LogPiece]:
        """Yield gaps and unterminated lines, the older first, whose streams were silent for at least ``older_s``."""
        until_s = time.monotonic() - older_s
        silent = [number for number, stream in self._streams.items() if stream.since_s <= until_s]
        for number in sorted(silent, key=lambda each: self._streams[each].at):
            stream = self._streams[number]
            yield from self._mark_gap(number, stream)
            yield from self._give_line(number, stream)
        if self._long in silent:
            yield from self._release()

    def _add(self, number: int, stream: _Stream, at: int, data: bytes) -> Iterator[LogPiece]:
        stream.since_s = time.monotonic()
        if stream.skips:
            cut = data.find(b"\n") + 1
            size = cut or len(data)
            stream.skips = not cut
            if stream.counts and stream.skipped + size > MAX_CUT_BYTES:
                size, stream.skips = MAX_CUT_BYTES - stream.skipped, False
            stream.skipped += size
            if stream.counts:
                stream.gap += size
            else:
                stream.given = (stream.given[0] + size, "" if cut else "~")
            data = data[size:]
        if not data:
            return
        yield from self._mark_gap(number, stream, at)
        cut = data.rfind(b"\n") + 1
        if cut:
            begun_at, begun = stream.at if stream.line else at, len(stream.line)
            stream.line += data[:cut]
            whole, stream.line = bytes(stream.line), bytearray()
            yield from self._give_pieces(stream, number, whole, begun_at, begun, at)
        if cut < len(data):
            if not stream.line:
                stream.at = at
            stream.line += data[cut:]
        if len(stream.line) >= _MAX_LINE_BYTES:
            yield from self._give_line(number, stream)

    def _give_pieces(
        self, stream: _Stream, number: int, data: bytes, begun_at: int, begun: int, at: int
    ) -> Iterator[LogPiece]:
        """Give bytes, of which the first ``begun`` came at ``begun_at`` and the others at ``at``."""
        first = 0
        while first < len(data):
            end = data.rfind(b"\n", first, first + MAX_PIECE_BYTES) + 1 or first + MAX_PIECE_BYTES
            yield from self._give(stream, LogPiece(begun_at if first < begun else at, number, data[first:end]))
            first = end

    def _lose(self, stream: _Stream, size: int, within_line: bool) -> None:
        """Note that bytes are missing; the line that they cut is left out on both sides."""
        stream.since_s = time.monotonic()
        stream.read = (stream.read or 0) + size
        stream.gap += size + len(stream.line)
        stream.line = bytearray()
        stream.skips, stream.counts, stream.skipped = within_line, True, 0

    def _begin_run(self, number: int, stream: _Stream) -> Iterator[LogPiece]:
        """End the line of the run before."""
        yield from self._mark_gap(number, stream)
        yield from self._give_line(number, stream)
        stream.continues = stream.skips = False
        if self._long == number:
            yield from self._release()

    def _mark_gap(self, number: int, stream: _Stream, at: int = 0) -> Iterator[LogPiece]:
        if stream.gap:
            size, stream.gap = stream.gap, 0
            yield from self._give(stream, LogPiece(at or self._at, number, b"", size))

    def _give_line(self, number: int, stream: _Stream) -> Iterator[LogPiece]:
        if stream.line:
            data, stream.line = bytes(stream.line), bytearray()
            yield from self._give_pieces(stream, number, data, stream.at, len(data), stream.at)

    def _give(self, stream: _Stream, piece: LogPiece) -> Iterator[LogPiece]:
        """Yield a piece, or hold it back while a long line of the other stream is given."""
        piece = piece._replace(continues=stream.continues and not piece.lost)
        stream.continues = _is_unfinished(piece)
        within = "+" if stream.continues else "-" if piece.lost and stream.skips else ""
        if self._long not in (0, piece.stream):
            self._held.append((piece, within))
            self._held_bytes += len(piece.data)
            if self._held_bytes >= _MAX_HELD_BYTES:
                yield from self._release()
            return
        yield self._placed(piece, within)
        if len(piece.data) == MAX_PIECE_BYTES and _is_unfinished(piece):
            self._long = piece.stream
        elif self._long:
            yield from self._release()

    def _release(self) -> Iterator[LogPiece]:
        """Yield the pieces that were held back."""
        held, self._held, self._held_bytes, self._long = self._held, [], 0, 0
        for piece, within in held:
            yield self._placed(piece, within)
        if held and len(held[-1][0].data) == MAX_PIECE_BYTES and _is_unfinished(held[-1][0]):
            self._long = held[-1][0].stream

    def _placed(self, piece: LogPiece, within: str) -> LogPiece:
        stream = self._streams[piece.stream]
        stream.given = (stream.given[0] + len(piece.data) + piece.lost, within)
        return piece._replace(cursor=self.cursor())


def _is_unfinished(piece: LogPiece) -> bool:
    return bool(piece.data) and not piece.data.endswith(b"\n")
