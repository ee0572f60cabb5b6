"""Plugins and the start of a service: they change its environment, or veto it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from support.daemon import DaemonProcess
from support.live_services import Services
from support.plugins import PluginFolder

from nexus.services.states import ServiceState

PLUGIN = """\
@hookimpl
def pre_start_command(service, command, environment):
    if service == "forbidden":
        return Veto("not on a Sunday")
    return {"ADDED": service + "-" + environment["GIVEN"], "GIVEN": None}
"""


def test_plugin_changes_the_environment_of_a_run_or_vetoes_the_start(
    root: Path, make_daemon: Callable[..., DaemonProcess]
) -> None:
    PluginFolder(root / "config" / "nexus" / "plugins").python("starts", PLUGIN)
    services = Services(make_daemon().start())
    services.add("web", environment={"GIVEN": "1"})
    pid = services.start("web").service.pid
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert b"ADDED=web-1" in variables
    assert not any(variable.startswith(b"GIVEN=") for variable in variables)
    services.add("forbidden", restart="always", restart_limit=1, restart_backoff_ms=10)
    error = services.start_error("forbidden")
    assert "not on a Sunday" in error.message
    service = services.wait_rest("forbidden")
    assert service.state is ServiceState.FAILED
    assert "not on a Sunday" in str(service.reason)
    services.close()
