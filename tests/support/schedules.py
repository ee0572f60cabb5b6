"""Schedules with a clock that the test sets: the real store, the real ticker and handlers, and no daemon around them.

Jobs are not run: the test ends them.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from nexus_protocol import Command

from nexus.caller import Caller
from nexus.capability import Context, ManagerContext
from nexus.jobs import store as jobs_store
from nexus.jobs.records import Job, Schedule
from nexus.jobs.schedules import handlers
from nexus.jobs.schedules.clock import Clock, Reading
from nexus.jobs.schedules.commands import CreateSchedule
from nexus.jobs.schedules.store import SCHEDULES
from nexus.jobs.schedules.ticker import Ticker
from nexus.jobs.states import ENDED, JobStatus
from nexus.jobs.store import JOBS
from nexus.journal.operation import Operation
from nexus.store import Transaction
from nexus.store.sqlite import SqliteStore
from nexus.supervision.boot import Boot
from support.stores import make_store, running

__all__ = ["DAY", "HOUR", "MINUTE", "SetClock", "World", "at", "shown", "world"]

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000

_HANDLERS = {
    handler.__nexus_handler__.info.request: handler.__nexus_handler__.fn
    for handler in map(handlers.__dict__.__getitem__, handlers.__all__)
}


def at(text: str, zone: str = "UTC") -> int:
    """A time such as ``2026-03-29 02:30``, in ms since 1970."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1000


