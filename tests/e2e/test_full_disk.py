"""A daemon whose state directory is on a full disk: it refuses changes, answers other requests, and recovers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from nexus_protocol.errors import NexusError, ResourceExhausted
from support.daemon import DaemonProcess, running
from support.faults import fill, on_small_disk
from support.raw import wait_until

from nexus.client import BlockingClient
from nexus.system.commands import BackupDatabase, GetSystemStatus, Health, Ping
from nexus.vms.commands import CreateVm, DeleteVm, GetVm, ListVms


def refused(nexus: BlockingClient, command: CreateVm | DeleteVm | BackupDatabase) -> None:
    with pytest.raises(NexusError) as caught:
        nexus.call(command)
    assert caught.value.code == "resource_exhausted"
    assert "the disk is full" in caught.value.message
    assert caught.value.hint


def test_full_disk_refuses_writes_serves_reads_and_recovers_with_free_space(
    make_daemon: Callable[..., DaemonProcess],
) -> None:
    daemon = make_daemon()

    def use(disk: Path) -> None:
        assert daemon.database.is_relative_to(disk)
        with BlockingClient(daemon.socket_path) as nexus:
            created = [nexus.call(CreateVm(name=f"before{i}")) for i in range(5)]
            filler = fill(disk)
            # The free room within the write-ahead log is used up first.
            with contextlib.suppress(ResourceExhausted):
                for i in range(5000):
                    created.append(nexus.call(CreateVm(name=f"fits{i}")))
            for i in range(3):
                refused(nexus, CreateVm(name=f"refused{i}"))
            refused(nexus, DeleteVm(vm="before0"))
            refused(nexus, BackupDatabase())
            with BlockingClient(daemon.socket_path) as newcomer:
                assert newcomer.call(GetVm(vm="before0")) == created[0]
            assert len(nexus.call(ListVms(limit=10_000)).vms) == len(created)
            assert nexus.call(GetSystemStatus()).pid == daemon.pid
            health = nexus.call(Health())
            assert health.status == "degraded"
            assert {check.name: check.status for check in health.checks}["writes"] == "degraded"
            filler.unlink()
            wait_until(lambda: checks(nexus)["writes"] == "ok", "writes to work again")
            created.append(nexus.call(CreateVm(name="after")))
            nexus.call(DeleteVm(vm="before0"))
            nexus.call(Ping())
            assert {vm.name for vm in nexus.call(ListVms(limit=10_000)).vms} == {vm.name for vm in created[1:]}
        assert daemon.stop() == 0
        log = daemon.log()
        assert "Traceback" not in log
        assert "can be written again" in log

    on_small_disk(daemon.root / "state", 4 * 1024, running(daemon, use))


def checks(nexus: BlockingClient) -> dict[str, str]:
    return {check.name: check.status for check in nexus.call(Health()).checks}
