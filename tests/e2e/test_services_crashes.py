"""Services in a crash loop: restarts keep to the backoff of the policy, and end as failed with the reason."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.raw import wait_until
from support.services import ServiceWorld, write_fifo

from nexus.services.commands import StartService
from nexus.services.records import Service
from nexus.services.states import RestartPolicy, ServiceHealth, ServiceState

BACKOFF_MS, MOST_MS, LIMIT = 80, 300, 4
WAITS_MS = [80, 160, 300, 300]


@pytest.fixture
def world(root: Path) -> Iterator[ServiceWorld]:
    """A running daemon; it and all processes of its services are ended after the test."""
    with ServiceWorld(root) as world:
        world.daemon.start()
        yield world


@pytest.mark.parametrize("start_window_ms", [0, 1000], ids=["after the start window", "within the start window"])
def test_crash_loop_keeps_to_its_backoff_and_ends_as_failed_with_the_reason(
    world: ServiceWorld, start_window_ms: int
) -> None:
    times = world.root / "times"
    world.add(
        "crashes",
        ["/bin/sh", "-c", 'date +%s%3N >>"$0"; echo about to fail; exit 3', str(times)],
        start_window_ms=start_window_ms,
        restart=RestartPolicy.ON_FAILURE,
        restart_backoff_ms=BACKOFF_MS,
        restart_backoff_max_ms=MOST_MS,
        restart_limit=LIMIT,
        restart_window_ms=60_000,
    )
    result = world.cli("service", "start", "crashes")
    if start_window_ms:
        assert result.code == 5
        assert result.err.startswith(
            f'Error: cannot start service "crashes": it exited with 3; {LIMIT} restarts within 60 s\n'
        )
        assert "nexusctl service logs crashes" in result.err
    failed = world.wait_for("crashes", lambda service: service.state is ServiceState.FAILED, "to be failed")
    assert failed.reason == f"exited with 3; {LIMIT} restarts within 60 s"
    assert (failed.exit_code, failed.restarts, failed.pid, failed.next_restart_at) == (3, LIMIT, None, None)

    # A run begins after the end of the previous one, so two begins are at least the backoff apart.
    by_program = list(map(int, times.read_text().split()))
    by_journal = [event.at or 0 for event in world.events("service.starting")]
    for begins in (by_program, by_journal):
        assert len(begins) == LIMIT + 1
        gaps = [after - before for before, after in itertools.pairwise(begins)]
        assert [gap >= wait_ms for gap, wait_ms in zip(gaps, WAITS_MS, strict=True)] == [True] * LIMIT, gaps
    kinds = [event.kind for event in world.events("service.restarting", "service.exited", "service.failed")]
    assert kinds == ["service.exited", "service.restarting"] * LIMIT + ["service.exited", "service.failed"]
    waits = [(event.detail or {})["wait_ms"] for event in world.events("service.restarting")]
    # Each event has the rest of the wait, which is at most a fifth longer than the backoff.
    assert all(wait_ms <= most * 1.2 + 1 for wait_ms, most in zip(waits, WAITS_MS, strict=True)), waits
    assert world.output("crashes") == b"about to fail\n" * (LIMIT + 1)
    status = world.cli.ok("service", "status", "crashes").out
    assert "Reason:    exited with 3; 4 restarts within 60 s\n" in status


def test_crash_loop_is_not_faster_after_a_kill_of_the_daemon(world: ServiceWorld) -> None:
    times = world.root / "times"
    world.add(
        "crashes",
        ["/bin/sh", "-c", 'date +%s%3N >>"$0"; exit 1', str(times)],
        restart=RestartPolicy.ALWAYS,
        restart_backoff_ms=400,
        restart_backoff_max_ms=400,
        restart_limit=3,
    )
    world.cli("service", "start", "crashes")
    for runs in (1, 2):
        wait_until(lambda runs=runs: len(times.read_text().split()) >= runs, "the next run")
        world.daemon.kill()
        world.daemon.start()
    failed = world.wait_for("crashes", lambda service: service.state is ServiceState.FAILED, "to be failed")
    assert failed.reason == "exited with 1; 3 restarts within 60 s"
    begins = list(map(int, times.read_text().split()))
    assert len(begins) == 4
    gaps = [after - before for before, after in itertools.pairwise(begins)]
    assert min(gaps) >= 400, gaps


def test_health_is_unknown_until_a_check_has_a_result(world: ServiceWorld) -> None:
    gate = world.root / "gate"
    os.mkfifo(gate)

    def health(service: Service) -> tuple[ServiceState, ServiceHealth]:
        return service.state, service.health

    world.add(
        "web",
        "exec sleep 600",
        health_exec=["/bin/sh", "-c", 'read -r word <"$0"; exit "$word"', str(gate)],
        health_timeout_ms=600_000,
    )
    assert health(world.service("web")) == (ServiceState.STOPPED, ServiceHealth.UNKNOWN)
    world.call(StartService(service="web"))
    assert health(world.service("web")) == (ServiceState.RUNNING, ServiceHealth.UNKNOWN)
    given_up = world.cli("--timeout", "0.5", "service", "start", "web", "--wait")
    assert given_up.code == 124, given_up
    status = world.cli.ok("service", "status", "web").out
    assert "Health:    unknown (no check has finished yet)\n" in status
    row = world.cli.ok("service", "list").lines[1].split()
    assert row[:3] == ["web", "running", "unknown"]
    assert "web [running, health unknown]" in world.cli.ok("service", "tree").out

    write_fifo(gate, "0")
    world.wait_for("web", lambda service: service.health is ServiceHealth.HEALTHY, "to be healthy")
    world.cli.ok("service", "start", "web", "--wait")
    # A new daemon has no result of a check yet.
    world.daemon.kill()
    world.daemon.start()
    assert health(world.service("web")) == (ServiceState.RUNNING, ServiceHealth.UNKNOWN)
    write_fifo(gate, "0")
    world.wait_for("web", lambda service: service.health is ServiceHealth.HEALTHY, "to be healthy")
    world.cli.ok("service", "stop", "web")
    assert health(world.service("web")) == (ServiceState.STOPPED, ServiceHealth.UNKNOWN)
