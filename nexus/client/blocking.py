"""``BlockingClient``: the client without asyncio.

It owns a socket and the sans-IO engine, and starts no thread. Use it from one thread at a time.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from nexus_protocol.codec import as_reply, decode_map, decode_reply, encode_command
from nexus_protocol.command import Command, CommandInfo, StreamCommand
from nexus_protocol.connection import (
    AckReceived,
    ClientConnection,
    ConnectionFailed,
    ErrorReceived,
    ItemReceived,
    SuccessReceived,
)
from nexus_protocol.errors import DeadlineExceeded, NexusError, Unavailable, error_from_payload

from nexus import __version__
from nexus.client.base import BaseClient
from nexus.client.errors import ConnectError, ConnectionFailure, Interrupted, context_unknown, lost_error
from nexus.client.transport import connect, why_lost

if TYPE_CHECKING:
    import socket

    from nexus_protocol.context import HeldLease, ProjectRoot

__all__ = ["BlockingClient", "BlockingStream"]

R = TypeVar("R")
ItemT = TypeVar("ItemT")

_READ_BYTES = 64 * 1024
_INTERRUPT_WAIT_S = 5.0
_CALLS_AT_ONCE = 32
_LONGEST_MS = 86_400_000
"""The longest time limit that a command takes."""
_ANSWER_S = 2.0
"""How long after its time limit a daemon may answer a request that has one."""
"""Concurrent requests of ``calls``; below the daemon's default limit for one connection."""
_HELLO = 45
"""The code of ``Hello``; importing its declaration would cost each start of nexusctl."""


