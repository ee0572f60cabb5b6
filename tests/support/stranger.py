"""A client written from ``protocol/SPEC.md`` alone, with plain sockets and MessagePack.

It imports nothing of the project, which a test checks. It follows the checklist at the end of SPEC.md as far as that
concerns a client that waits for one reply at a time.
"""

from __future__ import annotations

import collections
import os
import select
import socket
import stat
import struct
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import msgpack

__all__ = ["ConnectionLost", "ErrorReply", "SpecClient", "find_socket"]

HEADER = struct.Struct(">4sHHIIH")
MAGIC, VERSION = b"NEX\x00", 1
INPUT, CANCEL, SUCCESS, ITEM, ERROR = 0xFFE0, 0xFFE1, 0xFFF0, 0xFFF1, 0xFFFF
LARGEST = 16 * 1024 * 1024
CREDIT = 256 * 1024


class ErrorReply(Exception):
    """An Error frame."""

    def __init__(self, sequence: int, body: Mapping[str, Any]) -> None:
        super().__init__(f"{body.get('code')} ({body.get('type')}): {body.get('message')}")
        self.sequence = sequence
        self.code: str = body.get("code", "internal")
        self.type: str = body.get("type", self.code)
        self.message: str = body.get("message", "")
        self.hint: str | None = body.get("hint")
        self.details: dict[str, Any] = body.get("details", {})


class ConnectionLost(Exception):
    """The connection ended; all open requests have failed."""


def find_socket(environment: Mapping[str, str]) -> str:
    """The path of the daemon's socket by the rules of the chapter "Transport" (without the configuration file)."""
    if environment.get("NEXUS_SOCKET"):
        if not environment["NEXUS_SOCKET"].startswith("/"):
            raise ValueError("cannot use NEXUS_SOCKET: it is relative")
        return environment["NEXUS_SOCKET"]
    runtime = environment.get("XDG_RUNTIME_DIR")
    if runtime:
        if not _private(runtime):
            raise ValueError(f"cannot use XDG_RUNTIME_DIR {runtime}")
    else:
        runtime = f"/run/user/{os.geteuid()}"
        if not _private(runtime):
            state = environment.get("XDG_STATE_HOME") or environment["HOME"] + "/.local/state"
            runtime = state + "/nexus/run"
    return runtime + "/nexus/nexus.sock"


def _private(directory: str) -> bool:
    try:
        status = os.stat(directory)  # noqa: PTH116
    except OSError:
        return False
    return (
        directory.startswith("/")
        and stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & 0o022
    )


