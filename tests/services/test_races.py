"""Concurrent commands, exits and kills of the daemon: every request is answered, and the record is true."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from pathlib import Path

import pytest
from nexus_protocol import Internal
from support.live_services import Services, exists, lines_of
from support.raw import RawClient, wait_until
from support.soak import SOAK

from nexus.services.commands import RestartService, StartService, StopService, UpdateService
from nexus.services.errors import ServiceStartFailed, ServiceStopped
from nexus.services.states import ServiceState

CRASH_LOOP = {"start_window_ms": 60_000, "restart_backoff_ms": 600_000, "restart_backoff_max_ms": 600_000}
"""However late a program exits, its start fails; the next one is far away."""

RUN = "echo $$ >> {pids}; trap 'exit 0' TERM; i=0; while [ $i -lt {turns} ]; do sleep 0.01; i=$((i+1)); done; exit 3"


def alive(pids: Path) -> set[int]:
    return {int(line) for line in lines_of(pids) if exists(int(line))}


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4 * SOAK))
def test_concurrent_commands_are_answered_and_leave_at_most_one_process(
    services: Services, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    pids = tmp_path / "pids"
    services.add(
        "web",
        RUN.format(pids=pids, turns=chance.choice([2, 20, 100_000])),
        restart=chance.choice(["no", "on-failure", "always"]),
        restart_backoff_ms=10,
        restart_backoff_max_ms=20,
        restart_limit=0,
        start_window_ms=chance.choice([0, 20]),
    )
    clients = [RawClient(services.daemon.socket_path) for _ in range(4)]
    kinds = [StartService, StartService, StopService, RestartService]
    pending = []
    for _ in range(15):
        for client in clients:
            pending.append((client, client.begin(chance.choice(kinds)(service="web"))))
        if chance.random() < 0.2:
            chance.choice(clients).call(StopService(service="web"))
    for client, sequence in pending:
        with contextlib.suppress(ServiceStopped, ServiceStartFailed):
            client.payload(sequence)
    for client in clients:
        client.close()
    assert services.stop("web").service.state is ServiceState.STOPPED
    assert services.get("web").pid is None
    assert alive(pids) == set()
    services.update("web", run_command="exec sleep 1000")
    service = services.start("web").service
    assert exists(service.pid)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4 * SOAK))
def test_kills_of_the_daemon_leave_at_most_one_process(services: Services, tmp_path: Path, seed: int) -> None:
    chance = random.Random(100 + seed)
    pids = tmp_path / "pids"
    services.add("web", RUN.format(pids=pids, turns=100_000), stop_grace_ms=200, start_window_ms=10)
    for _ in range(5):
        for kind in chance.choices([StartService, StopService, RestartService], k=3):
            services.client.begin(kind(service="web"))
        if chance.random() < 0.7:
            services.get("web")
        services.kill_daemon()
    wait_until(lambda: services.get("web").state in (ServiceState.RUNNING, ServiceState.STOPPED), "a lasting state")
    service = services.get("web")
    if service.state is ServiceState.RUNNING:
        wait_until(lambda: alive(pids) == {service.pid}, "the one process")
    else:
        assert alive(pids) == set()
    assert services.stop("web").service.pid is None
    assert alive(pids) == set()


def test_stop_concurrent_with_an_exit_leaves_the_service_stopped(services: Services) -> None:
    for number in range(10):
        name = f"s{number}"
        services.add(name, f"sleep 0.0{number}; exit 3", start_window_ms=0)
        services.start(name)
        service = services.stop(name).service
        assert service.state is ServiceState.STOPPED
        assert services.get(name).state is ServiceState.STOPPED


def test_removed_restart_policy_ends_a_crash_loop(services: Services) -> None:
    services.add("web", "exit 3", restart="always", **CRASH_LOOP)
    waiting = services.begin_start("web")
    services.wait("web", state=ServiceState.STARTING, reason="exited with 3")
    with RawClient(services.daemon.socket_path) as other:
        other.call(UpdateService(service="web", restart="no"))
    assert "exited with 3; its restart policy was removed" in services.client.error(waiting).message
    service = services.wait_rest("web")
    assert (service.state, service.reason) == (ServiceState.FAILED, "exited with 3")


def test_supervisor_crash_marks_service_failed_and_allows_restart(services: Services) -> None:
    services.add("web", "exit 3", restart="on-failure", **CRASH_LOOP)
    services.begin_start("web")
    services.wait("web", state=ServiceState.STARTING, reason="exited with 3")
    # A column that only the daemon writes is corrupted, so that reading it raises an unexpected error.
    with contextlib.closing(sqlite3.connect(services.daemon.database)) as database, database:
        database.execute("UPDATE service SET start_environment = '{'")
    assert isinstance(services.start_error("web"), Internal)
    service = services.wait_rest("web")
    assert (service.state, service.pid, service.next_restart_at) == (ServiceState.FAILED, None, None)
    with contextlib.closing(sqlite3.connect(services.daemon.database)) as database, database:
        database.execute("UPDATE service SET start_environment = '{}'")
    services.update("web", run_command="exec sleep 1000", start_window_ms=20)
    assert exists(services.start("web").service.pid)


def test_starts_that_fail_as_the_daemon_ends_do_not_disturb_its_end(services: Services, tmp_path: Path) -> None:
    for number in range(6):
        services.add(f"a{number}", autostart=True, config_filename=str(tmp_path / "none.env"))
        services.add(f"b{number}", autostart=True)
        services.depend(f"b{number}", f"a{number}")
    daemon = services.daemon
    for pause in (0, 0, 0, 0.02, 0.04, 0.06, 0.08, 0.1):
        services.client.close()
        assert daemon.stop() == 0
        daemon.start()
        time.sleep(pause)
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log()
    daemon.start()
