"""kill -9 of the daemon with jobs running and queued: outputs whole, codes right, the queue goes on, nothing twice.

Each job notes its beginning and its end with O_APPEND in a file that the daemon does not know.
"""

from __future__ import annotations

import collections
import os
import random
import select
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import DaemonProcess
from support.jobs import Jobs, processes_of_jobs
from support.raw import RawClient, connect, wait_until
from support.services import end_runs
from support.soak import SOAK

from nexus.jobs.commands import (
    CancelJob,
    CreateJob,
    CreateJobGroup,
    GetJob,
    ListJobs,
    RetryJob,
    StartJob,
    WaitJobs,
)
from nexus.jobs.errors import JobChanged, JobStatusWrong
from nexus.jobs.records import Job
from nexus.jobs.states import ENDED, JobStatus

ROUNDS = 3 if SOAK == 1 else 10
QUEUED = 120 if SOAK == 1 else 500
SLOTS = 10

NOTING = """
printf 'begin %s %s\\n' "$NEXUS_JOB_ID" "$NEXUS_RUN_ID" >>"$1/notes"
for i in $(seq 1 20); do echo "line $i of $NEXUS_JOB_ID"; done
sleep "$2"
printf 'end %s %s\\n' "$NEXUS_JOB_ID" "$NEXUS_RUN_ID" >>"$1/notes"
echo last >&2
exit "$3"
"""
"""Its arguments: the folder, how long it sleeps, and its exit code."""


@pytest.fixture
def jobs(root: Path) -> Iterator[Jobs]:
    """The jobs of a daemon; all processes are ended after the test."""
    daemon = DaemonProcess(root).start()
    jobs = Jobs(daemon)
    yield jobs
    jobs.close()
    daemon.close()
    end_runs(root)


def pause(seconds: float) -> None:
    """Let time pass, so that the daemon is killed at any moment."""
    select.poll().poll(seconds * 1000)


def noting(root: Path, sleep_s: float, code: int) -> list[str]:
    return ["/bin/bash", "-c", NOTING, "noting", str(root), f"{sleep_s:.3f}", str(code)]


def notes(root: Path) -> dict[str, dict[str, list[str]]]:
    """By word and job, the run ids that were noted."""
    found: dict[str, dict[str, list[str]]] = {"begin": {}, "end": {}}
    path = root / "notes"
    for line in path.read_text().splitlines() if path.exists() else ():
        word, job_id, run_id = line.split()
        found[word].setdefault(job_id, []).append(run_id)
    return found


def whole_output(job: Job) -> bytes:
    return "".join(f"line {number} of {job.id}\n" for number in range(1, 21)).encode()


def check(jobs: Jobs, submitted: dict[str, int]) -> None:
    """Every job ended with its code after exactly one run, and its output is whole."""
    found = notes(jobs.root)
    assert set(found["begin"]) == set(submitted)
    for job_id, code in submitted.items():
        job = jobs.get(job_id)
        assert len(found["begin"][job_id]) == 1, f"{job_id} ran {found['begin'][job_id]}"
        assert found["end"][job_id] == found["begin"][job_id]
        assert (job.exit_code, job.attempt) == (code, 1)
        assert job.status is (JobStatus.FAILED if code else JobStatus.COMPLETED)
        assert jobs.output(job, stream="stdout") == whole_output(job)
        assert (job.stdout, job.stderr) == (whole_output(job).decode(), "last\n")
    assert jobs.rows("SELECT * FROM job_after") == []
    wait_until(lambda: not set(processes_of_jobs()) & set(submitted), "all processes to end")
    runs = [path for job_id in submitted for path in jobs.daemon.state.glob(f"processes/job-{job_id}/*/status")]
    assert runs == [], "files of runs are left"


@pytest.mark.slow
@pytest.mark.soak
def test_kills_at_random_moments_lose_nothing_and_run_nothing_twice(jobs: Jobs) -> None:
    chance = random.Random(20)
    jobs.client.call(CreateJobGroup(name="ten", slots=SLOTS))
    codes = [chance.choice((0, 0, 0, 1, 7)) for _ in range(QUEUED)]
    commands = [
        CreateJob(noting(jobs.root, chance.choice((0.0, 0.05, 0.3)), code), group="ten", environment=_environment())
        for code in codes
    ]
    submitted = {job.id: code for job, code in zip(jobs.submit_many(commands), codes, strict=True)}
    last = [
        jobs.submit(noting(jobs.root, 0.0, 0), group="ten", after=[f"{job_id}:any"], environment=_environment())
        for job_id in list(submitted)[-3:]
    ]
    for _ in range(ROUNDS):
        busy = min(SLOTS, QUEUED - len(notes(jobs.root)["end"]))
        wait_until(lambda busy=busy: len(jobs.all(status=JobStatus.EXECUTING)) >= min(busy, 5), "jobs to run")
        pause(chance.uniform(0, 0.3))
        jobs.daemon.kill()
        # Some end while no daemon runs.
        pause(chance.choice((0.0, 0.2, 0.5)))
        jobs.begin_anew()
    submitted |= {job.id: 0 for job in last}
    jobs.client.sock.settimeout(300)
    jobs.client.call(WaitJobs(jobs=list(submitted)))
    check(jobs, submitted)
    assert jobs.daemon.stop() == 0
    assert "Traceback" not in jobs.daemon.log()


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "TOKEN": "x" * 1000}


