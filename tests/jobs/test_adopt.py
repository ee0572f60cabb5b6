"""What the next daemon finds of the jobs of an earlier one: running, ended, never started, broken, of another boot."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path

import pytest
from support.broken_runs import BREAKAGES
from support.jobs import Jobs
from support.live_services import exists
from support.raw import wait_until
from support.runtimes import shim_of

from nexus.jobs.commands import StartJob
from nexus.jobs.records import Job
from nexus.jobs.states import JobReason, JobStatus


def run_folder(jobs: Jobs, job: Job) -> Path:
    (folder,) = [path.parent for path in jobs.folder(job).glob("*/control")]
    return folder


def change_row(jobs: Jobs, job: Job, **columns: object) -> None:
    """Change the row of a job; no daemon runs."""
    with closing(sqlite3.connect(jobs.daemon.database)) as database, database:
        assignments = ", ".join(f"{name} = ?" for name in columns)
        database.execute(f"UPDATE jobs SET {assignments} WHERE id = ?", (*columns.values(), job.id))


def new_boot(jobs: Jobs, job: Job | None = None) -> None:
    """End the processes of a job as the shutdown of the machine does, and let the records be of an earlier boot."""
    if job is not None:
        os.kill(shim_of(run_folder(jobs, job)), signal.SIGKILL)
        wait_until(lambda: not jobs.kill_all(job), "the end of its processes")
    (jobs.daemon.state / "processes" / "boot").write_text("11111111-1111-1111-1111-111111111111")


def test_job_runs_on_over_a_stop_and_a_kill_of_the_daemon(own: Jobs) -> None:
    job = own.hold()
    before = own.running(job)
    for end in (own.daemon.stop, own.daemon.kill):
        end()
        assert exists(before.pid)
        own.begin_anew()
        assert own.get(job) == before
    own.let_go(job, 7)
    ended = own.ended(job)
    assert (ended.exit_code, ended.started_at, ended.attempt) == (7, before.started_at, 1)
    assert own.kinds(job) == ["created", "started", "failed"]


@pytest.mark.parametrize("code", [0, 3])
def test_job_that_ended_while_no_daemon_ran_has_its_code_and_output(own: Jobs, code: int) -> None:
    job = own.hold()
    before = own.running(job)
    own.daemon.kill()
    own.let_go(job, code)
    wait_until(lambda: not exists(before.pid), "its end")
    own.begin_anew()
    ended = own.ended(job)
    assert (ended.exit_code, ended.status) == (code, JobStatus.FAILED if code else JobStatus.COMPLETED)
    assert ended.duration is not None
    assert ended.started_at == before.started_at


def test_row_without_a_process_is_queued_again_and_runs_once(own: Jobs) -> None:
    """The daemon was killed between the write of the row and the start of the process."""
    job = own.submit(f"echo x >>'{own.root}/ran'", stashed=True)
    own.daemon.kill()
    change_row(own, job, status="executing", run_id=uuid.uuid4().hex)
    own.begin_anew()
    assert own.ended(job).status is JobStatus.COMPLETED
    assert (own.root / "ran").read_text() == "x\n"
    requeued = [event for event in own.events(job) if event["kind"] == "job.requeued"]
    assert requeued[0]["detail"]["reason"] == "the daemon ended before its process was started"
    assert own.get(job).attempt == 1


def test_process_without_its_start_in_the_row_is_adopted(own: Jobs) -> None:
    """The daemon was killed between the start of the process and the write that tells of it."""
    job = own.hold()
    before = own.running(job)
    own.daemon.kill()
    change_row(own, job, pid=None, started_at=None)
    own.begin_anew()
    assert own.running(job).pid == before.pid
    own.let_go(job)
    assert own.ended(job).status is JobStatus.COMPLETED
    assert own.kinds(job).count("started") == 1


def test_end_without_its_start_in_the_row_is_recorded(own: Jobs) -> None:
    job = own.hold()
    own.running(job)
    own.daemon.kill()
    change_row(own, job, pid=None, started_at=None)
    own.let_go(job, 4)
    wait_until(lambda: not own.pids(job), "its end")
    own.begin_anew()
    ended = own.ended(job)
    assert (ended.exit_code, ended.attempt) == (4, 1)
    assert ended.started_at is not None
    assert own.kinds(job) == ["created", "started", "failed"]


def test_run_that_no_row_knows_is_ended(own: Jobs) -> None:
    job = own.hold()
    pid = own.running(job).pid
    own.daemon.kill()
    change_row(own, job, status="stashed", run_id=None, pid=None)
    own.begin_anew()
    wait_until(lambda: not exists(pid), "the end of what no row knows")
    assert own.get(job).status is JobStatus.STASHED


def test_job_that_ended_with_the_machine_has_failed_and_is_retried_if_it_may(own: Jobs) -> None:
    once, again = own.hold(), own.hold(retries=1, retry_backoff_ms=0)
    waits = own.submit("true", after=[f"{once.number}:any"])
    for job in (once, again):
        own.running(job)
    own.daemon.kill()
    for job in (once, again):
        new_boot(own, job)
    own.begin_anew()
    ended = own.ended(once)
    assert (ended.status, ended.reason_code) == (JobStatus.FAILED, JobReason.HOST_RESTARTED)
    assert own.ended(waits).status is JobStatus.COMPLETED
    assert own.running(again).attempt == 2
    own.let_go(again)
    assert own.ended(again).status is JobStatus.COMPLETED


def test_job_that_completed_before_the_machine_ended_is_completed(own: Jobs) -> None:
    job = own.hold()
    own.running(job)
    own.daemon.kill()
    own.let_go(job)
    wait_until(lambda: not own.pids(job), "its end")
    new_boot(own)
    own.begin_anew()
    assert own.ended(job).status is JobStatus.COMPLETED


def test_row_without_a_process_of_an_earlier_boot_is_not_run_twice(own: Jobs) -> None:
    """Its run cannot be told from one whose files were lost with the machine."""
    job = own.submit(f"echo x >>'{own.root}/ran'", stashed=True)
    own.daemon.kill()
    change_row(own, job, status="executing", run_id=uuid.uuid4().hex)
    new_boot(own)
    own.begin_anew()
    ended = own.ended(job)
    assert (ended.status, ended.reason_code) == (JobStatus.FAILED, JobReason.HOST_RESTARTED)
    assert not (own.root / "ran").exists()


def test_queue_goes_on_after_a_new_boot(own: Jobs) -> None:
    own.group("one", 1)
    held = own.hold(group="one")
    waits = [own.submit(group="one") for _ in range(3)]
    own.running(held)
    own.daemon.kill()
    new_boot(own, held)
    own.begin_anew()
    own.wait_all(*waits)
    assert {own.get(job).status for job in waits} == {JobStatus.COMPLETED}


@pytest.mark.parametrize("killed", [False, True])
def test_job_whose_files_were_deleted_is_ended_and_has_failed(own: Jobs, killed: bool) -> None:
    job = own.submit("setsid sleep 1000 & sleep 1000 & wait")
    own.running(job)
    if killed:
        own.daemon.kill()
    shutil.rmtree(own.folder(job))
    if killed:
        own.begin_anew()
    else:
        own.kill_daemon()
    ended = own.ended(job)
    assert (ended.status, ended.reason_code) == (JobStatus.FAILED, JobReason.FILES_DELETED)
    assert own.pids(job) == set()
    assert own.ended(own.submit()).status is JobStatus.COMPLETED


@pytest.mark.parametrize(
    "way", ["status removed", "status garbled", "status of another run", "lock a FIFO", "control a file"]
)
def test_job_whose_run_is_broken_can_be_cancelled_by_this_daemon_and_the_next(own: Jobs, way: str) -> None:
    for killed in (False, True):
        other, job = own.hold(group=own.group(f"g{killed:d}", 9).name), own.hold(group=f"g{killed:d}")
        for each in (other, job):
            own.running(each)
        BREAKAGES[way](run_folder(own, job))
        if killed:
            own.kill_daemon()
        ended = own.cancel(job)
        # The next daemon may have ended it before, because its files are gone.
        assert ended.status is JobStatus.CANCELLED or ended.reason_code is JobReason.FILES_DELETED
        assert own.pids(job) == set()
        own.let_go(other)
        assert own.ended(other).status is JobStatus.COMPLETED


def test_run_that_cannot_be_looked_at_makes_the_job_unknown_until_it_can(own: Jobs) -> None:
    job = own.hold(retries=3, timeout_ms=3_600_000)
    before = own.running(job)
    follows = own.submit(after=[job.id])
    own.daemon.kill()
    path = run_folder(own, job) / "status"
    status = path.read_bytes()
    path.write_bytes(b"garbage")
    own.begin_anew()
    found = own.wait(job, status=JobStatus.UNKNOWN)
    assert found.unknown_since is not None
    assert exists(before.pid)
    assert own.client.call(StartJob(job.id)).status is JobStatus.UNKNOWN
    # It has its slot, and nothing counts it as ended.
    assert own.get(follows).waits_for == 1
    path.write_bytes(status)
    found = own.wait(job, status=JobStatus.EXECUTING)
    assert (found.pid, found.unknown_since, found.attempt) == (before.pid, None, 1)
    own.let_go(job)
    assert own.ended(job).status is JobStatus.COMPLETED
    assert own.ended(follows).status is JobStatus.COMPLETED


def test_unknown_job_can_be_cancelled(own: Jobs) -> None:
    job = own.hold()
    pid = own.running(job).pid
    own.daemon.kill()
    (run_folder(own, job) / "status").write_bytes(b"garbage")
    own.begin_anew()
    own.wait(job, status=JobStatus.UNKNOWN)
    assert own.cancel(job).status is JobStatus.CANCELLED
    assert not exists(pid)


def test_job_of_another_daemon_is_unknown_while_there_are_no_descriptors_and_then_the_truth(own: Jobs) -> None:
    own.group("wide", 40)
    held = [own.hold(group="wide") for _ in range(30)]
    before = {job.id: own.running(job) for job in held}
    own.daemon.kill()
    own.let_go(held[0], 9)
    wait_until(lambda: not own.pids(held[0]), "the end of the first")
    own.daemon.descriptors = 64
    own.begin_anew()
    unknown = wait_until(lambda: [job for job in held if own.get(job).status is JobStatus.UNKNOWN], "unknown jobs")
    for job in held:
        if job.id not in {each.id for each in unknown} and own.get(job).status is JobStatus.EXECUTING:
            own.let_go(job)  # which gives descriptors back
    for job in unknown:
        if job is not held[0]:
            found = own.wait(job, status=JobStatus.EXECUTING)
            assert found.pid == before[job.id].pid
    assert own.ended(held[0]).exit_code == 9
    for job in unknown:
        if job is not held[0]:
            own.let_go(job)
    own.wait_all(*held)
    assert all(own.get(job).attempt == 1 for job in held)


def test_jobs_begin_once_the_daemon_has_descriptors_again(own: Jobs) -> None:
    own.ended(own.submit("true"))
    daemon = own.daemon.pid
    own.pause("default")
    submitted = [own.submit("echo x") for _ in range(5)]
    forced = own.submit("true", stashed=True)
    soft, hard = resource.prlimit(daemon, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon, resource.RLIMIT_NOFILE, (3, hard))
    own.resume("default")
    error = own.call_error(StartJob(forced.id))
    assert error.code == "resource_exhausted", error
    for job in submitted:
        assert own.get(job).status in (JobStatus.QUEUED, JobStatus.EXECUTING), own.get(job)
    resource.prlimit(daemon, resource.RLIMIT_NOFILE, (soft, hard))
    own.wait_all(*submitted)
    assert {own.get(job).stdout for job in submitted} == {"x\n"}
    assert own.ended(forced).status is JobStatus.COMPLETED  # it was to begin


def test_exit_while_descriptors_are_exhausted_is_recorded_later(own: Jobs) -> None:
    job = own.hold()
    own.running(job)
    daemon = own.daemon.pid
    soft, hard = resource.prlimit(daemon, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon, resource.RLIMIT_NOFILE, (3, hard))
    own.let_go(job, 6)
    wait_until(lambda: not own.pids(job), "its end")
    resource.prlimit(daemon, resource.RLIMIT_NOFILE, (soft, hard))
    assert own.ended(job).exit_code == 6
