"""Services and jobs under a real user manager run in their own scopes, which no restart of the daemon affects."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.raw import wait_until
from support.services import ServiceWorld
from support.systemd import UserManager, user_manager

from nexus.client import BlockingClient
from nexus.jobs.commands import CreateJob, CreateJobGroup, GetJob, WaitJobs
from nexus.jobs.states import JobStatus
from nexus.services.commands import StartService
from nexus.services.errors import ServiceStartFailed
from nexus.services.records import Service
from nexus.services.states import RestartPolicy, ServiceState

SERVICE, SOCKET = "nexus.service", "nexus.socket"
MIB = 1024 * 1024


class UnitWorld(ServiceWorld):
    """Services of a daemon that runs as a unit; the end of the manager ends all of them."""

    def __init__(self, manager: UserManager) -> None:
        self.root = manager.root
        self.state = manager.root / "state" / "nexus"
        self.manager = manager

    def client(self) -> BlockingClient:
        return BlockingClient(self.manager.socket_path)

    def nexusctl(self, *words: str) -> str:
        """Run ``nexusctl`` inside the namespaces; it must succeed."""
        return self.manager.run("nexusctl", *words).stdout

    def main_pid(self) -> int:
        """The daemon's pid inside the namespace; 0 while none runs."""
        return int(self.manager.show(SERVICE, "MainPID"))

    def cgroup(self, service: Service) -> str:
        """The cgroup of a service's main process, in the manager's tree."""
        return self.manager.run("cat", f"/proc/{service.pid}/cgroup").stdout.rpartition("0::")[2].strip()

    def scopes(self) -> list[str]:
        """The scopes of all runs and tunnels."""
        shown = self.manager.systemctl("list-units", "--type=scope", "--all", "--plain", "--no-legend", "nexus-*")
        return [line.split()[0] for line in shown.splitlines()]


@pytest.fixture(scope="module")
def manager() -> Iterator[UserManager]:
    """A user manager for all tests of the module."""
    with user_manager() as running:
        yield running


@pytest.fixture
def world(manager: UserManager) -> Iterator[UnitWorld]:
    """The installed and running daemon; its units, processes and state are removed after the test."""
    world = UnitWorld(manager)
    manager.run("nexusctl", "daemon", "install")
    try:
        yield world
        world.nexusctl("service", "stop", "--all")
        wait_until(lambda: not world.scopes(), "all scopes to end")
    finally:
        for scope in world.scopes():
            manager.systemctl("kill", "--signal=KILL", scope, check=False)
        manager.run("nexusctl", "daemon", "stop", check=False)
        shutil.rmtree(manager.units, ignore_errors=True)
        shutil.rmtree(manager.root / "state", ignore_errors=True)
        for path in manager.root.glob("*.fifo"):
            path.unlink()
        manager.systemctl("daemon-reload")
        manager.systemctl("reset-failed")


@pytest.mark.slow
def test_services_outlive_restart_stop_and_kill_of_the_daemon_unit(world: UnitWorld) -> None:
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
    cgroups = {world.cgroup(service) for service in before.values()}
    assert len(cgroups) == 10
    assert all(cgroup.rpartition("/")[2].startswith("nexus-") and cgroup.endswith(".scope") for cgroup in cgroups)
    assert len(world.scopes()) == 10
    assert {service.state for service in before.values()} == {ServiceState.RUNNING}

    pid = world.main_pid()
    world.manager.systemctl("restart", SERVICE)
    assert world.main_pid() not in (0, pid)
    facts = {name: (service.state, service.pid, service.started_at) for name, service in before.items()}
    assert {name: (s.state, s.pid, s.started_at) for name, s in world.services().items()} == facts

    assert world.nexusctl("daemon", "stop").startswith("Stopped the daemon")
    assert world.manager.show(SERVICE, "ActiveState") == "inactive"
    for name in (*names, *ends):
        world.order(name, "say meanwhile")
    for name, end in ends.items():
        world.order(name, end)
    for name, service in before.items():
        wait_until(lambda service=service: b"meanwhile" in world.kept_on_disk(service), f"the output of {name}")
    wait_until(lambda: len(world.scopes()) == 7, "three scopes to end")
    world.nexusctl("daemon", "start")

    after = world.services()
    for name in names:
        assert (after[name].state, after[name].pid, after[name].restarts) == (ServiceState.RUNNING, before[name].pid, 0)
        assert world.output(name) == b"before\nmeanwhile\n"
    assert (after["done"].state, after["done"].exit_code) == (ServiceState.STOPPED, 0)
    assert (after["dies"].state, after["dies"].exit_signal) == (ServiceState.FAILED, signal.SIGSEGV)
    again = world.wait_for("fails", lambda service: service.state is ServiceState.RUNNING, "to run again")
    assert again.restarts == 1
    exits = {event.subject_name: event.detail or {} for event in world.events("service.exited")}
    assert exits["fails"]["exit_code"] == 3

    pid = world.main_pid()
    world.manager.run("kill", "-9", str(pid))
    wait_until(lambda: world.main_pid() not in (0, pid), "a new daemon")
    wait_until(lambda: world.manager.show(SERVICE, "ActiveState") == "active", "the new daemon to be ready")
    assert [world.service(name).pid for name in names] == [before[name].pid for name in names]
    assert world.ran_twice() == []


