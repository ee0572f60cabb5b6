"""Streams over ``--host``: large output, events, Ctrl-C, a restart of the daemon there, terminals, and what is left."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.cli import Cli
from support.daemon import DaemonProcess
from support.hosts import RemoteHost, missing_for_ssh
from support.raw import wait_until
from support.tmux import Tmux

pytestmark = pytest.mark.skipif(missing_for_ssh() is not None, reason=f"no sshd: {missing_for_ssh()}")

MIB = 1024 * 1024


@pytest.fixture
def host(daemon: DaemonProcess) -> Iterator[RemoteHost]:
    """A host with a running daemon."""
    made = RemoteHost(daemon)
    made.cli.environment["NEXUS_HOST"] = made.url
    yield made
    made.close()


@pytest.fixture
def far(host: RemoteHost) -> Cli:
    """nexusctl with the host in its environment."""
    return host.cli


@pytest.fixture
def near(daemon: DaemonProcess) -> Cli:
    """nexusctl on the host itself."""
    return Cli(daemon.environment)


def executing(near: Cli) -> bool:
    return bool(near.ok("job", "list", "-o", "name", "--status", "executing").out)


def test_log_of_100_mb_arrives_whole(far: Cli, near: Cli, host: RemoteHost) -> None:
    program = "import os\nline = bytes(range(32, 127)) + b'\\n'\nfor _ in range(1093): os.write(1, line * 1000)"
    near.ok(
        "job", "run", "--log", "256M", "--wait", "--", sys.executable, "-c", program + "\nprint(end='', flush=True)"
    )
    expected = hashlib.sha256((bytes(range(32, 127)) + b"\n") * 1_093_000).hexdigest()
    with far.start("job", "logs", "1") as process:
        assert process.stdout is not None
        digest, size = hashlib.sha256(), 0
        while data := process.stdout.read(MIB):
            digest.update(data)
            size += len(data)
    assert (process.returncode, size) == (0, 96 * 1_093_000)
    assert digest.hexdigest() == expected
    host.wait_until_nothing_is_left()


def test_input_of_megabytes_arrives_whole(far: Cli, near: Cli) -> None:
    near.ok("job", "run", "-i", "--", "sha256sum")
    data = os.urandom(MIB).hex() * 8
    attached = far("attach", "1", input=data)
    assert (attached.code, attached.out.split()[0]) == (0, hashlib.sha256(data.encode()).hexdigest()), attached.err


def test_ctrl_c_cancels_the_command_there(far: Cli, near: Cli, host: RemoteHost) -> None:
    near.ok("service", "add", "api", "--run", "exec sleep 1000")
    with far.terminal("run", "api", "--", "sleep", "1000") as terminal:
        wait_until(lambda: executing(near), "the job")
        wait_until(lambda: host.pids("dial-stdio"), "the connection")
        terminal.type("\x03")
        code, text = terminal.finish()
    assert code == 130, text
    assert "Interrupted." in text
    assert "lost" not in text
    assert near.ok("job", "inspect", "1", "-o", "json").json["status"] == "cancelled"
    host.wait_until_nothing_is_left()


def test_ctrl_c_of_a_request_shows_what_goes_on_there(far: Cli, near: Cli, host: RemoteHost) -> None:
    near.ok("service", "add", "api", "--health-log", "never", "--run", "exec sleep 1000")
    with far.terminal("service", "start", "api", "--wait") as terminal:
        running = ("service", "list", "-o", "jsonl")
        wait_until(lambda: '"running"' in near.ok(*running).out, "the service")
        terminal.type("\x03")
        code, text = terminal.finish()
    assert code == 130, text
    assert "Interrupted." in text
    assert "lost" not in text
    assert '"running"' in near.ok(*running).out
    host.wait_until_nothing_is_left()


def test_events_are_followed_until_ctrl_c(far: Cli, near: Cli, host: RemoteHost) -> None:
    with far.start("events", "--after", "0", "-o", "jsonl") as process:
        assert process.stdout is not None
        for name in ("a", "b"):
            near.ok("vm", "create", name)
            assert f'"subject_name":"{name}"' in process.stdout.readline().decode()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    host.wait_until_nothing_is_left()


def test_followed_output_goes_on_over_a_restart_of_the_daemon_there(far: Cli, near: Cli, host: RemoteHost) -> None:
    fifo = host.root / "fifo"
    os.mkfifo(fifo)
    near.ok("service", "add", "api", "--run", f"while read -r line; do echo $line; done <>{fifo}")
    near.ok("service", "start", "api")
    with far.start("service", "logs", "-f", "api") as process:
        assert process.stdout is not None
        fifo.write_text("one\n")
        assert process.stdout.readline() == b"one\n"
        host.daemon.kill()
        fifo.write_text("two\n")
        host.daemon.start()
        assert process.stdout.readline() == b"two\n"
        fifo.write_text("three\n")
        assert process.stdout.readline() == b"three\n"
        process.send_signal(signal.SIGINT)
        _out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Waiting for it to run again" in err
    host.wait_until_nothing_is_left()


def test_terminal_of_a_job_there_is_shown_resized_and_detached_from(far: Cli, near: Cli, host: RemoteHost) -> None:
    near.ok("job", "run", "-t", "--", "sh", "-c", 'trap "stty size" WINCH; while :; do sleep 0.1; done')
    with closing(Tmux(host.root, far)) as tmux:
        tmux.open("a", 20, 70, "attach", "1")
        tmux.shows("a", "20 70")
        tmux.resize("a", 11, 44)
        tmux.shows("a", "11 44")
        tmux.keys("a", "C-]")
        tmux.shows("a", "exit code 0")
    assert executing(near)
    host.wait_until_nothing_is_left()


def test_attach_goes_on_over_a_restart_of_the_daemon_there(far: Cli, near: Cli, host: RemoteHost) -> None:
    near.ok("job", "run", "-t", "--", "sh", "-c", 'while read -r line; do echo "<$line>"; done')
    with far.terminal("attach", "1") as terminal:
        terminal.type("one\n")
        terminal.wait_for("<one>")
        host.daemon.kill()
        host.daemon.start()
        terminal.forget()
        terminal.type("two\n")
        terminal.wait_for("<two>")
        terminal.type("\x1d")
        assert terminal.finish()[0] == 0
    host.wait_until_nothing_is_left()


# What is left


@pytest.fixture
def following(far: Cli, near: Cli, host: RemoteHost) -> Iterator[subprocess.Popen[bytes]]:
    """nexusctl in a request without an end: it waits for a service that is never healthy."""
    near.ok("service", "add", "api", "--health-log", "never", "--run", "exec sleep 1000")
    with far.start("service", "start", "api", "--wait") as process:
        wait_until(lambda: '"running"' in near.ok("service", "list", "-o", "jsonl").out, "the service")
        assert len(host.processes()) >= 4  # ssh, what watches it, sshd, dial-stdio
        yield process
        process.kill()


def ssh_of(host: RemoteHost) -> int:
    """The process of ssh on this side."""
    return next(pid for pid in host.pids("dial-stdio") if Path(f"/proc/{pid}/comm").read_text() == "ssh\n")


@pytest.mark.parametrize("ended", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_nothing_is_left_of_a_connection_whose_nexusctl_ended(
    ended: signal.Signals, following: subprocess.Popen[bytes], host: RemoteHost
) -> None:
    following.send_signal(ended)
    following.wait(60)
    host.wait_until_nothing_is_left()


@pytest.mark.parametrize("stopped", [False, True])
def test_nothing_is_left_where_ssh_or_the_daemon_is_killed(
    stopped: bool, following: subprocess.Popen[bytes], host: RemoteHost
) -> None:
    if stopped:
        host.daemon.kill()
    else:
        os.kill(ssh_of(host), signal.SIGKILL)
    _out, err = following.communicate(timeout=60)
    assert following.returncode == 3
    assert f"the connection to the daemon at {host.url} was lost" in err.decode()
    host.wait_until_nothing_is_left()


def test_nothing_is_left_where_the_daemon_there_hangs(following: subprocess.Popen[bytes], host: RemoteHost) -> None:
    host.daemon.signal(signal.SIGSTOP)
    following.kill()
    following.wait(60)
    host.wait_until_nothing_is_left()
    host.daemon.signal(signal.SIGCONT)


def test_nothing_is_left_where_the_other_end_is_killed(following: subprocess.Popen[bytes], host: RemoteHost) -> None:
    host.kill_dial()
    assert following.wait(60) == 3
    host.wait_until_nothing_is_left()


def test_closed_terminal_ends_all(far: Cli, near: Cli, host: RemoteHost) -> None:
    near.ok("job", "run", "-t", "--", "sh", "-c", 'while read -r line; do echo "<$line>"; done')
    with closing(Tmux(host.root, far)) as tmux:
        tmux.open("a", 20, 70, "attach", "1")
        tmux.shows("a", "Ctrl-] detaches")
        tmux.keys("a", "one", "Enter")
        tmux.shows("a", "<one>")
    host.wait_until_nothing_is_left()
    assert executing(near)
