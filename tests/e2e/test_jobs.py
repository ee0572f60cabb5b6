"""Jobs by nexusctl and the daemon as programs: what a person does with them from the first line to the last."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import DaemonProcess
from support.jobs import Jobs
from support.live_services import exists
from support.raw import wait_until
from support.services import end_runs, write_fifo

from nexus.client import BlockingClient
from nexus.jobs.commands import (
    CreateJob,
    CreateJobGroup,
    DeleteJob,
    DeleteJobGroup,
    EnqueueJob,
    GetJob,
    GetJobGroup,
    GetJobOutput,
    ListJobGroups,
    MoveJob,
    PauseJobGroup,
    PruneJobs,
    ResumeJobGroup,
    StashJob,
    UpdateJob,
    UpdateJobGroup,
    WaitJobs,
)
from nexus.jobs.states import JobStatus


@pytest.fixture
def jobs(daemon: DaemonProcess) -> Iterator[Jobs]:
    """The jobs of a daemon; all processes are ended after the test."""
    jobs = Jobs(daemon)
    yield jobs
    jobs.close()
    daemon.close()
    end_runs(daemon.root)


def test_line_is_submitted_followed_inspected_and_deleted(jobs: Jobs, root: Path) -> None:
    cli = jobs.cli
    folder = root / "work"
    folder.mkdir()
    cli.folder = folder
    done = cli.ok("job", "run", "pwd; echo $A >&2; exit 3", "-e", "A=b c", "--label", "first", "--tag", "ci")
    assert done.out == "Submitted job 1 (queued)\n"
    assert cli("job", "wait", "1").out == "Job 1 failed: exited with 3\n"
    assert cli.ok("job", "logs", "1", "--stdout").out == f"{folder}\n"
    assert cli.ok("job", "logs", "1", "--stderr").out == "b c\n"
    shown = cli.ok("job", "inspect", "1", "-o", "json").json
    assert (shown["status"], shown["exit_code"], shown["stdout"]) == ("failed", 3, f"{folder}\n")
    assert "environment" not in shown
    assert "exited with 3" in cli.ok("job", "inspect", "1").out
    assert cli.ok("job", "list", "--tag", "ci", "-o", "name").lines == ["1"]
    assert cli("job", "delete", "1", "--yes").code == 0
    assert cli("job", "inspect", "1").code == 4


def test_run_that_waits_shows_both_streams_and_exits_as_the_job(jobs: Jobs) -> None:
    cli = jobs.cli
    done = cli("job", "run", "--wait", "echo out; echo err >&2; exit 7")
    assert (done.code, done.out, done.err) == (7, "out\n", "err\n")
    assert cli("job", "run", "--wait", "kill -TERM $$").code == 128 + signal.SIGTERM
    failed = cli("job", "run", "--wait", "--", "/no/such/program")
    assert failed.code == 125
    assert "program not found" in failed.err
    assert cli("job", "run", "--wait", "--stdin", "-", "tr a-z A-Z", input="shout").out == "SHOUT"
    assert cli("job", "run", "--wait", "--clean-env", "echo ${SECRET-none}", SECRET="x").out == "none\n"
    assert cli("job", "run", "--wait", "echo ${SECRET-none}", SECRET="x").out == "x\n"


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_follower_of_a_job_goes_on_with_the_next_daemon(jobs: Jobs, end: str) -> None:
    job = jobs.hold(stashed=True)
    jobs.update(job, command=f"echo one; read -r code <'{jobs.root}/{job.label}'; echo two; exit $code")
    jobs.enqueue(job)
    following = jobs.cli.start("job", "logs", "-f", str(job.number))
    assert following.stdout is not None
    assert following.stdout.readline() == b"one\n"
    getattr(jobs.daemon, end)()
    jobs.begin_anew()
    jobs.let_go(job, 4)
    out, _err = following.communicate(timeout=60)
    assert (out, following.returncode) == (b"two\n", 0)
    assert jobs.ended(job).exit_code == 4


def test_interrupted_follower_leaves_the_job_and_a_cancel_ends_it(jobs: Jobs) -> None:
    job = jobs.hold()
    jobs.running(job)
    following = jobs.cli.start("job", "logs", "-f", str(job.number))
    jobs.client.call(GetJobGroup("default"))
    following.send_signal(signal.SIGINT)
    following.communicate(timeout=60)
    pid = jobs.running(job).pid
    assert exists(pid)
    assert jobs.cli.ok("job", "cancel", str(job.number)).out == f"Cancelled job {job.number}\n"
    assert not exists(pid)
    again = jobs.cli.ok("job", "cancel", str(job.number))
    assert again.code == 0
    assert jobs.get(job).status is JobStatus.CANCELLED


def test_queue_is_arranged_by_hand(jobs: Jobs) -> None:
    cli = jobs.cli
    cli.ok("group", "create", "builds", "--slots", "1")
    cli.ok("group", "pause", "builds")
    for number in range(1, 6):
        cli.ok("job", "run", f"echo {number} >>'{jobs.root}/order'", "--group", "builds")
    cli.ok("job", "move", "5")
    cli.ok("job", "move", "1", "--last")
    cli.ok("job", "move", "2", "--before", "4")
    cli.ok("job", "stash", "3")
    cli.ok("job", "update", "4", "--priority", "1")
    cli.ok("group", "resume", "builds")
    cli.ok("job", "wait", "1", "2", "4", "5")
    assert (jobs.root / "order").read_text().split() == ["4", "5", "2", "1"]
    assert cli.ok("job", "list", "--status", "stashed", "-o", "name").lines == ["3"]
    cli.ok("job", "enqueue", "3")
    cli.ok("job", "wait", "--group", "builds")
    assert (jobs.root / "order").read_text().split()[-1] == "3"
    cli.ok("job", "retry", "3")
    cli.ok("job", "wait", "6")
    assert cli.ok("job", "prune", "--successful").out == "Deleted 6 jobs that had ended\n"
    assert jobs.client.call(ListJobGroups()).counts.get("builds", {}) == {}
    assert cli("group", "delete", "builds", "--yes").code == 0


def test_job_begins_now_past_the_pause_of_its_group(jobs: Jobs) -> None:
    cli = jobs.cli
    cli.ok("group", "pause", "default")
    cli.ok("job", "run", "echo now")
    cli.ok("job", "start", "1")
    cli.ok("job", "wait", "1")
    assert cli.ok("job", "logs", "1").out == "now\n"


def test_chain_with_delay_and_retries(jobs: Jobs) -> None:
    cli = jobs.cli
    cli.ok("job", "run", f"[ -e '{jobs.root}/good' ] || {{ touch '{jobs.root}/good'; exit 1; }}", "--retries", "1")
    cli.ok("job", "run", "echo after", "--after", "1", "--delay", "50ms")
    cli.ok("job", "run", "echo never", "--after", "2:completed", "--stash")
    cli.ok("job", "wait", "1", "2")
    assert jobs.get("1").attempt == 2
    cli.ok("job", "cancel", "3")
    refused = cli("job", "run", "true", "--after", "3")
    assert refused.code == 5
    assert "job 3, which it is to follow, is cancelled" in refused.err


def test_time_limit_and_cancel_now(jobs: Jobs) -> None:
    cli = jobs.cli
    done = cli("job", "run", "--wait", "--time-limit", "100ms", "trap '' TERM; sleep 1000 & wait", "--grace", "50ms")
    assert done.code != 0
    assert "time limit" in cli.ok("job", "inspect", "1").out
    cli.ok("job", "run", "trap '' TERM; while :; do sleep 1000 & wait; done", "--grace", "1h")
    jobs.running("2")
    assert cli.ok("job", "cancel", "2", "--now").out == "Cancelled job 2\n"
    assert jobs.get("2").exit_signal == signal.SIGKILL


def test_one_off_of_a_service_by_name(jobs: Jobs, root: Path) -> None:
    cli = jobs.cli
    folder = root / "site"
    folder.mkdir()
    cli.ok("service", "add", "web", "--run", "sleep 1000", "--dir", str(folder), "--env", "A=service")
    done = cli("run", "web", "--", "sh", "-c", 'pwd; echo "$A"; exit 5')
    assert (done.code, done.out) == (5, f"{folder}\nservice\n")
    job = jobs.all()[0]
    assert job.service_id is not None
    assert (job.status, job.exit_code) == (JobStatus.FAILED, 5)


def test_input_is_sent_to_a_job_that_waits_for_it(jobs: Jobs) -> None:
    cli = jobs.cli
    cli.ok("job", "run", "-i", "read -r line; echo got $line; cat")
    jobs.running("1")
    cli.ok("job", "send", "1", "hello")
    wait_until(lambda: jobs.output("1") == b"got hello\n", "the first answer")
    cli.ok("job", "send", "1", "more", "--eof")
    assert cli.ok("job", "wait", "1").code == 0
    assert cli.ok("job", "logs", "1").out == "got hello\nmore\n"


def test_python_client_arranges_a_queue_and_reads_what_it_wrote(jobs: Jobs) -> None:
    with BlockingClient(jobs.daemon.socket_path) as client:
        client.call(CreateJobGroup(name="builds", slots=2))
        assert client.call(UpdateJobGroup("builds", slots=1)).slots == 1
        assert client.call(PauseJobGroup("builds")).paused
        first, second, third = (client.call(CreateJob(f"echo {n}", group="builds")) for n in range(3))
        assert client.call(MoveJob(third.id)).place < first.place
        assert client.call(UpdateJob(second.id, command="echo two", retries=1)).revision == 2
        assert client.call(StashJob(first.id)).status is JobStatus.STASHED
        assert not client.call(ResumeJobGroup("builds")).paused
        client.call(WaitJobs(jobs=[second.id, third.id]))
        client.call(EnqueueJob(first.id, delay_ms=1))
        with client.stream(GetJobOutput(first.id, follow=True)) as stream:
            assert b"".join(piece.data for piece in stream) == b"0\n"
        assert client.call(GetJob(second.id)).stdout == "two\n"
        starts = [event["subject_id"] for event in jobs.events() if event["kind"] == "job.started"]
        assert starts == [third.id, second.id, first.id]
        assert client.call(DeleteJob(first.id)).id == first.id
        assert set(client.call(PruneJobs()).ids) == {second.id, third.id}
        assert client.call(DeleteJobGroup("builds")).name == "builds"
        assert [group.name for group in client.call(ListJobGroups()).groups] == ["default"]


def test_waiting_client_is_told_of_the_daemon_that_stops_at_once(jobs: Jobs) -> None:
    job = jobs.hold()
    jobs.running(job)
    waiting = jobs.cli.start("job", "wait", str(job.number))
    wait_until(lambda: len(_sockets(waiting)) > 3, "a connection")
    assert jobs.daemon.stop() == 0
    assert "did not finish in time" not in jobs.daemon.log()
    jobs.begin_anew()
    write_fifo(jobs.root / str(job.label), "0")
    waiting.communicate(timeout=60)
    assert jobs.ended(job).status is JobStatus.COMPLETED


def _sockets(process: subprocess.Popen[bytes]) -> list[Path]:
    return list(Path(f"/proc/{process.pid}/fd").iterdir())
