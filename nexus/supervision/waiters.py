"""Those who wait for a service: for its start, for its health, or for any change of it. They may leave at any time."""

from __future__ import annotations

import asyncio

from nexus_protocol import NexusError

__all__ = ["Starters", "Waiters"]

Starters = list[tuple[bool, asyncio.Future[NexusError | None]]]
"""Whether each wants it to be ready, and what it waits for."""


class Waiters:
    """Who waits for one service."""

    def __init__(self) -> None:
        self._starters: Starters = []
        self._listeners: list[asyncio.Future[None]] = []

    async def outcome(self, *, ready: bool) -> None:
        """Wait until it is up, or with ``ready`` healthy or completed.

        Raises:
            NexusError: it did not come to that.
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
        """It is up, or ready too."""
        for wants_ready, future in self._starters:
            if not future.done() and (ready or not wants_ready):
                future.set_result(None)

    def present(self) -> Starters:
        """Those who wait for its start now, for ``fail``: who comes later waits for another one."""
        return list(self._starters)

    def fail(self, error: NexusError, *, only_ready: bool = False, among: Starters | None = None) -> None:
        """It did not come up; with ``only_ready`` it has, and will not be healthy."""
        for wants_ready, future in self._starters if among is None else among:
            if not future.done() and (wants_ready or not only_ready):
                future.set_result(error)

    async def news(self) -> None:
        """Wait for the next change of its row, or its rest."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._listeners.append(future)
        await future

    def tell(self) -> None:
        """There is a change."""
        listeners, self._listeners = self._listeners, []
        for future in listeners:
            if not future.done():
                future.set_result(None)
