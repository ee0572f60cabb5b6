"""The daemon's end of an open stream: items out while the client has room, input in within its credit.

It knows the session that carries it, and no command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from nexus_protocol import (
    INPUT_CREDIT,
    MAX_PAYLOAD,
    Command,
    CommandInfo,
    Empty,
    InvalidArgument,
    ResourceExhausted,
    command_decoder,
    encode_record,
)
from nexus_protocol.frame import INPUT

if TYPE_CHECKING:
    from nexus.daemon.client_session import ClientSession
    from nexus.daemon.send_buffer import SendBuffer

__all__ = ["MAX_QUEUED_INPUTS", "SessionStream", "decode_input", "encode_result"]

MAX_QUEUED_INPUTS = 1024
_MAX_QUEUED_INPUT_BYTES = 2 * INPUT_CREDIT
"""Of one stream. Data is kept within the credit; this is for control as well, which has none."""


class _Input(Command[Empty]):
    data: bytes | None = None
    eof: bool | None = None
    control: dict[str, Any] | None = None


# Decoded as a command is, with the same strictness and the same words.
_decode = command_decoder(CommandInfo(INPUT, "Input", _Input, Empty, None, (), 0, False, False))


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
    """``nexus.capability.Stream`` on a session."""

    def __init__(self, session: ClientSession, out: SendBuffer, sequence: int) -> None:
        self._session = session
        self._out = out
        self._sequence = sequence
        self._inputs: asyncio.Queue[tuple[dict[str, Any], int]] = asyncio.Queue()
        self._queued_bytes = 0
        self._wake: Callable[[], None] | None = None

    async def send(self, item: Any) -> None:
        engine = self._session.engine
        await self._out.send_when_room(lambda: engine.send_item(self._sequence, encode_result(item)))

    async def ready(self) -> None:
        await self._out.wait_until_ready()

    async def receive(self) -> dict[str, Any]:
        body, size = await self._inputs.get()
        self._hold(-size)
        return body

    async def acknowledge(self, size: int) -> None:
        await self._out.send_when_room(lambda: self._session.engine.send_ack(self._sequence, size))

    @property
    def draining(self) -> bool:
        return self._session.draining

    def on_draining(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def begin_drain(self) -> None:
        if self._wake is not None:
            self._wake()

    def feed(self, body: dict[str, Any], size: int) -> None:
        if self._inputs.qsize() >= MAX_QUEUED_INPUTS or self._queued_bytes + size > _MAX_QUEUED_INPUT_BYTES:
            raise ResourceExhausted("cannot take more input: too much of it waits to be read")
        self._session.make_room_for_input(size)
        self._hold(size)
        self._inputs.put_nowait((body, size))

    def close(self) -> None:
        """The stream has ended: nobody will read what waits."""
        self._inputs = asyncio.Queue()
        self._hold(-self._queued_bytes)

    def _hold(self, delta: int) -> None:
        self._queued_bytes += delta
        self._session.account_input(delta)


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
