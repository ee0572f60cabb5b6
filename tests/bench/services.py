"""The measures of two hundred services under one daemon, with supervisord and the same programs as baseline."""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from socket import create_server
from typing import Any
from xmlrpc.client import ServerProxy

from bench.measures import Measure, Sample, compare_durations, duration
from bench.world import Pipeline, World
from nexus_protocol import Command
from support.raw import wait_until

from nexus.client import BlockingClient
from nexus.services.commands import (
    AddService,
    GetServiceStatus,
    ListServices,
    StartService,
    StopService,
    UpdateService,
)
from nexus.services.records import Service
from nexus.services.states import ServiceHealth, ServiceState

__all__ = ["SERVICE_MEASURES"]

COUNT = 200
NAMES = [f"sleeper-{number:03}" for number in range(COUNT)]
PROGRAM = ["/bin/sleep", "100000"]
_MIB = 1024 * 1024

SUPERVISOR = """
[unix_http_server]
file = {root}/supervisor.sock
[supervisord]
directory = {root}
logfile = {root}/supervisord.log
pidfile = {root}/supervisord.pid
childlogdir = {root}
nodaemon = true
silent = true
minfds = 4096
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl = unix://{root}/supervisor.sock
"""
SUPERVISED = """
[program:{name}]
command = {command}
autostart = false
startsecs = 0
"""


class Fleet:
    """A daemon and a supervisord with the same programs; both are ended at exit."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._close = contextlib.ExitStack()

    def __enter__(self) -> Fleet:
        with contextlib.ExitStack() as stack:
            self.daemon = self._world.new_daemon()
            stack.callback(self.daemon.close)
            self.daemon.start()
            self.root = self._world.new_root()
            self.supervisord = stack.enter_context(supervisord(self.root))
            self.supervisor = stack.enter_context(supervisor_at(self.root))
            self.each(AddService(name=name, run_command=PROGRAM, start_window_ms=0) for name in NAMES)
            self._close = stack.pop_all()
        self.start_services()
        self.start_supervised()
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()

    def each(self, commands: Iterable[Command[Any]]) -> None:
        """Send ``COUNT`` commands in a pipeline and wait for all replies."""
        pending = iter(commands)
        with contextlib.closing(Pipeline(self.daemon.socket_path)) as pipeline:
            assert pipeline.run(lambda: next(pending), lambda sent: sent < COUNT) == COUNT

    @property
    def client(self) -> contextlib.AbstractContextManager[BlockingClient]:
        """A connection to the daemon."""
        return BlockingClient(self.daemon.socket_path)

    def start_services(self) -> None:
        """Start all services of the daemon."""
        self.each(StartService(service=name) for name in NAMES)

    def stop_services(self) -> None:
        """Stop all services of the daemon."""
        self.each(StopService(service=name) for name in NAMES)

    def start_supervised(self) -> None:
        """Start all programs of supervisord."""
        self.supervisor.supervisor.startAllProcesses(True)

    def stop_supervised(self) -> None:
        """Stop all programs of supervisord."""
        self.supervisor.supervisor.stopAllProcesses(True)

    def wait_for(self, condition: Callable[[Service], bool]) -> None:
        """Wait until all services of the daemon meet a condition."""
        with self.client as client:
            wait_until(lambda: all(map(condition, client.call(ListServices()).services)), "two hundred services")

    def shims(self) -> list[int]:
        """The pids of the shims, which are the parents of the services' processes."""
        with self.client as client:
            services = client.call(ListServices()).services
        return [int(_stat(service.pid)[1]) for service in services if service.pid is not None]


@contextlib.contextmanager
def supervisord(root: Path) -> Iterator[int]:
    """A supervisord with all programs, not started yet; yields its pid."""
    command = " ".join(PROGRAM)
    programs = [SUPERVISED.format(name=name, command=command) for name in NAMES]
    (root / "supervisord.conf").write_text(SUPERVISOR.format(root=root) + "".join(programs))
    process = subprocess.Popen(
        [Path(sys.executable).with_name("supervisord"), "-c", root / "supervisord.conf"], stdin=subprocess.DEVNULL
    )
    try:
        wait_until((root / "supervisor.sock").exists, "supervisord")
        yield process.pid
    finally:
        process.terminate()  # it ends its programs
        process.wait(60)


@contextlib.contextmanager
def supervisor_at(root: Path) -> Iterator[ServerProxy]:
    """A client of supervisord on its Unix socket, like that of supervisorctl."""
    from supervisor.xmlrpc import SupervisorTransport  # type: ignore[import-untyped]

    transport = SupervisorTransport(None, None, f"unix://{root}/supervisor.sock")
    with ServerProxy("http://127.0.0.1", transport=transport) as proxy:
        yield proxy


@functools.cache
def fleet_of(world: World) -> Fleet:
    """The only fleet of a run."""
    return world.enter(Fleet(world))


# Figures of processes


