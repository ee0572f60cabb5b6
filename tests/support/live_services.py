"""The services of a daemon, observed from outside: by its socket, its journal and the list of processes."""

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

__all__ = ["INACTIVE", "Services", "exists", "lines_of", "listen", "python"]

INACTIVE = (ServiceState.STOPPED, ServiceState.FAILED)


def python(code: str) -> list[str]:
    """A command that runs Python code in a small process."""
    return [sys.executable, "-I", "-S", "-c", code]


def listen(*, before: str = "", port: str = "int(os.environ['PORT'])", then: str = "") -> list[str]:
    """A command that listens on its port and answers each connection with its pid."""
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
    """Whether a process exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def lines_of(path: Path) -> list[str]:
    """The lines of a file that a service writes; empty while the file does not exist."""
    return path.read_text().splitlines() if path.exists() else []


class Services:
    """The services of one daemon."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.client: RawClient = connect(daemon)

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def begin_anew(self) -> None:
        """Start the daemon again after its end, and connect to it."""
        self.client.close()
        self.daemon.start()
        self.client = connect(self.daemon)

    def kill_daemon(self) -> None:
        """Kill the daemon with SIGKILL, start it again and connect to it."""
        self.daemon.kill()
        self.begin_anew()

    def add(self, name: str, run: str | list[str] | None = "exec sleep 1000", **fields: Any) -> Service:
        """Add a service, with a short start window by default."""
        fields.setdefault("start_window_ms", 20)
        return self.client.call(AddService(name=name, run_command=run, **fields))

    def depend(self, service: str, dependency: str, **fields: Any) -> None:
        """Add a dependency of ``service`` on ``dependency``."""
        self.client.call(AddDependency(service=service, dependency=dependency, **fields))

    def update(self, name: str, **fields: Any) -> Service:
        """Update a service's record."""
        return self.client.call(UpdateService(service=name, **fields))

    def start(self, name: str, **fields: Any) -> ServiceStarted:
        """Start a service."""
        return self.client.call(StartService(service=name, **fields))

    def start_error(self, name: str, **fields: Any) -> NexusError:
        """Start a service; return the error, which is expected."""
        return self.client.call_error(StartService(service=name, **fields))

    def begin_start(self, name: str, **fields: Any) -> int:
        """Send the start of a service, and return its sequence without waiting for the outcome."""
        return self.client.begin(StartService(service=name, **fields))

    def stop(self, name: str, **fields: Any) -> ServicesStopped:
        """Stop a service."""
        return self.client.call(StopService(service=name, **fields))

    def restart(self, name: str, **fields: Any) -> ServiceStarted:
        """Restart a service."""
        return self.client.call(RestartService(service=name, **fields))

    def remove(self, name: str, **fields: Any) -> Service:
        """Remove a service."""
        return self.client.call(RemoveService(service=name, **fields))

    def status(self, name: str) -> ServiceStatus:
        """The status of a service with its dependencies."""
        return self.client.call(GetServiceStatus(service=name))

    def get(self, name: str) -> Service:
        """The record of a service."""
        return self.status(name).service

    def wait(self, name: str, **wanted: Any) -> Service:
        """Wait until a service's record has these values; return the record."""
        last: list[Service] = []

        def look() -> Service | None:
            last[:] = [self.get(name)]
            return last[0] if all(getattr(last[0], key) == value for key, value in wanted.items()) else None

        try:
            return wait_until(look, f"{name} with {wanted}")
        except AssertionError as error:
            raise AssertionError(f"{error}; its record is {last[0]}") from None

    def wait_rest(self, name: str) -> Service:
        """Wait until a service is stopped or failed; return its record."""

        def look() -> Service | None:
            service = self.get(name)
            return service if service.state in INACTIVE else None

        return wait_until(look, f"{name} to be stopped or failed")

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The journal's events, of one service or of all."""
        sequence = self.client.begin(WatchEvents(follow=False, subject=name))
        found = [event for event in self.client.items(sequence) if "kind" in event]
        self.client.result(sequence)
        return found

    def kinds(self, name: str) -> list[str]:
        """The kinds of a service's events, in order."""
        return [event["kind"].removeprefix("service.") for event in self.events(name)]

    def wait_event(self, name: str, kind: str) -> dict[str, Any]:
        """Wait until the journal has an event of this kind of a service; return the last one."""

        def look() -> dict[str, Any] | None:
            found = [event for event in self.events(name) if event["kind"] == f"service.{kind}"]
            return found[-1] if found else None

        return wait_until(look, f"service.{kind} of {name}")
