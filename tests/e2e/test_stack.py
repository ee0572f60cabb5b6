"""A real stack from one file: PostgreSQL, Redis and an API that needs both are started, killed and stopped.

PostgreSQL refuses to run as root. Where the tests run as root, the daemon and with it the whole stack run as the user
``postgres`` of a user namespace, which has no privilege but can read the Python of the tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import Cli, Result
from support.daemon import DaemonProcess
from support.raw import wait_until

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parent / "stack"
NAMES = ["api", "cache", "db", "db-init", "schema"]
TIMEOUT_S = 60.0


def find_postgresql() -> Path | None:
    """The folder with the programs of the newest PostgreSQL, as installed by Debian's packages."""
    found = [folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if (folder / "initdb").exists()]
    return max(found, key=lambda folder: int(folder.parent.name), default=None)


class OtherUser:
    """A user other than root, if the tests run as root: a user namespace that exists until ``close``."""

    def __init__(self) -> None:
        self._holder: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            names = [f"--map-user={user.pw_uid}", f"--map-group={user.pw_gid}"]
            command = ["unshare", "--user", *names, "--", "cat"]
            self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
            assert self._holder.stdin is not None
            assert self._holder.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                self._holder.stdin.write(b".")
            if not self._holder.stdout.read(1):
                self.close()
                pytest.skip("PostgreSQL refuses to run as root, and no user namespace can be created")

    def run_as(self) -> list[str]:
        """The command prefix that runs a command as this user."""
        if self._holder is None:
            return []
        return ["nsenter", f"--user=/proc/{self._holder.pid}/ns/user", "--preserve-credentials", "--"]

    def close(self) -> None:
        """End the user namespace."""
        if self._holder is not None:
            self._holder.communicate()


class UserDaemon(DaemonProcess):
    """A daemon that runs as a given user."""

    user: OtherUser

    def command(self) -> list[str]:
        return [*self.user.run_as(), *super().command()]


class Stack:
    """The stack in a private folder, controlled by ``nexusctl``."""

    def __init__(self, root: Path, postgresql: Path, user: OtherUser) -> None:
        self.root = root
        self.folder = root / "stack"
        shutil.copytree(SOURCE, self.folder)
        path = f"{postgresql}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.daemon = UserDaemon(root, environment={"PATH": path})
        self.daemon.user = user
        self.cli = Cli(self.daemon.environment, self.folder)

    def apply(self, *options: str) -> Result:
        """Apply the file and wait until the stack is healthy."""
        return self.cli.ok("apply", "-f", str(self.folder / "nexus.toml"), "--yes", "--wait", *options)

    def status(self, name: str) -> dict[str, Any]:
        """The status of a service."""
        found = self.cli.ok("service", "status", name, "-o", "json").json
        assert isinstance(found, dict)
        return found

    def get(self, name: str) -> dict[str, Any]:
        """The record of a service."""
        service = self.status(name)["service"]
        assert isinstance(service, dict)
        return service

    def wait(self, name: str, **wanted: Any) -> dict[str, Any]:
        """Wait until a service's record has these values."""

        def look() -> dict[str, Any]:
            service = self.get(name)
            return service if all(service.get(key) == value for key, value in wanted.items()) else {}

        return wait_until(look, f"{name} with {wanted}", TIMEOUT_S)

    def states(self) -> dict[str, str]:
        """State and health of every service."""
        services = self.cli.ok("service", "list", "-o", "json").json
        return {service["name"]: f"{service['state']} {service['health']}" for service in services}

    def tree(self) -> str:
        """The output of ``service tree``."""
        return self.cli.ok("service", "tree").out

    def journal(self, after: int = 0) -> list[dict[str, Any]]:
        """The events of services."""
        events = self.cli.ok("events", "--kind", "service.*", "--after", str(after), "--no-follow", "-o", "json").json
        assert isinstance(events, list)
        return events

    def visit(self) -> tuple[int, dict[str, Any]]:
        """Send a request to the API; return the status code and the body."""
        return request(self.get("api")["active_port"])

    def running(self, field: str) -> dict[str, int]:
        """A field, such as the pid, of every service in which it is set."""
        services = self.cli.ok("service", "list", "-o", "json").json
        return {service["name"]: service[field] for service in services if service.get(field)}

    def tunnels(self) -> dict[str, int]:
        """The tunnel port of each dependency of the API."""
        edges = self.status("api")["dependencies"]
        return {edge["dependency"]: edge["tunnel_port"] for edge in edges if edge["tunnel_enabled"]}

    def processes(self) -> dict[int, str]:
        """Every process that refers to the folder: the daemon, shims, tunnels and services, with their arguments."""
        found = {}
        mark = os.fsencode(self.root)
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal() and int(folder.name) != os.getpid():
                try:
                    words = (folder / "cmdline").read_bytes()
                    links = [folder / "cwd", *(folder / "fd").iterdir()]
                    texts = [words, *(os.fsencode(link.readlink()) for link in links if link.is_symlink())]
                except OSError:  # it has ended meanwhile or belongs to another user
                    continue
                if any(mark in one for one in texts):
                    found[int(folder.name)] = words.replace(b"\0", b" ").decode(errors="replace")
        return found

    def sockets(self) -> list[Path]:
        """The Unix sockets in the folder."""
        found = [path for path in self.root.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)]
        return [path for path in found if path.name != "notify.sock"]  # the test made that one


