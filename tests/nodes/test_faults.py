"""What happens to jobs on a node when the connection, the node, their runner or the daemon is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from support.accounts import Account
from support.daemon import DaemonProcess
from support.faults import fill, on_small_disk
from support.git import make_key
from support.nodes import NodeHost, Remote, environment_with_ssh
from support.raw import connect as connect_to
from support.raw import wait_until

from nexus.jobs.commands import CancelJob
from nexus.jobs.records import Job
from nexus.jobs.states import JobReason, JobStatus
from nexus.nodes.commands import CheckNode, NodeUnreachable, NodeUnusable, RemoveNode
from nexus.nodes.states import NodeStatus
from nexus.store.connection import connect


def running_there(remote: Remote, **fields: object) -> Job:
    """A job that runs on the node until ``let_go``, with its first output here."""
    job = remote.held(**fields)
    return remote.wait(job, status=JobStatus.EXECUTING, unknown_since=None)


def wait_for_process(remote: Remote, host: NodeHost) -> None:
    wait_until(lambda: host.members(), "a process there")


def test_cut_connection_makes_a_job_unknown_and_then_its_truth_is_read(remote: Remote, host: NodeHost) -> None:
    gate = host.root / "gate"
    os.mkfifo(gate)
    job = remote.there(f"echo before; read -r x <{gate}; echo after; exit 7")
    wait_until(lambda: remote.output(job) == b"before\n", "the output before the cut")
    host.server.stop()
    unknown = remote.wait(job, status=JobStatus.UNKNOWN)
    assert unknown.reason_code is JobReason.NODE_UNREACHABLE
    assert unknown.unknown_since is not None
    assert unknown.reason is not None
    assert unknown.reason.startswith('lost the connection to node "there": ') or "cannot reach" in unknown.reason
    gate.write_text("go\n")
    wait_until(lambda: host.members() == [], "the end of the job there")
    assert remote.get(job).status is JobStatus.UNKNOWN
    host.server.start()
    ended = remote.ended(job)
    assert (ended.status, ended.exit_code) == (JobStatus.FAILED, 7)
    assert remote.output(job) == b"before\nafter\n"
    assert "unknown" in remote.kinds(job)
    remote.wait_gone()


@pytest.mark.slow
def test_host_that_hangs_in_the_middle_makes_a_job_unknown(remote: Remote, host: NodeHost) -> None:
    job = running_there(remote)
    wait_for_process(remote, host)
    with host.server.frozen():
        unknown = wait_until(
            lambda: next((each for each in [remote.get(job)] if each.status is JobStatus.UNKNOWN), None),
            "the end of the connection",
            timeout_s=120,
        )
        assert unknown.reason_code is JobReason.NODE_UNREACHABLE
        assert remote.ended(remote.submit("true")).status is JobStatus.COMPLETED, "no other job waits for it"
    remote.wait(job, status=JobStatus.EXECUTING)
    remote.let_go(job, 3)
    assert remote.ended(job).exit_code == 3
    remote.wait_gone()


def test_job_that_runs_on_over_a_cut_is_executing_again(remote: Remote, host: NodeHost) -> None:
    job = running_there(remote)
    wait_for_process(remote, host)
    host.server.cut()
    wait_until(lambda: "unknown" in remote.kinds(job), "a lost connection")
    again = remote.wait(job, status=JobStatus.EXECUTING)
    assert (again.unknown_since, again.reason, again.reason_code) == (None, None, None)
    remote.let_go(job, 0)
    assert remote.ended(job).status is JobStatus.COMPLETED
    remote.wait_gone()


def test_cancel_while_the_node_is_gone_is_carried_out_once_it_is_back(remote: Remote, host: NodeHost) -> None:
    job = running_there(remote)
    wait_for_process(remote, host)
    host.server.stop()
    remote.wait(job, status=JobStatus.UNKNOWN)
    sequence = remote.begin(CancelJob(job.id))
    remote_view = Remote(remote.daemon, host)
    remote_view.wait(job, reason_code=JobReason.CANCELLING)
    assert host.members()
    host.server.start()
    remote.client.result(sequence)
    assert remote.get(job).status is JobStatus.CANCELLED
    assert host.members() == []
    remote_view.close()
    remote.wait_gone()


def test_name_that_leads_to_another_host_ends_no_job(remote: Remote, host: NodeHost, account: Account | None) -> None:
    other = NodeHost(host.root.with_name("other"), account)
    settings = host.settings.read_text()

    def lead(there: NodeHost, address: str) -> None:
        host.settings.write_text(
            f"Host moves\nHostName {address}\nPort {there.server.port}\nIdentityFile {there.server.user_key}\n"
            f"StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nHost *\n{settings}"
        )

    try:
        lead(host, "127.0.0.1")
        remote.add("moves", hostname="moves", port=None)
        job = remote.hold(node="moves", environment={"ON": str(host.root)})
        remote.running(job)
        wait_for_process(remote, host)
        lead(other, "127.0.0.2")
        host.server.cut()
        unknown = remote.wait(job, reason_code=JobReason.RUNNER_LOST)
        assert unknown.status is JobStatus.UNKNOWN
        assert unknown.reason == 'node "moves" leads to another host than the one on which it was begun'
        sequence = remote.begin(CancelJob(job.id))
        view = Remote(remote.daemon, host)
        view.wait(job, reason_code=JobReason.CANCELLING)
        wait_until(other.sessions, "a session to the other host")
        assert host.members()
        lead(host, "127.0.0.1")
        other.server.cut()
        remote.client.result(sequence)
        assert remote.get(job).status is JobStatus.CANCELLED
        assert host.members() == []
        view.close()
    finally:
        other.close()


def test_reboot_of_the_node_fails_the_job(remote: Remote, host: NodeHost) -> None:
    job = running_there(remote)
    wait_for_process(remote, host)
    host.server.stop()
    host.reboot()
    host.server.start()
    ended = remote.ended(job)
    assert (ended.status, ended.reason_code) == (JobStatus.FAILED, JobReason.NODE_REBOOTED)
    assert ended.reason == 'node "there" was restarted'
    remote.wait_gone()


def test_job_that_ended_before_the_reboot_keeps_its_code(remote: Remote, host: NodeHost) -> None:
    job = running_there(remote)
    wait_for_process(remote, host)
    host.server.stop()
    remote.let_go(job, 5)
    wait_until(lambda: not host.members() and not host.runners(), "the end of the job there")
    host.reboot()
    host.server.start()
    ended = remote.ended(job)
    assert (ended.status, ended.exit_code, ended.reason_code) == (JobStatus.FAILED, 5, JobReason.EXITED)


def test_killed_runner_makes_the_job_unknown_until_it_is_cancelled(remote: Remote, host: NodeHost) -> None:
    job = remote.there("(setsid setsid sleep 600 &); sleep 600")
    wait_until(lambda: len(host.members()) >= 2, "the tree")
    for pid in host.runners():
        os.kill(pid, signal.SIGKILL)
    unknown = remote.wait(job, status=JobStatus.UNKNOWN)
    assert unknown.reason_code is JobReason.RUNNER_LOST
    assert unknown.reason == 'its runner on node "there" ended without its exit code'
    # Its slot is free, and what it left is still there.
    assert remote.ended(remote.there("true")).status is JobStatus.COMPLETED
    assert host.members()
    assert remote.cancel(job).status is JobStatus.CANCELLED
    assert host.members() == []
    remote.wait_gone()


@pytest.mark.parametrize("restarts", [False, True])
def test_abandoned_job_of_a_lost_node_is_cancelled_and_ended_there_later(
    remote: Remote, host: NodeHost, restarts: bool
) -> None:
    job = running_there(remote)
    wait_for_process(remote, host)
    host.server.stop()
    assert remote.wait(job, status=JobStatus.UNKNOWN).reason_code is JobReason.NODE_UNREACHABLE
    if restarts:
        remote.daemon.kill()
        remote.begin_anew()
    ended = remote.client.call(CancelJob(job.id, abandon=True))
    assert (ended.status, ended.reason_code) == (JobStatus.CANCELLED, JobReason.ABANDONED)
    assert ended.reason == 'cancelled without waiting for node "there"'
    assert host.members()
    host.server.start()
    remote.wait_gone()
    assert host.members() == []


def test_abandon_frees_a_cancel_that_waits_and_the_node(remote: Remote, host: NodeHost) -> None:
    job = running_there(remote)
    host.server.stop()
    remote.wait(job, status=JobStatus.UNKNOWN)
    waiting = remote.begin(CancelJob(job.id))
    with connect_to(remote.daemon) as other:
        assert other.call(CancelJob(job.id, abandon=True)).status is JobStatus.CANCELLED
    assert remote.client.result(waiting)["status"] == "cancelled"
    remote.client.call(RemoveNode("there"))


def test_abandon_ends_the_wait_of_a_job_that_ran_too_long(remote: Remote, host: NodeHost) -> None:
    stubborn = "trap '' TERM; echo up; sleep 600; sleep 600"
    job = remote.there(stubborn, timeout_ms=2000, stop_grace_ms=3_600_000)
    wait_until(lambda: remote.get(job).reason_code is JobReason.TIMEOUT, "the end of its time")
    host.server.stop()
    wait_until(lambda: remote.node().status is NodeStatus.OFFLINE, "the loss of the node")
    ended = remote.client.call(CancelJob(job.id, abandon=True))
    assert (ended.status, ended.reason_code) == (JobStatus.CANCELLED, JobReason.ABANDONED)


def test_abandon_of_a_job_whose_node_is_there_is_a_cancel(remote: Remote, host: NodeHost) -> None:
    job = running_there(remote)
    wait_for_process(remote, host)
    ended = remote.client.call(CancelJob(job.id, abandon=True))
    assert (ended.status, host.members()) == (JobStatus.CANCELLED, [])
    remote.wait_gone()


def test_killed_daemon_adopts_what_runs_and_what_has_ended(remote: Remote, host: NodeHost) -> None:
    going, ending = running_there(remote), running_there(remote)
    wait_until(lambda: len(host.members()) == 2, "two processes")
    remote.daemon.kill()
    remote.let_go(ending, 9)
    wait_until(lambda: len(host.runners()) == 1, "the end of one")
    remote.begin_anew()
    ended = remote.ended(ending)
    assert (ended.status, ended.exit_code) == (JobStatus.FAILED, 9)
    assert remote.wait(going, status=JobStatus.EXECUTING).unknown_since is None
    remote.let_go(going, 0)
    assert remote.ended(going).status is JobStatus.COMPLETED
    remote.wait_gone()


def test_output_is_copied_once_over_a_kill_of_the_daemon(remote: Remote, host: NodeHost) -> None:
    gate = host.root / "gate"
    os.mkfifo(gate)
    job = remote.there(f"seq 1 50000; read -r x <{gate}; seq 50001 100000")
    wait_until(lambda: len(remote.output(job)) > 100_000, "some of the output")
    remote.kill_daemon()
    with gate.open("w") as file:
        file.write("go\n")
    assert remote.ended(job).status is JobStatus.COMPLETED
    assert remote.output(job) == "".join(f"{number}\n" for number in range(1, 100_001)).encode()


def test_leftovers_of_a_killed_daemon_are_swept(remote: Remote, host: NodeHost) -> None:
    job = running_there(remote)
    wait_for_process(remote, host)
    remote.daemon.kill()
    with contextlib.closing(connect(remote.daemon.database)) as database, database:
        database.execute("DELETE FROM jobs WHERE id = ?", (job.id,))
    remote.begin_anew()
    remote.wait_gone()
    assert host.runners() == []
    assert list(remote.daemon.state.glob("processes/nodes/*/*")) == []


def test_queued_job_waits_for_its_node_and_holds_up_no_other(remote: Remote, host: NodeHost) -> None:
    host.server.stop()
    job = remote.there("true")
    waiting = remote.wait(job, reason_code=JobReason.NODE_UNREACHABLE)
    assert waiting.status is JobStatus.QUEUED
    assert waiting.reason == 'cannot reach node "there": it refuses connections'
    assert remote.ended(remote.submit("true")).status is JobStatus.COMPLETED
    assert remote.node().reason == waiting.reason
    host.server.start()
    ended = remote.ended(job)
    assert (ended.status, ended.reason) == (JobStatus.COMPLETED, None)
    assert remote.node().reason is None


def test_node_that_misses_three_times_is_offline(remote: Remote, host: NodeHost) -> None:
    remote.check()
    assert remote.node().status is NodeStatus.ONLINE
    job = running_there(remote)
    host.server.stop()

    def offline() -> bool:
        return remote.node().status is NodeStatus.OFFLINE

    wait_until(offline, "an offline node")
    kinds = [event["kind"] for event in remote.events() if event["kind"].startswith("node.o")]
    assert kinds == ["node.online", "node.offline"]
    host.server.start()
    remote.let_go(job)
    assert remote.ended(job).status is JobStatus.COMPLETED
    assert remote.node().status is NodeStatus.ONLINE


def _sentence(remote: Remote) -> str:
    error = remote.call_error(CheckNode("there"))
    assert isinstance(error, NodeUnreachable)
    assert error.hint is not None
    return error.message


def test_wrong_key_is_a_sentence(remote: Remote, host: NodeHost) -> None:
    host.use_key(make_key(host.root / "other_key"))
    assert _sentence(remote) == 'cannot reach node "there": it accepts none of the keys that ssh offers'
    host.use_key(host.server.user_key)
    assert remote.check().node.status is NodeStatus.ONLINE


def test_unknown_and_changed_host_keys_are_sentences(remote: Remote, host: NodeHost) -> None:
    hosts = host.root / "known_hosts"
    right = hosts.read_text()
    hosts.write_text("")
    assert _sentence(remote) == 'cannot reach node "there": its host key is unknown'
    other = make_key(host.root / "other_host_key").with_suffix(".pub").read_text()
    hosts.write_text(f"[127.0.0.1]:{host.server.port} {other}")
    assert _sentence(remote) == 'cannot reach node "there": its host key has changed'
    hosts.write_text(right)
    assert remote.check().node.status is NodeStatus.ONLINE


def test_login_shell_that_refuses_is_quoted(remote: Remote, host: NodeHost) -> None:
    host.server.stop()
    with (host.root / "sshd_config").open("a") as settings:
        settings.write("ForceCommand echo; echo 'This account is currently not available.'; exit 1\n")
    host.server.start()
    assert _sentence(remote) == (
        'cannot reach node "there": its login shell ended and printed "This account is currently not available."'
    )


def test_unknown_host_name_is_a_sentence(remote: Remote) -> None:
    remote.add("lost", hostname="no-such-host.invalid", port=None)
    error = remote.call_error(CheckNode("lost"))
    assert error.message == 'cannot reach node "lost": its host name is not known'


def test_hanging_host_is_a_sentence_and_delays_no_other_job(remote: Remote) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        remote.add("hangs", port=server.getsockname()[1])
        hanging = remote.submit("true", node="hangs")
        assert remote.ended(remote.there("true")).status is JobStatus.COMPLETED
        reason = remote.wait(hanging, reason_code=JobReason.NODE_UNREACHABLE).reason
        assert reason == 'cannot reach node "hangs": it did not answer in time'
        remote.cancel(hanging)


def test_hanging_host_does_not_delay_the_start_of_the_daemon(remote: Remote, host: NodeHost) -> None:
    job = running_there(remote)
    wait_for_process(remote, host)
    remote.daemon.kill()
    host.server.stop()
    with socket.create_server(("127.0.0.1", host.server.port), reuse_port=False):
        remote.begin_anew()
        assert remote.get(job).status is JobStatus.UNKNOWN
    host.server.start()
    remote.let_go(job)
    assert remote.ended(job).status is JobStatus.COMPLETED


def _on_small_disk(root: Path, account: Account | None, scenario: Callable[[Remote, Path], None]) -> None:
    """Carry out a scenario with a node whose folder is on a disk of 2 MiB."""

    def with_node(disk: Path) -> None:
        if account is not None:
            os.chown(disk, account.pw_uid, account.pw_gid)
        host = NodeHost(root / "host", account)
        daemon = DaemonProcess(root, environment=environment_with_ssh(host)).start()
        remote = Remote(daemon, host)
        try:
            remote.add()
            host.state.symlink_to(disk)
            scenario(remote, disk)
        finally:
            remote.close()
            daemon.close()
            host.close()

    disk = root / "disk"
    disk.mkdir()
    on_small_disk(disk, 2048, with_node)


@pytest.mark.parametrize("left_kib", [0, 256])
def test_full_disk_there_is_a_sentence(root: Path, account: Account | None, left_kib: int) -> None:
    def scenario(remote: Remote, disk: Path) -> None:
        remote.check()
        filler = fill(disk, leave_kib=left_kib)
        error = remote.call_error(CheckNode("there"))
        assert isinstance(error, NodeUnusable)
        assert error.message == 'cannot run jobs on node "there": its disk is full'
        job = remote.ended(remote.there("true"))
        assert (job.status, job.reason_code) == (JobStatus.FAILED, JobReason.START_FAILED)
        assert job.reason is not None
        assert job.reason.endswith('node "there" cannot begin it: its disk is full')
        filler.unlink()
        assert remote.ended(remote.there("true")).status is JobStatus.COMPLETED

    _on_small_disk(root, account, scenario)


def test_later_session_needs_no_room_for_the_shim(root: Path, account: Account | None) -> None:
    def scenario(remote: Remote, disk: Path) -> None:
        job = running_there(remote)
        wait_for_process(remote, remote.host)
        fill(disk, leave_kib=256)
        remote.host.server.cut()
        wait_until(lambda: "unknown" in remote.kinds(job), "a lost connection")
        remote.wait(job, status=JobStatus.EXECUTING)
        remote.check()
        other = remote.ended(remote.there("echo there"))
        assert (other.status, other.stdout) == (JobStatus.COMPLETED, "there\n")
        remote.let_go(job)
        assert remote.ended(job).status is JobStatus.COMPLETED

    _on_small_disk(root, account, scenario)


def test_stopped_daemon_leaves_no_process_here(remote: Remote, host: NodeHost) -> None:
    job = running_there(remote)
    wait_for_process(remote, host)
    assert remote.daemon.stop() == 0
    wait_until(lambda: not _clients(host), "the end of every ssh")
    assert host.runners()
    remote.begin_anew()
    remote.let_go(job)
    assert remote.ended(job).status is JobStatus.COMPLETED
    remote.wait_gone()
    wait_until(lambda: not _clients(host), "the end of every ssh")


def _clients(host: NodeHost) -> list[int]:
    """The pids of the ssh clients of this host's configuration."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if str(host.settings).encode() in Path(entry.path, "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


_Make = Callable[..., DaemonProcess]


@pytest.mark.parametrize("stdin", [None, b"x" * 100_000], ids=["without", "with"])
def test_start_that_is_cut_is_begun_once(remote: Remote, host: NodeHost, stdin: bytes | None) -> None:
    count = host.home / "count"
    jobs = [remote.there(f"echo x >>{count}; sleep 0.2", stdin_data=stdin) for _ in range(4)]
    for _ in range(3):
        wait_until(lambda: host.server.connections(), "a connection")
        host.server.cut()
    remote.wait_all(*jobs)
    assert [remote.get(job).status for job in jobs] == [JobStatus.COMPLETED] * 4
    assert count.read_text() == "x\n" * 4
