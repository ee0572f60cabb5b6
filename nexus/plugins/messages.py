"""What the daemon and the plugins' process say to each other: MessagePack after four bytes of length, big-endian.

It knows no socket. The daemon reads with a typed decoder and leaves a plugin's values encoded: what a plugin gives
never becomes objects of the daemon's.
"""

from __future__ import annotations

from typing import Any

import msgspec

from nexus.plugins.commands import Plugin
from nexus.plugins.sources import Source

__all__ = [
    "MAX_MESSAGE_BYTES",
    "MAX_VALUE_BYTES",
    "PREFIX_BYTES",
    "Call",
    "Entered",
    "Failed",
    "Result",
    "Load",
    "Loaded",
    "Reply",
    "Request",
    "Vetoed",
    "decode_reply",
    "decode_request",
    "framed",
]

PREFIX_BYTES = 4
MAX_VALUE_BYTES = 1024 * 1024
"""What a plugin may give."""
MAX_MESSAGE_BYTES = MAX_VALUE_BYTES + 64 * 1024


class Load(msgspec.Struct, frozen=True, array_like=True, tag="load"):
    """Load these, once, as the first message."""

    files: list[Source]
    entry_points: bool
    broken: dict[str, str]
    """By name, those that a process has ended with already, and how: they are not tried again."""
    timeout_ms: int
    load_timeout_ms: int
    lua_memory_mib: int


class Call(msgspec.Struct, frozen=True, array_like=True, tag="ask"):
    """Call every plugin's hook."""

    hook: str
    arguments: dict[str, Any]


class Entered(msgspec.Struct, frozen=True, array_like=True, tag="entered"):
    """From here on it is this plugin that runs."""

    plugin: str


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag="loaded"):
    """All plugins, the failed ones too."""

    plugins: list[Plugin]


class Result(msgspec.Struct, frozen=True, array_like=True, tag="given"):
    """What they gave."""

    value: msgspec.Raw


class Vetoed(msgspec.Struct, frozen=True, array_like=True, tag="vetoed"):
    """One of them does not want it."""

    plugin: str
    reason: str


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """One of them failed."""

    plugin: str
    reason: str
    unusable: bool
    """Whether nothing can be expected of the process any more."""


Request = Load | Call
Reply = Entered | Loaded | Result | Vetoed | Failed

_encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Load | Call).decode
decode_reply = msgspec.msgpack.Decoder(Entered | Loaded | Result | Vetoed | Failed).decode


def framed(message: Request | Reply) -> bytes:
    """The bytes of one message."""
    data = _encode(message)
    return len(data).to_bytes(PREFIX_BYTES, "big") + data
