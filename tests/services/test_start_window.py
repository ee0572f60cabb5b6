"""When a start has succeeded: a dead program is not reported as started, and a health check need not wait."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.live_services import Services, listen

from nexus.services.dependencies.conditions import completed
from nexus.services.states import ServiceState
from nexus.services.store import StoredService, stored
from nexus.supervision.boot import Boot


def test_program_that_dies_after_its_imports_is_no_started_service(services: Services) -> None:
    services.add("slow-death", "sleep 0.4; echo no such module; exit 1", start_window_ms=1000)
    error = services.start_error("slow-death")
    assert error.message == 'cannot start service "slow-death": it exited with 1'
    assert error.details["log"] == ["no such module"]
    assert services.get("slow-death").state is ServiceState.FAILED


def test_a_successful_health_check_ends_the_start_window(services: Services) -> None:
    services.add("web", listen(), port=0, health_tcp=0, start_window_ms=60_000)
    started = services.start("web", wait=True)
    assert (started.service.state, started.service.health) == (ServiceState.RUNNING, "healthy")
    assert services.kinds("web")[-2:] == ["started", "healthy"]


def test_an_exit_within_the_window_is_a_failed_start_also_with_a_health_check(services: Services) -> None:
    services.add("web", "sleep 0.2; exit 3", health_tcp=1, start_window_ms=60_000)
    assert services.start_error("web").message == 'cannot start service "web": it exited with 3'


@pytest.mark.parametrize("wait", [False, True])
def test_failure_of_a_oneshot_is_the_failure_of_its_start(services: Services, wait: bool) -> None:
    services.add("seed", "sleep 0.2; echo relation exists >&2; exit 3", type="oneshot", start_window_ms=60_000)
    error = services.start_error("seed", wait=wait)
    assert error.message == 'cannot start service "seed": it exited with 3'
    assert error.details["log"] == ["relation exists"]
    assert services.get("seed").state is ServiceState.FAILED


def test_a_oneshot_that_completes_within_the_window_has_started(services: Services) -> None:
    services.add("seed", "exit 0", type="oneshot", start_window_ms=60_000)
    assert services.start("seed").service.exit_code == 0


def test_a_oneshot_that_outlives_the_window_has_started_and_may_fail_later(services: Services, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    services.add("seed", f"while [ ! -e {gate} ]; do sleep 0.01; done; exit 3", type="oneshot", start_window_ms=50)
    assert services.start("seed").service.state is ServiceState.RUNNING
    gate.touch()
    assert services.wait("seed", state=ServiceState.FAILED).reason == "exited with 3"


def test_completed_is_told_by_the_boot_and_not_by_the_clock(services: Services, tmp_path: Path) -> None:
    services.add("seed", "exit 0", type="oneshot")
    services.start("seed", wait=True)
    boot = Boot(services.daemon.state / "processes")
    assert not boot.is_new
    row = read_stored(services, "seed")
    assert row.ended_in_boot == boot.id
    assert completed(row, boot)
    boot.at = 2**60  # a clock that was set far back since: the boot seems later than the end
    assert completed(row, boot)
    boot.id = "another"
    boot.at = 0
    assert not completed(row, boot)


def read_stored(services: Services, name: str) -> StoredService:
    """The whole row of a service, read beside the daemon."""
    import sqlite3

    from nexus.store.writer import SqliteReader

    connection = sqlite3.connect(services.daemon.database)
    try:
        return stored(SqliteReader(connection), name)
    finally:
        connection.close()