def request(port: int) -> tuple[int, dict[str, Any]]:
    """Send a request to the API at a port; return the status code and the body."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=TIMEOUT_S) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def counted(number: int) -> tuple[int, dict[str, Any]]:
    """The API's reply to a number of visits, if database and cache have counted each of them once."""
    return 200, {"visits": number, "answers": number}


def accepts(port: int) -> bool:
    """Whether connections to a port are accepted."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def seq_of(events: list[dict[str, Any]], name: str, kind: str) -> int:
    """The number of a service's only event of a kind. A start that waits for dependencies does not count."""
    found = [
        event["seq"]
        for event in events
        if event["subject_name"] == name
        and event["kind"] == f"service.{kind}"
        and not (kind == "starting" and "reason" in event["detail"])
    ]
    assert len(found) == 1, (name, kind, events)
    return int(found[0])


@pytest.fixture
def stack(root: Path) -> Iterator[Stack]:
    postgresql = find_postgresql()
    if postgresql is None or shutil.which("redis-server") is None:
        pytest.skip("PostgreSQL or Redis is not installed")
    user = OtherUser()
    try:
        stack = Stack(root, postgresql, user)
        try:
            stack.daemon.start()
            yield stack
            assert " error " not in stack.daemon.log()
            assert "Traceback" not in stack.daemon.log()
        finally:
            # A killed PostgreSQL leaves shared memory behind.
            stack.cli("service", "stop", "--all")
            stack.daemon.close()
    finally:
        user.close()


@pytest.fixture
def up(stack: Stack) -> Stack:
    """The healthy stack."""
    stack.apply()
    return stack


HEALTHY = {
    "api": "running healthy",
    "cache": "running healthy",
    "db": "running healthy",
    "db-init": "stopped unknown",
    "schema": "stopped unknown",
}


def test_apply_starts_the_stack_in_dependency_order_and_is_idempotent(stack: Stack) -> None:
    stack.apply()
    assert stack.states() == HEALTHY
    events = stack.journal()
    order = [
        seq_of(events, "db-init", "stopped"),
        seq_of(events, "db", "starting"),
        seq_of(events, "db", "started"),
        seq_of(events, "db", "healthy"),
        seq_of(events, "schema", "starting"),
        seq_of(events, "schema", "stopped"),
        seq_of(events, "api", "starting"),
        seq_of(events, "api", "started"),
        seq_of(events, "api", "healthy"),
    ]
    assert order == sorted(order)
    assert seq_of(events, "cache", "healthy") < seq_of(events, "api", "starting")
    # Independent services start at the same time.
    assert seq_of(events, "cache", "starting") < seq_of(events, "db-init", "stopped")
    assert stack.get("cache")["health_message"] == "PONG"
    assert stack.get("db-init")["exit_code"] == 0

    tunnels = stack.tunnels()
    assert not set(tunnels.values()) & set(stack.running("active_port").values())
    assert stack.tree() == (
        "api [running, healthy]\n"
        f"├── cache [running, healthy] (healthy, tunnel 127.0.0.1:{tunnels['cache']})\n"
        f"├── db [running, healthy] (healthy, tunnel 127.0.0.1:{tunnels['db']})\n"
        "│   └── db-init [stopped] (completed)\n"
        "└── schema [stopped] (completed)\n"
        "    └── db [running, healthy] (healthy, tunnel) (see above)\n"
    )
    assert [stack.visit(), stack.visit()] == [counted(1), counted(2)]

    pids = stack.running("pid")
    assert stack.apply().lines[1].startswith("Nothing to change")
    assert stack.journal() == events
    assert stack.running("pid") == pids