def _stat(pid: int) -> list[str]:
    """``/proc/PID/stat`` from its third field on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _cpu_s(pids: list[int]) -> float:
    """CPU seconds of all threads, from ``schedstat``, which has nanoseconds instead of ticks."""
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _private_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# Measures


def _up(world: World) -> Sample:
    fleet = fleet_of(world)

    def ours() -> float:
        fleet.stop_services()
        return duration(fleet.start_services)

    def theirs() -> float:
        fleet.stop_supervised()
        return duration(fleet.start_supervised)

    return compare_durations(world, ours, theirs)


def _latencies(world: World, call: Callable[[], Any]) -> list[float]:
    return [duration(call) * 1000 for _ in range(20 if world.quick else 100)]


def _compare_latencies(world: World, command: Command[Any], theirs: Callable[[Any], Any]) -> Sample:
    fleet = fleet_of(world)
    api = fleet.supervisor.supervisor
    with fleet.client as client:
        ours = _latencies(world, lambda: client.call(command))
    return Sample(statistics.median(ours), statistics.median(_latencies(world, lambda: theirs(api))))


def _p99(world: World, command: Command[Any]) -> Sample:
    with fleet_of(world).client as client:
        return Sample(statistics.quantiles(_latencies(world, lambda: client.call(command)), n=100)[98])


def _list(world: World) -> Sample:
    return _compare_latencies(world, ListServices(), lambda api: api.getAllProcessInfo())


def _status(world: World) -> Sample:
    return _compare_latencies(world, GetServiceStatus(service=NAMES[7]), lambda api: api.getProcessInfo(NAMES[7]))


def _cli(world: World) -> Sample:
    fleet = fleet_of(world)
    programs = Path(sys.executable).parent

    def run(*command: str | Path) -> float:
        environment = fleet.daemon.environment

        def work() -> None:
            subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, timeout=60
            )

        return duration(work)

    return compare_durations(
        world,
        lambda: run(programs / "nexusctl", "service", "list"),
        lambda: run(programs / "supervisorctl", "-c", fleet.root / "supervisord.conf", "status"),
    )


def _adopt(world: World) -> Sample:
    fleet = fleet_of(world)

    def restart() -> None:
        fleet.daemon.start()
        fleet.wait_for(lambda service: service.state is ServiceState.RUNNING)

    fleet.daemon.kill()
    return Sample(duration(restart) * 1000)


def _memory(world: World) -> Sample:
    return Sample(fleet_of(world).daemon.rss_bytes() / _MIB)


def _all_memory(world: World) -> Sample:
    fleet = fleet_of(world)
    shims = sum(map(_private_bytes, fleet.shims()))
    return Sample((fleet.daemon.rss_bytes() + shims) / _MIB, _rss_bytes(fleet.supervisord) / _MIB)


def _shims(world: World) -> Sample:
    return Sample(statistics.fmean(map(_private_bytes, fleet_of(world).shims())) / 1024)


def _idle(world: World) -> Sample:
    """CPU use in percent of a core: of the daemon with all shims, and of supervisord, at the same time."""
    fleet = fleet_of(world)
    ours, theirs = [fleet.daemon.pid, *fleet.shims()], [fleet.supervisord]
    seconds = 2 if world.quick else 10
    before = _cpu_s(ours), _cpu_s(theirs)
    time.sleep(seconds)
    return Sample((_cpu_s(ours) - before[0]) / seconds * 100, (_cpu_s(theirs) - before[1]) / seconds * 100)


def _checked(world: World) -> Sample:
    """The same while each service has a health check of a port every two seconds."""
    fleet = fleet_of(world)
    with _accepting() as port:
        fleet.each(UpdateService(service=name, health_tcp=port, health_interval_ms=2000) for name in NAMES)
        fleet.wait_for(lambda service: service.health is ServiceHealth.HEALTHY)
        sample = _idle(world)
        fleet.each(UpdateService(service=name, clear=["health_tcp"]) for name in NAMES)
    return Sample(sample.ours)


@contextlib.contextmanager
def _accepting() -> Iterator[int]:
    """A port on which a thread accepts connections within the block."""
    with create_server(("127.0.0.1", 0), backlog=1024) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(2)
            thread.join()


_THEIRS = "supervisord"

SERVICE_MEASURES = (
    Measure("services-up", f"{COUNT} services, start to up", "ms", 4.0, False, _up, _THEIRS),
    Measure("services-list", f"ListServices of {COUNT}, p50", "ms", 1.0, False, _list, "getAllProcessInfo"),
    Measure(
        "services-list-p99",
        f"ListServices of {COUNT}, p99",
        "ms",
        10.0,
        False,
        functools.partial(_p99, command=ListServices()),
    ),
    Measure("services-status", f"GetServiceStatus, one of {COUNT}, p50", "ms", 2.0, False, _status, "getProcessInfo"),
    Measure(
        "services-status-p99",
        f"GetServiceStatus, one of {COUNT}, p99",
        "ms",
        10.0,
        False,
        functools.partial(_p99, command=GetServiceStatus(service=NAMES[7])),
    ),
    Measure("services-cli", "`nexusctl service list`, whole process", "ms", 1.0, False, _cli, "`supervisorctl status`"),
    Measure("services-memory", f"`nexusd` with {COUNT} services, resident", "MiB", 60.0, False, _memory),
    Measure("services-shim", "a service's shim, private memory", "KiB", 100.0, False, _shims),
    Measure("services-all-memory", "`nexusd` and all shims", "MiB", 2.5, False, _all_memory, _THEIRS),
    Measure("services-idle", f"`nexusd` and shims, {COUNT} idle services", "% CPU", 1.0, False, _idle, _THEIRS),
    Measure("services-checked", "the same, each with a port checked every 2 s", "% CPU", 10.0, False, _checked),
    Measure("services-adopt", f"`nexusd` restart, until {COUNT} are adopted", "ms", 2000.0, False, _adopt),
)
"""In the order of the table."""
