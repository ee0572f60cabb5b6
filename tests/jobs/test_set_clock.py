"""The wall clock is set while jobs wait and run: delays are until a time of it, and durations are not by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.jobs import Jobs
from support.set_clock import ClockedDaemon

from nexus.jobs.states import JobStatus

HOUR_S = 3600
DAY_S = 24 * HOUR_S


@pytest.fixture
def clocked(root: Path) -> Iterator[ClockedDaemon]:
    """A running daemon whose clock can be set."""
    daemon = ClockedDaemon(root)
    daemon.start()
    yield daemon
    daemon.close()


@pytest.fixture
def jobs(clocked: ClockedDaemon) -> Iterator[Jobs]:
    """Its jobs."""
    jobs = Jobs(clocked)
    yield jobs
    jobs.close()


def test_delayed_job_begins_when_the_clock_is_set_beyond_its_time(jobs: Jobs, clocked: ClockedDaemon) -> None:
    far, near = jobs.submit(delay_ms=3 * HOUR_S * 1000), jobs.submit(delay_ms=HOUR_S * 1000)
    clocked.set_clock(2 * HOUR_S)
    assert jobs.ended(near).status is JobStatus.COMPLETED
    assert jobs.get(far).status is JobStatus.QUEUED
    clocked.set_clock(-DAY_S)
    later = jobs.submit(delay_ms=1)
    assert jobs.ended(later).status is JobStatus.COMPLETED
    assert jobs.get(far).status is JobStatus.QUEUED
    assert jobs.get(far).not_before == far.not_before
    clocked.set_clock(4 * HOUR_S)
    assert jobs.ended(far).status is JobStatus.COMPLETED


def test_delays_are_kept_by_the_next_daemon_of_another_time(jobs: Jobs, clocked: ClockedDaemon) -> None:
    job = jobs.submit(delay_ms=HOUR_S * 1000)
    clocked.kill()
    clocked.set_clock(2 * HOUR_S)
    jobs.begin_anew()
    assert jobs.ended(job).status is JobStatus.COMPLETED


@pytest.mark.parametrize("seconds", [DAY_S, -DAY_S])
def test_time_limit_and_duration_are_not_by_the_wall_clock(jobs: Jobs, clocked: ClockedDaemon, seconds: int) -> None:
    limited, held = jobs.submit("exec sleep 1000", timeout_ms=700), jobs.hold(timeout_ms=HOUR_S * 1000)
    for job in (limited, held):
        jobs.running(job)
    clocked.set_clock(seconds)
    assert jobs.ended(limited).status is JobStatus.FAILED
    assert jobs.get(held).status is JobStatus.EXECUTING
    jobs.let_go(held)
    for job in (jobs.get(limited), jobs.ended(held)):
        assert job.duration is not None
        assert 0 <= job.duration < HOUR_S * 1000
        assert job.completed_at is not None


def test_order_of_the_queue_is_that_of_submission_whatever_the_clock(jobs: Jobs, clocked: ClockedDaemon) -> None:
    jobs.group("one", 1)
    jobs.pause("one")
    submitted = []
    for seconds in (0, DAY_S, -DAY_S, 0):
        clocked.set_clock(seconds)
        submitted.append(jobs.submit(group="one"))
    jobs.resume("one")
    jobs.wait_all(*submitted)
    started = [event["subject_id"] for event in jobs.events() if event["kind"] == "job.started"]
    assert started == [job.id for job in submitted]
