"""The byte budgets of the daemon over all its connections: unsent replies, received bytes, and unread Input.

It counts and decides. It knows no socket and no session: each connection has a ``ReceiveAccount`` here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nexus_protocol import ResourceExhausted

from nexus.config import Limits

__all__ = ["Budgets", "ReceiveAccount"]

_FREE_RECEIVE_BYTES = 64 * 1024
"""What each connection may hold even if the receive budget is spent, so that small requests always get through."""
_LARGE_REPLIES = 4
"""Large replies that are produced at the same time."""


class Budgets:
    """What all connections of one daemon hold together, and whether they may hold more.

    ``on_receive_room`` is called in a later turn of the loop once connections that stopped reading should check
    again whether they may read.
    """

    __slots__ = (
        "_exempt",
        "_loop",
        "_on_receive_room",
        "_recheck",
        "input_bytes",
        "large_replies",
        "limits",
        "received_bytes",
        "unsent_bytes",
    )

    def __init__(self, limits: Limits, loop: asyncio.AbstractEventLoop, on_receive_room: Callable[[], None]) -> None:
        self.limits = limits
        """The limits in force. They change when the configuration is reloaded."""
        self.unsent_bytes = 0
        """Encoded and not yet sent. Each ``SendBuffer`` adds and subtracts its share."""
        self.received_bytes = 0
        """Received and not yet dispatched, and Input that waits in open streams."""
        self.input_bytes = 0
        """The part of ``received_bytes`` that is Input."""
        self.large_replies = asyncio.Semaphore(_LARGE_REPLIES)
        """Held while a large reply is produced, never while waiting for a client to read."""
        self._exempt: ReceiveAccount | None = None
        """The one connection that is read although the receive budget is spent, so that its large frame completes."""
        self._recheck = asyncio.Event()
        self._loop = loop
        self._on_receive_room = on_receive_room

    def send_budget_spent(self) -> bool:
        """Whether all connections together hold more unsent bytes than ``send_budget_bytes``."""
        return self.unsent_bytes > self.limits.send_budget_bytes

    async def wait_for_recheck(self) -> None:
        """Wait for the next ``recheck``; then the send budget may have room, or may not."""
        self._recheck.clear()
        await self._recheck.wait()

    def recheck(self) -> None:
        """Wake all that wait in ``wait_for_recheck``. The server calls this at every tick."""
        self._recheck.set()

    def receive_budget_spent(self) -> bool:
        """Whether all connections together hold more received bytes than ``receive_budget_bytes``."""
        return self.received_bytes > self.limits.receive_budget_bytes

    def _may_receive(self, account: ReceiveAccount) -> bool:
        """Whether a connection that holds more than the free bytes may read on.

        With a spent budget one connection may: of many large frames that are each half received none would complete
        otherwise.
        """
        if not self.receive_budget_spent():
            return True
        if self._exempt is None:
            self._exempt = account
        return self._exempt is account

    def _end_exemption(self, account: ReceiveAccount) -> None:
        if self._exempt is account:
            self._exempt = None
            self._loop.call_soon(self._on_receive_room)


class ReceiveAccount:
    """The share of one connection in the receive budget and in its part for Input."""

    __slots__ = ("_budgets", "input_bytes", "received_bytes")

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets
        self.received_bytes = 0
        """Received and not yet dispatched. Input in open streams is not part of it."""
        self.input_bytes = 0
        """Input that waits in open streams. It does not stop the reading: a Cancel or the end has to get through."""

    def set_received(self, size: int) -> None:
        """This connection now holds ``size`` bytes that are received and not yet dispatched."""
        self._budgets.received_bytes += size - self.received_bytes
        self.received_bytes = size
        if size <= _FREE_RECEIVE_BYTES:
            self._budgets._end_exemption(self)

    def may_receive(self) -> bool:
        """Whether this connection may read on."""
        return self.received_bytes <= _FREE_RECEIVE_BYTES or self._budgets._may_receive(self)

    def check_input(self, size: int) -> None:
        """Refuse Input once the streams of all connections hold as much of it as the receive budget allows.

        Raises:
            ResourceExhausted: there is no room for ``size`` bytes more.
        """
        limit = self._budgets.limits.receive_budget_bytes
        if self.input_bytes + size > _FREE_RECEIVE_BYTES and self._budgets.input_bytes + size > limit:
            raise ResourceExhausted(
                "cannot take more input: the streams of all connections hold too much that is not yet read",
                hint="Try again once other streams have read theirs.",
                details={"limit": limit},
            )

    def add_input(self, delta: int) -> None:
        """Count ``delta`` bytes more, or fewer if negative, of Input in this connection's streams."""
        self.input_bytes += delta
        self._budgets.input_bytes += delta
        self._budgets.received_bytes += delta
