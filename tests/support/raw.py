"""A small blocking client on a plain socket, for tests that do what a correct client never does."""

from __future__ import annotations

import collections
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgpack
from nexus_protocol import (
    AckReceived,
    ClientConnection,
    Command,
    ConnectionFailed,
    ErrorReceived,
    ItemReceived,
    NexusError,
    SuccessReceived,
    decode_map,
    decode_reply,
    encode_command,
    encode_frame,
    error_from_payload,
)

from support.daemon import DaemonProcess

__all__ = ["WAIT_S", "RawClient", "connect", "frame", "pack", "wait_until"]

R = TypeVar("R")
T = TypeVar("T")

WAIT_S = 60.0
"""How long a test waits for an event that must come. Generous, because the machine may be busy."""


def wait_until(condition: Callable[[], T], what: str, timeout_s: float = WAIT_S) -> T:
    """Call ``condition`` every 10 ms until its result is true; return that result.

    Only for state that no event announces, such as the memory of another process.
    """
    deadline = time.monotonic() + timeout_s
    pause = select.poll()
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s in vain for {what}")
        pause.poll(10)


def connect(daemon: DaemonProcess) -> RawClient:
    """Connect as soon as the daemon listens."""

    def attempt() -> RawClient | None:
        try:
            return RawClient(daemon.socket_path)
        except OSError:
            return None

    return wait_until(attempt, "a daemon")


def pack(value: Any) -> bytes:
    """MessagePack bytes of plain values."""
    data: bytes = msgpack.packb(value)
    return data


def frame(command: Command[Any], sequence: int) -> bytes:
    """The bytes of one request."""
    return encode_frame(command.info.code, sequence, encode_command(command))


class RawClient:
    """One connection. Frames are read only when a method needs one; sending reads what comes meanwhile."""

    def __init__(self, path: Path | str, *, timeout: float = WAIT_S) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # With Python's timeout a full queue of connections fails at once with EAGAIN; the kernel's timeout waits.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(timeout), 0))
            self.sock.connect(str(path))
        except BaseException:
            self.sock.close()
            raise
        self.sock.settimeout(timeout)
        self.engine = ClientConnection()
        self.order: list[int] = []
        """The sequences of answered requests, in the order in which their last frames came."""
        self.connection_error: NexusError | None = None
        """The error that came on sequence 0, if any."""
        self.ended = False
        self._last: dict[int, SuccessReceived | ErrorReceived] = {}
        self._items: dict[int, collections.deque[dict[str, Any]]] = collections.defaultdict(collections.deque)
        self.acknowledged: collections.Counter[int] = collections.Counter()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket at once."""
        self.sock.close()

    # Sending

    def send_bytes(self, data: bytes) -> None:
        """Send any bytes, reading whatever arrives meanwhile, so that neither end waits for the other."""
        view = memoryview(data)
        poll = select.poll()
        poll.register(self.sock, select.POLLIN | select.POLLOUT)
        while view:
            (_, happened), *_ = poll.poll(WAIT_S * 1000) or [(0, 0)]
            assert happened, "the daemon neither reads nor writes"
            if happened & (select.POLLIN | select.POLLHUP) and not self.receive_some():
                raise BrokenPipeError("the daemon closed the connection")
            if happened & select.POLLOUT:
                view = view[self.sock.send(view, socket.MSG_DONTWAIT) :]

    def begin(self, command: Command[Any], context: bytes = b"") -> int:
        """Send one request; return its sequence."""
        return self.begin_many([command], context)[0]

    def begin_many(self, commands: Iterable[Command[Any]], context: bytes = b"") -> list[int]:
        """Send requests with one write, each with this encoded context; return their sequences."""
        sequences, parts = [], []
        for command in commands:
            sequence, data = self.engine.send_request(
                command.info.code, encode_command(command), takes_input=command.info.takes_input, context=context
            )
            sequences.append(sequence)
            parts.append(data)
        self.send_bytes(b"".join(parts))
        return sequences

    def begin_raw(self, code: int, payload: bytes = b"", context: bytes = b"") -> int:
        """Send a request with any payload, and any context; return its sequence."""
        sequence, data = self.engine.send_request(code, payload, context=context)
        self.send_bytes(data)
        return sequence

    def cancel(self, sequence: int) -> None:
        """Send Cancel for a request."""
        self.send_bytes(self.engine.send_cancel(sequence))

    def half_close(self) -> None:
        """Shut down the sending side."""
        self.sock.shutdown(socket.SHUT_WR)

    # Receiving

    def receive_some(self) -> bool:
        """Read once and process the frames; False at the end of the connection."""
        try:
            data = self.sock.recv(256 * 1024)
        except ConnectionResetError:
            data = b""
        if not data:
            self.ended = True
            return False
        for event in self.engine.receive_data(data):
            if isinstance(event, ErrorReceived) and not event.sequence:
                self.connection_error = error_from_payload(decode_map(event.payload))
            elif isinstance(event, (SuccessReceived, ErrorReceived)):
                self._last[event.sequence] = event
                self.order.append(event.sequence)
            elif isinstance(event, ItemReceived):
                self._items[event.sequence].append(decode_map(event.payload))
            elif isinstance(event, AckReceived):
                self.acknowledged[event.sequence] += event.size
            else:
                assert isinstance(event, ConnectionFailed)
                raise AssertionError(f"the daemon broke the protocol: {event.error.message}")
        return True

    def payload(self, sequence: int) -> bytes:
        """The payload of the Success that ends a request.

        Raises:
            NexusError: the Error that ends it.
            EOFError: the connection ended before.
        """
        while sequence not in self._last:
            if not self.receive_some():
                raise EOFError(f"the connection ended before request {sequence} was answered")
        last = self._last.pop(sequence)
        if isinstance(last, ErrorReceived):
            raise error_from_payload(decode_map(last.payload))
        return last.payload

    def result(self, sequence: int) -> dict[str, Any]:
        """The result of a request as plain values; raises as ``payload`` does."""
        return decode_map(self.payload(sequence))

    def error(self, sequence: int) -> NexusError:
        """The Error that ends a request."""
        try:
            result = self.payload(sequence)
        except NexusError as error:
            return error
        raise AssertionError(f"request {sequence} succeeded with {result!r:.200}")

    def call(self, command: Command[R]) -> R:
        """Send a request and wait for its result; raises as ``payload`` does."""
        reply: R = decode_reply(command.info.reply, self.payload(self.begin(command)))
        return reply

    def call_error(self, command: Command[Any]) -> NexusError:
        """Send a request that must fail; return its error."""
        return self.error(self.begin(command))

    def items(self, sequence: int) -> Iterator[dict[str, Any]]:
        """The items of a stream, until its last frame or the end of the connection."""
        while True:
            while self._items[sequence]:
                yield self._items[sequence].popleft()
            if sequence in self._last or not self.receive_some():
                yield from self._items.pop(sequence, ())
                return

    def read_to_end(self) -> NexusError | None:
        """Read until the daemon closes the connection; return the error that it sent on sequence 0, if any."""
        while not self.ended:
            self.receive_some()
        return self.connection_error

    def last_sequences(self) -> set[int]:
        """The requests whose last frames have come and were not taken by ``payload``, ``result`` or ``error``."""
        return set(self._last)
