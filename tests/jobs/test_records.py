"""The records of jobs: ids and keys, numbers, projects, lists, what is deleted and what stays."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

import pytest
from nexus_protocol import NexusError
from support.daemon import DaemonProcess
from support.jobs import Jobs
from support.projects import Speaker
from support.raw import wait_until

from nexus.jobs.commands import (
    CancelJob,
    CreateJob,
    DeleteJob,
    EnqueueJob,
    GetJob,
    ListJobs,
    PruneJobs,
    RetryJob,
    WaitJobs,
)
from nexus.jobs.errors import JobChanged, JobIdTaken, JobInvalid, JobNotFound, JobStatusWrong
from nexus.jobs.records import Job
from nexus.jobs.states import JobStatus
from nexus.projects.commands import CreateProject, DeleteProject, ProjectNotFound


def folders(jobs: Jobs) -> set[str]:
    return {path.name for path in (jobs.daemon.state / "processes").glob("job-*")}


# Ids and keys


def test_repeated_request_with_an_id_gives_the_same_job(jobs: Jobs) -> None:
    first = jobs.submit(stashed=True)
    id_ = str(uuid.uuid4())
    fields = {
        "id": id_,
        "after": [str(first.number)],
        "environment": {"A": "b"},
        "tags": ["x", "x"],
        "metadata": {"a": [1, {"b": None}]},
        "label": "l",
        "directory": "/",
    }
    job = jobs.submit("echo once", **fields)
    assert (job.id, job.tags) == (id_, ["x"])
    assert jobs.submit("echo once", **fields) == job
    assert [each.id for each in jobs.all()] == [id_, first.id]
    for other in ({"label": "other"}, {"after": []}, {"priority": 1}, {"directory": "/tmp"}, {"tool": "sh"}):
        error = jobs.submit_error("echo once", **(fields | other))
        assert isinstance(error, JobIdTaken), other
        assert error.details["number"] == job.number
    assert isinstance(jobs.submit_error("echo twice", **fields), JobIdTaken)
    # Also once it has ended.
    jobs.enqueue(first)
    ended = jobs.ended(job)
    assert jobs.submit("echo once", **fields) == ended


def test_repeated_request_gives_the_same_job_whatever_became_of_what_it_names(jobs: Jobs) -> None:
    jobs.group("other", 1)
    first, second = jobs.hold(), jobs.hold()
    fields = {"id": str(uuid.uuid4()), "after": [str(first.number), f"{second.id}:any"], "group": "other"}
    job = jobs.submit("true", **fields)
    jobs.cancel(first)
    assert jobs.ended(job).status is JobStatus.CANCELLED
    assert jobs.submit("true", **fields).id == job.id
    jobs.cancel(second)
    for each in (first, second):
        jobs.delete(each)
    assert jobs.submit("true", **fields).id == job.id
    assert isinstance(jobs.submit_error("true", **(fields | {"after": [f"{second.id}:any"]})), JobIdTaken)


def test_request_that_is_repeated_with_its_key_has_no_second_effect(shared: DaemonProcess, jobs: Jobs) -> None:
    """The reply of a job has its command, and is not kept: the error names the operation, and that the job."""
    speaker = Speaker(shared)
    command = CreateJob("true", stashed=True, environment={"A": "b"})
    job = speaker.call(command, key="submit-once")
    error = speaker.error(command, key="submit-once")
    assert error.type == "request.reply_gone"
    shown = jobs.cli.ok("op", "show", str(error.details["operation"]), "-o", "json").json
    assert {change["key"] for change in shown["changes"]} == {job.id}
    assert [each.id for each in jobs.all()] == [job.id]
    assert speaker.error(CreateJob("false", stashed=True), key="submit-once").type == "request.key_reused"
    assert speaker.call(EnqueueJob(job.id), key="enqueue-once").status is JobStatus.QUEUED
    ended = jobs.ended(job)
    for command, key in ((EnqueueJob(job.id), "enqueue-once"), (RetryJob(job.id), "retry-once")):
        with contextlib.suppress(NexusError):
            speaker.call(command, key=key)
        assert speaker.error(command, key=key).type == "request.reply_gone"
    assert jobs.get(job) == ended
    assert len(jobs.all()) == 2
    speaker.client.close()


def test_job_is_found_by_number_id_and_prefix(jobs: Jobs) -> None:
    job = jobs.submit(stashed=True)
    for reference in (str(job.number), f"#{job.number}", job.id, job.id[:8], f"default/{job.number}"):
        assert jobs.get(reference) == job
    for reference in ("0", "99999999", "#", f"none/{job.number}", f"{job.number} "):
        error = jobs.call_error(GetJob(reference))
        assert error.code in ("not_found", "invalid_argument"), (reference, error)
    jobs.delete(job)
    # A number is given once.
    assert jobs.submit(stashed=True).number == job.number + 1


def test_list_is_newest_first_in_pages_and_filtered(jobs: Jobs) -> None:
    jobs.group("other", 1)
    submitted = [
        jobs.submit(
            ["true"], stashed=True, tags=[f"t{n % 2}"], label=f"l{n % 3}", group="other" if n % 2 else "default"
        )
        for n in range(9)
    ]
    done = jobs.ended(jobs.submit("true"))
    ids = [job.id for job in reversed(submitted)]
    page = jobs.client.call(ListJobs(limit=4, status=JobStatus.STASHED))
    assert [job.id for job in page.jobs] == ids[:4]
    rest = jobs.client.call(ListJobs(limit=100, status=JobStatus.STASHED, cursor=page.next_cursor))
    assert ([job.id for job in rest.jobs], rest.next_cursor) == (ids[4:], None)
    assert [job.id for job in jobs.all(tag="t1")] == [id_ for id_ in ids if id_ in {j.id for j in submitted[1::2]}]
    assert {job.id for job in jobs.all(group="other")} == {job.id for job in submitted[1::2]}
    assert {job.id for job in jobs.all(label="l0")} == {job.id for job in submitted[::3]}
    assert [job.id for job in jobs.all(tool="bash")] == [done.id]
    assert jobs.all(group="none") == []
    assert jobs.call_error(ListJobs(cursor="nonsense")).type == "job.cursor_invalid"


# Deleting


def test_delete_takes_the_record_with_its_output(jobs: Jobs) -> None:
    job = jobs.ended(jobs.submit("echo x"))
    assert folders(jobs) == {f"job-{job.id}"}
    assert isinstance(jobs.call_error(DeleteJob(job.id, if_revision=7)), JobChanged)
    assert jobs.delete(job) == job
    wait_until(lambda: folders(jobs) == set(), "its output to be deleted")
    assert isinstance(jobs.call_error(GetJob(job.id)), JobNotFound)


def test_job_that_runs_is_not_deleted(jobs: Jobs) -> None:
    job = jobs.hold()
    jobs.running(job)
    error = jobs.call_error(DeleteJob(job.id))
    assert isinstance(error, JobStatusWrong)
    assert error.details["status"] == "executing"
    jobs.let_go(job)


def test_job_that_is_deleted_as_it_begins_either_runs_or_is_gone(jobs: Jobs) -> None:
    jobs.group("wide", 100)
    gone = 0
    for _ in range(5):
        submitted = jobs.submit_many([CreateJob("sleep 0.05", group="wide") for _ in range(30)])
        sequences = jobs.client.begin_many([DeleteJob(job.id) for job in reversed(submitted)])
        for job, sequence in zip(reversed(submitted), sequences, strict=True):
            try:
                jobs.client.payload(sequence)
                gone += 1
                assert isinstance(jobs.call_error(GetJob(job.id)), JobNotFound)
                assert jobs.pids(job) == set()
            except JobStatusWrong:
                assert jobs.ended(job).status is JobStatus.COMPLETED
    assert gone
    assert "Traceback" not in jobs.daemon.log()
    wait_until(lambda: folders(jobs) == {f"job-{job.id}" for job in jobs.all()}, "the files to be deleted")


def test_prune_deletes_what_has_ended_and_nothing_else(jobs: Jobs) -> None:
    good, bad = jobs.ended(jobs.submit("true")), jobs.ended(jobs.submit("false"))
    cancelled = jobs.cancel(jobs.submit(stashed=True))
    stashed, held = jobs.submit(stashed=True), jobs.hold()
    delayed = jobs.submit("false", retries=1, retry_backoff_ms=3_600_000)
    jobs.running(held)
    jobs.wait(delayed, attempt=2)
    old = jobs.client.call(PruneJobs(before_at=good.completed_at))
    assert (old.count, old.more) == (0, False)
    assert jobs.client.call(PruneJobs(successful=True)).ids == [good.id]
    assert set(jobs.client.call(PruneJobs()).ids) == {bad.id, cancelled.id}
    assert {job.id for job in jobs.all()} == {stashed.id, held.id, delayed.id}
    wait_until(lambda: folders(jobs) <= {f"job-{job.id}" for job in (held, delayed)}, "the files to be deleted")
    jobs.let_go(held)


def test_prune_goes_in_steps_of_a_thousand(jobs: Jobs) -> None:
    submitted = jobs.submit_many([CreateJob("true", stashed=True) for _ in range(1005)])
    for sequence in jobs.client.begin_many([CancelJob(job.id) for job in submitted]):
        jobs.client.payload(sequence)
    first = jobs.client.call(PruneJobs())
    assert (first.count, first.more, len(first.ids)) == (1000, True, 1000)
    second = jobs.client.call(PruneJobs())
    assert (second.count, second.more) == (5, False)
    assert jobs.cli.ok("job", "prune").out == "Deleted 0 jobs that had ended\n"


def test_metadata_of_a_job_is_bounded(jobs: Jobs) -> None:
    deep: object = 1
    for _ in range(40):
        deep = [deep]
    assert jobs.submit_error(metadata={"a": deep}).code == "invalid_argument"
    assert jobs.submit_error(metadata={"a": "x" * 70_000}).code == "invalid_argument"


# Projects


@pytest.fixture
def two(shared: DaemonProcess, jobs: Jobs) -> Iterator[Speaker]:
    """The projects ``p`` and ``q``, deleted with their jobs afterwards."""
    speaker = Speaker(shared)
    for name in ("p", "q"):
        speaker.call(CreateProject(name=name))
    yield speaker
    for name in ("p", "q"):
        with contextlib.suppress(ProjectNotFound):
            for job in speaker.at(name).call(ListJobs()).jobs:
                speaker.at(name).call(CancelJob(job.id, now=True))
            speaker.call(DeleteProject(name, cascade=True))
    speaker.client.close()


def test_each_project_counts_its_jobs(two: Speaker, jobs: Jobs) -> None:
    made: dict[str, Job] = {name: two.at(name).call(CreateJob("true", stashed=True)) for name in ("p", "q")}
    assert [made[name].number for name in ("p", "q")] == [1, 1]
    for name, job in made.items():
        assert two.at(name).call(GetJob("1")) == job
        assert two.call(GetJob(f"{name}/1")) == job
        assert [each.id for each in two.at(name).call(ListJobs()).jobs] == [job.id]
        assert (job.project, two.call(GetJob(job.id))) == (name, job)
    assert {made["p"].id, made["q"].id} <= {each.id for each in two.at("*").call(ListJobs()).jobs}
    listed = jobs.cli.ok("job", "list", "-A", "-o", "name").lines
    assert {"p/1", "q/1"} <= set(listed)
    shown = jobs.cli.ok("job", "inspect", "q/1", "-o", "json").json
    assert shown["id"] == made["q"].id
    assert jobs.cli.ok("-p", "q", "job", "list", "-o", "name").lines == ["1"]


def test_job_has_the_name_of_its_project_and_may_follow_one_of_another(two: Speaker, jobs: Jobs) -> None:
    first = two.at("p").call(CreateJob("echo $NEXUS_PROJECT/$NEXUS_JOB", stashed=True))
    second = two.at("q").call(CreateJob("echo $NEXUS_PROJECT/$NEXUS_JOB", after=["p/1"]))
    two.at("p").call(EnqueueJob("1"))
    assert jobs.ended(second).stdout == f"q/{second.number}\n"
    assert jobs.get(first).stdout == f"p/{first.number}\n"


def test_project_is_not_deleted_while_jobs_of_it_wait_or_run(two: Speaker, jobs: Jobs) -> None:
    p = two.at("p")
    waits = p.call(CreateJob("true", stashed=True))
    ended = jobs.ended(p.call(CreateJob("true")))
    follows = two.at("q").call(CreateJob("true", after=[waits.id]))
    for cascade in (False, True):
        error = two.error(DeleteProject("p", cascade=cascade))
        assert error.code in ("conflict", "failed_precondition"), error
        assert p.call(GetJob(waits.id)) == waits
    p.call(CancelJob(waits.id))
    assert jobs.ended(follows).status is JobStatus.CANCELLED
    assert two.error(DeleteProject("p")).code in ("conflict", "failed_precondition")
    two.call(DeleteProject("p", cascade=True))
    for job in (waits, ended):
        assert isinstance(jobs.call_error(GetJob(job.id)), JobNotFound)
    wait_until(lambda: f"job-{ended.id}" not in folders(jobs), "its output to be deleted")
    assert jobs.rows("SELECT * FROM job_after") == []


def test_prune_and_wait_are_of_one_project(two: Speaker, jobs: Jobs) -> None:
    other = jobs.ended(two.at("q").call(CreateJob("true")))
    mine = jobs.ended(two.at("p").call(CreateJob("true")))
    held = two.at("q").call(CreateJob("sleep 1000"))
    assert two.at("p").call(WaitJobs()).jobs == []
    assert two.at("p").call(PruneJobs()).ids == [mine.id]
    assert jobs.get(other) == other
    assert two.at("*").error(PruneJobs()).code == "invalid_argument"
    assert two.at("*").error(CreateJob("true")).code == "invalid_argument"
    jobs.cancel(held)


def test_contradicting_fields_are_refused(jobs: Jobs) -> None:
    assert isinstance(jobs.submit_error("true", stdin_data=b"", stdin_path="/dev/null"), JobInvalid)
    for fields in (
        {"command": ""},
        {"command": []},
        {"command": "a\0b"},
        {"directory": "relative"},
        {"priority": 2**40},
    ):
        assert jobs.submit_error(**fields).code == "invalid_argument", fields  # type: ignore[arg-type]
