"""Cancels: in every status, of whole trees, twice and at once."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import pytest
from support.jobs import Jobs
from support.live_services import exists
from support.raw import connect, wait_until

from nexus.jobs.commands import CancelJob, StartJob
from nexus.jobs.errors import JobChanged, JobNotFound, JobStatusWrong
from nexus.jobs.states import JobReason, JobStatus

STUBBORN = "trap '' TERM INT; touch \"$0.up\"; while :; do sleep 1000 & wait $!; done"
LEAVES = """
sh -c 'trap "" TERM; sleep 1000' &
setsid sh -c 'setsid sh -c "trap : TERM; sleep 1000" & sleep 1000' &
env -i setsid setsid -f sleep 1000
touch "$0.up"
wait
"""


def up(root: Path) -> None:
    wait_until((root / "job.up").exists, "the job to be up")


def words(root: Path, script: str) -> list[str]:
    return ["bash", "-c", script, str(root / "job")]


@pytest.mark.parametrize("status", ["queued", "stashed", "delayed", "waiting", "retrying"])
def test_job_that_waits_is_cancelled_and_never_begins(jobs: Jobs, status: str) -> None:
    jobs.pause(jobs.group("paused").name)
    first = jobs.submit(stashed=True)
    fields: dict[str, dict[str, object]] = {
        "queued": {"group": "paused"},
        "stashed": {"stashed": True},
        "delayed": {"delay_ms": 3_600_000},
        "waiting": {"after": [first.id]},
        "retrying": {"retries": 1, "retry_backoff_ms": 3_600_000},
    }
    job = jobs.submit("exit 1", **fields[status])  # type: ignore[arg-type]
    if status == "retrying":
        job = jobs.wait(job, attempt=2)
    cancelled = jobs.cancel(job)
    assert (cancelled.status, cancelled.reason_code) == (JobStatus.CANCELLED, JobReason.CANCELLED)
    assert (cancelled.waits_for, cancelled.not_before) == (0, None)
    assert cancelled.completed_at is not None
    assert jobs.cancel(job) == cancelled
    jobs.resume("paused")
    jobs.cancel(first)
    jobs.ended(jobs.submit())
    assert jobs.get(job).status is JobStatus.CANCELLED
    assert jobs.kinds(job).count("started") == (status == "retrying")


def test_cancel_of_what_has_ended_changes_nothing(jobs: Jobs) -> None:
    for command in ("true", "false"):
        job = jobs.ended(jobs.submit(command))
        assert jobs.cancel(job) == job
        assert jobs.cancel(job, now=True) == jobs.get(job)


def test_cancel_ends_the_whole_tree_and_replies_after_it(jobs: Jobs, root: Path) -> None:
    job = jobs.submit(words(root, LEAVES), stop_grace_ms=200)
    up(root)
    wait_until(lambda: len(jobs.pids(job)) >= 5, "all of its processes")
    marked = jobs.pids(job)
    cancelled = jobs.cancel(job)
    assert (cancelled.status, cancelled.pid) == (JobStatus.CANCELLED, None)
    assert cancelled.exit_signal == signal.SIGTERM
    assert not any(map(exists, marked))
    assert jobs.kinds(job) == ["created", "started", "cancelling", "cancelled"]
    assert list(jobs.folder(job).glob("*/status")) == []


def test_job_is_sent_its_own_signal_and_may_end_in_peace(jobs: Jobs, root: Path) -> None:
    script = 'trap "echo bye; exit 5" INT; touch "$0.up"; while :; do sleep 0.01; done'
    job = jobs.submit(words(root, script), stop_signal="SIGINT", stop_grace_ms=60_000)
    up(root)
    cancelled = jobs.cancel(job)
    assert (cancelled.status, cancelled.exit_code, cancelled.stdout) == (JobStatus.CANCELLED, 5, "bye\n")


@pytest.mark.parametrize("second", ["again", "now", "another client"])
def test_second_cancel_kills_at_once_what_ignores_the_signal(jobs: Jobs, root: Path, second: str) -> None:
    job = jobs.submit(words(root, STUBBORN), stop_grace_ms=3_600_000)
    up(root)
    first = jobs.begin(CancelJob(job.id))
    jobs.wait(job, reason_code=JobReason.CANCELLING)
    assert jobs.get(job).status is JobStatus.EXECUTING
    if second == "another client":
        with connect(jobs.daemon) as other:
            cancelled = other.call(CancelJob(job.id))
    else:
        cancelled = jobs.cancel(job, now=second == "now")
    assert (cancelled.status, cancelled.exit_signal) == (JobStatus.CANCELLED, signal.SIGKILL)
    assert jobs.client.result(first)["status"] == "cancelled"
    assert jobs.pids(job) == set()


def test_cancel_now_needs_no_second_one(jobs: Jobs, root: Path) -> None:
    job = jobs.submit(words(root, STUBBORN), stop_grace_ms=3_600_000)
    up(root)
    assert jobs.cancel(job, now=True).exit_signal == signal.SIGKILL


def test_client_that_leaves_does_not_end_the_cancel(jobs: Jobs, root: Path) -> None:
    job = jobs.submit(words(root, STUBBORN), stop_grace_ms=300)
    up(root)
    with connect(jobs.daemon) as client:
        client.begin(CancelJob(job.id))
        jobs.wait(job, reason_code=JobReason.CANCELLING)
    assert jobs.ended(job).status is JobStatus.CANCELLED


def test_cancelled_job_has_no_further_attempt(jobs: Jobs) -> None:
    job = jobs.submit("sleep 1000", retries=5, retry_backoff_ms=0)
    jobs.running(job)
    assert jobs.cancel(job).attempt == 1
    jobs.ended(jobs.submit())
    assert jobs.get(job).status is JobStatus.CANCELLED


def test_cancel_is_refused_for_another_state_than_the_expected(jobs: Jobs) -> None:
    job = jobs.submit(stashed=True)
    error = jobs.call_error(CancelJob(job.id, if_state_revision=job.state_revision + 1))
    assert isinstance(error, JobChanged)
    assert jobs.cancel(job, if_state_revision=job.state_revision).status is JobStatus.CANCELLED
    assert isinstance(jobs.call_error(CancelJob("nothing-like-it")), JobNotFound)


def test_cancel_goes_on_after_a_kill_of_the_daemon(own: Jobs) -> None:
    job = own.submit(words(own.root, STUBBORN), stop_grace_ms=3_600_000, retries=3)
    up(own.root)
    own.begin(CancelJob(job.id))
    own.wait(job, reason_code=JobReason.CANCELLING)
    own.kill_daemon()
    found = own.get(job)
    assert (found.status, found.reason_code) == (JobStatus.EXECUTING, JobReason.CANCELLING)
    # It is the second one.
    cancelled = own.cancel(job)
    assert (cancelled.status, cancelled.exit_signal) == (JobStatus.CANCELLED, signal.SIGKILL)


def test_job_that_ends_while_the_daemon_is_down_after_a_cancel_is_cancelled(own: Jobs) -> None:
    job = own.submit(words(own.root, STUBBORN), stop_grace_ms=3_600_000, retries=3)
    up(own.root)
    own.begin(CancelJob(job.id))
    own.wait(job, reason_code=JobReason.CANCELLING)
    own.daemon.kill()
    wait_until(lambda: not own.kill_all(job), "its end")
    own.begin_anew()
    assert own.ended(job).status is JobStatus.CANCELLED


# While it is launched


def test_jobs_that_are_cancelled_while_they_are_launched_leave_nothing(jobs: Jobs) -> None:
    jobs.group("wide", 64)
    for _ in range(3):
        submitted = [jobs.submit("sleep 1000", group="wide") for _ in range(24)]
        sequences = jobs.client.begin_many([CancelJob(job.id) for job in submitted])
        for sequence in sequences:
            assert jobs.client.result(sequence)["status"] == "cancelled"
        for job in submitted:
            assert jobs.get(job).status is JobStatus.CANCELLED
            assert jobs.pids(job) == set()
            assert list(jobs.folder(job).glob("*/status")) == []


def test_start_and_cancel_at_the_same_time_agree(jobs: Jobs) -> None:
    for _ in range(10):
        job = jobs.submit("sleep 1000", stashed=True)
        with connect(jobs.daemon) as other:
            started = other.begin(StartJob(job.id))
            cancelled = jobs.begin(CancelJob(job.id))
            assert jobs.client.result(cancelled)["status"] == "cancelled"
            with contextlib.suppress(JobStatusWrong):  # it was cancelled before
                other.payload(started)
        assert jobs.get(job).status is JobStatus.CANCELLED
        assert jobs.pids(job) == set()
