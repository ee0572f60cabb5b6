"""The jobs of a daemon, observed from outside: by its socket, its files and the list of processes."""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from collections import defaultdict
from pathlib import Path
from typing import Any

from nexus_protocol import Command, NexusError, decode_reply

from nexus.jobs.commands import (
    CancelJob,
    CreateJob,
    CreateJobGroup,
    DeleteJob,
    DeleteJobGroup,
    EnqueueJob,
    GetJob,
    GetJobOutput,
    ListJobGroups,
    ListJobs,
    MoveJob,
    PauseJobGroup,
    PruneJobs,
    ResumeJobGroup,
    RetryJob,
    StartJob,
    StashJob,
    UpdateJob,
    WaitJobs,
)
from nexus.jobs.records import Job, JobGroup, JobsWaited
from nexus.jobs.states import ENDED, JobStatus
from nexus.journal.commands import WatchEvents
from nexus.records.processes import LogPiece
from support.cli import Cli
from support.daemon import DaemonProcess
from support.raw import RawClient, connect, wait_until
from support.services import write_fifo
from support.stores import look_at

__all__ = ["Jobs", "processes_of_jobs"]

OPEN = (JobStatus.QUEUED, JobStatus.STASHED, JobStatus.EXECUTING, JobStatus.UNKNOWN)


def processes_of_jobs() -> dict[str, set[int]]:
    """The pids of all processes that have a job's environment, by the id of the job. Zombies are not found."""
    found: dict[str, set[int]] = defaultdict(set)
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                for variable in Path(f"/proc/{entry.name}/environ").read_bytes().split(b"\0"):
                    if variable.startswith(b"NEXUS_JOB_ID="):
                        found[variable.partition(b"=")[2].decode()].add(int(entry.name))
    return dict(found)


