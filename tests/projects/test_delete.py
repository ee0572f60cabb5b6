"""DeleteProject: what refuses it, what goes with it in one operation, and what is forgotten."""

from __future__ import annotations

import functools
import itertools
import socket
from typing import Any

import pytest
from support.daemon import DaemonProcess
from support.live_services import exists, listen, python
from support.projects import Speaker, events_of, kept_by, project
from support.raw import RawClient, wait_until
from support.replay import check
from support.stores import look_at

from nexus.journal.commands import GetOperation
from nexus.projects.commands import (
    DeleteProject,
    GetProject,
    ProjectNotEmpty,
    ProjectNotFound,
    ProjectRunning,
    UpdateProject,
)
from nexus.services.commands import (
    AddDependency,
    GetServiceStdout,
    ListServices,
    StartService,
    StopService,
    UpdateService,
)
from nexus.services.states import RestartPolicy, ServiceState
from nexus.services.store import UP
from nexus.vms.commands import CreateVm, ListVms

IGNORES = "import os, signal; signal.signal(15, signal.SIG_IGN); os.mkdir('ready')\nwhile True: signal.pause()"
UPS: dict[str, tuple[ServiceState, dict[str, Any]]] = {
    "window": (ServiceState.STARTING, {"run": "sleep 1000", "start_window_ms": 60_000}),
    "waiting": (ServiceState.STARTING, {"run": "sleep 1000"}),
    "backoff": (
        ServiceState.STARTING,
        {
            "run": "exit 3",
            "restart": RestartPolicy.ON_FAILURE,
            "restart_backoff_ms": 600_000,
            "restart_backoff_max_ms": 600_000,
        },
    ),
    "running": (ServiceState.RUNNING, {"run": "sleep 1000"}),
    "stopping": (ServiceState.STOPPING, {"run": python(IGNORES)}),
}
"""A service for each way of being up."""


def has_no_folder(daemon: DaemonProcess, ids: list[str]) -> bool:
    """Whether the daemon keeps no file that is named after one of these ids."""
    return not any(id_ in path.name for path in daemon.state.rglob("*") for id_ in ids)


def replays(daemon: DaemonProcess) -> None:
    """Stop the daemon and check its images."""
    assert daemon.stop() == 0
    with look_at(daemon.database) as database:
        assert check(database) == []


def test_every_state_in_which_a_service_is_up_is_tried() -> None:
    assert {state for state, _fields in UPS.values()} == UP


@pytest.mark.parametrize("case", UPS)
def test_nothing_is_deleted_while_a_service_is_up(own: Speaker, daemon: DaemonProcess, case: str) -> None:
    shop = project(own, "shop")
    state, fields = UPS[case]
    web = shop.service("web", stop_grace_ms=60_000, directory=str(daemon.root), **fields)
    shop.service("beside")
    shop.call(CreateVm("v"))
    with RawClient(daemon.socket_path) as client:
        if case == "waiting":
            shop.service("slow", start_window_ms=60_000)
            shop.call(AddDependency("web", "slow"))
        client.begin(StartService(web.id))
        if case == "backoff":
            wait_until(lambda: shop.get().next_restart_at, "a restart to be due")
        if case == "stopping":
            wait_until((daemon.root / "ready").exists, "the service to ignore SIGTERM")
            client.begin(StopService(web.id))
        shop.wait("web", state=state)
        for cascade in (False, True):
            error = own.error(DeleteProject("shop", cascade=cascade))
            assert isinstance(error, ProjectRunning)
            assert {"kind": "service", "id": web.id, "name": "web", "state": state.value} in error.details["running"]
            assert "project inspect shop" in (error.hint or "")
        assert not [each for each in events_of(shop) if str(each.kind).endswith(("removed", "deleted"))]
    assert own.call(GetProject("shop")).id == shop.named


def test_without_cascade_only_an_empty_project_is_deleted(nexus: Speaker) -> None:
    shop = project(nexus, "shop")
    shop.service("a")
    shop.service("b")
    shop.call(CreateVm("v"))
    error = nexus.error(DeleteProject("shop"))
    assert isinstance(error, ProjectNotEmpty)
    assert error.details["records"] == {"service": 2, "vm": 1}
    assert error.message == 'cannot delete project "shop": it has 2 services and 1 VM'
    assert "nexusctl project delete shop --cascade" in (error.hint or "")
    assert nexus.call(DeleteProject(project(nexus, "empty").named)).records == []


