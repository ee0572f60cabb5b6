"""The queue: slots, priorities, groups, delays, and changes of what waits at the moment that it begins."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from pathlib import Path

import pytest
from nexus_protocol import NexusError
from support.jobs import Jobs
from support.raw import connect, wait_until
from support.soak import SOAK

from nexus.jobs.commands import (
    CreateJob,
    CreateJobGroup,
    DeleteJobGroup,
    EnqueueJob,
    GetJob,
    PauseJobGroup,
    ResumeJobGroup,
    RetryJob,
    StartJob,
    StashJob,
    UpdateJob,
    UpdateJobGroup,
    WaitJobs,
)
from nexus.jobs.errors import JobGroupFixed, JobGroupInUse, JobGroupNotFound, JobStatusWrong
from nexus.jobs.records import Job
from nexus.jobs.states import JobStatus

COUNTED = """
here="$0"
mkdir "$here/$$" && ls "$here" | wc -l >>"$here.counts"
sleep 0.0$((RANDOM % 9))
rmdir "$here/$$"
"""
"""Notes how many of its kind run at once, itself among them."""


def counted(folder: Path) -> list[str]:
    folder.mkdir(exist_ok=True)
    return ["bash", "-c", COUNTED, str(folder)]


def most_at_once(folder: Path) -> int:
    return max(map(int, Path(f"{folder}.counts").read_text().split()))


def order_of_starts(jobs: Jobs) -> list[str]:
    return [event["subject_id"] for event in jobs.events() if event["kind"] == "job.started"]


@pytest.mark.parametrize("slots", [1, 3])
def test_never_more_jobs_run_at_once_than_the_group_has_slots(jobs: Jobs, root: Path, slots: int) -> None:
    jobs.group("narrow", slots)
    folder = root / "running"
    commands = [CreateJob(counted(folder), group="narrow") for _ in range(40)]
    submitted = jobs.submit_many(commands)
    jobs.wait_all(*submitted)
    assert {jobs.get(job).status for job in submitted} == {JobStatus.COMPLETED}
    assert most_at_once(folder) == slots


@pytest.mark.slow
@pytest.mark.soak
def test_slots_hold_under_pauses_cancels_and_changes(jobs: Jobs, root: Path) -> None:
    chance = random.Random(11)
    groups = {"a": 1, "b": 2, "c": 4}
    for name, slots in groups.items():
        jobs.group(name, slots)
    submitted: list[Job] = []
    stop = threading.Event()

    def disturb(seed: int) -> None:
        own = random.Random(seed)
        with connect(jobs.daemon) as client:
            while not stop.is_set():
                name = own.choice(list(groups))
                for command in (PauseJobGroup(name), ResumeJobGroup(name)):
                    client.call(command)
                if submitted:
                    job = own.choice(submitted)
                    update = UpdateJob(job.id, priority=own.randint(0, 3))
                    with contextlib.suppress(JobStatusWrong):
                        client.call(own.choice((StashJob(job.id), EnqueueJob(job.id), update)))

    disturbing = [threading.Thread(target=disturb, args=(seed,)) for seed in range(3)]
    for thread in disturbing:
        thread.start()
    try:
        for _ in range(60 * SOAK):
            name = chance.choice(list(groups))
            submitted.append(jobs.submit(counted(root / name), group=name))
    finally:
        stop.set()
        for thread in disturbing:
            thread.join()
    for job in submitted:
        if jobs.get(job).status is JobStatus.STASHED:
            jobs.enqueue(job)
    jobs.wait_all(*submitted)
    assert {jobs.get(job).status for job in submitted} == {JobStatus.COMPLETED}
    for name, slots in groups.items():
        assert most_at_once(root / name) <= slots
    assert all(jobs.kinds(job).count("started") == 1 for job in submitted)


def test_jobs_begin_by_priority_and_then_in_the_order_of_their_submission(jobs: Jobs) -> None:
    jobs.group("one", 1)
    jobs.pause("one")
    submitted = [jobs.submit(group="one", priority=priority) for priority in (0, 5, -3, 5, 0, 1_000_000, -1_000_000)]
    jobs.resume("one")
    jobs.wait_all(*submitted)
    wanted = [submitted[index].id for index in (5, 1, 3, 0, 4, 2, 6)]
    assert order_of_starts(jobs)[-7:] == wanted


def test_groups_are_not_in_each_others_way(jobs: Jobs) -> None:
    jobs.group("one", 1)
    jobs.group("two", 1)
    held = jobs.hold(group="one")
    blocked = jobs.submit(group="one", priority=100)
    assert jobs.ended(jobs.submit(group="two")).status is JobStatus.COMPLETED
    assert jobs.get(blocked).status is JobStatus.QUEUED
    jobs.let_go(held)
    jobs.ended(blocked)


def test_group_without_slots_of_its_own_has_one_for_each_core(jobs: Jobs, root: Path) -> None:
    jobs.group("cores")
    submitted = [jobs.hold(group="cores") for _ in range(len(os.sched_getaffinity(0)) + 2)]
    for job in submitted[:-2]:
        jobs.running(job)
    assert {jobs.get(job).status for job in submitted[-2:]} == {JobStatus.QUEUED}
    jobs.client.call(UpdateJobGroup("cores", slots=100))
    for job in submitted:
        jobs.let_go(job)
    jobs.wait_all(*submitted)


def test_paused_group_begins_nothing_and_what_runs_goes_on(jobs: Jobs) -> None:
    jobs.group("one", 4)
    held = jobs.hold(group="one")
    jobs.running(held)
    jobs.pause("one")
    waits = jobs.submit(group="one")
    jobs.ended(jobs.submit())
    assert jobs.get(waits).status is JobStatus.QUEUED
    jobs.let_go(held)
    jobs.ended(held)
    assert jobs.ended(jobs.start(waits)).status is JobStatus.COMPLETED
    jobs.resume("one")
    assert jobs.ended(jobs.submit(group="one")).status is JobStatus.COMPLETED


def test_group_counts_its_jobs_and_is_neither_renamed_nor_deleted_while_it_has_some(jobs: Jobs) -> None:
    group = jobs.group("one", 1)
    held, waits = jobs.hold(group="one"), jobs.submit(group="one")
    jobs.running(held)
    page = jobs.cli.ok("group", "list").lines
    assert any(line.split()[:4] == ["one", "1", "1", "1"] for line in page)
    for command in (DeleteJobGroup("one"), UpdateJobGroup("one", name="other")):
        error = jobs.call_error(command)
        assert isinstance(error, JobGroupInUse)
        assert error.details["jobs"] == 2
    for command in (DeleteJobGroup("default"), UpdateJobGroup("default", name="other")):
        assert isinstance(jobs.call_error(command), JobGroupFixed)
    assert isinstance(jobs.submit_error(group="none"), JobGroupNotFound)
    jobs.let_go(held)
    jobs.wait_all(held, waits)
    assert jobs.client.call(UpdateJobGroup("one", name="other")).id == group.id
    assert isinstance(jobs.call_error(CreateJobGroup(name="other")), NexusError)
    # What has ended keeps the name of its group, and cannot be retried in it.
    assert isinstance(jobs.call_error(RetryJob(held.id)), JobGroupNotFound)


# Stash, enqueue, start


def test_stashed_job_begins_when_it_is_enqueued_or_started(jobs: Jobs) -> None:
    job = jobs.submit(stashed=True)
    jobs.ended(jobs.submit())
    assert jobs.get(job).status is JobStatus.STASHED
    assert jobs.enqueue(job).status is JobStatus.QUEUED
    assert jobs.ended(job).status is JobStatus.COMPLETED
    job = jobs.submit(stashed=True)
    assert jobs.ended(jobs.start(job)).status is JobStatus.COMPLETED
    for command in (StashJob(job.id), EnqueueJob(job.id), StartJob(job.id)):
        assert isinstance(jobs.call_error(command), JobStatusWrong)


def test_start_begins_a_job_past_its_slots_and_replies_once_it_has_a_process(jobs: Jobs) -> None:
    jobs.group("one", 1)
    held, waits, next_ = jobs.hold(group="one"), jobs.hold(group="one"), jobs.submit(group="one")
    jobs.running(held)
    started = jobs.start(waits)
    assert started.status is JobStatus.EXECUTING
    assert jobs.start(waits).id == waits.id  # it runs already
    # Both slots that are used have to be free before the next one begins.
    jobs.let_go(held)
    jobs.ended(held)
    jobs.ended(jobs.submit())
    assert jobs.get(next_).status is JobStatus.QUEUED
    jobs.let_go(waits)
    assert jobs.ended(next_).status is JobStatus.COMPLETED


def test_start_of_what_cannot_be_started_says_so_in_the_record(jobs: Jobs) -> None:
    job = jobs.submit(["/no/such/program"], stashed=True)
    assert jobs.start(job).status is JobStatus.FAILED


def test_stash_of_a_delayed_job_and_of_one_that_waits_for_another(jobs: Jobs) -> None:
    delayed = jobs.submit(delay_ms=3_600_000)
    assert jobs.stash(delayed).status is JobStatus.STASHED
    first = jobs.submit(stashed=True)
    waits = jobs.submit(after=[first.id])
    assert jobs.stash(waits).waits_for == 1
    jobs.enqueue(first)
    jobs.ended(first)
    wait_until(lambda: jobs.get(waits).waits_for == 0, "it to be let go on")
    assert jobs.get(waits).status is JobStatus.STASHED
    for job in (delayed, waits):
        jobs.enqueue(job)
        assert jobs.ended(job).status is JobStatus.COMPLETED


def test_job_is_never_begun_after_the_reply_to_its_stash(jobs: Jobs) -> None:
    """More jobs are to begin than are launched at once, so that some wait for their turn."""
    jobs.group("wide", 100)
    for _ in range(5):
        jobs.pause("wide")
        submitted = [jobs.submit("exec sleep 1000", group="wide") for _ in range(40)]
        jobs.resume("wide")
        with connect(jobs.daemon) as other:
            sequences = other.begin_many([StashJob(job.id) for job in reversed(submitted)])
            stashed = []
            for job, sequence in zip(reversed(submitted), sequences, strict=True):
                try:
                    other.payload(sequence)
                    stashed.append(job)
                except JobStatusWrong:
                    pass
        jobs.ended(jobs.submit())
        for job in stashed:
            assert jobs.get(job).status is JobStatus.STASHED
            assert "started" not in jobs.kinds(job)
        for job in submitted:
            jobs.cancel(job, now=True)


def test_update_that_races_with_the_queue_holds_for_what_begins_or_is_refused(jobs: Jobs) -> None:
    jobs.group("wide", 100)
    jobs.group("other", 100)
    updated = 0
    for _ in range(4):
        submitted = jobs.submit_many([CreateJob("echo old", group="wide") for _ in range(30)])
        with connect(jobs.daemon) as other:
            sequences = other.begin_many(
                [UpdateJob(job.id, command="echo new", group="other") for job in reversed(submitted)]
            )
            for job, sequence in zip(reversed(submitted), sequences, strict=True):
                try:
                    other.payload(sequence)
                    wanted = ("new\n", "other")
                    updated += 1
                except JobStatusWrong:
                    wanted = ("old\n", "wide")
                ended = jobs.ended(job)
                assert (ended.stdout, ended.group) == wanted
                assert [
                    event["detail"].get("group") for event in jobs.events(job) if event["kind"] == "job.started"
                ] == [wanted[1]]
    assert updated


def test_update_of_what_waits_and_of_what_does_not(jobs: Jobs) -> None:
    job = jobs.submit("echo old", stashed=True)
    jobs.update(job, command=["printf", "new"], directory="/", priority=3, timeout_ms=1000, retries=1, label="l")
    jobs.enqueue(job)
    ended = jobs.ended(job)
    assert (ended.tool, ended.stdout, ended.directory, ended.priority) == ("printf", "new", "/", 3)
    assert isinstance(jobs.call_error(UpdateJob(job.id, priority=4)), JobStatusWrong)
    changed = jobs.update(job, label="other", tags=["t"], metadata={"a": 1})
    assert (changed.label, changed.tags, changed.metadata) == ("other", ["t"], {"a": 1})
    assert jobs.all(tag="t") == [jobs.all()[0]]
    error = jobs.call_error(UpdateJob(job.id, label="x", if_revision=1))
    assert error.type == "job.changed"


def test_update_of_the_group_takes_a_job_to_another_queue(jobs: Jobs) -> None:
    jobs.group("one", 1)
    held, waits = jobs.hold(group="one"), jobs.submit(group="one")
    jobs.running(held)
    jobs.update(waits, group="default")
    assert jobs.ended(waits).group == "default"
    jobs.let_go(held)
    assert isinstance(jobs.call_error(UpdateJob(jobs.submit(stashed=True).id, group="none")), JobGroupNotFound)


# Delays


def test_delayed_job_begins_at_its_time_and_not_before(jobs: Jobs) -> None:
    job = jobs.submit(delay_ms=300)
    assert job.not_before is not None
    assert job.not_before >= job.created_at + 300
    ended = jobs.ended(job)
    assert ended.started_at is not None
    assert ended.started_at >= job.not_before
    later, sooner = jobs.submit(delay_ms=3_600_000), jobs.submit(delay_ms=100)
    jobs.ended(sooner)
    assert jobs.get(later).status is JobStatus.QUEUED
    jobs.enqueue(later, delay_ms=50)
    assert jobs.ended(later).status is JobStatus.COMPLETED


def test_delay_is_kept_over_a_kill_of_the_daemon(own: Jobs) -> None:
    far, near = own.submit(delay_ms=3_600_000), own.submit(delay_ms=1000)
    own.kill_daemon()
    assert own.ended(near).status is JobStatus.COMPLETED
    assert own.get(far).not_before == far.not_before
    assert own.get(far).status is JobStatus.QUEUED
    assert own.client.call(GetJob(far.id)) == far
    assert own.client.call(WaitJobs(jobs=[near.id])).jobs
