"""What happens to a service belongs to the operation that led to it, also after the daemon was killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nexus_protocol import NexusError
from support.git import GitWorld
from support.raw import wait_until
from support.replay import check
from support.services import ServiceWorld
from support.stores import look_at

from nexus.client import BlockingClient
from nexus.client.errors import ConnectionFailure
from nexus.journal.commands import Event, GetOperation, Operation
from nexus.services.commands import (
    AddDependency,
    CheckoutBranch,
    GitCheckoutCommit,
    GitClone,
    GitPull,
    RemoveService,
    RestartService,
    StartService,
    StopService,
    UpdateService,
)
from nexus.services.states import DependencyCondition, RestartPolicy, ServiceHealth, ServiceState, WhenLost

CLIENT = "person"


class World(ServiceWorld):
    """Services, and the operations of their events."""

    def client(self) -> BlockingClient:
        return BlockingClient(self.daemon.socket_path, actor=CLIENT)

    def restart_daemon(self) -> None:
        """Kill the daemon, and start the next one."""
        self.daemon.kill()
        self.daemon.start()

    def operation(self, id_: int | None) -> Operation:
        """An operation that has to exist, without its subjects: these grow with its events."""
        assert id_ is not None
        return msgspec.structs.replace(self.call(GetOperation(id_)).operation, subjects=[])

    def wait_events(self, name: str, kind: str, count: int = 1) -> list[Event]:
        """Wait until a service has so many events of a kind; return them."""

        def look() -> list[Event] | None:
            found = self.events(kind, subject=name)
            return found if len(found) >= count else None

        return wait_until(look, f"{count} {kind} of {name}")

    def led_to(self, name: str, kind: str, count: int = 1) -> Operation:
        """The operation of the first event of a kind, or of the one with this number; others may follow meanwhile."""
        return self.operation(self.wait_events(name, kind, count)[count - 1].operation)

    def assert_client(self, operation: Operation, command: str) -> None:
        """It is a request of the test's client."""
        assert (operation.command, operation.actor, operation.cause) == (command, CLIENT, None)

    def assert_caused(self, operation: Operation, name: str, cause: Operation | None) -> None:
        """It is one of the daemon's own, which another one led to."""
        assert operation.command == name
        assert operation.actor != CLIENT
        assert operation.cause == (None if cause is None else cause.id)

    def row(self, name: str, *columns: str) -> tuple[Any, ...]:
        """Columns of a service, as they are committed."""
        with look_at(self.daemon.database) as database:
            row = database.execute(f"SELECT {', '.join(columns)} FROM service WHERE name = ?", (name,)).fetchone()
        assert row is not None
        return tuple(row)


@pytest.fixture
def world(root: Path) -> Iterator[World]:
    """A running daemon, whose journal has to replay at the end."""
    with World(root) as world:
        world.daemon.start()
        yield world
        assert world.daemon.stop() == 0
        assert "Traceback" not in world.daemon.log()
        with look_at(world.daemon.database) as database:
            assert check(database) == []


def test_exit_after_an_adoption_was_led_to_by_the_start(world: World) -> None:
    world.puppet("web", start_window_ms=0)
    world.call(StartService("web"))
    start = world.led_to("web", "service.started")
    world.assert_client(start, "StartService")
    assert world.row("web", "operation_id") == (start.id,)
    world.restart_daemon()
    world.order("web", "exit 3")
    exited = world.led_to("web", "service.exited")
    world.assert_caused(exited, "process.exited", start)
    assert world.led_to("web", "service.failed") == exited
    assert world.row("web", "operation_id") == (exited.id,)


def test_exit_without_a_daemon_was_led_to_by_the_start(world: World) -> None:
    world.puppet("web", start_window_ms=0)
    world.call(StartService("web"))
    start = world.led_to("web", "service.started")
    world.daemon.kill()
    world.order("web", "exit 0")
    world.daemon.start()
    exited = world.led_to("web", "service.exited")
    world.assert_caused(exited, "process.exited", start)
    assert world.led_to("web", "service.stopped") == exited


