"""``Client``: the asyncio client, with any number of concurrent requests on one connection."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Generic, TypeVar

from nexus_protocol import (
    AckReceived,
    ClientConnection,
    Command,
    ConnectionFailed,
    ErrorReceived,
    ItemReceived,
    NexusError,
    StreamCommand,
    SuccessReceived,
    Unavailable,
    decode_map,
    decode_reply,
    encode_command,
    error_from_payload,
)
from nexus_protocol.codec import as_reply
from nexus_protocol.context import HeldLease, ProjectRoot

from nexus import __version__
from nexus.client.base import BaseClient
from nexus.client.errors import ConnectError, ConnectionFailure, context_unknown
from nexus.client.transport import connect_async, why_lost
from nexus.system.commands import Batch, Hello, Welcome

__all__ = ["Client", "Stream"]

R = TypeVar("R")
ItemT = TypeVar("ItemT")

_QUEUED_ITEMS = 1024
"""Unread items of one stream after which reading from the connection pauses."""


class Client(BaseClient):
    """A connection to the daemon.

    ``socket_path`` is the daemon's address; by default the one ``nexusctl`` uses: ``NEXUS_SOCKET``, the configuration
    file, the runtime directory, else where the daemon of the default database listens. ``actor`` is on whose behalf the
    requests are made; the journal records it. ``why`` is why they are made, for people, where a request gives no other.
    ``project`` is in whose names they speak: an id, a name, or the root of one; by default that of
    ``NEXUS_PROJECT``, else ``default``. ``host`` is the URL of another host, ``ssh://[USER@]HOST[:PORT][/SOCKET]``,
    whose daemon is reached by ssh; by default that of ``NEXUS_HOST``. A project is then named by its name or id.
    ``lease`` is the lease that they are made under, where a request names no other.

    A daemon that is older than this client may not know the why, the key, the project and the lease of a request.
    Nothing is sent then, and the request fails with ``DaemonTooOld``.

    A lost connection fails every open request. The client does not reconnect on its own, since only the caller knows
    which requests may be repeated: call ``await client.connect()``.
    """

    def __init__(
        self,
        socket_path: str | os.PathLike[str] | None = None,
        *,
        actor: str | None = None,
        why: str | None = None,
        project: str | ProjectRoot | None = None,
        host: str | None = None,
        lease: HeldLease | None = None,
    ) -> None:
        super().__init__(socket_path, actor, why, project, host, lease)
        self.welcome: Welcome | None = None
        """The daemon's reply to ``Hello``: its version, limits and features. Set by ``connect``."""
        self._link: _Link | None = None

    async def connect(self) -> Welcome:
        """Connect and send ``Hello``; returns the daemon's reply. An existing connection is closed first.

        Raises:
            ConnectError: no daemon listens at the socket, or the host cannot be reached.
            NexusError: the daemon refuses the connection.
        """
        await self.close()
        loop = asyncio.get_running_loop()
        link = _Link(loop)
        # Without a context, and without a why: a daemon that is older would refuse them.
        hello = encode_command(Hello(client=f"nexus-python {__version__}", actor=self.actor))
        sequence, data = link.engine.send_request(Hello.info.code, hello)
        reply = link.replies[sequence] = loop.create_future()
        try:
            link.sock = await self._opened(data)
        except ConnectError as error:
            self._look_elsewhere(error)
            link.sock = await self._opened(data)
        await loop.create_connection(lambda: link, sock=link.sock)
        self._link = link
        try:
            self.welcome = decode_reply(Welcome, await reply)
        except BaseException:
            await self.close()
            raise
        return self.welcome

    async def _opened(self, greeting: bytes) -> socket.socket:
        return await connect_async(self.socket_path, self.connect_timeout_s, greeting, may_ask=self.may_ask)

    async def close(self) -> None:
        """Close the connection; open requests fail with ``ConnectionLost``."""
        link, self._link = self._link, None
        if link is not None:
            link.transport.abort()
            await link.closed.wait()

    async def __aenter__(self) -> Client:
        if self._link is None:
            await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def call(
        self,
        command: Command[R],
        *,
        why: str | None = None,
        key: str | None = None,
        project: str | ProjectRoot | None = None,
        cause: int | None = None,
        lease: HeldLease | None = None,
    ) -> R:
        """Send a command and wait for its reply. Cancelling the wait cancels the request in the daemon.

        ``why`` is for people, by default that of the client: 1 to 500 bytes. ``key`` identifies the request, so that
        its repetition is recognised: 1 to 64 characters. ``cause`` is the operation that the request is a part of, as
        ``BeginOperation`` gives it. Only a command that changes something takes a key or a cause. ``project`` is by
        default that of the client; lists take ``*`` for all of them. ``lease`` is the lease that the request is made
        under, by default that of the client: one that is not live has every change refused.

        Raises:
            NexusError: the daemon refused the command; the class says why.
            InvalidArgument: the command, ``why``, ``key``, ``project``, ``cause`` or ``lease`` is not valid.
            DaemonTooOld: the daemon knows none of the five.
            ConnectionLost: the connection ended before the reply.
        """
        info = command.info
        if info.item is not None:
            raise TypeError(f"{info.name} is a stream: use stream()")
        reply: type[R] = info.reply
        payload = encode_command(command)
        return decode_reply(
            reply, await self.request(info.code, payload, why=why, key=key, project=project, cause=cause, lease=lease)
        )

    async def batch(
        self,
        commands: Sequence[Command[Any]],
        *,
        why: str | None = None,
        key: str | None = None,
        project: str | ProjectRoot | None = None,
        cause: int | None = None,
        lease: HeldLease | None = None,
    ) -> list[Any]:
        """Carry out several changes in one transaction, all or none; returns the reply of each, in their order.

        At most 1000 commands, whose effect is ``change``, with 16 MiB together. ``why``, ``key``, ``project`` and
        ``cause`` are those of the batch, as in ``call``.

        Raises:
            NexusError: a command was refused; ``details["index"]`` is its place, from 0. Nothing is changed.
            ConnectionLost: the connection ended before the reply.
        """
        results = (
            await self.call(Batch.of(commands), why=why, key=key, project=project, cause=cause, lease=lease)
        ).results
        return [as_reply(command.info.reply, result) for command, result in zip(commands, results, strict=True)]

    async def request(
        self,
        code: int,
        payload: bytes = b"",
        *,
        why: str | None = None,
        key: str | None = None,
        project: str | ProjectRoot | None = None,
        cause: int | None = None,
        lease: HeldLease | None = None,
    ) -> bytes:
        """Send an encoded request by its code; returns the encoded reply. Options and errors as for ``call``."""
        return await self._exchange(code, payload, self._known_context(why, key, project, cause, lease))

    def _known_context(
        self,
        why: str | None,
        key: str | None,
        project: str | ProjectRoot | None,
        cause: int | None = None,
        lease: HeldLease | None = None,
    ) -> bytes:
        """Encode the context of a request, if the daemon knows contexts."""
        context = self._context(why, key, project, cause, lease)
        if context and (self.welcome is None or "context" not in self.welcome.features):
            self._connected()  # a client that is not connected has that error instead
            raise context_unknown()
        return context

    async def _exchange(self, code: int, payload: bytes, context: bytes) -> bytes:
        link = self._connected()
        await link.writable()
        sequence, data = link.engine.send_request(code, payload, context=context)
        future: asyncio.Future[bytes] = link.loop.create_future()
        link.replies[sequence] = future
        link.transport.write(data)
        try:
            return await future
        finally:
            if link.replies.pop(sequence, None) is not None:
                link.cancel(sequence)

    def stream(
        self,
        command: StreamCommand[ItemT, R],
        *,
        why: str | None = None,
        project: str | ProjectRoot | None = None,
        lease: HeldLease | None = None,
    ) -> Stream[ItemT, R]:
        """Open a stream: ``async with client.stream(…) as items: async for item in items: …``.

        ``why``, ``project`` and ``lease`` are as in ``call``; a stream takes no key.

        A stream that is not read blocks the client's other requests after about a thousand items; use a separate client
        for a slow reader.
        """
        if command.info.item is None:
            raise TypeError(f"{command.info.name} is not a stream: use call()")
        return Stream(self._connected(), command, self._known_context(why, None, project, None, lease))

    def _connected(self) -> _Link:
        if self._link is None:
            raise ConnectError("the client is not connected", "Use it in an async with block, or call connect().")
        if self._link.failure is not None:
            raise self._link.failure
        return self._link


