"""Projects beside each other and against each other: equal names, races of deletions and renames, and kills."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from nexus_protocol import Command, NexusError
from nexus_protocol.context import ProjectRoot, encode_context
from nexus_protocol.errors import Internal
from support.daemon import DaemonProcess
from support.live_services import listen
from support.projects import Speaker, clear, kept_by, project
from support.raw import RawClient, wait_until
from support.replay import check
from support.services import end_runs, processes_of
from support.soak import SOAK
from support.stores import look_at

from nexus.client import BlockingClient
from nexus.client.errors import ConnectionFailure
from nexus.projects.commands import (
    CreateProject,
    DeleteProject,
    GetProject,
    GetProjectHoldings,
    ListProjects,
    ProjectNotFound,
    UpdateProject,
)
from nexus.records.scope import DEFAULT_ID
from nexus.services.commands import (
    AddDependency,
    AddService,
    GetConfig,
    ListDependencies,
    ListServices,
    RemoveDependency,
    RemoveService,
    RestartService,
    StartService,
    StopService,
    UpdateConfig,
    UpdateService,
)
from nexus.services.records import Service
from nexus.services.states import ServiceState
from nexus.vms.commands import CreateVm, DeleteVm, ListVms, UpdateVm

KILLS = 8
ROOT = ProjectRoot("/srv/raced")


@pytest.fixture
def world(make_daemon: Callable[..., DaemonProcess]) -> Iterator[DaemonProcess]:
    """A daemon that is not started; all processes of its services are ended after the test."""
    daemon = make_daemon()
    yield daemon
    daemon.close()
    end_runs(daemon.root)


def replays(daemon: DaemonProcess) -> None:
    """Check the images of a database that no daemon writes."""
    with look_at(daemon.database) as database:
        problems = check(database)
        assert problems == [], "\n".join(problems[:20])


# Beside each other


def answers(port: int | None) -> int:
    """The pid that answers on a port, once something does."""

    def ask() -> int:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port or 0), 60) as sock:
            return int(sock.recv(100) or 0)
        return 0

    return wait_until(ask, f"an answer on port {port}")


class Pair:
    """A service ``web`` with a tunnel to a service ``db``, in one project."""

    def __init__(self, speaker: Speaker, fixed: int) -> None:
        self.speaker = speaker
        speaker.service("db", listen(), port=0, start_window_ms=100)
        speaker.service("web", listen(), port=fixed, start_window_ms=100)
        speaker.call(AddDependency("web", "db", tunnel_enabled=True))
        speaker.call(CreateVm("web"))
        speaker.call(StartService("web"))

    def seen(self) -> Any:
        """Everything by which another project could have touched this one."""
        services = [self.speaker.get(name) for name in ("web", "db")]
        edges = self.speaker.call(ListDependencies()).dependencies
        vms = self.speaker.call(ListVms()).vms
        assert answers(services[0].active_port) == services[0].pid
        assert answers(edges[0].tunnel_port) == services[1].pid
        return services, edges, vms


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for each in held:
        each.bind(("127.0.0.1", 0))
    ports: list[int] = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def test_no_verb_in_one_project_touches_another(daemon: DaemonProcess) -> None:
    nexus = Speaker(daemon)
    one = project(nexus, "one", root_path="/srv/one")
    there = [one, project(nexus, "two"), nexus]
    pairs = [Pair(speaker, port) for speaker, port in zip(there, free_ports(3), strict=True)]
    seen = [pair.seen() for pair in pairs]
    ports = [
        port for services, edges, _vms in seen for port in (*(s.active_port for s in services), edges[0].tunnel_port)
    ]
    assert len(set(ports)) == 9
    assert len({service.pid for services, _edges, _vms in seen for service in services}) == 6
    assert len({vm.cid for _services, _edges, vms in seen for vm in vms}) == 3
    in_folder = nexus.at(ProjectRoot("/srv/one"))
    verbs: list[tuple[Speaker, Command[Any]]] = [
        (one, StopService("web")),
        (in_folder, StartService("web")),
        (one, RestartService("web")),
        (one, RestartService("db")),
        (in_folder, UpdateService("web", tags=["changed"], environment={"A": "1"})),
        (nexus.at("one"), UpdateConfig("web", filename="web.env")),
        (one, UpdateConfig("web", clear=["filename"])),
        (one, GetConfig("web", resolved=True)),
        (one, UpdateVm("web", vcpu_count=3)),
        (nexus, UpdateProject("one", name="uno")),
        (one, StopService("db", cascade=True)),
        (in_folder, StartService("web")),
        (one, RemoveDependency("web", "db")),
        (one, DeleteVm("web")),
        (in_folder, RemoveService("web", stop=True)),
        (one, StopService("db")),
        (nexus, DeleteProject("uno", cascade=True)),
    ]
    try:
        for speaker, command in verbs:
            speaker.call(command)
            assert [pair.seen() for pair in pairs[1:]] == seen[1:], command
        assert isinstance(one.error(GetProject()), ProjectNotFound)
        # What is left is found by whoever speaks in it.
        for pair in pairs[1:]:
            assert sorted(pair.speaker.names()) == ["db", "web"]
            assert pair.speaker.call(GetProjectHoldings()).counts["service"] == {"running": 2}
    finally:
        clear(nexus.at(None))
        nexus.close()


def test_a_fixed_port_is_of_one_run_over_all_projects(daemon: DaemonProcess) -> None:
    nexus = Speaker(daemon)
    (port,) = free_ports(1)
    one, two = project(nexus, "one"), project(nexus, "two")
    for speaker in (one, two):
        speaker.service("web", listen(), port=port, start_window_ms=100)
    one.call(StartService("web"))
    error = two.error(StartService("web"))
    assert "one/web" in f"{error.message} {error.hint}"
    assert two.get().state is ServiceState.FAILED
    one.call(StopService("web"))
    two.call(StartService("web"))
    assert answers(port) == two.get().pid
    clear(nexus)
    nexus.close()


# Against each other


@pytest.mark.parametrize("named", ["id", "name", "root"])
def test_pipelined_changes_around_a_rename_and_a_deletion(daemon: DaemonProcess, named: str) -> None:
    """They share a commit: each sees those before it, and what comes after the deletion finds no project."""
    nexus = Speaker(daemon)
    made = project(nexus, "raced", root_path=ROOT.root)
    assert isinstance(made.named, str)
    context = encode_context(project={"id": made.named, "name": "raced", "root": ROOT}[named])

    def adding(part: str) -> list[Command[Any]]:
        return [AddService(f"{part}-{n}") if n % 2 else CreateVm(f"{part}-{n}") for n in range(20)]

    with RawClient(daemon.socket_path) as client:
        commands = [
            *adding("before"),
            UpdateProject(made.named, name="renamed"),
            *adding("renamed"),
            DeleteProject(made.named, cascade=True),
            *adding("deleted"),
            CreateProject("raced", root_path=ROOT.root),
            *adding("again"),
        ]
        sequences = client.begin_many(commands, context)
        outcomes: dict[str, set[str]] = {}
        records: list[dict[str, Any]] = []
        for command, sequence in zip(commands, sequences, strict=True):
            part = getattr(command, "name", None) or type(command).__name__
            try:
                reply = client.result(sequence)
                outcome = "ok"
                if isinstance(command, (AddService, CreateVm)):
                    records.append(reply)
            except NexusError as error:
                outcome = error.type
            outcomes.setdefault(part.split("-")[0], set()).add(outcome)
    gone = {"project.not_found"}
    assert outcomes["before"] == {"ok"}
    assert outcomes["renamed"] == ({"ok"} if named != "name" else {*gone, "ok"})  # the rename itself has this name
    assert outcomes["deleted"] == gone
    assert outcomes["again"] == (gone if named == "id" else {"ok"})
    assert {each["project_id"] for each in records if each["name"].startswith(("before", "renamed"))} == {made.named}
    now = nexus.call(GetProject("raced"))
    left = [*nexus.at(now.id).call(ListServices()).services, *nexus.at(now.id).call(ListVms()).vms]
    assert {each.name.split("-")[0] for each in left} == (set() if named == "id" else {"again"})
    assert nexus.call(ListServices()).services == nexus.call(ListVms()).vms == []
    nexus.close()
    assert daemon.stop() == 0
    replays(daemon)


class Racer(threading.Thread):
    """A client that repeats commands until its connection ends."""

    def __init__(self, daemon: DaemonProcess, seed: str, done: threading.Semaphore) -> None:
        super().__init__(name="racer")
        self.path, self.chance, self.done = daemon.socket_path, random.Random(seed), done
        self.problem: BaseException | None = None
        self.deleted: list[str] = []
        self.placed: list[tuple[str, str]] = []
        """The project and the id of each record that was made."""

    def run(self) -> None:
        try:
            with BlockingClient(self.path) as client:
                while True:
                    self._one(client)
                    self.done.release()
        except ConnectionFailure:
            pass
        except BaseException as problem:
            self.problem = problem

    def _one(self, client: BlockingClient) -> None:
        chance = self.chance
        name = chance.choice(["a", "b"])
        where = chance.choice(["raced", "renamed", ROOT, ROOT])
        command: Command[Any] = chance.choice(
            [
                CreateProject("raced", root_path=ROOT.root),
                UpdateProject("raced", name="renamed"),
                UpdateProject("renamed", name="raced"),
                *[DeleteProject(each, cascade=True) for each in ("raced", "renamed")] * 3,
                *[AddService(name, run_command=["/bin/sleep", "86400"], start_window_ms=0, port=0)] * 3,
                *[AddDependency("a", "b", tunnel_enabled=True)] * 2,
                *[StartService(name, timeout_ms=2000)] * 3,
                *[StopService(name, cascade=True, timeout_ms=2000)] * 4,
                CreateVm(name),
            ]
        )
        try:
            reply = client.call(command, project=where, timeout_s=5)
        except Internal:
            raise
        except NexusError:
            return
        if isinstance(command, DeleteProject):
            self.deleted.append(reply.project.id)
        elif isinstance(command, (AddService, CreateVm)):
            self.placed.append((reply.project_id, reply.id))


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("repetition", range(SOAK))
def test_deletions_race_with_adds_starts_renames_and_kills(world: DaemonProcess, repetition: int) -> None:
    chance = random.Random(repetition)
    deleted: set[str] = set()
    placed: set[tuple[str, str]] = set()
    for kill in range(KILLS):
        world.start()
        done = threading.Semaphore(0)
        racers = [Racer(world, f"{repetition} {kill} {number}", done) for number in range(4)]
        for racer in racers:
            racer.start()
        for _ in range(chance.randint(40, 150)):
            assert done.acquire(timeout=60), "the clients make no progress"
        world.kill()
        for racer in racers:
            racer.join(60)
            assert not racer.is_alive()
            if racer.problem is not None:
                raise racer.problem
            deleted.update(racer.deleted)
            placed.update(racer.placed)
        replays(world)
    assert len(deleted) > KILLS
    world.start()
    nexus = Speaker(world)
    # All or nothing: of a deleted project nothing is left, and nothing is in a project that does not exist.
    projects = {each.id for each in nexus.call(ListProjects()).projects}
    everywhere = nexus.at("*")
    services: list[Service] = everywhere.call(ListServices()).services
    records = [*services, *everywhere.call(ListVms()).vms]
    assert not projects & deleted
    assert {each.project_id for each in records} <= projects - {DEFAULT_ID}
    where = {each.id: each.project_id for each in records}
    assert all(where.get(id_, project_id) == project_id for project_id, id_ in placed)
    # No process and no file is left of what was deleted.
    known = {each.id for each in services}
    edges = {str(each) for each in _edge_ids(world)}

    def swept() -> bool:
        kept = kept_by(world)
        return all(name.removeprefix("service-") in known or name.removeprefix("tunnel-") in edges for name in kept)

    wait_until(swept, "the sweep of what no record knows")
    clear(nexus)
    wait_until(lambda: kept_by(world) == [], "all files to be deleted")
    nexus.close()
    assert world.stop() == 0
    assert processes_of(world.root) == []
    replays(world)
    assert "Traceback" not in world.log()


def _edge_ids(daemon: DaemonProcess) -> list[int]:
    with look_at(daemon.database) as database:
        return [row[0] for row in database.execute("SELECT id FROM service_dependency")]
