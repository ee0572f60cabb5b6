"""The protocol as a sans-IO engine for both roles: it turns received bytes into events, and messages into bytes.

``ServerConnection`` and ``ClientConnection`` hold the state of one connection: the incomplete frame, the open requests
and the credit of their streams. They open no socket, start no task and know no command. The owner of the socket passes
received bytes to ``receive_data`` and writes the bytes that the ``send_*`` methods return. In a test, two engines can
talk to each other without a socket.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import msgpack

from nexus_protocol.codec import decode_map
from nexus_protocol.errors import BadFrame, NexusError, ProtocolError, ResourceExhausted
from nexus_protocol.frame import (
    CANCEL,
    CONTEXT,
    DEFAULT_MAX_PAYLOAD,
    ERROR,
    EXTRA,
    HEADER,
    HEADER_SIZE,
    INPUT,
    ITEM,
    MAGIC,
    MAX_COMMAND,
    MAX_PAYLOAD,
    SUCCESS,
    VERSION,
    Frame,
    FrameDecoder,
    encode_frame,
)

__all__ = [
    "AckReceived",
    "CancelReceived",
    "ClientConnection",
    "ConnectionFailed",
    "ErrorReceived",
    "INPUT_CREDIT",
    "InputReceived",
    "ItemReceived",
    "RequestReceived",
    "ServerConnection",
    "SuccessReceived",
]

INPUT_CREDIT = 256 * 1024
"""Bytes of Input ``data`` that a client may send for one stream before the daemon returns credit."""

_INPUT_OVERHEAD = 1024
"""The allowed size of the map around ``data``; a ``control`` map may use the whole frame."""

_MAX_SEQUENCE = 0xFFFFFFFF

_EMPTY_MAP = b"\x80"


RequestReceived = Frame
"""A request of a client: the received frame with ``command``, ``sequence``, ``payload`` and ``flags``."""


class InputReceived(NamedTuple):
    """Input for an open stream that takes it; the payload is still encoded."""

    sequence: int
    payload: bytes


class CancelReceived(NamedTuple):
    """A client cancels an open request."""

    sequence: int


class SuccessReceived(NamedTuple):
    """The last frame of a request: its result."""

    sequence: int
    payload: bytes


class ItemReceived(NamedTuple):
    """One element of a stream."""

    sequence: int
    payload: bytes


class AckReceived(NamedTuple):
    """The daemon returns ``size`` bytes of Input credit."""

    sequence: int
    size: int


class ErrorReceived(NamedTuple):
    """The last frame of a request: its error. On sequence 0 it is an error of the connection."""

    sequence: int
    payload: bytes


class ConnectionFailed(NamedTuple):
    """The peer broke the protocol. The daemon sends ``error`` on ``error.sequence``; both roles then close."""

    error: ProtocolError


ServerEvent = RequestReceived | InputReceived | CancelReceived | ConnectionFailed
ClientEvent = SuccessReceived | ItemReceived | AckReceived | ErrorReceived | ConnectionFailed


class ServerConnection:
    """The daemon's end of one connection.

    ``max_payload(command)`` returns the payload limit of a command in bytes; by default it is ``DEFAULT_MAX_PAYLOAD``
    for every command. ``input_commands`` are the codes of the streams that take Input: they have the full credit as
    soon as they are requested, so that a client need not wait before it sends the first bytes.
    """

    def __init__(
        self, max_payload: Callable[[int], int] | None = None, input_commands: Collection[int] = frozenset()
    ) -> None:
        self._max_payload = max_payload or (lambda _command: DEFAULT_MAX_PAYLOAD)
        self._input_commands = input_commands
        self._decoder = FrameDecoder(self._limit, takes_context=True)
        self._open: set[int] = set()
        self._credit: dict[int, int] = {}
        self._failed = False
        self.frames_received = 0
        """The number of complete frames received, including ignored ones."""

    @property
    def open_requests(self) -> frozenset[int]:
        """The sequences of the requests without a last frame."""
        return frozenset(self._open)

    @property
    def buffered(self) -> int:
        """The number of bytes received of an incomplete frame."""
        return self._decoder.buffered

    def _limit(self, command: int) -> int:
        if command == INPUT:
            return INPUT_CREDIT + _INPUT_OVERHEAD
        if command == CANCEL:
            return _INPUT_OVERHEAD
        return self._max_payload(command)

    def receive_data(self, data: bytes) -> list[ServerEvent]:
        """Return the events in ``data``, in order. After a ``ConnectionFailed`` all further data is ignored."""
        if self._failed:
            return []
        frames, violation = self._decoder.feed(data)
        self.frames_received += len(frames)
        events: list[ServerEvent] = []
        open_ = self._open
        for frame in frames:
            command, sequence, _, _ = frame
            if (0 < command <= MAX_COMMAND or command == EXTRA) and sequence and sequence not in open_:
                open_.add(sequence)
                if command in self._input_commands:
                    self._credit[sequence] = INPUT_CREDIT
                events.append(frame)
            elif command == CANCEL:
                if sequence in open_:
                    events.append(CancelReceived(sequence))
            elif command == INPUT:
                if sequence in self._credit:
                    events.append(InputReceived(sequence, frame.payload))
            else:
                self._failed = True
                events.append(ConnectionFailed(self._misuse(command, sequence)))
                return events
        if violation is not None:
            self._failed = True
            events.append(ConnectionFailed(violation))
        return events

    @staticmethod
    def _misuse(command: int, sequence: int) -> BadFrame:
        if not 0 < command <= MAX_COMMAND and command != EXTRA:
            return BadFrame(f"cannot accept code 0x{command:04X} from a client")
        if not sequence:
            return BadFrame("cannot accept a request with sequence 0: it belongs to the connection itself")
        return BadFrame(f"cannot accept a second request with sequence {sequence}: the first one is still open")

    def take_input(self, sequence: int, size: int) -> None:
        """Count ``size`` bytes of Input data against the credit of a stream.

        Raises:
            ResourceExhausted: the client sent more than it had credit for.
        """
        left = self._credit.get(sequence, 0) - size
        if left < 0:
            raise ResourceExhausted(
                "cannot take more input: the client sent more than its credit",
                hint="Wait for acknowledgements before sending more.",
                details={"credit": INPUT_CREDIT},
            )
        self._credit[sequence] = left

    def send_ack(self, sequence: int, size: int) -> bytes:
        """Return ``size`` bytes of Input credit to the client."""
        if sequence not in self._credit:
            return b""
        self._credit[sequence] += size
        return encode_frame(ITEM, sequence, msgpack.packb({"ack": size}))

    def send_item(self, sequence: int, payload: bytes) -> bytes:
        """Encode one item of the stream ``sequence``."""
        return encode_frame(ITEM, sequence, payload)

    def send_success(self, sequence: int, payload: bytes) -> bytes:
        """Encode the last frame of ``sequence``: its result."""
        self._close(sequence)
        return encode_frame(SUCCESS, sequence, payload)

    def send_error(self, sequence: int, error: NexusError) -> bytes:
        """Encode the last frame of ``sequence``: its error; on sequence 0 an error of the connection."""
        self._close(sequence)
        payload = msgpack.packb(error.payload(), default=str, unicode_errors="replace")
        return encode_frame(ERROR, sequence, payload)

    def _close(self, sequence: int) -> None:
        self._open.discard(sequence)
        if self._credit:
            self._credit.pop(sequence, None)


class ClientConnection:
    """A client's end of one connection."""

    def __init__(self) -> None:
        self._decoder = FrameDecoder(lambda _command: MAX_PAYLOAD)
        self._open: set[int] = set()
        self._credit: dict[int, int] = {}
        self._last = 0
        self._failed = False

    @property
    def open_requests(self) -> frozenset[int]:
        """The sequences of the requests without a last frame."""
        return frozenset(self._open)

    def send_request(
        self, command: int, payload: bytes = b"", *, takes_input: bool = False, context: bytes = b""
    ) -> tuple[int, bytes]:
        """Encode a new request; returns the sequence chosen for it, and the bytes to send.

        ``context`` is the encoded context of the request; without bytes the request has none.

        Raises:
            ValueError: the payload does not fit any frame.
        """
        sequence = self._last % _MAX_SEQUENCE + 1
        while sequence in self._open:
            sequence = sequence % _MAX_SEQUENCE + 1
        if context:
            data = encode_frame(command, sequence, context + (payload or _EMPTY_MAP), CONTEXT)
        else:
            data = encode_frame(command, sequence, payload)
        self._last = sequence
        self._open.add(sequence)
        if takes_input:
            self._credit[sequence] = INPUT_CREDIT
        return sequence, data

    def send_cancel(self, sequence: int) -> bytes:
        """Encode a Cancel for ``sequence``; no bytes when the request has already ended."""
        return encode_frame(CANCEL, sequence) if sequence in self._open else b""

    def credit(self, sequence: int) -> int:
        """Return how many bytes of Input data may be sent for the stream now."""
        return self._credit.get(sequence, 0)

    def send_input(
        self, sequence: int, data: bytes | None = None, *, eof: bool = False, control: dict[str, Any] | None = None
    ) -> bytes:
        """Encode Input for a stream: exactly one of ``data``, ``eof`` and ``control``; no bytes for an ended stream.

        Raises:
            ValueError: none or several are given, or ``data`` is longer than the credit that is left.
        """
        body: dict[str, Any] = {}
        if data is not None:
            body["data"] = data
        if eof:
            body["eof"] = True
        if control is not None:
            body["control"] = control
        if len(body) != 1:
            raise ValueError("give exactly one of data, eof and control")
        if sequence not in self._open:
            return b""
        if data is not None:
            left = self._credit.get(sequence, 0) - len(data)
            if left < 0:
                raise ValueError(f"{len(data)} bytes of input are more than the credit of the stream")
            self._credit[sequence] = left
        return encode_frame(INPUT, sequence, msgpack.packb(body))

    def receive_data(self, data: bytes) -> list[ClientEvent]:
        """Return the events in ``data``, in order. Frames for requests that are not open are ignored."""
        if self._failed:
            return []
        frames, violation = self._decoder.feed(data)
        events: list[ClientEvent] = []
        for frame in frames:
            event = self._event(frame)
            if event is not None:
                events.append(event)
                if isinstance(event, ConnectionFailed):
                    self._failed = True
                    return events
        if violation is not None:
            self._failed = True
            events.append(ConnectionFailed(violation))
        return events

    def receive_reply(self, sequence: int, data: bytes) -> bytes | None:
        """Return the result of the request ``sequence`` if ``data`` is exactly its Success frame, else None.

        It is a fast path for a caller that waits for one reply. After None, pass ``data`` to ``receive_data``.
        """
        if self._decoder.buffered or len(data) < HEADER_SIZE or sequence not in self._open:
            return None
        if data[:HEADER_SIZE] != HEADER.pack(MAGIC, VERSION, SUCCESS, len(data) - HEADER_SIZE, sequence, 0):
            return None
        self._close(sequence)
        return data[HEADER_SIZE:]

    def _event(self, frame: Frame) -> ClientEvent | None:
        command, sequence, payload, _ = frame
        if command == SUCCESS:
            return SuccessReceived(sequence, payload) if self._close(sequence) else None
        if command == ERROR:
            return ErrorReceived(sequence, payload) if self._close(sequence) or not sequence else None
        if command != ITEM:
            return ConnectionFailed(BadFrame(f"cannot accept code 0x{command:04X} from a daemon"))
        if sequence not in self._open:
            return None
        if sequence in self._credit:
            try:
                body = decode_map(payload)
            except BadFrame as error:
                return ConnectionFailed(error)
            if body.keys() == {"ack"}:
                size = body["ack"]
                if type(size) is not int or size < 0:
                    return ConnectionFailed(BadFrame("cannot read an acknowledgement: its size is not a whole number"))
                self._credit[sequence] += size
                return AckReceived(sequence, size)
        return ItemReceived(sequence, payload)

    def _close(self, sequence: int) -> bool:
        if sequence not in self._open:
            return False
        self._open.discard(sequence)
        self._credit.pop(sequence, None)
        return True


assert HEADER_SIZE == 18, "the header's layout is fixed by the protocol"
