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
from nexus.jobs.states import JobStatus
from nexus.jobs.store import JOBS
from nexus.runtime.status import now_ms
from nexus.store import StoreError
from nexus.supervision.nodes import LOCAL, Blocked
from nexus.tasks import cancel_and_wait, wait_until_set

__all__ = ["JobQueue", "cores"]

_log = logging.getLogger("nexus.jobs")

_RELEASED_AT_ONCE = 500
_NOTED = 5
"""Of the jobs that wait for a node, so many say why."""
_RETRY_S = 1.0
_LONGEST_HOLD_S = 8.0
_LONGEST_WAIT_S = 30.0
"""Delays are by the wall clock, which may be set: the queue looks at it at least this often."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) or 1


def _may_begin(job: Job) -> bool:
    return job.status is JobStatus.QUEUED and job.waits_for == 0 and job.not_before is None


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
        self._hold_s = 0.0
        self._held_until = 0.0

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

    def hold(self) -> None:
        """Begin nothing for a second, because one could not be begun; twice as long each further time."""
        self._hold_s = min(self._hold_s * 2 or _RETRY_S, _LONGEST_HOLD_S)
        self._held_until = asyncio.get_running_loop().time() + self._hold_s

    def go_on(self) -> None:
        """One was begun: what was in the way of others is not there any more."""
        self._hold_s = self._held_until = 0.0

    async def _work(self) -> None:
        await self._context.boot.reconciled()
        while True:
            self._awake.clear()
            left_s: float | None
            try:
                left_s = await self._release()
                held_s = self._held_until - asyncio.get_running_loop().time()
                if held_s > 0:
                    left_s = held_s if left_s is None else min(left_s, held_s)
                else:
                    await self._note(self._fill())
            except StoreError as error:
                left_s = _RETRY_S
                _log.warning("the queue of jobs cannot go on, trying again: %s", error.message)
            except Exception:  # the queue must go on
                left_s = _RETRY_S
                _log.exception("the queue of jobs failed, trying again")
            await wait_until_set(self._awake, None if left_s is None else min(left_s, _LONGEST_WAIT_S))

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

    def _fill(self) -> dict[str, Blocked]:
        """Begin what may begin; gives the next jobs of nodes on which none may, with the reason."""
        notes: dict[str, Blocked] = {}
        nodes = self._store.read(store.node_ids)
        for group, slots in self._store.read(store.waiting_groups):
            for node in nodes:
                running = self._running.get((group, node), 0)
                free = (self._cores(node) if slots is None else slots) - running
                # Those that were begun are queued until their rows say otherwise.
                ids = self._next(group, node, free + running) if free > 0 else []
                why = self._blocked(node) if ids else None
                if why is not None:
                    notes |= dict.fromkeys(ids[:_NOTED] if why.text else [], why)
                    continue
                for job_id in ids:
                    if free <= 0 or job_id in self._begun:
                        continue
                    job = self._store.read(lambda reader, id_=job_id: JOBS.by_id(reader, id_))  # type: ignore[misc]
                    if job is None or (job.group, job.node_id) != (group, node) or not _may_begin(job):
                        continue  # it was changed since the list was read
                    free -= 1
                    self._begin(job)
        return notes

    def _next(self, group: str, node: str, limit: int) -> list[str]:
        return self._store.read(lambda reader: store.next_jobs_on(reader, group, node, limit))

    def _cores(self, node: str) -> int:
        provider = self._context.nodes.provider
        there = None if node == LOCAL or provider is None else provider.cores(node)
        return cores() if there is None else there

    def _blocked(self, node: str) -> Blocked | None:
        provider = self._context.nodes.provider
        return None if node == LOCAL or provider is None else provider.blocked(node)

    async def _note(self, notes: dict[str, Blocked]) -> None:
        """Write why jobs do not begin that would be next on their nodes."""
        news: dict[str, tuple[str, str]] = {}
        for job_id, why in notes.items():
            job = self._store.read(lambda reader, id_=job_id: JOBS.by_id(reader, id_))  # type: ignore[misc]
            if job is not None and job.reason != why.text:
                news[job_id] = why
        if news:
            operation = self._context.cause("job.blocked")
            await self._store.write(lambda tx: store.note_blocked(tx, operation, news))
