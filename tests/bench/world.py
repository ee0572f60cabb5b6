"""The environment of the measures: daemons in temporary folders, their clients, and helper processes.

Clients and daemons run on one core: the kernel's placement of two communicating processes changes the rate of one
client by a factor of three to five, independently of the program.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from bench.baselines import SqliteInserts, ping_pong
from nexus_protocol import ClientConnection, Command, SuccessReceived, decode_reply, encode_command
from support.daemon import DaemonProcess

from nexus.client import BlockingClient
from nexus.vms.commands import CreateVm, ListVms

__all__ = ["IN_FLIGHT", "RECORDS", "Pipeline", "World"]

T = TypeVar("T")

IN_FLIGHT = 64
RECORDS = 10_000
FEW = 3

_AS_INSTALLED = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONUNBUFFERED": "", "PYTHONWARNINGS": ""}
"""For processes whose start is measured: bytecode is cached and warnings are off, as after an installation."""


class Pipeline:
    """One connection with always ``IN_FLIGHT`` open requests, on the sans-IO engine alone."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(60)
        self._socket.connect(str(path))
        self._engine = ClientConnection()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def run(self, make: Callable[[], Command[Any]], more: Callable[[int], bool]) -> int:
        """Send commands while ``more``, called with the number sent, is true; return the number of replies.

        Each reply is decoded to its record, as ``BlockingClient.call`` does. A failed request raises.
        """
        engine = self._engine
        open_: dict[int, type[Any]] = {}
        sent = answered = 0
        while True:
            outgoing = []
            while len(open_) < IN_FLIGHT and more(sent):
                command = make()
                sequence, data = engine.send_request(command.info.code, encode_command(command))
                open_[sequence] = command.info.reply
                outgoing.append(data)
                sent += 1
            if not open_:
                return answered
            if outgoing:
                self._socket.sendall(b"".join(outgoing))
            for event in engine.receive_data(self._socket.recv(256 * 1024)):
                assert isinstance(event, SuccessReceived), f"the daemon answered {event}"
                decode_reply(open_.pop(event.sequence), event.payload)
                answered += 1


class World:
    """The daemons and clients of one run, created when a measure first needs them, and ended at exit."""

    def __init__(self, *, quick: bool = False) -> None:
        self.quick = quick
        self.cores = os.sched_getaffinity(0)
        self._core = max(self.cores)
        self._close = contextlib.ExitStack()
        self._numbers = itertools.count()

    def __enter__(self) -> World:
        os.sched_setaffinity(0, {self._core})
        self._close.callback(os.sched_setaffinity, 0, self.cores)
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()

    def enter(self, context: contextlib.AbstractContextManager[T]) -> T:
        """Enter a context until the end of the run."""
        return self._close.enter_context(context)

    def callback(self, end: Callable[[], object]) -> None:
        """Call ``end`` at the end of the run."""
        self._close.callback(end)

    def new_root(self) -> Path:
        """A private folder, removed at the end of the run."""
        root = Path(tempfile.mkdtemp(prefix="nexus-bench-"))
        self._close.callback(shutil.rmtree, root)
        return root

    def new_daemon(self) -> DaemonProcess:
        """A daemon with fresh folders, not started yet."""
        daemon = DaemonProcess(self.new_root(), environment=_AS_INSTALLED)
        self._close.callback(self._end, daemon)
        return daemon

    @staticmethod
    def _end(daemon: DaemonProcess) -> None:
        if daemon.process is not None:
            daemon.stop()

    def client(self, daemon: DaemonProcess) -> BlockingClient:
        """A connected client."""
        return self.enter(BlockingClient(daemon.socket_path))

    def pipeline(self, daemon: DaemonProcess) -> Pipeline:
        """A connected pipeline."""
        return self.enter(contextlib.closing(Pipeline(daemon.socket_path)))

    def new_vm(self) -> CreateVm:
        """A command for a VM with a new name."""
        return CreateVm(name=f"vm-{next(self._numbers)}")

    def _with_records(self, count: int) -> DaemonProcess:
        daemon = self.new_daemon().start()
        names = (f"vm-{number}" for number in range(count))
        with contextlib.closing(Pipeline(daemon.socket_path)) as pipeline:
            pipeline.run(lambda: CreateVm(name=next(names)), lambda sent: sent < count)
        return daemon

    @functools.cached_property
    def full(self) -> DaemonProcess:
        """A daemon with ``RECORDS`` VMs named vm-0 and so on, restarted after their creation."""
        daemon = self._with_records(RECORDS)
        daemon.stop()
        return daemon.start()

    @functools.cached_property
    def idle(self) -> DaemonProcess:
        """An idle daemon with ``RECORDS`` VMs that has answered one list of all."""
        daemon = self._with_records(RECORDS)
        daemon.stop()
        daemon.start()
        with BlockingClient(daemon.socket_path) as client:
            client.call_raw(ListVms(limit=RECORDS))
        return daemon

    @functools.cached_property
    def full_client(self) -> BlockingClient:
        """A client of ``full``."""
        return self.client(self.full)

    @functools.cached_property
    def growing(self) -> DaemonProcess:
        """A daemon that starts empty, in which VMs are created one at a time."""
        return self.new_daemon().start()

    @functools.cached_property
    def crowded(self) -> DaemonProcess:
        """A daemon that starts empty, in which many VMs are created at a time.

        It is separate from ``growing``, which must not outgrow the database of its baseline.
        """
        return self.new_daemon().start()

    @functools.cached_property
    def crowded_client(self) -> BlockingClient:
        """A client of ``crowded``."""
        return self.client(self.crowded)

    @functools.cached_property
    def growing_client(self) -> BlockingClient:
        """A client of ``growing``."""
        return self.client(self.growing)

    @functools.cached_property
    def few(self) -> DaemonProcess:
        """A daemon with a few VMs."""
        return self._with_records(FEW)

    @functools.cached_property
    def stopped(self) -> DaemonProcess:
        """A stopped daemon with a few VMs."""
        daemon = self._with_records(FEW)
        daemon.stop()
        return daemon

    @functools.cached_property
    def full_pipeline(self) -> Pipeline:
        """A pipeline to ``full``."""
        return self.pipeline(self.full)

    @functools.cached_property
    def crowded_pipeline(self) -> Pipeline:
        """A pipeline to ``crowded``."""
        return self.pipeline(self.crowded)

    @functools.cached_property
    def exchange(self) -> Callable[[], None]:
        """Exchanges bytes once with an echo process."""
        return self.enter(ping_pong())

    @functools.cached_property
    def inserts(self) -> SqliteInserts:
        """SQLite alone, in the folder of ``growing``, so that both use the same file system."""
        return self.enter(contextlib.closing(SqliteInserts(self.growing.state / "baseline.db")))

    @functools.cached_property
    def table(self) -> sqlite3.Connection:
        """A read-only connection to the database of ``full``."""
        uri = f"{self.full.database.as_uri()}?mode=ro"
        return self.enter(contextlib.closing(sqlite3.connect(uri, uri=True)))

    @contextlib.contextmanager
    def all_cores(self, daemon: DaemonProcess) -> Iterator[None]:
        """Allow all cores to this process, its children and a daemon within the block."""

        def place(cores: set[int]) -> None:
            os.sched_setaffinity(0, cores)
            for thread in Path(f"/proc/{daemon.pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), cores)

        place(self.cores)
        try:
            yield
        finally:
            place({self._core})
