"""Starts and stops of services, one after the other: the daemon keeps nothing of a run that has ended."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.daemon import DaemonProcess
from support.raw import wait_until
from support.soak import SOAK

from nexus.client import BlockingClient
from nexus.services.commands import AddService, StartService, StopService

CYCLES = 125 * SOAK
WARM_UP = 75
MIB = 1024 * 1024


def _children(pid: int) -> list[str]:
    return [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def _held(daemon: DaemonProcess) -> dict[str, object]:
    """What a cycle could leave behind: descriptors, threads, processes, files of runs."""
    folder = Path(f"/proc/{daemon.pid}")
    return {
        "descriptors": sorted(str(link.readlink()) for link in (folder / "fd").iterdir()),
        "threads": len(list((folder / "task").iterdir())),
        "children": _children(daemon.pid),
        "files": len(list(daemon.state.rglob("*"))),
    }


@pytest.mark.slow
@pytest.mark.soak
def test_starts_and_stops_of_services_do_not_let_the_daemon_grow(daemon: DaemonProcess) -> None:
    with BlockingClient(daemon.socket_path) as nexus:
        for name in ("short", "long"):
            nexus.call(AddService(name=name, run_command=["/bin/sleep", "100000"], start_window_ms=0, log_limit_mib=1))
        nexus.call(StartService(service="long"))

        def cycle() -> None:
            nexus.call(StartService(service="short"))
            nexus.call(StopService(service="short"))

        for _ in range(WARM_UP):
            cycle()
        wait_until(lambda: len(_children(daemon.pid)) <= 1, "the ends of the shims")
        before, bytes_before = _held(daemon), daemon.rss_bytes()
        for _ in range(CYCLES):
            cycle()
        wait_until(lambda: len(_children(daemon.pid)) <= 1, "the ends of the shims")
        assert _held(daemon) == before
        assert daemon.rss_bytes() - bytes_before < 3 * MIB
