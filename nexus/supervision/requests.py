"""What is wished of a service while it lives, and how its life waits: never longer than until the next wish."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from nexus.supervision.tasks import cancel_and_wait

if TYPE_CHECKING:
    from nexus.capability import Caller

__all__ = ["RestartWish", "StopWish", "Told", "Wishes"]

T = TypeVar("T")


class StopWish(NamedTuple):
    """That a service is to be stopped, by whom and why."""

    caller: Caller
    reason: str
    on_demand: bool
    """Whether somebody asked for it, so that it is not started with the daemon before the next boot."""


class RestartWish(NamedTuple):
    """That a run is to be ended and followed by another one."""

    caller: Caller
    reason: str
    counts: bool = False
    """Whether it is one of the restarts that the policy limits."""
    on_demand: bool = False
    """Whether what it depends on is started for it, else it waits for that."""


class Told(Exception):
    """There is a wish to be obeyed."""


class Wishes:
    """The wishes for one life. A stop comes before a restart."""

    def __init__(self) -> None:
        self.stop: StopWish | None = None
        self.restart: RestartWish | None = None
        self.waited = asyncio.Event()
        """Set once the life has come to wait for something."""
        self._awake = asyncio.Event()

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return self.stop is not None or self.restart is not None

    def wake(self) -> None:
        """Make the life look again at what is true."""
        self._awake.set()

    def check(self) -> None:
        """Raise Told when there is a wish."""
        if self.any:
            raise Told

    async def woken(self, after_s: float | None = None) -> None:
        """Wait to be woken, or for so long; raises Told when there is a wish."""
        self.check()
        self.waited.set()
        if not self._awake.is_set():
            timer = None
            if after_s is not None:
                timer = asyncio.get_running_loop().call_later(max(after_s, 0), self._awake.set)
            try:
                await self._awake.wait()
            finally:
                if timer is not None:
                    timer.cancel()
        self._awake.clear()
        self.check()

    async def unless_told(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for what may take long; it is given up for a wish."""
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._awake.set())
        try:
            while not task.done():
                await self.woken()
        finally:
            await cancel_and_wait(task)
            if not task.cancelled():
                task.exception()  # looked at, whoever raises now
        return task.result()
