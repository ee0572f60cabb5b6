"""Jobs on another node: one session for all of them, their codes and output here, and nothing left there."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from support.nodes import NodeHost, Remote
from support.raw import wait_until

from nexus.jobs.commands import CreateJob, UpdateJob
from nexus.jobs.errors import JobInvalid, JobNodeNotFound
from nexus.jobs.states import JobReason, JobStatus
from nexus.nodes.states import NodeStatus

FOREIGN = 9
MIB = 1024 * 1024


def test_job_runs_there_with_its_code_and_both_streams(remote: Remote) -> None:
    job = remote.ended(remote.there("echo out; echo err >&2; exit 3"))
    assert (job.status, job.exit_code, job.reason_code) == (JobStatus.FAILED, 3, JobReason.EXITED)
    assert (job.stdout, job.stderr, job.node_id) == ("out\n", "err\n", "there")
    assert job.duration is not None
    assert job.started_at is not None
    assert remote.output(job, stream="stdout") == b"out\n"
    remote.wait_gone()
    assert list(remote.daemon.state.glob("processes/nodes/*/*")) == []
    assert remote.node().status is NodeStatus.ONLINE


def test_environment_and_directory_are_those_there(remote: Remote, root: Path) -> None:
    (root / "work").mkdir()
    command = "pwd; env"
    home = remote.ended(remote.there(command, environment={"MINE": "a 'b' $c\nd"}))
    elsewhere = remote.ended(remote.there("pwd", directory=str(root / "work")))
    assert elsewhere.stdout == f"{root}/work\n"
    assert home.stdout is not None
    lines = home.stdout.splitlines()
    assert lines[0] == str(Path("~").expanduser()) or lines[0].startswith("/")
    assert "MINE=a 'b' $c" in lines
    assert "d" in lines
    names = {line.partition("=")[0] for line in lines[1:] if "=" in line}
    assert {"PATH", "HOME", "USER", "NEXUS_JOB", "NEXUS_JOB_ID", "NEXUS_PROJECT", "NEXUS_RUN_ID"} <= names
    assert "never-there" not in home.stdout
    assert names.isdisjoint({"SECRET_OF_THE_DAEMON", "NEXUS_SOCKET", "XDG_RUNTIME_DIR", "SSH_CONNECTION"})


@pytest.mark.parametrize("directory", ["src/deep", "~/src/deep"])
def test_relative_directory_begins_at_the_home_directory_there(remote: Remote, host: NodeHost, directory: str) -> None:
    folder = host.home / "src" / "deep"
    folder.mkdir(parents=True)
    assert remote.ended(remote.there("pwd", directory=directory)).stdout == f"{folder}\n"
    cli = remote.cli
    line = ("job", "run", "--wait", "--node", "there", "--dir", directory, "--", "pwd")
    assert cli.ok(*line).out == f"{folder}\n"
    job = remote.there("pwd", stashed=True)
    cli.ok("job", "update", str(job.number), "--dir", directory)
    cli.ok("job", "enqueue", str(job.number))
    assert remote.ended(job).stdout == f"{folder}\n"


def test_relative_directory_on_this_machine_is_refused_in_a_sentence(remote: Remote) -> None:
    error = remote.call_error(CreateJob("true", directory="src"))
    assert isinstance(error, JobInvalid)
    assert error.message == "cannot submit the job: its directory src is not absolute"
    assert error.details == {"path": "directory"}
    job = remote.submit("true", stashed=True)
    assert isinstance(remote.call_error(UpdateJob(job.id, directory="src")), JobInvalid)


def test_standard_input_travels(remote: Remote, root: Path) -> None:
    data = bytes(range(256)) * 1000
    job = remote.ended(remote.there("cksum", stdin_data=data))
    wanted = subprocess.run(["cksum"], input=data, capture_output=True, check=True).stdout.decode()
    assert job.stdout == wanted
    (root / "input").write_bytes(data)
    assert remote.ended(remote.there("cksum", stdin_path=str(root / "input"))).stdout == wanted
    assert remote.ended(remote.there("cat")).stdout is None


def test_standard_input_may_be_a_fifo(remote: Remote, root: Path) -> None:
    fifo = root / "input"
    os.mkfifo(fifo)
    with fifo.open("r+b", buffering=0) as file:  # a writer before the job reads
        job = remote.there("wc -c", stdin_path=str(fifo))
        file.write(b"x" * 300_000)
    assert remote.ended(job).stdout == "300000\n"


def test_standard_input_of_many_jobs_does_not_fill_the_memory_of_the_daemon(remote: Remote, root: Path) -> None:
    size = 16 * MIB
    (root / "input").write_bytes(b"x" * size)
    remote.group("many", slots=12)
    remote.ended(remote.there("true", group="many"))
    before = remote.daemon.rss_bytes()
    jobs = [remote.there("wc -c; echo; sleep 600", group="many", stdin_path=str(root / "input")) for _ in range(12)]
    for job in jobs:
        wait_until(lambda job=job: remote.output(job), "the size of its input", timeout_s=100)  # type: ignore[misc]
    assert remote.daemon.rss_bytes() - before < 48 * MIB
    for job in jobs:
        assert remote.output(job).split() == [str(size).encode()]
        remote.cancel(job)


def test_standard_input_that_is_too_large_is_a_sentence(remote: Remote, root: Path) -> None:
    with (root / "input").open("wb") as file:
        file.truncate(16 * MIB + 1)
    job = remote.there("wc -c", stdin_path=str(root / "input"))
    ended = remote.ended(job)
    assert (ended.status, ended.reason_code) == (JobStatus.FAILED, JobReason.START_FAILED)
    assert ended.reason is not None
    assert "its standard input is larger than 16 MiB, for another node" in ended.reason
    remote.wait_gone()


def test_input_that_takes_longer_than_a_session_without_jobs_is_kept(remote: Remote, host: NodeHost) -> None:
    head = host.programs / "head"
    head.write_text('#!/bin/sh\n[ "$2" = 70000 ] && sleep 4\nexec /usr/bin/head "$@"\n')
    head.chmod(0o755)
    assert remote.ended(remote.there("wc -c", stdin_data=b"x" * 70_000)).stdout == "70000\n"
    assert host.sessions() == 1


def test_secrets_are_in_no_command_line_and_in_no_file_there(remote: Remote, host: NodeHost) -> None:
    job = remote.held(environment={"TOKEN": "hush-hush"})
    remote.running(job)
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert b"hush-hush" not in entry.read_bytes()
        except OSError:
            continue
    files = [path for path in host.state.glob("**/*") if path.is_file()]
    assert files
    assert not any(b"hush-hush" in path.read_bytes() for path in files)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (host.state / "nexus").glob("**/*"))
    remote.let_go(job)
    remote.ended(job)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"command": ["no-such-program"]}, 'no-such-program: program not found on node "there"'),
        (
            {"command": "true", "directory": "/no/such/folder"},
            'its directory /no/such/folder does not exist on node "there"',
        ),
    ],
    ids=["program", "directory"],
)
def test_failed_start_says_why(remote: Remote, fields: dict[str, str], sentence: str) -> None:
    job = remote.ended(remote.there(**fields))
    assert (job.status, job.reason_code, job.reason) == (JobStatus.FAILED, JobReason.START_FAILED, sentence)
    remote.wait_gone()


@pytest.mark.parametrize(
    "fields",
    [{"tty": True}, {"stdin_open": True}, {"memory_limit_mib": 10}, {"cpu_limit_percent": 10}, {"service": "web"}],
    ids=lambda fields: next(iter(fields)),
)
def test_what_cannot_be_had_there_is_refused(remote: Remote, fields: dict[str, object]) -> None:
    error = remote.call_error(CreateJob("true", node="there", **fields))  # type: ignore[arg-type]
    assert isinstance(error, JobInvalid)
    assert error.message.startswith("cannot submit the job: a job on another node ")


def test_unknown_node_is_refused(remote: Remote) -> None:
    error = remote.call_error(CreateJob("true", node="nowhere"))
    assert isinstance(error, JobNodeNotFound)
    assert error.message == 'cannot submit the job: node "nowhere" not found'


def test_cancel_ends_the_whole_tree(remote: Remote, host: NodeHost) -> None:
    job = remote.there(
        "sleep 600 & (setsid setsid sleep 600 &) ; trap '' TERM; sleep 600; sleep 600", stop_grace_ms=300
    )
    wait_until(lambda: len(host.members()) >= 4, "the whole tree")
    cancelled = remote.cancel(job)
    assert (cancelled.status, cancelled.reason_code) == (JobStatus.CANCELLED, JobReason.CANCELLED)
    assert host.members() == []
    remote.wait_gone()


def test_leftovers_of_an_ended_job_are_ended(remote: Remote, host: NodeHost) -> None:
    job = remote.ended(remote.there("(setsid setsid sleep 600 &); exit 0", stop_grace_ms=200))
    assert job.status is JobStatus.COMPLETED
    assert host.members() == []


def test_time_limit_fails_the_job(remote: Remote, host: NodeHost) -> None:
    job = remote.ended(remote.there("sleep 600", timeout_ms=300, stop_grace_ms=200))
    assert (job.status, job.reason_code) == (JobStatus.FAILED, JobReason.TIMEOUT)
    assert host.members() == []


def test_retries_and_followers(remote: Remote, host: NodeHost) -> None:
    count = host.home / "count"
    first = remote.there(
        f"echo x >>{count}; echo attempt; test $(wc -l <{count}) -ge 3", retries=3, retry_backoff_ms=10
    )
    second = remote.there("echo second", after=[str(first.number)])
    third = remote.submit("echo here", after=[str(second.number)])
    assert remote.ended(third).status is JobStatus.COMPLETED
    done = remote.get(first)
    assert (done.status, done.attempt) == (JobStatus.COMPLETED, 3)
    assert remote.output(done) == b"attempt\n" * 3


def test_large_output_is_whole_and_bounded_as_here(remote: Remote) -> None:
    command = "seq 1 200000; seq 1 100000 >&2"
    job = remote.ended(remote.there(command))
    assert job.status is JobStatus.COMPLETED
    out = "".join(f"{number}\n" for number in range(1, 200_001)).encode()
    assert remote.output(job, stream="stdout") == out
    assert remote.output(job, stream="stderr") == "".join(f"{n}\n" for n in range(1, 100_001)).encode()
    small = remote.ended(remote.there("seq 1 1000000; echo end", log_limit_mib=1))
    kept = remote.output(small, stream="stdout")
    assert 256 * 1024 < len(kept) <= 1024 * 1024
    assert kept.endswith(b"\n999999\n1000000\nend\n")


def test_output_can_be_followed(remote: Remote) -> None:
    job = remote.held()
    other = remote.there("echo early; sleep 600")
    wait_until(lambda: remote.output(other) == b"early\n", "the output of a job that runs")
    remote.cancel(other)
    remote.let_go(job)
    remote.ended(job)


def test_thirty_jobs_have_one_session_beside_nine_foreign_ones(remote: Remote, host: NodeHost) -> None:
    port = str(host.server.port)
    line = [str(host.ssh), "-p", port, "127.0.0.1", "echo up; exec cat"]
    foreign = []
    try:
        for _ in range(FOREIGN):
            one = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            foreign.append(one)
            assert one.stdout is not None
            assert one.stdout.readline() == b"up\n"
        remote.group("many", slots=30)
        began = time.monotonic()
        jobs = [remote.there(f"echo {number}; exit {number % 3}", group="many") for number in range(30)]
        remote.wait_all(*jobs)
        print(f"30 jobs took {time.monotonic() - began:.2f} s")
        for number, job in enumerate(map(remote.get, jobs)):
            assert (job.exit_code, job.stdout) == (number % 3, f"{number}\n")
        remote.wait_gone()
        assert host.sessions() - FOREIGN <= 3
    finally:
        for one in foreign:
            one.kill()
            one.communicate()


def test_slots_count_for_each_node(remote: Remote) -> None:
    remote.group("one", slots=1)
    first, second = remote.held(group="one"), remote.held(group="one")
    here = remote.hold(group="one")
    remote.running(first)
    remote.running(here)
    assert remote.get(second).status is JobStatus.QUEUED
    remote.let_go(first)
    remote.running(second)
    for job in (second, here):
        remote.let_go(job)
    remote.wait_all(first, second, here)
