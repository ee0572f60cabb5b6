"""Clients that wait for one object: for its start, for its readiness, or for any change. They may leave at any time."""

from __future__ import annotations

import asyncio

from nexus_protocol import NexusError

__all__ = ["Waiters"]


class Waiters:
    """The waits for one object."""

    def __init__(self) -> None:
        self._starters: list[tuple[bool, asyncio.Future[NexusError | None]]] = []
        """Per waiting start: whether it waits for readiness, and the future of its outcome."""
        self._listeners: list[asyncio.Future[None]] = []

    async def outcome(self, *, ready: bool) -> None:
        """Wait until the object is up, or with ``ready`` until it is healthy or completed.

        Raises:
            NexusError: it failed to get there.
        """
        future: asyncio.Future[NexusError | None] = asyncio.get_running_loop().create_future()
        self._starters.append((ready, future))
        try:
            error = await future
        finally:
            self._starters = [starter for starter in self._starters if starter[1] is not future]
        if error is not None:
            raise error

    def succeed(self, *, ready: bool) -> None:
        """End the waits for a start; those for readiness only with ``ready``."""
        for wants_ready, future in self._starters:
            if not future.done() and (ready or not wants_ready):
                future.set_result(None)

    def fail(self, error: NexusError) -> None:
        """End the waits for a start with an error."""
        for _, future in self._starters:
            if not future.done():
                future.set_result(error)

    async def changed(self) -> None:
        """Wait for the next change of the object's record, or for its end."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._listeners.append(future)
        await future

    def notify(self) -> None:
        """End every ``changed``."""
        listeners, self._listeners = self._listeners, []
        for future in listeners:
            if not future.done():
                future.set_result(None)
