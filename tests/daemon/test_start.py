"""Refused starts: each gives one sentence, a hint and an exit code, and never a traceback."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.daemon import DaemonProcess
from support.raw import RawClient, connect, wait_until

from nexus.system.commands import GetSystemStatus, Ping

Make = Callable[..., DaemonProcess]


EX_CONFIG = 78


def refusal(daemon: DaemonProcess, exit_code: int = 1) -> str:
    """Run a daemon that must fail to start; return its message."""
    code, output = daemon.run_to_failure()
    assert code == exit_code, output
    assert "Traceback" not in output
    # Lines of the log may come before the message.
    said = output[output.index("nexusd: ") :]
    sentence, _, hint = said.partition("\n  ")
    assert sentence.startswith("nexusd: cannot "), said
    assert hint.strip(), f"no hint: {said}"
    return said


@contextlib.contextmanager
def read_only(daemon: DaemonProcess, directory: Path) -> Iterator[None]:
    """Make a directory read-only for the daemon: by its mode, or, since root ignores modes, by a mount."""
    if os.geteuid() != 0:
        directory.chmod(0o500)
        yield
        directory.chmod(0o700)
        return
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("mount namespaces are not allowed here")
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    command = daemon.command()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(daemon, "command", lambda: ["unshare", "-m", "sh", "-c", script, str(directory), *command])
        yield


def test_second_daemon_is_refused_with_the_pid_of_the_first(daemon: DaemonProcess, make_daemon: Make) -> None:
    said = refusal(make_daemon())
    assert f"pid {daemon.pid}" in said
    assert said.endswith(f"\n  See it: nexusctl --socket {daemon.socket_path} daemon status\n")
    with RawClient(daemon.socket_path) as client:
        assert client.call(GetSystemStatus()).pid == daemon.pid


def test_second_daemon_on_the_same_database_is_refused_with_the_pid_of_the_first(
    daemon: DaemonProcess, make_daemon: Make, root: Path
) -> None:
    other = root / "run" / "nexus" / "other.sock"
    said = refusal(make_daemon("--socket", str(other)))
    assert f"pid {daemon.pid}" in said
    assert str(daemon.database) in said
    assert not other.exists()
    with RawClient(daemon.socket_path) as client:
        assert client.call(Ping(b"x")).payload == b"x"


def test_one_of_several_daemons_started_at_once_runs(make_daemon: Make) -> None:
    daemons = [make_daemon() for _ in range(4)]
    processes = [
        subprocess.Popen(
            daemon.command(), env=daemon.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for daemon in daemons
    ]
    try:
        wait_until(lambda: sum(process.poll() is not None for process in processes) >= 3, "the end of all but one")
        assert sorted(str(process.poll()) for process in processes) == ["1", "1", "1", "None"]
        (winner,) = [process for process in processes if process.poll() is None]
        with connect(daemons[0]) as client:
            assert client.call(GetSystemStatus()).pid == winner.pid
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
            output, _ = process.communicate(timeout=30)
            assert "Traceback" not in output


def test_stale_socket_file_is_replaced(daemon: DaemonProcess) -> None:
    daemon.kill()
    assert stat.S_ISSOCK(daemon.socket_path.lstat().st_mode), "kill -9 leaves the file"
    daemon.start()
    with RawClient(daemon.socket_path) as client:
        assert client.call(GetSystemStatus()).pid == daemon.pid


def test_file_that_is_no_socket_is_refused_and_kept(make_daemon: Make) -> None:
    daemon = make_daemon()
    daemon.socket_path.parent.mkdir(mode=0o700)
    daemon.socket_path.write_text("precious")
    assert "something that is not a socket" in refusal(daemon)
    assert daemon.socket_path.read_text() == "precious"


def test_socket_of_another_listener_is_refused_and_kept(make_daemon: Make) -> None:
    daemon = make_daemon()
    daemon.socket_path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(daemon.socket_path))
        other.listen(1)
        said = refusal(daemon)
        assert "listens there" in said
        assert "systemctl --user start" in said
        assert daemon.socket_path.exists()
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()  # the daemon did not connect to it


def test_longest_socket_path_works_and_one_byte_more_is_refused(make_daemon: Make, root: Path) -> None:
    base = root / "run"
    room = 107 - len(os.fsencode(base)) - 1
    fits, too_long = base / ("s" * room), base / ("s" * (room + 1))
    daemon = make_daemon("--socket", str(too_long))
    said = refusal(daemon)
    assert "108 bytes" in said
    assert "107" in said
    daemon = make_daemon("--socket", str(fits))
    daemon.socket_path = fits
    daemon.start()
    with RawClient(fits) as client:
        assert client.call(Ping(b"x")).payload == b"x"
    assert daemon.stop() == 0
    assert not fits.exists()


def test_relative_runtime_directory_is_refused(make_daemon: Make) -> None:
    daemon = make_daemon(environment={"XDG_RUNTIME_DIR": "run/here"})
    daemon.environment["XDG_RUNTIME_DIR"] = "run/here"
    said = refusal(daemon)
    assert "XDG_RUNTIME_DIR run/here" in said
    assert "not an absolute path" in said


@pytest.mark.parametrize("variable", ["NEXUS_SOCKET", "NEXUS_DATABASE", "NEXUS_CONFIG_DIR"])
def test_relative_path_in_the_environment_is_refused(make_daemon: Make, variable: str) -> None:
    said = refusal(make_daemon(environment={variable: "here/it-is"}))
    assert f"{variable} here/it-is: it is not an absolute path" in said


@pytest.mark.parametrize("problem", ["missing", "a file", "writable by others", "writable by a group"])
def test_untrusted_runtime_directory_is_refused(make_daemon: Make, root: Path, problem: str) -> None:
    daemon = make_daemon()
    run = root / "run"
    if problem == "missing":
        run.rmdir()
    elif problem == "a file":
        run.rmdir()
        run.write_text("")
    else:
        run.chmod(0o707 if problem == "writable by others" else 0o770)
    assert f"XDG_RUNTIME_DIR {run}" in refusal(daemon)
    if run.is_dir():
        assert list(run.iterdir()) == []


def test_unwritable_runtime_directory_is_refused(make_daemon: Make, root: Path) -> None:
    daemon = make_daemon()
    with read_only(daemon, root / "run"):
        assert str(root / "run" / "nexus") in refusal(daemon)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_runtime_directory_of_another_user_is_refused(make_daemon: Make, root: Path) -> None:
    daemon = make_daemon()
    os.chown(root / "run", 4711, 4711)
    assert "belongs to user 4711" in refusal(daemon)


def test_missing_runtime_directory_gives_a_private_one_and_a_warning(make_daemon: Make, root: Path) -> None:
    daemon = make_daemon()
    del daemon.environment["XDG_RUNTIME_DIR"]
    if Path(f"/run/user/{os.geteuid()}").exists():
        if os.geteuid() != 0:
            pytest.skip("this user has a /run/user directory, which is used instead")
        command = daemon.command()
        hidden = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /run/user && exec "$0" "$@"', *command]
        daemon.command = lambda: hidden  # type: ignore[method-assign]
    daemon.start()
    path = root / "state" / "nexus" / "run" / "nexus" / "nexus.sock"
    with RawClient(path) as client:
        assert client.call(Ping(b"x")).payload == b"x"
    assert "XDG_RUNTIME_DIR is not set" in daemon.log()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) & 0o077 == 0


def test_socket_and_database_are_private_under_umask_0(make_daemon: Make) -> None:
    daemon = make_daemon()
    old = os.umask(0)
    try:
        daemon.start()
    finally:
        os.umask(old)
    assert stat.S_IMODE(daemon.socket_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(daemon.socket_path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(daemon.database.stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE(daemon.state.stat().st_mode) == 0o700


def test_socket_directory_with_loose_modes_is_made_private(make_daemon: Make) -> None:
    daemon = make_daemon()
    daemon.socket_path.parent.mkdir()
    daemon.socket_path.parent.chmod(0o755)
    daemon.start()
    assert stat.S_IMODE(daemon.socket_path.parent.stat().st_mode) == 0o700


def test_unwritable_database_is_refused_and_unchanged(make_daemon: Make, root: Path) -> None:
    daemon = make_daemon().start()
    assert daemon.stop() == 0
    before = daemon.database.read_bytes()
    with read_only(daemon, daemon.state):
        assert str(daemon.state) in refusal(daemon)
    assert daemon.database.read_bytes() == before
    assert daemon.start().stop() == 0


CONFIGS = [
    ('[daemon]\nlog_level = "loud"\n', 2, "daemon.log_level"),
    ("[limits]\n\nconnections = 0\n", 3, "limits.connections"),
    ('[limits]\nconnections = "many"\n', 2, "limits.connections"),
    ("[limits]\nconnections = true\n", 2, "limits.connections"),
    ("[limits]\nframe_timeout_s = 1.5\n", 2, "limits.frame_timeout_s"),
    ("# nothing\n[limits]\nconections = 5\n", 3, "limits.conections"),
    ("[deamon]\n", 1, "deamon"),
    ("colour = 1\n", 1, "colour"),
    ("limits = 3\n", 1, "limits"),
    ("[daemon]\ndrain_timeout_s = -1\n", 2, "daemon.drain_timeout_s"),
    ("[database]\npath = 7\n", 2, "database.path"),
    ("[daemon]\nlog_level = \n", 2, ""),
    ("[limits\n", 1, ""),
]


@pytest.mark.parametrize(("text", "line", "key"), CONFIGS, ids=[key or text for text, _, key in CONFIGS])
def test_invalid_configuration_error_names_file_line_and_key(make_daemon: Make, text: str, line: int, key: str) -> None:
    daemon = make_daemon(config=text)
    said = refusal(daemon, EX_CONFIG)  # so that the service manager does not restart it
    assert str(daemon.root / "config" / "nexus" / "config.toml") in said
    assert f"line {line}" in said
    assert key in said
    assert not daemon.socket_path.exists()


def test_missing_configuration_file_given_by_option_is_refused(make_daemon: Make, root: Path) -> None:
    assert str(root / "none.toml") in refusal(make_daemon("--config", str(root / "none.toml")), EX_CONFIG)


def test_configuration_that_is_not_utf8_is_refused(make_daemon: Make, root: Path) -> None:
    (root / "bad.toml").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refusal(make_daemon("--config", str(root / "bad.toml")), EX_CONFIG)


def test_log_file_that_cannot_be_created_is_refused(make_daemon: Make, root: Path) -> None:
    said = refusal(make_daemon("--log-file", str(root / "none" / "nexusd.log")))
    assert str(root / "none" / "nexusd.log") in said


def test_idle_exit_needs_a_passed_socket(make_daemon: Make) -> None:
    assert "--idle-exit" in refusal(make_daemon("--idle-exit", "5"))


@pytest.mark.parametrize(
    "arguments",
    [["--idle-exit", "0"], ["--idle-exit", "nan"], ["--idle-exit", "soon"], ["--log-level", "loud"], ["--sock", "x"]],
    ids=" ".join,
)
def test_invalid_option_error_names_the_option(make_daemon: Make, arguments: list[str]) -> None:
    code, output = make_daemon(*arguments).run_to_failure()
    assert code == 2
    assert "Traceback" not in output
    assert arguments[0] in output
    assert "_seconds" not in output


def test_log_file_has_all_lines_from_start_to_stop(make_daemon: Make, root: Path) -> None:
    path = root / "nexusd.log"
    daemon = make_daemon("--log-file", str(path)).start()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert daemon.stop() == 0
    assert "listening on" in path.read_text()
    assert path.read_text().rstrip().endswith("stopped")


@pytest.mark.parametrize("how", ["removed", "renamed", "replaced"])
def test_log_file_is_recreated_after_removal_or_rotation(make_daemon: Make, root: Path, how: str) -> None:
    path, aside = root / "nexusd.log", root / "aside.log"
    daemon = make_daemon("--log-file", str(path)).start()
    before = path.read_text()
    if how == "removed":
        path.unlink()
    else:
        path.rename(aside)
    if how == "replaced":
        path.write_text("a new file\n")
    assert daemon.stop() == 0
    text = path.read_text()
    assert "stopping: signal SIGTERM" in text
    assert text.startswith("a new file\n") == (how == "replaced")
    if how != "removed":
        taken = aside.read_text()
        assert taken.startswith(before)
        assert "stopping" not in taken


def test_removed_log_folder_does_not_stop_the_daemon(make_daemon: Make, root: Path) -> None:
    folder = root / "logs"
    folder.mkdir()
    daemon = make_daemon("--log-file", str(folder / "nexusd.log")).start()
    shutil.rmtree(folder)
    assert daemon.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_the_start_exits_0_and_leaves_no_socket(
    make_daemon: Make, root: Path, number: signal.Signals
) -> None:
    daemon = make_daemon().start()
    daemon.stop()
    with contextlib.closing(sqlite3.connect(daemon.database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")  # the start waits for this lock
        with daemon.log_path.open("ab") as log:
            process = subprocess.Popen(daemon.command(), env=daemon.environment, stdout=log, stderr=log)
        wait_until(daemon.socket_path.exists, "the socket")
        process.send_signal(number)
        assert process.wait(30) == 0
    assert not daemon.socket_path.exists()
    assert "Traceback" not in daemon.log()


_SIGNALLED = """
import os, signal, sys
from nexus.daemon.listener import OwnListener
from nexus.store.sqlite import SqliteStore

def signalled(kind, name):
    act = getattr(kind, name)

    def acting(self):
        result = act(self)
        os.kill(os.getpid(), signal.SIGTERM)
        return result

    setattr(kind, name, acting)

signalled({kind}, "{name}")
from nexus.daemon.main import run
sys.exit(run([]))
"""


@pytest.mark.parametrize(
    ("kind", "name"), [("OwnListener", "_bind"), ("OwnListener", "open"), ("SqliteStore", "start")]
)
def test_signal_right_after_a_step_of_the_start_exits_0_and_leaves_no_socket(
    make_daemon: Make, kind: str, name: str
) -> None:
    daemon = make_daemon()
    program = _SIGNALLED.format(kind=kind, name=name)
    daemon.command = lambda: [sys.executable, "-c", program]  # type: ignore[method-assign]
    code, output = daemon.run_to_failure()
    assert (code, "Traceback" in output) == (0, False), output
    assert not daemon.socket_path.exists()
