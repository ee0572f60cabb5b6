"""What a job gets: its environment as it was given, its standard input, and what is left of both afterwards."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from support.jobs import Jobs
from support.raw import wait_until

from nexus.jobs.commands import CreateJob, RetryJob
from nexus.jobs.records import Job
from nexus.jobs.states import JobStatus

SECRET = "hunter2-of-the-job"
INPUT = b"the-standard-input-of-the-job"


def variables(job: Job) -> dict[str, str]:
    """The environment that ``env -0`` wrote, with its NULs as U+FFFD."""
    assert job.stdout is not None
    return dict(part.split("=", 1) for part in job.stdout.split("\ufffd") if part)


def holding(jobs: Jobs, text: bytes) -> list[str]:
    """The tables in which a text is found in any column, and the daemon's own log."""
    found = []
    for (table,) in jobs.rows("SELECT name FROM sqlite_master WHERE type = 'table'"):
        for row in jobs.rows(f'SELECT * FROM "{table}"'):
            for value in row:
                data = value.encode() if isinstance(value, str) else value
                if isinstance(data, bytes) and text in data:
                    found.append(table)
    if text in jobs.daemon.log_path.read_bytes():
        found.append("log")
    return sorted(set(found))


def test_environment_is_given_whole_with_the_names_of_the_job(jobs: Jobs) -> None:
    given = {"PATH": os.defpath, "A": "x=y", "E": "", "Ü": "ö\n\x01", "BIG": "b" * 100_000, "1": "odd name"}
    job = jobs.ended(jobs.submit(["env", "-0"], environment=given | {"NEXUS_JOB": "mine", "BIG": "b"}))
    own = {"NEXUS_JOB": str(job.number), "NEXUS_JOB_ID": job.id, "NEXUS_PROJECT": "default"}
    found = variables(job)
    assert found.pop("NEXUS_RUN_ID")
    assert found == given | own | {"BIG": "b"}
    size = jobs.ended(jobs.submit(["sh", "-c", 'printf %s "$BIG" | wc -c'], environment=given))
    assert (size.stdout or "").strip() == "100000"


def test_empty_environment_is_that_and_none_is_that_of_the_daemon(jobs: Jobs) -> None:
    clean = variables(jobs.ended(jobs.submit(["/usr/bin/env", "-0"], environment={})))
    assert set(clean) == {"NEXUS_JOB", "NEXUS_JOB_ID", "NEXUS_PROJECT", "NEXUS_RUN_ID"}
    own = variables(jobs.ended(jobs.submit(["/usr/bin/env", "-0"])))
    assert own["HOME"] == jobs.daemon.environment["HOME"]
    assert not own.keys() & {"NOTIFY_SOCKET", "LISTEN_FDS", "WATCHDOG_USEC", "INVOCATION_ID"}


def test_environment_and_standard_input_are_gone_from_the_database_once_the_job_has_ended(jobs: Jobs) -> None:
    job = jobs.hold(environment={"PATH": os.defpath, "TOKEN": SECRET}, retries=1, retry_backoff_ms=0)
    waits = jobs.submit(["cat"], stdin_data=INPUT, environment={"TOKEN": SECRET}, stashed=True)
    jobs.running(job)
    assert holding(jobs, SECRET.encode()) == ["jobs"]
    assert holding(jobs, INPUT) == ["jobs"]
    for each in (job, waits):
        shown = jobs.cli.ok("job", "inspect", str(each.number), "-o", "json").out
        shown += jobs.cli.ok("op", "list", "-o", "json").out + jobs.cli.ok("events", "--no-follow", "-o", "json").out
        assert SECRET not in shown
        assert INPUT.decode() not in shown
    # A further attempt has it as well.
    jobs.let_go(job, 1)
    jobs.wait(job, attempt=2)
    assert f"TOKEN={SECRET}".encode() in Path(f"/proc/{jobs.running(job).pid}/environ").read_bytes()
    jobs.let_go(job, 0)
    assert jobs.ended(job).status is JobStatus.COMPLETED
    jobs.enqueue(waits)
    assert jobs.ended(waits).stdout == INPUT.decode()
    # What it wrote is kept, of course.
    jobs.delete(waits)
    assert holding(jobs, SECRET.encode()) == holding(jobs, INPUT) == []


