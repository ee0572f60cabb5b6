"""One-offs of services: jobs with the directory, environment, tunnels and limits of a service."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest
from support.jobs import Jobs
from support.live_services import Services, exists, listen
from support.raw import wait_until

from nexus.jobs.states import JobReason, JobStatus
from nexus.services.errors import ServiceNotFound
from nexus.services.states import ServiceState

CONNECT = (
    "import os, socket, sys; s = socket.create_connection(('127.0.0.1', int(os.environ[sys.argv[1]]))); "
    "print(s.recv(99).decode(), flush=True)"
)


def connecting(variable: str, before: str = "pass", after: str = "pass") -> list[str]:
    return [sys.executable, "-I", "-c", f"import os\n{before}\n{CONNECT}\n{after}", variable]


@pytest.fixture
def services(own: Jobs) -> Services:
    return Services(own.daemon)


def test_one_off_has_the_directory_and_environment_of_its_service(own: Jobs, services: Services, root: Path) -> None:
    folder = root / "work"
    folder.mkdir()
    services.add("web", directory=str(folder), environment={"A": "service", "B": "service"}, umask="0027")
    job = own.submit('pwd; echo "$A $B $NEXUS_JOB $NEXUS_SERVICE"; umask', service="web", environment={"B": "job"})
    assert job.service_id == services.get("web").id
    job = own.ended(job)
    assert job.status is JobStatus.COMPLETED, job
    assert (job.stdout or "").splitlines()[:1] == [str(folder)]
    assert (job.stdout or "").splitlines()[1].startswith(f"service job {job.number}")
    assert (job.stdout or "").splitlines()[2] == "0027"
    elsewhere = own.ended(own.submit("pwd", service="web", directory="/"))
    assert elsewhere.stdout == "/\n"
    assert services.get("web").state is ServiceState.STOPPED
    services.close()


def test_one_off_sees_the_port_of_the_service_that_runs(own: Jobs, services: Services) -> None:
    services.add("web", listen(), port=0)
    started = services.start("web").service
    job = own.ended(own.submit(connecting("PORT"), service="web"))
    assert (job.status, job.stdout) == (JobStatus.COMPLETED, f"{started.pid}\n")
    services.close()


def test_tunnel_of_a_one_off_works_for_as_long_as_it_runs(own: Jobs, services: Services) -> None:
    db = services.add("db", listen(), port=0)
    services.add("web")
    services.depend("web", "db", tunnel_enabled=True)
    pid = services.start("db").service.pid
    job = own.submit(connecting("NEXUS_DB_PORT", after="input()"), service="web", stdin_open=True)
    wait_until(lambda: own.output(job) == f"{pid}\n".encode(), "an answer through the tunnel")
    assert tunnels(own)
    assert own.cancel(job).status is JobStatus.CANCELLED
    wait_until(lambda: not tunnels(own), "the tunnels to end")
    assert services.get("db").pid == pid
    assert db.id
    services.close()


def test_tunnel_of_a_one_off_works_over_a_kill_of_the_daemon(own: Jobs, services: Services, root: Path) -> None:
    services.add("db", listen(), port=0)
    services.add("web")
    services.depend("web", "db", tunnel_enabled=True)
    pid = services.start("db").service.pid
    wait_for_go = f"import time\nwhile not os.path.exists({str(root / 'go')!r}): time.sleep(0.01)"
    job = own.submit(connecting("NEXUS_DB_PORT", before=wait_for_go), service="web")
    own.running(job)
    services.close()
    own.kill_daemon()
    (root / "go").touch()
    ended = own.ended(job)
    assert (ended.status, ended.stdout) == (JobStatus.COMPLETED, f"{pid}\n"), ended
    wait_until(lambda: not tunnels(own), "the tunnels to end")
    # And one that ends while no daemon runs.
    (root / "go").unlink()
    job = own.submit(connecting("NEXUS_DB_PORT", before=wait_for_go), service="web")
    own.running(job)
    own.daemon.kill()
    (root / "go").touch()
    wait_until(lambda: not own.pids(job), "its end")
    own.begin_anew()
    ended = own.ended(job)
    assert (ended.status, ended.stdout) == (JobStatus.COMPLETED, f"{pid}\n"), ended
    wait_until(lambda: not tunnels(own), "the tunnels to end")


def tunnels(jobs: Jobs) -> list[int]:
    """The pids of the tunnels of the daemon."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and exists(int(entry.name)):
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink() == jobs.daemon.state / "tunnels":
                    found.append(int(entry.name))
    return found


