"""Revisions: they count the changes of a record's configuration and of its state, and a request may expect one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from nexus_protocol import NexusError
from support.daemon import DaemonProcess
from support.raw import wait_until

from nexus.client import BlockingClient
from nexus.services.commands import (
    AddDependency,
    AddService,
    GetServiceStatus,
    ListServices,
    RemoveDependency,
    RemoveService,
    StartService,
    StopService,
    UpdateConfig,
    UpdateService,
)
from nexus.services.errors import ServiceChanged
from nexus.services.records import Service
from nexus.services.states import RestartPolicy
from nexus.system.commands import Batch
from nexus.vms.commands import CreateVm, DeleteVm, GetVm, UpdateVm, VmChanged


@pytest.fixture
def nexus(daemon: DaemonProcess) -> Iterator[BlockingClient]:
    """A client of a daemon without records."""
    with BlockingClient(daemon.socket_path) as client:
        yield client


def service(nexus: BlockingClient, name: str = "web") -> Service:
    return nexus.call(GetServiceStatus(service=name)).service


def test_change_of_a_vm_raises_its_revision(nexus: BlockingClient) -> None:
    vm = nexus.call(CreateVm("a"))
    assert (vm.revision, vm.state_revision) == (1, 0)
    assert nexus.call(UpdateVm("a", vcpu_count=2)).revision == 2
    assert nexus.call(UpdateVm("a", vcpu_count=2)).revision == 2, "equal values are no change"
    assert nexus.call(UpdateVm("a", name="b", mem_size_mib=64)).revision == 3
    assert nexus.call(GetVm("b")).state_revision == 0


def test_request_that_expects_another_revision_changes_nothing(nexus: BlockingClient) -> None:
    vm = nexus.call(CreateVm("a"))
    changed = nexus.call(UpdateVm("a", vcpu_count=2, if_revision=1))
    for command in (UpdateVm("a", vcpu_count=3, if_revision=1), DeleteVm("a", if_revision=1)):
        with pytest.raises(VmChanged) as raised:
            nexus.call(command)
        error = raised.value
        assert (error.code, error.details) == (
            "conflict",
            {"id": vm.id, "name": "a", "revision": 2, "state_revision": 0},
        )
        assert "its revision is 2 and not 1" in error.message
        assert nexus.call(GetVm("a")) == changed
    with pytest.raises(VmChanged, match="state_revision is 0 and not 7"):
        nexus.call(DeleteVm("a", if_state_revision=7))
    assert nexus.call(DeleteVm("a", if_revision=2, if_state_revision=0)) == changed


def test_one_of_fifty_clients_wins_each_revision(daemon: DaemonProcess, nexus: BlockingClient) -> None:
    nexus.call(CreateVm("a"))
    wins: list[int] = []
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with BlockingClient(daemon.socket_path) as client:
                for _ in range(20):
                    revision = client.call(GetVm("a")).revision
                    try:
                        client.call(UpdateVm("a", mem_size_mib=1000 + number * 1000 + revision, if_revision=revision))
                        wins.append(revision)
                    except VmChanged:
                        pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures
    assert sorted(wins) == list(range(1, len(wins) + 1)), "exactly one wins each revision"
    assert nexus.call(GetVm("a")).revision == len(wins) + 1


def test_revision_in_a_batch_is_that_of_the_moment(nexus: BlockingClient) -> None:
    nexus.call(CreateVm("a"))
    done = nexus.batch([UpdateVm("a", vcpu_count=number + 2, if_revision=number + 1) for number in range(3)])
    assert [vm.revision for vm in done] == [2, 3, 4]
    with pytest.raises(VmChanged):
        nexus.call(Batch.of([UpdateVm("a", vcpu_count=9), UpdateVm("a", vcpu_count=10, if_revision=4)]))
    assert nexus.call(GetVm("a")).vcpu_count == 4


def test_runs_of_a_service_raise_only_its_state_revision(nexus: BlockingClient) -> None:
    added = nexus.call(AddService("web", run_command=["sleep", "1000"], start_window_ms=0))
    assert (added.revision, added.state_revision) == (1, 0)
    started = nexus.call(StartService("web")).service
    assert started.revision == 1
    assert started.state_revision > 0
    updated = nexus.call(UpdateService("web", tags=["a"], if_revision=1))
    assert updated.revision == 2
    assert service(nexus).state_revision == started.state_revision
    nexus.call(UpdateConfig("web", run_command=["sleep", "2000"], if_revision=2))
    stopped = nexus.call(StopService("web")).service
    assert stopped.revision == 3
    assert stopped.state_revision > started.state_revision


def test_dependencies_of_a_service_raise_its_revision(nexus: BlockingClient) -> None:
    for name in ("web", "db"):
        nexus.call(AddService(name))
    nexus.call(AddDependency("web", "db"))
    nexus.call(AddDependency("web", "db"))  # a repeated request is no change
    added = service(nexus)
    assert (added.revision, added.state_revision) == (2, 0)
    with pytest.raises(ServiceChanged):
        nexus.call(RemoveService("web", if_revision=1))
    nexus.call(RemoveDependency("web", "db"))
    assert service(nexus).revision == 3
    assert service(nexus).updated_at >= added.updated_at
    assert service(nexus, "db").revision == 1, "a dependent is no part of a service's configuration"


def test_update_of_a_service_that_crashes_wins_at_the_first_try(nexus: BlockingClient) -> None:
    nexus.call(
        AddService(
            "web", run_command=["sh", "-c", "sleep 0.1; exit 1"], restart=RestartPolicy.ALWAYS, restart_limit=0,
            restart_backoff_ms=10, restart_backoff_max_ms=10, start_window_ms=0,
        )
    )  # fmt: skip
    nexus.call(StartService("web"))
    for number in range(5):
        before = service(nexus)
        wait_until(lambda before=before: service(nexus).restarts > before.restarts, "a crash")  # type: ignore[misc]
        updated = nexus.call(UpdateService("web", tags=[f"t{number}"], if_revision=before.revision))
        assert updated.revision == before.revision + 1
        assert updated.state_revision > before.state_revision


def test_request_that_changes_nothing_keeps_the_state_revision(nexus: BlockingClient) -> None:
    nexus.call(AddService("web", run_command=["sleep", "1000"], start_window_ms=0))
    for command in (StartService("web"), StopService("web")):
        nexus.call(command)  # type: ignore[arg-type]
        before = service(nexus)
        nexus.call(command)  # type: ignore[arg-type]
        assert service(nexus) == before


def test_command_that_expects_another_state_is_refused(nexus: BlockingClient) -> None:
    nexus.call(AddService("web", run_command=["sleep", "1000"], start_window_ms=0))
    nexus.call(StartService("web", if_state_revision=0))
    up = service(nexus)
    for command, verb in (
        (StopService("web", if_state_revision=0), "stop"),
        (StartService("web", if_state_revision=0), "start"),
        (RemoveService("web", stop=True, if_state_revision=0), "remove"),
        (RemoveService("web", stop=True, if_revision=9), "remove"),
        (UpdateService("web", tags=["a"], if_revision=9), "update"),
        (UpdateConfig("web", filename="x", if_revision=9), "update"),
    ):
        with pytest.raises(ServiceChanged) as raised:
            nexus.call(command)  # type: ignore[arg-type]
        assert raised.value.message.startswith(f'cannot {verb} service "web": its ')
        assert service(nexus) == up
    nexus.call(StopService("web", if_state_revision=up.state_revision))
    down = service(nexus)
    nexus.call(RemoveService("web", if_revision=down.revision, if_state_revision=down.state_revision))
    assert nexus.call(ListServices()).services == []


@pytest.mark.parametrize("revision", [-1, 0, 2**63, "1", 1.5])
def test_revision_is_a_positive_whole_number(nexus: BlockingClient, revision: object) -> None:
    nexus.call(CreateVm("a"))
    with pytest.raises(NexusError) as raised:
        nexus.call(UpdateVm("a", vcpu_count=2, if_revision=revision))  # type: ignore[arg-type]
    assert raised.value.code == "invalid_argument"
    assert nexus.call(GetVm("a")).vcpu_count == 1
