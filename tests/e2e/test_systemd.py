"""The units under a real user manager: activation, readiness, watchdog, restart, reload, and nexusctl's verbs."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.raw import frame, wait_until
from support.systemd import UserManager, user_manager

from nexus.client import BlockingClient
from nexus.system.commands import GetSystemStatus, Hello, Ping

UNITS = Path(__file__).parents[2] / "systemd"
SERVICE, SOCKET = "nexus.service", "nexus.socket"


@pytest.fixture(scope="module")
def session() -> Iterator[UserManager]:
    """A user manager for all tests of the module."""
    with user_manager() as running:
        yield running


@pytest.fixture
def manager(session: UserManager) -> Iterator[UserManager]:
    """The manager without any units of Nexus; units and state of the test are removed after it."""
    yield session
    session.run("nexusctl", "daemon", "stop", check=False)
    session.systemctl("disable", SERVICE, SOCKET, check=False)
    shutil.rmtree(session.units, ignore_errors=True)
    for name in ("state", "broken", "home/.config/nexus"):
        shutil.rmtree(session.root / name, ignore_errors=True)
    session.systemctl("daemon-reload")
    session.systemctl("reset-failed")


@pytest.fixture
def installed(manager: UserManager) -> UserManager:
    """The manager after ``nexusctl daemon install``, with a running daemon."""
    manager.run("nexusctl", "daemon", "install")
    return manager


def main_pid(manager: UserManager) -> int:
    """The daemon's pid inside the namespace; 0 while none runs."""
    return int(manager.show(SERVICE, "MainPID"))


def kill_daemon(manager: UserManager, number: signal.Signals) -> int:
    """Send a signal to the daemon; return its pid inside the namespace."""
    pid = main_pid(manager)
    assert pid
    manager.run("kill", f"-{number.value}", str(pid))
    return pid


def replaced(manager: UserManager, pid: int) -> bool:
    """Whether a daemon with another pid is active."""
    return main_pid(manager) not in (0, pid) and manager.show(SERVICE, "ActiveState") == "active"


def test_units_pass_systemd_analyze_verify(manager: UserManager) -> None:
    program = manager.root / "home" / ".local" / "bin" / "nexusd"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.symlink_to("/bin/true")
    try:
        done = manager.run("systemd-analyze", "--user", "verify", str(UNITS / SERVICE), str(UNITS / SOCKET))
    finally:
        program.unlink()
    assert (done.stdout, done.stderr) == ("", "")


def test_install_writes_enables_and_starts_both_units(manager: UserManager) -> None:
    done = manager.run("nexusctl", "daemon", "install")
    nexusd = shutil.which("nexusd", path=manager.environment["PATH"])
    pid = main_pid(manager)
    assert done.stdout.splitlines() == [
        f"Installed {manager.units / SOCKET}",
        f"Installed {manager.units / SERVICE}",
        f"Enabled and started nexus.socket and nexus.service (pid {pid})",
    ]
    assert f'ExecStart="{nexusd}"\n' in (manager.units / SERVICE).read_text()
    for unit in (SERVICE, SOCKET):
        assert manager.systemctl("is-enabled", unit) == "enabled"
        assert manager.systemctl("is-active", unit) == "active"
    done = manager.run("systemd-analyze", "--user", "verify", str(manager.units / SERVICE), str(manager.units / SOCKET))
    assert (done.stdout, done.stderr) == ("", "")
    # A second install, as after an upgrade, writes the units again and restarts the daemon.
    manager.run("nexusctl", "daemon", "install")
    assert replaced(manager, pid)


def test_first_connection_starts_the_daemon(installed: UserManager) -> None:
    installed.systemctl("stop", SERVICE)
    assert installed.show(SERVICE, "ActiveState") == "inactive"
    done = installed.run("nexusctl", "vm", "create", "first")
    assert done.stdout == 'Created VM "first" (state: created, CID: 3)\n'
    assert installed.show(SERVICE, "ActiveState") == "active"
    status = json.loads(installed.run("nexusctl", "daemon", "status", "-o", "json").stdout)
    assert (status["pid"], status["manager"]) == (main_pid(installed), "systemd (nexus.service)")