def test_tunnels_stay_while_the_service_or_another_one_off_uses_them(own: Jobs, services: Services) -> None:
    services.add("db", listen(), port=0)
    services.add("web")
    services.depend("web", "db", tunnel_enabled=True)
    services.start("db")
    first = own.submit("exec sleep 1000", service="web", group=own.group("wide", 9).name)
    second = own.submit("exec sleep 1000", service="web", group="wide")
    for job in (first, second):
        own.running(job)
    own.cancel(first)
    assert own.ended(own.submit(connecting("NEXUS_DB_PORT"), service="web", group="wide")).status is JobStatus.COMPLETED
    services.start("web")
    own.cancel(second)
    assert tunnels(own)
    services.stop("web")
    wait_until(lambda: not tunnels(own), "the tunnels to end")
    third = own.submit("exec sleep 1000", service="web")
    own.running(third)
    services.start("web")
    services.stop("web")
    assert own.ended(own.submit(connecting("NEXUS_DB_PORT"), service="web", group="wide")).status is JobStatus.COMPLETED
    own.cancel(third)
    wait_until(lambda: not tunnels(own), "the tunnels to end")
    services.close()


def test_many_one_offs_at_once_share_the_tunnels(own: Jobs, services: Services) -> None:
    services.add("db", listen(), port=0)
    services.add("web")
    services.depend("web", "db", tunnel_enabled=True)
    services.start("db")
    own.group("wide", 32)
    for _ in range(3):
        good = [own.submit(connecting("NEXUS_DB_PORT"), service="web", group="wide") for _ in range(8)]
        bad = [own.submit(["/no/such/program"], service="web", group="wide") for _ in range(8)]
        services.start("web")
        services.stop("web")
        own.wait_all(*good, *bad)
        assert {own.get(job).status for job in good} == {JobStatus.COMPLETED}
        wait_until(lambda: not tunnels(own), "the tunnels to end")
    services.close()


def test_one_off_of_a_service_whose_dependency_is_not_up(own: Jobs, services: Services) -> None:
    services.add("db", listen(), port=0)
    services.add("web")
    services.depend("web", "db", tunnel_enabled=True)
    job = own.ended(own.submit("echo ${NEXUS_DB_PORT:+set}", service="web"))
    assert job.status in (JobStatus.COMPLETED, JobStatus.FAILED), job
    if job.status is JobStatus.FAILED:
        assert job.reason_code is JobReason.START_FAILED
        assert job.reason
    assert own.ended(own.submit("true")).status is JobStatus.COMPLETED
    wait_until(lambda: not tunnels(own), "the tunnels to end")
    services.close()


def test_one_off_of_a_service_that_is_removed_meanwhile_fails_with_a_sentence(own: Jobs, services: Services) -> None:
    services.add("web")
    assert isinstance(own.submit_error(service="none"), ServiceNotFound)
    waits = own.submit(service="web", stashed=True)
    runs = own.submit("exec sleep 1000", service="web")
    own.running(runs)
    services.remove("web")
    own.enqueue(waits)
    ended = own.ended(waits)
    assert (ended.status, ended.reason_code) == (JobStatus.FAILED, JobReason.START_FAILED)
    assert "not found" in (ended.reason or "")
    assert own.get(runs).status is JobStatus.EXECUTING
    assert own.cancel(runs).status is JobStatus.CANCELLED
    assert own.daemon.stop() == 0
    assert "Traceback" not in own.daemon.log()
    services.close()


def test_one_off_whose_environment_cannot_be_made_fails_with_a_sentence(own: Jobs, services: Services) -> None:
    services.add("web", directory="/no/such/folder")
    job = own.ended(own.submit(service="web"))
    assert (job.status, job.reason_code) == (JobStatus.FAILED, JobReason.START_FAILED)
    assert "/no/such" in (job.reason or "")
    services.close()
