"""Health checks of each kind: when a service is healthy or unhealthy, and the consequences."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from pathlib import Path

import pytest
from nexus_protocol import DeadlineExceeded
from support.live_services import Services, exists, listen, python
from support.raw import wait_until

from nexus.services.health.check import run_check
from nexus.services.states import ServiceHealth, ServiceState

QUICK = {"health_interval_ms": 100, "health_retries": 2}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_health_without_a_check_is_unknown(services: Services) -> None:
    services.add("web")
    assert services.start("web", wait=True).service.health is ServiceHealth.UNKNOWN


def test_exec_check_runs_with_the_environment_and_directory_of_the_run(services: Services, tmp_path: Path) -> None:
    services.add(
        "web", health_exec='echo "found $TOKEN in $(pwd)"; test "$TOKEN" = s3', directory=str(tmp_path), **QUICK
    )
    service = services.start("web", environment={"TOKEN": "s3"}, wait=True).service
    assert (service.health, service.health_message) == (ServiceHealth.HEALTHY, f"found s3 in {tmp_path}")
    assert services.kinds("web")[-1] == "healthy"


def test_consecutive_failures_make_a_service_unhealthy_and_one_success_healthy(
    services: Services, tmp_path: Path
) -> None:
    sick = tmp_path / "sick"
    services.add("web", health_exec=f"test ! -e {sick} || {{ echo it is sick; false; }}", **QUICK)
    services.start("web", wait=True)
    sick.touch()
    service = services.wait("web", health=ServiceHealth.UNHEALTHY)
    assert (service.state, service.health_message) == (ServiceState.RUNNING, "it is sick")
    waiting = services.begin_start("web", wait=True)
    sick.unlink()
    assert services.client.result(waiting)["service"]["health"] == "healthy"
    assert [kind for kind in services.kinds("web") if "health" in kind] == ["healthy", "unhealthy", "healthy"]


def test_waiting_start_of_an_unhealthy_service_ends_with_its_time_limit_and_the_reason(services: Services) -> None:
    services.add("web", health_exec="echo no luck; exit 1", **QUICK)
    services.start("web")
    services.wait("web", health=ServiceHealth.UNHEALTHY)
    error = services.start_error("web", wait=True, timeout_ms=300)
    assert isinstance(error, DeadlineExceeded)
    assert error.message == 'cannot finish with service "web" within 300 ms: it is unhealthy: no luck'
    assert services.get("web").state is ServiceState.RUNNING


def test_waiting_start_fails_when_the_service_ends_first(services: Services) -> None:
    services.add("web", "sleep 0.1; echo broken; exit 6", health_exec="false", health_retries=1000)
    error = services.start_error("web", wait=True)
    assert (error.details["exit_code"], error.details["log"]) == (6, ["broken"])


def test_check_that_times_out_counts_as_failure_and_its_processes_are_killed(
    services: Services, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    services.add("web", health_exec=f"sleep 1000 & echo $! >> {pids}; wait", health_timeout_ms=200, **QUICK)
    services.start("web")
    service = services.wait("web", health=ServiceHealth.UNHEALTHY)
    assert service.health_message == "no answer within 200 ms"
    services.stop("web")
    wait_until(lambda: not any(exists(int(pid)) for pid in pids.read_text().split()), "the end of the checks")


def test_failures_in_the_start_period_do_not_count(services: Services, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    services.add(
        "web", health_exec=f"echo x >> {seen}; false", health_interval_ms=100, health_retries=1,
        health_start_period_ms=600_000,
    )  # fmt: skip
    services.start("web")
    wait_until(lambda: seen.exists() and seen.read_text().count("x") >= 4, "four checks")
    assert services.get("web").health is ServiceHealth.UNKNOWN


def test_tcp_check_is_healthy_once_the_port_accepts(services: Services, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    wait = f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)"
    services.add("own", listen(before=wait), port=0, health_tcp=0, health_retries=1000)
    services.start("own")
    assert services.get("own").health is ServiceHealth.UNKNOWN
    gate.touch()
    assert services.start("own", wait=True).service.health is ServiceHealth.HEALTHY
    port = free_port()
    services.add("other", health_tcp=port, **QUICK)
    services.start("other")
    assert services.wait("other", health=ServiceHealth.UNHEALTHY).health_message == f"cannot connect to port {port}"


def test_log_check_matches_only_the_output_of_the_current_run(services: Services, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run = f"while [ ! -e {gate} ]; do sleep 0.01; done; echo now ready to serve; exec sleep 1000"
    services.add("web", run, health_log="ready .* serve", health_retries=1000)
    services.start("web")
    gate.touch()
    service = services.start("web", wait=True).service
    assert service.health_message == "now ready to serve"
    gate.unlink()
    services.restart("web")
    assert services.get("web").health is ServiceHealth.UNKNOWN
    gate.touch()
    services.wait("web", health=ServiceHealth.HEALTHY)


def test_log_check_is_not_stalled_by_a_backtracking_pattern_and_an_endless_line(services: Services) -> None:
    services.add(
        "web", python("print('a' * 10_000_000, flush=True)\nimport time\ntime.sleep(1000)"), health_log="(a+)+b"
    )
    services.update("web", health_interval_ms=100, health_retries=3)
    services.start("web")
    services.wait("web", health=ServiceHealth.UNHEALTHY)
    assert services.stop("web").stopped == ["web"]


def test_unhealthy_service_is_restarted_up_to_the_restart_limit(services: Services, tmp_path: Path) -> None:
    services.add(
        "web", f"echo x >> {tmp_path}/runs; exec sleep 1000", health_exec="echo sick; false", restart_unhealthy=True,
        restart_backoff_ms=10, restart_limit=2, **QUICK,
    )  # fmt: skip
    services.start("web")
    service = services.wait_rest("web")
    assert (service.state, service.restarts) == (ServiceState.FAILED, 2)
    assert service.reason == "unhealthy: sick; 2 restarts within 60 s"
    assert (tmp_path / "runs").read_text().count("x") == 3


def test_changed_check_takes_effect_at_once(services: Services) -> None:
    services.add("web", health_exec="false", **QUICK)
    pid = services.start("web").service.pid
    services.wait("web", health=ServiceHealth.UNHEALTHY)
    services.update("web", health_exec="true")
    assert services.wait("web", health=ServiceHealth.HEALTHY).pid == pid
    services.update("web", clear=["health_exec"])
    services.wait("web", health=ServiceHealth.UNKNOWN)


def test_health_after_a_daemon_restart_is_unknown_until_the_first_check(services: Services, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    services.add("web", health_exec=f"while [ -e {slow} ]; do sleep 0.05; done", health_timeout_ms=60_000, **QUICK)
    pid = services.start("web", wait=True).service.pid
    slow.touch()
    services.kill_daemon()
    service = services.get("web")
    assert (service.state, service.health, service.pid) == (ServiceState.RUNNING, ServiceHealth.UNKNOWN, pid)
    slow.unlink()
    services.kill_daemon()
    services.wait("web", health=ServiceHealth.HEALTHY)


def test_health_is_unknown_after_the_run_ended(services: Services) -> None:
    services.add("web", health_exec="true", **QUICK)
    services.start("web", wait=True)
    assert services.stop("web").service.health is ServiceHealth.UNKNOWN


@pytest.mark.parametrize(
    ("command", "code", "line"),
    [
        ("printf 'one\\ntwo\\n'", 0, "two"),
        ("echo bad >&2; exit 4", 4, "bad"),
        ("printf '\\377\\033[31m'; exit 1", 1, "\ufffd [31m"),
        ("sleep 1000 & exit 0", 0, None),
        ("head -c 1000000 /dev/zero | tr '\\0' x; echo; echo end", 0, "end"),
    ],
)
def test_run_check_gives_exit_code_and_last_line(command: str, code: int, line: str | None) -> None:
    result = asyncio.run(run_check(("/bin/sh", "-c", command), "/", dict(os.environ), 60))
    assert result == (code, line)


def test_log_check_reports_that_its_log_was_deleted(services: Services) -> None:
    service = services.add("web", "echo up; exec sleep 1000", health_log="never", **QUICK)
    services.start("web")
    services.wait("web", health_message="no line of its output matches yet")
    shutil.rmtree(services.daemon.state / "processes" / f"service-{service.id}")
    found = services.wait("web", health_message="its output was deleted before a line matched")
    assert (found.state, found.health) == (ServiceState.RUNNING, ServiceHealth.UNHEALTHY)
    assert "Traceback" not in services.daemon.log()
    services.stop("web")