@pytest.mark.slow
def test_jobs_outlive_restarts_of_the_daemon_unit_and_none_runs_twice(world: UnitWorld) -> None:
    ran = world.root / "ran"
    fifo = world.root / "go.fifo"
    os.mkfifo(fifo)
    line = f"echo begun $NEXUS_JOB >> {ran}; cat {fifo} > {world.root}/eaten-$NEXUS_JOB; echo ended; exit $NEXUS_JOB"
    with world.client() as client:
        client.call(CreateJobGroup("wide", slots=3))
        held = [client.call(CreateJob(line, group="wide")) for _ in range(3)]
        queued = [client.call(CreateJob(f"echo ran $NEXUS_JOB >> {ran}", group="wide")) for _ in range(20)]
        wait_until(lambda: ran.exists() and ran.read_text().count("begun") == 3, "three jobs to begin")
        wait_until(lambda: len(world.scopes()) == 3, "their scopes")
    for _ in range(2):
        pid = world.main_pid()
        world.manager.systemctl("restart", SERVICE)
        assert world.main_pid() not in (0, pid)
    assert world.nexusctl("daemon", "stop").startswith("Stopped the daemon")
    with fifo.open("wb"):  # the jobs end while no daemon runs
        pass
    wait_until(lambda: not world.scopes(), "the scopes to end")
    world.nexusctl("daemon", "start")
    with world.client() as client:
        client.call(WaitJobs(jobs=[job.id for job in (*held, *queued)]))
        ended = [client.call(GetJob(job.id)) for job in held]
        assert [(job.status, job.exit_code, job.stdout) for job in ended] == [
            (JobStatus.FAILED, job.number, "ended\n") for job in held
        ]
        assert {client.call(GetJob(job.id)).status for job in queued} == {JobStatus.COMPLETED}
    lines = sorted(ran.read_text().splitlines())
    assert lines == sorted([f"begun {job.number}" for job in held] + [f"ran {job.number}" for job in queued])


def test_daemon_with_running_services_does_not_exit_idle(world: UnitWorld) -> None:
    nexusd = shutil.which("nexusd", path=world.manager.environment["PATH"])
    world.manager.drop_in(SERVICE, f"[Service]\nExecStart=\nExecStart={nexusd} --idle-exit 0.05\n")
    world.manager.systemctl("restart", SERVICE)
    service = world.add("naps", "sleep 1; echo slept; exec sleep 600")
    world.call(StartService(service="naps"))
    pid = world.main_pid()
    assert pid
    # From here on the daemon gets no request for many times its idle limit.
    wait_until(lambda: b"slept" in world.kept_on_disk(service), "the output of the service")
    assert world.main_pid() == pid
    world.nexusctl("service", "stop", "naps")
    wait_until(lambda: world.manager.show(SERVICE, "ActiveState") == "inactive", "the idle exit")
    # The next request starts a daemon again.
    assert world.service("naps").state is ServiceState.STOPPED


def controllers(world: UnitWorld) -> set[str]:
    """The cgroup controllers that are available to the manager."""
    return set(world.manager.run("cat", "/sys/fs/cgroup/cgroup.controllers").stdout.split())


def refused_limit(world: UnitWorld, name: str) -> str:
    """Start a service whose limit cannot be enforced: the start fails and leaves no process. Return the message."""
    with pytest.raises(ServiceStartFailed) as caught:
        world.call(StartService(service=name))
    assert caught.value.message.startswith(f'cannot start service "{name}": ')
    assert "Delegate=" in (caught.value.hint or "")
    assert world.service(name).state is ServiceState.FAILED
    wait_until(lambda: not world.scopes(), "the scope to end")
    return caught.value.message


@pytest.mark.parametrize(("controller", "words"), [("memory", "the memory controller"), ("cpu", "the CPU controller")])
def test_limit_is_enforced_or_the_start_is_refused(world: UnitWorld, controller: str, words: str) -> None:
    fields = {"memory": {"memory_limit_mib": 64}, "cpu": {"cpu_limit_percent": 50}}[controller]
    world.add("limited", "exec sleep 600", **fields)
    if controller not in controllers(world):
        assert f"{words} is not available" in refused_limit(world, "limited")
        return
    service = world.call(StartService(service="limited")).service
    folder = Path("/sys/fs/cgroup") / world.cgroup(service).lstrip("/")
    found = world.manager.run("cat", str(folder / f"{controller}.max")).stdout.split()
    assert found[0] == {"memory": str(64 * MIB), "cpu": "50000"}[controller]
    world.nexusctl("service", "stop", "limited")
    # Without the controller in the slice of the services, the start is refused.
    world.manager.drop_in("app.slice", f"[Slice]\nDisableControllers={controller}\n")
    assert f"{words} is not available" in refused_limit(world, "limited")


def test_service_over_its_memory_limit_is_killed_with_the_reason(world: UnitWorld) -> None:
    hungry = "data = []\nwhile True: data.append(bytearray(1 << 20))"
    world.add("hungry", ["python3", "-I", "-S", "-c", hungry], memory_limit_mib=32, start_window_ms=60_000)
    if "memory" not in controllers(world):
        assert "the memory controller is not available" in refused_limit(world, "hungry")
        return
    with pytest.raises(ServiceStartFailed) as caught:
        world.call(StartService(service="hungry"))
    assert "killed by SIGKILL" in caught.value.message
    service = world.service("hungry")
    assert (service.state, service.exit_signal) == (ServiceState.FAILED, signal.SIGKILL)
    assert "memory" in (service.reason or "")