def test_environment_of_a_job_that_never_began_is_gone_as_well(jobs: Jobs) -> None:
    first = jobs.submit(stashed=True)
    cancelled = jobs.submit(environment={"TOKEN": SECRET}, stdin_data=INPUT, stashed=True)
    follows = jobs.submit(environment={"TOKEN": SECRET}, stdin_data=INPUT, after=[first.id])
    failed = jobs.submit(["/no/such/program"], environment={"TOKEN": SECRET}, stdin_data=INPUT)
    deleted = jobs.submit(environment={"TOKEN": SECRET}, stdin_data=INPUT, stashed=True)
    jobs.cancel(cancelled)
    jobs.cancel(first)
    jobs.ended(follows)
    jobs.ended(failed)
    jobs.delete(deleted)
    assert holding(jobs, SECRET.encode()) == holding(jobs, INPUT) == []


def test_retry_gets_the_environment_of_its_request(jobs: Jobs) -> None:
    job = jobs.ended(jobs.submit('echo "$A-$B"', environment={"PATH": os.defpath, "A": "old", "B": "old"}))
    given = {"PATH": os.defpath, "A": "new"}
    assert jobs.ended(jobs.retry(job, environment=given)).stdout == "new-\n"
    # The output of a job is that of all of its attempts.
    assert jobs.ended(jobs.retry(job, environment=given, in_place=True)).stdout == "old-old\nnew-\n"
    assert jobs.client.call(RetryJob(job.id, environment={"TOKEN": SECRET})).retry_of == job.id


def test_standard_input_is_what_was_given_or_empty(jobs: Jobs, root: Path) -> None:
    data = bytes(range(256)) * 4096  # 1 MiB
    assert jobs.ended(jobs.submit("sha256sum", stdin_data=data)).stdout == _sum(data)
    (root / "input").write_bytes(data * 2)
    assert jobs.ended(jobs.submit("sha256sum", stdin_path=str(root / "input"))).stdout == _sum(data * 2)
    assert jobs.ended(jobs.submit("wc -c", stdin_data=b"")).stdout == "0\n"
    assert jobs.ended(jobs.submit("wc -c; readlink /proc/self/fd/0")).stdout == "0\n/dev/null\n"


def _sum(data: bytes) -> str:
    return subprocess.run(["sha256sum"], input=data, capture_output=True, check=True).stdout.decode()


def test_fifo_as_standard_input_is_read_without_errors(jobs: Jobs, root: Path) -> None:
    os.mkfifo(root / "fifo")
    # No process writes to it: the job sees its end, and nothing waits for a writer.
    assert jobs.ended(jobs.submit("cat; echo $?", stdin_path=str(root / "fifo"))).stdout == "0\n"
    writer = os.open(root / "fifo", os.O_RDWR)
    job = jobs.submit("cat; echo $?", stdin_path=str(root / "fifo"))
    jobs.running(job)
    os.write(writer, b"late\n")
    wait_until(lambda: jobs.output(job) == b"late\n", "what was written")
    os.close(writer)
    assert jobs.ended(job).stdout == "late\n0\n"


def test_what_has_a_terminal_or_an_open_input_has_no_other_one(jobs: Jobs) -> None:
    for fields in (
        {"tty": True, "stdin_data": b"x"},
        {"stdin_open": True, "stdin_path": "/dev/null"},
        {"stdin_data": b"x", "stdin_path": "/dev/null"},
    ):
        error = jobs.call_error(CreateJob("cat", **fields))  # type: ignore[arg-type]
        assert (error.type, error.details["path"]) == ("job.invalid", "stdin_path")
