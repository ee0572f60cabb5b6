"""The bytes on their way to one client: queued, sent in as few writes as possible, and limited.

It writes to a socket that belongs to the session. It knows bytes and budgets, and no requests.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from nexus.daemon.budgets import Budgets

__all__ = ["SendBuffer"]


class SendBuffer:
    """The bytes on their way to one client.

    ``on_written`` is called after each write, ``on_lost`` once the socket can no longer be written to.
    """

    def __init__(
        self,
        budgets: Budgets,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_written: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.unsent_bytes = 0
        """Encoded and not yet sent."""
        self.progress_at = loop.time()
        """When the client last took some bytes (loop time)."""
        self.queued: list[bytes] = []
        """The messages of the next write."""
        self.flush_expected = False
        """A flush is already scheduled or certain, so ``send`` only queues."""
        self.room_lock = asyncio.Lock()
        """Held while one task waits for room, so that the others do not encode their results meanwhile: with 64
        replies of 16 MiB waiting, encoding first took 2 GiB, and this lock 65 MiB."""
        self._budgets = budgets
        self._loop = loop
        self._socket: socket.socket | None = sock
        self._fd = sock.fileno()
        self._on_written = on_written
        self._on_lost = on_lost
        self._under_way: memoryview | None = None
        self._writer_added = False
        self._room = asyncio.Event()
        self._room.set()

    def has_room(self) -> bool:
        """Whether more may be produced for this client.

        While the daemon's send budget is spent, each client gets one message at a time.
        """
        if self.unsent_bytes > self._budgets.limits.send_buffer_bytes:
            return False
        return not self.unsent_bytes or not self._budgets.send_budget_spent()

    async def send_when_room(self, encode: Callable[[], bytes]) -> None:
        """Send the result of ``encode``, which is called once this client and the daemon as a whole have room."""
        if not self.has_room() or self.room_lock.locked():
            async with self.room_lock:
                await self.wait_for_room()
                self.send(encode())
        else:
            self.send(encode())

    async def wait_until_ready(self) -> None:
        """Wait until a message sent now would not have to wait."""
        if not self.has_room() or self.room_lock.locked():
            async with self.room_lock:
                await self.wait_for_room()

    async def wait_for_room(self) -> None:
        """Wait for room or for the end of the connection. The caller holds ``room_lock``."""
        while self._socket is not None and not self.has_room():
            self._room.clear()
            await self._room.wait()

    def send(self, data: bytes) -> None:
        """Queue ``data``, even if there is no room; it is written in this turn of the loop or when the client reads.

        On a closed connection nothing happens.
        """
        if self._socket is None or not data:
            return
        self.queued.append(data)
        self.unsent_bytes += len(data)
        self._budgets.unsent_bytes += len(data)
        if not self.flush_expected:
            # All other replies of this turn of the loop leave with the same write.
            self.flush_expected = True
            self._loop.call_soon(self._flush_later)

    def _flush_later(self) -> None:
        self.flush_expected = False
        self.flush()

    def flush(self) -> None:
        """Write all queued messages, unless an earlier write is not finished."""
        if self._socket is None or self._under_way is not None or not self.queued:
            return
        data = self.queued[0] if len(self.queued) == 1 else b"".join(self.queued)
        self.queued.clear()
        self.progress_at = self._loop.time()
        self._under_way = memoryview(data)
        self._write()

    def _write(self) -> None:
        """Continue the write under way; messages that were queued meanwhile follow in the next one."""
        if self._socket is None or self._under_way is None:
            return
        try:
            sent = self._socket.send(self._under_way)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._on_lost()
            return
        if sent:
            self.unsent_bytes -= sent
            self._budgets.unsent_bytes -= sent
            self.progress_at = self._loop.time()
        if sent < len(self._under_way):
            self._under_way = self._under_way[sent:]
        elif self.queued:
            self._under_way = memoryview(b"".join(self.queued))
            self.queued.clear()
        else:
            self._under_way = None
        if (self._under_way is not None) != self._writer_added:
            self._writer_added = self._under_way is not None
            if self._writer_added:
                self._loop.add_writer(self._fd, self._write)
            else:
                self._loop.remove_writer(self._fd)
        if not self._room.is_set() and self.has_room():
            self._room.set()
        self._on_written()

    def close(self) -> None:
        """Drop all unsent bytes and stop using the socket. Tasks that wait for room continue."""
        self._loop.remove_writer(self._fd)
        self._socket = None
        self._budgets.unsent_bytes -= self.unsent_bytes
        self.unsent_bytes = 0
        self.queued.clear()
        self._under_way = None
        self._room.set()
        # Break the reference cycle with the session, which would keep its received bytes until the next collection.
        self._on_written = self._on_lost = _nothing


def _nothing() -> None:
    """The callbacks of a closed connection."""
