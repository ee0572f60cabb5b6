"""A stop while a start is prepared: nothing that the record should keep is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.daemon import DaemonProcess
from support.live_services import Services
from support.plugins import PluginFolder
from support.raw import connect, wait_until

from nexus.services.commands import RestartService, StartService
from nexus.services.states import ServiceState

HOLDING = """
import os, time

@hookimpl
def pre_start_command(environment):
    here = {folder!r}
    if os.path.exists(here + "/skip"):
        os.unlink(here + "/skip")
    elif os.path.exists(here + "/hold"):
        open(here + "/held", "w").close()
        while os.path.exists(here + "/hold"):
            time.sleep(0.01)
"""


@pytest.fixture
def services(root: Path, make_daemon: Callable[..., DaemonProcess]) -> Iterator[Services]:
    """A daemon whose plugin holds a start up while the file ``hold`` is in the test's folder."""
    PluginFolder(root / "config" / "nexus" / "plugins").python("holds", HOLDING.format(folder=str(root)))
    services = Services(make_daemon(config="[plugins]\ntimeout_ms = 60000\n").start())
    yield services
    (root / "hold").unlink(missing_ok=True)
    services.close()


def variable(services: Services, name: str, key: str) -> str | None:
    pid = services.get(name).pid
    pairs = (pair.partition(b"=") for pair in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    return next((value.decode() for found, _, value in pairs if found == key.encode()), None)


def test_stop_during_the_start_of_a_restart_keeps_the_exit_of_the_ended_run(services: Services, root: Path) -> None:
    services.add("web")
    services.start("web")
    # A restart asks the plugin before it ends the run, and again for the new run, which is held up.
    (root / "skip").touch()
    (root / "hold").touch()
    with connect(services.daemon) as client:
        client.begin(RestartService(service="web"))
        wait_until((root / "held").exists, "the held start")
        services.stop("web")
    service = services.get("web")
    assert (service.state, service.exit_signal) == (ServiceState.STOPPED, 15)
    assert service.stopped_at is not None
    assert service.started_at is not None
    assert service.stopped_at >= service.started_at


def test_stop_before_the_first_write_of_a_start_keeps_its_environment(services: Services, root: Path) -> None:
    services.add("web")
    services.start("web", environment={"X": "old"})
    services.stop("web")
    (root / "hold").touch()
    with connect(services.daemon) as client:
        client.begin(StartService(service="web", environment={"X": "new"}))
        wait_until((root / "held").exists, "the held start")
        services.stop("web")
    (root / "hold").unlink()
    services.restart("web")
    assert variable(services, "web", "X") == "new"
