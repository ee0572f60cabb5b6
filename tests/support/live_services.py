"""Services as a test sees them from outside: through a daemon's socket, its journal and the list of processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from nexus_protocol import NexusError

from nexus.journal.commands import WatchEvents
from nexus.services.commands import (
    AddDependency,
    AddService,
    GetServiceStatus,
    RemoveService,
    RestartService,
    StartService,
    StopService,
    UpdateService,
)
from nexus.services.records import Service, ServicesStopped, ServiceStarted, ServiceStatus
from nexus.services.states import ServiceState
from support.daemon import DaemonProcess
from support.raw import RawClient, connect, wait_until

__all__ = ["AT_REST", "Services", "exists", "lines_of", "listen", "python"]

AT_REST = (ServiceState.STOPPED, ServiceState.FAILED)


def python(code: str) -> list[str]:
    """A command that runs some Python, as a small program."""
    return [sys.executable, "-I", "-S", "-c", code]


def listen(*, before: str = "", port: str = "int(os.environ['PORT'])", then: str = "") -> list[str]:
    """A command that accepts connections on its port and answers each with its pid."""
    return python(
        "import os, socket, time\n"
        f"{before}\n"
        "s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        f"s.bind(('127.0.0.1', {port})); s.listen(64)\n"
        f"{then}\n"
        "while True:\n"
        "    c, _ = s.accept(); c.sendall(str(os.getpid()).encode()); c.close()\n"
    )


def exists(pid: int | None) -> bool:
    """Whether a process lives; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def lines_of(path: Path) -> list[str]:
    """The lines of a file that a service writes; none while it is not there."""
    return path.read_text().splitlines() if path.exists() else []


class Services:
    """The services of one daemon."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.client: RawClient = connect(daemon)

    def close(self) -> None:
        """Leave."""
        self.client.close()

    def begin_anew(self) -> None:
        """Start a daemon where there is none now, and go on with that."""
        self.client.close()
        self.daemon.start()
        self.client = connect(self.daemon)

    def kill_daemon(self) -> None:
        """kill -9, and a new one."""
        self.daemon.kill()
        self.begin_anew()

    def add(self, name: str, run: str | list[str] | None = "exec sleep 1000", **fields: Any) -> Service:
        """Add a service, with a start window that costs little time."""
        fields.setdefault("start_window_ms", 20)
        return self.client.call(AddService(name=name, run_command=run, **fields))

    def depend(self, service: str, dependency: str, **fields: Any) -> None:
        """Make one depend on the other."""
        self.client.call(AddDependency(service=service, dependency=dependency, **fields))

    def update(self, name: str, **fields: Any) -> Service:
        """Change a record."""
        return self.client.call(UpdateService(service=name, **fields))

    def start(self, name: str, **fields: Any) -> ServiceStarted:
        """Start it."""
        return self.client.call(StartService(service=name, **fields))

    def start_error(self, name: str, **fields: Any) -> NexusError:
        """Start it, which is to fail."""
        return self.client.call_error(StartService(service=name, **fields))

    def stop(self, name: str, **fields: Any) -> ServicesStopped:
        """Stop it."""
        return self.client.call(StopService(service=name, **fields))

    def restart(self, name: str, **fields: Any) -> ServiceStarted:
        """Restart it."""
        return self.client.call(RestartService(service=name, **fields))

    def remove(self, name: str, **fields: Any) -> Service:
        """Remove it."""
        return self.client.call(RemoveService(service=name, **fields))

    def status(self, name: str) -> ServiceStatus:
        """Everything about it."""
        return self.client.call(GetServiceStatus(service=name))

    def get(self, name: str) -> Service:
        """Its record."""
        return self.status(name).service

    def wait(self, name: str, **wanted: Any) -> Service:
        """Wait until its record has these values; gives it."""
        last: list[Service] = []

        def look() -> Service | None:
            last[:] = [self.get(name)]
            return last[0] if all(getattr(last[0], key) == value for key, value in wanted.items()) else None

        try:
            return wait_until(look, f"{name} with {wanted}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {last[0]}") from None

    def wait_rest(self, name: str) -> Service:
        """Wait until it is stopped or failed."""

        def look() -> Service | None:
            service = self.get(name)
            return service if service.state in AT_REST else None

        return wait_until(look, f"the rest of {name}")

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """What the journal has, of one service or of all."""
        sequence = self.client.begin(WatchEvents(follow=False, subject=name))
        found = [event for event in self.client.items(sequence) if "kind" in event]
        self.client.result(sequence)
        return found

    def kinds(self, name: str) -> list[str]:
        """The kinds of a service's events, in order."""
        return [event["kind"].removeprefix("service.") for event in self.events(name)]

    def wait_event(self, name: str, kind: str) -> dict[str, Any]:
        """Wait until the journal has an event of a service; gives the last of its kind."""

        def look() -> dict[str, Any] | None:
            found = [event for event in self.events(name) if event["kind"] == f"service.{kind}"]
            return found[-1] if found else None

        return wait_until(look, f"service.{kind} of {name}")
