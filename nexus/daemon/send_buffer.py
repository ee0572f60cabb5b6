"""What goes out on one client's connection: queued, sent with as few writes as there can be, and within the limits.

It writes to a socket that belongs to the session. It knows bytes, and nothing of requests.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nexus.daemon.server import Server

__all__ = ["SendBuffer"]


class SendBuffer:
    """The bytes on their way to one client.

    ``on_written`` is called after each write, ``on_lost`` when the socket takes no more, ever.
    """

    def __init__(
        self, server: Server, sock: socket.socket, on_written: Callable[[], None], on_lost: Callable[[], None]
    ) -> None:
        self.unsent_bytes = 0
        """Encoded and not yet sent."""
        self.progress_at = server.loop.time()
        """When the client last took something (loop time)."""
        self.queued: list[bytes] = []
        """What goes out with the next write."""
        self.flush_expected = False
        """A flush is certain to come, so what is sent only needs to be queued."""
        self.room_lock = asyncio.Lock()
        """Held by whoever waits for room, so that what waits is not encoded and takes no memory twice."""
        self._server = server
        self._loop = server.loop
        self._socket: socket.socket | None = sock
        self._fd = sock.fileno()
        self._on_written = on_written
        self._on_lost = on_lost
        self._under_way: memoryview | None = None
        self._writer_added = False
        self._room = asyncio.Event()
        self._room.set()

    def has_room(self) -> bool:
        """Whether more may be produced for this client; while the daemon's budget is spent, one thing at a time."""
        if self.unsent_bytes > self._server.limits.send_buffer_bytes:
            return False
        return not self.unsent_bytes or not self._server.send_budget_spent()

    async def send_when_room(self, encode: Callable[[], bytes]) -> None:
        """Send what ``encode`` makes; it is called once the client, and the daemon as a whole, have room for it."""
        if not self.has_room() or self.room_lock.locked():
            async with self.room_lock:
                await self.wait_for_room()
                self.send(encode())
        else:
            self.send(encode())

    async def wait_until_ready(self) -> None:
        """Wait until something sent now would not have to wait."""
        if not self.has_room() or self.room_lock.locked():
            async with self.room_lock:
                await self.wait_for_room()

    async def wait_for_room(self) -> None:
        """Wait for room, or for the end of the connection; for who holds ``room_lock``."""
        while self._socket is not None and not self.has_room():
            self._room.clear()
            await self._room.wait()

    def send(self, data: bytes) -> None:
        """Queue ``data``, whether or not there is room; it goes out in this turn of the loop or when the client reads.

        On a closed connection nothing happens.
        """
        if self._socket is None or not data:
            return
        self.queued.append(data)
        self.unsent_bytes += len(data)
        self._server.unsent_bytes += len(data)
        if not self.flush_expected:
            # Whatever else is answered in this turn of the loop goes out with the same write.
            self.flush_expected = True
            self._loop.call_soon(self._flush_later)

    def _flush_later(self) -> None:
        self.flush_expected = False
        self.flush()

    def flush(self) -> None:
        """Write what is queued, unless the client has yet to take what came before."""
        if self._socket is None or self._under_way is not None or not self.queued:
            return
        data = self.queued[0] if len(self.queued) == 1 else b"".join(self.queued)
        self.queued.clear()
        self.progress_at = self._loop.time()
        self._under_way = memoryview(data)
        self._write()

    def _write(self) -> None:
        """Send what is under way; what was queued meanwhile follows in the next write."""
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
            self._server.unsent_bytes -= sent
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
        """Drop what was not sent, and let go of the socket; who waits for room goes on."""
        self._loop.remove_writer(self._fd)
        self._socket = None
        self._server.unsent_bytes -= self.unsent_bytes
        self.unsent_bytes = 0
        self.queued.clear()
        self._under_way = None
        self._room.set()
        # No cycle is left that would keep the session, and what it has received, until the next collection.
        self._on_written = self._on_lost = _nothing


def _nothing() -> None:
    """What the end of a connection, or a write, leads to once it is closed."""