@pytest.mark.parametrize("killed", ["never", "while it waits"])
def test_restart_by_policy_belongs_to_the_exit(world: World, killed: str) -> None:
    backoff = 10 if killed == "never" else 1500
    world.puppet("web", start_window_ms=0, restart=RestartPolicy.ALWAYS, restart_backoff_ms=backoff)
    world.call(StartService("web"))
    world.order("web", "exit 1")
    exited = world.led_to("web", "service.exited")
    world.assert_caused(exited, "process.exited", world.led_to("web", "service.started"))
    assert world.led_to("web", "service.restarting") == exited
    if killed == "while it waits":
        world.restart_daemon()
    assert world.led_to("web", "service.started", 2) == exited
    assert world.led_to("web", "service.starting", 2) == exited
    world.order("web", "exit 1")
    world.assert_caused(world.led_to("web", "service.exited", 2), "process.exited", exited)


@pytest.mark.parametrize("adopted", [False, True])
def test_stop_is_that_of_the_client(world: World, adopted: bool) -> None:
    world.puppet("web", start_window_ms=0)
    world.call(StartService("web"))
    if adopted:
        world.restart_daemon()
    world.call(StopService("web"))
    stop = world.led_to("web", "service.stopped")
    world.assert_client(stop, "StopService")
    assert world.row("web", "operation_id") == (stop.id,)
    assert {world.operation(event.operation).command for event in world.wait_events("web", "service.stopping", 0)} <= {
        "StopService"
    }


def test_restart_on_demand_is_that_of_the_client(world: World) -> None:
    world.puppet("web", start_window_ms=0)
    world.call(StartService("web"))
    world.call(RestartService("web"))
    restart = world.led_to("web", "service.started", 2)
    world.assert_client(restart, "RestartService")
    assert world.led_to("web", "service.starting", 2) == restart


def test_stop_of_a_failed_service_is_what_led_to_its_state(world: World) -> None:
    world.puppet("web", start_window_ms=0)
    world.call(StartService("web"))
    world.order("web", "exit 3")
    world.wait_events("web", "service.failed")
    world.call(StopService("web"))
    stop = world.led_to("web", "service.stopped")
    world.assert_client(stop, "StopService")
    assert world.row("web", "operation_id") == (stop.id,)


def test_start_that_fails_and_is_tried_again_has_its_cause(world: World) -> None:
    world.add("web", ["/nowhere/program"], restart=RestartPolicy.ON_FAILURE, restart_backoff_ms=10, restart_limit=1)
    with pytest.raises(NexusError):
        world.call(StartService("web"))
    restarting = world.led_to("web", "service.restarting")
    assert restarting.command == "start.failed"
    start = world.operation(restarting.cause)
    world.assert_client(start, "StartService")
    failed = world.led_to("web", "service.failed")
    assert failed.command in ("start.failed", "StartService")
    assert world.row("web", "operation_id") == (failed.id,)


@pytest.mark.parametrize("adopted", [False, True])
def test_unhealthy_check_has_its_cause_and_what_follows_belongs_to_it(world: World, adopted: bool) -> None:
    flag = world.root / "sick"
    world.add(
        "web",
        "exec sleep 600",
        start_window_ms=0,
        health_exec=["/bin/sh", "-c", f"test ! -e {flag}"],
        health_interval_ms=100,
        health_retries=1,
        restart_unhealthy=True,
        restart=RestartPolicy.ALWAYS,
        restart_backoff_ms=10,
        restart_limit=0,
    )
    world.call(StartService("web", wait=True))
    start = world.led_to("web", "service.healthy")
    world.assert_client(start, "StartService")
    if adopted:
        world.restart_daemon()
    flag.touch()
    unhealthy = world.led_to("web", "service.unhealthy")
    world.assert_caused(unhealthy, "health.failed", start)
    assert world.led_to("web", "service.restarting") == unhealthy
    flag.unlink()
    assert world.operation(world.wait_events("web", "service.started", 2)[1].operation) == unhealthy


