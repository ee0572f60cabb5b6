"""A daemon that runs but cannot be used: it hangs, or its socket file is gone."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Cli
from support.daemon import DaemonProcess

from nexus.locks import FileLock, holder


@pytest.fixture
def frozen(daemon: DaemonProcess) -> Iterator[DaemonProcess]:
    """A stopped daemon: the kernel still accepts connections for it, but it does not reply."""
    daemon.signal(signal.SIGSTOP)
    yield daemon
    daemon.signal(signal.SIGCONT)


def test_status_of_hanging_daemon_times_out_by_default(frozen: DaemonProcess, cli: Cli) -> None:
    started = time.monotonic()
    assert cli("status") == (
        124,
        "",
        f"Error: cannot get an answer: the daemon (pid {frozen.pid}) accepts connections but does not answer\n"
        f"  To kill it: kill -9 {frozen.pid}\n  Then: nexusctl daemon start\n",
    )
    assert time.monotonic() - started > 4.5, "it did not wait for a slow daemon"


@pytest.mark.parametrize(
    "words", ["daemon status", "daemon stop", "daemon start", "daemon restart", "vm list", "events", "db backup"]
)
def test_every_verb_honours_the_timeout_option(frozen: DaemonProcess, cli: Cli, words: str) -> None:
    result = cli("--timeout", "0.2", *words.split())
    assert (result.code, result.out) == (124, "")
    assert result.err.startswith(f"Error: cannot get an answer: the daemon (pid {frozen.pid}) accepts connections")


def test_doctor_reports_hanging_daemon(frozen: DaemonProcess, cli: Cli) -> None:
    result = cli("doctor", "--timeout", "0.2")
    assert result.code == 1
    sentence = f"the daemon (pid {frozen.pid}) accepts connections but does not answer"
    assert next(line for line in result.lines if sentence in line).startswith("failing  socket:")
    assert f"kill -9 {frozen.pid}" in result.out


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon", ""])
def test_timeout_must_be_a_positive_number(cli: Cli, value: str) -> None:
    code, out, err = cli(f"--timeout={value}", "status")
    assert (code, out) == (2, "")
    assert "is not a number of seconds above 0" in err


def test_timeout_long_enough_changes_nothing(cli: Cli) -> None:
    assert cli("vm", "list", "--timeout", "30", "-o", "json") == (0, "[]\n", "No VMs found.\n")


@pytest.mark.parametrize("what", ["socket", "folder"])
def test_daemon_without_socket_file_is_found_and_stopped(daemon: DaemonProcess, cli: Cli, what: str) -> None:
    if what == "socket":
        daemon.socket_path.unlink()
    else:
        shutil.rmtree(daemon.socket_path.parent)
    sentence = f"a daemon runs (pid {daemon.pid}), but its socket is gone"
    remedy = "nexusctl daemon stop; nexusctl daemon start"
    status = cli("daemon", "status")
    assert (status.code, status.out) == (3, f"Daemon: {sentence} ({daemon.socket_path})\n")
    assert remedy in status.err
    assert cli("daemon", "status", "-o", "json").json["state"] == "unreachable"
    found = cli("doctor")
    assert found.code == 1
    assert sentence in found.out
    assert remedy in found.out
    started = cli("daemon", "start")
    assert (started.code, started.out) == (5, "")
    assert sentence in started.err
    assert cli("daemon", "stop") == (0, f"Stopped the daemon (pid {daemon.pid})\n", "")
    assert daemon.process is not None
    assert daemon.process.wait(30) == 0


def test_daemon_at_another_socket_is_left_alone(daemon: DaemonProcess, cli: Cli, root: Path) -> None:
    assert cli("daemon", "stop", "--socket", str(root / "none.sock")).out == "The daemon is not running\n"
    assert cli("daemon", "status", "--socket", str(root / "none.sock")).out.startswith("Daemon: stopped")
    cli.ok("status")


def test_lock_holder_is_the_process_with_the_file_open(root: Path) -> None:
    import os

    path = root / "lock"
    assert holder(path) is None
    with FileLock(path):
        assert holder(path) == os.getpid()
    assert path.read_text().strip() == str(os.getpid())
    assert holder(path) is None
