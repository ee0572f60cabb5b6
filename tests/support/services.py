"""Services of a real daemon for tests: programs that do what they are told, and what /proc knows of their processes.

Whatever a test starts here is ended with it, whether or not the daemon under test would have done so.
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
from nexus.services.commands import AddService, GetServiceStatus, GetServiceStdout, ListServices
from nexus.services.records import LogPiece, Service
from support.cli import Cli
from support.daemon import DaemonProcess
from support.raw import wait_until

__all__ = ["PUPPET", "ServiceWorld", "end_runs", "facts_of", "processes_of", "tell"]

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
"""A program for /bin/sh that does what it reads from its FIFO, and leaves a note where a second one of it runs."""


def tell(fifo: Path, text: str) -> None:
    """Write a line to a FIFO, once somebody reads it."""

    def write() -> bool:
        try:
            descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False
        with open(descriptor, "wb", buffering=0) as file:
            return file.write(text.encode() + b"\n") is not None

    wait_until(write, f"a reader of {fifo.name}")


def _mentions(pid: int, text: bytes) -> bool:
    """Whether a process has a text in its words, its environment or the names of its open files."""
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
    """Every process that has to do with a test's folder, but the test itself. A zombie is none any more."""
    text = os.fsencode(root)
    pids = [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]
    return [pid for pid in pids if pid != os.getpid() and _mentions(pid, text)]


def facts_of(pid: int) -> list[str]:
    """``/proc/PID/stat`` from its third field on (state, parent, group, session…); nothing when it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def end_runs(root: Path) -> None:
    """Leave no process that has to do with a test's folder; a daemon of it has been ended before."""
    for control in (root / "state").rglob("control"):
        with contextlib.suppress(OSError):
            descriptor = os.open(control, os.O_WRONLY | os.O_NONBLOCK)
            with open(descriptor, "wb", buffering=0) as file:
                file.write(b"stop 9 0\n")
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not processes_of(root), "the end of all runs", 3)

    def killed() -> bool:
        left = processes_of(root)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    wait_until(killed, "the end of every process of the test")


class ServiceWorld:
    """A daemon in a folder of its own, with whatever its services leave behind."""

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
        """A new connection."""
        return BlockingClient(self.daemon.socket_path)

    def call(self, command: Command[R]) -> R:
        """One request on a connection of its own."""
        with self.client() as client:
            return client.call(command)

    def add(self, name: str, run_command: str | list[str], **fields: Any) -> Service:
        """Add a service."""
        return self.call(AddService(name=name, run_command=run_command, **fields))

    def puppet(self, name: str, **fields: Any) -> Service:
        """Add a service that does what ``tell`` says."""
        os.mkfifo(self.root / f"{name}.fifo")
        return self.add(name, ["/bin/sh", "-c", PUPPET, str(self.root / name)], **fields)

    def tell(self, name: str, text: str) -> None:
        """Have a puppet ``say TEXT``, ``exit CODE`` or ``kill SIGNAL`` (itself), once it runs."""
        tell(self.root / f"{name}.fifo", text)

    def ran_twice(self) -> list[str]:
        """The puppets of which two ran at the same time."""
        return sorted(path.stem for path in self.root.glob("*.twice"))

    def service(self, name: str) -> Service:
        """A service as it is now."""
        return self.call(GetServiceStatus(service=name)).service

    def services(self) -> dict[str, Service]:
        """All services as they are now, by name."""
        return {service.name: service for service in self.call(ListServices()).services}

    def wait_for(self, name: str, condition: Callable[[Service], object], what: str) -> Service:
        """Wait until a service is as it should be; gives it."""

        def look() -> Service | None:
            service = self.service(name)
            return service if condition(service) else None

        return wait_until(look, f"{name}: {what}")

    def pieces(self, name: str, **limits: Any) -> list[LogPiece]:
        """What is kept of a service's output, in pieces."""
        with self.client() as client, client.stream(GetServiceStdout(service=name, **limits)) as stream:
            return list(stream)

    def output(self, name: str) -> bytes:
        """What is kept of a service's output."""
        return b"".join(piece.data for piece in self.pieces(name))

    def kept_on_disk(self, service: Service) -> bytes:
        """What the files of a service's output hold, which needs no daemon."""
        files = self.state.rglob(f"service-{service.id}/log/*.log")
        return b"".join(path.read_bytes() for path in sorted(files, key=lambda path: int(path.stem)))

    def events(self, *kinds: str, subject: str | None = None) -> list[Event]:
        """What the journal has of some kinds, from its beginning."""
        command = WatchEvents(after=0, kinds=list(kinds) or None, subject=subject, follow=False)
        with self.client() as client, client.stream(command) as stream:
            return [event for event in stream if event.kind is not None]

    def runs(self) -> dict[str, dict[str, list[int]]]:
        """The processes of all services, by name and run, as their environments tell."""
        found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        home = b"HOME=" + os.fsencode(self.root / "home")
        for pid, variables in _environments():
            if home in variables:
                words = dict(word.partition(b"=")[::2] for word in variables)
                if b"NEXUS_RUN_ID" in words:
                    found[words[b"NEXUS_SERVICE"].decode()][words[b"NEXUS_RUN_ID"].decode()].append(pid)
        return {name: dict(runs) for name, runs in found.items()}


def _environments() -> Iterator[tuple[int, list[bytes]]]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry.name), Path(f"/proc/{entry.name}/environ").read_bytes().split(b"\0")