@pytest.mark.parametrize("adopted", [False, True])
@pytest.mark.parametrize("when_lost", list(WhenLost))
def test_lost_dependency_was_led_to_by_the_operation_of_that_dependency(
    world: World, when_lost: WhenLost, adopted: bool
) -> None:
    world.puppet("db", start_window_ms=0)
    world.puppet("web", start_window_ms=0)
    world.call(AddDependency("web", "db", when_lost=when_lost))
    world.call(StartService("web"))
    start = world.led_to("web", "service.started")
    assert world.led_to("db", "service.started") == start
    if adopted:
        world.restart_daemon()
    world.order("db", "exit 3")
    exited = world.led_to("db", "service.exited")
    world.assert_caused(exited, "process.exited", start)
    lost = world.led_to("web", "service.dependency_lost")
    world.assert_caused(lost, "dependency.lost", exited)
    if when_lost is WhenLost.STOP:
        assert world.led_to("web", "service.stopped") == lost
        return
    world.call(StartService("db"))
    again = world.led_to("db", "service.started", 2)
    if when_lost is WhenLost.IGNORE:
        world.assert_caused(world.led_to("web", "service.dependency_back"), "dependency.back", again)
    else:
        assert world.led_to("web", "service.started", 2) == lost


def test_dependency_that_ended_without_a_daemon_is_lost_by_its_exit(world: World) -> None:
    world.puppet("db", start_window_ms=0)
    world.puppet("web", start_window_ms=0)
    world.call(AddDependency("web", "db"))
    world.call(StartService("web"))
    world.daemon.kill()
    world.order("db", "exit 3")
    world.daemon.start()
    exited = world.led_to("db", "service.exited")
    world.assert_caused(world.led_to("web", "service.dependency_lost"), "dependency.lost", exited)


def test_dependency_that_rests_is_lost_by_what_led_to_its_rest(world: World) -> None:
    """The dependent waited for more than its dependency reached, and the next daemon finds it at rest."""
    world.puppet("db", start_window_ms=0)
    world.puppet("web", start_window_ms=0)
    world.call(StartService("db"))
    world.call(StartService("web"))
    world.order("db", "exit 3")
    exited = world.led_to("db", "service.failed")
    world.restart_daemon()
    # It is a dependency only now, and is not up: that is its loss.
    world.call(AddDependency("web", "db", when_lost=WhenLost.IGNORE))
    world.assert_caused(world.led_to("web", "service.dependency_lost"), "dependency.lost", exited)


def test_dependency_that_was_stopped_after_it_failed_is_lost_by_the_stop(world: World) -> None:
    world.puppet("db", start_window_ms=0)
    world.puppet("web", start_window_ms=0)
    world.call(StartService("db"))
    world.call(StartService("web"))
    world.order("db", "exit 3")
    world.wait_events("db", "service.failed")
    world.call(StopService("db"))
    stop = world.led_to("db", "service.stopped")
    world.call(AddDependency("web", "db", when_lost=WhenLost.IGNORE))
    world.assert_caused(world.led_to("web", "service.dependency_lost"), "dependency.lost", stop)


def test_start_of_a_dependent_starts_its_dependencies_as_one_operation(world: World) -> None:
    for name in ("db", "web"):
        world.puppet(name, start_window_ms=0)
    world.call(AddDependency("web", "db", condition=DependencyCondition.STARTED))
    world.call(StartService("web"))
    operations = {event.operation for event in world.events("service.start*")}
    assert len(operations) == 1
    world.assert_client(world.operation(operations.pop()), "StartService")


def test_autostart_has_its_own_operation(world: World) -> None:
    world.puppet("web", start_window_ms=0, autostart=True)
    world.restart_daemon()
    started = world.led_to("web", "service.started")
    world.assert_caused(started, "autostart", None)
    assert world.led_to("web", "service.starting") == started
    world.restart_daemon()
    world.order("web", "exit 1")
    world.assert_caused(world.led_to("web", "service.exited"), "process.exited", started)


def tunnel_runs(world: World) -> list[tuple[str, int | None]]:
    """The commands of the operations that wrote the tunnel's run, oldest first, with their causes."""
    with look_at(world.daemon.database) as database:
        return database.execute(
            "SELECT operation.command, operation.cause FROM journal JOIN operation ON operation.id = operation_id "
            "WHERE row_table = 'service_dependency' AND kind = 'dependency.written' ORDER BY seq"
        ).fetchall()


def kill_tunnel(world: World) -> None:
    """Kill the process of the only tunnel, by the run id in its environment."""
    (pid,) = [pid for pid in pids_of(world, "tunnel-") if pid]
    os.kill(pid, signal.SIGKILL)


