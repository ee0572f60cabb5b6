"""One job from its submission to its end: how it ends, what its record says then, and what is left of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from support.jobs import Jobs

from nexus.jobs.commands import UpdateJob
from nexus.jobs.errors import JobInvalid
from nexus.jobs.states import JobReason, JobStatus


def test_job_that_exits_with_0_is_completed_with_its_output(jobs: Jobs, root: Path) -> None:
    job = jobs.submit("echo out; echo err >&2; pwd", directory=str(root), label="first")
    assert (job.status, job.tool, job.attempt, job.label) == (JobStatus.QUEUED, "bash", 1, "first")
    ended = jobs.ended(job)
    assert (ended.status, ended.exit_code, ended.exit_signal) == (JobStatus.COMPLETED, 0, None)
    assert (ended.reason, ended.reason_code, ended.pid) == (None, None, None)
    assert (ended.stdout, ended.stderr) == (f"out\n{root}\n", "err\n")
    assert ended.output_bytes
    assert ended.started_at is not None
    assert ended.completed_at is not None
    assert job.created_at <= ended.started_at <= ended.completed_at
    assert ended.duration is not None
    assert 0 <= ended.duration <= ended.completed_at - ended.started_at + 1000
    assert jobs.output(job, stream="stdout") == f"out\n{root}\n".encode()
    assert jobs.kinds(job) == ["created", "started", "completed"]
    assert [entry.name for entry in jobs.folder(job).iterdir()] == ["log"]


@pytest.mark.parametrize(
    ("command", "code", "number", "reason", "why"),
    [
        ("exit 3", 3, None, JobReason.EXITED, "exited with 3"),
        ("exit 143", 143, None, JobReason.EXITED, "exited with 143"),
        ("kill -SEGV $$", None, signal.SIGSEGV, JobReason.KILLED, "killed by SIGSEGV"),
        ("kill -KILL $$", None, signal.SIGKILL, JobReason.KILLED, "killed by SIGKILL"),
    ],
)
def test_job_that_ends_otherwise_has_failed(
    jobs: Jobs, command: str, code: int | None, number: int | None, reason: JobReason, why: str
) -> None:
    job = jobs.ended(jobs.submit(f"ulimit -c 0; {command}"))
    assert (job.status, job.exit_code, job.exit_signal) == (JobStatus.FAILED, code, number)
    assert (job.reason_code, job.reason) == (reason, why)
    assert jobs.kinds(job)[-1] == "failed"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"command": ["no-such-program"]}, "no-such-program: program not found in its PATH"),
        ({"command": ["/no/such/program"]}, "/no/such/program: program not found"),
        ({"command": ["/etc/passwd"]}, "/etc/passwd: it is not executable"),
        ({"command": ["/"]}, "/: it is a directory"),
        ({"command": "true", "directory": "/no/such/folder"}, "its directory /no/such/folder does not exist"),
        ({"command": "true", "directory": "/etc/passwd"}, "its directory /etc/passwd is not a directory"),
        ({"command": "cat", "stdin_path": "/no/such/file"}, "its standard input /no/such/file: No such file"),
        ({"command": "cat", "stdin_path": "/etc"}, "its standard input /etc: Is a directory"),
    ],
)
def test_job_that_cannot_be_started_has_failed_with_the_reason(jobs: Jobs, fields: dict[str, object], why: str) -> None:
    job = jobs.ended(jobs.submit(**fields))  # type: ignore[arg-type]
    assert (job.status, job.reason_code) == (JobStatus.FAILED, JobReason.START_FAILED)
    assert why in (job.reason or "")
    assert (job.pid, job.exit_code, job.exit_signal, job.duration or 0) == (None, None, None, 0)
    # The next one is not in its way.
    assert jobs.ended(jobs.submit("true")).status is JobStatus.COMPLETED


def test_line_of_bash_is_run_by_the_shell_and_words_are_not(jobs: Jobs) -> None:
    line = jobs.ended(jobs.submit("echo $((1 + 1)) {a,b}"))
    assert (line.tool, line.argv, line.stdout) == ("bash", None, "2 a b\n")
    words = jobs.ended(jobs.submit(["printf", "%s|", "$((1 + 1))", "a b", ""]))
    assert (words.tool, words.argv, words.stdout) == (
        "printf",
        ["printf", "%s|", "$((1 + 1))", "a b", ""],
        "$((1 + 1))|a b||",
    )
    assert words.command == "printf '%s|' '$((1 + 1))' 'a b' ''"
    other = jobs.ended(jobs.submit("printf '%s|' 'a  b' $HOME", tool="printing"))
    assert (other.tool, other.argv, other.stdout) == ("printing", None, "a  b|$HOME|")
    named = jobs.ended(jobs.submit(["/bin/echo", "x"], tool="docker"))
    assert (named.tool, named.stdout) == ("docker", "x\n")
    posix = jobs.ended(jobs.submit("echo {a,b}", tool="sh"))
    assert posix.status is JobStatus.COMPLETED


def test_line_of_another_tool_with_an_unfinished_quotation_is_refused(jobs: Jobs) -> None:
    for line in ("git commit -m 'x", "git \\", "   "):
        error = jobs.submit_error(line, tool="git")
        assert isinstance(error, JobInvalid)
        assert error.details["path"] == "command"
    # The shell itself says what is wrong with its own line.
    assert jobs.ended(jobs.submit("echo 'x")).exit_code not in (0, None)
    job = jobs.submit("git status", tool="git", stashed=True)
    assert isinstance(jobs.call_error(UpdateJob(job.id, command="git 'x", tool="git")), JobInvalid)


def test_what_a_job_leaves_behind_is_ended_before_it_counts_as_ended(jobs: Jobs) -> None:
    job = jobs.submit("setsid sleep 1000 & (setsid setsid -f sleep 1000 &); echo gone")
    ended = jobs.ended(job)
    assert (ended.status, ended.stdout) == (JobStatus.COMPLETED, "gone\n")
    assert jobs.pids(job) == set()


def test_job_that_is_killed_from_outside_has_failed(jobs: Jobs) -> None:
    job = jobs.submit("sleep 1000 & wait")
    jobs.signal(job, signal.SIGKILL)
    ended = jobs.ended(job)
    assert (ended.status, ended.exit_signal) == (JobStatus.FAILED, signal.SIGKILL)
    assert jobs.pids(job) == set()


def test_limits_and_umask_of_the_daemon_hold_for_a_job(jobs: Jobs) -> None:
    job = jobs.ended(jobs.submit("ulimit -n; umask; ls /proc/self/fd | wc -l"))
    assert job.stdout is not None
    files, umask, descriptors = job.stdout.split()
    assert int(files) >= 256
    assert umask == f"{_umask():04o}"
    assert int(descriptors) <= 5


def _umask() -> int:
    present = os.umask(0o22)
    os.umask(present)
    return present
