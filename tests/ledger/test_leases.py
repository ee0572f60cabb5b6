"""Leases: a stale holder changes nothing, whatever it asks for, and no older database makes an old epoch live."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from nexus_protocol.context import HeldLease
from nexus_protocol.errors import InvalidArgument, NexusError
from support.cli import Cli
from support.daemon import DaemonProcess
from support.leases import TASK, changing_requests, granted, held, operation, written

from nexus.client import BlockingClient
from nexus.jobs.commands import CreateJob, GetJob
from nexus.jobs.states import JobStatus
from nexus.journal.commands import GetOperation, ListOperations
from nexus.ledger.leases.commands import GetLease, ListLeases, ReleaseLease, RenewLease, RevokeLease
from nexus.ledger.leases.records import Lease
from nexus.ledger.leases.store import end, fence, guard
from nexus.ledger.states import LeaseState, OnLost
from nexus.records.errors import LeaseRequired, LeaseStale
from nexus.services.commands import AddService, GetServiceStatus, StartService
from nexus.services.states import ServiceState
from nexus.store import Transaction
from nexus.store.high_water import high_water_file
from nexus.system.commands import Hello, Ping
from nexus.vms.commands import CreateVm, ListVms

WAIT_S = 30.0


def put_in(daemon: DaemonProcess, **fields: object) -> Lease:
    """Grant a lease while the daemon does not run, and start it."""
    if daemon.process is not None and daemon.process.poll() is None:
        daemon.stop()
    lease = granted(daemon.database, **fields)
    daemon.start()
    return lease


def wait_for(reached: Callable[[], bool]) -> None:
    """Wait until something is so."""
    ends = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < ends
        time.sleep(0.02)


def state_of(nexus: BlockingClient, lease: Lease) -> LeaseState:
    """The present state of a lease."""
    return nexus.call(GetLease(lease.id)).state


def test_a_stale_lease_has_every_changing_command_refused_before_its_target_is_looked_at(daemon: DaemonProcess) -> None:
    lease = put_in(daemon)
    with BlockingClient(daemon.socket_path) as nexus:
        nexus.call(RevokeLease(lease.id, reason="taken over"))
        for name, code, payload in changing_requests(nexus):
            for stale in (held(lease), HeldLease(str(uuid.uuid4()), 1)):
                with pytest.raises(LeaseStale) as refused:
                    nexus.request(code, payload, lease=stale)
                assert refused.value.details["lease"] == stale.id, name
        with pytest.raises(LeaseStale) as refused:
            nexus.batch([CreateVm(name="a")], lease=held(lease))
        assert refused.value.details["state"] == "revoked"
        assert refused.value.details["current_epoch"] == 2, "a revoke raises the fence"
        assert nexus.call(ListVms(), lease=held(lease)).vms == [], "it may read, and has changed nothing"


def test_a_live_lease_changes_and_its_epoch_counts(daemon: DaemonProcess) -> None:
    lease = put_in(daemon)
    with BlockingClient(daemon.socket_path, lease=held(lease)) as nexus:
        nexus.call(CreateVm(name="a"))
        (operation_, *_) = nexus.call(ListOperations(command="CreateVm")).operations
        assert (operation_.lease_id, operation_.epoch) == (lease.id, 1)
        assert nexus.call(GetOperation(operation_.id)).operation.lease_id == lease.id
        with pytest.raises(LeaseStale):
            nexus.call(CreateVm(name="b"), lease=HeldLease(lease.id, 2))
        assert nexus.call(ReleaseLease(lease.id)).state is LeaseState.RELEASED, "a holder gives its own back"
        with pytest.raises(LeaseStale):
            nexus.call(CreateVm(name="b"))
        with pytest.raises(InvalidArgument):
            nexus.call(Ping(), lease=HeldLease("x", 1))


def test_a_connection_has_a_lease_and_a_reply_that_was_kept_is_given_again(daemon: DaemonProcess) -> None:
    lease = put_in(daemon)
    with BlockingClient(daemon.socket_path) as nexus:
        nexus.call(Hello(client="test", lease=held(lease)))
        made = nexus.call(CreateVm(name="a"), key="once")
        nexus.call(RevokeLease(lease.id))
        with pytest.raises(LeaseStale):
            nexus.call(CreateVm(name="b"))
        assert nexus.call(CreateVm(name="a"), key="once") == made, "it changes nothing"
        nexus.call(Hello(client="test"))
        assert nexus.call(CreateVm(name="b")).name == "b"


def test_a_backup_that_is_restored_leaves_old_epochs_dead(daemon: DaemonProcess, tmp_path: Path) -> None:
    lease = put_in(daemon)
    cli = Cli(daemon.environment)
    cli.ok("db", "backup", str(tmp_path / "old.db"))
    with BlockingClient(daemon.socket_path, lease=held(lease)) as nexus:
        nexus.call(ReleaseLease(lease.id))
    daemon.stop()
    cli.ok("db", "restore", str(tmp_path / "old.db"), "--yes")
    cli.ok("db", "check")
    daemon.start()
    with BlockingClient(daemon.socket_path, lease=held(lease)) as nexus:
        with pytest.raises(LeaseStale):
            nexus.call(CreateVm(name="a"))
        assert state_of(nexus, lease) is LeaseState.REVOKED


def test_a_lease_expires_unless_it_is_used(daemon: DaemonProcess) -> None:
    lease = put_in(daemon, ttl_ms=1500)
    with BlockingClient(daemon.socket_path) as nexus:
        ends = time.monotonic() + 3
        while time.monotonic() < ends:
            nexus.call(Ping(), lease=held(lease))
            time.sleep(0.1)
        present = nexus.call(GetLease(lease.id))
        assert present.state is LeaseState.LIVE
        assert present.renewed_at > lease.renewed_at
        wait_for(lambda: state_of(nexus, lease) is LeaseState.EXPIRED)
        (expired,) = nexus.call(ListOperations(command="lease.expired", limit=1)).operations
        assert expired.subjects == [lease.id]
        assert [each.id for each in nexus.call(ListLeases(state=LeaseState.EXPIRED)).leases] == [lease.id]


def test_a_lease_is_renewed_by_a_command_for_another_time_and_by_a_process(daemon: DaemonProcess) -> None:
    lease = put_in(daemon)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        with BlockingClient(daemon.socket_path) as nexus:
            renewed = nexus.call(RenewLease(lease.id, ttl_ms=1000, pid=child.pid))
            assert (renewed.ttl_ms, renewed.pid, renewed.revision) == (1000, child.pid, 2)
            time.sleep(2.5)
            assert state_of(nexus, lease) is LeaseState.LIVE
            child.kill()
            child.wait()
            wait_for(lambda: state_of(nexus, lease) is LeaseState.EXPIRED)
            with pytest.raises(LeaseStale):
                nexus.call(RenewLease(lease.id))
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_a_restart_gives_a_live_lease_its_whole_time(daemon: DaemonProcess, way: str) -> None:
    lease = put_in(daemon, ttl_ms=2000)
    getattr(daemon, way)()
    time.sleep(2.5)
    daemon.start()
    with BlockingClient(daemon.socket_path) as nexus:
        assert nexus.call(CreateVm(name="a"), lease=held(lease)).name == "a"
        wait_for(lambda: state_of(nexus, lease) is LeaseState.EXPIRED)


def test_a_daemon_that_is_stalled_counts_for_nobody(daemon: DaemonProcess) -> None:
    lease = put_in(daemon, ttl_ms=2000)
    with BlockingClient(daemon.socket_path) as nexus:
        nexus.call(Ping(), lease=held(lease))
        daemon.signal(signal.SIGSTOP)
        time.sleep(3)
        daemon.signal(signal.SIGCONT)
        assert nexus.call(CreateVm(name="a"), lease=held(lease)).name == "a"


def test_an_older_database_file_that_is_copied_back_leaves_old_epochs_dead(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    daemon.stop()
    first = granted(daemon.database)
    for path in daemon.state.glob("nexus.db*"):
        if path.is_file():
            shutil.copy(path, tmp_path / path.name)
    written(daemon.database, lambda tx: end(tx, operation(), first, LeaseState.RELEASED, None))
    second = granted(daemon.database)
    assert (first.epoch, second.epoch) == (1, 2)
    for path in daemon.state.glob("nexus.db*"):
        if path.is_file():
            path.unlink()
    for path in tmp_path.iterdir():
        shutil.copy(path, daemon.state / path.name)
    daemon.start()
    with BlockingClient(daemon.socket_path) as nexus:
        for stale in (first, second):
            with pytest.raises(LeaseStale):
                nexus.call(CreateVm(name="a"), lease=held(stale))
        assert nexus.call(GetLease(first.id)).reason == "an older database was put back"
    daemon.stop()
    assert granted(daemon.database).epoch > second.epoch, "no epoch is given for a second time"


def test_a_damaged_file_of_epochs_is_set_aside(daemon: DaemonProcess) -> None:
    put_in(daemon)
    daemon.stop()
    path = high_water_file(daemon.database)
    path.write_bytes(b"no database" * 500)
    daemon.start()
    assert "is damaged" in daemon.log()
    daemon.stop()
    assert list(path.parent.glob(f"{path.name}.set-aside-*"))
    other = granted(daemon.database, resource_id=str(uuid.uuid4()))
    assert other.epoch == 1


def test_what_runs_under_a_lease_that_is_lost_stops(daemon: DaemonProcess) -> None:
    lease = put_in(daemon)
    with BlockingClient(daemon.socket_path) as nexus:
        job = nexus.call(CreateJob(command="sleep 600"), lease=held(lease))
        other = nexus.call(CreateJob(command="sleep 600"))
        nexus.call(AddService(name="web", run_command="sleep 600"), lease=held(lease))
        started = nexus.call(StartService("web"), lease=held(lease))
        assert (job.lease_id, job.epoch) == (lease.id, 1)
        assert (started.service.lease_id, started.service.epoch) == (lease.id, 1)
        wait_for(lambda: nexus.call(GetJob(job.id)).status is JobStatus.EXECUTING)
        nexus.call(RevokeLease(lease.id))
        wait_for(lambda: nexus.call(GetJob(job.id)).status is JobStatus.CANCELLED)
        assert nexus.call(GetJob(job.id)).reason == "cancelled because its lease was revoked"
        wait_for(lambda: nexus.call(GetServiceStatus("web")).service.state is ServiceState.STOPPED)
        assert nexus.call(GetServiceStatus("web")).service.lease_id is None
        assert nexus.call(GetJob(other.id)).status is not JobStatus.CANCELLED


def test_a_job_goes_on_where_its_lease_says_keep_and_keeps_a_lease(daemon: DaemonProcess) -> None:
    lease = put_in(daemon, on_lost=OnLost.KEEP)
    with BlockingClient(daemon.socket_path) as nexus:
        job = nexus.call(CreateJob(command="sleep 600"), lease=held(lease))
        nexus.call(RenewLease(lease.id, ttl_ms=1000, job=str(job.number)))
        time.sleep(2.5)
        assert state_of(nexus, lease) is LeaseState.LIVE
        nexus.call(RevokeLease(lease.id))
        time.sleep(0.5)
        assert nexus.call(GetJob(job.id)).status is not JobStatus.CANCELLED


class _Request:
    def __init__(self, lease: HeldLease | None) -> None:
        self.request = self
        self.lease = lease


def test_a_guard_lets_only_the_holder_pass(daemon: DaemonProcess) -> None:
    daemon.stop()
    lease = granted(daemon.database)

    def ask(tx: Transaction) -> list[object]:
        found: list[object] = [fence(tx, "test", TASK)]
        for held_lease in (held(lease), HeldLease(lease.id, 2), None):
            try:
                found.append(guard(tx, _Request(held_lease), "test", TASK, "cannot submit task 1"))
            except NexusError as error:
                found.append(type(error))
        found.append(guard(tx, _Request(None), "test", str(uuid.uuid4()), "cannot submit task 2"))
        return found

    assert written(daemon.database, ask) == [1, lease, LeaseRequired, LeaseRequired, None]