class BlockingClient(BaseClient):
    """A connection to the daemon.

    ``socket_path`` is the daemon's address; by default the one ``nexusctl`` uses: ``NEXUS_SOCKET``, the configuration
    file, the runtime directory, else where the daemon of the default database listens. ``actor`` is on whose behalf the
    requests are made; the journal records it. ``why`` is why they are made, for people, where a request gives no other.
    ``project`` is in whose names they speak: an id, a name, or the root of one; by default that of
    ``NEXUS_PROJECT``, else ``default``. ``host`` is the URL of another host, ``ssh://[USER@]HOST[:PORT][/SOCKET]``,
    whose daemon is reached by ssh; by default that of ``NEXUS_HOST``. A project is then named by its name or id.
    ``lease`` is the lease that they are made under, where a request names no other. ``name`` is the name of the
    calling program.

    A daemon that is older than this client may not know the why, the key, the project and the lease of a request.
    Nothing is sent then, and the request fails with ``DaemonTooOld``.

    ::

        with BlockingClient() as nexus:
            vm = nexus.call(CreateVm(name="web"))
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
        name: str = f"nexus-python {__version__}",
    ) -> None:
        super().__init__(socket_path, actor, why, project, host, lease)
        self.name = name
        self._socket: socket.socket | None = None
        self._engine = ClientConnection()
        self._streams: dict[int, BlockingStream[Any, Any]] = {}
        self._hello = 0
        self._welcome: bytes | None = None
        """The reply to ``Hello``; None until it has been received."""
        self._failure: NexusError | ConnectionFailure | None = None
        """Why the connection ended; None while it has not."""
        self.before_wait: Callable[[socket.socket], None] | None = None
        """Called, if set, before each wait without a deadline. It may wait for the connection and for something else,
        and abort the wait by raising."""
        self.context_of: Callable[[CommandInfo], tuple[str | None, str | None]] | None = None
        """Called, if set, for each command that is sent without ``why`` and ``key``, in the order of sending; it
        returns both."""
        self.project_of: Callable[[CommandInfo], str | ProjectRoot | None] | None = None
        """Called, if set, for each command that is sent without ``project``, which it returns."""
        self.cause_of: Callable[[CommandInfo], int | None] | None = None
        """Called, if set, for each command that is sent without ``cause``, which it returns."""

    def connect(self) -> None:
        """Connect and send ``Hello``. An existing connection is closed first.

        Raises:
            ConnectError: no daemon listens at the socket, or the host cannot be reached.
        """
        self.close()
        self._engine = ClientConnection()
        self._failure = self._welcome = None
        import msgpack

        hello = {"client": self.name} | ({"actor": self.actor} if self.actor else {})
        # The reply is not awaited: the first request follows at once, and the daemon handles them in order. Only a
        # request with a context waits for it, since a daemon that is older would close the connection.
        self._hello, data = self._engine.send_request(_HELLO, msgpack.packb(hello))
        try:
            self._socket = self._opened(data)
        except ConnectError as error:
            self._look_elsewhere(error)
            self._socket = self._opened(data)

    def _opened(self, greeting: bytes) -> socket.socket:
        return connect(self.socket_path, self.connect_timeout_s, greeting, may_ask=self.may_ask)

    def close(self) -> None:
        """Close the connection; open streams fail with ``ConnectionLost``."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        for stream in list(self._streams.values()):
            stream._fail(lost_error())
        self._streams.clear()

    def __enter__(self) -> BlockingClient:
        if self._socket is None:
            self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(
        self,
        command: Command[R],
        *,
        timeout_s: float | None = None,
        why: str | None = None,
        key: str | None = None,
        project: str | ProjectRoot | None = None,
        cause: int | None = None,
        lease: HeldLease | None = None,
    ) -> R:
        """Send a command and wait for its reply.

        With ``timeout_s`` the request is cancelled after that many seconds. ``why`` is for people, by default that of
        the client: 1 to 500 bytes. ``key`` identifies the request, so that its repetition is recognised: 1 to 64
        characters. ``cause`` is the operation that the request is a part of, as ``BeginOperation`` gives it. Only a
        command that changes something takes a key or a cause. ``project`` is by default that of the client; lists take
        ``*`` for all of them. ``lease`` is the lease that the request is made under, by default that of the client: one
        that is not live has every change refused.

        Raises:
            NexusError: the daemon refused the command; the class says why.
            InvalidArgument: the command, ``why``, ``key``, ``project``, ``cause`` or ``lease`` is not valid.
            DaemonTooOld: the daemon knows none of the five.
            DeadlineExceeded: ``timeout_s`` has passed.
            ConnectionLost: the connection ended before the reply.
            Interrupted: Ctrl-C; the request was cancelled.
        """
        info = command.info
        if info.item is not None:
            raise TypeError(f"{info.name} is a stream: use stream()")
        reply: type[R] = info.reply
        return decode_reply(reply, self._call(command, timeout_s, why, key, project, cause, lease))

    def _call(
        self,
        command: Command[Any],
        timeout_s: float | None,
        why: str | None,
        key: str | None,
        project: str | ProjectRoot | None,
        cause: int | None,
        lease: HeldLease | None,
    ) -> bytes:
        why, key, project, cause, lease = self._context_fields(command, why, key, project, cause, lease)
        payload = encode_command(command)
        return self.request(
            command.info.code, payload, timeout_s=timeout_s, why=why, key=key, project=project, cause=cause, lease=lease
        )

    def _context_fields(
        self,
        command: Command[Any],
        why: str | None,
        key: str | None,
        project: str | ProjectRoot | None,
        cause: int | None = None,
        lease: HeldLease | None = None,
    ) -> tuple[str | None, str | None, str | ProjectRoot | None, int | None, HeldLease | None]:
        """The fields of the context of a command; the functions of this client may give them, but for the lease."""
        if self.context_of is not None and why is None and key is None:
            why, key = self.context_of(command.info)
        if self.project_of is not None and project is None:
            project = self.project_of(command.info)
        if self.cause_of is not None and cause is None:
            cause = self.cause_of(command.info)
        return why, key, project, cause, lease

    def batch(
        self,
        commands: Sequence[Command[Any]],
        *,
        timeout_s: float | None = None,
        why: str | None = None,
        key: str | None = None,
        project: str | ProjectRoot | None = None,
        cause: int | None = None,
        lease: HeldLease | None = None,
    ) -> list[Any]:
        """Carry out several changes in one transaction, all or none; returns the reply of each, in their order.

        At most 1000 commands, whose effect is ``change``, with 16 MiB together. ``timeout_s`` is as in ``call``, and so
        are ``why``, ``key``, ``project``, ``cause`` and ``lease``, which are those of the batch.

        Raises:
            NexusError: a command was refused; ``details["index"]`` is its place, from 0. Nothing is changed.
        """
        from nexus.system.commands import Batch

        results = self.call(
            Batch.of(commands), timeout_s=timeout_s, why=why, key=key, project=project, cause=cause, lease=lease
        ).results
        return [as_reply(command.info.reply, result) for command, result in zip(commands, results, strict=True)]

    def batch_raw(
        self,
        commands: Sequence[Command[Any]],
        *,
        timeout_s: float | None = None,
        why: str | None = None,
        key: str | None = None,
        project: str | ProjectRoot | None = None,
        cause: int | None = None,
        lease: HeldLease | None = None,
    ) -> list[dict[str, Any]]:
        """Like ``batch``; returns each reply as the map of plain values that was received."""
        from nexus.system.commands import Batch

        reply = self.call_raw(
            Batch.of(commands), timeout_s=timeout_s, why=why, key=key, project=project, cause=cause, lease=lease
        )
        results: list[dict[str, Any]] = reply["results"]
        return results

    def call_raw(
        self,
        command: Command[Any],
        *,
        timeout_s: float | None = None,
        why: str | None = None,
        key: str | None = None,
        project: str | ProjectRoot | None = None,
        cause: int | None = None,
        lease: HeldLease | None = None,
    ) -> dict[str, Any]:
        """Like ``call``; returns the reply as the map of plain values that was received."""
        return decode_map(self._call(command, timeout_s, why, key, project, cause, lease))

    def request(
        self,
        code: int,
        payload: bytes = b"",
        *,
        timeout_s: float | None = None,
        why: str | None = None,
        key: str | None = None,
        project: str | ProjectRoot | None = None,
        cause: int | None = None,
        lease: HeldLease | None = None,
    ) -> bytes:
        """Send an encoded request by its code; returns the encoded reply. Options and errors as for ``call``."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        context = self._context(why, key, project, cause, lease)
        if context:
            self._await_context(deadline, timeout_s)
        sequence, data = self._engine.send_request(code, payload, context=context)
        try:
            self._send(data)
            received = self._read(deadline)
            reply = self._engine.receive_reply(sequence, received)
            return reply if reply is not None else self._wait(sequence, deadline, received)
        except KeyboardInterrupt:
            raise Interrupted(self._cancel_and_wait(sequence)) from None
        except TimeoutError:
            outcome = self._cancel_and_wait(sequence)
            details = outcome.details if isinstance(outcome, NexusError) else None
            raise DeadlineExceeded(f"cannot finish within {timeout_s:g} seconds", details=details) from None

    def _await_context(self, deadline: float | None, timeout_s: float | None) -> None:
        """Wait for the reply to ``Hello``, before a request with a context is sent.

        Raises:
            DaemonTooOld: the daemon does not know contexts.
            DeadlineExceeded: the deadline has passed.
        """
        self._check_connected()
        try:
            while self._welcome is None:
                for event in self._receive(deadline):
                    self._handle(event)
        except TimeoutError:
            raise DeadlineExceeded(f"cannot finish within {timeout_s:g} seconds") from None
        if "context" not in decode_map(self._welcome).get("features", ()):
            raise context_unknown()

    def limit(self, name: str, default: int) -> int:
        """A limit of the daemon, as the reply to ``Hello`` tells it; the default before that reply."""
        limits = {} if self._welcome is None else decode_map(self._welcome).get("limits", {})
        found = limits.get(name, default)
        return found if isinstance(found, int) else default

    def calls(
        self,
        commands: Sequence[Command[Any]],
        *,
        timeout_s: float | None = None,
        why: str | None = None,
        keys: Sequence[str] | None = None,
        project: str | ProjectRoot | None = None,
        cause: int | None = None,
        lease: HeldLease | None = None,
    ) -> Iterator[tuple[int, dict[str, Any] | NexusError]]:
        """Send several commands concurrently; yields the outcome of each in the order of completion.

        An outcome is the command's index in ``commands``, and its reply as of ``call_raw`` or the error that
        refused it. At most 32 are open at a time; ``timeout_s`` is for all of them together. ``why``,
        ``project``, ``cause`` and ``lease`` are those of each, and ``keys`` has a key for each. A command with
        a time limit of its own, ``timeout_ms``, is sent with what is left, so that the daemon answers for each
        what it still waits for.

        Raises:
            DeadlineExceeded: ``timeout_s`` has passed, without an answer; the open requests were cancelled.
            ConnectionLost: the connection ended before all replies.
            Interrupted: Ctrl-C; the open requests were cancelled.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        each: Sequence[str | None] = keys if keys is not None else [None] * len(commands)
        contexts = [
            self._context(*self._context_fields(command, why, key, project, cause, lease))
            for command, key in zip(commands, each, strict=True)
        ]
        if any(contexts):
            self._await_context(deadline, timeout_s)
        waiting = deque(enumerate(commands))
        indexes: dict[int, int] = {}  # of the open requests, by sequence
        grace_s = 0.0
        try:
            while waiting or indexes:
                while waiting and len(indexes) < _CALLS_AT_ONCE:
                    index, command = waiting.popleft()
                    if deadline is not None and _is_unlimited(command):
                        command = _limited(command, deadline - time.monotonic())
                        grace_s = _ANSWER_S
                    sequence, data = self._engine.send_request(
                        command.info.code, encode_command(command), context=contexts[index]
                    )
                    indexes[sequence] = index
                    self._send(data)
                for event in self._receive(None if deadline is None else deadline + grace_s):
                    if type(event) not in (SuccessReceived, ErrorReceived) or event.sequence not in indexes:
                        self._handle(event)
                        continue
                    reply = decode_map(event.payload)
                    yield (
                        indexes.pop(event.sequence),
                        reply if type(event) is SuccessReceived else error_from_payload(reply),
                    )
        except KeyboardInterrupt:
            raise Interrupted(self._cancel_all(set(indexes))) from None
        except TimeoutError:
            self._cancel_all(set(indexes))
            raise DeadlineExceeded(f"cannot finish within {timeout_s:g} seconds") from None

    def _cancel_all(self, sequences: set[int]) -> NexusError | ConnectionFailure | None:
        """Cancel requests and wait for their end; returns the first error, or None if all had succeeded already."""
        outcome: NexusError | ConnectionFailure | None = None
        deadline = time.monotonic() + _INTERRUPT_WAIT_S
        try:
            for sequence in sequences:
                self._send(self._engine.send_cancel(sequence) or b"")
            while sequences:
                for event in self._receive(deadline):
                    if type(event) is ErrorReceived and event.sequence in sequences:
                        outcome = outcome or error_from_payload(decode_map(event.payload))
                    if type(event) in (SuccessReceived, ErrorReceived) and event.sequence in sequences:
                        sequences.discard(event.sequence)
                    else:
                        self._handle(event)
        except (NexusError, ConnectionFailure) as error:
            return error
        except TimeoutError:
            return DeadlineExceeded("the daemon did not confirm that the requests were cancelled")
        return outcome

    def stream(
        self,
        command: StreamCommand[ItemT, R],
        *,
        why: str | None = None,
        project: str | ProjectRoot | None = None,
        lease: HeldLease | None = None,
    ) -> BlockingStream[ItemT, R]:
        """Open a stream: iterate over its items in a ``with`` block, which closes it. Iterating raises its errors.

        ``why``, ``project`` and ``lease`` are as in ``call``; a stream takes no key.
        """
        info = command.info
        if info.item is None:
            raise TypeError(f"{info.name} is not a stream: use call()")
        context = self._context(*self._context_fields(command, why, None, project, None, lease))
        if context:
            self._await_context(None, None)
        sequence, data = self._engine.send_request(
            info.code, encode_command(command), takes_input=info.takes_input, context=context
        )
        stream: BlockingStream[ItemT, R] = BlockingStream(self, sequence, info.item, info.reply)
        self._streams[sequence] = stream
        self._send(data)
        return stream

    def merge(self, streams: Sequence[BlockingStream[ItemT, Any]]) -> Iterator[tuple[int, ItemT]]:
        """Yield the items of several open streams as they arrive, each with its stream's index, until all have ended.

        Raises the error of the first stream that fails.
        """
        open_streams = dict(enumerate(streams))
        while open_streams:
            for index, stream in list(open_streams.items()):
                yield from ((index, item) for item in stream._take_items())
                if stream._error is not None:
                    raise stream._error
                if stream._reply is not None:
                    del open_streams[index]
            if open_streams:
                next(iter(open_streams.values()))._step(None)

    # Bytes

    def _check_connected(self) -> socket.socket:
        if self._socket is None:
            raise self._failure or ConnectError("the client is not connected", "Call connect() first.")
        return self._socket

    def _send(self, data: bytes) -> None:
        sock = self._check_connected()
        try:
            sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the daemon may have sent why it closed: the next read finds it

    def _receive(self, deadline: float | None) -> list[Any]:
        """Wait for bytes and return their events; a lost connection raises the reason, if the daemon gave one."""
        return self._engine.receive_data(self._read(deadline))

    def _read(self, deadline: float | None) -> bytes:
        if self._socket is None:
            raise self._failure or lost_error()
        try:
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self._socket.settimeout(left)
                try:
                    data = self._socket.recv(_READ_BYTES)
                finally:
                    self._socket.settimeout(None)
            else:
                if self.before_wait is not None:
                    self.before_wait(self._socket)
                data = self._socket.recv(_READ_BYTES)
        except ConnectionResetError:
            data = b""
        if not data:
            self._end(self._failure or why_lost(self._socket))
        return data

    def _end(self, failure: NexusError | ConnectionFailure) -> None:
        self._failure = failure
        self.close()
        raise failure

    def _wait(self, sequence: int, deadline: float | None, data: bytes | None = None) -> bytes:
        """Wait for the reply to a request; ``data`` are bytes that were read already."""
        while True:
            outcome: bytes | NexusError | None = None
            for event in self._engine.receive_data(data if data is not None else self._read(deadline)):
                if type(event) is SuccessReceived and event.sequence == sequence:
                    outcome = event.payload
                elif type(event) is ErrorReceived and event.sequence == sequence:
                    outcome = error_from_payload(decode_map(event.payload))
                else:
                    self._handle(event)
            data = None
            if isinstance(outcome, bytes):
                return outcome
            if outcome is not None:
                raise outcome

    def _handle(self, event: Any) -> None:
        if type(event) is ConnectionFailed:
            self._end(event.error)
        stream = self._streams.get(event.sequence)
        if type(event) is ErrorReceived:
            error = error_from_payload(decode_map(event.payload))
            if event.sequence == self._hello:
                self._end(error)  # without Hello, requests would be journaled without their actor
            elif event.sequence == 0:
                # Sequence 0: an error of the connection, which the daemon closes next.
                unavailable = isinstance(error, Unavailable)
                self._failure = ConnectError(error.message, error.hint) if unavailable else error
            elif stream is not None:
                stream._fail(error)
        elif event.sequence == self._hello and type(event) is SuccessReceived:
            self._welcome = self._welcome or event.payload
        elif stream is not None:
            if type(event) is ItemReceived:
                stream._items.append(event.payload)
            elif type(event) is SuccessReceived:
                stream._finish(event.payload)

    def _cancel_and_wait(self, sequence: int) -> NexusError | ConnectionFailure | None:
        """Cancel a request and wait for its end; returns its error, or None if it had succeeded already."""
        try:
            self._send(self._engine.send_cancel(sequence) or b"")
            self._wait(sequence, time.monotonic() + _INTERRUPT_WAIT_S)
        except (NexusError, ConnectionFailure) as error:
            return error
        except TimeoutError:
            return DeadlineExceeded("the daemon did not confirm that the request was cancelled")
        return None


