"""Random commands beside random faults leave no lie and no process, and the next daemon with room puts records right.

The faults: few descriptors and clients that take them, a full disk, broken run folders, processes and shims that are
killed or suspended, and the daemon's own end. A sequence follows from its seed, which is in the test's name; its course
depends on timing as well. A failure tells what was done. ``NEXUS_TESTS_SOAK`` multiplies the number of seeds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import re
import select
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nexus_protocol import Command, Internal, NexusError
from support.broken_runs import BREAKAGES, break_run, run_folders
from support.faults import fill, on_small_disk
from support.live_services import exists, listen, python
from support.raw import connect, wait_until
from support.services import ServiceWorld, end_runs, processes_of
from support.soak import SOAK
from support.stores import look_at

from nexus.services.commands import (
    AddDependency,
    AddService,
    GetServiceStatus,
    GetServiceStdout,
    ListServices,
    RemoveDependency,
    RemoveService,
    RestartService,
    StartService,
    StopService,
    UpdateService,
)
from nexus.services.records import Service
from nexus.services.states import DependencyCondition, RestartPolicy, ServiceState, ServiceType, WhenLost
from nexus.system.commands import Ping

STEPS = 30
FIRST_SEED = 101
COMMAND_MS = 1500
"""The time limit of a command: under these faults it may have to wait for longer than a test does."""
ANSWER_S = 5.0
"""How long to wait for the answer of a command that has no time limit of its own, before it is cancelled."""
SETTLE_S = 40.0
DISK_KIB = 8 * 1024

COMMON: dict[str, Any] = {
    "start_window_ms": 20,
    "stop_grace_ms": 300,
    "restart_backoff_ms": 60,
    "restart_backoff_max_ms": 200,
    "restart_limit": 0,
    "log_limit_mib": 1,
    "health_interval_ms": 200,
}
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
LEAVES = [
    "/bin/sh",
    "-c",
    "setsid sleep 600 & (setsid sh -c 'trap \"\" TERM; sleep 600; sleep 600' &) ; exec sleep 600",
]
SERVICES: dict[str, dict[str, Any]] = {
    "plain": {"run_command": "while :; do echo line; sleep 0.1; done"},
    "always": {"run_command": "exec sleep 600", "restart": RestartPolicy.ALWAYS},
    "stubborn": {"run_command": python(STUBBORN), "health_log": "up"},
    "leaves": {"run_command": LEAVES, "restart": RestartPolicy.ALWAYS},
    "crashes": {"run_command": "sleep 0.3; exit 3", "restart": RestartPolicy.ON_FAILURE, "restart_limit": 3},
    "once": {"run_command": "exit 0", "type": ServiceType.ONESHOT},
    "checked": {
        "run_command": "exec sleep 600",
        "health_exec": ["/bin/sh", "-c", "setsid sleep 600 & exit 0"],
        "restart_unhealthy": True,
    },
    "web": {"run_command": listen(), "port": 0, "health_tcp": 0, "restart": RestartPolicy.ON_FAILURE},
    "uses": {"run_command": "exec sleep 600"},
    "needs": {"run_command": "exec sleep 600", "restart": RestartPolicy.ALWAYS},
}
DEPENDENCIES: dict[tuple[str, str], dict[str, Any]] = {
    ("uses", "web"): {"condition": DependencyCondition.STARTED, "tunnel_enabled": True},
    ("needs", "plain"): {"condition": DependencyCondition.STARTED, "when_lost": WhenLost.RESTART},
    ("needs", "once"): {"condition": DependencyCondition.COMPLETED},
}
INACTIVE = (ServiceState.STOPPED, ServiceState.FAILED)
_BUG = re.compile(r"Traceback|\[\w+\.py:\d+ ")
"""How an exception that was not expected looks in the daemon's log."""
_LABEL = re.compile(rb"((?:service|tunnel)-[^/]+)/([0-9a-f]{32})")


