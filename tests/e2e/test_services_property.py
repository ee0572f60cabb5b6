"""Random orders of commands, program exits and daemon ends leave records that match the services' processes.

The programs note their starts and ends, and a trigger in the database records the changes of each row. Both bypass the
daemon. ``NEXUS_TESTS_SOAK`` multiplies the number of orders.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from nexus_protocol import Command, Internal, NexusError
from support.daemon import short_directory
from support.raw import RawClient, wait_until
from support.service_history import check_history, create_audited_database, notes_of, scripted
from support.services import ServiceWorld, stat_fields
from support.soak import SOAK
from support.stores import look_at

from nexus.services.commands import (
    AddDependency,
    AddService,
    RemoveDependency,
    RemoveService,
    RestartService,
    StartService,
    StopService,
    UpdateService,
)
from nexus.services.records import Service
from nexus.services.states import (
    DependencyCondition,
    RestartPolicy,
    ServiceHealth,
    ServiceState,
    ServiceType,
    WhenLost,
)
from nexus.system.commands import Ping

PARTS = 5 * SOAK
EXAMPLES_PER_PART = 3
PATIENCE_MS = 500
"""How long a step waits for a reply that may depend on a later step."""

COMMON: dict[str, Any] = {
    "start_window_ms": 20,
    "stop_grace_ms": 80,
    "restart_backoff_ms": 60,  # longer than the start of a program takes
    "restart_backoff_max_ms": 150,
    "log_limit_mib": 1,
}
SERVICES: dict[str, dict[str, Any]] = {
    "db": {"restart": RestartPolicy.ON_FAILURE, "restart_limit": 3, "health_log": "ready"},
    "init": {"type": ServiceType.ONESHOT},
    "api": {"restart": RestartPolicy.ALWAYS, "restart_limit": 0, "stop_grace_ms": 250},
    "web": {"stop_grace_ms": 250},
}
DEFAULT_ORDERS = {"init": "exit 0"}
DEPENDENCIES: dict[tuple[str, str], tuple[DependencyCondition, WhenLost]] = {
    ("init", "db"): (DependencyCondition.STARTED, WhenLost.IGNORE),
    ("api", "db"): (DependencyCondition.HEALTHY, WhenLost.RESTART),
    ("api", "init"): (DependencyCondition.COMPLETED, WhenLost.IGNORE),
    ("web", "api"): (DependencyCondition.STARTED, WhenLost.STOP),
}
INACTIVE = (ServiceState.STOPPED, ServiceState.FAILED)


class Harness:
    """Four services of a daemon, the steps that act on them, and the invariants that hold for them."""

    def __init__(self, world: ServiceWorld) -> None:
        self.world = world
        self.client: RawClient | None = None
        self.open: list[int] = []
        """Requests whose replies are checked later."""
        self.settled: dict[str, Service] = {}
        """The records that the last check found."""
        create_audited_database(world.daemon.database)
        for name in SERVICES:
            os.mkfifo(world.root / f"{name}.fifo", 0o600)
            for suffix in ("lock", "notes", "plan"):
                (world.root / f"{name}.{suffix}").touch()
        for name in SERVICES:
            self.request(self.definition(name))
        for edge in DEPENDENCIES:
            self.request(self.dependency(*edge))

    def definition(self, name: str) -> AddService:
        """The command that adds a service."""
        argv = scripted(self.world.root / name, DEFAULT_ORDERS.get(name, "stay"))
        return AddService(name=name, run_command=argv, **(COMMON | SERVICES[name]))

    def dependency(self, service: str, dependency: str) -> AddDependency:
        """The command that adds a dependency."""
        condition, when_lost = DEPENDENCIES[service, dependency]
        return AddDependency(service=service, dependency=dependency, condition=condition, when_lost=when_lost)

    # Requests

    def connected(self) -> RawClient:
        """The connection to the daemon; starts the daemon if it does not run."""
        if self.client is None:
            self.world.daemon.start()
            self.client = RawClient(self.world.daemon.socket_path)
        return self.client

    def request(self, command: Command[Any], *, answered: bool = True) -> None:
        """Send a command. Any reply but ``Internal`` is accepted."""
        sequence = self.connected().begin(command)
        if answered:
            self.check_answer(sequence)
        else:
            self.open.append(sequence)

    def check_answer(self, sequence: int) -> None:
        """Wait for a reply, which must not be ``Internal``."""
        try:
            self.connected().payload(sequence)
        except Internal:
            raise
        except NexusError:
            pass

    # Steps

    def start(self, name: str, ready: bool, answered: bool) -> None:
        """Start a service."""
        timeout_ms = PATIENCE_MS if answered else None
        self.request(StartService(service=name, wait=ready, timeout_ms=timeout_ms), answered=answered)

    def restart(self, name: str, ready: bool, answered: bool) -> None:
        """Restart a service."""
        timeout_ms = PATIENCE_MS if answered else None
        self.request(RestartService(service=name, wait=ready, timeout_ms=timeout_ms), answered=answered)

    def stop(self, name: str, cascade: bool, answered: bool) -> None:
        """Stop a service."""
        self.request(StopService(service=name, cascade=cascade), answered=answered)

    def update(self, name: str, changes: dict[str, Any], answered: bool) -> None:
        """Update a service's record."""
        self.request(UpdateService(service=name, **changes), answered=answered)

    def replace(self, name: str) -> None:
        """Remove a service with its dependencies and add both again. Any of these commands may fail."""
        edges = [edge for edge in DEPENDENCIES if name in edge]
        for service, dependency in edges:
            self.request(RemoveDependency(service=service, dependency=dependency))
        self.request(RemoveService(service=name, stop=True))
        self.request(self.definition(name))
        for edge in edges:
            self.request(self.dependency(*edge))

    def order(self, name: str, word: str) -> None:
        """Give the program an order, if it runs."""
        with contextlib.suppress(OSError):
            fifo = os.open(self.world.root / f"{name}.fifo", os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.write(fifo, word.encode() + b"\n")
            finally:
                os.close(fifo)

    def plan(self, name: str, words: list[str]) -> None:
        """Set the first orders of the program's next runs."""
        path = self.world.root / f"{name}.plan"
        new = path.with_suffix(".new")
        new.write_text("".join(f"{word}\n" for word in words))
        new.replace(path)

    def crash(self, name: str, word: str) -> None:
        """End the program, and each of its next runs, in this way."""
        self.plan(name, [word] * 5)
        self.order(name, word)

    def leave(self, killed: bool) -> None:
        """Stop or kill the daemon; open requests are dropped."""
        if self.client is not None:
            if killed:
                self.world.daemon.kill()
            else:
                assert self.world.daemon.stop() == 0
            self.client.close()
            self.client = None
            self.open.clear()

    def bounce(self, killed: bool) -> None:
        """Restart the daemon once nothing changes any more: running services are not touched."""
        self.settle()
        quiet = not self.unanswered()
        settled = self.settled
        before = {name: service for name, service in settled.items() if service.pid is not None}
        self.leave(killed)
        self.settle()
        after = self.world.services()
        ended = {
            note.pid for name in SERVICES for note in notes_of(self.world.root, name) if note.word in ("exit", "kill")
        }
        if not quiet or any(service.pid in ended or service.lost_dependencies for service in before.values()):
            return  # something had happened that was not in the rows yet
        fields = ("state", "pid", "started_at", "restarts")
        for name, service in before.items():
            changed = [field for field in fields if getattr(service, field) != getattr(after[name], field)]
            assert not changed, f"{name}: {[*map(summary, [*settled.values(), *after.values()])]}"

    def unanswered(self) -> list[int]:
        """The requests without a reply, once the daemon has read all of them."""
        self.request(Ping())
        answered = self.connected().last_sequences()
        return [sequence for sequence in self.open if sequence not in answered]

    # Invariants

    def settle(self) -> None:
        """Wait until nothing is in progress and every row is true; otherwise fail with the violations."""
        self.connected()
        try:
            wait_until(lambda: not self.violations(), "the rows to be true", 20)
        except AssertionError:
            found = self.violations()
            assert not found, "; ".join(found)
        for name in SERVICES:
            assert not [note for note in notes_of(self.world.root, name) if note.word == "twice"], (
                f"two runs of {name} at once"
            )

    def violations(self) -> list[str]:
        """Services that are still changing, and rows that do not match the processes."""
        services = self.world.services()
        runs, wanted = self.private_columns()
        found = [
            f"{words}: {summary(service)}"
            for service in services.values()
            for words in self.check_service(service, services, runs.get(service.name), wanted)
        ]
        if services != self.world.services():
            found.append("rows are still changing")
        self.settled = services
        return found

    def check_service(
        self, service: Service, services: dict[str, Service], run: str | None, wanted: set[str]
    ) -> Iterator[str]:
        """The violations of one service."""
        name = service.name
        if service.state is ServiceState.RUNNING:
            mains = [note.pid for note in notes_of(self.world.root, name) if (note.word, note.run) == ("start", run)]
            if run is None or mains != [service.pid]:
                yield f"its processes are {mains}"
            if f"NEXUS_RUN_ID={run}".encode() not in environment_of(service.pid):
                yield "its process is gone or belongs to another run"
            if name not in wanted:
                yield "it runs and is not wanted"
            for other in unmet(service, services, wanted):
                completed = DEPENDENCIES[name, other][0] is DependencyCondition.COMPLETED
                if not completed and other not in service.lost_dependencies:
                    yield f"the loss of {other} is not recorded"
        elif self.is_locked(name):
            yield "it has processes"
        elif run is not None or service.pid is not None:
            yield f"its row has run {run}"
        elif service.state in INACTIVE:
            yield from check_inactive(service, name in wanted)
        elif service.state is not ServiceState.STARTING or not (service.reason or "").startswith("waits for"):
            yield "its state is still changing"
        else:
            missing = [services[other] for other in unmet(service, services, wanted)]
            if not missing:
                yield "it waits for dependencies that are met"
            if not service.lost_dependencies and all(other.state in INACTIVE for other in missing):
                yield "it waits for dependencies that nothing starts"

    def private_columns(self) -> tuple[dict[str, str | None], set[str]]:
        """The run id in each row, and the names of the services that are wanted up."""
        with look_at(self.world.daemon.database) as database:
            rows = database.execute("SELECT name, run_id, wanted FROM service").fetchall()
        return {name: run for name, run, _ in rows}, {name for name, _, wanted in rows if wanted}

    def is_locked(self, name: str) -> bool:
        """Whether any process that a program has ever started exists. Tests the lock without taking it."""
        question = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
        with (self.world.root / f"{name}.lock").open("r+b") as file:
            answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, question)
        return bool(struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK)

    # End

    def finish(self) -> None:
        """Stop everything: every request is answered, no process is left, and the recorded history agrees."""
        self.settle()
        for name in SERVICES:
            self.plan(name, [])
        self.request(StopService(service="db", cascade=True))
        for name in SERVICES:
            self.request(StopService(service=name, cascade=True))
        self.settle()
        for sequence in self.open:
            self.check_answer(sequence)
        assert {service.state for service in self.world.services().values()} == {ServiceState.STOPPED}
        assert self.world.runs() == {}
        self.open.clear()
        self.leave(killed=False)
        log = self.world.daemon.log()
        assert "Traceback" not in log, log
        definitions = {name: self.definition(name) for name in SERVICES}
        check_history(self.world.daemon.database, self.world.root, definitions)


