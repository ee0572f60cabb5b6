"""How long ended jobs are kept, and how much of their output."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from support.jobs import Jobs
from support.raw import wait_until

from nexus.jobs.commands import GetJobOutput
from nexus.jobs.records import Job
from nexus.jobs.states import JobStatus
from nexus.system.commands import SetSetting

DAY_MS = 86_400_000
KIB = 1024
MIB = 1024 * KIB


def aged(jobs: Jobs, days: dict[str, float]) -> None:
    """Let jobs have ended that many days earlier; no daemon runs."""
    with closing(sqlite3.connect(jobs.daemon.database)) as database, database:
        for id_, count in days.items():
            database.execute("UPDATE jobs SET completed_at = completed_at - ? WHERE id = ?", (int(count * DAY_MS), id_))


def kept(jobs: Jobs) -> int:
    """The size of all logs of jobs."""
    files = (jobs.daemon.state / "processes").glob("job-*/log/*.log")
    return sum(path.stat().st_size for path in files)


def loud(jobs: Jobs, **fields: object) -> Job:
    return jobs.submit(f"head -c {300 * KIB} /dev/zero | tr '\\0' x; echo end", **fields)


def test_jobs_that_ended_long_ago_are_deleted_with_their_output(own: Jobs) -> None:
    old, other, young = (own.ended(own.submit(command)) for command in ("echo old", "exit 1", "echo young"))
    cancelled = own.cancel(own.submit(stashed=True))
    waits = own.submit(stashed=True)
    own.client.call(SetSetting(key="jobs.keep_days", value=2))
    own.daemon.stop()
    aged(own, {old.id: 2.1, other.id: 2.1, cancelled.id: 100, young.id: 1.9})
    own.begin_anew()
    wait_until(lambda: len(own.all()) == 2, "old jobs to be deleted")
    assert {job.id for job in own.all()} == {young.id, waits.id}
    wait_until(lambda: not own.folder(old).exists(), "the output to be deleted")
    assert own.output(young) == b"young\n"
    deleted = [event for event in own.events() if event["kind"] == "job.deleted"]
    assert {event["subject_id"] for event in deleted} == {old.id, other.id, cancelled.id}


def test_job_that_others_wait_for_is_deleted_only_after_they_went_on(own: Jobs) -> None:
    """The daemon was killed before it settled what waited for the old one."""
    old = own.submit("true", stashed=True)
    waits = own.submit("true", after=[old.id])
    own.daemon.kill()
    with closing(sqlite3.connect(own.daemon.database)) as database, database:
        database.execute("UPDATE jobs SET status = 'completed', completed_at = 1 WHERE id = ?", (old.id,))
    own.begin_anew()
    assert own.ended(waits).status is JobStatus.COMPLETED


def test_clock_that_is_set_forward_deletes_nothing(own: Jobs) -> None:
    """The note of the clock says that the wall clock was years behind a moment ago."""
    job = own.ended(own.submit("echo x"))
    own.daemon.stop()
    note = own.daemon.state / "processes" / "clock"
    boot, wall, clock = note.read_text().rsplit(" ", 2)
    note.write_text(f"{boot} {int(wall) - 400 * DAY_MS} {clock}")
    aged(own, {job.id: 100})
    own.begin_anew()
    own.ended(own.submit())
    assert own.get(job).status is JobStatus.COMPLETED


def test_oldest_output_goes_first_and_the_records_stay(own: Jobs) -> None:
    own.client.call(SetSetting(key="jobs.max_output", value=MIB))
    jobs = [own.ended(loud(own)) for _ in range(6)]
    sizes = [job.output_bytes for job in jobs]
    assert all(size is not None and size >= 300 * KIB for size in sizes)

    def dropped() -> list[int]:
        return [number for number, job in enumerate(jobs) if own.get(job).output_bytes == 0]

    wait_until(lambda: dropped() == [0, 1, 2], "the oldest output to be deleted")
    wait_until(lambda: kept(own) <= MIB, "the files to be deleted")
    for number, job in enumerate(jobs):
        found = own.get(job)
        assert found.status is JobStatus.COMPLETED
        assert (found.stdout or "").endswith("xend\n")  # the end of it stays in the record
        assert len(own.output(job)) == (0 if number < 3 else 300 * KIB + 4)
    (piece, *_) = own.pieces(jobs[-1])
    assert own.call_error(GetJobOutput(jobs[0].id, cursor=piece.cursor)).type == "job.cursor_invalid"


def test_bound_on_output_holds_for_what_an_earlier_daemon_left_and_not_for_what_runs(own: Jobs) -> None:
    running = own.submit(f"head -c {2 * MIB} /dev/zero; exec sleep 1000")
    wait_until(lambda: kept(own) >= 2 * MIB, "its output")
    ended = [own.ended(loud(own)) for _ in range(2)]
    own.daemon.stop()
    with closing(sqlite3.connect(own.daemon.database)) as database, database:
        database.execute("INSERT INTO settings (key, value, type) VALUES ('jobs.max_output', '1048576', 'int')")
        # As if there were much more than the files have.
        database.execute("UPDATE jobs SET output_bytes = 1048576 WHERE id = ?", (ended[0].id,))
    own.begin_anew()
    wait_until(lambda: own.get(ended[0]).output_bytes == 0, "the oldest output to be deleted")
    assert own.get(ended[1]).output_bytes
    assert len(own.output(running)) == 2 * MIB
    own.cancel(running)


def test_retried_job_counts_with_all_of_its_output(own: Jobs) -> None:
    own.client.call(SetSetting(key="jobs.max_output", value=MIB))
    job = own.ended(loud(own, retries=0))
    for _ in range(2):
        own.retry(job, in_place=True)
        job = own.ended(job)
    assert job.output_bytes is not None
    assert job.output_bytes >= 3 * 300 * KIB
    assert own.output(job, lines=1) == own.output(job)[-len(own.output(job, lines=1)) :]
    own.retry(job, in_place=True)
    ended = own.ended(job)
    wait_until(lambda: own.get(job).output_bytes == 0, "its output to be deleted")
    assert ended.status is JobStatus.COMPLETED
