"""What handlers of streams share: following a source until it ends or the daemon stops, and progress of long work.

It knows the stream of ``nexus.capability`` and nothing of what is sent on it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar

from nexus_protocol import Unavailable

from nexus.capability import Stream

__all__ = ["Following", "daemon_stopping", "send_progress"]

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_LAST_ITEMS_S = 0.1
"""How long a source may still take for items when the daemon was already stopping as they were asked for."""


def daemon_stopping(hint: str, details: dict[str, Any] | None = None) -> Unavailable:
    """The error that ends a stream because the daemon stops. ``hint`` says how to continue later."""
    return Unavailable("the daemon is stopping", hint=hint, details=details)


class Following(Generic[ItemT]):
    """Follow a source on ``stream`` until it ends, the client cancels, or the daemon stops.

    ``stopping`` makes the error that ends the stream when the daemon stops; see ``daemon_stopping``. The client's
    Cancel arrives as ``asyncio.CancelledError`` at any await, as in every handler.

    There are two ways to use it. A source that is an async iterator is sent with ``send_all``. A source that is state,
    such as a table, is read again after each notification (level-triggered; notifications carry nothing)::

        following = Following(stream, stopping)
        unsubscribe = subscribe(following.notify)
        try:
            while True:
                await following.ready()
                ...  # read the state, send what is new on the stream, return at its end
                following.check_draining()
                await following.wait()
        finally:
            unsubscribe()
    """

    def __init__(self, stream: Stream[ItemT], stopping: Callable[[], Unavailable]) -> None:
        self._stream = stream
        self._stopping = stopping
        self._wake = asyncio.Event()
        self._waiting: asyncio.Timeout | None = None
        """Set while ``send_all`` waits for the next item, so that the daemon's stop can interrupt it."""
        self._ends_at: float | None = None
        """Set once the daemon stops: until when ``send_all`` waits for items (loop time)."""
        stream.on_draining(self._on_draining)

    def _on_draining(self) -> None:
        self._wake.set()
        if self._waiting is not None:
            self._ends_at = asyncio.get_running_loop().time()
            self._waiting.reschedule(self._ends_at)

    def notify(self) -> None:
        """End the present ``wait``, or else the next one. To be called in the event loop."""
        self._wake.set()

    async def ready(self) -> None:
        """Wait until the client has room, then forget all notifications: the caller reads the state next."""
        await self._stream.ready()
        self._wake.clear()

    def check_draining(self) -> None:
        """Raise the error that ends the stream if the daemon is stopping."""
        if self._stream.draining:
            raise self._stopping()

    async def wait(self, timeout_s: float | None = None) -> None:
        """Wait until ``notify`` is called, the daemon begins to stop, or the time is over. None: no limit."""
        if self._stream.draining:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()

    async def send_all(self, items: AsyncIterator[ItemT]) -> None:
        """Send all items, taking the next one only when the client has room; then, or on any error, close the iterator.

        When the daemon begins to stop while the source is waited for, that wait ends at once. Otherwise the source has
        0.1 s more, so that a short answer that was asked for just before is still complete.

        Raises:
            Unavailable: of ``stopping``; the daemon stops and ``items`` has not ended.
        """
        try:
            while True:
                await self._stream.ready()
                if self._ends_at is None and self._stream.draining:
                    self._ends_at = asyncio.get_running_loop().time() + _LAST_ITEMS_S
                try:
                    async with asyncio.timeout_at(self._ends_at) as self._waiting:
                        item = await anext(items)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    if self._waiting is None or not self._waiting.expired():
                        raise  # the source's own
                    raise self._stopping() from None
                finally:
                    self._waiting = None
                await self._stream.send(item)
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()


async def send_progress(
    stream: Stream[ItemT], work: Callable[[Callable[[ItemT], None]], Awaitable[ResultT]]
) -> ResultT:
    """Do ``work`` and send the items that it reports; return its result once all are sent.

    ``work`` is called with a function that takes an item, never waits, and is called in the event loop. While the
    client does not read, only the newest item is kept. ``work`` runs in a task of its own, which is cancelled and
    awaited if the request ends first.

    Raises:
        Exception: the one that ``work`` raised.
    """
    newest: list[ItemT] = []
    wake = asyncio.Event()

    def report(item: ItemT) -> None:
        newest[:] = [item]
        wake.set()

    task = asyncio.ensure_future(work(report))
    task.add_done_callback(lambda _task: wake.set())
    try:
        while True:
            await wake.wait()
            wake.clear()
            while newest:
                await stream.send(newest.pop())
            if task.done():
                return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