def shown(at_ms: int, zone: str = "UTC") -> str:
    """A time with what its zone is ahead: ``2026-03-29 03:00 +0200``."""
    return datetime.fromtimestamp(at_ms / 1000, ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M %z")


class SetClock(Clock):
    """Both clocks stand still until they are set."""

    def __init__(self, wall_ms: int) -> None:
        super().__init__("boot-1")
        self.wall_ms = wall_ms
        self.boot_ms = 1_000_000
        self.boot = "boot-1"
        self.zone_mark: object = "zone"

    def read(self) -> Reading:
        return Reading(self.wall_ms, self.boot_ms, self.boot)

    def zone(self) -> object:
        return self.zone_mark

    def go(self, ms: int) -> None:
        """Let time pass, awake or asleep."""
        self.wall_ms += ms
        self.boot_ms += ms

    def set(self, ms: int) -> None:
        """Set the wall clock forward, or back."""
        self.wall_ms += ms

    def reboot(self, down_ms: int) -> None:
        """Boot the machine, after it was down for a time."""
        self.wall_ms += down_ms
        self.boot_ms = 5000
        self.boot = f"boot-after-{self.boot}"


class _Daemon:
    """What the handlers ask of the daemon: the manager of jobs, of which they use the ticker and its queue."""

    def __init__(self, ticker: Ticker) -> None:
        self.schedules = ticker

    def manager(self, _kind: object) -> Any:
        return self

    def wake(self) -> None:
        """Nothing is queued."""


class World:
    """The schedules of one store."""

    def __init__(self, store: SqliteStore, root: Path, clock: SetClock) -> None:
        self.store = store
        self.root = root
        self.clock = clock
        self.submitted = 0
        """How often the queue was woken."""
        self.cancelled: list[int] = []
        """The numbers of the jobs whose processes were ended."""
        self.ends_cancelled = True
        """Whether jobs end that are cancelled."""
        self.ticker = self._new_ticker()

    def _new_ticker(self) -> Ticker:
        none: Any = None
        context = ManagerContext(
            store=self.store,
            hooks=None,
            directory=self.root,
            runtime=none,
            boot=Boot(self.root),
            sweeper=none,
            ports=none,
            environments=none,
            nodes=none,
            leases=none,
            setting=none,
            caller=Caller(0, 1, "nexusd"),
        )
        return Ticker(context, self._note_submitted, self._cancel, self.clock)

    def _note_submitted(self) -> None:
        self.submitted += 1

    async def _cancel(self, job: Job, _operation: Operation) -> Job:
        self.cancelled.append(job.number)
        return await self.end(job.number, JobStatus.CANCELLED) if self.ends_cancelled else job

    async def call(self, command: Command[Any]) -> Any:
        """Carry out a command."""
        operation = Operation(Caller(0, 1, "test"), type(command).__name__)
        daemon: Any = _Daemon(self.ticker)
        context = Context(self.store, daemon, Caller(0, 1, "test"), operation=operation)
        fn = _HANDLERS[type(command)]
        if command.info.effect == "read":
            return fn(context, command)
        return await self.store.write(lambda tx: fn(tx, context, command))

    async def create(self, name: str = "a", **fields: Any) -> Schedule:
        """Create a schedule of a job that is never run."""
        made: Schedule = await self.call(CreateSchedule(name, command="true", directory="/", **fields))
        return made

    def get(self, name: str = "a") -> Schedule:
        """The record of a schedule."""
        row = self.store.read(lambda reader: reader.one("SELECT id FROM schedules WHERE name = ?", (name,)))
        assert row is not None
        return self.store.read(lambda reader: SCHEDULES.get(reader, row[0]))

    def jobs(self) -> list[Job]:
        """All jobs, oldest first."""
        rows = self.store.read(lambda reader: reader.all("SELECT id FROM jobs ORDER BY number"))
        return [self.store.read(lambda reader, id_=row[0]: JOBS.get(reader, id_)) for row in rows]  # type: ignore[misc]

    async def end(self, number: int, status: JobStatus = JobStatus.COMPLETED) -> Job:
        """End a job; those that wait for it go on."""
        (job,) = (job for job in self.jobs() if job.number == number)
        operation = Operation(Caller(0, 1, "test"), "adopted")

        def change(tx: Transaction) -> Job:
            present = JOBS.get(tx, job.id)
            if present.status is JobStatus.QUEUED and status is not JobStatus.CANCELLED:
                jobs_store.change_status(tx, operation, job.id, JobStatus.EXECUTING)
            ended = jobs_store.change_status(tx, operation, job.id, status)
            jobs_store.settle(tx, operation, job.id, 100)
            return ended

        return await self.store.write(change)

    async def execute(self, number: int, **columns: Any) -> None:
        """Let a job be executing."""
        (job,) = (job for job in self.jobs() if job.number == number)
        operation = Operation(Caller(0, 1, "test"), "adopted")
        await self.store.write(
            lambda tx: jobs_store.change_status(tx, operation, job.id, JobStatus.EXECUTING, **columns)
        )

    async def end_all(self) -> None:
        """End every job that has not ended."""
        for job in self.jobs():
            if job.status not in ENDED:
                await self.end(job.number)

    async def look(self) -> list[int]:
        """Let the ticker look, and end what it submitted; returns the numbers of the new jobs."""
        before = {job.number for job in self.jobs()}
        await self.ticker.look()
        new = [job.number for job in self.jobs() if job.number not in before]
        await self.end_all()
        return new

    async def pass_by(self, ms: int, step: int = 30_000) -> list[int]:
        """Let time pass with a look at each step; returns when schedules acted, by the wall clock."""
        acted: list[int] = []
        for _ in range(0, ms, step):
            self.clock.go(step)
            acted += [self.clock.wall_ms] * len(await self.look())
        return acted

    def restart(self) -> None:
        """A daemon that was killed is followed by another one."""
        self.ticker = self._new_ticker()

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The details of all events of a kind."""
        rows = self.store.read(
            lambda reader: reader.all("SELECT detail FROM journal WHERE kind = ? ORDER BY seq", (kind,))
        )
        return [msgspec.json.decode(row[0]) for row in rows]


@contextlib.asynccontextmanager
async def world(root: Path, now: str = "2026-06-01 10:00") -> AsyncIterator[World]:
    """A world in which it is this time."""
    async with running(make_store(root)) as store:
        made = World(store, root, SetClock(at(now)))
        try:
            yield made
        finally:
            await made.ticker.close()
