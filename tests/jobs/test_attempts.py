"""Further attempts with backoff, and the time limit of each attempt."""

from __future__ import annotations

import signal
from pathlib import Path

from msgspec.structs import replace
from support.jobs import Jobs

from nexus.jobs.commands import RetryJob
from nexus.jobs.errors import JobStatusWrong
from nexus.jobs.states import JobReason, JobStatus
from nexus.jobs.store import backoff_ms


def test_failed_attempts_are_followed_by_others_with_a_growing_wait(jobs: Jobs, root: Path) -> None:
    script = f"echo x >>'{root}/tries'; echo \"try $(wc -l <'{root}/tries')\"; [ $(wc -l <'{root}/tries') = 3 ]"
    job = jobs.submit(script, retries=5, retry_backoff_ms=40)
    ended = jobs.ended(job)
    assert (ended.status, ended.attempt, ended.exit_code) == (JobStatus.COMPLETED, 3, 0)
    assert (ended.reason, ended.not_before) == (None, None)
    assert jobs.output(job) == b"try 1\ntry 2\ntry 3\n"
    assert jobs.kinds(job) == ["created", *["started", "retrying"] * 2, "started", "completed"]
    events = jobs.events(job)
    starts = [event["at"] for event in events if event["kind"] == "job.started"]
    ends = [event["at"] for event in events if event["kind"] == "job.retrying"]
    waits = [start - end for end, start in zip(ends, starts[1:], strict=True)]
    assert waits[0] >= 40 - 1
    assert waits[1] >= 80 - 1
    assert [event["detail"]["attempt"] for event in events if event["kind"] == "job.retrying"] == [2, 3]


def test_job_fails_after_its_last_attempt(jobs: Jobs) -> None:
    job = jobs.ended(jobs.submit("exit 4", retries=2, retry_backoff_ms=0))
    assert (job.status, job.attempt, job.exit_code, job.reason) == (JobStatus.FAILED, 3, 4, "exited with 4")
    missing = jobs.ended(jobs.submit(["/no/such/program"], retries=2, retry_backoff_ms=0))
    assert (missing.status, missing.attempt, missing.reason_code) == (JobStatus.FAILED, 3, JobReason.START_FAILED)


def test_job_that_waits_for_its_next_attempt_tells_how_the_last_one_ended(jobs: Jobs) -> None:
    job = jobs.submit("exit 4", retries=1, retry_backoff_ms=3_600_000)
    job = jobs.wait(job, attempt=2)
    assert (job.status, job.reason_code) == (JobStatus.QUEUED, JobReason.RETRYING)
    assert (job.reason, job.exit_code) == ("attempt 1 failed: exited with 4", 4)
    assert (job.pid, job.completed_at) == (None, None)
    assert job.not_before is not None
    assert job.not_before > job.created_at
    assert jobs.enqueue(job).not_before is None
    assert jobs.ended(job).status is JobStatus.FAILED


def test_backoff_doubles_up_to_an_hour_or_what_was_asked_for(jobs: Jobs) -> None:
    job = jobs.submit(stashed=True, retries=1000, retry_backoff_ms=1000)
    waits = [backoff_ms(replace(job, attempt=attempt)) for attempt in (1, 2, 3, 12, 13, 1000)]
    assert waits == [1000, 2000, 4000, 2048_000, 3_600_000, 3_600_000]
    assert backoff_ms(replace(job, retry_backoff_ms=86_400_000, attempt=7)) == 86_400_000


def test_attempt_that_lasts_too_long_is_ended_and_has_failed(jobs: Jobs) -> None:
    job = jobs.submit("trap '' TERM; setsid sleep 1000 & sleep 1000 & wait", timeout_ms=150, stop_grace_ms=100)
    ended = jobs.ended(job)
    assert (ended.status, ended.reason_code) == (JobStatus.FAILED, JobReason.TIMEOUT)
    assert ended.reason == "it ran longer than its time limit of 0.15 s"
    assert ended.duration is not None
    assert ended.duration >= 150
    assert jobs.pids(job) == set()
    assert "cancelling" in jobs.kinds(job)


def test_time_limit_holds_for_each_attempt(jobs: Jobs) -> None:
    job = jobs.ended(jobs.submit("exec sleep 1000", timeout_ms=50, retries=1, retry_backoff_ms=0))
    assert (job.status, job.attempt, job.reason_code) == (JobStatus.FAILED, 2, JobReason.TIMEOUT)
    assert job.exit_signal == signal.SIGTERM


def test_job_that_ends_within_its_time_limit_is_completed(jobs: Jobs) -> None:
    assert jobs.ended(jobs.submit("true", timeout_ms=60_000)).status is JobStatus.COMPLETED


def test_time_limit_counts_on_while_no_daemon_runs(own: Jobs) -> None:
    job = own.submit("exec sleep 1000", timeout_ms=400)
    own.running(job)
    own.kill_daemon()
    ended = own.ended(job)
    assert (ended.status, ended.reason_code) == (JobStatus.FAILED, JobReason.TIMEOUT)
    assert ended.duration is not None
    assert ended.duration >= 400


def test_cancel_of_what_is_ended_for_its_time_limit_is_a_cancel(jobs: Jobs, root: Path) -> None:
    script = "trap '' TERM; while :; do sleep 1000 & wait $!; done"
    job = jobs.submit(script, timeout_ms=50, stop_grace_ms=3_600_000, retries=4)
    jobs.wait(job, reason_code=JobReason.TIMEOUT)
    assert jobs.get(job).status is JobStatus.EXECUTING
    ended = jobs.cancel(job, now=True)
    assert (ended.status, ended.exit_signal) == (JobStatus.CANCELLED, signal.SIGKILL)


def test_retry_makes_a_new_job_that_points_to_the_old_one(jobs: Jobs) -> None:
    group = jobs.group("other", 1).name
    job = jobs.submit(
        ["sh", "-c", "exit 3"],
        group=group,
        priority=7,
        label="x",
        tags=["a", "b"],
        metadata={"k": [1]},
        timeout_ms=60_000,
        stop_signal="SIGINT",
        log_limit_mib=2,
    )
    job = jobs.ended(job)
    again = jobs.retry(job)
    assert (again.retry_of, again.attempt, again.status) == (job.id, 2, JobStatus.QUEUED)
    same = ("argv", "command", "tool", "group", "priority", "label", "tags", "metadata", "timeout_ms", "stop_signal")
    assert [getattr(again, name) for name in same] == [getattr(job, name) for name in same]
    assert again.log_limit_mib == 2
    assert jobs.ended(again).exit_code == 3
    assert jobs.get(job) == job


def test_retry_in_place_replaces_the_result(jobs: Jobs, root: Path) -> None:
    job = jobs.ended(jobs.submit(f"cat '{root}/code'; exit $(cat '{root}/code')"))
    assert job.status is JobStatus.FAILED
    (root / "code").write_text("0")
    again = jobs.retry(job, in_place=True)
    assert (again.id, again.attempt, again.completed_at) == (job.id, 2, None)
    ended = jobs.ended(job)
    assert (ended.status, ended.exit_code, ended.stdout) == (JobStatus.COMPLETED, 0, "0")
    assert ended.stderr == job.stderr  # what all attempts wrote
    assert jobs.kinds(job)[-3:] == ["requeued", "started", "completed"]


def test_only_what_has_ended_is_retried(jobs: Jobs) -> None:
    for job in (jobs.submit(stashed=True), jobs.hold()):
        for in_place in (False, True):
            assert isinstance(jobs.call_error(RetryJob(job.id, in_place=in_place)), JobStatusWrong)
