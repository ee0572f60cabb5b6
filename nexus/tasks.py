"""How asyncio tasks wait, and are cancelled where some work must be completed all the same."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

__all__ = ["BackgroundTasks", "Periodic", "cancel_and_wait", "deliver_again", "uninterrupted", "wait_until_set"]

T = TypeVar("T")


async def cancel_and_wait(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and wait until they have ended; their results and errors stay with them.

    A durable write that a cancellation meets is completed, and the task is cancelled at its next wait.
    """
    running = [task for task in tasks if task is not None and not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)


class BackgroundTasks:
    """The tasks of a manager that no request waits for; each is kept until it ends.

    An error that ends one is logged as one of ``owner``, unless it is ``expected``: whoever waits for it tells it.
    """

    def __init__(self, owner: str, log: logging.Logger, expected: tuple[type[Exception], ...] = ()) -> None:
        self._owner = owner
        self._log = log
        self._expected = expected
        self._tasks: set[asyncio.Task[Any]] = set()

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter(list(self._tasks))

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Carry work out in a task of its own."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, self._expected):
            self._log.error("a task of the %s failed", self._owner, exc_info=error)


class Periodic:
    """Work that begins with ``start``, and is done again ``interval_s`` after each end of it.

    An error ends none of it: ``what`` and ``done`` say in the log what could not be done, such as ``old metrics`` and
    ``deleted``. Those ``expected`` have no traceback there.
    """

    def __init__(
        self,
        work: Callable[[], Awaitable[None]],
        interval_s: float,
        log: logging.Logger,
        what: str,
        done: str,
        expected: tuple[type[Exception], ...],
    ) -> None:
        self._work = work
        self._interval_s = interval_s
        self._log = log
        self._what = what
        self._done = done
        self._expected = expected
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.create_task(self._repeat())

    async def close(self) -> None:
        """End the work."""
        await cancel_and_wait(self._task)

    async def _repeat(self) -> None:
        while True:
            try:
                await self._work()
            except self._expected as error:
                self._log.warning("%s cannot be %s at present: %s", self._what, self._done, error)
            except Exception:  # the next time may succeed
                self._log.exception("%s were not %s", self._what, self._done)
            await asyncio.sleep(self._interval_s)


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end; a cancellation meanwhile is delivered at the next wait after it."""
    task = asyncio.create_task(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        deliver_again()
    try:
        return task.result()
    finally:
        del task  # an error's traceback has this frame: no cycle may keep what the work held until a collection


async def wait_until_set(event: asyncio.Event, timeout_s: float | None) -> None:
    """Wait until an event is set. It is set after ``timeout_s`` seconds at the latest; None is no limit."""
    timer = None
    if timeout_s is not None:
        timer = asyncio.get_running_loop().call_later(max(timeout_s, 0), event.set)
    try:
        await event.wait()
    finally:
        if timer is not None:
            timer.cancel()


def deliver_again() -> None:
    """Deliver a cancellation that the current task caught again, where it next waits.

    If it does not wait again, it ends with its result. A deadline that was over before and has taken its cancellation
    back (``Task.uncancel``) cancels nothing later.
    """
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_soon(_cancel_again, task)


def _cancel_again(task: asyncio.Task[Any]) -> None:
    if not task.done() and task.cancelling():
        # The count of cancellations stays as it is.
        task.uncancel()
        task.cancel()