class Sequence:
    """One daemon, its services, the steps that act on them, and the invariants."""

    def __init__(self, world: ServiceWorld, chance: random.Random, descriptors: int | None, disk: Path | None) -> None:
        self.world = world
        self.daemon = world.daemon
        self.chance = chance
        self.disk = disk
        self.descriptors = descriptors
        self.daemon.descriptors = descriptors
        self.crowd: list[socket.socket] = []
        """Clients that only hold connections."""
        self.filler: Path | None = None
        self.locks: list[int] = []
        """Locks of runs that the test holds."""
        self.said: list[str] = []
        """What was done, for the message of a failure."""
        self.daemon.start()
        self.client = connect(self.daemon)
        for name in SERVICES:
            self.client.call(AddService(name=name, **(COMMON | SERVICES[name])))
        for (service, dependency), fields in DEPENDENCIES.items():
            self.client.call(AddDependency(service=service, dependency=dependency, **fields))

    # Commands

    def request(self, command: Command[Any]) -> NexusError | None:
        """Send a command and check its answer, which it returns if it is an error; afterwards the daemon must answer.

        Its processes must be gone where the answer says so.
        """
        name = str(getattr(command, "service", ""))
        before = self.processes(name) if isinstance(command, StopService | RestartService | RemoveService) else {}
        error = self.answer(self.client.begin(command))
        self.said[-1] += " ok" if error is None else f" {error.type or error.code}: {error.message}"
        if error is not None:
            assert not isinstance(error, Internal), f"{command}: {error.message}"
            assert error.message.strip(), command
        if error is None or (error.details.get("stopped") and error.details.get("name") == name):
            left = {pid: run for pid, run in before.items() if exists(pid)}
            assert not left, f"{type(command).__name__} {name} has succeeded, and left {left}"
        self.client.call(Ping())
        return error

    def answer(self, sequence: int) -> NexusError | None:
        """The error of a request, None for a success. It is cancelled when it takes longer than a person waits."""
        try:
            poll = select.poll()
            poll.register(self.client.sock, select.POLLIN)
            for _ in range(200):
                if sequence in self.client.last_sequences() or not poll.poll(ANSWER_S * 1000):
                    break
                assert self.client.receive_some(), "the daemon closed the connection"
            if sequence not in self.client.last_sequences():
                self.client.cancel(sequence)
            list(self.client.items(sequence))
            self.client.payload(sequence)
        except NexusError as error:
            return error
        return None

    def start(self, name: str) -> None:
        """Start a service."""
        self.request(StartService(service=name, wait=self.chance.random() < 0.3, timeout_ms=COMMAND_MS))

    def restart(self, name: str) -> None:
        """Restart a service."""
        self.request(RestartService(service=name, timeout_ms=COMMAND_MS))

    def stop(self, name: str) -> None:
        """Stop a service, mostly with its dependents."""
        self.request(StopService(service=name, cascade=self.chance.random() < 0.8, timeout_ms=COMMAND_MS))

    def replace(self, name: str) -> None:
        """Remove a service with its dependencies and add both again. Any of these commands may fail."""
        edges = [edge for edge in DEPENDENCIES if name in edge]
        for service, dependency in edges:
            self.request(RemoveDependency(service=service, dependency=dependency))
        self.request(RemoveService(service=name, stop=True))
        self.request(AddService(name=name, **(COMMON | SERVICES[name])))
        for service, dependency in edges:
            self.request(AddDependency(service=service, dependency=dependency, **DEPENDENCIES[service, dependency]))

    def update(self, name: str) -> None:
        """Change a record."""
        self.request(UpdateService(service=name, tags=[f"t{self.chance.randrange(9)}"]))

    def look(self, name: str) -> None:
        """Read the records, a status and an output."""
        for command in (GetServiceStatus(service=name), ListServices(), GetServiceStdout(service=name, lines=5)):
            self.request(command)

    # Faults

    def crowd_in(self) -> None:
        """Connect more clients than there are descriptors; those that are not accepted wait in the queue."""
        for _ in range(80 if self.descriptors is None else self.descriptors + 8):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sock.connect(str(self.daemon.socket_path))
            self.crowd.append(sock)

    def crowd_out(self) -> None:
        """Close these clients."""
        while self.crowd:
            self.crowd.pop().close()

    def fill_disk(self) -> None:
        """Leave nothing of the disk, or some KiB."""
        if self.disk is not None and self.filler is None:
            self.filler = fill(self.disk, leave_kib=self.chance.choice([0, 0, 24]))

    def free_disk(self) -> None:
        """Delete what fills the disk."""
        if self.filler is not None:
            self.filler.unlink()
            self.filler = None

    def break_folder(self) -> None:
        """Break the folder of a run in one of many ways."""
        folders = run_folders(self.daemon.state / "processes")
        if folders:
            folder, way = self.chance.choice(folders), self.chance.choice(sorted(BREAKAGES))
            self.said[-1] += f" {folder.parent.name} {folder.name[:6]}: {way}"
            break_run(folder, way)

    def take_lock(self) -> None:
        """Put another process's lock in the place of a run's."""
        folders = run_folders(self.daemon.state / "processes")
        if folders:
            path = self.chance.choice(folders) / "lock"
            self.said[-1] += f" {path.parent.parent.name}"
            with contextlib.suppress(OSError):
                path.unlink()
                self.locks.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                fcntl.flock(self.locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)

    def signal_shim(self) -> None:
        """Kill, suspend or resume a shim."""
        shims = self.shims()
        if shims:
            pid = self.chance.choice(sorted(shims))
            number = self.chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT])
            self.said[-1] += f" {shims[pid]} {number.name}"
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def signal_process(self) -> None:
        """Kill or suspend a process of a service."""
        processes = self.processes()
        if processes:
            pid = self.chance.choice(sorted(processes))
            number = self.chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP])
            self.said[-1] += f" {processes[pid]} {number.name}"
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def begin_anew(self) -> None:
        """End the daemon, mostly by SIGKILL, and start the next one with the same limit."""
        self.end_daemon(killed=self.chance.random() < 0.8)
        try:
            self.daemon.start()
        except AssertionError:
            if self.filler is None:
                raise
            self.said[-1] += " did not start on the full disk"
            self.free_disk()
            self.daemon.start()
        self.client = connect(self.daemon)

    def end_daemon(self, *, killed: bool) -> None:
        self.client.close()
        if killed:
            self.daemon.kill()
        else:
            assert self.daemon.stop() == 0
        self.crowd_out()

    # What is seen from outside

    def processes(self, name: str | None = None) -> dict[int, str]:
        """The processes of one service or of all: the run of each by its pid."""
        return {
            pid: run
            for service, runs in self.world.runs().items()
            if name in (None, service)
            for run, pids in runs.items()
            for pid in pids
            if exists(pid)
        }

    def shims(self) -> dict[int, str]:
        """The owners of all runs by the pids of their shims."""
        found = {}
        for pid in processes_of(self.world.root):
            with contextlib.suppress(OSError):
                for text in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    if match := _LABEL.fullmatch(text):
                        found[pid] = match[1].decode()
        return found

    def violations(self) -> list[str]:
        """What in the records is not true, or still changing."""
        with look_at(self.daemon.database) as database:
            rows = dict(database.execute("SELECT name, run_id FROM service").fetchall())
        services = {service.name: service for service in self.client.call(ListServices()).services}
        found = [
            f"{words}: {summary(service)}"
            for service in services.values()
            for words in self.check(service, rows.get(service.name))
        ]
        again = {service.name: service for service in self.client.call(ListServices()).services}
        return found + [f"it is changing: {summary(again[name])}" for name in services if services[name] != again[name]]

    def check(self, service: Service, run: str | None) -> Iterator[str]:
        """The violations of one service."""
        alive = self.processes(service.name)
        others = {pid for pid, its in alive.items() if its.partition(".")[0] != run}
        if others:
            yield f"it has processes {others} of other runs"
        if service.unknown_since is not None:
            if not alive:
                yield "it is unknown, and has no processes"
        elif service.state is ServiceState.RUNNING:
            if service.pid not in alive:
                yield f"its process is gone, it has {alive}"
        elif service.state in INACTIVE:
            if alive or service.pid is not None:
                yield f"it has processes {alive}"
        elif service.state is not ServiceState.STARTING or not (service.reason or "").startswith("waits for"):
            yield "its state is changing"

    # The end

    def finish(self) -> None:
        """Give the next daemon room; then every record is true, everything can be ended, and nothing is left."""
        self.crowd_out()
        self.free_disk()
        while self.locks:
            os.close(self.locks.pop())
        if self.chance.random() < 0.5:
            for pid in self.shims():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        self.end_daemon(killed=True)
        self.daemon.descriptors = None
        self.daemon.start()
        self.client = connect(self.daemon)
        self.until(lambda: not self.violations(), lambda: "\n".join(self.violations()))
        for name in SERVICES:
            self.end(StopService(service=name, cascade=True))
        self.until(lambda: not self.violations(), lambda: "\n".join(self.violations()))
        states = {service.name: service.state for service in self.client.call(ListServices()).services}
        assert set(states.values()) <= {ServiceState.STOPPED}, states
        for edge in DEPENDENCIES:
            self.end(RemoveDependency(*edge))
        for name in SERVICES:
            self.end(RemoveService(service=name))
        assert self.daemon.stop() == 0
        self.client.close()
        self.until(lambda: not self.left(), lambda: f"{self.left()} are left")
        assert not self.daemon.socket_path.exists()
        processes = self.daemon.state / "processes"
        folders = [path for prefix in ("service-*", "tunnel-*") for path in processes.glob(prefix)]
        assert not folders, f"folders are left: {folders}"
        bugs = [line for line in self.daemon.log().splitlines() if _BUG.search(line)]
        assert not bugs, "\n".join(bugs)

    def close(self) -> None:
        """End everything without the product's help: its view of the broken folders is what is tested."""
        self.crowd_out()
        self.client.close()
        for descriptor in self.locks:
            os.close(descriptor)
        if self.daemon.process is not None:
            self.daemon.kill()
        end_runs(self.world.root)
        shutil.rmtree(self.daemon.state / "processes", ignore_errors=True)

    def left(self) -> dict[int, str]:
        """The processes that still refer to the test's folder."""
        found = {}
        for pid in processes_of(self.world.root):
            with contextlib.suppress(OSError):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return found

    def end(self, command: Command[Any]) -> None:
        """A command that must succeed, or find nothing to act on."""
        self.said.append(f"at the end: {command}")
        error = self.request(command)
        assert error is None or error.code == "not_found", f"{command}: {error}"

    def until(self, condition: Callable[[], object], describe: Callable[[], str]) -> None:
        """Wait for a condition; fail with what is wrong instead."""
        try:
            wait_until(condition, "", SETTLE_S)
        except AssertionError:
            raise AssertionError(f"after {SETTLE_S:g} s: {describe()}") from None

    def run(self, steps: int) -> None:
        """Carry out random steps."""
        names = sorted(SERVICES)
        for _ in range(steps):
            verb = self.chance.choice(VERBS)
            step = getattr(self, verb)
            name = self.chance.choice(names)
            self.said.append(f"{verb} {name}" if verb in COMMANDS else verb)
            step(name) if verb in COMMANDS else step()