def test_restarts_lose_no_connection(installed: UserManager) -> None:
    stop = threading.Event()
    answered: list[int] = []
    lost: list[BaseException] = []
    path = installed.socket_path

    def connect_repeatedly() -> None:
        while not stop.is_set():
            try:
                with BlockingClient(path) as client:
                    client.call(Ping(b"x"))
                answered.append(1)
            except Exception as error:
                lost.append(error)

    callers = [threading.Thread(target=connect_repeatedly) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        for turn in range(1, 5):
            before = main_pid(installed)
            installed.systemctl("restart", SERVICE)
            assert replaced(installed, before)
            seen = len(answered)
            wait_until(lambda seen=seen: len(answered) >= seen + 50, f"50 connections after restart {turn}")
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    assert not lost, (len(answered), lost)
    assert len(answered) >= 200


@pytest.mark.slow
def test_watchdog_replaces_a_stopped_daemon(installed: UserManager) -> None:
    installed.drop_in(SERVICE, "[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\nRestartSec=100ms\n")
    installed.systemctl("restart", SERVICE)
    pid = kill_daemon(installed, signal.SIGSTOP)
    wait_until(lambda: replaced(installed, pid), "a new daemon")
    assert installed.show(SERVICE, "NRestarts") == "1"
    assert installed.run("nexusctl", "status").returncode == 0


def test_killed_daemon_is_restarted(installed: UserManager) -> None:
    installed.run("nexusctl", "vm", "create", "kept")
    pid = kill_daemon(installed, signal.SIGKILL)
    wait_until(lambda: replaced(installed, pid), "a new daemon")
    assert installed.run("nexusctl", "vm", "list", "-o", "name").stdout == "kept\n"


def test_reload_applies_new_limits_to_the_running_daemon(installed: UserManager) -> None:
    pid = main_pid(installed)
    config = installed.root / "home" / ".config" / "nexus" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("[limits]\nrequests_per_connection = 7\n")
    installed.systemctl("reload", SERVICE)

    def applied() -> bool:
        with BlockingClient(installed.socket_path) as client:
            return client.call(Hello(client="test")).limits["requests_per_connection"] == 7

    wait_until(applied, "the new limit")
    assert main_pid(installed) == pid
    wait_until(lambda: installed.show(SERVICE, "ActiveState") == "active", "the reload to end")


def test_stop_start_restart_and_status_act_on_the_units(installed: UserManager) -> None:
    assert installed.run("nexusctl", "daemon", "stop").stdout == "Stopped the daemon (nexus.socket, nexus.service)\n"
    for unit in (SERVICE, SOCKET):
        assert installed.show(unit, "ActiveState") == "inactive"
    done = installed.run("nexusctl", "status", check=False)
    assert done.returncode == 3
    assert done.stderr == (
        "Error: cannot connect to Nexus daemon at /run/user/0/nexus/nexus.sock\n"
        "  The daemon does not appear to be running.\n\n"
        "  Start it: systemctl --user start nexus.service\n"
    )
    assert installed.run("nexusctl", "daemon", "status", check=False).returncode == 3
    assert installed.show(SERVICE, "ActiveState") == "inactive"
    assert installed.run("nexusctl", "daemon", "stop").stdout == "The daemon is not running\n"

    started = installed.run("nexusctl", "daemon", "start")
    assert started.stdout == f"Started the daemon (pid {main_pid(installed)}, nexus.service)\n"
    again = installed.run("nexusctl", "daemon", "start")
    assert again.stdout == f"The daemon is already running (pid {main_pid(installed)}, /run/user/0/nexus/nexus.sock)\n"
    status = installed.run("nexusctl", "daemon", "status")
    assert f"Daemon:  running (pid {main_pid(installed)})\n" in status.stdout
    assert "Manager: systemd (nexus.service)\n" in status.stdout

    before = main_pid(installed)
    restarted = installed.run("nexusctl", "daemon", "restart")
    assert restarted.stdout == f"Restarted the daemon (pid {main_pid(installed)}, nexus.service)\n"
    assert main_pid(installed) != before

    installed.systemctl("stop", SERVICE)
    started = installed.run("nexusctl", "daemon", "start")
    assert started.stdout == f"Started the daemon (pid {main_pid(installed)}, nexus.service)\n"
    refused = installed.run("nexusctl", "daemon", "start", "--log-level", "debug", check=False)
    assert refused.returncode == 0  # it runs already: the option is not used


@pytest.mark.parametrize("runtime", ["-uXDG_RUNTIME_DIR", "XDG_RUNTIME_DIR=/nowhere"])
def test_shell_without_the_runtime_directory_acts_on_the_units(installed: UserManager, runtime: str) -> None:
    # As after su, from cron, and in a terminal multiplexer of an earlier session.
    pid = main_pid(installed)
    status = installed.run("env", runtime, "nexusctl", "daemon", "status").stdout
    assert f"Daemon:  running (pid {pid})\n" in status
    assert "Manager: systemd (nexus.service)\n" in status
    again = installed.run("env", runtime, "nexusctl", "daemon", "start").stdout
    assert again == f"The daemon is already running (pid {pid}, /run/user/0/nexus/nexus.sock)\n"
    stopped = installed.run("env", runtime, "nexusctl", "daemon", "stop").stdout
    assert stopped == "Stopped the daemon (nexus.socket, nexus.service)\n"
    if runtime.startswith("-u"):
        done = installed.run("env", runtime, "nexusctl", "status", check=False)
        # There systemctl would refuse to act: it knows no bus.
        assert done.stderr.endswith("\n  Start it: nexusctl daemon start\n")
        started = installed.run("env", runtime, "nexusctl", "daemon", "start").stdout
        assert started == f"Started the daemon (pid {main_pid(installed)}, nexus.service)\n"


def test_daemon_start_with_log_level_is_refused_for_the_unit(installed: UserManager) -> None:
    installed.run("nexusctl", "daemon", "stop")
    done = installed.run("nexusctl", "daemon", "start", "--log-level", "debug", check=False)
    assert done.returncode == 2
    assert "config.toml" in done.stderr
    assert installed.show(SERVICE, "ActiveState") == "inactive"


def test_nexusd_started_by_hand_does_not_take_the_socket_of_systemd(installed: UserManager) -> None:
    installed.systemctl("stop", SERVICE)
    done = installed.run("nexusd", check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "nexusd: cannot listen on /run/user/0/nexus/nexus.sock: the service manager listens there\n"
        "  Let it start the daemon: systemctl --user start nexus.service\n"
    )
    assert installed.show(SERVICE, "ActiveState") == "inactive"
    assert installed.run("nexusctl", "status").returncode == 0


def test_daemon_that_cannot_start_reports_the_reason_to_its_clients(installed: UserManager) -> None:
    installed.systemctl("stop", SERVICE)
    broken = installed.root / "broken"
    broken.mkdir()
    (broken / "config.toml").write_text("[daemon]\nlog_levle = 'info'\n")
    # Set for the daemon alone: nexusctl would report a broken file of its own.
    installed.drop_in(SERVICE, f"[Service]\nEnvironment=NEXUS_CONFIG_DIR={broken}\n")
    sentence = f"the daemon cannot start: cannot use {broken}/config.toml, line 2: unknown key daemon.log_levle"
    done = installed.run("nexusctl", "status", check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines()[0] == f"Error: {sentence}"
    # Only a user can fix it: systemd does not retry, and the socket keeps listening.
    wait_until(lambda: installed.show(SERVICE, "ActiveState") == "failed", "the service to be failed")
    assert installed.show(SOCKET, "ActiveState") == "active"

    # "daemon start" reports the same, and leaves no unit that retries.
    installed.run("nexusctl", "daemon", "stop")
    done = installed.run("nexusctl", "daemon", "start", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[0] == f"Error: {sentence}"
    assert installed.show(SOCKET, "ActiveState") == "inactive"
    assert installed.show(SERVICE, "ActiveState") in ("inactive", "failed")

    (broken / "config.toml").write_text("")
    installed.run("nexusctl", "daemon", "start")
    assert installed.run("nexusctl", "status").returncode == 0


def test_idle_exit_and_socket_activation_repeat_without_failure(installed: UserManager) -> None:
    nexusd = shutil.which("nexusd", path=installed.environment["PATH"])
    installed.drop_in(SERVICE, f"[Service]\nExecStart=\nExecStart={nexusd} --idle-exit 0.05\n")
    installed.systemctl("restart", SERVICE)
    pids = set()
    for _ in range(8):
        with BlockingClient(installed.socket_path) as client:
            pids.add(client.call(GetSystemStatus()).pid)
        wait_until(lambda: installed.show(SERVICE, "ActiveState") == "inactive", "the idle exit")
        assert installed.show(SERVICE, "Result") == "success"
    assert len(pids) == 8
    assert installed.show(SOCKET, "SubState") == "listening"
    assert installed.show(SOCKET, "Result") == "success"


def test_uninstall_stops_the_daemon_and_removes_the_units(installed: UserManager) -> None:
    refused = installed.run("nexusctl", "daemon", "uninstall", check=False)
    assert refused.returncode == 1
    assert refused.stderr == (
        "Error: refusing to remove the units without confirmation\n"
        "  Run with --yes to skip confirmation: nexusctl daemon uninstall --yes\n"
    )
    assert installed.show(SERVICE, "ActiveState") == "active"
    installed.run("nexusctl", "daemon", "uninstall", "--yes")
    assert not [path for path in installed.units.rglob("*") if not path.is_dir()]
    assert installed.show(SERVICE, "LoadState") == "not-found"
    assert installed.run("nexusctl", "status", check=False).returncode == 3
    assert (installed.root / "state" / "nexus" / "nexus.db").exists()
    assert installed.run("nexusctl", "daemon", "uninstall", "--yes").stdout == "The units are not installed\n"


def test_install_is_refused_while_a_daemon_without_systemd_runs(manager: UserManager) -> None:
    manager.run("nexusctl", "daemon", "start")
    done = manager.run("nexusctl", "daemon", "install", check=False)
    assert done.returncode == 5
    assert "a daemon that systemd did not start is running" in done.stderr
    assert not manager.units.exists()
    manager.run("nexusctl", "daemon", "stop")
    manager.run("nexusctl", "daemon", "install")


def test_child_processes_survive_a_restart_of_the_unit(installed: UserManager) -> None:
    # KillMode=process spares processes of the service's cgroup other than its main process.
    procs = f"/sys/fs/cgroup{installed.show(SERVICE, 'ControlGroup')}/cgroup.procs"
    script = f"sleep 600 >/dev/null 2>&1 & echo $! > {procs} && echo $!"
    pid = installed.run("/bin/sh", "-c", script).stdout.strip()
    try:
        installed.systemctl("restart", SERVICE)
        assert installed.run("kill", "-0", pid, check=False).returncode == 0
    finally:
        installed.run("kill", pid, check=False)


def test_user_manager_leaves_no_mounts_and_no_cgroup(session: UserManager, root: Path) -> None:
    mounts = Path("/proc/self/mounts").read_text()
    another = UserManager(root)
    assert another.cgroup.is_dir()
    pid = another.run("/bin/sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!").stdout.strip()
    assert another.run("kill", "-0", pid).returncode == 0
    another.close()
    assert not another.cgroup.exists()  # so it was empty
    assert Path("/proc/self/mounts").read_text() == mounts


def test_dial_stdio_starts_the_daemon_by_its_socket_unit(installed: UserManager) -> None:
    installed.run("nexusctl", "daemon", "stop")
    assert installed.run("nexusctl", "status", check=False).returncode == 3
    done = subprocess.run(
        installed.command("nexusctl", "dial-stdio"),
        env=installed.environment,
        input=frame(Ping(), 1),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"NEX\0")
    assert main_pid(installed)