def test_all_goes_in_one_operation_with_an_event_for_each_row(own: Speaker, daemon: DaemonProcess) -> None:
    shop, beside = project(own, "shop"), project(own, "beside")
    for speaker in (shop, beside):
        for name in ("web", "api", "db"):
            speaker.service(name, tags=[name], environment={"SECRET": "s"})
        speaker.call(AddDependency("web", "api", tunnel_enabled=True))
        speaker.call(AddDependency("web", "db"))
        speaker.call(AddDependency("api", "db"))
        for name in ("v", "w"):
            speaker.call(CreateVm(name))
    reply = own.call(DeleteProject("shop", cascade=True))
    told = [(each.kind, each.name) for each in reply.records]
    assert told == [("service", "api"), ("service", "db"), ("service", "web"), ("vm", "v"), ("vm", "w")]
    found = [each for each in events_of(own) if each.project_id == shop.named]
    (deleted,) = [each for each in found if each.kind == "project.deleted"]
    of_delete = [each for each in found if each.operation == deleted.operation]
    kinds = [each.kind for each in of_delete]
    assert sorted(kinds) == sorted(
        ["dependency.removed"] * kinds.count("dependency.removed")
        + ["service.dependency_removed"] * kinds.count("service.dependency_removed")
        + ["service.removed"] * 3
        + ["vm.deleted"] * 2
        + ["project.deleted"]
    )
    assert of_delete[-1].kind == "project.deleted"
    changes = own.call(GetOperation(deleted.operation, limit=1000)).changes
    tables = [each.table for each in changes if each.table is not None]
    assert sorted(tables) == ["projects", *["service"] * 3, *["service_dependency"] * 3, "vms", "vms"]
    assert sorted(beside.names()) == ["api", "db", "web"]
    assert len(beside.call(ListVms()).vms) == 2
    replays(daemon)


@pytest.mark.parametrize("again", ["same", "renamed"])
def test_what_was_deleted_is_forgotten(own: Speaker, daemon: DaemonProcess, again: str) -> None:
    ids: list[str] = []
    for round_ in range(3):
        shop = project(own, "shop", root_path="/srv/shop")
        web = shop.service("web", listen(before=f"print('round {round_}', flush=True)"), port=0, start_window_ms=50)
        db = shop.service("db", listen(), port=0, start_window_ms=50)
        shop.call(AddDependency("web", "db", tunnel_enabled=True))
        shop.call(StartService("web"))
        pid = shop.get().pid
        with shop.client.stream(GetServiceStdout(web.id, follow=True)) as stream:
            assert bytes(next(iter(stream)).data) == f"round {round_}\n".encode()
        if again == "renamed":
            own.call(UpdateProject("shop", name=f"old-{round_}"))
        own.call(StopService(db.id, cascade=True))
        follower = RawClient(daemon.socket_path)
        follow = follower.begin(GetServiceStdout(web.id, follow=True))
        next(iter(follower.items(follow)))
        own.call(DeleteProject(str(shop.named), cascade=True))
        follower.result(follow)  # it ends with Success, as where a service is removed
        follower.close()
        ids += [web.id, db.id, str(shop.named)]
        wait_until(functools.partial(has_no_folder, daemon, ids), "the files of the services to be deleted")
        assert not exists(pid)
        assert isinstance(own.error(GetProject(str(shop.named))), ProjectNotFound)
    wait_until(lambda: kept_by(daemon) == [], "the files of the tunnels to be deleted")
    assert own.at("*").call(ListServices()).services == []
    replays(daemon)


def test_a_fixed_port_is_free_after_its_project(own: Speaker) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    for _ in range(2):
        shop = project(own, "shop")
        shop.service("web", listen(), port=port, start_window_ms=50)
        shop.call(StartService("web"))
        own.call(StopService("shop/web"))
        own.call(DeleteProject("shop", cascade=True))
    other = project(own, "other")
    other.service("web", listen(), port=port, start_window_ms=50)
    other.call(StartService("web"))


def test_services_that_depend_on_each_other_in_a_chain_of_many(nexus: Speaker) -> None:
    shop = project(nexus, "shop")
    names = [f"s{number:03}" for number in range(120)]
    for name in names:
        shop.service(name, None)
    for one, other in itertools.pairwise(names):
        shop.call(AddDependency(one, other))
    shop.call(UpdateService("s000", tags=["x"]))
    assert len(nexus.call(DeleteProject("shop", cascade=True)).records) == 120
