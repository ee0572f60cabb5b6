"""The ticker: acts on the times of schedules as they come.

It is level-triggered: whatever wakes it, it reads both clocks and the schedules that are due by them. One timer waits
for the next time, for half a minute at most: the wall clock may be set, and timers stop while the machine sleeps.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from nexus.capability import ManagerContext
from nexus.jobs.errors import JobNotFound
from nexus.jobs.records import Job
from nexus.jobs.schedules import store
from nexus.jobs.schedules.clock import Clock, Reading
from nexus.jobs.schedules.firing import fire, plan_again
from nexus.jobs.states import ENDED, JobReason
from nexus.jobs.store import JOBS
from nexus.journal.operation import Operation
from nexus.store import Reader, StoreError, Transaction
from nexus.tasks import cancel_and_wait, wait_until_set

__all__ = ["Ticker"]

_log = logging.getLogger("nexus.jobs")

_AT_ONCE = 50
"""How many schedules are written together; other writes go between these steps."""
_FIRED_BYTES = 4096
_RETRY_S = 1.0
_LONGEST_WAIT_S = 30.0
_SET_MS = 1000
"""A wall clock that differs from the boot clock by more than before was set."""
_START = (-(2**63), "")

_Due = Callable[[Reader, int, tuple[int, str], int], list[tuple[int, str]]]


class Ticker:
    """Acts on the schedules of one daemon.

    ``submitted`` is called once there are new jobs, and ``cancel`` ends the processes of a job that is replaced.
    """

    def __init__(
        self,
        context: ManagerContext,
        submitted: Callable[[], None],
        cancel: Callable[[Job, Operation], Awaitable[Job]],
        clock: Clock | None = None,
    ) -> None:
        self.clock = Clock(context.boot.id) if clock is None else clock
        self._context = context
        self._store = context.store
        self._submitted = submitted
        self._cancel = cancel
        self._awake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._cancelling: dict[str, asyncio.Task[None]] = {}
        self._planned_with: tuple[int, object] | None = None
        """What the wall clock was ahead, and the zone, when all next times were found."""
        self._troubled = False
        self._replacing = True
        """Whether there may be jobs that are replaced and have not ended."""
        self.is_waiting = False
        """Whether a schedule has a next time, so that the daemon is needed then."""

    def start(self) -> None:
        """Begin to work."""
        self.is_waiting = self._left_s(self.clock.read()) is not None
        self._task = asyncio.create_task(self._work())
        self.wake()

    async def close(self) -> None:
        """Act on no further time."""
        await cancel_and_wait(self._task, *self._cancelling.values())

    def wake(self) -> None:
        """Look again."""
        self._awake.set()

    async def _work(self) -> None:
        await self._context.boot.reconciled()
        while True:
            self._awake.clear()
            left_s: float | None = _RETRY_S
            try:
                left_s = await self.look()
                self._troubled = False
            except StoreError as error:
                if not self._troubled:
                    _log.warning("schedules cannot go on, trying again each second: %s", error.message)
                self._troubled = True
            except Exception:  # the other schedules must go on
                _log.exception("the ticker of schedules failed, trying again")
            await wait_until_set(self._awake, None if left_s is None else min(left_s, _LONGEST_WAIT_S))

    async def look(self) -> float | None:
        """Act on every time that has come; returns the seconds until the next one, None without one.

        Raises:
            StoreError: the store cannot be read or written.
        """
        reading = self.clock.read()
        await self._plan(reading)
        for due, now in ((store.due_by_clock, reading.wall_ms), (store.due_by_interval, reading.boot_ms)):
            await self._fire_all(due, now, reading)
        self._cancel_replaced()
        left_s = self._left_s(self.clock.read())
        self.is_waiting = left_s is not None
        return left_s

    def _left_s(self, reading: Reading) -> float | None:
        nexts = (
            (self._store.read(store.next_by_clock), reading.wall_ms),
            (self._store.read(store.next_by_interval), reading.boot_ms),
        )
        return min((max(due - now, 1) / 1000 for due, now in nexts if due is not None), default=None)

    async def _plan(self, reading: Reading) -> None:
        """Find all next times again at the start of the daemon, and after the clock was set or the zone changed."""
        zone = self.clock.zone()
        if self._planned_with is not None:
            offset, before = self._planned_with
            if before == zone and abs(reading.offset_ms - offset) < _SET_MS:
                return
        after = ""
        while ids := await self._store.fetch(lambda reader, last=after: store.active(reader, last, _AT_ONCE)):  # type: ignore[misc]
            await self._each(ids, "schedule.planned", plan_again, reading)
            after = ids[-1]
        self._planned_with = (reading.offset_ms, zone)

    async def _fire_all(self, due: _Due, now: int, reading: Reading) -> None:
        after = _START
        while found := await self._store.fetch(lambda reader, last=after: due(reader, now, last, _AT_ONCE)):  # type: ignore[misc]
            jobs = await self._each([id_ for _due, id_ in found], "schedule.due", fire, reading)
            self._note(jobs)
            after = found[-1]

    def _note(self, jobs: Sequence[Job | None]) -> None:
        """Let jobs begin that were submitted, and end those that they replace."""
        submitted = [job for job in jobs if job is not None]
        if submitted:
            self._submitted()
        if any(job.after for job in submitted):
            self._replacing = True
            self._cancel_replaced()

    async def _each(
        self,
        ids: Sequence[str],
        cause: str,
        act: Callable[[Transaction, Operation, str, Reading], Job | None],
        reading: Reading,
    ) -> list[Job | None]:
        """Write for each schedule, in a transaction of its own; a bug in one does not keep the others.

        Raises:
            StoreError: one could not be written.
        """

        def write(id_: str) -> Coroutine[Any, Any, Job | None]:
            operation = self._context.cause(cause)
            return self._store.write(lambda tx: act(tx, operation, id_, reading), size_bytes=_FIRED_BYTES)

        results = await asyncio.gather(*(write(id_) for id_ in ids), return_exceptions=True)
        jobs: list[Job | None] = []
        troubles: list[StoreError] = []
        for id_, result in zip(ids, results, strict=True):
            if isinstance(result, StoreError):
                troubles.append(result)
            elif isinstance(result, BaseException):
                _log.error("schedule %s failed", id_, exc_info=result)
            else:
                jobs.append(result)
        if troubles:
            self._note(jobs)
            raise troubles[0]
        return jobs

    def _cancel_replaced(self) -> None:
        """Cancel the jobs that later ones of their schedules replace. A daemon killed before repeats it."""
        if not self._replacing:
            return
        replaced = self._store.read(store.replaced_jobs)
        self._replacing = bool(replaced)
        for job_id in replaced:
            job = self._store.read(lambda reader, id_=job_id: JOBS.by_id(reader, id_))  # type: ignore[misc]
            if job is None or job.reason_code is JobReason.CANCELLING:
                continue  # a second request would not leave it its grace time
            if job_id not in self._cancelling:
                self._cancelling[job_id] = asyncio.create_task(self._cancel_one(job))

    async def _cancel_one(self, job: Job) -> None:
        try:
            if not await self._ended(job):
                await asyncio.sleep(_RETRY_S)
        finally:
            del self._cancelling[job.id]
        self.wake()

    async def _ended(self, job: Job) -> bool:
        """Cancel a job; returns whether it has ended."""
        try:
            return (await self._cancel(job, self._context.cause("schedule.due"))).status in ENDED
        except JobNotFound:
            return True
        except StoreError as error:
            _log.warning("job %s cannot be replaced at present: %s", job.id, error.message)
        except Exception:  # looked at again
            _log.exception("job %s was not replaced", job.id)
        return False
