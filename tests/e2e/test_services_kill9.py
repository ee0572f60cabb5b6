"""kill -9 of the daemon: services keep running, their exits are recorded, and reused pids are not touched."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.raw import wait_until
from support.services import ServiceWorld, stat_fields
from support.soak import SOAK
from support.stores import look_at

from nexus.client.errors import ConnectionFailure
from nexus.services.commands import RemoveService, RestartService, StartService, StopService
from nexus.services.errors import ServiceStartFailed
from nexus.services.records import Service
from nexus.services.states import RestartPolicy, ServiceState

ROUNDS = 15
WORKERS = 3
INACTIVE = (ServiceState.STOPPED, ServiceState.FAILED)


@pytest.fixture
def world(root: Path) -> Iterator[ServiceWorld]:
    """A running daemon; it and all processes of its services are ended after the test."""
    with ServiceWorld(root) as world:
        world.daemon.start()
        yield world


def is_gone(pid: int) -> bool:
    return stat_fields(pid)[:1] in ([], ["Z"])


@pytest.mark.slow
def test_ten_services_outlive_the_daemon_and_three_exits_are_recorded(world: ServiceWorld) -> None:
    names = [f"stays-{number}" for number in range(7)]
    for name in names:
        world.puppet(name)
    world.puppet("done", restart=RestartPolicy.ON_FAILURE)
    world.puppet("fails", restart=RestartPolicy.ON_FAILURE, restart_backoff_ms=10)
    world.puppet("dies")
    ends = {"done": "exit 0", "fails": "exit 3", "dies": "kill SEGV"}
    for name in (*names, *ends):
        world.call(StartService(service=name))
        world.order(name, "say before")
    before = world.services()
    assert {service.state for service in before.values()} == {ServiceState.RUNNING}

    world.daemon.kill()
    for name in (*names, *ends):
        world.order(name, "say meanwhile")
    for name, end in ends.items():
        world.order(name, end)
    for name, service in before.items():
        wait_until(lambda service=service: b"meanwhile" in world.kept_on_disk(service), f"the output of {name}")
        assert service.pid is not None
    for name in ends:
        wait_until(lambda name=name: is_gone(before[name].pid or 0), f"{name} to end")
    restarted_at = time.time_ns() // 1_000_000
    world.daemon.start()

    after = world.services()
    for name in names:
        same = (after[name].state, after[name].pid, after[name].started_at, after[name].restarts)
        assert same == (ServiceState.RUNNING, before[name].pid, before[name].started_at, 0)
        world.order(name, "say after")
        wait_until(lambda name=name: b"after" in world.output(name), f"the output of {name} after the restart")
        assert world.output(name) == b"before\nmeanwhile\nafter\n"
        assert [piece.at <= restarted_at for piece in world.pieces(name)] == [True, True, False]

    done, dies = after["done"], after["dies"]
    assert (done.state, done.exit_code, done.reason, done.restarts) == (ServiceState.STOPPED, 0, "exited with 0", 0)
    assert (dies.state, dies.exit_signal, dies.exit_code) == (ServiceState.FAILED, signal.SIGSEGV, None)
    assert (dies.reason or "").startswith("killed by SIGSEGV")
    assert {done.stopped_at is not None and done.stopped_at <= restarted_at for done in (done, dies)} == {True}
    assert {service.pid for service in (done, dies)} == {None}
    again = world.wait_for("fails", lambda service: service.state is ServiceState.RUNNING, "to run again")
    assert again.restarts == 1
    assert again.pid != before["fails"].pid
    exits = {event.subject_name: event.detail for event in world.events("service.exited")}
    assert set(exits) == set(ends)
    assert [(exits[name] or {}).get("exit_code") for name in ("done", "fails")] == [0, 3]
    assert (exits["dies"] or {})["exit_signal"] == signal.SIGSEGV
    for name in ends:
        assert world.output(name).startswith(b"before\nmeanwhile\n")

    assert world.cli.ok("service", "stop", "--all").out.count("Stopped") == 8
    assert world.runs() == {}
    assert world.ran_twice() == []
    assert world.daemon.stop() == 0
    assert "Traceback" not in world.daemon.log()


class Worker(threading.Thread):
    """A client that starts, stops and restarts its own two services and keeps the acknowledged states."""

    def __init__(self, world: ServiceWorld, number: int, seed: int, acknowledged: Callable[[], None]) -> None:
        super().__init__(name=f"worker-{number}")
        self.world = world
        self.names = [f"w{number}-{which}" for which in ("steady", "short")]
        self.chance = random.Random(f"{number} {seed}")
        self.acknowledged = acknowledged
        self.up: dict[str, bool] = {}
        """Whether each service was last acknowledged as started; unknown ones are missing."""
        self.in_doubt: str | None = None
        self.problem: BaseException | None = None

    def run(self) -> None:
        try:
            with self.world.client() as client:
                for _ in range(100_000):
                    name = self.chance.choice(self.names)
                    verb = self.chance.choice((StartService, StartService, StopService, RestartService))
                    self.in_doubt = name
                    try:
                        client.call(verb(service=name))
                        self.up[name] = verb is not StopService
                    except ServiceStartFailed:
                        assert name.endswith("short")  # it may exit within its start window
                        self.up.pop(name, None)
                    self.in_doubt = None
                    self.acknowledged()
        except ConnectionFailure:
            pass
        except BaseException as problem:
            self.problem = problem


def violations(world: ServiceWorld) -> list[str]:
    """Rows that do not match the processes. Starting and stopping services are included: they have to settle first."""
    before = world.services()
    runs = world.runs()
    if before != world.services():
        return ["rows are still changing"]
    found = [f"{name}: two runs at once {runs[name]}" for name in runs if len(runs[name]) > 1]
    found += [f"{name}: no such service" for name in runs.keys() - before.keys()]
    for name, service in before.items():
        pids = [pid for run in runs.get(name, {}).values() for pid in run]
        if service.state is ServiceState.RUNNING:
            if service.pid not in pids:
                found.append(f"{name}: its row has pid {service.pid}, its processes are {pids}")
        elif service.state not in INACTIVE:
            found.append(f"{name}: {service.state}")
        elif pids or service.pid is not None:
            found.append(f"{name}: {service.state} with {pids}, pid {service.pid}")
    return found


def settle(world: ServiceWorld) -> None:
    """Wait until all rows match the processes; otherwise fail with the violations."""
    try:
        wait_until(lambda: not violations(world), "the rows to match the processes", 20)
    except AssertionError:
        assert violations(world) == []


def runs_in_database(world: ServiceWorld) -> dict[str, str | None]:
    """The run id in each row, read without a daemon."""
    with look_at(world.daemon.database) as database:
        return dict(database.execute("SELECT name, run_id FROM service"))


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("repetition", range(SOAK))
def test_daemon_killed_at_random_moments_adopts_exactly_what_runs(world: ServiceWorld, repetition: int) -> None:
    for number in range(WORKERS):
        world.puppet(f"w{number}-steady", start_window_ms=20 * number, restart=RestartPolicy.ALWAYS)
        lock = world.root / f"w{number}-short"
        script = 'exec 9>>"$0.lock"; flock -n 9 || echo $$ >>"$0.twice"; sleep 0.1; exit 3'
        world.add(
            f"w{number}-short",
            ["/bin/sh", "-c", script, str(lock)],
            restart=RestartPolicy.ON_FAILURE,
            restart_backoff_ms=10,
            restart_backoff_max_ms=10,
            restart_limit=2,
        )
    chance = random.Random(4 + repetition)
    kills_in_a_run = 0
    for seed in range(repetition * ROUNDS, (repetition + 1) * ROUNDS):
        enough = threading.Semaphore(0)
        workers = [Worker(world, number, seed, enough.release) for number in range(WORKERS)]
        for worker in workers:
            worker.start()
        for _ in range(chance.randint(1, 25)):
            assert enough.acquire(timeout=60), "the workers make no progress"
        world.daemon.kill()
        for worker in workers:
            worker.join(60)
            assert not worker.is_alive()
            if worker.problem is not None:
                raise worker.problem
        known = runs_in_database(world)
        for name, runs in world.runs().items():
            kills_in_a_run += 1
            assert set(runs) == {known[name]}, f"{name} has processes of a run that is not in its row"

        world.daemon.start()
        settle(world)
        now = world.services()
        for worker in workers:
            steady = worker.names[0]
            if steady != worker.in_doubt and steady in worker.up:
                assert (now[steady].state is ServiceState.RUNNING) is worker.up[steady], now[steady]
    assert world.ran_twice() == []
    assert kills_in_a_run > ROUNDS  # otherwise the kills met no running service
    world.cli.ok("service", "stop", "--all")
    settle(world)
    assert world.runs() == {}
    assert world.daemon.stop() == 0
    assert "Traceback" not in world.daemon.log()


# Pids that the kernel has given to another process


class Bystander:
    """A session leader with a child. A daemon that took it for a service would end both."""

    def __init__(self) -> None:
        script = "import os, time; child = os.fork(); child and print(child, flush=True); time.sleep(600)"
        self.process = subprocess.Popen(
            [sys.executable, "-c", script], start_new_session=True, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.child = int(self.process.stdout.readline())
        self.pid = self.process.pid
        self.pids = {self.pid, self.child}

    def is_alive(self) -> bool:
        return not any(is_gone(pid) for pid in self.pids)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def bystander() -> Iterator[Bystander]:
    """A process that belongs to no service."""
    bystander = Bystander()
    try:
        yield bystander
    finally:
        bystander.close()


def kill_run(world: ServiceWorld, service: Service) -> Path:
    """Kill a run and its shim, so that its exit is not recorded; return the folder of its files."""
    assert service.pid is not None
    shim = int(stat_fields(service.pid)[1])
    os.kill(shim, signal.SIGKILL)
    os.kill(service.pid, signal.SIGKILL)
    wait_until(lambda: is_gone(shim) and is_gone(service.pid or 0), "the run to end")
    folders = [path.parent for path in world.daemon.state.rglob(f"service-{service.id}/*/status")]
    assert len(folders) == 1
    return folders[0]


def forge(folder: Path, pid: int, start: str) -> None:
    """Write a pid into the status file of a run, as its main process and as its shim."""
    status = folder / "status"
    data = status.read_bytes()
    words = data[:256].decode().split()
    assert words[:2] == ["run", "1"]
    words[3], words[6] = str(pid), str(pid)
    if start:
        words[4], words[7] = start, start
    status.write_bytes(" ".join(words).encode().ljust(255) + b"\n" + data[256:])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("same_start", "locked"),
    [(False, False), (False, True), (True, False)],
    ids=["reused pid", "reused pid and held lock", "reused pid with its start time"],
)
def test_status_file_with_a_foreign_pid_is_neither_reported_nor_signalled(
    world: ServiceWorld, bystander: Bystander, same_start: bool, locked: bool
) -> None:
    world.puppet("web", restart=RestartPolicy.NO)
    world.call(StartService(service="web"))
    service = world.service("web")
    world.daemon.kill()
    folder = kill_run(world, service)
    forge(folder, bystander.pid, stat_fields(bystander.pid)[19] if same_start else "")
    with look_at(world.daemon.database) as database:
        assert database.execute("SELECT status FROM service").fetchall() == [("running",)]
    held = (folder / "lock").open("rb")
    try:
        if locked:
            fcntl.flock(held, fcntl.LOCK_EX)
        world.daemon.start()
        found = world.wait_for("web", lambda service: service.state not in ("running", "starting"), "to end")
        assert (found.state, found.pid) == (ServiceState.FAILED, None)
        assert found.reason
        assert bystander.is_alive()
        world.call(StopService(service="web"))
        assert bystander.is_alive()
        world.call(StartService(service="web"))
        assert world.service("web").pid not in bystander.pids
        world.call(StopService(service="web"))
        world.daemon.kill()
        world.daemon.start()
        assert bystander.is_alive()
        world.call(RemoveService(service="web"))
        assert bystander.is_alive()
    finally:
        held.close()
    assert world.daemon.stop() == 0
    assert "Traceback" not in world.daemon.log()


def test_row_with_a_foreign_pid_is_failed_and_the_process_kept(world: ServiceWorld, bystander: Bystander) -> None:
    world.puppet("web")
    world.call(StartService(service="web"))
    service = world.service("web")
    world.daemon.kill()
    folder = kill_run(world, service)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    with contextlib.closing(sqlite3.connect(world.daemon.database)) as connection, connection:
        connection.execute("UPDATE service SET pid = ?", (bystander.pid,))
    world.daemon.start()
    found = world.service("web")
    assert (found.state, found.pid) == (ServiceState.FAILED, None)
    world.call(StopService(service="web"))
    world.call(RemoveService(service="web"))
    assert bystander.is_alive()
