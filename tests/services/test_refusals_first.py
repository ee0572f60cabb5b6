"""A refused or failed command changes nothing: it is checked and written before anything is ended."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from nexus_protocol import NexusError, ResourceExhausted
from support.daemon import DaemonProcess, running
from support.faults import fill, on_small_disk
from support.live_services import Services, exists, listen
from support.plugins import PluginFolder

from nexus.services.commands import RemoveService, RestartService, StopService, UpdateService
from nexus.services.states import ServiceState
from nexus.system.commands import SetSetting

VETO = """\
@hookimpl
def pre_start_command(environment):
    return Veto("not today") if environment.get("DAY") == "sunday" else None
"""


def refused_restart(services: Services, name: str, **fields: object) -> NexusError:
    """Restart a running service in vain: it runs on as it was."""
    before = services.get(name)
    error = services.client.call_error(RestartService(service=name, **fields))  # type: ignore[arg-type]
    after = services.get(name)
    assert (after.state, after.pid, after.restarts) == (ServiceState.RUNNING, before.pid, before.restarts)
    assert exists(after.pid)
    assert services.kinds(name)[-1] != "stopping"
    return error


def test_restart_that_a_plugin_vetoes_leaves_the_service_running(
    root: Path, make_daemon: Callable[..., DaemonProcess]
) -> None:
    PluginFolder(root / "config" / "nexus" / "plugins").python("guard", VETO)
    services = Services(make_daemon().start())
    services.add("web")
    services.start("web", environment={"DAY": "monday"})
    error = refused_restart(services, "web", environment={"DAY": "sunday"})
    assert "not today" in error.message
    # The environment of the refused restart is forgotten.
    assert services.restart("web").service.state is ServiceState.RUNNING
    services.close()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"directory": "/nowhere/at/all"}, "does not exist"),
        ({"run_command": ["no-such-program-at-all"]}, "program not found"),
        ({"run_command": ["/etc/passwd"]}, "not executable"),
        ({"config_filename": "nowhere.env"}, "nowhere.env"),
        ({"config_filename": ["?nowhere.env", "/no/such.env"]}, "/no/such.env: there is no such file"),
    ],
    ids=["directory", "program", "permission", "configuration file", "configuration files"],
)
def test_restart_that_could_not_start_leaves_the_service_running(
    services: Services, fields: dict[str, object], words: str
) -> None:
    services.add("web")
    services.start("web")
    services.client.call(UpdateService(service="web", **fields))  # type: ignore[arg-type]
    assert words in refused_restart(services, "web").message
    services.stop("web")


def test_restart_to_a_port_in_use_leaves_the_service_running(services: Services) -> None:
    services.add("other", listen(), port=0, health_tcp=0)
    taken = services.start("other", wait=True).service.active_port
    services.add("web", listen(), port=0)
    services.start("web")
    services.client.call(UpdateService(service="web", port=taken))
    assert f"port {taken} is in use" in refused_restart(services, "web").message


def test_full_disk_refuses_a_restart_and_a_removal_and_tells_what_a_stop_has_done(
    make_daemon: Callable[..., DaemonProcess],
) -> None:
    daemon = make_daemon()

    def use(disk: Path) -> None:
        services = Services(daemon)
        for name in ("web", "gone"):
            services.add(name)
            services.start(name)
        pid = services.get("gone").pid
        filler = fill(disk)
        with contextlib.suppress(ResourceExhausted):
            for number in range(100_000):
                services.client.call(SetSetting(key=f"x{number}", value="x"))
        assert isinstance(refused_restart(services, "web"), ResourceExhausted)
        before = services.get("web")
        assert isinstance(services.client.call_error(RemoveService(service="web", stop=True)), ResourceExhausted)
        after = services.get("web")
        assert (after.state, after.pid) == (ServiceState.RUNNING, before.pid)
        assert exists(after.pid)
        error = services.client.call_error(StopService(service="gone"))
        assert isinstance(error, ResourceExhausted)
        assert error.message.startswith('cannot write that service "gone" has stopped')
        assert error.details["stopped"] is True
        assert not exists(pid)
        filler.unlink()
        services.wait("gone", state=ServiceState.STOPPED)
        assert services.restart("web").service.pid != before.pid
        services.close()
        assert daemon.stop() == 0

    on_small_disk(daemon.root / "state", 4 * 1024, running(daemon, use))