def test_killed_database_is_restarted_and_the_api_reports_the_loss(up: Stack) -> None:
    assert up.visit() == counted(1)
    last = up.journal()[-1]["seq"]
    before, tunnels = up.running("pid"), up.tunnels()
    (up.folder / "hold").touch()
    os.kill(before["db"], signal.SIGKILL)

    db = up.wait("db", state="running", restarts=1)
    api = up.wait("api", lost_dependencies=["db"])
    assert (api["state"], api["pid"]) == ("running", before["api"])
    assert api["reason"].startswith('lost "db": ')
    assert db["pid"] != before["db"]
    assert db["health"] != "healthy"
    shown = up.cli.ok("service", "status", "api").out
    assert "\nLost:       db\n" in shown
    assert up.tree().startswith("api [running, healthy] lost: db\n")

    (up.folder / "hold").unlink()
    up.wait("db", health="healthy")
    api = up.wait("api", lost_dependencies=None)
    assert (api["state"], api["pid"]) == ("running", before["api"])
    assert "not properly shut down; automatic recovery in progress" in up.cli.ok("service", "logs", "db").out
    # Rows committed before the kill are kept, and the API reaches the database by the same tunnel.
    assert up.visit() == counted(2)
    assert up.tunnels() == tunnels
    assert up.states() == HEALTHY

    events = up.journal(after=last)
    order = [
        seq_of(events, "db", "exited"),
        seq_of(events, "db", "restarting"),
        seq_of(events, "db", "starting"),
        seq_of(events, "db", "started"),
        seq_of(events, "db", "healthy"),
        seq_of(events, "api", "dependency_back"),
    ]
    assert order == sorted(order)
    assert seq_of(events, "db", "exited") < seq_of(events, "api", "dependency_lost") < order[-1]
    detail = {event["kind"]: event["detail"] for event in events}
    assert detail["service.exited"]["exit_signal"] == signal.SIGKILL
    assert detail["service.dependency_lost"]["dependency"] == "db"
    assert {event["subject_name"] for event in events} == {"api", "db"}


def test_stack_outlives_the_daemon_and_services_that_died_meanwhile_restart(up: Stack) -> None:
    assert up.visit() == counted(1)
    last = up.journal()[-1]["seq"]
    before, ports, tunnels = up.running("pid"), up.running("active_port"), up.tunnels()

    up.daemon.kill()
    assert request(ports["api"]) == counted(2)
    up.daemon.start()
    wait_until(lambda: up.states() == HEALTHY, "all services to be known as healthy", TIMEOUT_S)
    assert up.running("pid") == before
    assert up.visit() == counted(3)

    up.daemon.kill()
    os.kill(before["db"], signal.SIGKILL)
    wait_until(lambda: not accepts(ports["db"]), "the database to end")
    up.daemon.start()
    wait_until(lambda: up.states() == HEALTHY, "all services to be healthy again", TIMEOUT_S)
    up.wait("api", lost_dependencies=None)
    assert request(ports["api"]) == counted(4)
    assert up.tunnels() == tunnels
    after = up.running("pid")
    assert after.pop("db") != before.pop("db")
    assert after == before
    events = up.journal(after=last)
    exits = [(event["subject_name"], event["detail"]) for event in events if event["kind"] == "service.exited"]
    assert [(name, detail["exit_signal"]) for name, detail in exits] == [("db", signal.SIGKILL)]
    assert seq_of(events, "db", "exited") < seq_of(events, "db", "started")


def test_stack_stops_in_reverse_order_and_leaves_no_process_or_socket(up: Stack) -> None:
    assert up.visit() == counted(1)
    pids = up.running("pid")
    assert up.cli("service", "stop", "db") == (
        5,
        "",
        'Error: cannot stop service "db": "api" needs it\n  Stop them too: nexusctl service stop stack/db --cascade\n',
    )
    assert up.running("pid") == pids

    last = up.journal()[-1]["seq"]
    assert up.cli.ok("service", "stop", "db", "--cascade").out == 'Stopped service "api"\nStopped service "db"\n'
    events = up.journal(after=last)
    assert seq_of(events, "api", "stopped") < seq_of(events, "db", "stopped")
    assert "db [stopped]" in up.tree()
    assert "api [stopped]\n├── cache [running, healthy] (healthy, tunnel)\n" in up.tree()
    assert up.running("pid") == {"cache": pids["cache"]}

    out = up.cli.ok("service", "start", "api", "--wait").out
    assert [line.split(" (")[0] for line in out.splitlines()] == ['Started service "db"', 'Started service "api"']
    assert up.visit() == counted(2)

    last = up.journal()[-1]["seq"]
    ports = [*up.running("active_port").values(), *up.tunnels().values()]
    assert len(set(ports)) == 5
    assert all(accepts(port) for port in ports)
    assert len(up.sockets()) > 1
    found = up.processes()
    assert {up.daemon.pid, *up.running("pid").values()} < found.keys()
    assert {"shim", "tunnel"} <= {kind for words in found.values() for kind in ("shim", "tunnel") if kind in words}
    up.cli.ok("service", "stop", "--all")
    events = up.journal(after=last)
    assert seq_of(events, "api", "stopped") < seq_of(events, "db", "stopping")
    assert seq_of(events, "api", "stopped") < seq_of(events, "cache", "stopping")
    for name in ("api", "cache", "db"):
        assert up.get(name)["exit_code"] == 0
    assert set(up.states().values()) == {"stopped unknown"}
    assert "database system is shut down" in up.cli.ok("service", "logs", "db", "--lines", "1").out
    assert not any(accepts(port) for port in ports)
    assert list(up.processes()) == [up.daemon.pid]
    assert up.sockets() == [up.daemon.socket_path]

    assert up.daemon.stop() == 0
    assert up.processes() == {}
    assert up.sockets() == []
