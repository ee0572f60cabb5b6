"""Tunnels: the dependent's address of a dependency stays, whatever happens to the dependency or to the daemon."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path

from support.live_services import Services, exists, listen
from support.raw import wait_until

from nexus.services.commands import RemoveDependency
from nexus.services.states import ServiceState


def variables(pid: int | None) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def answer(port: int) -> int:
    with socket.create_connection(("127.0.0.1", port), 60) as sock:
        return int(sock.recv(100) or b"0")


def address(services: Services, name: str = "api", dependency: str = "DB") -> int:
    """The port that a service's environment has for its dependency."""
    environment = variables(services.get(name).pid)
    assert environment[f"NEXUS_{dependency}_HOST"] == "127.0.0.1"
    return int(environment[f"NEXUS_{dependency}_PORT"])


def start_stack(services: Services) -> int:
    services.add("db", listen(), port=0, health_tcp=0, health_retries=1000)
    services.add("api")
    services.depend("api", "db", condition="healthy", tunnel_enabled=True)
    services.start("api")
    return address(services)


def tunnel_pids(services: Services) -> list[int]:
    """The pids of this daemon's running tunnels."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and exists(int(entry.name)):
            try:
                folder = (entry / "cwd").readlink()
            except OSError:
                continue
            if folder == services.daemon.state / "tunnels":
                found.append(int(entry.name))
    return found


def answer_of(port: int) -> int | None:
    with contextlib.suppress(ConnectionRefusedError):
        return answer(port)
    return None


def test_unreadable_tunnel_of_an_earlier_daemon_is_replaced_on_the_same_port_and_leaves_nothing(
    services: Services,
) -> None:
    port = start_stack(services)
    (old,) = tunnel_pids(services)
    (status,) = services.daemon.state.glob("processes/tunnel-*/*/status")
    services.daemon.kill()
    status.write_bytes(b"garbage")
    services.begin_anew()
    wait_until(lambda: not exists(old), "the end of the unreadable tunnel")
    wait_until(lambda: len(tunnel_pids(services)) == 1, "the next one")
    assert address(services) == port
    assert wait_until(lambda: answer_of(port), "the next one listens") == services.get("db").pid
    services.stop("api")
    wait_until(lambda: not tunnel_pids(services), "the end of the tunnel")
    services.client.call(RemoveDependency(service="api", dependency="db"))
    assert not list(services.daemon.state.glob("processes/tunnel-*")), "also those of a stopped service are deleted"


def test_tunnel_follows_its_dependency_through_restart_and_port_change(services: Services) -> None:
    port = start_stack(services)
    db = services.get("db")
    assert answer(port) == db.pid
    assert port != db.active_port
    edge = services.status("api").dependencies[0]
    assert (edge.tunnel_host, edge.tunnel_port) == ("127.0.0.1", port)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        other = sock.getsockname()[1]
    services.update("db", port=other)
    services.restart("db", wait=True)
    assert services.get("db").active_port == other
    assert answer(port) == services.get("db").pid


def test_tunnel_ends_with_its_dependent_and_keeps_its_port_for_the_next_run(services: Services) -> None:
    port = start_stack(services)
    assert len(tunnel_pids(services)) == 1
    services.stop("api")
    assert tunnel_pids(services) == []
    edge = services.status("api").dependencies[0]
    assert edge.tunnel_port is None
    services.start("api")
    assert address(services) == port
    services.stop("api")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        services.start("api")
        assert address(services) != port
        assert answer(address(services)) == services.get("db").pid


def test_tunnel_outlives_the_daemon_and_is_adopted(services: Services) -> None:
    port = start_stack(services)
    before = tunnel_pids(services)
    services.daemon.kill()
    assert answer(port) > 0
    services.begin_anew()
    services.restart("db", wait=True)
    assert answer(port) == services.get("db").pid
    assert tunnel_pids(services) == before
    services.stop("api")
    assert tunnel_pids(services) == []


def test_killed_tunnel_is_restarted_on_its_port(services: Services) -> None:
    port = start_stack(services)
    (pid,) = tunnel_pids(services)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: tunnel_pids(services) not in ([], [pid]), "another tunnel")

    def reachable() -> bool:
        try:
            return answer(port) == services.get("db").pid
        except OSError:
            return False

    wait_until(reachable, "the address")


def test_tunnel_killed_while_no_daemon_ran_is_restarted(services: Services) -> None:
    port = start_stack(services)
    (pid,) = tunnel_pids(services)
    services.daemon.kill()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not exists(pid), "its end")
    services.begin_anew()
    wait_until(lambda: tunnel_pids(services), "another tunnel")
    assert services.get("api").state is ServiceState.RUNNING
    wait_until(lambda: port_open(port), "the address")
    assert answer(port) == services.get("db").pid


def port_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 60).close()
    except OSError:
        return False
    return True


def test_tunnel_to_a_dependency_without_a_port_fails_the_start(services: Services) -> None:
    services.add("db")
    services.add("api")
    services.depend("api", "db", tunnel_enabled=True)
    error = services.start_error("api")
    assert '"db" has no port' in error.message
    assert "update db --port" in str(error.hint)
    assert services.get("api").state is ServiceState.FAILED


def test_removed_dependency_or_dependent_leaves_no_tunnel_process_or_file(services: Services) -> None:
    start_stack(services)
    services.add("web")
    services.depend("web", "db", tunnel_enabled=True)
    services.start("web")
    assert len(tunnel_pids(services)) == 2

    services.client.call(RemoveDependency(service="web", dependency="db"))
    wait_until(lambda: len(tunnel_pids(services)) == 1, "the end of one tunnel")
    services.remove("api", stop=True)
    assert tunnel_pids(services) == []
    wait_until(lambda: not list((services.daemon.state / "processes").glob("tunnel-*")), "the end of their files")
    assert list((services.daemon.state / "tunnels").iterdir()) == []
