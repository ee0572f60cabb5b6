"""Jobs on a full disk: submission is refused, what cannot be written freezes no slot, and all goes on with room."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nexus_protocol import ResourceExhausted
from support.daemon import DaemonProcess, running
from support.faults import fill, on_small_disk
from support.jobs import Jobs
from support.live_services import exists
from support.raw import wait_until

from nexus.jobs.commands import CancelJob, CreateJob, PruneJobs, StartJob
from nexus.jobs.records import Job
from nexus.jobs.states import JobReason, JobStatus
from nexus.system.commands import SetSetting


def exhaust(jobs: Jobs) -> None:
    """Use up the free room within the write-ahead log."""
    with contextlib.suppress(ResourceExhausted):
        for number in range(100_000):
            jobs.client.call(SetSetting(key=f"x{number}", value="x"))


def held(jobs: Jobs, fifos: Path, count: int, **fields: Any) -> list[tuple[Job, Path]]:
    """Jobs that exit with what is written to their FIFOs, which are not on the small disk."""
    made = []
    for number in range(count):
        fifo = fifos / f"{number}.fifo"
        os.mkfifo(fifo)
        made.append((jobs.submit(f"read -r code <'{fifo}'; exit $code", log_limit_mib=1, **fields), fifo))
    return made


def test_full_disk_refuses_submissions_freezes_no_slot_and_loses_no_exit(
    make_daemon: Callable[..., DaemonProcess],
) -> None:
    daemon = make_daemon()

    def use(disk: Path) -> None:
        jobs = Jobs(daemon)
        jobs.group("wide", 4)
        submitted = held(jobs, daemon.root, 4, group="wide")
        for job, _fifo in submitted:
            jobs.running(job)
        (_, go_good), (_, go_bad), (killed, _), (cancelled, _) = submitted
        waiting = [jobs.submit("true", group="wide") for _ in range(6)]
        stashed = jobs.submit("true", stashed=True)
        filler = fill(disk)
        exhaust(jobs)
        assert isinstance(jobs.submit_error("true"), ResourceExhausted)
        error = jobs.call_error(StartJob(stashed.id))
        assert error.code == "resource_exhausted", error
        # What ends meanwhile has ended, although that cannot be written; a cancel says so.
        pids = {job.id: jobs.get(job).pid for job, _fifo in submitted}
        go_good.write_text("0\n")
        go_bad.write_text("3\n")
        killed_pid = pids[killed.id]
        assert killed_pid is not None
        os.kill(killed_pid, signal.SIGKILL)
        assert isinstance(jobs.call_error(CancelJob(cancelled.id)), ResourceExhausted)
        wait_until(lambda: not any(map(exists, pids.values())), "all of them to end")
        assert {jobs.get(job).status for job in waiting} == {JobStatus.QUEUED}
        filler.unlink()
        ended = [jobs.ended(job) for job, _fifo in submitted]
        assert [(job.status, job.exit_code, job.exit_signal) for job in ended] == [
            (JobStatus.COMPLETED, 0, None),
            (JobStatus.FAILED, 3, None),
            (JobStatus.FAILED, None, signal.SIGKILL),
            (JobStatus.CANCELLED, None, signal.SIGTERM),
        ]
        jobs.wait_all(*waiting)
        assert {jobs.get(job).status for job in waiting} == {JobStatus.COMPLETED}
        assert all(jobs.kinds(job).count("started") == 1 for job in waiting)
        # All four slots are free again.
        again = [jobs.submit("sleep 1000", group="wide") for _ in range(4)]
        for job in again:
            jobs.running(job)
        assert jobs.get(stashed).status in (JobStatus.STASHED, JobStatus.COMPLETED)
        for job in again:
            jobs.cancel(job)
        jobs.client.call(PruneJobs())
        jobs.close()
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log()

    on_small_disk(daemon.root / "state", 6 * 1024, running(daemon, use))


def test_daemon_that_ends_with_unwritten_ends_leaves_them_to_the_next_one(
    make_daemon: Callable[..., DaemonProcess],
) -> None:
    daemon = make_daemon()

    def use(disk: Path) -> None:
        jobs = Jobs(daemon)
        jobs.group("wide", 4)
        submitted = held(jobs, daemon.root, 3, group="wide")
        for job, _fifo in submitted:
            jobs.running(job)
        waits = jobs.submit("true", after=[submitted[0][0].id])
        filler = fill(disk)
        exhaust(jobs)
        for number, (_job, fifo) in enumerate(submitted):
            fifo.write_text(f"{number}\n")
        wait_until(lambda: not any(jobs.pids(job) for job, _fifo in submitted), "their ends")
        daemon.kill()
        filler.unlink()
        jobs.begin_anew()
        assert [jobs.ended(job).exit_code for job, _fifo in submitted] == [0, 1, 2]
        assert jobs.ended(waits).status is JobStatus.COMPLETED
        jobs.close()
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log()

    on_small_disk(daemon.root / "state", 6 * 1024, running(daemon, use))


def test_start_for_which_the_disk_has_no_room_fails_no_job(make_daemon: Callable[..., DaemonProcess]) -> None:
    """The database can be written within its log, and the files of a run cannot be made."""
    daemon = make_daemon()

    def use(disk: Path) -> None:
        jobs = Jobs(daemon)
        jobs.group("wide", 4)
        jobs.pause("wide")
        waiting = [jobs.submit("true", group="wide") for _ in range(8)]
        filler = fill(disk)
        with contextlib.suppress(ResourceExhausted):
            jobs.resume("wide")
            for _ in range(20):
                jobs.client.call(SetSetting(key="x", value="x"))
        assert not any(jobs.get(job).status is JobStatus.FAILED for job in waiting)
        filler.unlink()
        with contextlib.suppress(ResourceExhausted):
            jobs.resume("wide")
        wait_until(lambda: _resumed(jobs), "the group to be resumed")
        jobs.wait_all(*waiting)
        assert {jobs.get(job).status for job in waiting} == {JobStatus.COMPLETED}
        assert not any(jobs.get(job).reason_code is JobReason.START_FAILED for job in waiting)
        jobs.close()
        assert daemon.stop() == 0

    on_small_disk(daemon.root / "state", 6 * 1024, running(daemon, use))


def _resumed(jobs: Jobs) -> bool:
    try:
        jobs.resume("wide")
    except ResourceExhausted:
        return False
    return True


def test_output_on_a_full_disk_keeps_the_job_going(make_daemon: Callable[..., DaemonProcess]) -> None:
    daemon = make_daemon()

    def use(disk: Path) -> None:
        jobs = Jobs(daemon)
        fifo = daemon.root / "go"
        os.mkfifo(fifo)
        job = jobs.submit(f"read -r _ <'{fifo}'; yes | head -c 20000000; echo; echo the end", log_limit_mib=1)
        jobs.running(job)
        filler = fill(disk)
        fifo.write_text("\n")
        wait_until(lambda: not jobs.pids(job), "its end")
        filler.unlink()
        ended = jobs.ended(job)
        assert (ended.status, ended.exit_code) == (JobStatus.COMPLETED, 0)
        assert jobs.client.call(CreateJob("true")).number == 2
        jobs.close()
        assert daemon.stop() == 0

    on_small_disk(daemon.root / "state", 6 * 1024, running(daemon, use))
