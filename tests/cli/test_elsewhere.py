"""A client that finds no daemon at the usual place finds that of its database: after su, from cron, in an old tmux."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.cli import Cli
from support.daemon import DaemonProcess

Make = Callable[..., DaemonProcess]


@pytest.fixture
def far(root: Path) -> Path:
    """A runtime directory that is not the clients' own, with a blank and a quote in its path."""
    path = root / "it's far"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def running(make_daemon: Make, far: Path) -> DaemonProcess:
    """A daemon that was started with another runtime directory."""
    daemon = make_daemon(environment={"XDG_RUNTIME_DIR": str(far)})
    daemon.environment["XDG_RUNTIME_DIR"] = str(far)
    daemon.socket_path = far / "nexus" / "nexus.sock"
    return daemon.start()


RUNTIME = ["not set", "empty", "another", "not there", "a file", "not ours", "relative"]


def set_runtime(environment: dict[str, str], root: Path, kind: str) -> None:
    """Give an environment one of the runtime directories that the daemon does not have."""
    own = root / "run"
    if kind in ("not set", "empty") and Path(f"/run/user/{os.geteuid()}/nexus").exists():
        kind = "not there"  # the user who runs the tests has a daemon of their own at the usual place
    if kind == "not set":
        del environment["XDG_RUNTIME_DIR"]
        return
    value = {"empty": "", "another": str(own), "not there": str(root / "none"), "relative": "run"}.get(kind, str(own))
    if kind == "a file":
        shutil.rmtree(own)
        own.touch()
    elif kind == "not ours":
        own.chmod(0o777)  # no better than that of another user, who only root could make
    environment["XDG_RUNTIME_DIR"] = value


@pytest.fixture(params=RUNTIME)
def astray(request: pytest.FixtureRequest, running: DaemonProcess, root: Path) -> Cli:
    """nexusctl in an environment in which the daemon's socket is not at the usual place."""
    environment = dict(running.environment)
    set_runtime(environment, root, request.param)
    return Cli(environment)


def test_every_verb_reaches_the_running_daemon(astray: Cli, running: DaemonProcess) -> None:
    assert astray.ok("status").lines[0] == f"Daemon: ok ({running.socket_path})"
    assert astray.ok("vm", "create", "a", "-o", "name").out == "a\n"
    assert astray.ok("service", "list").err == "No services found.\n"
    assert astray.ok("events", "--no-follow", "-o", "json").json[0]["kind"] == "vm.created"
    status = astray.ok("daemon", "status", "-o", "json").json
    assert (status["pid"], status["socket"]) == (running.pid, str(running.socket_path))
    assert astray.ok("db", "check").lines[0].startswith(f"{running.database}: ")
    findings = {one["check"]: one for one in astray("doctor", "-o", "json").json}
    assert findings["socket"]["status"] == "ok"


def test_daemon_start_says_that_it_runs_and_where(astray: Cli, running: DaemonProcess) -> None:
    said = f"The daemon is already running (pid {running.pid}, {running.socket_path})\n"
    assert astray("daemon", "start") == (0, said, "")


def test_daemon_stop_stops_it(astray: Cli, running: DaemonProcess) -> None:
    assert astray("daemon", "stop") == (0, f"Stopped the daemon (pid {running.pid})\n", "")
    assert running.process is not None
    assert running.process.wait(30) == 0


CLIENTS = """
import asyncio, sys
from nexus.client import BlockingClient, Client
from nexus.system.commands import GetSystemStatus

async def main():
    async with Client() as client:
        return client.socket_path, (await client.call(GetSystemStatus())).pid

with BlockingClient() as client:
    print([client.socket_path, client.call(GetSystemStatus()).pid] == list(asyncio.run(main())), client.socket_path)
"""


def run_clients(cli: Cli) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CLIENTS], env=cli.environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_both_python_clients_reach_it(astray: Cli, running: DaemonProcess) -> None:
    assert run_clients(astray) == f"True {running.socket_path}\n"


def stale_socket(path: Path) -> None:
    """What a killed daemon leaves: a socket on which nothing listens."""
    import socket

    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))


def test_stale_socket_at_the_usual_place_does_not_hide_it(running: DaemonProcess, root: Path) -> None:
    stale_socket(root / "run" / "nexus" / "nexus.sock")
    cli = Cli({**running.environment, "XDG_RUNTIME_DIR": str(root / "run")})
    assert cli.ok("status").lines[0] == f"Daemon: ok ({running.socket_path})"
    assert run_clients(cli) == f"True {running.socket_path}\n"
    assert (
        cli.ok("daemon", "start").out == f"The daemon is already running (pid {running.pid}, {running.socket_path})\n"
    )
    assert cli.ok("daemon", "stop").out == f"Stopped the daemon (pid {running.pid})\n"
    assert cli("status").code == 3


