"""Jobs on a host where the shim cannot run: a shell script runs them, and a check names what it lacks."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.accounts import Account
from support.daemon import DaemonProcess
from support.nodes import NodeHost, Remote, environment_with_ssh
from support.raw import wait_until

from nexus.jobs.states import JobReason, JobStatus


@pytest.fixture
def host(root: Path, account: Account | None) -> Iterator[NodeHost]:
    """A host with another kernel."""
    host = NodeHost(root / "host", account, kernel="Plan9")
    yield host
    host.close()


@pytest.fixture
def remote(make_daemon: Callable[..., DaemonProcess], host: NodeHost) -> Iterator[Remote]:
    """A daemon to which the host was added as the node ``there``."""
    remote = Remote(make_daemon(environment=environment_with_ssh(host)).start(), host)
    remote.add()
    yield remote
    remote.close()


def test_check_names_what_jobs_lack(remote: Remote) -> None:
    checked = remote.check()
    assert checked.node.capabilities["runner"] == "sh"
    assert any("leaves its session and clears its environment outlives a cancel" in limit for limit in checked.limits)


def test_job_runs_with_its_code_output_and_input(remote: Remote) -> None:
    job = remote.ended(
        remote.there("echo $MINE; cat >&2; exit 4", environment={"MINE": "a 'b' \"c\""}, stdin_data=b"in\n")
    )
    assert (job.status, job.exit_code, job.reason_code) == (JobStatus.FAILED, 4, JobReason.EXITED)
    assert (job.stdout, job.stderr) == ("a 'b' \"c\"\n", "in\n")
    remote.wait_gone()


def test_missing_directory_is_a_sentence(remote: Remote) -> None:
    job = remote.ended(remote.there("true", directory="/no/such/folder"))
    assert job.reason == 'its directory /no/such/folder does not exist on node "there"'
    remote.wait_gone()


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("no-such-program", 'program not found on node "there"'),
        ("{home}/none", 'program not found on node "there"'),
        ("{home}/orphan", 'program not found on node "there"'),
        ("{home}/plain", 'it cannot be executed (Permission denied) on node "there"'),
        ("{home}", 'it cannot be executed (Permission denied) on node "there"'),
    ],
)
def test_program_that_cannot_be_executed_is_a_sentence(
    remote: Remote, host: NodeHost, program: str, sentence: str
) -> None:
    (host.home / "plain").write_text("#!/bin/sh\n")
    orphan = host.home / "orphan"
    orphan.write_text("#!/no/such/shell -e\n")
    orphan.chmod(0o755)
    name = program.format(home=host.home)
    job = remote.ended(remote.there([name, "argument"]))
    assert (job.status, job.reason_code, job.exit_code) == (JobStatus.FAILED, JobReason.START_FAILED, None)
    assert job.reason == f"{name}: {sentence}"
    remote.wait_gone()


def test_programs_are_found_as_a_shell_finds_them(remote: Remote, host: NodeHost) -> None:
    folder = host.home / "with space"
    folder.mkdir()
    folder.chmod(0o755)
    script = folder / "it's"
    script.write_text('#! /bin/sh -e\necho "$0" "$@"; exit 127\n')
    script.chmod(0o755)
    for words, directory, path in (
        ([str(script), "*"], "/", "/bin"),
        (["./it's", "*"], str(folder), "/bin"),
        (["it's", "*"], "/", f"/bin:{folder}"),
        (["it's", "*"], str(folder), ":/bin"),
    ):
        job = remote.ended(remote.there(words, directory=directory, environment={"PATH": path, "line": "1"}))
        assert (job.exit_code, job.reason_code) == (127, JobReason.EXITED)
        assert job.stdout is not None
        assert job.stdout.endswith("it's *\n")


def test_time_is_told_in_milliseconds(remote: Remote) -> None:
    jobs = [remote.ended(remote.there("sleep 0.3")) for _ in range(3)]
    assert any(job.duration and job.duration % 1000 for job in jobs)


def test_large_output_is_whole(remote: Remote) -> None:
    job = remote.ended(remote.there("seq 1 200000; seq 1 1000 >&2"))
    assert remote.output(job, stream="stdout") == "".join(f"{n}\n" for n in range(1, 200_001)).encode()
    assert remote.output(job, stream="stderr") == "".join(f"{n}\n" for n in range(1, 1001)).encode()


def test_cancel_sends_the_signal_and_kills_after_the_grace_time(remote: Remote, host: NodeHost) -> None:
    polite = remote.there("trap 'echo stopped; exit 5' TERM; echo up; sleep 600 & wait")
    wait_until(lambda: remote.output(polite) == b"up\n", "a job that runs")
    assert remote.cancel(polite).status is JobStatus.CANCELLED
    assert remote.output(polite) == b"up\nstopped\n"
    stubborn = remote.there("trap '' TERM; echo up; sleep 600; sleep 600", stop_grace_ms=300)
    wait_until(lambda: remote.output(stubborn) == b"up\n", "another job that runs")
    assert remote.cancel(stubborn).status is JobStatus.CANCELLED
    wait_until(lambda: host.members() == [], "the end of all processes")
    remote.wait_gone()


def test_cancel_ends_what_has_a_group_or_a_session_of_its_own(remote: Remote, host: NodeHost) -> None:
    job = remote.there("timeout 600 sleep 600 & setsid sleep 600 & (setsid setsid sleep 600 &); echo up; wait")
    wait_until(lambda: remote.output(job) == b"up\n" and len(host.members()) >= 5, "the whole tree")
    assert remote.cancel(job).status is JobStatus.CANCELLED
    assert host.members() == []
    remote.wait_gone()


def test_leftovers_of_an_ended_job_are_ended(remote: Remote, host: NodeHost) -> None:
    job = remote.ended(remote.there("timeout 600 sleep 600 & setsid sleep 600 & exit 0"))
    assert job.status is JobStatus.COMPLETED
    assert host.members() == []
    remote.wait_gone()


def test_killed_runner_and_killed_daemon(remote: Remote, host: NodeHost) -> None:
    going, lost = remote.held(), remote.held()
    wait_until(lambda: len(host.members()) == 2, "two processes")
    wait_until(lambda: remote.get(lost).started_at is not None, "a start that is known")
    remote.kill_daemon()
    folder = next(path for path in host.state.glob("nexus/node-*/*/") if path.name == _run_of(remote, lost.id))
    runner = int((folder / "status").read_text().split()[6])
    os.kill(runner, signal.SIGKILL)
    assert remote.wait(lost, status=JobStatus.UNKNOWN, reason_code=JobReason.RUNNER_LOST)
    assert remote.cancel(lost).status is JobStatus.CANCELLED
    remote.let_go(going, 3)
    assert remote.ended(going).exit_code == 3
    remote.wait_gone()


def _run_of(remote: Remote, job_id: str) -> str:
    ((run_id,),) = remote.rows("SELECT run_id FROM jobs WHERE id = ?", job_id)
    return str(run_id)