def pids_of(world: World, owner: str) -> list[int]:
    """The main pids of the runs of an owner, from their status files."""
    found = []
    for status in world.state.rglob(f"{owner}*/*/status"):
        words = status.read_bytes()[:256].decode(errors="replace").split()
        if words[:1] == ["run"]:
            found.append(int(words[3]))
    return found


@pytest.mark.parametrize("adopted", [False, True])
def test_tunnel_that_is_killed_has_its_cause(world: World, adopted: bool) -> None:
    world.puppet("db", start_window_ms=0, port=0)
    world.puppet("web", start_window_ms=0)
    world.call(AddDependency("web", "db", tunnel_enabled=True))
    world.call(StartService("web"))
    start = world.led_to("web", "service.started")
    assert tunnel_runs(world) == [("StartService", None)]
    if adopted:
        world.restart_daemon()
    kill_tunnel(world)
    runs = wait_until(lambda: found if len(found := tunnel_runs(world)) > 1 else None, "the tunnel to run again")
    assert runs == [("StartService", None), ("tunnel.exited", start.id)]
    world.call(StopService("web"))
    assert tunnel_runs(world)[2:] == [("StopService", None)]


def test_every_attempt_to_run_a_tunnel_again_belongs_to_its_end(world: World) -> None:
    world.puppet("db", start_window_ms=0, port=0)
    world.puppet("web", start_window_ms=0)
    world.call(AddDependency("web", "db", tunnel_enabled=True))
    world.call(StartService("web"))
    start = world.led_to("web", "service.started")
    with look_at(world.daemon.database) as database:
        (port,) = database.execute("SELECT tunnel_port FROM service_dependency").fetchone()
    # The daemon notices the end of the tunnel only when another process has its port.
    world.daemon.signal(signal.SIGSTOP)
    kill_tunnel(world)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wait_until(lambda: _binds(other, port), "the port of the tunnel to be free")
        other.listen()
        world.daemon.signal(signal.SIGCONT)
        runs = wait_until(lambda: found if len(found := tunnel_runs(world)) > 3 else None, "several attempts")
    assert runs[1:] == [("tunnel.exited", start.id)] * (len(runs) - 1)
    with look_at(world.daemon.database) as database:
        exited = "SELECT count(*) FROM operation WHERE command = 'tunnel.exited'"
        assert database.execute(exited).fetchall() == [(1,)]


def _binds(other: socket.socket, port: int) -> bool:
    try:
        other.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def test_removal_with_a_stop_is_one_operation(world: World) -> None:
    world.puppet("web", start_window_ms=0)
    world.call(StartService("web"))
    world.call(RemoveService("web", stop=True))
    removed = world.led_to("web", "service.removed")
    assert world.led_to("web", "service.stopped") == removed
    world.assert_client(removed, "RemoveService")


def test_health_that_recovers_goes_on_with_the_failure(world: World) -> None:
    flag = world.root / "sick"
    world.add(
        "web",
        "exec sleep 600",
        start_window_ms=0,
        health_exec=["/bin/sh", "-c", f"test ! -e {flag}"],
        health_interval_ms=100,
        health_retries=1,
    )
    world.call(StartService("web", wait=True))
    flag.touch()
    unhealthy = world.led_to("web", "service.unhealthy")
    flag.unlink()
    world.wait_for("web", lambda service: service.health is ServiceHealth.HEALTHY, "to be healthy again")
    assert world.led_to("web", "service.healthy", 2) == unhealthy
    world.call(UpdateService("web", tags=["x"]))
    world.assert_client(world.led_to("web", "service.updated"), "UpdateService")
    assert world.row("web", "operation_id") == (unhealthy.id,)
    assert world.service("web").state is ServiceState.RUNNING


