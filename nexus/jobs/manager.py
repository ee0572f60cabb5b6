"""Keeps the records of jobs and their processes in agreement: begins, cancels, adopts, and deletes what is old.

What is queued is a row, and nothing in memory; what has ended is not held.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from typing import NamedTuple, cast

from msgspec.structs import replace
from nexus_protocol import NexusError

from nexus.attaching import Run
from nexus.capability import ManagerContext
from nexus.hints import command_line
from nexus.jobs import store
from nexus.jobs.commands import GetJobOutput
from nexus.jobs.driver import JOB_OWNER, Begun, JobDriver, JobState, owner_of_job
from nexus.jobs.errors import JobChanged, JobCursorInvalid, JobNodeUnavailable
from nexus.jobs.queue import JobQueue
from nexus.jobs.records import Job
from nexus.jobs.retention import Retention
from nexus.jobs.schedules.ticker import Ticker
from nexus.jobs.states import ENDED, JobReason, JobStatus
from nexus.jobs.store import JOBS
from nexus.journal.operation import Operation
from nexus.records.processes import InputUnavailable, LogPiece
from nexus.records.scope import reference_of
from nexus.runtime import CursorGone, LogCursor, RuntimeFailure
from nexus.store import Reader, StoreError
from nexus.supervision.adoption import RecordedRun, find_runs, wait_until_handled
from nexus.supervision.nodes import LOCAL
from nexus.supervision.output import Followers, read_output
from nexus.supervision.requests import Reason, StopRequest
from nexus.supervision.supervised import Supervised
from nexus.supervision.supervisor import Supervisor
from nexus.supervision.sweeper import Known
from nexus.tasks import BackgroundTasks, cancel_and_wait

__all__ = ["JobManager", "make_manager"]

_log = logging.getLogger("nexus.jobs")

_STARTS_AT_ONCE = 8
_SETTLED_AT_ONCE = 100
_BEGUN_AT_MOST = 10
"""How often a job is begun on demand that is changed each time."""
_RETRY_S = 1.0
_CANCELLED = Reason(JobReason.CANCELLED, "cancelled on demand")
_WAITING = (JobStatus.QUEUED, JobStatus.STASHED)


class _Supervision(NamedTuple):
    """A job that has a process, or is about to get one."""

    supervisor: Supervisor
    subject: Supervised
    state: JobState


class JobManager:
    """The jobs of one daemon that run, and the queue of all others."""

    def __init__(self, context: ManagerContext) -> None:
        self.environments = context.environments
        self._context = context
        self._store = context.store
        self._jobs: dict[str, _Supervision] = {}
        self._slots: dict[str, tuple[str, str]] = {}
        """By the id of a job, the group and the node whose slot it has."""
        self._running: Counter[tuple[str, str]] = Counter()
        self._launches = asyncio.Semaphore(_STARTS_AT_ONCE)
        self._queue = JobQueue(context, self._running, self._jobs.keys(), self._begin)
        self._retention = Retention(context, self.forget)
        self.schedules = Ticker(context, self.wake, lambda job, operation: self.cancel(job, operation, now=False))
        self._followers = Followers()
        self._waits: dict[str, set[Callable[[str], None]]] = {}
        """By the id of a job, what is called once it has ended."""
        self._begins: dict[str, set[asyncio.Event]] = {}
        """By the id of a job, what is set when it may have got a process."""
        self._unsettled: deque[str] = deque()
        self._settling: asyncio.Task[None] | None = None
        self._tasks = BackgroundTasks("jobs", _log)
        context.sweeper.register(JOB_OWNER, self._known)
        context.nodes.register_user(store.runs_on, self.wake)
        context.leases.register_carrier(self)
        context.leases.register_jobs(store.end_of)
        context.environments.register_borrower(
            lambda reader, kind: store.borrowed_services(reader) if kind == "service" else set()
        )

    # The daemon's start and end

    async def start(self) -> None:
        """Adopt what runs, write the ends of what does not, and then begin what is queued."""
        rows = self._store.read(store.alive, snapshot=True)
        runs = [
            RecordedRun(owner_of_job(stored.job.id), stored.run_id, self._context.nodes.elsewhere(stored.job.node_id))
            for stored in rows
        ]
        found = await find_runs(self._context.runtime, runs)
        handled = []
        for stored, each in zip(rows, found, strict=True):
            supervision = self._supervise(stored.job, None, None)
            supervision.state.record = stored.job
            was_unknown = stored.job.unknown_since is not None
            handled.append(supervision.supervisor.resume(each, run_id=stored.run_id, was_unknown=was_unknown))
        await wait_until_handled(handled)
        self._settle(self._store.read(store.ended_with_waiters, snapshot=True))
        self._queue.start()
        self._retention.start()
        self.schedules.start()

    async def close(self) -> None:
        """Stop watching every process; they keep running."""
        await self.schedules.close()
        await self._queue.close()
        await self._retention.close()
        await cancel_and_wait(self._settling, *self._tasks)
        await asyncio.gather(*(each.supervisor.close() for each in self._jobs.values()))

    def children(self) -> int:
        """How many jobs have processes, or are about to get one; what begins later counts as one more."""
        return len(self._jobs) + (self.schedules.is_waiting or self._store.read(store.begins_later))

    def _known(self, job_id: str) -> Known:
        stored = self._store.read(lambda reader: store.stored(reader, job_id))
        return Known(False) if stored is None else Known(True, stored.run_id)

    # One supervision

    def _begin(self, job: Job, operation: Operation | None = None) -> None:
        """Begin an attempt; without an operation of its own because the queue says so."""
        begun = Begun(job, on_demand=operation is not None)
        self._supervise(job, operation, begun).supervisor.begin()

    def _supervise(self, job: Job, operation: Operation | None, begun: Begun | None) -> _Supervision:
        state = JobState(self._context, job.id)
        elsewhere = self._context.nodes.elsewhere(job.node_id)
        owner = owner_of_job(job.id)
        subject = Supervised(self._context, "job", owner, state, lambda: self._changed(job.id), elsewhere)
        led = operation or state.operation
        driver = JobDriver(self._context, subject, state, led, self._launches, begun, elsewhere)
        supervisor = Supervisor(subject, driver, lambda: self._ended(job.id))
        supervision = self._jobs[job.id] = _Supervision(supervisor, subject, state)
        slot = (job.group, job.node_id)
        self._running[slot] += 1
        self._slots[job.id] = slot
        state.on_process_ended = lambda: self._free_slot(job.id)
        return supervision

    def _free_slot(self, job_id: str) -> None:
        """No process of the job has its slot any more."""
        slot = self._slots.pop(job_id, None)
        if slot is not None:
            self._running[slot] -= 1
            if not self._running[slot]:
                del self._running[slot]
            self._queue.wake()

    def _changed(self, job_id: str) -> None:
        for begun in self._begins.get(job_id, ()):
            begun.set()

    def _ended(self, job_id: str) -> None:
        """A supervision is over: the job has ended, or waits for its next attempt, or could not be begun."""
        supervision = self._jobs.pop(job_id)
        self._free_slot(job_id)
        not_begun = supervision.state.not_begun
        if not_begun is None:
            self._queue.go_on()
        elif not isinstance(not_begun, (JobChanged, JobNodeUnavailable)):
            self._queue.hold()
        job = self._store.read(lambda reader: JOBS.by_id(reader, job_id))
        if job is None or job.status in ENDED:
            self.ended([job_id])
        if job is not None and job.status in ENDED:
            self._retention.add(job.output_bytes or 0)
        self._queue.wake()

    def ended(self, job_ids: Iterable[str]) -> None:
        """Jobs have ended: those that wait for one of them go on."""
        for job_id in job_ids:
            for call in list(self._waits.pop(job_id, ())):
                call(job_id)
            self._context.leases.job_ended(job_id)
            if self._store.read(lambda reader, id_=job_id: store.dependents(reader, id_, 1)):  # type: ignore[misc]
                self._settle([job_id])

    def _settle(self, job_ids: list[str]) -> None:
        self._unsettled += job_ids
        if self._unsettled and self._settling is None:
            self._settling = asyncio.create_task(self._settle_all())

    async def _settle_all(self) -> None:
        """Let jobs go on that waited for others, in steps that hold up no other writes."""
        try:
            while self._unsettled:
                ended_id = self._unsettled[0]
                operation = self._context.cause("job.after")
                try:
                    waiting = await self._store.write(
                        lambda tx, id_=ended_id, led=operation: store.settle(tx, led, id_, _SETTLED_AT_ONCE)  # type: ignore[misc]
                    )
                except StoreError as error:
                    _log.warning("what waits for a job cannot be written, trying again: %s", error.message)
                    await asyncio.sleep(_RETRY_S)
                    continue
                if not waiting.more:
                    self._unsettled.popleft()
                if waiting.released:
                    self._queue.wake()
                self.ended(waiting.cancelled)
        finally:
            self._settling = None

    # Commands

    def wake(self) -> None:
        """Records were changed: begin what may begin now."""
        self._queue.wake()

    def carried(self, reader: Reader) -> set[str]:
        """As ``Carrier``."""
        return store.carried_leases(reader)

    async def lost(self, lease_id: str, reason: str, operation: Operation) -> None:
        """As ``Carrier``: cancel the jobs that were submitted under a lease and have not ended."""
        jobs = self._store.read(lambda reader: store.under_lease(reader, lease_id))
        why = Reason(JobReason.CANCELLED, f"cancelled because {reason}")
        await asyncio.gather(*(self.cancel(job, operation, now=False, reason=why) for job in jobs))

    async def cancel(
        self, job: Job, operation: Operation, *, now: bool, abandon: bool = False, reason: Reason = _CANCELLED
    ) -> Job:
        """Cancel a job; returns it once every process of it has ended.

        With ``abandon`` those on a node that cannot be reached are not waited for.

        Raises:
            StoreError: it has ended, and that cannot be written.
        """
        supervision = self._jobs.get(job.id)
        if supervision is None:
            state = JobState(self._context, job.id)
            cancelled = await state.cancel_waiting(operation, reason)
            if cancelled.status in ENDED:
                self.ended([job.id])
                return cancelled
            supervision = self._jobs.get(job.id)  # the queue has begun it meanwhile
        if supervision is not None:
            stop = supervision.subject.requests.stop
            at_once = now or (stop is not None and stop.on_demand)
            abandon = abandon and job.node_id != LOCAL
            if abandon:
                reason = Reason(JobReason.ABANDONED, f'cancelled without waiting for node "{job.node_id}"')
            await supervision.supervisor.stop(
                StopRequest(operation, reason, on_demand=True, grace_ms=0 if at_once else None, abandon=abandon)
            )
        return self._store.read(lambda reader: JOBS.get(reader, job.id))

    async def begin_now(self, job: Job, operation: Operation) -> None:
        """Begin a job that waits, past its slots; returns once it has a process, has ended, or waits again.

        Raises:
            JobNotFound: it was deleted meanwhile.
            JobChanged: it was changed each time that it was to begin.
            StoreError: that it begins cannot be written.
            ResourceExhausted: the machine has no room for it at present.
        """
        error: NexusError | None = None
        for _ in range(_BEGUN_AT_MOST):
            supervision = self._jobs.get(job.id)
            if supervision is None:
                self._begin(job, operation)
                supervision = self._jobs[job.id]
            while self._jobs.get(job.id) is supervision and supervision.supervisor.run is None:
                await supervision.subject.waiters.changed()
            error = supervision.state.not_begun
            if error is None:
                return
            if not isinstance(error, JobChanged):
                raise error
            job = self._store.read(lambda reader, id_=job.id: JOBS.get(reader, id_))  # type: ignore[misc]
            if job.status not in _WAITING:
                return
        assert error is not None
        raise error

    async def run_of(self, job: Job, *, wait: bool) -> Run:
        """The present run of a job; with ``wait`` of one that waits, once it has begun.

        Raises:
            InputUnavailable: it has none, and none is waited for.
        """
        cannot = f"cannot {'attach' if wait else 'send input'} to job {job.number}"
        if not (job.tty or job.stdin_open):
            raise InputUnavailable(
                f"{cannot}: it was submitted without a terminal and without an open input",
                hint=f"Look at its output: {command_line('nexusctl', 'job', 'logs', reference_of(job))}",
                details={"id": job.id, "number": job.number},
            )
        begun = asyncio.Event()
        self._begins.setdefault(job.id, set()).add(begun)
        try:
            with self._waiting_for([job.id], lambda _id: begun.set()):
                while True:
                    supervision = self._jobs.get(job.id)
                    run = None if supervision is None else supervision.supervisor.run
                    if run is not None:
                        return Run(self._context.runtime, run.process.owner, run.process.run_id)
                    present = self._store.read(lambda reader: JOBS.get(reader, job.id))
                    if not wait or present.status in ENDED:
                        raise InputUnavailable(
                            f"{cannot}: it {_has_ended_or_is(present.status)}",
                            hint=_look_at(present),
                            details={"id": job.id, "number": job.number, "status": present.status.value},
                        )
                    begun.clear()
                    await begun.wait()
        finally:
            begins = self._begins.get(job.id, set())
            begins.discard(begun)
            if not begins:
                self._begins.pop(job.id, None)

    @contextlib.contextmanager
    def _waiting_for(self, job_ids: Iterable[str], call: Callable[[str], None]) -> Iterator[None]:
        ids = list(job_ids)
        for job_id in ids:
            self._waits.setdefault(job_id, set()).add(call)
        try:
            yield
        finally:
            for job_id in ids:
                calls = self._waits.get(job_id)
                if calls is not None:
                    calls.discard(call)
                    if not calls:
                        del self._waits[job_id]

    async def wait(self, job_ids: list[str]) -> None:
        """Wait until all of these jobs have ended, or were deleted."""
        left = set(job_ids)
        done = asyncio.Event()

        def ended(job_id: str) -> None:
            left.discard(job_id)
            if not left:
                done.set()

        def still_open(reader: Reader) -> set[str]:
            return {id_ for id_ in left if (job := JOBS.by_id(reader, id_)) is not None and job.status not in ENDED}

        with self._waiting_for(job_ids, ended):
            left &= self._store.read(still_open, snapshot=True)
            if left:
                await done.wait()

    async def output(
        self, job: Job, command: GetJobOutput, until: asyncio.Event | None = None
    ) -> AsyncIterator[LogPiece]:
        """The output of a job; with ``follow`` until it has ended.

        Raises:
            JobCursorInvalid: the cursor is no place of the output that is kept.
        """
        log = self._context.runtime.log(owner_of_job(job.id))
        limits = (command.lines, command.since_at, command.stream, command.cursor)
        is_whole = command.mark_start and limits == (None,) * len(limits)
        with self._followers.follow(job.id, until) as ended, self._waiting_for([job.id], lambda _id: ended.set()):
            present = self._store.read(lambda reader: JOBS.by_id(reader, job.id))
            if present is None or present.status in ENDED:
                ended.set()
            try:
                pieces = read_output(log, command, ended)
                async with contextlib.aclosing(cast("AsyncGenerator[LogPiece]", pieces)):
                    async for piece in pieces:
                        if is_whole:  # its first item, which has no data
                            lost = sum(LogCursor.parse(piece.cursor).offsets)
                            piece = replace(piece, dropped_bytes=lost)
                            is_whole = False
                        yield piece
            except CursorGone:
                raise JobCursorInvalid(
                    f'cannot continue the output of job "{command.job}": the output that the cursor belongs to was '
                    "deleted",
                    hint="Ask for the output without a cursor.",
                    details={"job": command.job},
                ) from None

    def deleted(self, job_ids: list[str]) -> None:
        """Delete the output of jobs whose records were deleted."""

        async def forget() -> None:
            for job_id in job_ids:
                await self.forget(job_id)

        for job_id in job_ids:
            self._followers.end(job_id)
        self.ended(job_ids)
        self._tasks.spawn(forget())

    async def forget(self, job_id: str) -> None:
        """Delete the output of a job that has no process."""
        try:
            await self._context.runtime.remove(owner_of_job(job_id))
        except (RuntimeFailure, OSError) as error:
            _log.warning("the output of job %s was not deleted: %s", job_id, error)


def _has_ended_or_is(status: JobStatus) -> str:
    return f"has ended ({status})" if status in ENDED else f"is {status}"


def _look_at(job: Job) -> str:
    if job.status in ENDED:
        return f"Look at its output: {command_line('nexusctl', 'job', 'logs', reference_of(job))}"
    return f"Look at it: {command_line('nexusctl', 'job', 'inspect', reference_of(job))}"


def make_manager(context: ManagerContext) -> JobManager:
    """The manager of this capability."""
    return JobManager(context)