class Stream(Generic[ItemT, R]):
    """An open stream: an asynchronous iterator over its items, then ``result``."""

    def __init__(self, link: _Link, command: StreamCommand[ItemT, R], context: bytes) -> None:
        info = command.info
        assert info.item is not None
        self._link = link
        self._item_type: type[ItemT] = info.item
        self._reply_type: type[R] = info.reply
        self._items: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._reply: bytes | None = None
        self._error: NexusError | ConnectionFailure | None = None
        self._sent_bytes = 0
        self.acknowledged_bytes = 0
        """How many bytes of the input the daemon has taken, as far as it has told."""
        self._sequence, data = link.engine.send_request(
            info.code, encode_command(command), takes_input=info.takes_input, context=context
        )
        link.streams[self._sequence] = self
        link.transport.write(data)

    @property
    def result(self) -> R:
        """The reply that ended the stream.

        Raises:
            RuntimeError: the stream has not ended.
        """
        if self._reply is None:
            raise RuntimeError("the stream has not ended")
        return decode_reply(self._reply_type, self._reply)

    @property
    def result_raw(self) -> dict[str, Any]:
        """Like ``result``; the map of plain values that was received."""
        if self._reply is None:
            raise RuntimeError("the stream has not ended")
        return decode_map(self._reply)

    async def __aiter__(self) -> AsyncIterator[ItemT]:
        while True:
            while self._items:
                item = self._items.popleft()
                if len(self._items) == _QUEUED_ITEMS // 2:
                    self._link.resume_reading()
                yield decode_reply(self._item_type, item)
            if self._error is not None:
                raise self._error
            if self._reply is not None:
                return
            self._changed.clear()
            await self._changed.wait()

    async def send(
        self, data: bytes | None = None, *, eof: bool = False, control: dict[str, Any] | None = None
    ) -> None:
        """Send input to a stream that accepts it; waits while its credit is used up.

        Raises:
            RuntimeError: the stream has ended.
        """
        view = memoryview(data) if data else memoryview(b"")
        engine = self._link.engine
        while len(view):
            if self._error is not None:
                raise self._error
            if self._reply is not None:
                raise RuntimeError("the stream has ended and takes no more input")
            credit = engine.credit(self._sequence)
            if not credit:
                self._changed.clear()
                await self._changed.wait()
                continue
            await self._link.writable()
            self._link.transport.write(engine.send_input(self._sequence, bytes(view[:credit])))
            self._sent_bytes += min(credit, len(view))
            view = view[credit:]
        if self._reply is not None:
            raise RuntimeError("the stream has ended and takes no more input")
        if eof:
            self._link.transport.write(engine.send_input(self._sequence, eof=True))
        if control is not None:
            self._link.transport.write(engine.send_input(self._sequence, control=control))

    async def drain(self) -> None:
        """Wait until the daemon has taken all input that was sent, or the stream has ended."""
        while self.acknowledged_bytes < self._sent_bytes and self._error is None and self._reply is None:
            self._changed.clear()
            await self._changed.wait()

    async def aclose(self) -> None:
        """Close the stream; an unfinished one is cancelled in the daemon."""
        if self._link.streams.pop(self._sequence, None) is not None:
            self._link.cancel(self._sequence)
            self._link.resume_reading()

    async def __aenter__(self) -> Stream[ItemT, R]:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _wake(self) -> None:
        self._changed.set()


