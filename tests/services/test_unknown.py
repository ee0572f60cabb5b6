"""A run that cannot be looked at is not taken for ended: it is looked for again, and no second copy is started."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.daemon import DaemonProcess
from support.live_services import Services, exists
from support.raw import wait_until

from nexus.services.commands import RestartService, StartService
from nexus.services.errors import ServiceUnknown
from nexus.services.states import ServiceState


@pytest.fixture
def services(make_daemon: Callable[..., DaemonProcess]) -> Iterator[Services]:
    """Services of a daemon of their own."""
    services = Services(make_daemon().start())
    yield services
    services.close()


def status_file(services: Services, name: str) -> Path:
    (path,) = services.daemon.state.glob(f"processes/service-{services.get(name).id}/*/status")
    return path


@pytest.mark.parametrize("damage", [b"", b"\0" * 512, b"run 1 garbage", b"run 2 " + b"x" * 506], ids=len)
def test_run_with_an_unreadable_status_is_unknown_and_can_be_stopped(services: Services, damage: bytes) -> None:
    services.add("web", restart="always", restart_backoff_ms=10)
    pid = services.start("web").service.pid
    path = status_file(services, "web")
    services.daemon.kill()
    path.write_bytes(damage)
    services.begin_anew()

    service = wait_until(lambda: (found := services.get("web")).unknown_since and found, "the unknown run")
    assert (service.state, service.pid) == (ServiceState.RUNNING, pid)
    assert exists(pid)
    for command in (StartService(service="web"), RestartService(service="web")):
        assert isinstance(services.client.call_error(command), ServiceUnknown)
    assert services.get("web").pid == pid
    services.stop("web")
    wait_until(lambda: not exists(pid), "the end of the process")
    service = services.get("web")
    assert (service.state, service.unknown_since) == (ServiceState.STOPPED, None)


def test_unknown_run_is_adopted_once_it_can_be_read(services: Services) -> None:
    services.add("web")
    pid = services.start("web").service.pid
    path = status_file(services, "web")
    services.daemon.kill()
    status = path.read_bytes()
    path.write_bytes(b"garbage")
    services.begin_anew()
    wait_until(lambda: services.get("web").unknown_since, "the unknown run")
    path.write_bytes(status)
    wait_until(lambda: services.get("web").unknown_since is None, "the look that succeeds")
    service = services.get("web")
    assert (service.state, service.pid, service.restarts) == (ServiceState.RUNNING, pid, 0)
    assert services.status("web").process_count == 1
    services.stop("web")
    assert not exists(pid)


def test_exit_while_descriptors_are_exhausted_is_recorded_later(services: Services) -> None:
    services.add("web")
    pid = services.start("web").service.pid
    assert pid is not None
    daemon = services.daemon.pid
    soft, hard = resource.prlimit(daemon, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon, resource.RLIMIT_NOFILE, (3, hard))
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "cannot read its status" in services.daemon.log(), "the look that fails")
    assert services.get("web").state is ServiceState.RUNNING, "that it cannot be read does not mean how it ended"
    resource.prlimit(daemon, resource.RLIMIT_NOFILE, (soft, hard))
    service = services.wait("web", state=ServiceState.FAILED)
    assert service.exit_signal == signal.SIGKILL
    assert services.start("web").service.state is ServiceState.RUNNING


def test_daemon_without_descriptors_for_all_adopts_the_others_later(services: Services) -> None:
    names = [f"s{number}" for number in range(30)]
    for name in names:
        services.add(name)
    pids = {name: services.start(name).service.pid for name in names}
    services.daemon.kill()
    services.client.close()
    command = services.daemon.command()
    services.daemon.command = lambda: ["/bin/sh", "-c", 'ulimit -n 64; exec "$@"', "sh", *command]  # type: ignore[method-assign]
    services.begin_anew()
    found = {name: services.get(name) for name in names}
    assert {service.state for service in found.values()} == {ServiceState.RUNNING}
    unknown = wait_until(lambda: [name for name in names if services.get(name).unknown_since], "unknown runs")
    for name in set(names) - set(unknown):
        services.stop(name)  # which gives descriptors back
    wait_until(lambda: not any(services.get(name).unknown_since for name in unknown), "every adoption")
    assert {name: services.get(name).pid for name in unknown} == {name: pids[name] for name in unknown}
    assert all(exists(pids[name]) for name in unknown)
    assert not any(services.get(name).restarts for name in names)
