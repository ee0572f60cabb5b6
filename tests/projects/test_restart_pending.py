"""``restart_pending_since``: whether a service that is up lacks a change that takes effect with its next start."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nexus_protocol import Command
from support.daemon import DaemonProcess
from support.plugins import PluginFolder
from support.projects import Speaker, clear, events_of, project
from support.raw import RawClient, wait_until
from support.replay import check
from support.stores import look_at

from nexus.records.fields import clearable_fields, fields_of_next_start
from nexus.records.processes import StopSignal
from nexus.services.commands import (
    AddDependency,
    AddService,
    RemoveDependency,
    RestartService,
    StartService,
    StopService,
    UpdateConfig,
    UpdateService,
)
from nexus.services.states import ConfigFormat, RestartPolicy, ServiceState, ServiceType
from nexus.system.commands import Batch

NEXT_START: dict[str, Any] = {
    "run_command": "exec sleep 999",
    "environment": {"A": "2"},
    "directory": "/",
    "port": 0,
    "umask": "027",
    "config_filename": "other.env",
    "config_format": ConfigFormat.PROPERTIES,
    "type": ServiceType.ONESHOT,
}
AT_ONCE: dict[str, Any] = {
    "tags": ["x"],
    "autostart": True,
    "restart": RestartPolicy.ON_FAILURE,
    "stop_grace_ms": 77,
    "stop_signal": StopSignal.SIGINT,
    "restart_limit": 7,
}

_HOOK = """
    import os, time
    @hookimpl
    def pre_start_command(service, command, environment):
        folder = os.environ["HELD"]
        if not os.path.exists(f"{folder}/hold"):
            return None
        if os.path.exists(f"{folder}/skip"):
            os.remove(f"{folder}/skip")
            return None
        open(f"{folder}/held", "w").close()
        while os.path.exists(f"{folder}/hold"):
            time.sleep(0.005)
        os.remove(f"{folder}/held")
