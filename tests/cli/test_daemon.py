"""``nexusctl daemon`` without a systemd user manager: a detached process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.cli import Cli
from support.raw import wait_until


def pid_of(cli: Cli) -> int:
    """The pid of the running daemon."""
    return int(cli.ok("daemon", "status", "-o", "json").json["pid"])


def gone(pid: int) -> bool:
    """Whether the process has exited; a zombie counts, since its parent may not have reaped it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_daemon_start_and_stop_are_idempotent(lonely: Cli, root: Path) -> None:
    path = root / "run" / "nexus" / "nexus.sock"
    assert lonely("daemon", "stop") == (0, "The daemon is not running\n", "")
    started = lonely("daemon", "start")
    pid = pid_of(lonely)
    assert started.code == 0
    assert started.out == f"Started the daemon (pid {pid}, {path})\n"
    assert started.err == f"\n  Its log: {root}/state/nexus/nexusd.log\n"
    assert lonely("daemon", "start") == (0, f"The daemon is already running (pid {pid}, {path})\n", "")
    assert lonely("daemon", "stop") == (0, f"Stopped the daemon (pid {pid})\n", "")
    assert gone(pid)
    assert not path.exists()
    assert lonely("daemon", "stop") == (0, "The daemon is not running\n", "")


def test_daemon_stop_lists_running_services_and_how_to_stop_them(lonely: Cli) -> None:
    lonely.ok("daemon", "start")
    lonely.ok("service", "add", "one", "--run", "exec sleep 1000", "--start")
    code, out, err = lonely("daemon", "stop")
    assert (code, out.startswith("Stopped the daemon (pid ")) == (0, True)
    assert err == (
        "\n  1 service keeps running without it. To stop services too, run this before stopping the daemon:\n"
        "  nexusctl service stop --all -A\n"
    )
    lonely.ok("daemon", "start")
    assert lonely.ok("service", "list", "--state", "running", "-o", "name").lines == ["one"]
    lonely.ok("service", "stop", "--all")
    assert lonely("daemon", "stop").err == ""


def test_daemon_start_detaches_the_process(lonely: Cli) -> None:
    lonely.ok("daemon", "start")
    pid = pid_of(lonely)
    assert os.getsid(pid) == pid
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    assert Path(f"/proc/{pid}/fd/0").readlink() == Path("/dev/null")
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"\0NEXUSCTL" not in environment
    assert {Path(f"/proc/{pid}/fd/{n}").readlink().name for n in (1, 2)} == {"nexusd.log"}


def test_daemon_status_has_an_exit_code_for_scripts(lonely: Cli, root: Path) -> None:
    path = root / "run" / "nexus" / "nexus.sock"
    stopped = lonely("daemon", "status")
    assert stopped == (3, f"Daemon: stopped ({path})\n", "\n  Start it: nexusctl daemon start\n")
    assert lonely("daemon", "status", "-o", "json").json == {"state": "stopped", "socket": str(path)}
    lonely.ok("daemon", "start")
    running = lonely("daemon", "status")
    assert (running.code, running.err) == (0, "")
    assert running.lines[:3] == [f"Daemon:  running (pid {pid_of(lonely)})", "Health:  ok", f"Socket:  {path}"]
    assert "Manager: none (a detached process)" in running.lines


def test_daemon_start_passes_its_options_to_the_daemon(lonely: Cli, root: Path) -> None:
    config = root / "other.toml"
    config.write_text(f'[database]\npath = "{root}/other.db"\n')
    path = root / "other.sock"
    try:
        lonely.ok("daemon", "start", "--socket", str(path), "--config", str(config), "--log-level", "debug")
        assert lonely.ok("--socket", str(path), "status").lines[1] == f"Database: {root}/other.db"
    finally:
        lonely("daemon", "stop", "--socket", str(path))
    assert not path.exists()


@pytest.mark.parametrize("what", ["database", "configuration", "socket"])
def test_daemon_start_failure_prints_the_cause_and_leaves_nothing_behind(lonely: Cli, root: Path, what: str) -> None:
    temporary = root / "tmp"
    temporary.mkdir()
    environment = {"TMPDIR": str(temporary)}
    if what == "database":
        (root / "damaged.db").write_bytes(b"not a database" * 1000)
        environment["NEXUS_DATABASE"] = str(root / "damaged.db")
        sentence = f"Error: cannot open database {root}/damaged.db: the file is damaged"
    elif what == "configuration":
        (root / "config" / "nexus").mkdir()
        (root / "config" / "nexus" / "config.toml").write_text("[daemon]\nsockte = 1\n")
        sentence = f"Error: cannot use {root}/config/nexus/config.toml, line 2: unknown key daemon.sockte"
    else:
        (root / "file").touch()
        environment["NEXUS_SOCKET"] = str(root / "file")
        sentence = f"Error: cannot listen on {root}/file: something that is not a socket is there\n"
    result = lonely("daemon", "start", **environment)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(sentence)
    hint = result.err.splitlines()[1]
    assert hint.startswith("  ")
    assert hint[2] != " "
    assert not list(temporary.iterdir())
    assert not (root / "run" / "nexus" / "nexus.sock").exists()
    mine = [p for p in Path("/proc").glob("[0-9]*/environ") if _mentions(p, root)]
    assert not mine


def _mentions(environ: Path, root: Path) -> bool:
    try:
        return str(root).encode() in environ.read_bytes() and environ.parent.name != str(os.getpid())
    except OSError:
        return False


def test_detached_daemon_log_is_bounded(lonely: Cli, root: Path) -> None:
    log = root / "state" / "nexus" / "nexusd.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"old line\n" * 600_000)
    lonely.ok("daemon", "start", "--log-level", "debug")
    wait_until(lambda: log.with_name("nexusd.log.1").exists(), "the second log")
    assert log.stat().st_size < 100_000
    lonely.ok("daemon", "stop")
    assert "stopped" in log.read_text()
    assert sorted(path.name for path in log.parent.glob("nexusd.log*")) == ["nexusd.log", "nexusd.log.1"]


def test_concurrent_daemon_starts_give_one_daemon(lonely: Cli) -> None:
    starts = [lonely.start("daemon", "start") for _ in range(3)]
    results = [(start.communicate(timeout=60), start.returncode) for start in starts]
    pid = pid_of(lonely)
    assert any(f"Started the daemon (pid {pid}".encode() in out for (out, _err), _code in results)
    for (out, err), code in results:
        # The later starts wait until the first daemon replies.
        assert (code, f"pid {pid}".encode() in out) == (0, True), err


def test_daemon_restart_replaces_the_process(lonely: Cli) -> None:
    assert lonely.ok("daemon", "restart").out.startswith("Started the daemon (pid ")
    before = pid_of(lonely)
    restarted = lonely.ok("daemon", "restart").lines
    after = pid_of(lonely)
    assert restarted[0] == f"Stopped the daemon (pid {before})"
    assert restarted[1].startswith(f"Started the daemon (pid {after}, ")
    assert gone(before)


def test_daemon_install_needs_a_user_manager(lonely: Cli) -> None:
    for words in (["install"], ["uninstall", "--yes"]):
        result = lonely("daemon", *words)
        assert (result.code, result.out) == (1, "")
        assert result.err.endswith(
            "no systemd user manager is running\n  Start the daemon without one: nexusctl daemon start\n"
        )