def summary(service: Service) -> str:
    """A service for a message, without its constant fields."""
    names = (
        "name",
        "state",
        "pid",
        "reason",
        "exit_code",
        "exit_signal",
        "restarts",
        "started_at",
        "lost_dependencies",
    )
    return " ".join(f"{name}={getattr(service, name)!s}" for name in names)


def environment_of(pid: int | None) -> list[bytes]:
    """The initial environment of a process; empty for a zombie."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def check_inactive(service: Service, wanted: bool) -> Iterator[str]:
    """The violations of an inactive service: its restart policy would start it."""
    reason = service.reason or ""
    if "dependency" in reason:
        return
    if service.name == "api" and wanted:
        yield "its policy always restarts it"
    if service.name == "db" and wanted and service.exit_code != 0 and "restarts within" not in reason:
        yield "its policy restarts it"


def unmet(service: Service, services: dict[str, Service], wanted: set[str]) -> Iterator[str]:
    """The dependencies of a service that are not met."""
    for (name, other), (condition, _) in DEPENDENCIES.items():
        if name == service.name:
            found = services[other]
            done = found.state is ServiceState.STOPPED and found.exit_code == 0 and other in wanted
            up = found.state is ServiceState.RUNNING and (
                condition is not DependencyCondition.HEALTHY or found.health is not ServiceHealth.UNHEALTHY
            )
            if not (done if condition is DependencyCondition.COMPLETED else up):
                yield other


# Random steps

NAMES = st.sampled_from(sorted(SERVICES))
WORDS = st.sampled_from(["exit 0", "exit 3", "kill 9", "kill 11", "fork", "leave 0", "leave 3", "stay"])
CHANGES = st.sampled_from(
    [{"autostart": True}, {"autostart": False}, {"start_window_ms": 0}, {"start_window_ms": 60}, {"tags": ["a"]}]
)
ARGUMENTS: dict[str, tuple[st.SearchStrategy[Any], ...]] = {
    "start": (NAMES, st.booleans(), st.booleans()),
    "restart": (NAMES, st.booleans(), st.booleans()),
    "stop": (NAMES, st.booleans(), st.booleans()),
    "update": (NAMES, CHANGES, st.booleans()),
    "replace": (NAMES,),
    "order": (NAMES, WORDS),
    "plan": (NAMES, st.lists(WORDS, max_size=6)),
    "crash": (NAMES, st.sampled_from(["exit 3", "kill 9", "leave 3"])),
    "leave": (st.booleans(),),
    "bounce": (st.booleans(),),
}
OFTEN = ("start", "start", "order", "order", "plan", "crash")
STEPS = st.one_of([st.tuples(st.just(verb), *ARGUMENTS[verb]) for verb in (*ARGUMENTS, *OFTEN)])


def run_steps(steps: list[tuple[Any, ...]]) -> None:
    """Run the steps on a fresh daemon with four services, and check the invariants and the history."""
    root = short_directory()
    try:
        with ServiceWorld(root, config='[daemon]\nlog_level = "warning"\ndrain_timeout_s = 0\n') as world:
            harness = Harness(world)
            try:
                harness.start("web", ready=True, answered=True)
                for verb, *arguments in steps:
                    getattr(harness, verb)(*arguments)
                harness.finish()
            except Exception as error:
                code = world.daemon.process and world.daemon.process.poll()
                raise AssertionError(f"{error!r}\n{steps}\n{code}\n{world.daemon.log()}") from error
            finally:
                if harness.client is not None:
                    harness.client.close()
    finally:
        shutil.rmtree(root)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("part", range(PARTS))
def test_services_random_steps_leave_true_records(part: int, pytestconfig: pytest.Config) -> None:
    base = pytestconfig.getoption("--hypothesis-seed") or secrets.token_hex(8)

    @seed(f"{base} {part}")
    @settings(
        max_examples=EXAMPLES_PER_PART + 1,  # the first one of each part is the simplest, the same in all parts
        deadline=None,
        database=None,
        # Each example takes seconds, and its course depends on timing as well as on its steps: no shrinking.
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(steps=st.lists(STEPS, min_size=10, max_size=40))
    def check(steps: list[tuple[Any, ...]]) -> None:
        run_steps(steps)

    check()


@pytest.mark.slow
def test_dependent_during_adoption_of_its_dependency_starts_no_second_copy(root: Path) -> None:
    with ServiceWorld(root) as world:
        world.daemon.start()
        world.add("db", "exec sleep 600", start_window_ms=60_000)
        world.add("api", "exec sleep 600")
        world.call(AddDependency(service="api", dependency="db"))
        with RawClient(world.daemon.socket_path) as client:
            client.begin(StartService(service="api"))
            db = world.wait_for("db", lambda service: service.pid is not None, "to have a process")
            world.wait_for("api", lambda service: service.reason is not None, "to wait for it")
            world.daemon.kill()
        assert db.pid is not None
        shim = int(stat_fields(db.pid)[1])
        for pid in (shim, db.pid):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not stat_fields(shim), "the shim to end")
        (lock,) = world.daemon.state.rglob(f"service-{db.id}/*/lock")
        with lock.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # the next daemon waits for its holder for a while
            world.daemon.start()
        for name in ("db", "api"):
            world.wait_for(name, lambda service: service.state in INACTIVE, "to be inactive")
        assert world.runs() == {}
        assert [event.subject_name for event in world.events("service.starting")] == ["api", "db"]