"""


@pytest.fixture
def held(make_daemon: Callable[..., DaemonProcess], root: Path) -> Iterator[tuple[Speaker, Path]]:
    """A daemon whose starts wait, after their configuration was read, while the file ``hold`` is in the folder."""
    folder = root / "held"
    folder.mkdir()
    PluginFolder(root / "config" / "nexus" / "plugins").python("holding", _HOOK)
    daemon = make_daemon(environment={"HELD": str(folder)})
    daemon.start()
    speaker = Speaker(daemon)
    shop = project(speaker, "shop")
    yield shop, folder
    (folder / "hold").unlink(missing_ok=True)
    clear(speaker)
    speaker.close()
    assert daemon.stop() == 0
    with look_at(daemon.database) as database:
        assert check(database) == []


def due(speaker: Speaker, name: str = "web") -> bool:
    return speaker.get(name).restart_pending_since is not None


def test_fields_are_of_both_kinds() -> None:
    marked = fields_of_next_start(AddService)
    assert set(NEXT_START) <= marked
    assert not set(AT_ONCE) & marked
    assert marked <= set(AddService.__struct_fields__)


@pytest.mark.parametrize("field", NEXT_START)
def test_a_change_for_the_next_start_is_due_in_its_own_transaction(nexus: Speaker, field: str) -> None:
    shop = project(nexus, "shop")
    shop.service("web", environment={"A": "1"})
    stopped = shop.call(UpdateService("web", **{field: NEXT_START[field]}))
    assert stopped.restart_pending_since is None
    shop.call(UpdateService("web", **{field: getattr(AddService("x"), field)})) if field not in (
        "run_command", "environment", *clearable_fields(AddService),
    ) else shop.call(UpdateService("web", **({"run_command": "exec sleep 1000"} if field == "run_command" else {
        "environment": {"A": "1"}} if field == "environment" else {"clear": [field]})))  # fmt: skip
    shop.call(StartService("web"))
    assert not due(shop)
    changed = shop.call(UpdateService("web", **{field: NEXT_START[field]}))
    assert changed.restart_pending_since is not None
    first = changed.restart_pending_since
    assert shop.call(UpdateService("web", **{field: NEXT_START[field]})).restart_pending_since == first
    assert shop.call(UpdateService("web", tags=["later"])).restart_pending_since == first
    assert changed.revision == stopped.revision + 2
    last = events_of(shop, subject="web", kinds=["service.updated"])[-2]
    assert last.revision == changed.revision  # the one event of the change carries it
    shop.call(StopService("web"))
    assert not due(shop)


@pytest.mark.parametrize("field", AT_ONCE)
def test_a_change_at_once_is_not_due(nexus: Speaker, field: str) -> None:
    shop = project(nexus, "shop")
    shop.service("web")
    shop.call(StartService("web"))
    assert shop.call(UpdateService("web", **{field: AT_ONCE[field]})).restart_pending_since is None
    assert not due(shop)


def test_dependencies_are_due_while_the_dependent_is_up(nexus: Speaker) -> None:
    shop = project(nexus, "shop")
    for name in ("web", "db", "other"):
        shop.service(name)
    shop.call(AddDependency("web", "db"))
    shop.call(StartService("web"))
    steps: list[Command[Any]] = [
        AddDependency("web", "other"),
        RemoveDependency("web", "other"),
        UpdateConfig("web", run_command="exec sleep 6"),
        Batch.of([UpdateService("web", run_command="exec sleep 5")]),
    ]
    for step in steps:
        before = shop.get().revision
        shop.call(step)
        assert due(shop) == (shop.get().revision > before)
        assert not due(shop, "db")
        shop.call(AddDependency("web", "db"))
        shop.call(RestartService("web"))
        assert not due(shop), step
    shop.call(StopService("web"))
    shop.call(AddDependency("web", "other"))
    assert not due(shop)


@pytest.mark.parametrize("state", ["stopped", "running"])
@pytest.mark.parametrize("change", ["field", "environment", "dependency", "at once", "back", "none"])
def test_a_run_that_was_made_before_a_change_leaves_it_due(held: tuple[Speaker, Path], state: str, change: str) -> None:
    shop, folder = held
    shop.service("web", "exec sleep 1000", environment={"A": "1"})
    shop.service("db")
    if state == "running":
        shop.call(StartService("web"))
        shop.call(UpdateService("web", run_command="exec sleep 2000"))
        assert due(shop)
    started = shop.get().started_at
    if state == "running":
        (folder / "skip").touch()  # a restart asks first whether the service could be started
    (folder / "hold").touch()
    with RawClient(Path(shop.client.socket_path)) as client:
        sequence = client.begin((RestartService if state == "running" else StartService)(shop.get().id))
        wait_until((folder / "held").exists, "the start to be held")
        if change == "field":
            shop.call(UpdateService("web", run_command="exec sleep 3000"))
        elif change == "environment":
            shop.call(UpdateService("web", set_environment={"A": "2"}))
        elif change == "dependency":
            shop.call(AddDependency("web", "db"))
        elif change == "at once":
            shop.call(UpdateService("web", tags=["x"]))
        elif change == "back":
            shop.call(UpdateService("web", umask="027"))
            shop.call(UpdateService("web", clear=["umask"]))
        (folder / "hold").unlink()
        client.result(sequence)
    now = shop.get()
    assert now.state is ServiceState.RUNNING
    assert now.started_at != started
    assert due(shop) == (change in ("field", "environment", "dependency"))
    shop.call(RestartService("web"))
    assert not due(shop)


def test_a_restart_by_the_policy_has_what_was_due(nexus: Speaker, root: Path) -> None:
    shop = project(nexus, "shop")
    shop.service(
        "web",
        f"test -e {root}/go && exit 3; exec sleep 1000",
        restart=RestartPolicy.ON_FAILURE,
        restart_backoff_ms=10,
        restart_backoff_max_ms=10,
    )
    shop.call(StartService("web"))
    pid = shop.get().pid
    shop.call(UpdateService("web", umask="027"))
    assert due(shop)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: shop.get().pid not in (None, pid), "the next run")
    assert not due(shop)


def test_what_is_due_outlives_the_daemon(own: Speaker, daemon: DaemonProcess) -> None:
    shop = project(own, "shop")
    shop.service("web")
    shop.call(StartService("web"))
    at = shop.call(UpdateService("web", umask="027")).restart_pending_since
    daemon.kill()
    daemon.start()
    own.client.close()
    again = Speaker(daemon)
    shop = again.at("shop")
    shop.wait("web", state=ServiceState.RUNNING, restart_pending_since=at)
    shop.call(RestartService("web"))
    assert not due(shop)
    clear(again)
    again.close()