@pytest.mark.parametrize("verb", [StopService, RestartService])
def test_stop_that_a_daemon_did_not_finish_stays_that_of_the_client(world: World, verb: Any) -> None:
    script = "trap '' TERM; touch $0.up; while :; do sleep 0.05; done"
    web = str(world.root / "web")
    world.add("web", ["/bin/sh", "-c", script, web], start_window_ms=0, stop_grace_ms=2000)
    world.call(StartService("web"))
    wait_until(lambda: Path(f"{web}.up").exists(), "web to ignore SIGTERM")
    asking = threading.Thread(target=_send, args=(world, verb("web")))
    asking.start()
    world.wait_for("web", lambda service: service.state is ServiceState.STOPPING, "to be stopping")
    world.daemon.kill()
    asking.join(60)
    world.daemon.start()
    if verb is StopService:
        stopped = world.led_to("web", "service.stopped")
        world.assert_client(stopped, "StopService")
        assert world.led_to("web", "service.stopping") == stopped
        return
    started = world.led_to("web", "service.started", 2)
    world.assert_client(started, "RestartService")
    world.call(StopService("web"))


def _send(world: World, command: Any) -> None:
    with contextlib.suppress(NexusError, ConnectionFailure):
        world.call(command)


def test_start_that_waits_for_its_dependency_stays_that_of_the_client(world: World) -> None:
    flag = world.root / "ready"
    world.add(
        "db",
        "exec sleep 600",
        start_window_ms=0,
        health_exec=["/bin/sh", "-c", f"test -e {flag}"],
        health_interval_ms=100,
    )
    world.puppet("web", start_window_ms=0)
    world.call(AddDependency("web", "db", condition=DependencyCondition.HEALTHY))
    asking = threading.Thread(target=_send, args=(world, StartService("web")))
    asking.start()
    starting = world.led_to("web", "service.starting")
    world.assert_client(starting, "StartService")
    world.restart_daemon()
    asking.join(60)
    flag.touch()
    assert world.led_to("web", "service.started") == starting


def test_port_that_an_idle_tunnel_gives_up_has_its_images(world: World) -> None:
    for name in ("db", "web"):
        world.puppet(name, start_window_ms=0, port=0)
    world.call(AddDependency("web", "db", tunnel_enabled=True))
    world.call(StartService("web"))
    world.call(StopService("web"))
    with look_at(world.daemon.database) as database:
        (port,) = database.execute("SELECT tunnel_port FROM service_dependency").fetchone()
    world.puppet("other", start_window_ms=0, port=port)
    world.call(StartService("other"))
    start = world.led_to("other", "service.started")
    with look_at(world.daemon.database) as database:
        assert database.execute("SELECT tunnel_port FROM service_dependency").fetchone() == (None,)
    assert tunnel_runs(world)[-1] == (start.command, None)


def test_what_git_did_is_of_the_request(world: World) -> None:
    git = GitWorld(world.root)
    source = git.repository("source", commits=2)
    git.git(source, "branch", "other")
    bare = git.bare("remote.git", source)
    git.git(source, "push", "-q", "origin", "other")
    world.add("web", "exec sleep 600", repo_url=str(bare), repo_path=str(world.root / "clone"))

    def watch(command: GitClone | GitPull) -> None:
        with world.client() as client, client.stream(command) as stream:
            list(stream)

    watch(GitClone("web"))
    world.assert_client(world.led_to("web", "service.cloned"), "GitClone")
    git.commit(source, "more", "x")
    git.git(source, "push", "-q", "origin", "HEAD")
    watch(GitPull("web"))
    world.assert_client(world.led_to("web", "service.pulled"), "GitPull")
    world.call(CheckoutBranch("web", "other"))
    world.assert_client(world.led_to("web", "service.checked_out"), "CheckoutBranch")
    world.call(GitCheckoutCommit("web", git.git(source, "rev-parse", "HEAD~1")))
    world.assert_client(world.led_to("web", "service.checked_out", 2), "GitCheckoutCommit")


def test_exit_whose_descendants_are_being_ended_is_one_operation(world: World) -> None:
    web = str(world.root / "web")
    stays = "trap '' TERM; touch $0.up; while :; do sleep 0.05; done"
    script = f'/bin/sh -c "{stays}" $0 & while [ ! -e $0.up ]; do sleep 0.01; done; exit 3'
    world.add("web", ["/bin/sh", "-c", script, web], start_window_ms=0, stop_grace_ms=1500)
    world.call(StartService("web"))
    start = world.led_to("web", "service.started")
    stopping = world.led_to("web", "service.stopping")
    world.assert_caused(stopping, "process.exited", start)
    world.restart_daemon()
    exited = world.led_to("web", "service.exited")
    assert exited == stopping
    assert world.led_to("web", "service.failed") == stopping
