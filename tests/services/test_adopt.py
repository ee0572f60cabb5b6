"""Adoption: a daemon takes over the processes, exits, stops and waits that an earlier one left."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.daemon import DaemonProcess
from support.live_services import Services, exists, lines_of, listen, python
from support.raw import wait_until

from nexus.runtime import ports
from nexus.runtime.status import process_start
from nexus.services.commands import GetServiceStdout, RestartService, StartService, StopService
from nexus.services.states import ServiceHealth, ServiceState


def test_processes_outlive_the_daemon_and_are_adopted_with_their_output(services: Services) -> None:
    names = [f"s{number}" for number in range(5)]
    for name in names:
        services.add(name, "echo before; exec sleep 1000", port=0, health_log="before", health_retries=1000)
        services.start(name, wait=True)
    before = {name: services.get(name) for name in names}
    services.kill_daemon()
    for name in names:
        after = services.get(name)
        assert (after.state, after.pid, after.active_port) == (
            ServiceState.RUNNING,
            before[name].pid,
            before[name].active_port,
        )
        assert after.started_at == before[name].started_at
        assert exists(after.pid)
        sequence = services.client.begin(GetServiceStdout(service=name))
        assert b"".join(item["data"] for item in services.client.items(sequence)) == b"before\n"
        assert services.stop(name).stopped == [name]
        assert not exists(after.pid)


def test_exits_while_no_daemon_ran_are_written_by_the_next_one(services: Services, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    wait = f"while [ ! -e {gate} ]; do sleep 0.01; done"
    ends = {"good": "exit 0", "bad": "exit 3", "killed": "kill -KILL $$"}
    pids = {}
    for name, end in ends.items():
        services.add(name, f"{wait}; {end}")
        pids[name] = services.start(name).service.pid
    services.daemon.kill()
    gate.touch()
    wait_until(lambda: not any(exists(pid) for pid in pids.values()), "the ends")
    services.begin_anew()
    good, bad, killed = (services.get(name) for name in ends)
    assert (good.state, good.exit_code, good.reason) == (ServiceState.STOPPED, 0, "exited with 0")
    assert (bad.state, bad.exit_code, bad.reason) == (ServiceState.FAILED, 3, "exited with 3")
    assert (killed.state, killed.exit_signal, killed.reason) == (ServiceState.FAILED, 9, "killed by SIGKILL")
    for service in (good, bad, killed):
        assert service.pid is None
        assert service.stopped_at is not None
        assert service.stopped_at < service.state_at + 1


def test_exit_while_no_daemon_ran_is_restarted_by_the_policy(services: Services) -> None:
    services.add("web", restart="on-failure", restart_backoff_ms=10)
    pid = services.start("web").service.pid
    assert pid is not None
    services.daemon.kill()
    os.kill(pid, signal.SIGKILL)
    services.begin_anew()
    service = services.wait("web", state=ServiceState.RUNNING, restarts=1)
    assert service.pid != pid


def test_clean_stop_of_the_daemon_leaves_services_running(services: Services) -> None:
    services.add("web")
    pid = services.start("web").service.pid
    assert services.daemon.stop() == 0
    assert exists(pid)
    services.begin_anew()
    assert services.get("web").pid == pid


def test_interrupted_stop_is_resumed_by_the_next_daemon(services: Services, tmp_path: Path) -> None:
    run = f"trap 'while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; exit 9' TERM; echo up; sleep 1000 & wait"
    services.add("web", run, health_log="up", health_retries=1000, stop_grace_ms=60_000)
    pid = services.start("web", wait=True).service.pid
    services.client.begin(StopService(service="web"))
    services.wait("web", state=ServiceState.STOPPING)
    services.kill_daemon()
    assert services.get("web").state is ServiceState.STOPPING
    (tmp_path / "go").touch()
    service = services.wait_rest("web")
    assert (service.state, service.reason) == (ServiceState.STOPPED, "stopped on demand")
    assert not exists(pid)


def test_interrupted_restart_is_resumed_with_its_environment(services: Services, tmp_path: Path) -> None:
    run = f"trap 'while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; exit 9' TERM; echo up; sleep 1000 & wait"
    services.add("web", run, health_log="up", health_retries=1000, stop_grace_ms=60_000)
    pid = services.start("web", wait=True, environment={"A": "1"}).service.pid
    services.client.begin(RestartService(service="web", environment={"A": "2"}))
    services.wait("web", state=ServiceState.STOPPING)
    services.kill_daemon()
    (tmp_path / "go").touch()
    service = services.wait("web", state=ServiceState.RUNNING)
    assert service.pid != pid
    assert Path(f"/proc/{service.pid}/environ").read_bytes().split(b"\0").count(b"A=2") == 1


def test_waits_for_a_dependency_and_for_backoff_are_resumed(services: Services, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    services.add("db", health_exec=f"test -e {gate}", health_retries=1000)
    services.add("api")
    services.depend("api", "db", condition="healthy")
    services.client.begin(StartService(service="api"))
    services.wait("api", state=ServiceState.STARTING)
    services.add("web", f"test -e {gate} || exit 3; exec sleep 1000", restart="always", restart_backoff_ms=300,
                 restart_backoff_max_ms=300, restart_limit=0, start_window_ms=60_000, health_exec=f"test -e {gate}",
                 health_interval_ms=100)  # fmt: skip
    services.start_error("web")
    services.kill_daemon()
    assert services.get("api").state is ServiceState.STARTING
    assert services.get("web").state is ServiceState.STARTING
    gate.touch()
    services.wait("api", state=ServiceState.RUNNING)
    services.wait("web", state=ServiceState.RUNNING)


@pytest.mark.parametrize("delay_ms", range(0, 12, 1))
def test_daemon_killed_during_a_start_leaves_a_record_that_matches_the_process(
    services: Services, tmp_path: Path, delay_ms: int
) -> None:
    run = python(f"import os, time\nopen({str(tmp_path)!r} + f'/{{os.getpid()}}', 'w')\ntime.sleep(1000)\n")
    services.add("web", run, start_window_ms=0)
    services.client.begin(StartService(service="web"))
    # Not a wait for an event: each case kills the daemon at another point of the start.
    select.poll().poll(delay_ms)
    services.kill_daemon()

    def settled() -> bool:
        return services.get("web").state in (ServiceState.RUNNING, ServiceState.STOPPED)

    wait_until(settled, "a state that lasts")
    service = services.get("web")
    alive = {int(path.name) for path in tmp_path.iterdir() if exists(int(path.name))}
    if service.state is ServiceState.RUNNING:
        assert exists(service.pid)
        wait_until(lambda: (tmp_path / str(service.pid)).exists(), "the program")
        alive = {int(path.name) for path in tmp_path.iterdir() if exists(int(path.name))}
        assert alive == {service.pid}
    else:
        assert alive == set()
    services.stop("web")
    assert not any(exists(int(path.name)) for path in tmp_path.iterdir())


def pretend_another_boot(services: Services) -> None:
    """Change every trace of the boot on disk, as after a restart of the machine."""
    processes = services.daemon.state / "processes"
    (processes / "boot").write_text("11111111-1111-1111-1111-111111111111")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().encode()
    for status in processes.glob("*/*/status"):
        status.write_bytes(status.read_bytes().replace(boot, b"1" * 8 + boot[8:]))


def test_machine_restart_stops_services_and_starts_only_policy_always(services: Services) -> None:
    for name, policy in (("plain", "no"), ("failing", "on-failure"), ("always", "always"), ("down", "always")):
        services.add(name, restart=policy, restart_backoff_ms=10)
        services.start(name)
    services.add(
        "late", "exit 3", restart="on-failure", restart_backoff_ms=600_000, restart_backoff_max_ms=600_000,
        start_window_ms=5000,
    )  # fmt: skip
    services.start_error("late")
    services.stop("down")
    services.daemon.kill()
    services.daemon.close()
    pretend_another_boot(services)
    services.begin_anew()
    for name in ("plain", "failing", "late"):
        service = services.get(name)
        assert (service.state, service.pid) == (ServiceState.STOPPED, None), service
        assert service.reason == "the machine was restarted"
    services.wait("always", state=ServiceState.RUNNING)
    assert services.get("down").state is ServiceState.STOPPED


def test_container_restart_stops_services_and_starts_only_autostart(services: Services) -> None:
    services.add("plain")
    services.add("down", autostart=True)
    for name in ("plain", "down"):
        services.start(name)
    services.stop("down")
    pid = services.get("plain").pid
    services.daemon.kill()
    services.daemon.close()
    # In a container the kernel keeps running, but every process is new, including the first one.
    boot = services.daemon.state / "processes" / "boot"
    kernel, first = boot.read_text().split("/")
    assert kernel == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert int(first) == process_start(1)
    boot.write_text(f"{kernel}/{int(first) + 1}")
    with contextlib.closing(sqlite3.connect(services.daemon.database)) as database, database:
        database.execute("UPDATE service SET stopped_in_boot = ?", (f"{kernel}/{int(first) + 1}",))
    services.begin_anew()
    service = services.get("plain")
    assert not exists(pid)
    assert (service.state, service.reason) == (ServiceState.STOPPED, "the machine was restarted")
    services.wait("down", state=ServiceState.RUNNING)


def test_autostart_starts_with_dependencies_what_was_not_stopped_since_boot(services: Services) -> None:
    services.add("db")
    services.add("api", autostart=True)
    services.add("down", autostart=True)
    services.add("job", "exit 0", type="oneshot", autostart=True)
    services.add("bad", "exit 3", autostart=True, start_window_ms=5000)
    services.depend("api", "db")
    services.start("down")
    services.stop("down")
    services.daemon.stop()
    services.begin_anew()
    services.wait("api", state=ServiceState.RUNNING)
    assert services.get("db").state is ServiceState.RUNNING
    services.wait_event("job", "exited")
    assert services.wait("bad", state=ServiceState.FAILED).reason == "exited with 3"
    services.wait("job", state=ServiceState.STOPPED)
    assert services.get("down").state is ServiceState.STOPPED
    assert services.wait_event("api", "started")["actor"] == "nexusd"
    services.daemon.stop()
    services.begin_anew()
    assert services.kinds("job").count("started") == 1


def test_sweep_ends_and_deletes_runs_without_a_record(services: Services) -> None:
    kept = services.add("kept", "echo kept; exec sleep 1000")
    pid = services.start("kept").service.pid
    gone = services.add("gone")
    orphan = services.start("gone").service.pid
    services.daemon.stop()
    processes = services.daemon.state / "processes"
    stranger = "service-00000000-0000-0000-0000-000000000000"
    (processes / f"service-{gone.id}").rename(processes / stranger)
    foreign = processes / "vm-something"
    foreign.mkdir()
    services.begin_anew()
    wait_until(lambda: not (processes / stranger).exists(), "the end of the orphan")
    assert not exists(orphan)
    assert exists(pid)
    assert foreign.exists()
    assert (processes / f"service-{kept.id}").exists()


def test_daemon_of_another_database_in_the_same_folder_does_not_touch_these_processes(
    services: Services, make_daemon: Callable[..., DaemonProcess]
) -> None:
    services.add("db", port=0)
    services.add("web")
    services.depend("web", "db", tunnel_enabled=True)
    services.start("web")
    daemon = services.daemon
    before = sorted((daemon.state / "processes").iterdir())
    other = make_daemon("--db", str(daemon.state / "other.db"), "--socket", str(daemon.root / "other.sock"))
    other.log_path = daemon.root / "other.log"
    other.start()  # a new database refuses to start beside processes, so the rest comes into a known one
    other.stop()
    rest = daemon.state / "other.db.d" / "processes" / "service-00000000-0000-0000-0000-000000000000"
    rest.mkdir(parents=True)
    other.start()
    wait_until(lambda: not rest.exists(), "the end of its own search")
    assert "is ended" not in other.log()
    assert sorted((daemon.state / "processes").iterdir()) == before
    for name in ("db", "web"):
        assert exists(services.get(name).pid)


def test_killed_shim_fails_the_service_and_ends_its_processes(services: Services) -> None:
    services.add("web")
    pid = services.start("web").service.pid
    shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(shim, signal.SIGKILL)
    service = services.wait_rest("web")
    assert (service.state, service.exit_code, service.exit_signal) == (ServiceState.FAILED, None, None)
    assert "supervisor" in str(service.reason)
    assert not exists(pid)
    assert service.health is ServiceHealth.UNKNOWN


def test_run_with_deleted_files_is_ended_with_its_descendants(services: Services, tmp_path: Path) -> None:
    escaped = f"setsid sh -c 'echo $$ > {tmp_path}/escaped; exec sleep 1000' &"
    services.add("web", f"{escaped} trap 'echo > {tmp_path}/told; exit' TERM; echo up; sleep 1000 & wait",
                 health_log="up")  # fmt: skip
    services.add("other")
    web, other = services.start("web", wait=True).service, services.start("other").service
    shim = int(Path(f"/proc/{web.pid}/stat").read_text().rpartition(")")[2].split()[1])
    wait_until(lambda: lines_of(tmp_path / "escaped"), "the escaped process")
    escaped_pid = int(lines_of(tmp_path / "escaped")[0])
    shutil.rmtree(services.daemon.state / "processes" / f"service-{web.id}")
    services.kill_daemon()
    service = services.wait_rest("web")
    assert (service.state, service.pid) == (ServiceState.FAILED, None)
    assert service.reason == "its files were deleted: what was left of it was ended"
    assert not any(exists(pid) for pid in (web.pid, shim, escaped_pid))
    assert (tmp_path / "told").exists()
    assert services.get("other").pid == other.pid
    assert exists(other.pid)
    assert "service web: its files were deleted" in services.daemon.log()
    services.start("web")


def test_deleted_files_of_all_runs_lead_to_restart_by_policy_and_new_tunnels(services: Services) -> None:
    services.add("db", listen(), port=0, restart="always", restart_backoff_ms=10)
    services.add("web", restart="always", restart_backoff_ms=10)
    services.add("stubborn", "trap '' TERM; echo up; while :; do sleep 1000; done", health_log="up",
                 stop_grace_ms=100)  # fmt: skip
    services.depend("web", "db", tunnel_enabled=True)
    before = {name: services.start(name, wait=True).service.pid for name in ("web", "stubborn")}
    before["db"] = services.get("db").pid
    port = next(edge.tunnel_port for edge in services.status("web").dependencies)
    assert port is not None
    tunnel = ports.holder(port)
    assert tunnel is not None
    assert exists(tunnel.pid)
    shutil.rmtree(services.daemon.state / "processes")
    services.kill_daemon()
    assert services.wait_rest("stubborn").state is ServiceState.FAILED
    for name in ("db", "web"):
        service = services.wait(name, state=ServiceState.RUNNING)
        assert service.pid != before[name]
    assert not any(exists(pid) for pid in (*before.values(), tunnel.pid))
    wait_until(lambda: ports.holder(port), "the new tunnel")


def test_run_without_files_and_shim_is_found_by_its_environment(services: Services, tmp_path: Path) -> None:
    escape = f"echo $$ > {tmp_path}/escaped; trap '' TERM; while :; do sleep 1000; done"
    services.add("web", f'setsid sh -c "{escape.replace("$", chr(92) + "$")}" & exec sleep 1000', stop_grace_ms=100)
    web = services.start("web").service
    wait_until(lambda: lines_of(tmp_path / "escaped"), "the escaped process")
    escaped_pid = int(lines_of(tmp_path / "escaped")[0])
    run_id = next(
        word for word in Path(f"/proc/{web.pid}/environ").read_bytes().split(b"\0") if word.startswith(b"NEXUS_RUN_ID=")
    ).decode()
    # Not of the run: another variable, a longer id, and an id in the arguments only.
    strangers = [
        subprocess.Popen(["/bin/sleep", "1000"], env={"A": run_id}),
        subprocess.Popen(["/bin/sleep", "1000"], env={"NEXUS_RUN_ID": f"{run_id.partition('=')[2]}0"}),
        subprocess.Popen(["/bin/sh", "-c", "read forever", run_id], env={}, stdin=subprocess.PIPE),
    ]
    try:
        services.daemon.kill()
        shim = int(Path(f"/proc/{web.pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(shim, signal.SIGKILL)
        wait_until(lambda: not exists(web.pid), "the end of the main process")
        shutil.rmtree(services.daemon.state / "processes")
        services.begin_anew()
        assert services.wait_rest("web").reason == "its files were deleted: what was left of it was ended"
        assert not exists(escaped_pid)
        assert [stranger.poll() for stranger in strangers] == [None] * 3
    finally:
        for stranger in strangers:
            stranger.kill()
            stranger.communicate()
