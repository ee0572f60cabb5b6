"""The file beside the database that says where the daemon listens, and when it is not believed."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.daemon import DaemonProcess
from support.raw import wait_until

from nexus.address import Address, address_file, read_address

Make = Callable[..., DaemonProcess]


def written(daemon: DaemonProcess) -> Path:
    return daemon.database.with_name(".nexus.db.address")


def test_running_daemon_has_a_private_file_with_its_socket_and_pid_until_it_stops(daemon: DaemonProcess) -> None:
    path = written(daemon)
    assert path == address_file(daemon.database)
    assert json.loads(path.read_text()) == {"socket": str(daemon.socket_path), "pid": daemon.pid}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_address(daemon.database) == Address(str(daemon.socket_path), daemon.pid)
    assert daemon.stop() == 0
    assert not path.exists()
    assert list(path.parent.glob("*.new")) == []


def test_file_of_a_killed_daemon_counts_for_nothing_and_is_replaced(daemon: DaemonProcess) -> None:
    before = daemon.pid
    daemon.kill()
    assert json.loads(written(daemon).read_text())["pid"] == before
    assert read_address(daemon.database) is None
    inode = written(daemon).stat().st_ino
    daemon.start()
    assert written(daemon).stat().st_ino != inode, "it is replaced, not overwritten"
    assert read_address(daemon.database) == Address(str(daemon.socket_path), daemon.pid)


def test_half_written_file_of_a_killed_daemon_is_removed(make_daemon: Make) -> None:
    daemon = make_daemon()
    daemon.state.mkdir(parents=True, exist_ok=True)
    left = daemon.state / ".nexus.db.address.new"
    left.write_text("{")
    daemon.start()
    assert not left.exists()
    assert read_address(daemon.database) == Address(str(daemon.socket_path), daemon.pid)


@pytest.mark.parametrize("link", [False, True])
def test_database_of_another_name_has_a_file_of_its_own(make_daemon: Make, root: Path, link: bool) -> None:
    folder = root / "it's a folder"
    folder.mkdir(mode=0o700)
    database, socket = folder / "other.db", folder / "my 'own'.sock"
    named = root / "link.db" if link else database
    if link:
        named.symlink_to(database)
    daemon = make_daemon("--db", str(named), "--socket", str(socket)).start()
    assert read_address(named) == Address(str(socket), daemon.pid)
    assert (folder / ".other.db.address").exists()
    assert read_address(daemon.database) is None


def spoiled(path: Path, how: str) -> None:
    """Make the file one that must not be believed."""
    text = path.read_text()
    if how == "writable by others":
        path.chmod(0o606)
    elif how == "writable by a group":
        path.chmod(0o660)
    elif how == "of another user":
        os.chown(path, 4711, 4711)
    elif how == "a link":
        path.rename(path.with_name("real"))
        path.symlink_to("real")
    elif how == "a pipe":
        path.unlink()
        os.mkfifo(path, 0o600)
    elif how == "of another process":
        path.write_text(text.replace(str(json.loads(text)["pid"]), str(os.getpid())))
    elif how == "no JSON":
        path.write_text("{")
    elif how == "deep":
        path.write_text("[" * 10_000)
    elif how == "another shape":
        path.write_text(json.dumps([1]))
    elif how == "a relative socket":
        path.write_text(json.dumps(json.loads(text) | {"socket": "nexus.sock"}))
    elif how == "no pid":
        path.write_text(json.dumps(json.loads(text) | {"pid": True}))
    else:
        raise AssertionError(how)


SPOILED = [
    *("writable by others", "writable by a group", "a link", "a pipe", "of another process", "no JSON", "deep"),
    *("another shape", "a relative socket", "no pid"),
]


@pytest.mark.parametrize("how", SPOILED)
def test_file_that_others_could_have_made_or_that_is_wrong_is_ignored(daemon: DaemonProcess, how: str) -> None:
    spoiled(written(daemon), how)
    assert read_address(daemon.database) is None


@pytest.mark.parametrize("what", ["address", "lock"])
def test_file_of_another_user_is_ignored(daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    owner = os.geteuid()
    if owner == 0:
        path = written(daemon) if what == "address" else daemon.database.with_name("nexus.db.lock")
        os.chown(path, 4711, 4711)
    else:
        monkeypatch.setattr("os.geteuid", lambda: owner + 1)  # the files belong to another than the reader
    assert read_address(daemon.database) is None


def test_second_daemon_on_the_database_is_told_where_the_first_listens(
    daemon: DaemonProcess, make_daemon: Make, root: Path
) -> None:
    code, output = make_daemon("--socket", str(root / "run" / "other.sock")).run_to_failure()
    assert code == 1
    assert output.endswith(
        f"a daemon uses it already (pid {daemon.pid})\n"
        f"  It listens on {daemon.socket_path}: nexusctl --socket {daemon.socket_path} status\n"
        "  Give another database: nexusd --db PATH\n"
    )
    assert read_address(daemon.database) == Address(str(daemon.socket_path), daemon.pid), "the loser leaves it alone"


def test_start_with_a_file_that_cannot_be_written_works_with_a_warning(make_daemon: Make) -> None:
    daemon = make_daemon()
    (daemon.state / ".nexus.db.address.new").mkdir(parents=True)  # root would ignore modes
    daemon.start()
    assert "cannot write" in daemon.log()
    assert not written(daemon).exists()
    assert daemon.stop() == 0


_SIGNALLED = """
import os, signal, sys
import nexus.address
act = nexus.address.write_address

def acting(*arguments):
    act(*arguments)
    os.kill(os.getpid(), signal.SIGTERM)

nexus.address.write_address = acting
from nexus.daemon.main import run
sys.exit(run([]))
"""


def test_signal_right_after_the_file_was_written_leaves_no_file(make_daemon: Make) -> None:
    daemon = make_daemon()
    daemon.command = lambda: [sys.executable, "-c", _SIGNALLED]  # type: ignore[method-assign]
    code, output = daemon.run_to_failure()
    assert (code, "Traceback" in output) == (0, False), output
    assert not written(daemon).exists()


_PASSED = """
import os, socket, sys
os.set_inheritable(int(sys.argv[1]), True)
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_passed_socket_is_written_with_the_path_to_which_it_was_bound(make_daemon: Make, root: Path) -> None:
    import socket

    daemon = make_daemon()
    path = root / "passed.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(4)
        process = subprocess.Popen(
            [sys.executable, "-c", _PASSED, str(listener.fileno()), *daemon.command()],
            env=daemon.environment,
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: read_address(daemon.database) is not None, "the file")
            assert read_address(daemon.database) == Address(str(path), process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
    assert not written(daemon).exists()
    assert path.exists(), "the socket's file belongs to the service manager"
