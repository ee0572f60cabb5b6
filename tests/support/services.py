"""Services of a real daemon for tests: programs that take orders through a FIFO, and what /proc shows of processes.

Every process that a test starts here is ended with the test, even if the daemon under test fails to do so.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from nexus_protocol import Command

from nexus.client import BlockingClient
from nexus.journal.commands import Event, WatchEvents
from nexus.records.processes import LogPiece
from nexus.services.commands import AddService, GetServiceStatus, GetServiceStdout, ListServices
from nexus.services.records import Service
from support.cli import Cli
from support.daemon import DaemonProcess
from support.raw import wait_until

__all__ = ["PUPPET", "ServiceWorld", "end_runs", "processes_of", "stat_fields", "write_fifo"]

R = TypeVar("R")

PUPPET = """\
exec 9>>"$0.lock"
flock -n 9 || echo $$ >>"$0.twice"
while read -r word rest; do
    case $word in
        say) echo "$rest" ;;
        exit) exit "$rest" ;;
        kill) kill "-$rest" $$ ;;
    esac
done <>"$0.fifo"
"""
"""A script for /bin/sh that obeys the lines of its FIFO, and creates a file when two copies of it run at once."""


def write_fifo(fifo: Path, text: str) -> None:
    """Write a line to a FIFO, waiting until it has a reader."""

    def write() -> bool:
        try:
            descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False
        with open(descriptor, "wb", buffering=0) as file:
            return file.write(text.encode() + b"\n") is not None

    wait_until(write, f"a reader of {fifo.name}")


def _mentions(pid: int, text: bytes) -> bool:
    """Whether a text is in the arguments, the environment or the open files' names of a process."""
    for name in ("cmdline", "environ"):
        with contextlib.suppress(OSError):
            if text in Path(f"/proc/{pid}/{name}").read_bytes():
                return True
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if text in os.fsencode(descriptor.readlink()):
                    return True
    return False


def processes_of(root: Path) -> list[int]:
    """The pids of all processes that refer to a test's folder, without the test's own. Zombies are not found."""
    text = os.fsencode(root)
    pids = [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]
    return [pid for pid in pids if pid != os.getpid() and _mentions(pid, text)]


def stat_fields(pid: int) -> list[str]:
    """``/proc/PID/stat`` from its third field on (state, parent, group, session…); empty without such a process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def end_runs(root: Path) -> None:
    """End every process that refers to a test's folder. The daemon has to be stopped before."""
    for control in (root / "state").rglob("control"):
        with contextlib.suppress(OSError):
            descriptor = os.open(control, os.O_WRONLY | os.O_NONBLOCK)
            with open(descriptor, "wb", buffering=0) as file:
                file.write(b"stop 9 0\n")
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not processes_of(root), "the processes of all runs to end", 3)

    def killed() -> bool:
        left = processes_of(root)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    wait_until(killed, "every process of the test to end")


class ServiceWorld:
    """A daemon in a private folder, with all processes of its services; both are ended at exit."""

    def __init__(self, root: Path, *arguments: str, config: str = "") -> None:
        self.root = root
        self.state = root / "state" / "nexus"
        self.daemon = DaemonProcess(root, *arguments, config=config)
        self.cli = Cli(self.daemon.environment)

    def __enter__(self) -> ServiceWorld:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.daemon.close()
        end_runs(self.root)

    def client(self) -> BlockingClient:
        """Open a connection."""
        return BlockingClient(self.daemon.socket_path)

    def call(self, command: Command[R]) -> R:
        """Send one request on a new connection."""
        with self.client() as client:
            return client.call(command)

    def add(self, name: str, run_command: str | list[str], **fields: Any) -> Service:
        """Add a service."""
        return self.call(AddService(name=name, run_command=run_command, **fields))

    def puppet(self, name: str, **fields: Any) -> Service:
        """Add a service that runs PUPPET and obeys ``order``."""
        os.mkfifo(self.root / f"{name}.fifo")
        return self.add(name, ["/bin/sh", "-c", PUPPET, str(self.root / name)], **fields)

    def order(self, name: str, text: str) -> None:
        """Order a puppet to ``say TEXT``, ``exit CODE`` or ``kill SIGNAL`` (itself), waiting until it runs."""
        write_fifo(self.root / f"{name}.fifo", text)

    def ran_twice(self) -> list[str]:
        """Names of the puppets of which two copies ran at the same time."""
        return sorted(path.stem for path in self.root.glob("*.twice"))

    def service(self, name: str) -> Service:
        """The current record of a service."""
        return self.call(GetServiceStatus(service=name)).service

    def services(self) -> dict[str, Service]:
        """The current records of all services, by name."""
        return {service.name: service for service in self.call(ListServices()).services}

    def wait_for(self, name: str, condition: Callable[[Service], object], what: str) -> Service:
        """Wait until a service's record meets a condition; return the record."""

        def look() -> Service | None:
            service = self.service(name)
            return service if condition(service) else None

        return wait_until(look, f"{name} {what}")

    def pieces(self, name: str, **limits: Any) -> list[LogPiece]:
        """The kept output of a service, in pieces."""
        with self.client() as client, client.stream(GetServiceStdout(service=name, **limits)) as stream:
            return list(stream)

    def output(self, name: str) -> bytes:
        """The kept output of a service."""
        return b"".join(piece.data for piece in self.pieces(name))

    def kept_on_disk(self, service: Service) -> bytes:
        """The kept output of a service, read from its files without the daemon."""
        files = self.state.rglob(f"service-{service.id}/log/*.log")
        return b"".join(path.read_bytes() for path in sorted(files, key=lambda path: int(path.stem)))

    def events(self, *kinds: str, subject: str | None = None) -> list[Event]:
        """All events of some kinds in the journal."""
        command = WatchEvents(after=0, kinds=list(kinds) or None, subject=subject, follow=False)
        with self.client() as client, client.stream(command) as stream:
            return [event for event in stream if event.kind is not None]

    def runs(self) -> dict[str, dict[str, list[int]]]:
        """The pids of all service processes by service name and run id, found by their environments."""
        found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        home = b"HOME=" + os.fsencode(self.root / "home")
        for pid, variables in _environments():
            if home in variables:
                words = dict(word.partition(b"=")[::2] for word in variables)
                if {b"NEXUS_SERVICE", b"NEXUS_RUN_ID"} <= words.keys():
                    found[words[b"NEXUS_SERVICE"].decode()][words[b"NEXUS_RUN_ID"].decode()].append(pid)
        return {name: dict(runs) for name, runs in found.items()}


def _environments() -> Iterator[tuple[int, list[bytes]]]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry.name), Path(f"/proc/{entry.name}/environ").read_bytes().split(b"\0")
