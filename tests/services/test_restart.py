"""Restart policies: whether, when and how often a service is restarted after an exit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support.live_services import Services, exists, lines_of
from support.raw import wait_until

from nexus.services.commands import RestartService
from nexus.services.errors import ServiceConfigFile
from nexus.services.lifecycle.series import wants_restart
from nexus.services.states import RestartPolicy, ServiceState

FAST_RESTART = {"start_window_ms": 0, "restart_backoff_ms": 10, "restart_backoff_max_ms": 10}


def kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("policy", "run", "state", "reason"),
    [
        ("no", "exit 0", ServiceState.STOPPED, "exited with 0"),
        ("no", "exit 3", ServiceState.FAILED, "exited with 3"),
        ("no", "kill -SEGV $$", ServiceState.FAILED, "killed by SIGSEGV"),
        ("on-failure", "exit 0", ServiceState.STOPPED, "exited with 0"),
    ],
)
def test_exit_without_restart_sets_state_and_reason(
    services: Services, policy: str, run: str, state: ServiceState, reason: str
) -> None:
    services.add("web", f"ulimit -c 0; sleep 0.1; {run}", restart=policy, start_window_ms=0)
    services.start("web")
    service = services.wait_rest("web")
    assert (service.state, service.restarts, service.pid) == (state, 0, None)
    assert str(service.reason).startswith(reason)
    assert services.kinds("web")[-2:] == ["exited", str(state)]


def test_on_failure_restarts_a_killed_service(services: Services) -> None:
    services.add("web", restart="on-failure", **FAST_RESTART)
    first = services.start("web").service.pid
    kill(first)
    service = services.wait("web", restarts=1, state=ServiceState.RUNNING)
    assert exists(service.pid)
    assert service.pid != first
    assert service.reason == "restarted: killed by SIGKILL"
    assert services.kinds("web")[-4:] == ["exited", "restarting", "starting", "started"]
    assert services.wait_event("web", "exited")["detail"] == {"reason": "killed by SIGKILL", "exit_signal": 9}
    services.stop("web")
    service = services.start("web").service
    assert (service.restarts, service.reason) == (0, None)


def test_always_restarts_after_exit_0_but_not_after_a_stop(services: Services, tmp_path: Path) -> None:
    services.add("web", f"echo x >> {tmp_path}/runs; sleep 0.05", restart="always", restart_limit=0, **FAST_RESTART)
    services.start("web")
    wait_until(lambda: len(lines_of(tmp_path / "runs")) >= 3, "three runs")
    services.stop("web")
    runs = lines_of(tmp_path / "runs")
    service = services.get("web")
    assert (service.state, service.next_restart_at) == (ServiceState.STOPPED, None)
    assert lines_of(tmp_path / "runs") == runs


def test_crash_loop_backs_off_and_fails_at_the_restart_limit(services: Services, tmp_path: Path) -> None:
    times = tmp_path / "times"
    services.add(
        "web", f"date +%s%N >> {times}; exit 3", restart="on-failure", restart_backoff_ms=40, restart_limit=3,
        start_window_ms=1000,
    )  # fmt: skip
    error = services.start_error("web")
    assert error.details["reason"] == "exited with 3; 3 restarts within 60 s"
    assert error.message == 'cannot start service "web": it exited with 3; 3 restarts within 60 s'
    service = services.wait_rest("web")
    assert (service.state, service.restarts) == (ServiceState.FAILED, 3)
    assert service.reason == "exited with 3; 3 restarts within 60 s"
    began = [int(line) / 1e6 for line in times.read_text().split()]
    assert len(began) == 4
    for wait_ms, before, after in zip((40, 80, 160), began, began[1:], strict=False):
        assert after - before >= wait_ms


def test_service_in_backoff_is_starting_with_reason_and_time_of_the_next_restart(services: Services) -> None:
    services.add(
        "web", "exit 3", restart="always", restart_backoff_ms=600_000, restart_backoff_max_ms=600_000,
        start_window_ms=60_000,
    )  # fmt: skip
    starting = services.begin_start("web")
    service = services.wait("web", reason="exited with 3")
    assert (service.state, service.pid) == (ServiceState.STARTING, None)
    assert service.exit_code == 3
    assert service.next_restart_at is not None
    assert service.next_restart_at >= service.state_at + 600_000 - 1000
    services.update("web", run_command="exec sleep 1000", start_window_ms=20)
    service = services.start("web").service
    assert (service.state, service.restarts, service.next_restart_at) == (ServiceState.RUNNING, 0, None)
    services.client.result(starting)
    services.update("web", run_command="exit 4", start_window_ms=60_000)
    services.client.begin(RestartService(service="web"))
    services.wait("web", reason="exited with 4")
    assert services.stop("web").stopped == ["web"]
    service = services.get("web")
    assert (service.state, service.next_restart_at, service.reason) == (ServiceState.STOPPED, None, "stopped on demand")


def test_missing_program_is_retried_until_it_exists(services: Services, tmp_path: Path) -> None:
    program = tmp_path / "program"
    services.add("web", [str(program)], restart="on-failure", restart_limit=0, **FAST_RESTART)
    services.begin_start("web")
    # The record loses the reason with the next attempt, 10 ms later; the event keeps it.
    assert str(program) in services.wait_event("web", "restarting")["detail"]["reason"]
    new = tmp_path / "new"
    new.write_text("#!/bin/sh\nexec sleep 1000\n")
    new.chmod(0o755)
    new.rename(program)
    assert services.wait("web", state=ServiceState.RUNNING).restarts > 0


@pytest.mark.parametrize("policy", ["on-failure", "always"])
@pytest.mark.parametrize(
    ("make", "words"),
    [(lambda path: None, "there is no such file"), (lambda path: path.write_text("A=1\nno line\n"), "line 2")],
    ids=["missing", "bad line"],
)
def test_configuration_file_that_cannot_be_read_is_no_reason_to_retry(
    services: Services, tmp_path: Path, make: Callable[[Path], object], words: str, policy: str
) -> None:
    path = tmp_path / ".env"
    services.add("web", directory=str(tmp_path), config_filename=["?no.env", ".env"], restart=policy, **FAST_RESTART)
    make(path)
    error = services.start_error("web")
    assert isinstance(error, ServiceConfigFile)
    assert f"{path}" in error.message
    assert words in error.message
    assert "tries again" not in (error.hint or "")
    service = services.wait_rest("web")
    assert (service.state, service.restarts, service.next_restart_at) == (ServiceState.FAILED, 0, None)
    assert service.reason == error.message
    assert "restarting" not in services.kinds("web")
    path.write_text("A=1\n")
    assert services.start("web").service.state is ServiceState.RUNNING


def test_service_whose_file_vanishes_goes_on_and_fails_when_it_has_ended(services: Services, tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("A=1\n")
    services.add(
        "web", directory=str(tmp_path), config_filename=[".env", "?more.env"], restart="always", **FAST_RESTART
    )
    pid = services.start("web").service.pid
    path.rename(tmp_path / "kept")
    error = services.client.call_error(RestartService("web"))
    assert isinstance(error, ServiceConfigFile)
    assert services.get("web").pid == pid
    kill(pid)
    service = services.wait("web", state=ServiceState.FAILED)
    assert f"{path}: there is no such file" in str(service.reason)
    assert (service.restarts, service.next_restart_at) == (1, None)
    (tmp_path / "kept").rename(path)
    assert services.start("web").service.state is ServiceState.RUNNING


def test_restart_limit_holds_across_a_kill_of_the_daemon(services: Services, tmp_path: Path) -> None:
    runs, gate = tmp_path / "runs", tmp_path / "gate"
    second_waits = f"[ $(grep -c x {runs}) != 2 ] || while [ ! -e {gate} ]; do sleep 0.01; done"
    services.add(
        "web", f"echo x >> {runs}; {second_waits}; exit 3", restart="always", restart_backoff_ms=200, restart_limit=3,
        restart_backoff_max_ms=200, start_window_ms=0,
    )  # fmt: skip
    services.start("web")
    services.wait("web", restarts=1)
    services.kill_daemon()
    gate.touch()
    service = services.wait_rest("web")
    assert (service.state, service.restarts) == (ServiceState.FAILED, 3)
    assert runs.read_text().count("x") == 4


@pytest.mark.parametrize("failed", [True, False])
def test_each_policy_restarts_after_the_exits_it_names(failed: bool) -> None:
    assert not wants_restart(RestartPolicy.NO, failed=failed)
    assert wants_restart(RestartPolicy.ON_FAILURE, failed=failed) is failed
    assert wants_restart(RestartPolicy.ALWAYS, failed=failed)
