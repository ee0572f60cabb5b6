"""The daemon's end of an open stream: items out while the client has room, Input in within its credit.

It knows the engine, the send buffer and the budgets of the connection that carries it, and no command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from nexus_protocol import (
    INPUT_CREDIT,
    MAX_PAYLOAD,
    Command,
    CommandInfo,
    Effect,
    Empty,
    InvalidArgument,
    ResourceExhausted,
    ServerConnection,
    command_decoder,
    encode_record,
)
from nexus_protocol.frame import INPUT

from nexus.daemon.budgets import ReceiveAccount
from nexus.daemon.send_buffer import SendBuffer

__all__ = ["MAX_QUEUED_INPUTS", "SessionStream", "decode_input", "encode_result"]

MAX_QUEUED_INPUTS = 1024
_MAX_QUEUED_INPUT_BYTES = 2 * INPUT_CREDIT
"""Of one stream. The credit limits ``data`` alone; this limit holds for ``control`` as well."""


class _Input(Command[Empty]):
    data: bytes | None = None
    eof: bool | None = None
    control: dict[str, Any] | None = None


# Decoded like a command, so that it is equally strict and gives the same error messages.
_decode = command_decoder(CommandInfo(INPUT, "Input", Effect.READ, _Input, Empty, None, (), 0, False, False))


def decode_input(payload: bytes) -> dict[str, Any]:
    """The map of an Input frame, with exactly one of ``data``, ``eof`` and ``control``.

    Raises:
        InvalidArgument: it is anything else.
    """
    body = msgspec.structs.asdict(_decode(payload))
    given = {key: value for key, value in body.items() if value is not None}
    if len(given) != 1 or given.get("eof") is False:
        raise InvalidArgument("cannot take the input: give exactly one of data, eof and control")
    return given


class SessionStream:
    """``nexus.capability.Stream`` on a connection."""

    def __init__(self, engine: ServerConnection, out: SendBuffer, account: ReceiveAccount, sequence: int) -> None:
        self.draining = False
        self._engine = engine
        self._out = out
        self._account = account
        self._sequence = sequence
        self._inputs: asyncio.Queue[tuple[dict[str, Any], int]] = asyncio.Queue()
        self._queued_bytes = 0
        self._wake: Callable[[], None] | None = None

    async def send(self, item: Any) -> None:
        await self._out.send_when_room(lambda: self._engine.send_item(self._sequence, encode_result(item)))

    async def ready(self) -> None:
        await self._out.wait_until_ready()

    async def receive(self) -> dict[str, Any]:
        body, size = await self._inputs.get()
        self._hold(-size)
        return body

    def receive_now(self) -> dict[str, Any] | None:
        if self._inputs.empty():
            return None
        body, size = self._inputs.get_nowait()
        self._hold(-size)
        return body

    async def acknowledge(self, size: int) -> None:
        await self._out.send_when_room(lambda: self._engine.send_ack(self._sequence, size))

    def on_draining(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def begin_drain(self) -> None:
        """Tell the handler that the daemon begins to stop."""
        self.draining = True
        if self._wake is not None:
            self._wake()

    def feed(self, body: dict[str, Any], size: int) -> None:
        """Queue an Input of ``size`` bytes for ``receive``.

        Raises:
            ResourceExhausted: this stream, or the streams of all connections, hold too much Input.
        """
        if self._inputs.qsize() >= MAX_QUEUED_INPUTS or self._queued_bytes + size > _MAX_QUEUED_INPUT_BYTES:
            raise ResourceExhausted("cannot take more input: the stream holds too much that is not yet read")
        self._account.check_input(size)
        self._hold(size)
        self._inputs.put_nowait((body, size))

    def close(self) -> None:
        """Drop the queued Input: the stream has ended."""
        self._inputs = asyncio.Queue()
        self._hold(-self._queued_bytes)

    def _hold(self, delta: int) -> None:
        self._queued_bytes += delta
        self._account.add_input(delta)


def encode_result(result: Any) -> bytes:
    """A reply or an item as a payload.

    Raises:
        ResourceExhausted: it is larger than a frame may be.
    """
    payload = encode_record(result)
    if len(payload) > MAX_PAYLOAD:
        raise ResourceExhausted(
            f"cannot send a result of {len(payload)} bytes: a frame holds {MAX_PAYLOAD}", details={"limit": MAX_PAYLOAD}
        )
    return payload