class Jobs:
    """The jobs of one daemon."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.root = daemon.root
        self.cli = Cli(daemon.environment, daemon.root)
        self.client: RawClient = connect(daemon)

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def begin_anew(self) -> None:
        """Start the daemon again after its end, and connect to it."""
        self.client.close()
        self.daemon.start()
        self.client = connect(self.daemon)

    def kill_daemon(self) -> None:
        """Kill the daemon with SIGKILL, start it again and connect to it."""
        self.daemon.kill()
        self.begin_anew()

    def clear(self) -> None:
        """Cancel and delete every job of the default project, and delete every group but the default one."""
        for job in self.all():
            if job.status not in ENDED:
                self.client.call(CancelJob(job.id, now=True))
        self.client.call(ResumeJobGroup("default"))
        while self.client.call(PruneJobs()).more:
            pass
        for group in self.groups():
            if group.name != "default":
                self.client.call(DeleteJobGroup(group.id))

    # Requests

    def submit(self, command: str | list[str] = "true", **fields: Any) -> Job:
        """Submit a job."""
        return self.client.call(CreateJob(command=command, **fields))

    def submit_many(self, commands: list[CreateJob]) -> list[Job]:
        """Submit jobs with one write to the socket."""
        sequences = self.client.begin_many(commands)
        return [decode_reply(Job, self.client.payload(sequence)) for sequence in sequences]

    def submit_error(self, command: str | list[str] = "true", **fields: Any) -> NexusError:
        """Submit a job; return the error, which is expected."""
        return self.client.call_error(CreateJob(command=command, **fields))

    def hold(self, **fields: Any) -> Job:
        """Submit a job that runs until ``let_go``."""
        fifo = self.root / f"{uuid.uuid4().hex}.fifo"
        os.mkfifo(fifo)
        return self.submit(f"read -r code <'{fifo}'; exit $code", label=fifo.name, **fields)

    def let_go(self, job: Job, code: int = 0) -> None:
        """Let a job of ``hold`` exit, waiting until it runs."""
        assert job.label is not None
        write_fifo(self.root / job.label, str(code))

    def get(self, job: Job | str | int) -> Job:
        """The present record of a job."""
        return self.client.call(GetJob(_reference(job)))

    def all(self, **filters: Any) -> list[Job]:
        """The jobs of the default project, newest first."""
        jobs: list[Job] = []
        cursor = None
        while True:
            page = self.client.call(ListJobs(cursor=cursor, **filters))
            jobs += page.jobs
            cursor = page.next_cursor
            if cursor is None:
                return jobs

    def ended(self, job: Job | str | int) -> Job:
        """Wait until a job has ended; return its record."""
        self.client.call(WaitJobs(jobs=[_reference(job)], timeout_ms=60_000))
        return self.get(job)

    def wait_all(self, *jobs: Job) -> JobsWaited:
        """Wait until jobs have ended."""
        return self.client.call(WaitJobs(jobs=[job.id for job in jobs], timeout_ms=120_000))

    def wait(self, job: Job | str | int, **wanted: Any) -> Job:
        """Wait until a job's record has these values; return the record."""
        last: list[Job] = []

        def look() -> Job | None:
            last[:] = [self.get(job)]
            return last[0] if all(getattr(last[0], key) == value for key, value in wanted.items()) else None

        try:
            return wait_until(look, f"a job with {wanted}")
        except AssertionError as error:
            raise AssertionError(f"{error}; its record is {last[0]}") from None

    def running(self, job: Job | str | int) -> Job:
        """Wait until a job has a process; return its record."""

        def look() -> Job | None:
            found = self.get(job)
            assert found.status not in ENDED, found
            return found if found.status is JobStatus.EXECUTING and found.pid is not None else None

        return wait_until(look, "a job with a process")

    def cancel(self, job: Job | str | int, **fields: Any) -> Job:
        """Cancel a job."""
        return self.client.call(CancelJob(_reference(job), **fields))

    def begin(self, command: Command[Any]) -> int:
        """Send a request without waiting for its reply."""
        return self.client.begin(command)

    def update(self, job: Job | str | int, **fields: Any) -> Job:
        """Change a job."""
        return self.client.call(UpdateJob(_reference(job), **fields))

    def stash(self, job: Job | str | int) -> Job:
        """Stash a job."""
        return self.client.call(StashJob(_reference(job)))

    def enqueue(self, job: Job | str | int, **fields: Any) -> Job:
        """Enqueue a job."""
        return self.client.call(EnqueueJob(_reference(job), **fields))

    def start(self, job: Job | str | int) -> Job:
        """Begin a job now."""
        return self.client.call(StartJob(_reference(job)))

    def retry(self, job: Job | str | int, **fields: Any) -> Job:
        """Submit a job again."""
        return self.client.call(RetryJob(_reference(job), **fields))

    def move(self, job: Job | str | int, **fields: Any) -> Job:
        """Change the place of a job."""
        return self.client.call(MoveJob(_reference(job), **fields))

    def delete(self, job: Job | str | int) -> Job:
        """Delete a job."""
        return self.client.call(DeleteJob(_reference(job)))

    def group(self, name: str, slots: int | None = None) -> JobGroup:
        """Create a group."""
        return self.client.call(CreateJobGroup(name=name, slots=slots))

    def pause(self, name: str) -> None:
        """Pause a group."""
        self.client.call(PauseJobGroup(name))

    def resume(self, name: str) -> None:
        """Resume a group."""
        self.client.call(ResumeJobGroup(name))

    def groups(self) -> list[JobGroup]:
        """Every group."""
        return self.client.call(ListJobGroups()).groups

    def call_error(self, command: Command[Any]) -> NexusError:
        """Send a request that must fail; return its error."""
        return self.client.call_error(command)

    # Output, events, files, processes

    def pieces(self, job: Job | str | int, **limits: Any) -> list[LogPiece]:
        """The kept output of a job, in pieces."""
        with connect(self.daemon) as client:
            sequence = client.begin(GetJobOutput(_reference(job), **limits))
            found = [LogPiece(**_piece(item)) for item in client.items(sequence)]
            client.result(sequence)
            return found

    def output(self, job: Job | str | int, **limits: Any) -> bytes:
        """The kept output of a job."""
        return b"".join(piece.data for piece in self.pieces(job, **limits))

    def events(self, job: Job | None = None) -> list[dict[str, Any]]:
        """The journal's events, of one job or of all."""
        sequence = self.client.begin(WatchEvents(follow=False, subject=None if job is None else job.id))
        found = [event for event in self.client.items(sequence) if "kind" in event]
        self.client.result(sequence)
        return found

    def kinds(self, job: Job) -> list[str]:
        """The kinds of a job's events, in order."""
        return [event["kind"].removeprefix("job.") for event in self.events(job)]

    def folder(self, job: Job) -> Path:
        """Where the process runtime keeps the runs and the log of a job."""
        return self.daemon.state / "processes" / f"job-{job.id}"

    def pids(self, job: Job) -> set[int]:
        """The pids of all processes that have a job's environment."""
        return processes_of_jobs().get(job.id, set())

    def kill_all(self, job: Job) -> set[int]:
        """Send SIGKILL to every process that has a job's environment; return their pids."""
        pids = self.pids(job)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return pids

    def rows(self, sql: str, *parameters: Any) -> list[Any]:
        """What a query finds in the database, which the daemon may have open."""
        with look_at(self.daemon.database) as database:
            return database.execute(sql, parameters).fetchall()

    def signal(self, job: Job, number: signal.Signals) -> None:
        """Send a signal to the main process of a job."""
        pid = self.running(job).pid
        assert pid is not None
        os.kill(pid, number)


def _reference(job: Job | str | int) -> str:
    return job.id if isinstance(job, Job) else str(job)


def _piece(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name in LogPiece.__struct_fields__}
