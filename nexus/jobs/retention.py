"""Deletes jobs that ended long ago, and the oldest output where all of it is more than is to be kept."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from nexus.capability import ManagerContext
from nexus.jobs import store
from nexus.jobs.store import JOBS
from nexus.store import StoreError, Transaction
from nexus.tasks import cancel_and_wait

__all__ = ["Retention"]

_log = logging.getLogger("nexus.jobs")

_INTERVAL_S = 600.0
_PAUSE_S = 1.0
"""The least time between two looks."""
_STEP = 100
_DAY_MS = 86_400_000


class Retention:
    """Looks every ten minutes, and when the output of ended jobs has grown beyond what is kept.

    ``forget`` deletes the output of a job.
    """

    def __init__(self, context: ManagerContext, forget: Callable[[str], Awaitable[None]]) -> None:
        self._context = context
        self._store = context.store
        self._forget = forget
        self._task: asyncio.Task[None] | None = None
        self._kept_bytes = 0
        """The output that is kept, as far as it is known."""
        self._grown = asyncio.Event()

    def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """End the work."""
        await cancel_and_wait(self._task)

    def add(self, size_bytes: int) -> None:
        """A job has ended, with that much output."""
        self._kept_bytes += size_bytes
        if size_bytes and self._kept_bytes > self._context.setting("jobs.max_output"):
            self._grown.set()

    async def _work(self) -> None:
        while True:
            self._grown.clear()
            try:
                await self.apply()
            except StoreError as error:
                _log.warning("old jobs cannot be deleted at present: %s", error.message)
            except Exception:  # the next look may succeed
                _log.exception("old jobs were not deleted")
            await asyncio.sleep(_PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_INTERVAL_S):
                    await self._grown.wait()

    async def apply(self) -> None:
        """Delete what is too old, then output beyond the bound, oldest first.

        Raises:
            StoreError: the store cannot be read or written.
        """
        operation = self._context.cause("jobs.retention")
        before = self._context.boot.trusted_now_ms() - self._context.setting("jobs.keep_days") * _DAY_MS

        def delete(tx: Transaction) -> list[str]:
            jobs = [
                job for job in store.ended_before(tx, before, None, False, _STEP) if not store.dependents(tx, job.id, 1)
            ]
            for job in jobs:
                store.delete(tx, operation, job)
            return [job.id for job in jobs]

        while deleted := await self._store.write(delete, size_bytes=_STEP * 512):
            for job_id in deleted:
                await self._forget(job_id)
            await asyncio.sleep(0)
        await self._bound_output()

    async def _bound_output(self) -> None:
        most = self._context.setting("jobs.max_output")
        self._kept_bytes = await self._store.write(
            store.output_total
        )  # in the writer's thread: it reads an index whole
        operation = self._context.cause("jobs.retention")
        while self._kept_bytes > most:
            oldest = self._store.read(lambda reader: store.oldest_outputs(reader, _STEP))
            if not oldest:
                return
            dropped: list[str] = []
            for job_id, size in oldest:
                if self._kept_bytes <= most:
                    break
                await self._forget(job_id)
                dropped.append(job_id)
                self._kept_bytes -= size

            def note(tx: Transaction, ids: list[str] = dropped) -> None:
                for job_id in ids:
                    JOBS.write(tx, operation, job_id, {"output_bytes": 0})

            await self._store.write(note)
