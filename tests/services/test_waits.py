"""What a start waits for: the outcome of the restart policy and of the health check, within the client's time limit."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from nexus_protocol import DeadlineExceeded
from support.live_services import Services, lines_of
from support.raw import RawClient
from support.soak import SOAK

from nexus.services.commands import StartService, StopService, UpdateService
from nexus.services.errors import ServiceDependencyFailed, ServiceStartFailed, ServiceStopped
from nexus.services.states import ServiceHealth, ServiceState

UP = "exec sleep 1000"
QUICK_CHECK = {"health_interval_ms": 100, "health_retries": 1}
QUICK_POLICY = {"restart": "on-failure", "restart_backoff_ms": 10, "restart_backoff_max_ms": 10}
DELAYS_S = (0.5,) if SOAK == 1 else (0.5, 9, 30, 60)
"""How long a service needs until it is healthy. A check of the default interval fails at 6 s."""


def fails_twice(runs: Path) -> str:
    """A command whose first two runs fail."""
    return f"echo x >> {runs}; [ $(wc -l < {runs}) -gt 2 ] || exit 3; {UP}"


def late(gate: Path, delay_s: float) -> dict[str, object]:
    """The fields of a service that is unhealthy before it is healthy, ``delay_s`` after its start."""
    check = QUICK_CHECK if delay_s < 6 else {}
    return {
        "run": f"sleep {delay_s}; touch {gate}; {UP}",
        "health_exec": f"test -e {gate} || {{ echo not yet; false; }}",
        **check,
    }


def kill(services: Services, name: str) -> None:
    pid = services.get(name).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("wait", [False, True])
def test_start_replies_once_the_policy_has_brought_the_service_up(
    services: Services, tmp_path: Path, wait: bool
) -> None:
    services.add("web", fails_twice(tmp_path / "runs"), start_window_ms=300, **QUICK_POLICY)
    reply = services.start("web", wait=wait)
    assert (reply.service.state, reply.service.restarts, reply.started) == (ServiceState.RUNNING, 2, ["web"])
    assert len(lines_of(tmp_path / "runs")) == 3


def test_start_of_a_oneshot_replies_once_a_retry_has_completed(services: Services, tmp_path: Path) -> None:
    run = f"echo x >> {tmp_path}/runs; [ $(wc -l < {tmp_path}/runs) -gt 2 ] || exit 3"
    services.add("job", run, type="oneshot", **QUICK_POLICY)
    services.add("api")
    services.depend("api", "job", condition="completed")
    assert services.start("api", wait=True).started == ["job", "api"]
    service = services.get("job")
    assert (service.state, service.exit_code, service.restarts) == (ServiceState.STOPPED, 0, 2)


def test_restart_replies_once_the_policy_has_brought_the_service_up(services: Services, tmp_path: Path) -> None:
    services.add("web", start_window_ms=300, **QUICK_POLICY)
    first = services.start("web").service.pid
    services.update("web", run_command=fails_twice(tmp_path / "runs"))
    service = services.restart("web").service
    assert (service.state, service.restarts) == (ServiceState.RUNNING, 2)
    assert service.pid != first


def test_dependency_that_fails_twice_brings_its_dependents_up(services: Services, tmp_path: Path) -> None:
    services.add("db", fails_twice(tmp_path / "runs"), start_window_ms=300, **QUICK_POLICY)
    services.add("api", restart="on-failure")
    services.add("web")
    services.depend("api", "db")
    services.depend("web", "api")
    assert services.start("web", wait=True).started == ["db", "api", "web"]
    assert "failed" not in services.kinds("api") + services.kinds("web")


@pytest.mark.soak
@pytest.mark.parametrize("delay_s", DELAYS_S)
@pytest.mark.timeout(120)
def test_unhealthy_service_that_becomes_healthy_ends_the_waits(
    services: Services, tmp_path: Path, delay_s: float
) -> None:
    services.add("db", **late(tmp_path / "gate", delay_s))  # type: ignore[arg-type]
    services.add("api")
    services.depend("api", "db", condition="healthy")
    with RawClient(services.daemon.socket_path, timeout=100) as client:
        assert client.call(StartService(service="api", wait=True)).started == ["db", "api"]
    assert services.start("db", wait=True).service.health is ServiceHealth.HEALTHY
    assert [kind for kind in services.kinds("db") if "health" in kind] == ["unhealthy", "healthy"]
    assert services.kinds("api") == ["added", "dependency_added", "starting", "starting", "started"]


def test_unhealthy_service_that_its_policy_restarts_is_waited_for(services: Services, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    check = f"[ $(wc -l < {runs}) -gt 2 ] || {{ echo sick; false; }}"
    services.add(
        "db", f"echo x >> {runs}; {UP}", health_exec=check, restart_unhealthy=True, **QUICK_CHECK, **QUICK_POLICY
    )
    services.add("api")
    services.depend("api", "db", condition="healthy")
    assert services.start("api", wait=True).started == ["db", "api"]
    assert services.get("db").restarts == 2


def test_flapping_dependency_delays_the_start_until_it_stays(services: Services, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    services.add("db", restart="always", restart_backoff_ms=10, restart_backoff_max_ms=10, restart_limit=0)
    services.add("disk", health_exec=f"test -e {gate}", **QUICK_CHECK)
    services.add("api")
    services.depend("api", "db")
    services.depend("api", "disk", condition="healthy")
    waiting = services.begin_start("api", wait=True)
    for restarts in range(3):
        services.wait("db", state=ServiceState.RUNNING, restarts=restarts)
        kill(services, "db")
    services.wait("db", state=ServiceState.RUNNING, restarts=3)
    gate.touch()
    assert services.client.result(waiting)["service"]["state"] == "running"
    assert "failed" not in services.kinds("api")


def test_dependency_that_reaches_its_restart_limit_ends_the_start_with_the_reason(services: Services) -> None:
    services.add("db", "exit 3", restart_limit=2, start_window_ms=1000, **QUICK_POLICY)
    services.add("api", restart="always")
    services.depend("api", "db")
    error = services.start_error("api", wait=True)
    assert isinstance(error, ServiceDependencyFailed)
    assert error.message == (
        'cannot start service "api": its dependency "db" failed: exited with 3; 2 restarts within 60 s'
    )
    assert services.wait_rest("api").state is ServiceState.FAILED


def test_dependency_that_ends_while_another_one_is_waited_for_ends_the_start(services: Services) -> None:
    services.add("db")
    services.add("disk", health_exec="false", **QUICK_CHECK)
    services.add("api")
    services.depend("api", "db")
    services.depend("api", "disk", condition="healthy")
    waiting = services.begin_start("api")
    services.wait("db", state=ServiceState.RUNNING)
    services.wait("api", reason='waits for "disk" to be healthy')
    kill(services, "db")
    error = services.client.error(waiting)
    assert isinstance(error, ServiceDependencyFailed)
    assert 'its dependency "db" failed: killed by SIGKILL' in error.message
    assert services.get("db").state is ServiceState.FAILED, "it is started once, not again and again"


def test_stop_of_a_dependency_ends_the_start_of_its_dependents(services: Services) -> None:
    services.add("db", health_exec="false", **QUICK_CHECK)
    services.add("api")
    services.depend("api", "db", condition="healthy")
    waiting = services.begin_start("api", wait=True)
    services.wait("api", state=ServiceState.STARTING)
    services.wait("db", health=ServiceHealth.UNHEALTHY)
    with RawClient(services.daemon.socket_path) as other:
        other.call(StopService(service="db", cascade=True))
    error = services.client.error(waiting)
    assert isinstance(error, ServiceStopped)
    assert services.get("api").state is ServiceState.STOPPED


def test_start_that_is_stopped_by_the_loss_of_a_dependency_says_so(services: Services) -> None:
    services.add("db")
    services.add("api", health_exec="false", **QUICK_CHECK)
    services.depend("api", "db", when_lost="stop")
    waiting = services.begin_start("api", wait=True)
    services.wait("api", state=ServiceState.RUNNING)
    services.wait("api", health=ServiceHealth.UNHEALTHY)
    kill(services, "db")
    error = services.client.error(waiting)
    assert isinstance(error, ServiceStopped)
    assert 'it was stopped meanwhile: lost "db": killed by SIGKILL' in error.message


@pytest.mark.parametrize("chain", [False, True], ids=["direct", "chain"])
def test_retry_that_waits_for_a_failed_dependency_ends_the_waits_and_goes_on(
    services: Services, tmp_path: Path, chain: bool
) -> None:
    gate = tmp_path / "gate"
    services.add("db")
    # A first attempt with db up fails; the policy's retry waits for db, which nothing brings up.
    services.add("api", f"test -e {gate} || exit 3; {UP}", start_window_ms=300, restart="on-failure",
                 restart_backoff_ms=2000, restart_backoff_max_ms=2000)  # fmt: skip
    services.depend("api", "db")
    services.add("web")
    services.depend("web", "api")
    waiting = services.begin_start("web" if chain else "api", wait=True)
    services.wait_event("api", "restarting")
    kill(services, "db")
    error = services.client.error(waiting)
    assert isinstance(error, ServiceDependencyFailed)
    why = 'waits in vain: dependency "db" failed' if chain else "failed"
    assert f'its dependency "{"api" if chain else "db"}" {why}: killed by SIGKILL' in error.message
    assert services.get("api").state is ServiceState.STARTING
    gate.touch()
    services.start("db")
    services.wait("web" if chain else "api", state=ServiceState.RUNNING)


def test_dependency_that_never_comes_ends_the_wait_at_the_time_limit_with_the_reason(services: Services) -> None:
    services.add("db", health_exec="echo sick; false", **QUICK_CHECK)
    for name in ("api", "web"):
        services.add(name)
    services.depend("api", "db", condition="healthy")
    services.depend("web", "api")
    services.begin_start("web")
    services.wait("db", health=ServiceHealth.UNHEALTHY)
    error = services.start_error("web", wait=True, timeout_ms=300)
    assert isinstance(error, DeadlineExceeded)
    assert error.message == (
        'cannot finish with service "web" within 300 ms: it is starting: waits for "api" to be up; '
        '"api" is starting: waits for "db" to be healthy; "db" is unhealthy: sick'
    )
    assert services.get("web").state is ServiceState.STARTING, "the start goes on"


def test_crash_loop_ends_the_wait_at_the_time_limit_with_the_reason(services: Services) -> None:
    services.add("web", "exit 3", start_window_ms=1000, restart_limit=0, **QUICK_POLICY)
    services.begin_start("web")
    services.wait_event("web", "restarting")
    services.update("web", restart_backoff_ms=600_000, restart_backoff_max_ms=600_000)
    services.wait("web", state=ServiceState.STARTING, reason="exited with 3")
    with RawClient(services.daemon.socket_path) as other:
        other.call(UpdateService(service="web", restart_limit=0))
    error = services.start_error("web", timeout_ms=500)
    assert isinstance(error, DeadlineExceeded)
    assert error.message.endswith(": it is starting: exited with 3")


def test_waits_end_when_the_policy_gives_up(services: Services) -> None:
    services.add("web", "echo broken; exit 3", start_window_ms=1000, restart_limit=2, **QUICK_POLICY)
    error = services.start_error("web", wait=True)
    assert isinstance(error, ServiceStartFailed)
    assert error.message == 'cannot start service "web": it exited with 3; 2 restarts within 60 s'
    assert (error.details["exit_code"], error.details["log"]) == (3, ["broken"])
