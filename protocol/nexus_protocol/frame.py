"""Frames: the 18-byte header, the limits of a frame, and an incremental decoder.

This module knows bytes and numbers. It knows no command, opens no socket, and never allocates for a length that a
peer merely claims.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from nexus_protocol.errors import BadFrame, FrameTooLarge, UnsupportedVersion

__all__ = [
    "CANCEL",
    "CONTEXT",
    "CONTEXT_BYTES",
    "DEFAULT_MAX_PAYLOAD",
    "ERROR",
    "EXTRA",
    "Frame",
    "FrameDecoder",
    "HEADER",
    "HEADER_SIZE",
    "INPUT",
    "ITEM",
    "MAGIC",
    "MAX_COMMAND",
    "MAX_PAYLOAD",
    "SUCCESS",
    "VERSION",
    "encode_frame",
]

MAGIC = b"NEX\x00"
VERSION = 1

HEADER = struct.Struct(">4sHHIIH")
"""magic, version, command, payload length, sequence, flags: big-endian, no padding."""
HEADER_SIZE = HEADER.size

INPUT = 0xFFE0
CANCEL = 0xFFE1
SUCCESS = 0xFFF0
ITEM = 0xFFF1
ERROR = 0xFFFF

CONTEXT = 0x0001
"""The only flag: the payload begins with the context of the request. Only requests may have it."""
CONTEXT_BYTES = 4096
"""The largest context in bytes; a frame with the flag may be larger than the limit of its command by so much."""

MAX_COMMAND = 0xEFFF
"""The highest code of an ordinary command."""
EXTRA = 0xFF00
"""The only command code above ``MAX_COMMAND``: the command that plugins handle."""

DEFAULT_MAX_PAYLOAD = 64 * 1024
"""The payload limit in bytes of a command that declares no other."""
MAX_PAYLOAD = 16 * 1024 * 1024
"""The payload limit in bytes of every frame, without the context of a request."""


class Frame(NamedTuple):
    """One frame, without the constant fields of its header."""

    command: int
    sequence: int
    payload: bytes
    """With the flag ``CONTEXT`` two MessagePack maps, the context and the body; else one map."""
    flags: int = 0


_pack = HEADER.pack
_unpack_from = HEADER.unpack_from


def encode_frame(command: int, sequence: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """Encode one frame.

    Raises:
        ValueError: the payload is longer than ``MAX_PAYLOAD``, and ``CONTEXT_BYTES`` with the flag ``CONTEXT``.
    """
    size = len(payload)
    limit = MAX_PAYLOAD + CONTEXT_BYTES if flags & CONTEXT else MAX_PAYLOAD
    if size > limit:
        raise ValueError(f"a payload of {size} bytes does not fit a frame (at most {limit})")
    return _pack(MAGIC, VERSION, command, size, sequence, flags) + payload


class FrameDecoder:
    """Turns bytes, received in any pieces, into frames.

    ``limit(command)`` returns the payload limit of a frame with this code in bytes; it is called as soon as the header
    is complete, before any of the payload is kept. With ``takes_context``, requests may have the flag ``CONTEXT`` and
    then ``CONTEXT_BYTES`` more; any other flag is a violation. After an error the decoder must not be used again.
    """

    def __init__(self, limit: Callable[[int], int], *, takes_context: bool = False) -> None:
        self._limit = limit
        self._takes_context = takes_context
        self._buffer = bytearray()
        self._needed = HEADER_SIZE
        """The number of bytes that the buffer must hold before the next frame can be complete."""

    @property
    def buffered(self) -> int:
        """The number of bytes received of an incomplete frame."""
        return len(self._buffer)

    def feed(self, data: bytes) -> tuple[list[Frame], BadFrame | UnsupportedVersion | FrameTooLarge | None]:
        """Return the frames that ``data`` completes, in order, and the violation that ends the connection, if any."""
        if not self._buffer and len(data) >= HEADER_SIZE:
            # Fast path for the most frequent case: exactly one complete frame.
            magic, version, command, size, sequence, flags = _unpack_from(data)
            if (
                len(data) == HEADER_SIZE + size
                and magic == MAGIC
                and version == VERSION
                and size <= (self._limit_with_flags(command, flags) if flags else self._limit(command))
            ):
                return [Frame(command, sequence, data[HEADER_SIZE:], flags)], None
        frames: list[Frame] = []
        buffer: bytes | bytearray = data
        if self._buffer:
            self._buffer += data
            buffer = self._buffer
        total = len(buffer)
        if total < self._needed:
            if buffer is data:
                self._buffer += data
            return frames, self._early_violation()
        offset = 0
        needed = HEADER_SIZE
        while total - offset >= HEADER_SIZE:
            magic, version, command, size, sequence, flags = _unpack_from(buffer, offset)
            if (
                magic != MAGIC
                or version != VERSION
                or size > (self._limit_with_flags(command, flags) if flags else self._limit(command))
            ):
                return frames, self._violation(magic, version, command, size, sequence, flags)
            end = offset + HEADER_SIZE + size
            if end > total:
                needed = HEADER_SIZE + size
                break
            frames.append(Frame(command, sequence, bytes(buffer[offset + HEADER_SIZE : end]), flags))
            offset = end
        if buffer is data:
            if offset < total:
                self._buffer += data[offset:] if offset else data
        elif offset:
            del self._buffer[:offset]
        self._needed = needed
        return frames, self._early_violation() if self._buffer else None

    def _limit_with_flags(self, command: int, flags: int) -> int:
        """The payload limit of a frame with flags; -1 if a frame with this code may not have them."""
        if flags != CONTEXT or not self._takes_context or not (0 < command <= MAX_COMMAND or command == EXTRA):
            return -1
        return self._limit(command) + CONTEXT_BYTES

    def _early_violation(self) -> BadFrame | UnsupportedVersion | FrameTooLarge | None:
        """Report a wrong magic as soon as its first byte arrives, not only when a whole header has arrived."""
        start = bytes(self._buffer[:4])
        if start == MAGIC[: len(start)]:
            return None
        return self._violation(start, VERSION, 0, 0, 0, 0)

    def _violation(
        self, magic: bytes, version: int, command: int, size: int, sequence: int, flags: int
    ) -> BadFrame | UnsupportedVersion | FrameTooLarge:
        self._buffer = bytearray()
        if magic != MAGIC:
            return BadFrame(
                f"cannot read the frame: it starts with {magic.hex(' ')} instead of {MAGIC.hex(' ')}",
                hint="This socket speaks the Nexus protocol, not text or HTTP.",
            )
        if version != VERSION:
            return UnsupportedVersion(
                f"cannot speak protocol version {version}: this end speaks {VERSION}",
                details={"supported": [VERSION]},
            )
        error: BadFrame | FrameTooLarge
        limit = self._limit_with_flags(command, flags) if flags else self._limit(command)
        if limit < 0:
            which = "a flag that only requests have is set" if flags == CONTEXT else "reserved flags are set"
            error = BadFrame(f"cannot read the frame: {which} (0x{flags:04X})")
        else:
            error = FrameTooLarge(
                f"cannot accept a payload of {size} bytes for command {command}: the limit is {limit}",
                details={"limit": limit, "size": size},
            )
        error.sequence = sequence
        return error
