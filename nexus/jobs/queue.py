"""The queue: begins the next jobs of each group as its slots become free, and delayed ones when their time comes.

It is level-triggered: whatever wakes it, it reads what waits and counts what runs. It holds nothing of what waits.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Mapping

from nexus.capability import ManagerContext
from nexus.jobs import store
from nexus.jobs.records import Job
from nexus.jobs.store import JOBS
from nexus.runtime.status import now_ms
from nexus.store import StoreError
from nexus.tasks import cancel_and_wait

__all__ = ["JobQueue", "cores"]

_log = logging.getLogger("nexus.jobs")

_RELEASED_AT_ONCE = 500
_RETRY_S = 1.0
_LONGEST_WAIT_S = 30.0
"""Delays are by the wall clock, which may be set: the queue looks at it at least this often."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) or 1


class JobQueue:
    """Begins jobs by calling ``begin``; ``running`` counts them by group and node, and ``begun`` has their ids."""

    def __init__(
        self,
        context: ManagerContext,
        running: Mapping[tuple[str, str], int],
        begun: Collection[str],
        begin: Callable[[Job], None],
    ) -> None:
        self._context = context
        self._store = context.store
        self._running = running
        self._begun = begun
        self._begin = begin
        self._awake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.create_task(self._work())
        self.wake()

    async def close(self) -> None:
        """Begin no further job."""
        await cancel_and_wait(self._task)

    def wake(self) -> None:
        """Look again."""
        self._awake.set()

    def wake_later(self) -> None:
        """Look again in a second, after a job could not be begun."""
        asyncio.get_running_loop().call_later(_RETRY_S, self._awake.set)

    async def _work(self) -> None:
        await self._context.boot.reconciled()
        while True:
            self._awake.clear()
            left_s: float | None = _RETRY_S
            try:
                left_s = await self._release()
                self._fill()
            except StoreError as error:
                _log.warning("the queue of jobs cannot go on, trying again: %s", error.message)
            except Exception:  # the queue must go on
                _log.exception("the queue of jobs failed, trying again")
            timer = None
            if left_s is not None:
                timer = asyncio.get_running_loop().call_later(min(left_s, _LONGEST_WAIT_S), self._awake.set)
            try:
                await self._awake.wait()
            finally:
                if timer is not None:
                    timer.cancel()

    async def _release(self) -> float | None:
        """Let delayed jobs begin whose time has come; returns the seconds until the next one."""
        while True:
            due = self._store.read(store.next_due)
            if due is None:
                return None
            if due > now_ms():
                return (due - now_ms()) / 1000
            operation = self._context.cause("job.due")
            await self._store.write(lambda tx, led=operation: store.release_due(tx, led, _RELEASED_AT_ONCE))  # type: ignore[misc]

    def _fill(self) -> None:
        for group, slots in self._store.read(store.waiting_groups):
            of_group = {node: count for (name, node), count in self._running.items() if name == group and count > 0}
            most = cores() if slots is None else slots
            # Those that were begun are queued until their rows say otherwise.
            limit = most + sum(of_group.values())
            for job_id, node in self._store.read(lambda reader, g=group, n=limit: store.next_jobs(reader, g, n)):  # type: ignore[misc]
                if job_id in self._begun or of_group.get(node, 0) >= most:
                    continue
                job = self._store.read(lambda reader, id_=job_id: JOBS.by_id(reader, id_))  # type: ignore[misc]
                if job is None:
                    continue
                of_group[node] = of_group.get(node, 0) + 1
                self._begin(job)
