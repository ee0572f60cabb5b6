"""The messages between the daemon and the plugins' process: MessagePack after a length of four bytes, big-endian.

It knows no socket. The daemon reads with a typed decoder and leaves a plugin's values encoded: a plugin's return value
never becomes an object in the daemon.
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
    "Load",
    "Loaded",
    "Reply",
    "Request",
    "Result",
    "Vetoed",
    "decode_reply",
    "decode_request",
    "framed",
]

PREFIX_BYTES = 4
MAX_VALUE_BYTES = 1024 * 1024
"""The largest encoded value that a plugin may return."""
MAX_MESSAGE_BYTES = MAX_VALUE_BYTES + 64 * 1024


class Load(msgspec.Struct, frozen=True, array_like=True, tag="load"):
    """Load these plugins. It is the first message, and is sent once."""

    files: list[Source]
    entry_points: bool
    broken: dict[str, str]
    """Plugins that ended an earlier process while they were loaded, by name, with the reason. They are not retried."""
    timeout_ms: int
    load_timeout_ms: int
    lua_memory_mib: int


class Call(msgspec.Struct, frozen=True, array_like=True, tag="call"):
    """Call this hook of every plugin that has it."""

    hook: str
    arguments: dict[str, Any]


class Entered(msgspec.Struct, frozen=True, array_like=True, tag="entered"):
    """This plugin's code runs from now on."""

    plugin: str


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag="loaded"):
    """The reply to ``Load``: all plugins, including the failed ones."""

    plugins: list[Plugin]


class Result(msgspec.Struct, frozen=True, array_like=True, tag="result"):
    """The reply to ``Call``: the changes of the environment, or the return value of ``extra``."""

    value: msgspec.Raw


class Vetoed(msgspec.Struct, frozen=True, array_like=True, tag="vetoed"):
    """The reply to ``Call``: a plugin vetoed."""

    plugin: str
    reason: str


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """The reply to ``Call``: a plugin failed."""

    plugin: str
    reason: str
    unusable: bool
    """Whether the process must be replaced."""


Request = Load | Call
Reply = Entered | Loaded | Result | Vetoed | Failed

_encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Load | Call).decode
decode_reply = msgspec.msgpack.Decoder(Entered | Loaded | Result | Vetoed | Failed).decode


def framed(message: Request | Reply) -> bytes:
    """Encode one message with its length."""
    data = _encode(message)
    return len(data).to_bytes(PREFIX_BYTES, "big") + data
