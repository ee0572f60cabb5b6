"""Any order of commands, exits, daemon ends and full disks leaves statuses that are true of the processes.

One job manager after the other runs in the test's process, over the same database and folder. After each step the
counters of what waits are compared with what it waits for; once all is at rest, rows, processes, slots and files are.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from nexus_protocol import Command, NexusError
from support.daemon import short_directory
from support.job_managers import JobDaemon, ReadableStore
from support.jobs import processes_of_jobs
from support.soak import SOAK
from support.stores import make_store
from support.supervised import until

from nexus.jobs import manager, queue
from nexus.jobs.commands import (
    CancelJob,
    CreateJob,
    CreateJobGroup,
    DeleteJob,
    EnqueueJob,
    MoveJob,
    PauseJobGroup,
    PruneJobs,
    ResumeJobGroup,
    RetryJob,
    StartJob,
    StashJob,
    UpdateJob,
)
from nexus.jobs.records import Job
from nexus.jobs.states import ENDED, JobStatus
from nexus.store.sqlite import SqliteStore
from nexus.supervision import adoption, state_writer, supervisor

T = TypeVar("T")

SCRIPTS = {
    "nap": "exec sleep 1000",
    "done": "exit 0",
    "fails": "exit 3",
    "soon": "sleep 0.02; exit 0",
    "stubborn": "trap '' TERM; sleep 1000 & wait",
    "leaves": "setsid setsid -f sleep 1000; exit 0",
    "missing": None,
}
GROUPS = {"one": 1, "two": 2}
OPEN = ("queued", "stashed", "executing", "unknown")
EXPECTED = (
    "job.status",
    "job.not_found",
    "job.needed",
    "job.changed",
    "job.invalid",
    "store.disk_full",
    "resource_exhausted",
)
TARGET = st.integers(0, 30)


class JobsMachine(RuleBasedStateMachine):
    """The jobs of one daemon after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.root = short_directory()
        self.plain: SqliteStore = make_store(self.root)
        self.plain.init()
        self.loop.run_until_complete(self.open_store())
        self.store = ReadableStore(self.plain)  # type: ignore[arg-type]
        self.daemon = JobDaemon(self.root, self.store)
        self.ids: list[str] = []
        self.forced: set[str] = set()
        """Jobs that were begun past their slots."""
        self.background: set[asyncio.Task[Any]] = set()

    # Helpers

    async def open_store(self) -> None:
        self.plain.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def turn(self) -> None:
        async def turn() -> None:
            for _ in range(10):
                await asyncio.sleep(0)

        self.run(turn())

    async def attempt(self, command: Command[Any]) -> Any:
        try:
            return await self.daemon.call(command)
        except NexusError as error:
            if error.type not in EXPECTED and error.code not in EXPECTED:
                raise
            return None

    def begin(self, command: Command[Any]) -> None:
        """Carry out a command that may wait for a later step."""

        async def begin() -> None:
            task = asyncio.create_task(self.attempt(command))
            self.background.add(task)
            task.add_done_callback(self.background.discard)
            await asyncio.wait({task}, timeout=0.02)
            if task.done():
                task.result()

        self.run(begin())

    def target(self, index: int) -> str:
        return self.ids[index % len(self.ids)] if self.ids else "none-at-all"

    def jobs(self) -> dict[str, Any]:
        names = ("id", "status", "group_name", "waits_for", "pid", "run_id", "environment", "completed_at", "attempt")
        rows = self.daemon.rows(f"SELECT {', '.join(names)} FROM jobs")
        return {row[0]: dict(zip(names, row, strict=True)) for row in rows}

    # Steps

    @initialize()
    def set_up(self) -> None:
        self.run(self.daemon.start())
        for name, slots in GROUPS.items():
            self.run(self.daemon.call(CreateJobGroup(name=name, slots=slots)))

    @rule(
        script=st.sampled_from(sorted(SCRIPTS)),
        group=st.sampled_from(sorted(GROUPS)),
        stashed=st.booleans(),
        retries=st.sampled_from((0, 0, 1)),
        after=st.lists(st.tuples(TARGET, st.sampled_from(("", ":completed", ":any"))), max_size=2),
        delay=st.sampled_from((None, None, 0, 20)),
    )
    def submit(
        self,
        script: str,
        group: str,
        stashed: bool,
        retries: int,
        after: list[tuple[int, str]],
        delay: int | None,
    ) -> None:
        line = SCRIPTS[script]
        command = ["/no/such/program"] if line is None else ["/bin/sh", "-c", f"echo $NEXUS_RUN_ID; {line}"]
        job: Job | None = self.run(
            self.attempt(
                CreateJob(
                    command,
                    directory="/",
                    environment={"PATH": os.defpath},
                    group=group,
                    stashed=stashed,
                    retries=retries,
                    retry_backoff_ms=10,
                    after=[self.target(index) + condition for index, condition in after if self.ids],
                    delay_ms=delay,
                    stop_grace_ms=50,
                    log_limit_mib=1,
                )
            )
        )
        if job is not None:
            self.ids.append(job.id)

    @rule(index=TARGET, now=st.booleans())
    def cancel(self, index: int, now: bool) -> None:
        self.begin(CancelJob(self.target(index), now=now))

    @rule(index=TARGET)
    def start(self, index: int) -> None:
        self.forced.add(self.target(index))
        self.begin(StartJob(self.target(index)))

    @rule(index=TARGET, in_place=st.booleans())
    def retry(self, index: int, in_place: bool) -> None:
        job = self.run(self.attempt(RetryJob(self.target(index), in_place=in_place, environment={"PATH": os.defpath})))
        if job is not None and job.id not in self.ids:
            self.ids.append(job.id)

    @rule(index=TARGET)
    def stash(self, index: int) -> None:
        self.run(self.attempt(StashJob(self.target(index))))

    @rule(index=TARGET, delay=st.sampled_from((None, 10)))
    def enqueue(self, index: int, delay: int | None) -> None:
        self.run(self.attempt(EnqueueJob(self.target(index), delay_ms=delay)))

    @rule(index=TARGET, before=TARGET, last=st.booleans())
    def move(self, index: int, before: int, last: bool) -> None:
        self.run(self.attempt(MoveJob(self.target(index), before=None if last else self.target(before), last=last)))

    @rule(index=TARGET, group=st.sampled_from(sorted(GROUPS)), priority=st.integers(-1, 1))
    def update(self, index: int, group: str, priority: int) -> None:
        self.run(self.attempt(UpdateJob(self.target(index), group=group, priority=priority)))

    @rule(index=TARGET)
    def delete(self, index: int) -> None:
        if self.run(self.attempt(DeleteJob(self.target(index)))) is not None:
            self.ids.remove(self.target(index))

    @rule()
    def prune(self) -> None:
        pruned = self.run(self.attempt(PruneJobs()))
        if pruned is not None:
            self.ids = [id_ for id_ in self.ids if id_ not in pruned.ids]

    @rule(group=st.sampled_from(sorted(GROUPS)), paused=st.booleans())
    def pause(self, group: str, paused: bool) -> None:
        self.run(self.attempt(PauseJobGroup(group) if paused else ResumeJobGroup(group)))

    @rule(index=TARGET, number=st.sampled_from((signal.SIGKILL, signal.SIGTERM)))
    def signal_process(self, index: int, number: signal.Signals) -> None:
        for pid in processes_of_jobs().get(self.target(index), ()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    @rule(meanwhile=st.booleans())
    def next_daemon(self, meanwhile: bool) -> None:
        """The daemon ends, and the next one begins; ``meanwhile`` some processes are killed."""
        self.run(self.daemon.end())
        for task in list(self.background):
            task.cancel()
        self.turn()
        if meanwhile:
            for number in range(0, len(self.ids), 2):
                self.signal_process(number, signal.SIGKILL)
        self.daemon = JobDaemon(self.root, self.store)
        self.run(self.daemon.start())

    @precondition(lambda self: not self.store.full)
    @rule()
    def fill(self) -> None:
        self.store.full = True

    @precondition(lambda self: self.store.full)
    @rule()
    def drain(self) -> None:
        self.store.full = False

    @rule()
    def let_time_pass(self) -> None:
        self.run(asyncio.sleep(0.03))

    # What holds

    @invariant()
    def counters_are_those_of_what_is_waited_for(self) -> None:
        self.turn()
        rows = self.daemon.rows(
            "SELECT status, waits_for, (SELECT count(*) FROM job_after WHERE job_id = jobs.id) FROM jobs"
        )
        for status, waits_for, count in rows:
            assert waits_for == count, (status, waits_for, count)
            assert status in ("queued", "stashed") or not count
        assert self.daemon.rows("SELECT 1 FROM job_after WHERE job_id NOT IN (SELECT id FROM jobs)") == []
        for job in self.jobs().values():
            assert (job["completed_at"] is not None) == (JobStatus(job["status"]) in ENDED), job
            if JobStatus(job["status"]) in ENDED:
                assert (job["environment"], job["run_id"], job["pid"]) == (None, None, None), job

    @invariant()
    def no_group_has_more_processes_than_slots(self) -> None:
        alive, jobs = processes_of_jobs(), self.jobs()
        for group, slots in GROUPS.items():
            running = [
                id_
                for id_, job in jobs.items()
                if job["group_name"] == group and job["status"] == "executing" and id_ in alive
            ]
            assert len([id_ for id_ in running if id_ not in self.forced]) <= slots, running

    def teardown(self) -> None:
        try:
            if self.ids or self.jobs():
                self.come_to_rest()
        finally:
            self.store.full = False
            for pids in (processes_of_jobs().get(id_, set()) for id_ in self.ids):
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            self.run(self.daemon.end())
            self.run(self.plain.close())
            self.loop.close()
            shutil.rmtree(self.root)

    def come_to_rest(self) -> None:
        self.store.full = False
        daemon = self.daemon
        for name in GROUPS:
            self.run(daemon.call(ResumeJobGroup(name)))

        def ready() -> bool:
            """Whether nothing changes by itself any more: only what naps runs, and what waits for it."""
            jobs = self.jobs()
            executing = [id_ for id_, job in jobs.items() if job["status"] == "executing"]
            alive = processes_of_jobs()
            return (
                all(jobs[id_]["pid"] in alive.get(id_, ()) for id_ in executing)
                and not any(job["status"] == "unknown" for job in jobs.values())
                and not set(daemon.manager._jobs) - set(executing)
                and not self.background
                and not daemon.rows("SELECT 1 FROM jobs WHERE status = 'queued' AND not_before IS NOT NULL")
                and not any(self.has_idle_slot(group, jobs) for group in GROUPS)
            )

        self.run(until(ready, "the jobs to come to rest"))
        jobs, alive = self.jobs(), processes_of_jobs()
        for id_, job in jobs.items():
            assert (id_ in alive) == (job["status"] == "executing"), (job, alive.get(id_))
        assert set(daemon.manager._jobs) == {id_ for id_, job in jobs.items() if job["status"] == "executing"}
        counted = dict(daemon.manager._running)
        for group in GROUPS:
            executing = sum(job["group_name"] == group and job["status"] == "executing" for job in jobs.values())
            assert counted.get((group, "local"), 0) == executing
        for _ in range(3):  # what is cancelled may let others begin
            for id_, job in self.jobs().items():
                if job["status"] in OPEN:
                    self.run(daemon.call(CancelJob(id_, now=True)))
        self.run(until(lambda: self.all_ended(daemon), "all jobs to have ended"))
        manager = daemon.manager
        assert (manager._jobs, dict(manager._running), manager._waits, manager._begins) == ({}, {}, {}, {})
        assert daemon.rows("SELECT * FROM job_after") == []
        assert not set(processes_of_jobs()) & set(self.ids)
        self.run(until(lambda: self.left_files() == [], f"no file to be left: {self.left_files()}"))
        for id_, job in self.jobs().items():
            log = self.daemon.runtime.log(f"job-{id_}")
            runs = [line for line in log.end_of(1, 65536).decode().split() if len(line) == 32]
            assert len(set(runs)) == len(runs) <= job["attempt"], "a run began twice"

    @staticmethod
    def has_idle_slot(group: str, jobs: dict[str, Any]) -> bool:
        """Whether a slot of a group is free, and a job waits for it."""
        found = [job for job in jobs.values() if job["group_name"] == group]
        executing = sum(job["status"] == "executing" for job in found)
        return executing < GROUPS[group] and any(job["status"] == "queued" and not job["waits_for"] for job in found)

    def all_ended(self, daemon: JobDaemon) -> bool:
        return not daemon.manager._jobs and all(JobStatus(job["status"]) in ENDED for job in self.jobs().values())

    def left_files(self) -> list[str]:
        """Files of runs, and of jobs that were deleted."""
        known = {f"job-{id_}" for id_ in self.jobs()}
        folders = list(Path(self.daemon.directory).glob("job-*"))
        found = [folder.name for folder in folders if folder.name not in known]
        return found + [str(path) for folder in folders for path in folder.iterdir() if path.name != "log"]


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is so at once."""
    for module, name in (
        (adoption, "_LOOK_AGAIN_S"),
        (state_writer, "_RETRY_S"),
        (supervisor, "_RETRY_S"),
        (manager, "_RETRY_S"),
        (queue, "_RETRY_S"),
        (queue, "_LONGEST_HOLD_S"),
    ):
        monkeypatch.setattr(module, name, 0.01)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("_part", range(SOAK))
def test_any_order_of_events_ends_in_true_statuses(_part: int) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        JobsMachine,
        settings=settings(
            max_examples=20,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
