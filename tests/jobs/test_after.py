"""Jobs that follow others: when they begin, when they are cancelled, and what a daemon that was killed left undone."""

from __future__ import annotations

from contextlib import closing

import pytest
from support.jobs import Jobs
from support.raw import wait_until

from nexus.jobs.commands import CreateJob, DeleteJob, WaitJobs
from nexus.jobs.errors import JobInvalid, JobNeeded, JobNotFound, JobStatusWrong
from nexus.jobs.states import AfterCondition, JobReason, JobStatus
from nexus.store.connection import connect

CHAIN = 500


def unsettled(jobs: Jobs) -> list[object]:
    return jobs.rows("SELECT * FROM job_after")


def test_job_begins_once_all_that_it_follows_have_completed(jobs: Jobs) -> None:
    first, second = jobs.hold(group=jobs.group("wide", 9).name), jobs.hold(group="wide")
    last = jobs.submit("true", group="wide", after=[str(first.number), second.id[:12]])
    assert [(each.number, each.condition) for each in last.after] == [
        (first.number, AfterCondition.COMPLETED),
        (second.number, AfterCondition.COMPLETED),
    ]
    assert last.waits_for == 2
    jobs.let_go(first)
    jobs.wait(last, waits_for=1)
    assert jobs.get(last).status is JobStatus.QUEUED
    jobs.let_go(second)
    assert jobs.ended(last).status is JobStatus.COMPLETED
    started = [event["subject_id"] for event in jobs.events() if event["kind"] == "job.started"]
    assert started[-1] == last.id
    assert unsettled(jobs) == []


def test_job_is_cancelled_with_the_reason_when_one_that_it_follows_does_not_complete(jobs: Jobs) -> None:
    fails, stays = jobs.hold(), jobs.submit(stashed=True)
    waits = jobs.submit(after=[str(fails.number), str(stays.number)])
    further = jobs.submit(after=[str(waits.number)])
    anyway = jobs.submit(after=[f"{fails.number}:any", f"{waits.number}:any"])
    jobs.let_go(fails, 3)
    ended = jobs.ended(waits)
    assert (ended.status, ended.reason_code) == (JobStatus.CANCELLED, JobReason.AFTER_FAILED)
    assert ended.reason == f"it was to follow job {fails.number}, which failed"
    ended = jobs.ended(further)
    assert ended.reason == f"it was to follow job {waits.number}, which was cancelled"
    assert jobs.ended(anyway).status is JobStatus.COMPLETED
    assert unsettled(jobs) == []
    jobs.delete(stays)


def test_chain_of_jobs_is_cancelled_as_a_whole(jobs: Jobs) -> None:
    first = jobs.submit("exit 1", stashed=True)
    previous = first
    ids = [first.id]
    for _ in range(CHAIN):
        previous = jobs.submit(after=[previous.id])
        ids.append(previous.id)
    jobs.enqueue(first)
    jobs.client.call(WaitJobs(jobs=ids, timeout_ms=60_000))
    assert {jobs.get(id_).status for id_ in ids[1:]} == {JobStatus.CANCELLED}
    assert unsettled(jobs) == []


def test_many_jobs_that_follow_one_go_on_together(jobs: Jobs) -> None:
    first = jobs.submit("true", stashed=True)
    ids = [job.id for job in jobs.submit_many([CreateJob("true", after=[first.id]) for _ in range(250)])]
    jobs.enqueue(first)
    assert jobs.client.call(WaitJobs(jobs=ids, timeout_ms=120_000)).jobs
    assert {jobs.get(id_).status for id_ in ids} == {JobStatus.COMPLETED}
    assert unsettled(jobs) == []


def test_what_has_ended_is_followed_at_once_or_refused(jobs: Jobs) -> None:
    good, bad = jobs.ended(jobs.submit("true")), jobs.ended(jobs.submit("false"))
    job = jobs.submit(after=[good.id, f"{bad.id}:any"])
    assert (job.waits_for, jobs.ended(job).status) == (0, JobStatus.COMPLETED)
    error = jobs.submit_error(after=[bad.id])
    assert isinstance(error, JobStatusWrong)
    assert error.details["status"] == "failed"
    assert f"{bad.number}:any" in (error.hint or "")
    assert isinstance(jobs.submit_error(after=["9999999"]), JobNotFound)
    assert isinstance(jobs.submit_error(after=[f"{good.id}:sometimes"]), JobInvalid)


