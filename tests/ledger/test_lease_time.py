"""Claims where clocks jump, machines sleep, daemons are down, and older databases are put back."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from nexus_protocol.context import HeldLease
from support.cli import Cli
from support.daemon import DaemonProcess
from support.raw import wait_until
from support.set_clock import ClockedDaemon
from support.stores import look_at

from nexus.client import BlockingClient
from nexus.ledger.agents.commands import CreateAgent, GetAgent
from nexus.ledger.leases.commands import GetLease
from nexus.ledger.states import AgentStatus, AgentType, LeaseState, TaskStatus
from nexus.ledger.tasks.commands import ClaimTask, CompleteTask, CreateTask, GetTask, ResetTask, SubmitTask
from nexus.ledger.tasks.records import ClaimedTask
from nexus.records.errors import LeaseStale

DAY_S = 86_400


@pytest.fixture
def clocked(root: Path) -> Iterator[ClockedDaemon]:
    """A running daemon whose wall clock can be set."""
    daemon = ClockedDaemon(root)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.close()


def held(claimed: ClaimedTask) -> HeldLease:
    return HeldLease(claimed.lease.id, claimed.lease.epoch)


def begin(nexus: BlockingClient, tasks: int) -> None:
    """Make two agents, and tasks."""
    nexus.batch([CreateAgent("ada", AgentType.CODER), CreateAgent("bob", AgentType.CODER)])
    nexus.batch([CreateTask(f"task {number}") for number in range(1, tasks + 1)])


def expires_after_its_time(nexus: BlockingClient, claimed: ClaimedTask, since: float) -> None:
    """The lease of an agent that is gone ends, not before its time, and its task can be claimed again."""

    def pending() -> bool:
        return nexus.call(GetTask(claimed.task.id)).status is TaskStatus.PENDING

    wait_until(pending, "the end of the lease")
    assert time.monotonic() - since >= claimed.lease.ttl_ms / 1000
    assert nexus.call(GetLease(claimed.lease.id)).state is LeaseState.EXPIRED
    assert nexus.call(ClaimTask("bob", task=claimed.task.id)).lease.epoch == claimed.lease.epoch + 1


def test_a_clock_that_is_set_a_day_forward_or_back_ends_no_lease_and_keeps_none(clocked: ClockedDaemon) -> None:
    # A machine that was suspended looks the same: its wall clock has gone on, and the monotonic one has not.
    with BlockingClient(clocked.socket_path) as nexus:
        begin(nexus, 3)
        forward = nexus.call(ClaimTask("ada", task="1", ttl_ms=10_000))
        clocked.set_clock(DAY_S)
        time.sleep(1.2)  # the timer has looked since
        assert nexus.call(GetTask("1"), lease=held(forward)).status is TaskStatus.IN_PROGRESS
        since = time.monotonic()
        gone = nexus.call(ClaimTask("bob", task="2", ttl_ms=1000))
        clocked.set_clock(-DAY_S)
        nexus.call(SubmitTask("1"), lease=held(forward))
        done = nexus.call(CompleteTask("1"))
        assert (done.status, done.actual_minutes) == (TaskStatus.COMPLETED, 0)
        # What was claimed before the clock was set back is neither kept for a day, nor ended at once.
        expires_after_its_time(nexus, gone, since)
        again = nexus.call(ClaimTask("ada", task="3"))
        assert nexus.call(GetTask("3")).lease is not None
        assert again.lease.age_ms == 0


def test_a_daemon_that_was_down_gives_each_claim_its_whole_time(clocked: ClockedDaemon) -> None:
    with BlockingClient(clocked.socket_path) as nexus:
        begin(nexus, 2)
        kept = nexus.call(ClaimTask("ada", task="1", ttl_ms=2000))
        gone = nexus.call(ClaimTask("bob", task="2", ttl_ms=1000))
    clocked.kill()
    clocked.set_clock(DAY_S)
    time.sleep(2.1)
    with look_at(clocked.database) as database:
        assert database.execute("SELECT count(*) FROM lease WHERE state = 'live'").fetchone() == (2,)
    since = time.monotonic()
    clocked.start()
    with BlockingClient(clocked.socket_path) as nexus:
        assert nexus.call(CompleteTask("1"), lease=held(kept)).status is TaskStatus.COMPLETED
        expires_after_its_time(nexus, gone, since)


@pytest.mark.parametrize("way", ["restore", "copy"])
def test_no_older_database_makes_a_claim_live_again(daemon: DaemonProcess, tmp_path: Path, way: str) -> None:
    cli = Cli(daemon.environment)
    with BlockingClient(daemon.socket_path) as nexus:
        begin(nexus, 1)
        first = nexus.call(ClaimTask("ada", task="1"))
        cli.ok("db", "backup", str(tmp_path / "old.db"))
        nexus.call(CompleteTask("1"), lease=held(first))
        nexus.call(ResetTask("1"))
        second = nexus.call(ClaimTask("bob", task="1"))
    daemon.stop()
    if way == "restore":
        cli.ok("db", "restore", str(tmp_path / "old.db"), "--yes")
    else:
        for path in daemon.state.glob("nexus.db*"):
            if path.is_file():
                path.unlink()
        shutil.copy(tmp_path / "old.db", daemon.database)
    daemon.start()
    with BlockingClient(daemon.socket_path) as nexus:
        for stale in (first, second):
            with pytest.raises(LeaseStale):
                nexus.call(CompleteTask("1"), lease=held(stale))
        task = nexus.call(GetTask("1"))
        assert (task.status, task.assigned_agent, task.lease) == (TaskStatus.PENDING, None, None)
        assert nexus.call(GetAgent("ada")).status is AgentStatus.IDLE
        third = nexus.call(ClaimTask("ada"))
        assert third.lease.epoch > second.lease.epoch
        assert nexus.call(CompleteTask("1"), lease=held(third)).status is TaskStatus.COMPLETED
