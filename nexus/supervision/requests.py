"""Requests to a task that supervises one object: stop and restart, and the waits that end as soon as one arrives.

A request never acts by itself. It is stored and wakes the task, which reads the state again and decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from nexus.journal.operation import Operation
from nexus.tasks import cancel_and_wait, wait_until_set

__all__ = ["Reason", "Request", "RequestPending", "Requests", "RestartRequest", "StartOptions", "StopRequest"]

T = TypeVar("T")


class Reason(NamedTuple):
    """Why an object is in its state: ``code`` is for programs, ``text`` is the sentence for people."""

    code: str
    text: str


@dataclass(frozen=True)
class StartOptions:
    """The arguments of one start on demand."""

    operation: Operation
    environment: dict[str, str] | None = field(default=None, repr=False)
    """Variables beside those of the record. None: those of the last start, or none for the first."""


class StopRequest(NamedTuple):
    """A request to stop."""

    operation: Operation
    reason: Reason
    on_demand: bool
    """Whether a person or program asked for it, so that autostart leaves the object alone until the next boot."""
    strict: bool = False
    """Whether it is refused, and nothing is ended, if it cannot be written."""
    grace_ms: int | None = None
    """From the stop signal to SIGKILL; 0 kills at once. None: what the run was started with."""
    abandon: bool = False
    """Whether a run whose host cannot be reached is given up: its end is not waited for."""


class RestartRequest(NamedTuple):
    """A request to end the run and begin another one."""

    operation: Operation
    reason: Reason
    counts: bool = False
    """Whether it is one of the restarts that the policy limits."""
    options: StartOptions | None = None
    """Given for a restart on demand, which starts dependencies; else the next run waits for them."""


Request = StopRequest | RestartRequest


class RequestPending(Exception):
    """A request has arrived, so the present step is given up."""


class Requests:
    """The requests to one task. A stop takes precedence over a restart."""

    def __init__(self) -> None:
        self.stop: StopRequest | None = None
        self.restart: RestartRequest | None = None
        self.waited = asyncio.Event()
        """Set when the task first waits or writes state: adoption of the object is complete."""
        self._awake = asyncio.Event()

    @property
    def pending(self) -> bool:
        """Whether there is a request."""
        return self.stop is not None or self.restart is not None

    @property
    def current(self) -> Request | None:
        """The request that is carried out next."""
        return self.stop or self.restart

    def withdraw(self, request: Request) -> None:
        """Take a request back that was refused, unless another one has replaced it."""
        if self.stop is request:
            self.stop = None
        elif self.restart is request:
            self.restart = None

    def wake(self) -> None:
        """Make the task read the state again."""
        self._awake.set()

    def check(self) -> None:
        """Return if there is no request.

        Raises:
            RequestPending: there is one.
        """
        if self.pending:
            raise RequestPending

    async def wait(self, timeout_s: float | None = None) -> None:
        """Wait for the next ``wake``, or for ``timeout_s`` seconds.

        Raises:
            RequestPending: a request is there, or arrived.
        """
        self.check()
        self.waited.set()
        if not self._awake.is_set():
            await wait_until_set(self._awake, timeout_s)
        self._awake.clear()
        self.check()

    async def interruptible(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` and return its result; it is cancelled when a request arrives.

        Raises:
            RequestPending: a request arrived first.
        """
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._awake.set())
        try:
            while not task.done():
                await self.wait()
        finally:
            await cancel_and_wait(task)
            if not task.cancelled():
                task.exception()  # retrieved, so that asyncio does not log it when RequestPending is raised instead
        return task.result()