def test_job_whose_next_attempt_is_to_come_is_still_waited_for(jobs: Jobs) -> None:
    job = jobs.submit("exit 1", retries=1, retry_backoff_ms=3_600_000)
    waits = jobs.submit(after=[job.id])
    jobs.wait(job, attempt=2)
    assert (jobs.get(waits).status, jobs.get(waits).waits_for) == (JobStatus.QUEUED, 1)
    jobs.enqueue(job)
    assert jobs.ended(waits).reason_code is JobReason.AFTER_FAILED


def test_job_that_others_wait_for_is_not_deleted_before_it_has_ended(jobs: Jobs) -> None:
    job = jobs.submit(stashed=True)
    waits = jobs.submit(after=[job.id])
    error = jobs.call_error(DeleteJob(job.id))
    assert isinstance(error, JobNeeded)
    assert error.details["dependents"] == [waits.number]
    jobs.delete(waits)
    jobs.delete(job)
    assert unsettled(jobs) == []


@pytest.mark.parametrize("code", [0, 1])
def test_what_a_cancelled_job_waited_for_does_not_concern_it_once_it_is_retried(jobs: Jobs, code: int) -> None:
    first = jobs.hold(group=jobs.group("wide", 2).name)
    waits = jobs.submit("exit 7", group="wide", after=[first.id])
    jobs.cancel(waits)
    assert unsettled(jobs) == []
    jobs.pause("wide")
    again = jobs.retry(waits, in_place=True)
    assert (again.status, again.waits_for) == (JobStatus.QUEUED, 0)
    jobs.let_go(first, code)
    jobs.ended(first)
    jobs.ended(jobs.submit())
    assert jobs.get(waits).status is JobStatus.QUEUED
    jobs.resume("wide")
    assert jobs.ended(waits).exit_code == 7


def test_what_a_job_waited_for_that_was_started_does_not_concern_its_next_attempt(jobs: Jobs) -> None:
    first = jobs.hold(group=jobs.group("wide", 2).name)
    waits = jobs.hold(group="wide", after=[first.id], retries=1, retry_backoff_ms=0)
    assert jobs.start(waits).status is JobStatus.EXECUTING
    assert (jobs.get(waits).waits_for, unsettled(jobs)) == (0, [])
    jobs.let_go(first, 1)
    jobs.ended(first)
    jobs.let_go(waits, 1)
    jobs.wait(waits, attempt=2)
    jobs.let_go(waits, 0)
    ended = jobs.ended(waits)
    assert (ended.status, ended.attempt) == (JobStatus.COMPLETED, 2)


@pytest.mark.parametrize("deleted", [False, True])
def test_daemon_that_was_killed_before_it_let_jobs_go_on_does_so_at_its_next_start(own: Jobs, deleted: bool) -> None:
    good, bad = own.submit("true", stashed=True), own.submit("false", stashed=True)
    after_good, after_bad = own.submit(after=[good.id]), own.submit(after=[bad.id])
    anyway = own.submit(after=[f"{bad.id}:any"])
    own.daemon.kill()
    with closing(connect(own.daemon.database)) as database, database:
        for job, status in ((good, "completed"), (bad, "failed")):
            database.execute("UPDATE jobs SET status = ?, completed_at = 1 WHERE id = ?", (status, job.id))
        if deleted:  # as DeleteJob does it
            database.execute("UPDATE job_after SET condition = 'any' WHERE after_id = ?", (good.id,))
            database.execute("DELETE FROM jobs WHERE id IN (?, ?)", (good.id, bad.id))
    own.begin_anew()
    assert own.ended(after_good).status is JobStatus.COMPLETED
    assert own.ended(anyway).status is JobStatus.COMPLETED
    ended = own.ended(after_bad)
    assert (ended.status, ended.reason_code) == (JobStatus.CANCELLED, JobReason.AFTER_FAILED)
    wait_until(lambda: unsettled(own) == [], "everything to be settled")


def test_completed_job_that_is_deleted_at_once_lets_go_on_what_followed_it(jobs: Jobs) -> None:
    for _ in range(20):
        first = jobs.submit("true", stashed=True)
        waits = jobs.submit(after=[first.id])
        jobs.enqueue(first)
        begun = jobs.begin(WaitJobs(jobs=[first.id]))
        jobs.client.result(begun)
        jobs.delete(first)
        assert jobs.ended(waits).status is JobStatus.COMPLETED
    assert unsettled(jobs) == []
