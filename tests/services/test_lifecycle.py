"""Starts, stops, restarts and removals on demand, their errors and events."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

from nexus_protocol import Cancelled, DeadlineExceeded
from support.live_services import Services, exists, lines_of, python
from support.raw import RawClient, wait_until

from nexus.services.commands import (
    GetServiceStdout,
    RemoveService,
    RestartService,
    StartService,
    StopService,
    UpdateService,
)
from nexus.services.errors import (
    ServiceNoCommand,
    ServiceNotFound,
    ServiceRunning,
    ServiceStartFailed,
    ServiceStopped,
)
from nexus.services.states import ServiceHealth, ServiceState


def test_start_replies_when_up_and_stop_replies_when_all_processes_ended(services: Services) -> None:
    services.add("web", "sleep 1000 & exec sleep 1000")
    started = services.start("web")
    service = started.service
    assert (service.state, service.health, started.started) == (ServiceState.RUNNING, ServiceHealth.UNKNOWN, ["web"])
    assert service.pid is not None
    assert service.started_at is not None
    assert exists(service.pid)
    status = services.status("web")
    assert status.process_count == 2
    assert status.memory_rss_bytes
    stopped = services.stop("web")
    assert stopped.stopped == ["web"]
    assert not exists(service.pid)
    service = stopped.service
    assert (service.state, service.pid, service.reason) == (ServiceState.STOPPED, None, "stopped on demand")
    assert (service.exit_code, service.exit_signal) == (None, signal.SIGTERM)
    assert services.status("web").process_count is None


def test_start_of_a_running_and_stop_of_a_stopped_service_change_nothing(services: Services) -> None:
    services.add("web")
    assert services.stop("web").stopped == []
    first = services.start("web", environment={"A": "1"})
    assert services.start("web").started == []
    again = services.start("web", environment={"A": "1"})
    assert (again.started, again.service.pid) == ([], first.service.pid)
    error = services.start_error("web", environment={"A": "2"})
    assert isinstance(error, ServiceRunning)
    assert "restart web" in str(error.hint)
    services.stop("web")
    assert services.stop("web").stopped == []


def test_exit_within_the_start_window_fails_the_start_with_exit_and_log(services: Services) -> None:
    services.add("bad", "echo one; echo two >&2; exit 3", start_window_ms=5000)
    error = services.start_error("bad")
    assert isinstance(error, ServiceStartFailed)
    assert error.message == 'cannot start service "bad": it exited with 3'
    assert (error.details["reason"], error.details["exit_code"]) == ("exited with 3", 3)
    assert sorted(error.details["log"]) == ["one", "two"]
    assert "logs bad" in str(error.hint)
    service = services.get("bad")
    assert (service.state, service.reason, service.exit_code) == (ServiceState.FAILED, "exited with 3", 3)
    services.update("bad", run_command="kill -KILL $$")
    error = services.start_error("bad")
    assert (error.details["reason"], error.details["exit_signal"]) == ("killed by SIGKILL", 9)
    services.update("bad", run_command="exit 0")
    early = services.start_error("bad")
    assert "within its start window" in early.message
    assert "stay in the foreground" in str(early.hint)
    assert "nexusctl service update bad --type oneshot" in str(early.hint)
    assert services.get("bad").state is ServiceState.FAILED
    assert services.stop("bad").service.state is ServiceState.STOPPED


def test_bad_program_directory_or_command_fails_the_start_with_its_path(services: Services, tmp_path: Path) -> None:
    services.add("none", None)
    assert isinstance(services.start_error("none"), ServiceNoCommand)
    assert services.get("none").state is ServiceState.STOPPED
    services.add("missing", ["/no/such/program"])
    error = services.start_error("missing")
    assert isinstance(error, ServiceStartFailed)
    assert "/no/such/program" in error.message
    assert services.get("missing").state is ServiceState.FAILED
    services.add("nowhere", "true", directory=str(tmp_path / "gone"))
    assert str(tmp_path / "gone") in services.start_error("nowhere").message
    assert isinstance(services.start_error("nobody"), ServiceNotFound)


def test_limit_that_cannot_be_enforced_fails_the_start(services: Services) -> None:
    services.add("web", memory_limit_mib=64)
    error = services.start_error("web")
    assert isinstance(error, ServiceStartFailed)
    assert error.hint
    assert services.get("web").state is ServiceState.FAILED


def test_errors_have_the_present_name_of_a_renamed_service(services: Services) -> None:
    services.add("old", "exit 3", start_window_ms=5000)
    assert services.start_error("old").message == 'cannot start service "old": it exited with 3'
    services.client.call(UpdateService(service="old", name="new"))
    assert services.start_error("new").message == 'cannot start service "new": it exited with 3'
    services.add("early", ["/no/such/program"])
    assert services.start_error("early").details["name"] == "early"


def test_log_in_a_start_error_is_bounded(services: Services) -> None:
    services.add("bad", "for i in $(seq 100); do echo line $i; done; printf '%01000d' 7; exit 1", start_window_ms=5000)
    log = services.start_error("bad").details["log"]
    assert len(log) == 20
    assert log[-2] == "line 100"
    assert len(log[-1]) == 500


def test_oneshot_is_running_at_once_and_completed_after_exit_0(services: Services, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    services.add("job", f"while [ ! -e {gate} ]; do sleep 0.01; done; exit 0", type="oneshot")
    assert services.start("job").service.state is ServiceState.RUNNING
    waiting = services.client.begin(StartService(service="job", wait=True))
    gate.touch()
    services.client.result(waiting)
    service = services.get("job")
    assert (service.state, service.reason, service.exit_code) == (ServiceState.STOPPED, "exited with 0", 0)
    services.update("job", run_command="echo no; exit 4")
    error = services.start_error("job", wait=True)
    assert (error.details["exit_code"], error.details["log"]) == (4, ["no"])
    assert services.wait_rest("job").state is ServiceState.FAILED


def test_concurrent_starts_share_one_process(services: Services, tmp_path: Path) -> None:
    services.add("web", f"echo x >> {tmp_path}/starts; exec sleep 1000")
    sequences = services.client.begin_many([StartService(service="web")] * 20)
    pids = {services.client.result(sequence)["service"]["pid"] for sequence in sequences}
    assert len(pids) == 1
    assert wait_until(lambda: lines_of(tmp_path / "starts"), "the program") == ["x"]


def test_stop_ends_a_waiting_start(services: Services) -> None:
    services.add("web", health_exec="false", health_retries=1000)
    waiting = services.client.begin(StartService(service="web", wait=True))
    services.wait("web", state=ServiceState.RUNNING)
    with RawClient(services.daemon.socket_path) as other:
        assert other.call(StopService(service="web")).stopped == ["web"]
    assert isinstance(services.client.error(waiting), ServiceStopped)
    assert services.get("web").state is ServiceState.STOPPED


def test_start_continues_after_its_client_cancels_or_times_out(services: Services, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    services.add("web", health_exec=f"test -e {gate}", health_retries=1000)
    sequence = services.client.begin(StartService(service="web", wait=True))
    services.wait("web", state=ServiceState.RUNNING)
    services.client.cancel(sequence)
    assert isinstance(services.client.error(sequence), Cancelled)
    error = services.start_error("web", wait=True, timeout_ms=50)
    assert isinstance(error, DeadlineExceeded)
    assert error.details["goes_on"] is True
    assert services.get("web").state is ServiceState.RUNNING
    gate.touch()
    assert services.start("web", wait=True).service.health is ServiceHealth.HEALTHY


def test_start_that_times_out_behind_a_stop_reports_that_it_does_not_continue(services: Services) -> None:
    run = "trap '' TERM; echo up; while :; do sleep 0.01; done"
    services.add("web", run, health_log="up", health_retries=1000, stop_grace_ms=600_000)
    pid = services.start("web", wait=True).service.pid
    stop = services.client.begin(StopService(service="web"))
    services.wait("web", state=ServiceState.STOPPING)
    for command in (StartService(service="web", timeout_ms=50), RestartService(service="web", timeout_ms=50)):
        error = services.client.call_error(command)
        assert isinstance(error, DeadlineExceeded)
        assert error.details["goes_on"] is False
        assert "was not started" in str(error.hint)
    assert pid is not None
    os.killpg(pid, signal.SIGKILL)
    services.client.result(stop)
    assert services.get("web").state is ServiceState.STOPPED


def test_processes_that_ignore_the_stop_signal_or_left_the_group_are_killed_after_the_grace_time(
    services: Services, tmp_path: Path
) -> None:
    program = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork(): os._exit(0)\n"
        f"    open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "time.sleep(1000)\n"
    )
    services.add("stubborn", python(program), stop_grace_ms=100)
    pid = services.start("stubborn").service.pid
    escaped = int(wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the escaped one"))
    service = services.stop("stubborn").service
    assert service.exit_signal == signal.SIGKILL
    assert not exists(pid)
    assert not exists(escaped)


def test_stop_sends_the_declared_signal(services: Services) -> None:
    program = "import signal, sys, time\nsignal.signal(signal.SIGINT, lambda *a: sys.exit(7))\nprint(1, flush=True)\n"
    services.add("web", python(program + "time.sleep(1000)"), stop_signal="SIGINT", health_log="1")
    services.start("web", wait=True)
    assert services.stop("web").service.exit_code == 7


def test_descendants_are_ended_after_the_main_process_before_the_service_is_failed(
    services: Services, tmp_path: Path
) -> None:
    services.add("web", f"(trap '' TERM; echo $$; exec sleep 1000) & echo $! > {tmp_path}/pid; sleep 0.1; exit 5")
    services.update("web", stop_grace_ms=300, start_window_ms=0)
    services.start("web")
    leftover = int(wait_until(lambda: lines_of(tmp_path / "pid"), "what it leaves behind")[0])
    service = services.wait_rest("web")
    assert (service.state, service.exit_code) == (ServiceState.FAILED, 5)
    assert not exists(leftover)


def test_restart_keeps_the_environment_of_the_start_unless_given_another(services: Services, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = f"echo $WHO-$NEXUS_SERVICE >> {out}; echo up; exec sleep 1000"
    services.add("web", run, environment={"WHO": "nobody"}, health_log="up", health_retries=1000)
    first = services.start("web", environment={"WHO": "me"}, wait=True).service.pid
    second = services.restart("web", wait=True)
    assert second.service.pid != first
    assert second.started == ["web"]
    assert not exists(first)
    services.restart("web", environment={"WHO": "you"}, wait=True)
    services.stop("web")
    services.restart("web", wait=True)
    services.stop("web")
    services.start("web", wait=True)
    assert lines_of(out) == ["me-web", "me-web", "you-web", "you-web", "nobody-web"]
    assert services.get("web").restarts == 0


def test_journal_has_every_transition_and_no_environment_values(services: Services) -> None:
    services.add("web", environment={"SECRET": "hunter2"})
    pid = services.start("web", environment={"OTHER": "hunter3"}).service.pid
    services.restart("web")
    services.stop("web")
    assert services.kinds("web") == [
        *("added", "starting", "started"),
        *("stopping", "starting", "started"),
        *("stopping", "stopped"),
    ]
    events = services.events("web")
    assert events[2]["detail"]["pid"] == pid
    # What follows from a request belongs to it, also what the daemon writes later by itself.
    assert [event["operation"] for event in events[1:3]] == [events[1]["operation"]] * 2
    assert len({event["operation"] for event in events}) == 4
    assert (events[1]["uid"], events[1]["pid"]) == (os.geteuid(), os.getpid())
    assert "hunter" not in str(events)
    assert "hunter" not in services.daemon.log()


def test_remove_of_a_running_service_needs_stop_and_ends_its_followers(services: Services) -> None:
    id_ = services.add("web", "echo hello; exec sleep 1000").id
    pid = services.start("web").service.pid
    assert isinstance(services.client.call_error(RemoveService(service="web")), ServiceRunning)
    with RawClient(services.daemon.socket_path) as follower:
        sequence = follower.begin(GetServiceStdout(service="web", follow=True))
        assert next(follower.items(sequence))["data"] == b"hello\n"
        assert services.remove("web", stop=True).name == "web"
        assert list(follower.items(sequence)) == []
        follower.result(sequence)
    assert not exists(pid)
    assert not (services.daemon.state / "processes" / f"service-{id_}").exists()
    assert isinstance(services.start_error("web"), ServiceNotFound)
    services.add("web")
    assert services.start("web").service.id != id_


def test_service_gets_the_file_limit_from_before_the_daemon_raised_it(services: Services, tmp_path: Path) -> None:
    said = tmp_path / "said"
    services.add("modest", f"ulimit -Sn > {said}; exec sleep 1000")
    services.start("modest")
    wait_until(lambda: lines_of(said), "the file limit")
    assert lines_of(said) == [str(resource.getrlimit(resource.RLIMIT_NOFILE)[0])]
