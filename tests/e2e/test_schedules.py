"""Schedules of a real daemon: an interval that goes on over kill -9, and a daemon that stays for its schedules."""

from __future__ import annotations

import random
import time
from pathlib import Path

from support.daemon import DaemonProcess
from support.raw import wait_until
from support.stores import look_at

from nexus.client import BlockingClient
from nexus.jobs.commands import ListJobs
from nexus.jobs.records import Job
from nexus.jobs.schedules.commands import (
    CreateSchedule,
    DeleteSchedule,
    GetSchedule,
    ListSchedules,
    PauseSchedule,
    ResumeSchedule,
    TriggerSchedule,
    UpdateSchedule,
)
from nexus.jobs.states import ENDED, JobStatus, Overlap
from nexus.journal.commands import WatchEvents

KILLS = 6


def jobs_of(client: BlockingClient, schedule_id: str) -> list[Job]:
    """The jobs of a schedule, oldest first."""
    return [job for job in reversed(client.call(ListJobs()).jobs) if job.schedule_id == schedule_id]


def test_an_interval_goes_on_over_kills_of_the_daemon_and_no_time_comes_twice(daemon: DaemonProcess) -> None:
    chance = random.Random(12)
    with BlockingClient(daemon.socket_path) as client:
        schedule = client.call(CreateSchedule("tick", command="exit 0", every_ms=200, overlap=Overlap.QUEUE))
    for _ in range(KILLS):
        with BlockingClient(daemon.socket_path) as client:
            before = client.call(GetSchedule("tick")).last_job_number or 0
            wait_until(
                lambda c=client, b=before: (c.call(GetSchedule("tick")).last_job_number or 0) > b,  # type: ignore[misc]
                "another job",
            )
        time.sleep(chance.random() * 0.2)  # the kill comes at any moment of the interval
        daemon.kill()
        daemon.start()
    with BlockingClient(daemon.socket_path) as client:
        assert client.call(PauseSchedule("tick")).next_at is None
        wait_until(lambda: all(job.status in ENDED for job in jobs_of(client, schedule.id)), "the end of every job")
        jobs = jobs_of(client, schedule.id)
        with client.stream(WatchEvents(follow=False)) as stream:
            fired = [event.detail for event in stream if event.kind == "schedule.fired"]
        assert [each["number"] for each in fired if each is not None] == [job.number for job in jobs]
        times = [each["at"] for each in fired if each is not None]
        assert times == sorted(set(times))
        assert {job.status for job in jobs} == {JobStatus.COMPLETED}


def test_a_replaced_job_ends_with_its_tree_before_the_next_begins(daemon: DaemonProcess, root: Path) -> None:
    marks = root / "marks"
    line = f"trap 'echo asked >> {marks}; sleep 0.3; exit' TERM; setsid sleep 600 & echo begin $! >> {marks}; wait"
    with BlockingClient(daemon.socket_path) as client:
        schedule = client.call(CreateSchedule("slow", command=line, every_ms=86_400_000, overlap=Overlap.REPLACE))
        first = client.call(TriggerSchedule("slow"))
        wait_until(lambda: marks.exists() and marks.read_text().count("begin") == 1, "the first job")
        client.call(UpdateSchedule("slow", every_ms=100))
        wait_until(lambda: len(jobs_of(client, schedule.id)) > 1, "the second job")
        client.call(PauseSchedule("slow"))
        daemon.kill()
        daemon.start()
    with BlockingClient(daemon.socket_path) as client:
        wait_until(lambda: marks.read_text().count("begin") == 2, "the job that replaces it")
        found = {job.number: job for job in jobs_of(client, schedule.id)}
        assert found[first.number].status is JobStatus.CANCELLED
        assert marks.read_text().split()[2:4] == ["asked", "begin"]
        assert not Path(f"/proc/{marks.read_text().split()[1]}").exists()
        *replaced, last = found.values()
        assert {job.status for job in replaced} == {JobStatus.CANCELLED}
        assert last.status is JobStatus.EXECUTING
        resumed = client.call(ResumeSchedule("slow"))
        assert resumed.next_at is not None
        client.call(DeleteSchedule("slow"))
        assert client.call(ListSchedules()).schedules == []


def test_a_database_has_no_time_that_no_job_has(daemon: DaemonProcess) -> None:
    with BlockingClient(daemon.socket_path) as client:
        for number in range(20):
            client.call(CreateSchedule(f"s{number}", command="exit 0", every_ms=100, overlap=Overlap.QUEUE))
        wait_until(lambda: len(client.call(ListJobs()).jobs) > 100, "100 jobs")
        wait_until(lambda: all(each.last_job_id for each in client.call(ListSchedules()).schedules), "a job of each")
    daemon.kill()
    with look_at(daemon.database) as database:
        rows = database.execute(
            "SELECT s.last_job_id IS NULL, j.number = s.last_job_number, "
            "j.number = (SELECT max(number) FROM jobs WHERE schedule_id = s.id) "
            "FROM schedules s LEFT JOIN jobs j ON j.id = s.last_job_id"
        ).fetchall()
    assert set(rows) == {(0, 1, 1)}
