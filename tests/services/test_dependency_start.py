"""Services with dependencies: the order of starts and stops, and the consequences of a lost dependency."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from support.live_services import Services, exists, lines_of
from support.raw import RawClient, wait_until

from nexus.services.commands import GetServiceStatus, StartService, StopService
from nexus.services.errors import ServiceDependencyFailed, ServiceNeeded
from nexus.services.states import ServiceHealth, ServiceState


def kill(services: Services, name: str) -> None:
    pid = services.get(name).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def test_start_brings_up_dependencies_first(services: Services) -> None:
    for name in ("api", "db", "cache", "disk"):
        services.add(name)
    for service, dependency in (("api", "db"), ("api", "cache"), ("db", "disk"), ("cache", "disk")):
        services.depend(service, dependency)
    started = services.start("api").started
    assert sorted(started) == ["api", "cache", "db", "disk"]
    assert (started[0], started[-1]) == ("disk", "api")
    assert services.start("api").started == []
    services.stop("api")
    assert services.start("api").started == ["api"]


def test_independent_dependencies_start_concurrently(services: Services, tmp_path: Path) -> None:
    meet = f"touch {tmp_path}/$NEXUS_SERVICE; while [ ! -e {tmp_path}/a ] || [ ! -e {tmp_path}/b ]; do sleep 0.01; done"
    for name in ("a", "b"):
        services.add(name, f"{meet}; echo met; exec sleep 1000", health_log="met", health_retries=1000)
    services.add("top")
    services.depend("top", "a", condition="healthy")
    services.depend("top", "b", condition="healthy")
    assert services.start("top").started[-1] == "top"


def test_start_waits_for_conditions_healthy_and_completed(services: Services, tmp_path: Path) -> None:
    order = tmp_path / "order"
    services.add("migrate", f"sleep 0.05; echo migrate >> {order}", type="oneshot")
    run = f"sleep 0.05; echo db >> {order}; echo ready; exec sleep 1000"
    services.add("db", run, health_log="ready", health_retries=1000)
    services.add("api", f"echo api >> {order}; exec sleep 1000")
    services.depend("migrate", "db", condition="healthy")
    services.depend("api", "migrate", condition="completed")
    assert services.start("api").started == ["db", "migrate", "api"]
    wait_until(lambda: lines_of(order) == ["db", "migrate", "api"], "the program")
    services.restart("api")
    wait_until(lambda: lines_of(order) == ["db", "migrate", "api", "api"], "the program again")


def test_waiting_service_is_starting_and_its_reason_names_the_dependency(services: Services) -> None:
    services.add("db", health_exec="false", health_retries=1000)
    services.add("api")
    services.depend("api", "db", condition="healthy")
    services.client.begin(StartService(service="api"))
    service = services.wait("api", state=ServiceState.STARTING)
    assert (service.reason, service.pid) == ('waits for "db" to be healthy', None)
    with RawClient(services.daemon.socket_path) as client:
        assert isinstance(client.call_error(stop("db")), ServiceNeeded)
        assert client.call(stop("db", cascade=True)).stopped == ["api", "db"]
    assert services.get("api").state is ServiceState.STOPPED


def stop(name: str, *, cascade: bool = False) -> StopService:
    return StopService(service=name, cascade=cascade)


@pytest.mark.parametrize(
    ("run", "condition", "fields", "reason"),
    [
        ("echo broken; exit 3", "started", {"start_window_ms": 5000}, "exited with 3"),
        ("exit 4", "completed", {"type": "oneshot"}, "exited with 4"),
        ("exec sleep 1000", "healthy", {}, "it has no health check"),
        (
            "exec sleep 1000",
            "healthy",
            {"health_exec": "echo sick; false", "health_interval_ms": 100, "health_retries": 1},
            "unhealthy: sick",
        ),
    ],
)
def test_failed_dependency_fails_the_start_with_its_reason(
    services: Services, run: str, condition: str, fields: dict[str, object], reason: str
) -> None:
    services.add("db", run, **fields)
    services.add("api", restart="always")
    services.add("top")
    services.depend("api", "db", condition=condition)
    services.depend("top", "api")
    error = services.start_error("top")
    assert isinstance(error, ServiceDependencyFailed)
    assert error.details["dependency"] == "api"
    assert f'dependency "db" failed: {reason}' in error.message
    assert services.wait_rest("api").reason == f'dependency "db" failed: {reason}'
    assert services.wait_rest("top").state is ServiceState.FAILED
    assert services.start_error("api").details["dependency"] == "db"


def test_dependency_that_its_policy_restarts_only_delays_the_start(services: Services, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    services.add(
        "db", f"test -e {gate} || exit 3; exec sleep 1000", start_window_ms=60_000, restart="on-failure",
        restart_backoff_ms=10, restart_backoff_max_ms=10, restart_limit=0, health_exec=f"test -e {gate}",
        health_interval_ms=100,
    )  # fmt: skip
    services.add("api")
    services.depend("api", "db")
    error = services.start_error("api")
    assert isinstance(error, ServiceDependencyFailed)
    assert str(error.hint).splitlines() == [
        'The restart policy of "db" tries again, and "api" goes on waiting.',
        "Look at it: nexusctl service status db",
    ]
    assert services.get("api").state is ServiceState.STARTING
    gate.touch()
    services.wait("api", state=ServiceState.RUNNING)


def test_stop_of_a_needed_service_is_refused_and_cascade_stops_dependents_first(services: Services) -> None:
    for name in ("api", "web", "db", "other"):
        services.add(name)
    services.depend("api", "db")
    services.depend("web", "api")
    services.depend("other", "db")
    services.start("web")
    error = services.client.call_error(stop("db"))
    assert isinstance(error, ServiceNeeded)
    assert error.details["dependents"] == ["api", "web"]
    assert "--cascade" in str(error.hint)
    stopped = services.stop("db", cascade=True)
    assert stopped.stopped == ["web", "api", "db"]
    services.start("other")
    services.stop("other")
    services.stop("db")


def test_concurrent_stops_stop_dependents_before_dependencies(services: Services, tmp_path: Path) -> None:
    order, gate = tmp_path / "order", tmp_path / "gate"
    for name, held in (("web", f"until [ -e {gate} ]; do sleep 0.01; done; "), ("api", ""), ("db", "")):
        run = f"trap '{held}echo {name} >> {order}; exit' TERM; echo ready; while :; do sleep 0.01; done"
        services.add(name, run, health_log="ready")
    services.depend("web", "api")
    services.depend("api", "db")
    services.start("web")
    for name in ("db", "api", "web"):
        services.wait(name, health=ServiceHealth.HEALTHY)
    first = services.client.begin(stop("web"))
    services.wait("web", state=ServiceState.STOPPING)
    with RawClient(services.daemon.socket_path) as client:
        # A dependent that is already stopping is no reason to refuse, but the stop still waits for it.
        second = client.begin(stop("api"))
        third = client.begin(stop("db", cascade=True))
        client.call(GetServiceStatus(service="db"))
        gate.touch()
        assert client.result(second)["stopped"] == ["api"]
        assert client.result(third)["stopped"][-1] == "db"
    assert services.client.result(first)["stopped"] == ["web"]
    assert order.read_text().split() == ["web", "api", "db"]


def test_dependent_shows_a_lost_dependency_until_it_is_back(services: Services) -> None:
    services.add("db", restart="always", restart_backoff_ms=300)
    services.add("api")
    services.depend("api", "db")
    pid = services.start("api").service.pid
    kill(services, "db")
    service = services.wait("api", lost_dependencies=["db"])
    assert (service.state, service.reason) == (ServiceState.RUNNING, 'lost "db": killed by SIGKILL')
    service = services.wait("api", lost_dependencies=[])
    assert (service.pid, service.reason) == (pid, 'lost "db": killed by SIGKILL; it is back')
    assert services.kinds("api")[-2:] == ["dependency_lost", "dependency_back"]


def test_unhealthy_dependency_is_lost_only_for_condition_healthy(services: Services, tmp_path: Path) -> None:
    sick = tmp_path / "sick"
    services.add("db", health_exec=f"test ! -e {sick}", health_interval_ms=100, health_retries=1)
    for name, condition in (("api", "healthy"), ("web", "started")):
        services.add(name)
        services.depend(name, "db", condition=condition)
        services.start(name)
    sick.touch()
    services.wait("api", lost_dependencies=["db"])
    assert services.get("web").lost_dependencies == []
    sick.unlink()
    services.wait("api", lost_dependencies=[])


def test_when_lost_stop_and_restart_act_on_the_dependent(services: Services) -> None:
    services.add("db")
    for name, when in (("gone", "stop"), ("again", "restart")):
        services.add(name)
        services.depend(name, "db", when_lost=when)
        services.start(name)
    pid = services.get("again").pid
    kill(services, "db")
    service = services.wait_rest("gone")
    assert (service.state, service.reason) == (ServiceState.STOPPED, 'lost "db": killed by SIGKILL')
    service = services.wait("again", state=ServiceState.STARTING)
    assert not exists(pid)
    assert service.lost_dependencies == ["db"]
    assert services.get("db").state is ServiceState.FAILED
    services.kill_daemon()
    assert services.get("again").state is ServiceState.STARTING
    assert services.get("db").state is ServiceState.FAILED
    services.start("db")
    service = services.wait("again", state=ServiceState.RUNNING)
    assert (service.lost_dependencies, service.restarts) == ([], 0)
    assert services.get("gone").state is ServiceState.STOPPED


def test_restart_of_a_dependency_restarts_only_dependents_with_when_lost_restart(services: Services) -> None:
    services.add("db", health_exec="true", health_interval_ms=100)
    services.add("api")
    services.add("web")
    services.depend("api", "db")
    services.depend("web", "db", condition="healthy", when_lost="restart")
    api, web = services.start("api").service.pid, services.start("web").service.pid
    assert services.restart("db").started == ["db"]
    assert services.get("api").pid == api
    wait_until(lambda: services.get("web").pid not in (None, web), "the restart of web")
    services.wait("web", state=ServiceState.RUNNING)
    assert services.wait("api", lost_dependencies=[]).state is ServiceState.RUNNING


def test_dependency_added_to_a_running_service_is_shown_as_lost_and_does_not_stop_it(services: Services) -> None:
    services.add("db", health_exec="true")
    services.add("api")
    pid = services.start("api").service.pid
    services.depend("api", "db", when_lost="stop", condition="healthy")
    services.wait("api", lost_dependencies=["db"])
    services.start("db", wait=True)
    assert services.wait("api", lost_dependencies=[]).pid == pid
    assert services.get("db").health is ServiceHealth.HEALTHY


def test_start_during_a_stop_of_the_dependency_waits_for_its_end(services: Services) -> None:
    run = "trap 'sleep 0.2; exit 0' TERM; echo up; while :; do sleep 0.01; done"
    services.add("db", run, health_log="up", health_retries=1000)
    services.add("api")
    services.depend("api", "db")
    first = services.start("db", wait=True).service.pid
    stopping = services.client.begin(stop("db"))
    services.wait("db", state=ServiceState.STOPPING)
    assert services.start("api").started == ["db", "api"]
    services.client.result(stopping)
    assert not exists(first)
    assert services.get("db").state is ServiceState.RUNNING
