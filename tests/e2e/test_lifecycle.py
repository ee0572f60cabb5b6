"""The life of a daemon: signals, draining, reloading, and which users it serves."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from nexus_protocol import (
    ClientConnection,
    ErrorReceived,
    ResourceExhausted,
    Unavailable,
    decode_map,
    error_from_payload,
)
from support.daemon import DaemonProcess
from support.raw import RawClient, wait_until

from nexus.journal.commands import WatchEvents
from nexus.system.commands import GetSystemStatus, Hello, Ping, SetSetting, Shutdown
from nexus.vms.commands import CreateVm, ListVms

Make = Callable[..., DaemonProcess]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_stop_signal_finishes_requests_ends_streams_removes_the_socket_and_exits_0(
    daemon: DaemonProcess, number: signal.Signals
) -> None:
    with RawClient(daemon.socket_path) as client, RawClient(daemon.socket_path) as watcher:
        client.call(Ping())
        stream = watcher.begin(WatchEvents())
        watcher.call(Ping())
        creating = client.begin_many(CreateVm(name=f"vm-{n}") for n in range(50))
        assert client.result(creating[0])["name"] == "vm-0"
        daemon.signal(number)
        finished = 0
        for sequence in creating[1:]:
            try:
                client.payload(sequence)
                finished += 1
            except Unavailable:
                pass
        assert isinstance(watcher.error(stream), Unavailable)
        client.read_to_end()
        watcher.read_to_end()
    assert daemon.process is not None
    assert daemon.process.wait(30) == 0
    assert not daemon.socket_path.exists()
    log = daemon.log()
    assert f"stopping: signal {number.name}" in log
    assert log.rstrip().endswith("stopped")
    assert "Traceback" not in log
    daemon.start()
    with RawClient(daemon.socket_path) as client:
        assert len(client.call(ListVms()).vms) >= finished + 1


def test_repeated_signals_during_the_stop_do_not_disturb_it(daemon: DaemonProcess) -> None:
    """A signal must not kill the daemon even at the very end of its stop."""
    pace = select.poll()
    rounds = 0
    while rounds < 3:  # on a busy machine the daemon may have ended before the second signal
        assert daemon.process is not None
        rounds = 0
        while daemon.process.poll() is None:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                daemon.process.send_signal(number)
            rounds += 1
            pace.poll(1)
        assert daemon.process.returncode == 0
        assert not daemon.socket_path.exists()
        if rounds < 3:
            daemon.start()
    assert "Traceback" not in daemon.log()


def test_shutdown_answers_drains_and_exits_0(daemon: DaemonProcess) -> None:
    with RawClient(daemon.socket_path) as client:
        assert client.result(client.begin(Shutdown())) == {}
        client.read_to_end()
    assert daemon.process is not None
    assert daemon.process.wait(30) == 0
    assert not daemon.socket_path.exists()
    assert "requested by a client" in daemon.log()


def test_client_that_does_not_read_cannot_delay_the_stop(make_daemon: Make) -> None:
    daemon = make_daemon(config="[daemon]\ndrain_timeout_s = 1\n").start()
    with RawClient(daemon.socket_path) as client:
        for sequence in client.begin_many(CreateVm(name=f"vm-{n}") for n in range(2000)):
            client.payload(sequence)
        with RawClient(daemon.socket_path) as hog:
            hog.begin_many([ListVms(limit=10_000)] * 30)
            hog.begin_many([WatchEvents(after=0)] * 4)
            wait_until(lambda: client.call(GetSystemStatus()).open_requests > 1, "the hog at work")
            assert daemon.stop() == 0
    assert not daemon.socket_path.exists()


def test_records_survive_stop_and_kill(daemon: DaemonProcess) -> None:
    with RawClient(daemon.socket_path) as client:
        vm = client.call(CreateVm(name="web"))
        client.call(SetSetting("a.b", [1, "two"]))
    for end in (daemon.stop, daemon.kill):
        end()
        daemon.start()
        with RawClient(daemon.socket_path) as client:
            assert client.call(ListVms()).vms == [vm]


def test_stop_does_not_remove_a_socket_file_that_replaced_its_own(daemon: DaemonProcess) -> None:
    daemon.socket_path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(daemon.socket_path))
        assert daemon.stop() == 0
        assert daemon.socket_path.exists()


# SIGHUP


def _reload(daemon: DaemonProcess, config: str) -> str:
    """Write a new configuration and send SIGHUP; return the log lines that follow."""
    before = len(daemon.log())
    daemon.write_config(config)
    daemon.signal(signal.SIGHUP)
    wait_until(lambda: "reloaded" in daemon.log()[before:], "the log line of the reload")
    return daemon.log()[before:]


def test_sighup_applies_limits_to_present_and_new_connections(daemon: DaemonProcess) -> None:
    with RawClient(daemon.socket_path) as client:
        assert client.call(Hello(client="t")).limits["connections"] == 512
        client.call(Ping(bytes(2000)))
        log = _reload(daemon, "[limits]\nconnections = 1\nmax_payload_bytes = 1024\nstreams_per_connection = 1\n")
        assert "configuration reloaded" in log
        limits = client.call(Hello(client="t")).limits
        assert (limits["connections"], limits["max_payload_bytes"]) == (1, 1024)
        client.begin(WatchEvents())
        assert isinstance(client.call_error(WatchEvents()), ResourceExhausted)
        with RawClient(daemon.socket_path) as other:
            assert isinstance(other.read_to_end(), ResourceExhausted)
        error = client.call_error(Ping(bytes(2000)))
        assert error.code == "frame_too_large"
        assert error.details["limit"] == 1024


def test_sighup_applies_the_log_level(daemon: DaemonProcess) -> None:
    _reload(daemon, "")
    daemon.write_config('[daemon]\nlog_level = "warning"\n')
    daemon.signal(signal.SIGHUP)
    with RawClient(daemon.socket_path) as client:
        # Signals and requests are handled in one loop: after an answered request the file has been read.
        wait_until(lambda: client.call(Ping(b"x")).payload == b"x", "an answer")
    before = len(daemon.log())
    assert daemon.stop() == 0
    assert "stopping" not in daemon.log()[before:]


def test_sighup_logs_the_keys_that_need_a_restart(daemon: DaemonProcess, root: Path) -> None:
    log = _reload(
        daemon,
        f'[daemon]\nsocket = "{root}/d.sock"\n[client]\nsocket = "{root}/c.sock"\n[database]\npath = "{root}/o.db"\n',
    )
    for name in ("daemon.socket", "client.socket", "database.path"):
        assert f"{name} changed: it takes effect after a restart" in log
    with RawClient(daemon.socket_path) as client:
        assert client.call(Ping(b"still here")).payload == b"still here"


@pytest.mark.parametrize("wrong", ["[limits]\nconnections = 0\n", "[limits\n", "[what]\n", '[limits]\nx = "\xff"\n'])
def test_sighup_with_an_invalid_file_keeps_the_old_values_and_logs_why(daemon: DaemonProcess, wrong: str) -> None:
    _reload(daemon, "[limits]\nconnections = 7\n")
    log = _reload(daemon, wrong)
    assert "was not reloaded, the old one stays in force" in log
    assert "config.toml" in log
    with RawClient(daemon.socket_path) as client:
        assert client.call(Hello(client="t")).limits["connections"] == 7
    assert "configuration reloaded" in _reload(daemon, "[limits]\nconnections = 9\n")


def test_sighup_after_removal_of_the_file_applies_the_defaults(daemon: DaemonProcess, root: Path) -> None:
    _reload(daemon, "[limits]\nconnections = 7\n")
    (root / "config" / "nexus" / "config.toml").unlink()
    before = len(daemon.log())
    daemon.signal(signal.SIGHUP)
    wait_until(lambda: "configuration reloaded" in daemon.log()[before:], "the reload")
    with RawClient(daemon.socket_path) as client:
        assert client.call(Hello(client="t")).limits["connections"] == 512


# Which users are served


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("uid", [4711, 65534], ids=["other user", "overflow user"])
def test_client_of_another_user_is_refused(daemon: DaemonProcess, root: Path, uid: int) -> None:
    # The file modes alone would refuse the other user: open them, to test the daemon's own check.
    for path in (root, root / "run", daemon.socket_path.parent):
        path.chmod(0o711)
    daemon.socket_path.chmod(0o666)
    here, there = socket.socketpair()
    child = os.fork()
    if not child:
        # In this process nothing of the test may run but the connection.
        try:
            os.setresuid(uid, uid, uid)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.connect(str(daemon.socket_path))
                sock.settimeout(30)
                data = b""
                while part := sock.recv(65536):
                    data += part
            there.sendall(data)
        finally:
            os._exit(0)
    there.close()
    with here:
        here.settimeout(60)
        data = here.recv(65536)
    os.waitpid(child, 0)
    (event,) = ClientConnection().receive_data(data)
    assert isinstance(event, ErrorReceived)
    error = error_from_payload(decode_map(event.payload))
    assert error.code == "permission_denied"
    assert str(uid) in error.message
    assert f"refusing a client of user {uid}" in daemon.log()
    with RawClient(daemon.socket_path) as client:
        assert client.call(Ping(b"x")).payload == b"x"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_daemon_refuses_to_run_as_the_overflow_user(root: Path, make_daemon: Make) -> None:
    daemon = make_daemon()
    result = subprocess.run(
        ["unshare", "-U", *daemon.command()],
        env=daemon.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if "unshare failed" in result.stderr or "unshare:" in result.stderr:
        pytest.skip(f"no user namespaces here: {result.stderr.strip()}")
    assert result.returncode == 1
    assert "cannot run as the overflow user" in result.stderr
    assert "Traceback" not in result.stderr
