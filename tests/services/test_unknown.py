"""A run that cannot be looked at is not taken for ended: it is looked for again, and no second copy is started."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.broken_runs import BREAKAGES
from support.daemon import DaemonProcess
from support.live_services import Services, exists, lines_of
from support.raw import WAIT_S, wait_until
from support.runtimes import shim_of

from nexus.runtime import Exit
from nexus.runtime.tree import descendants, parent_of
from nexus.services.commands import GetServiceStdout, RemoveService, RestartService, StartService, StopService
from nexus.services.errors import ServiceUnknown
from nexus.services.states import ServiceHealth, ServiceState
from nexus.supervision.adoption import find_run
from nexus.supervision.requests import Reason, Requests, StopRequest
from nexus.system.commands import Ping


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


BROKEN = (
    *("status a FIFO", "status without an end", "status of another run"),
    *("lock removed", "lock a FIFO", "lock a link to itself"),
    *("control a file", "control a directory", "control a link"),
)


@pytest.mark.parametrize("way", BROKEN)
def test_service_whose_run_folder_is_broken_can_be_stopped_by_this_daemon_and_the_next(
    services: Services, way: str
) -> None:
    for killed in (False, True):
        services.add("other")
        services.add("web", restart="always", restart_backoff_ms=10)
        pids = {name: services.start(name).service.pid for name in ("other", "web")}
        (folder,) = services.daemon.state.glob(f"processes/service-{services.get('web').id}/*/control")
        BREAKAGES[way](folder.parent)
        if killed:
            services.kill_daemon()
        services.stop("web")
        assert not exists(pids["web"])
        service = services.get("web")
        assert (service.state, service.unknown_since) == (ServiceState.STOPPED, None)
        assert services.get("other").pid == pids["other"]
        assert exists(pids["other"])
        for name in pids:
            services.remove(name, stop=True)
    assert not list(services.daemon.state.glob("processes/service-*"))


def test_next_daemon_that_can_look_at_once_unsets_unknown_since(services: Services) -> None:
    services.add("web")
    pid = services.start("web").service.pid
    path = status_file(services, "web")
    status = path.read_bytes()
    services.daemon.kill()
    path.write_bytes(b"garbage")
    services.begin_anew()
    wait_until(lambda: services.get("web").unknown_since, "the unknown run")
    services.daemon.kill()
    path.write_bytes(status)
    services.begin_anew()
    service = services.wait("web", unknown_since=None)
    assert (service.state, service.pid) == (ServiceState.RUNNING, pid)


def test_commands_and_stops_without_descriptors_are_answered_with_the_cause(services: Services) -> None:
    services.add("web")
    pid = services.start("web").service.pid
    daemon = services.daemon.pid
    soft, hard = resource.prlimit(daemon, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon, resource.RLIMIT_NOFILE, (3, hard))
    error = services.client.call_error(GetServiceStdout(service="web", lines=1))
    assert (error.code, error.hint is not None) == ("resource_exhausted", True)
    error = services.client.call_error(StopService(service="web", timeout_ms=300))
    assert error.code == "deadline_exceeded", error
    assert exists(pid)
    resource.prlimit(daemon, resource.RLIMIT_NOFILE, (soft, hard))
    services.wait("web", state=ServiceState.STOPPED)
    assert not exists(pid)
    assert "supervision task failed" not in services.daemon.log()


def test_end_of_a_process_whose_shim_is_suspended_is_recorded(services: Services) -> None:
    services.add("web")
    pid = services.start("web").service.pid
    assert pid is not None
    os.kill(parent_of(pid), signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    service = services.wait("web", state=ServiceState.FAILED)
    assert service.exit_signal == signal.SIGKILL


def test_killed_shim_without_descriptors_leaves_no_process_behind(services: Services) -> None:
    services.add("web", "setsid sleep 1000 & exec sleep 1000")
    pid = services.start("web").service.pid
    assert pid is not None
    shim = parent_of(pid)
    left = wait_until(lambda: [each for each in descendants(shim) if each != pid], "its child")
    daemon = services.daemon.pid
    soft, hard = resource.prlimit(daemon, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon, resource.RLIMIT_NOFILE, (3, hard))
    os.kill(shim, signal.SIGKILL)
    wait_until(lambda: not exists(shim), "the end of the shim")
    services.client.call(Ping())
    assert services.get("web").state is ServiceState.RUNNING
    resource.prlimit(daemon, resource.RLIMIT_NOFILE, (soft, hard))
    services.wait("web", state=ServiceState.FAILED)
    assert not any(map(exists, left))


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
    services.daemon.descriptors = 64
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


@pytest.mark.parametrize("spare", range(4))
def test_shim_killed_while_descriptors_are_exhausted_leaves_no_process(
    services: Services, tmp_path: Path, spare: int
) -> None:
    worker = tmp_path / "worker"
    services.add("web", f"setsid sh -c 'echo $$ > {worker}; exec sleep 1000' & exec sleep 1000")
    services.start("web")
    wait_until(lambda: lines_of(worker), "the worker")
    escaped = int(lines_of(worker)[0])
    daemon = services.daemon.pid
    soft, hard = resource.prlimit(daemon, resource.RLIMIT_NOFILE)
    shim = shim_of(status_file(services, "web").parent)
    used = {int(entry.name) for entry in Path(f"/proc/{daemon}/fd").iterdir()}
    free = [number for number in range(256) if number not in used]
    # One is enough to read files one after another, and not to look at a process that is about to be killed.
    resource.prlimit(daemon, resource.RLIMIT_NOFILE, (free[spare], hard))
    os.kill(shim, signal.SIGKILL)
    wait_until(
        lambda: "trying again" in services.daemon.log() or services.get("web").state is ServiceState.FAILED,
        "the look that fails, or the end",
    )
    assert services.get("web").state is ServiceState.RUNNING or not exists(escaped)
    resource.prlimit(daemon, resource.RLIMIT_NOFILE, (soft, hard))
    services.wait("web", state=ServiceState.FAILED)
    assert not exists(escaped)


@pytest.mark.parametrize("verb", ["stop", "restart", "remove"])
def test_suspended_shim_of_a_killed_daemon_obeys_the_next_one(services: Services, verb: str) -> None:
    services.add("web")
    pid = services.start("web").service.pid
    shim = shim_of(status_file(services, "web").parent)
    services.daemon.kill()
    os.kill(shim, signal.SIGSTOP)
    services.begin_anew()
    assert services.get("web").pid == pid
    if verb == "remove":
        services.client.call(RemoveService(service="web", stop=True))
    else:
        getattr(services, verb)("web")
    wait_until(lambda: not exists(pid) and not exists(shim), "the end of the run")


def test_suspended_shim_with_an_unreadable_status_can_be_stopped(services: Services) -> None:
    services.add("web")
    pid = services.start("web").service.pid
    path = status_file(services, "web")
    shim = shim_of(path.parent)
    services.daemon.kill()
    os.kill(shim, signal.SIGSTOP)
    path.write_bytes(b"garbage")
    services.begin_anew()
    wait_until(lambda: services.get("web").unknown_since, "the unknown run")
    services.stop("web")
    wait_until(lambda: not exists(pid) and not exists(shim), "the end of the run")


def test_stop_reaches_an_unknown_run_while_a_look_at_it_waits() -> None:
    """The runtime is a fake: its look at the run ends when the shim is told to stop, as with a lock that it holds."""
    ended = Exit("signal", 15, False, 1)

    class FakeRuntime:
        def __init__(self) -> None:
            self.looks, self.told = asyncio.Event(), asyncio.Event()

        async def adopt(self, owner: str, run_id: str) -> Exit:
            self.looks.set()
            await self.told.wait()
            return ended

        async def stop_unreadable(self, owner: str, run_id: str) -> None:
            assert (owner, run_id) == ("service-a", "r")
            self.told.set()

    async def write(*arguments: object, **columns: object) -> None:
        assert columns["unknown_since"]

    async def scenario() -> None:
        runtime, requests = FakeRuntime(), Requests()
        service = SimpleNamespace(state=ServiceState.RUNNING, unknown_since=None)
        state = SimpleNamespace(
            name="web",
            read=lambda: SimpleNamespace(service=service),
            cause=lambda word: word,
            unknown_columns=lambda _error: {},
            write=write,
        )
        context: Any = SimpleNamespace(owner="service-a", run_id="r", state=state, requests=requests, runs=runtime)
        finding = asyncio.create_task(find_run(context, OSError("unreadable")))
        looked = asyncio.create_task(runtime.looks.wait())
        await asyncio.wait({looked, finding}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)
        assert not finding.done()
        requests.stop = StopRequest(cast("Any", None), Reason("requested", "stopped on demand"), on_demand=True)
        requests.wake()
        assert await asyncio.wait_for(finding, WAIT_S) is ended

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "check", [{"health_log": "^ready"}, {"health_exec": "exit 0"}], ids=lambda check: next(iter(check))
)
def test_health_check_without_descriptors_is_made_later(services: Services, check: dict[str, str]) -> None:
    services.add("web", "sleep 0.5; echo ready; exec sleep 1000", start_window_ms=0, health_interval_ms=100, **check)
    daemon = services.daemon.pid
    services.start("web")
    services.update("web", health_interval_ms=200)
    soft, hard = resource.prlimit(daemon, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon, resource.RLIMIT_NOFILE, (3, hard))
    services.update("web", health_interval_ms=100)  # the check begins anew
    error = services.start_error(services.add("other").name)
    assert "Too many open files" in error.message
    assert "not writable" not in error.message
    resource.prlimit(daemon, resource.RLIMIT_NOFILE, (soft, hard))
    services.wait("web", health=ServiceHealth.HEALTHY)
    assert "is not tried again" not in services.daemon.log()
