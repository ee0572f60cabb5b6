"""One run that has a process, of this daemon or an earlier one: whether it goes on, and how long it was up."""

from __future__ import annotations

import asyncio
import contextlib

from nexus.runtime import Watched
from nexus.runtime.status import boot_clock_ms
from nexus.supervision.requests import Requests

__all__ = ["Run", "RunExited"]

_LEFTOVERS_S = 0.1
"""Descendants that end within this time after the main process need no state of their own."""


class RunExited(Exception):
    """The main process has ended, so the present step is given up."""


class Run:
    """A run with a process. Its end wakes the task that supervises it."""

    def __init__(self, requests: Requests, process: Watched) -> None:
        self.process = process
        self._requests = requests
        self._started_ms = process.started_clock_ms or boot_clock_ms()
        """By the boot clock, which never jumps."""
        self._exited_ms = self._started_ms
        process.on_exit(self._note_exit)
        process.on_trouble(requests.wake)

    def _note_exit(self) -> None:
        self._exited_ms = boot_clock_ms()
        self._requests.wake()

    @property
    def up_ms(self) -> int:
        """How long the process ran, or runs."""
        if self.process.took_ms is not None:
            return self.process.took_ms
        return (boot_clock_ms() if self.process.exit is None else self._exited_ms) - self._started_ms

    def check(self) -> None:
        """Return while the run goes on undisturbed.

        Raises:
            RequestPending: there is a request.
            RunExited: the main process has ended.
        """
        self._requests.check()
        if self.process.exit is not None:
            raise RunExited

    async def is_gone(self) -> bool:
        """Whether every process of the run ends within a tenth of a second."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEFTOVERS_S):
                await self.process.wait()
                return True
        return False

    def release(self) -> None:
        """Stop watching; the process is not touched."""
        self.process.close()