COMMANDS = ("start", "restart", "stop", "replace", "update", "look")
FAULTS = ("crowd_in", "crowd_out", "fill_disk", "free_disk", "break_folder", "take_lock", "signal_shim", "begin_anew")
VERBS = (
    *COMMANDS,
    "start",
    "start",
    "start",
    "restart",
    "stop",
    *FAULTS,
    "break_folder",
    "signal_shim",
    "signal_process",
)


def summary(service: Service) -> str:
    """A service for a message, without its constant fields."""
    names = (
        "name",
        "state",
        "pid",
        "reason",
        "unknown_since",
        "exit_code",
        "exit_signal",
        "restarts",
        "next_restart_at",
    )
    return " ".join(f"{name}={getattr(service, name)!s}" for name in names)


def carry_out(world: ServiceWorld, seed: str, descriptors: int | None, disk: Path | None) -> None:
    """One sequence from its seed."""
    sequence = Sequence(world, random.Random(f"{seed} {descriptors}"), descriptors, disk)
    try:
        for name in SERVICES:
            sequence.said.append(f"start {name}")
            sequence.start(name)
        sequence.run(STEPS)
        sequence.said.append("finish")
        sequence.finish()
    except BaseException as error:
        said = "\n".join(sequence.said)
        raise AssertionError(f"seed {seed}: {error!r}\n{said}\n{world.daemon.log()}") from error
    finally:
        sequence.close()


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SOAK))
@pytest.mark.parametrize("descriptors", [48, 64, None])
def test_random_faults_and_commands_leave_no_lie_and_no_process(root: Path, descriptors: int | None, seed: int) -> None:
    def on_disk(disk: Path) -> None:
        with ServiceWorld(root, config='[daemon]\nlog_level = "warning"\ndrain_timeout_s = 1\n') as world:
            carry_out(world, str(seed), descriptors, disk)

    on_small_disk(root / "state", DISK_KIB, on_disk)
