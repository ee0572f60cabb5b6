"""Services on a full disk: they keep running, can be stopped, and their states are written once there is space."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from nexus_protocol import ResourceExhausted
from support.daemon import DaemonProcess, running
from support.faults import fill, on_small_disk
from support.live_services import Services, exists
from support.raw import wait_until

from nexus.services.commands import StopService
from nexus.services.states import ServiceState
from nexus.system.commands import SetSetting


def test_full_disk_does_not_prevent_a_stop_and_states_are_written_once_there_is_space(
    make_daemon: Callable[..., DaemonProcess],
) -> None:
    daemon = make_daemon()

    def use(disk: Path) -> None:
        services = Services(daemon)
        for name in ("stays", "stopped", "killed", "new"):
            services.add(name)
        pids = {name: services.start(name).service.pid for name in ("stays", "stopped", "killed")}
        filler = fill(disk)
        with contextlib.suppress(ResourceExhausted):
            for number in range(100_000):
                services.client.call(SetSetting(key=f"x{number}", value="x"))
        with pytest.raises(ResourceExhausted):
            services.start("new")
        assert services.get("new").state is ServiceState.STOPPED
        assert isinstance(services.client.call_error(StopService(service="stopped")), ResourceExhausted)
        assert not exists(pids["stopped"])
        assert pids["killed"] is not None
        os.kill(pids["killed"], signal.SIGKILL)
        wait_until(lambda: not exists(pids["killed"]), "its end")
        assert services.get("stays").state is ServiceState.RUNNING
        filler.unlink()
        service = services.wait("stopped", state=ServiceState.STOPPED)
        assert (service.pid, service.reason) == (None, "stopped on demand")
        service = services.wait("killed", state=ServiceState.FAILED)
        assert (service.pid, service.reason) == (None, "killed by SIGKILL")
        assert services.get("stays").pid == pids["stays"]
        assert services.start("new").service.state is ServiceState.RUNNING
        services.close()
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log()

    on_small_disk(daemon.root / "state", 4 * 1024, running(daemon, use))