class SpecClient:
    """One connection. Methods raise ``ConnectionLost`` at its end, or ``ErrorReply`` for an Error on sequence 0."""

    def __init__(self, path: str, timeout: float = 60.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(path)  # without a timeout: with one, a full accept queue is EAGAIN at once
        except BaseException:
            self._socket.close()
            raise
        self._socket.settimeout(timeout)
        self._received = bytearray()
        self._last_sequence = 0
        self._open: set[int] = set()
        self._credit: dict[int, int] = {}
        self._items: dict[int, collections.deque[dict[str, Any]]] = {}
        self._ends: dict[int, dict[str, Any] | ErrorReply] = {}
        self.end: Exception | None = None
        """Why no more frames can arrive."""

    def __enter__(self) -> SpecClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    # Requests

    def call(self, code: int, /, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its result."""
        return self.result(self.begin(code, **fields))

    def begin(self, code: int, /, *, takes_input: bool = False, **fields: Any) -> int:
        """Send a request without waiting for the result; return its sequence."""
        sequence = self._last_sequence
        while True:
            sequence = sequence + 1 if sequence < 0xFFFFFFFF else 1
            if sequence not in self._open:
                break
        self._last_sequence = sequence
        self._open.add(sequence)
        self._items[sequence] = collections.deque()
        if takes_input:
            self._credit[sequence] = CREDIT
        self._send(code, sequence, fields)
        return sequence

    def result(self, sequence: int) -> dict[str, Any]:
        """Wait for the last frame of a request.

        Raises:
            ErrorReply: it is an Error frame.
        """
        while sequence not in self._ends:
            self._receive()
        self._items.pop(sequence, None)
        end = self._ends.pop(sequence)
        if isinstance(end, ErrorReply):
            raise end
        return end

    def items(self, sequence: int) -> Iterator[dict[str, Any]]:
        """The items of a stream, up to its last frame."""
        while True:
            if self._items.get(sequence):
                yield self._items[sequence].popleft()
            elif sequence in self._ends:
                return
            else:
                self._receive()

    def item(self, sequence: int) -> dict[str, Any]:
        """The next item of an open stream."""
        return next(self.items(sequence))

    def cancel(self, sequence: int) -> None:
        """Cancel a request; its last frame still arrives."""
        if sequence in self._open:
            self._send(CANCEL, sequence, {})

    def input(self, sequence: int, data: bytes) -> None:
        """Send bytes to a stream, within its credit."""
        while data:
            while not self._credit[sequence]:
                self._receive()
            some, data = data[: self._credit[sequence]], data[self._credit[sequence] :]
            self._credit[sequence] -= len(some)
            self._send(INPUT, sequence, {"data": some})

    # Frames

    def _send(self, code: int, sequence: int, body: Mapping[str, Any]) -> None:
        payload = msgpack.packb(body) if body else b""
        unsent = memoryview(HEADER.pack(MAGIC, VERSION, code, len(payload), sequence, 0) + payload)
        while unsent:
            # Read while writing: the daemon stops reading requests while its replies are not read.
            readable, writable, _ = select.select([self._socket], [self._socket], [], self._socket.gettimeout())
            if readable:
                self._receive()
            if writable:
                try:
                    unsent = unsent[self._socket.send(unsent, socket.MSG_DONTWAIT) :]
                except BlockingIOError:
                    continue
                except (BrokenPipeError, ConnectionResetError):
                    while True:  # an Error frame with the cause may be waiting
                        self._receive()

    def _receive(self) -> None:
        if self.end is not None:
            raise self.end
        try:
            some = self._socket.recv(65536)
        except ConnectionResetError:
            some = b""
        if not some:
            self.end = ConnectionLost(f"the connection ended with {len(self._open)} requests open")
            raise self.end
        self._received += some
        while len(self._received) >= HEADER.size:
            magic, version, code, size, sequence, flags = HEADER.unpack_from(self._received)
            if magic != MAGIC or version != VERSION or flags or size > LARGEST:
                raise self._broken(f"an invalid frame: {self._received[:18].hex()}")
            if len(self._received) < HEADER.size + size:
                return
            payload = bytes(self._received[HEADER.size : HEADER.size + size])
            del self._received[: HEADER.size + size]
            body = msgpack.unpackb(payload) if payload else {}
            if not isinstance(body, dict):
                raise self._broken("a payload that is not a map")
            self._take(code, sequence, body)

    def _take(self, code: int, sequence: int, body: dict[str, Any]) -> None:
        if code not in (SUCCESS, ITEM, ERROR):
            raise self._broken(f"a frame of code {code:#06x}")
        if code == ERROR and sequence == 0:
            self.end = ErrorReply(0, body)
            raise self.end
        if sequence not in self._open:
            return
        if code == ITEM:
            if sequence in self._credit and body.keys() == {"ack"}:
                self._credit[sequence] += body["ack"]
            else:
                self._items[sequence].append(body)
            return
        self._open.discard(sequence)
        self._credit.pop(sequence, None)
        self._ends[sequence] = body if code == SUCCESS else ErrorReply(sequence, body)

    def _broken(self, what: str) -> ConnectionLost:
        self.end = ConnectionLost(f"the daemon broke the protocol: {what}")
        self._socket.close()
        return self.end