class BlockingStream(Generic[ItemT, R]):
    """An open stream: an iterator over its items, then ``result``."""

    def __init__(self, client: BlockingClient, sequence: int, item: type[ItemT], reply: type[R]) -> None:
        self._client = client
        self._sequence = sequence
        self._item_type = item
        self._reply_type = reply
        self._items: deque[bytes] = deque()
        self._reply: bytes | None = None
        self._error: NexusError | ConnectionFailure | None = None

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

    def __iter__(self) -> Iterator[ItemT]:
        while True:
            yield from self._take_items()
            if self._error is not None:
                raise self._error
            if self._reply is not None:
                return
            self._step(None)

    def _take_items(self) -> Iterator[ItemT]:
        """Take and decode the items that have been received so far."""
        while self._items:
            yield decode_reply(self._item_type, self._items.popleft())

    def send(self, data: bytes | None = None, *, eof: bool = False, control: dict[str, Any] | None = None) -> None:
        """Send input to a stream that accepts it; waits while its credit is used up.

        Raises:
            RuntimeError: the stream has ended.
        """
        view = memoryview(data) if data else memoryview(b"")
        engine = self._client._engine
        while len(view):
            credit = engine.credit(self._sequence)
            if not credit:
                if self._error is not None:
                    raise self._error
                if self._reply is not None:
                    raise RuntimeError("the stream has ended and takes no more input")
                self._step(None)
                continue
            self._client._send(engine.send_input(self._sequence, bytes(view[:credit])))
            view = view[credit:]
        if self._reply is not None:
            raise RuntimeError("the stream has ended and takes no more input")
        if eof:
            self._client._send(engine.send_input(self._sequence, eof=True))
        if control is not None:
            self._client._send(engine.send_input(self._sequence, control=control))

    def close(self) -> None:
        """Close the stream: cancel it if it has not ended, and wait until the daemon confirms."""
        client = self._client
        if self._reply is None and self._error is None:
            with contextlib.suppress(NexusError, ConnectionFailure, TimeoutError):
                client._send(client._engine.send_cancel(self._sequence))
                deadline = time.monotonic() + _INTERRUPT_WAIT_S
                while self._reply is None and self._error is None:
                    self._step(deadline)
                    self._items.clear()
        client._streams.pop(self._sequence, None)

    def __enter__(self) -> BlockingStream[ItemT, R]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _step(self, deadline: float | None) -> None:
        for event in self._client._receive(deadline):
            if type(event) is not AckReceived:
                self._client._handle(event)

    def _finish(self, payload: bytes) -> None:
        self._reply = payload
        self._client._streams.pop(self._sequence, None)

    def _fail(self, error: NexusError | ConnectionFailure) -> None:
        self._error = error
        self._client._streams.pop(self._sequence, None)


def _is_unlimited(command: Command[Any]) -> bool:
    """Whether a command can have a time limit, and has none."""
    return "timeout_ms" in command.__struct_fields__ and getattr(command, "timeout_ms", None) is None


def _limited(command: Command[Any], left_s: float) -> Command[Any]:
    """A command with a time limit, in steps of 10 ms."""
    fields = {name: getattr(command, name) for name in command.__struct_fields__}
    made: Command[Any] = type(command)(
        **fields | {"timeout_ms": min(max(math.ceil(left_s * 100), 1) * 10, _LONGEST_MS)}
    )
    return made
