"""Socket activation. The test acts as the service manager: it listens, and starts a daemon when a client connects."""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nexus_protocol import Unavailable
from support.daemon import DaemonProcess
from support.raw import RawClient, wait_until
from support.stores import look_at

from nexus.jobs.commands import CreateJob, CreateJobGroup, PauseJobGroup
from nexus.journal.commands import WatchEvents
from nexus.system.commands import GetSystemStatus, Ping
from nexus.vms.commands import CreateVm

Make = Callable[..., DaemonProcess]

PASS_FD_3 = """
import os, sys
fd = int(sys.argv[1])
os.dup2(fd, 3) if fd != 3 else os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="nexus.socket")
os.execv(sys.argv[2], sys.argv[2:])
"""


class Manager:
    """Does what a service manager does for nexus.socket and nexus.service."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.starts = 0
        self.exit_codes: list[int] = []
        self.process: subprocess.Popen[bytes] | None = None
        daemon.socket_path.parent.mkdir(mode=0o700)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(daemon.socket_path))
        self.listener.listen(64)
        self._stopping, self._stop = os.pipe()
        self._thread: threading.Thread | None = None

    def start_one(self) -> subprocess.Popen[bytes]:
        """Start a daemon now."""
        fd = self.listener.fileno()
        with self.daemon.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", PASS_FD_3, str(fd), *self.daemon.command()],
                env=self.daemon.environment,
                pass_fds=(fd,),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.starts += 1
        return self.process

    def run(self) -> None:
        """Start a daemon whenever a client waits and none runs, until ``close``."""
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        poll.register(self._stopping, select.POLLIN)
        while self._stopping not in dict(poll.poll()):
            self.exit_codes.append(self.start_one().wait())

    def close(self) -> None:
        """Stop the thread and the daemon, and close the socket."""
        os.close(self._stop)  # the other end becomes readable
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)
        if self._thread is not None:
            self._thread.join(30)
        os.close(self._stopping)
        self.listener.close()


@pytest.fixture
def make_manager(make_daemon: Make) -> Iterator[Callable[..., Manager]]:
    """Makes service managers for daemons with the arguments that are given."""
    made: list[Manager] = []

    def make(*arguments: str, **options: object) -> Manager:
        made.append(Manager(make_daemon(*arguments, **options)))
        return made[-1]

    yield make
    for manager in made:
        manager.close()


def test_passed_socket_is_served_and_left_in_place_at_exit(make_manager: Callable[..., Manager]) -> None:
    manager = make_manager()
    path = manager.daemon.socket_path
    inode = path.stat().st_ino
    process = manager.start_one()
    with RawClient(path) as client:
        assert client.call(GetSystemStatus()).pid == process.pid
        client.call(CreateVm(name="web"))
    process.terminate()
    assert process.wait(30) == 0
    assert path.stat().st_ino == inode
    assert "the passed socket" in manager.daemon.log()
    # A client that connects while no daemon runs waits for the next one.
    with RawClient(path) as client:
        sequence = client.begin(Ping(b"early"))
        manager.start_one()
        assert client.result(sequence) == {"payload": b"early"}
    assert "Traceback" not in manager.daemon.log()


def test_passed_socket_is_not_inherited_by_children(make_manager: Callable[..., Manager]) -> None:
    manager = make_manager()
    process = manager.start_one()
    with RawClient(manager.daemon.socket_path) as client:
        client.call(Ping())
    flags = Path(f"/proc/{process.pid}/fdinfo/3").read_text().split("flags:")[1].split()[0]
    assert int(flags, 8) & os.O_CLOEXEC


def test_passed_socket_for_another_pid_is_ignored(make_daemon: Make) -> None:
    daemon = make_daemon()
    daemon.environment |= {"LISTEN_FDS": "1", "LISTEN_PID": "1"}
    daemon.start()
    with RawClient(daemon.socket_path) as client:
        assert client.call(Ping(b"x")).payload == b"x"


@pytest.mark.parametrize("kind", ["two", "datagram", "file", "not listening"])
def test_passed_descriptor_that_is_no_listening_stream_socket_is_refused(
    make_daemon: Make, root: Path, kind: str
) -> None:
    daemon = make_daemon()
    with contextlib.ExitStack() as stack:
        type_ = socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM
        sock = stack.enter_context(socket.socket(socket.AF_UNIX, type_))
        fd = sock.fileno() if kind != "file" else stack.enter_context((root / "file").open("w")).fileno()
        script = PASS_FD_3.replace('LISTEN_FDS="1"', 'LISTEN_FDS="2"') if kind == "two" else PASS_FD_3
        result = subprocess.run(
            [sys.executable, "-I", "-S", "-c", script, str(fd), *daemon.command()],
            env=daemon.environment,
            pass_fds=(fd,),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr.startswith("nexusd: cannot use the passed socket: ")
    assert "\n  " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("problem", ["configuration", "database", "locked database", "log file"])
def test_failed_start_sends_its_reason_to_waiting_clients(
    make_manager: Callable[..., Manager], make_daemon: Make, root: Path, problem: str
) -> None:
    arguments = ("--log-file", str(root / "none" / "log")) if problem == "log file" else ()
    manager = make_manager(*arguments)
    daemon = manager.daemon
    if problem == "configuration":
        daemon.write_config("[limits]\nconnections = 0\n")
    elif problem == "database":
        daemon.state.mkdir()
        daemon.database.write_text("this is no database, and never was one")
    elif problem == "locked database":
        other = make_daemon("--socket", str(root / "run" / "other.sock"))
        other.start()
    with RawClient(daemon.socket_path) as one, RawClient(daemon.socket_path) as two:
        process = manager.start_one()
        for client in (one, two):
            error = client.read_to_end()
            assert isinstance(error, Unavailable)
            assert error.message.startswith("the daemon cannot start: cannot ")
            assert error.hint
        assert process.wait(30) == (78 if problem in ("configuration", "database") else 1)
    assert "Traceback" not in daemon.log()


@pytest.mark.slow
def test_idle_exit_loses_no_connection(make_manager: Callable[..., Manager]) -> None:
    """Clients connect after pauses of about the idle time, so that many connect just as the daemon stops."""
    manager = make_manager("--idle-exit", "0.04")
    manager.run()
    rng = random.Random(1)
    gap = select.poll()
    count = 0
    while manager.starts < 14:
        with RawClient(manager.daemon.socket_path) as client:
            assert client.call(Ping(b"%d" % count)).payload == b"%d" % count
        count += 1
        assert count < 2000, "the daemon never stops when idle"
        gap.poll(rng.uniform(30, 60))
    assert set(manager.exit_codes) == {0}
    log = manager.daemon.log()
    assert "idle for 0.04 seconds" in log
    assert "Traceback" not in log


def test_idle_time_shorter_than_the_start_still_serves_the_client_that_waits(
    make_manager: Callable[..., Manager],
) -> None:
    manager = make_manager("--idle-exit", "0.001")
    with RawClient(manager.daemon.socket_path) as client:
        sequence = client.begin(Ping(b"waits"))
        process = manager.start_one()
        assert client.result(sequence) == {"payload": b"waits"}
    assert process.wait(30) == 0


def test_idle_exit_waits_for_jobs_that_are_to_begin_and_for_no_others(make_manager: Callable[..., Manager]) -> None:
    manager = make_manager("--idle-exit", "0.2")
    with RawClient(manager.daemon.socket_path) as client:
        process = manager.start_one()
        client.call(PauseJobGroup("default"))
        client.call(CreateJobGroup(name="one", slots=1))
        job = client.call(CreateJob("exit 1", group="one", delay_ms=1500, retries=1, retry_backoff_ms=1500))
        client.call(CreateJob("true", group="one", after=[job.id]))
        client.call(CreateJob("true", stashed=True))
        client.call(CreateJob("true"))
    assert process.wait(60) == 0
    with look_at(manager.daemon.database) as database:
        found = database.execute("SELECT status, attempt FROM jobs ORDER BY number").fetchall()
    assert found == [("failed", 2), ("cancelled", 1), ("stashed", 1), ("queued", 1)]


def test_idle_exit_waits_for_open_streams(make_manager: Callable[..., Manager]) -> None:
    manager = make_manager("--idle-exit", "0.1")
    # The client is in the socket's queue before the daemon starts, so that no idle time passes without it.
    with RawClient(manager.daemon.socket_path) as client:
        process = manager.start_one()
        items = client.items(client.begin(WatchEvents()))
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.6)
        with RawClient(manager.daemon.socket_path) as other:
            other.call(CreateVm(name="web"))
        assert next(items)["subject_name"] == "web"
    assert process.wait(30) == 0


def test_daemon_started_by_hand_refuses_a_socket_of_the_service_manager(
    make_manager: Callable[..., Manager], make_daemon: Make
) -> None:
    manager = make_manager()
    code, output = make_daemon().run_to_failure()
    assert code == 1
    assert "the service manager listens there" in output
    assert manager.daemon.socket_path.exists()


class Notified:
    """Receives the messages that a daemon sends to its service manager."""

    def __init__(self, root: Path) -> None:
        self.path = root / "manager.sock"
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(self.path))
        self.sock.settimeout(30)
        self.messages: list[str] = []

    def wait_for(self, text: str) -> str:
        """Wait for the next message that contains ``text``."""
        while True:
            self.messages.append(self.sock.recv(4096).decode())
            if text in self.messages[-1]:
                return self.messages[-1]


@pytest.fixture
def notified(root: Path) -> Iterator[Notified]:
    """The notification socket of a service manager."""
    notified = Notified(root)
    yield notified
    notified.sock.close()


def test_notify_sends_readiness_reloads_watchdog_and_stop(
    make_manager: Callable[..., Manager], notified: Notified
) -> None:
    manager = make_manager()
    manager.daemon.environment |= {"NOTIFY_SOCKET": str(notified.path), "WATCHDOG_USEC": "200000"}
    process = manager.start_one()
    ready = notified.wait_for("READY=1")
    assert f"MAINPID={process.pid}" in ready
    assert "STATUS=Listening" in ready
    for _ in range(3):
        assert notified.wait_for("WATCHDOG=1") == "WATCHDOG=1"
    process.send_signal(1)
    assert "MONOTONIC_USEC=" in notified.wait_for("RELOADING=1")
    assert notified.wait_for("READY=1") == "READY=1"
    process.terminate()
    assert "STATUS=Stopping" in notified.wait_for("STOPPING=1")
    assert process.wait(30) == 0


def test_notify_sends_the_reason_of_a_failed_start(make_manager: Callable[..., Manager], notified: Notified) -> None:
    manager = make_manager(config="[limits]\nconnections = 0\n")
    manager.daemon.environment["NOTIFY_SOCKET"] = str(notified.path)
    process = manager.start_one()
    assert "limits.connections" in notified.wait_for("STATUS=cannot")
    assert process.wait(30) == 78


def test_notify_socket_without_a_listener_does_not_stop_the_start(make_daemon: Make, root: Path) -> None:
    daemon = make_daemon()
    daemon.environment["NOTIFY_SOCKET"] = str(root / "missing.sock")
    with daemon.log_path.open("ab") as log:
        daemon.process = subprocess.Popen(daemon.command(), env=daemon.environment, stdout=log, stderr=log)
    wait_until(lambda: "listening on" in daemon.log(), "a daemon that listens")
    assert daemon.stop() == 0