class Client(threading.Thread):
    """Submits, cancels, retries and starts jobs until the daemon ends; keeps what was acknowledged."""

    def __init__(self, jobs: Jobs, seed: str) -> None:
        super().__init__()
        self.jobs = jobs
        self.chance = random.Random(seed)
        self.acknowledged: dict[str, str] = {}
        """The ids of jobs whose submission, or cancel, was acknowledged."""
        self.problem: BaseException | None = None

    def run(self) -> None:
        try:
            with connect(self.jobs.daemon) as client:
                for _ in range(100_000):
                    self.step(client)
        except (EOFError, OSError):
            pass
        except BaseException as problem:
            self.problem = problem

    def step(self, client: RawClient) -> None:
        chance = self.chance
        retries = chance.choice((0, 0, 2))
        command = CreateJob(
            noting(self.jobs.root, chance.choice((0.0, 0.02, 0.2)), chance.choice((0, 1))),
            group="ten",
            retries=retries,
            retry_backoff_ms=chance.choice((0, 50)),
            stashed=chance.random() < 0.2,
        )
        job = client.call(command)
        self.acknowledged[job.id] = "submitted"
        target = chance.choice(list(self.acknowledged))
        cancel = CancelJob(target, now=chance.random() < 0.5)
        other = chance.choice((cancel, cancel, StartJob(target), RetryJob(target), GetJob(target)))
        try:
            reply = client.call(other)
        except (JobStatusWrong, JobChanged):
            return
        if isinstance(other, CancelJob) and reply.status is JobStatus.CANCELLED:
            self.acknowledged[target] = "cancelled"
        elif isinstance(other, RetryJob):
            self.acknowledged[reply.id] = "submitted"


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("repetition", range(SOAK))
def test_acknowledged_requests_hold_over_kills_at_random_moments(jobs: Jobs, repetition: int) -> None:
    chance = random.Random(repetition)
    jobs.client.call(CreateJobGroup(name="ten", slots=SLOTS))
    acknowledged: dict[str, str] = {}
    for number in range(ROUNDS):
        clients = [Client(jobs, f"{repetition} {number} {client}") for client in range(3)]
        for client in clients:
            client.start()
        pause(chance.uniform(0.2, 1.2))
        jobs.daemon.kill()
        for client in clients:
            client.join(60)
            assert not client.is_alive()
            if client.problem is not None:
                raise client.problem
            acknowledged |= client.acknowledged
        jobs.begin_anew()
        for job_id, word in acknowledged.items():
            job = jobs.get(job_id)
            assert word == "submitted" or job.status is JobStatus.CANCELLED, job
    for job in jobs.all():
        if job.status is JobStatus.STASHED:
            jobs.cancel(job)
    jobs.client.sock.settimeout(300)
    jobs.client.call(WaitJobs())
    noted = notes(jobs.root)
    for job in jobs.all():
        assert job.status in ENDED
        runs = noted["begin"].get(job.id, [])
        counted = collections.Counter(runs)
        assert set(counted.values()) <= {1}, f"{job.id}: a run began twice"
        events = jobs.kinds(job)
        # A run that a daemon began and did not get to start has an event, and no note.
        assert len(runs) <= events.count("started")
        assert len(runs) <= job.attempt
        if job.status is JobStatus.COMPLETED:
            assert noted["end"][job.id][-1] == runs[-1]
            assert (jobs.get(job).stdout or "").endswith(whole_output(job).decode())
    assert jobs.rows("SELECT * FROM job_after") == []
    assert jobs.client.call(ListJobs(status=JobStatus.EXECUTING)).jobs == []
    wait_until(lambda: not set(processes_of_jobs()) & set(acknowledged), "all processes to end")
    assert jobs.client.call(GetJob(next(iter(acknowledged)))).id
    assert jobs.daemon.stop() == 0
    assert "Traceback" not in jobs.daemon.log()