class _Link(asyncio.Protocol):
    """One connection: the transport, the engine, and the pending replies and streams."""

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.sock: socket.socket | None = None
        self.engine = ClientConnection()
        self.replies: dict[int, asyncio.Future[bytes]] = {}
        self.streams: dict[int, Stream[Any, Any]] = {}
        self.failure: NexusError | ConnectionFailure | None = None
        self.closed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._reading = True

    async def writable(self) -> None:
        """Wait until the transport's write buffer has drained below its limit."""
        if not self._writable.is_set():
            await self._writable.wait()
        if self.failure is not None:
            raise self.failure

    def cancel(self, sequence: int) -> None:
        """Send a Cancel frame for a request."""
        if self.failure is None:
            self.transport.write(self.engine.send_cancel(sequence))

    def resume_reading(self) -> None:
        """Resume reading from the connection, after a full stream paused it."""
        if not self._reading and self.failure is None:
            self._reading = True
            self.transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        for event in self.engine.receive_data(data):
            if isinstance(event, ConnectionFailed):
                self.failure = event.error
                self.transport.abort()
                return
            future = self.replies.pop(event.sequence, None)
            if future is not None:
                if future.done():
                    continue
                if isinstance(event, SuccessReceived):
                    future.set_result(event.payload)
                elif isinstance(event, ErrorReceived):
                    future.set_exception(error_from_payload(decode_map(event.payload)))
                continue
            stream = self.streams.get(event.sequence)
            if isinstance(event, ErrorReceived) and event.sequence == 0:
                # Sequence 0: an error of the connection, which the daemon closes next.
                error = error_from_payload(decode_map(event.payload))
                self.failure = ConnectError(error.message, error.hint) if isinstance(error, Unavailable) else error
            elif stream is not None:
                self._to_stream(stream, event)

    def _to_stream(self, stream: Stream[Any, Any], event: Any) -> None:
        if isinstance(event, ItemReceived):
            stream._items.append(event.payload)
            if len(stream._items) > _QUEUED_ITEMS and self._reading:
                self._reading = False
                self.transport.pause_reading()
        elif isinstance(event, SuccessReceived):
            stream._reply = event.payload
            del self.streams[event.sequence]
        elif isinstance(event, ErrorReceived):
            stream._error = error_from_payload(decode_map(event.payload))
            del self.streams[event.sequence]
        elif isinstance(event, AckReceived):
            stream.acknowledged_bytes += event.size
        else:
            return
        stream._wake()

    def _read_final_error(self) -> None:
        """Read what is left in the socket after a failed write: the daemon may have sent why it closed."""
        try:
            data = os.read(self.transport.get_extra_info("socket").fileno(), 65536)
        except OSError:
            return
        if data:
            self.data_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None and self.failure is None:
            self._read_final_error()
        failure = self.failure = self.failure or why_lost(self.sock)
        self._writable.set()
        for future in self.replies.values():
            if not future.done():
                future.set_exception(failure)
        self.replies.clear()
        for stream in self.streams.values():
            stream._error = failure
            stream._wake()
        self.streams.clear()
        self.closed.set()
