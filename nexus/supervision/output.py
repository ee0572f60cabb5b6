"""The kept output of an owner of the process runtime, as the pieces that a stream sends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any, Protocol, cast

from nexus.records.processes import LogPiece, LogStream
from nexus.runtime import Log, LogCursor

__all__ = ["Followers", "OutputRequest", "read_output"]

_STREAMS = {LogStream.STDOUT: 1, LogStream.STDERR: 2}
_STREAM_NAMES = {number: stream for stream, number in _STREAMS.items()}


class OutputRequest(Protocol):
    """The fields of a command that asks for output."""

    @property
    def lines(self) -> int | None:
        """Only this many last lines."""

    @property
    def since_at(self) -> int | None:
        """Only lines that began at this time (ms) or later."""

    @property
    def stream(self) -> LogStream | None:
        """Only this stream."""

    @property
    def follow(self) -> bool:
        """Whether new output follows."""

    @property
    def cursor(self) -> str | None:
        """Only what is behind it."""

    @property
    def mark_start(self) -> bool:
        """Whether the first piece has the cursor of where the output begins, and no data."""


class Followers:
    """The open streams of the output of each record, which end when the record is deleted."""

    def __init__(self) -> None:
        self._open: dict[str, set[asyncio.Event]] = {}

    @contextlib.contextmanager
    def follow(self, id_: str, until: asyncio.Event | None) -> Iterator[asyncio.Event]:
        """Gives the event that ends a stream: ``until``, or one of its own."""
        ended = until or asyncio.Event()
        self._open.setdefault(id_, set()).add(ended)
        try:
            yield ended
        finally:
            followers = self._open.get(id_, set())
            followers.discard(ended)
            if not followers:
                self._open.pop(id_, None)

    def end(self, id_: str) -> None:
        """End all streams of a record."""
        for ended in self._open.pop(id_, ()):
            ended.set()


async def read_output(log: Log, request: OutputRequest, until: asyncio.Event) -> AsyncIterator[LogPiece]:
    """The output of an owner; with ``follow`` until ``until`` is set or the log is deleted.

    Raises:
        CursorGone: the cursor is no place of the output that is kept.
    """
    pieces = log.pieces(
        lines=request.lines,
        since=request.since_at,
        stream=None if request.stream is None else _STREAMS[request.stream],
        follow=request.follow,
        after=None if request.cursor is None else LogCursor.parse(request.cursor),
        mark_start=request.mark_start,
        until=until,
    )
    async with contextlib.aclosing(cast("AsyncGenerator[Any]", pieces)):
        async for piece in pieces:
            yield LogPiece(
                at=piece.at,
                stream=_STREAM_NAMES[piece.stream],
                data=piece.data,
                cursor=str(piece.cursor),
                continues=piece.continues,
                dropped_bytes=piece.lost,
            )