def test_restart_from_elsewhere_listens_where_it_listened(running: DaemonProcess, root: Path) -> None:
    cli = Cli({**running.environment, "XDG_RUNTIME_DIR": str(root / "run")})
    try:
        lines = cli.ok("daemon", "restart").lines
        assert lines[0] == f"Stopped the daemon (pid {running.pid})"
        assert lines[1].endswith(f", {running.socket_path})")
        assert cli.ok("status", XDG_RUNTIME_DIR=running.environment["XDG_RUNTIME_DIR"]).code == 0
    finally:
        cli("daemon", "stop")


def test_file_of_a_killed_daemon_leads_nowhere(running: DaemonProcess, root: Path) -> None:
    running.kill()
    cli = Cli({**running.environment, "XDG_RUNTIME_DIR": str(root / "run")})
    usual = root / "run" / "nexus" / "nexus.sock"
    code, _out, err = cli("status")
    assert (code, err.splitlines()[0]) == (3, f"Error: cannot connect to Nexus daemon at {usual}")
    try:
        assert cli.ok("daemon", "start").out.endswith(f", {usual})\n")
    finally:
        cli("daemon", "stop")


def test_address_that_the_user_gives_is_the_only_one_that_is_tried(running: DaemonProcess, root: Path) -> None:
    cli = Cli({**running.environment, "XDG_RUNTIME_DIR": str(root / "run")})
    given = str(root / "given.sock")
    config = root / "given.toml"
    for section in ("client", "daemon"):
        config.write_text(f'[{section}]\nsocket = "{given}"\n')
        assert f"daemon at {given}\n" in cli("--config", str(config), "status").err
    assert f"daemon at {given}\n" in cli("status", "--socket", given).err
    assert f"daemon at {given}\n" in cli("status", NEXUS_SOCKET=given).err


def test_each_database_leads_to_its_own_daemon(running: DaemonProcess, make_daemon: Make, root: Path) -> None:
    database, socket = root / "second one.db", root / "second.sock"
    second = make_daemon("--db", str(database), "--socket", str(socket)).start()
    cli = Cli({**running.environment, "XDG_RUNTIME_DIR": str(root / "run")})
    assert cli.ok("daemon", "status", "-o", "json").json["pid"] == running.pid
    assert cli.ok("daemon", "status", "-o", "json", NEXUS_DATABASE=str(database)).json["pid"] == second.pid
    config = root / "second.toml"
    config.write_text(f'[database]\npath = "{database}"\n')
    assert cli.ok("--config", str(config), "daemon", "status", "-o", "json").json["pid"] == second.pid
    assert cli("status", NEXUS_DATABASE=str(root / "third.db")).code == 3


@pytest.mark.parametrize("how", ["others can write it", "another user owns it"])
def test_file_that_another_user_could_have_made_is_not_believed(running: DaemonProcess, root: Path, how: str) -> None:
    path = running.database.with_name(".nexus.db.address")
    if how == "others can write it":
        path.chmod(0o666)
    elif os.geteuid() == 0:
        os.chown(path, 4711, 4711)
    else:
        path.unlink()
        path.symlink_to("/etc/hostname")  # as good as one of another user: it is root's
    cli = Cli({**running.environment, "XDG_RUNTIME_DIR": str(root / "run")})
    assert cli("status").code == 3


def test_home_that_is_not_set_is_that_of_the_user(make_daemon: Make, root: Path, far: Path) -> None:
    # The file is beside the database, so it is found by the variable that names the database, without any home.
    database = root / "db" / "nexus.db"
    daemon = make_daemon(environment={"XDG_RUNTIME_DIR": str(far), "NEXUS_DATABASE": str(database)})
    daemon.environment["XDG_RUNTIME_DIR"] = str(far)
    daemon.start()
    cli = Cli({**daemon.environment, "XDG_CONFIG_HOME": str(root / "config")})
    for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "HOME"):
        del cli.environment[name]
    assert cli.ok("daemon", "status", "-o", "json").json["pid"] == daemon.pid
    cli.environment |= {"HOME": "", "XDG_RUNTIME_DIR": str(root / "none")}
    assert cli.ok("daemon", "status", "-o", "json").json["pid"] == daemon.pid


def test_usual_place_is_used_without_a_look_at_the_file(daemon: DaemonProcess) -> None:
    # What the file says does not matter, and the module that reads it is not even imported.
    path = daemon.database.with_name(".nexus.db.address")
    path.write_text(json.dumps({"socket": "/nowhere", "pid": daemon.pid}))
    script = (
        "import sys; from nexus.client import BlockingClient as C; C().connect(); print('nexus.address' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=daemon.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
    assert Cli(daemon.environment).ok("status").lines[0] == f"Daemon: ok ({daemon.socket_path})"
