"""Ports: leased, declared, refused when another process has them, and free after a stop."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from support.live_services import Services, listen
from support.raw import wait_until

from nexus.services.commands import StartService
from nexus.services.errors import ServicePortTaken
from nexus.services.states import ServiceState


def answer(port: int | None) -> int:
    """The pid that answers on a port."""
    with socket.create_connection(("127.0.0.1", port or 0), 60) as sock:
        return int(sock.recv(100))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_leased_ports_are_unique_and_passed_as_port(services: Services) -> None:
    names = [f"s{number}" for number in range(6)]
    for name in names:
        services.add(name, listen(), port=0, health_tcp=0, health_retries=1000)
    sequences = services.client.begin_many([StartService(service=name, wait=True) for name in names])
    found = [services.client.result(sequence)["service"] for sequence in sequences]
    ports = {service["active_port"] for service in found}
    assert len(ports) == 6
    for service in found:
        assert answer(service["active_port"]) == service["pid"]
    assert services.stop("s0").service.active_port is None


def test_leased_port_is_kept_across_a_restart_by_the_policy(services: Services) -> None:
    services.add("web", listen(), port=0, health_tcp=0, health_retries=1000, restart="always", restart_backoff_ms=10)
    service = services.start("web", wait=True).service
    assert service.pid is not None
    os.kill(service.pid, 9)
    services.wait("web", restarts=1, state=ServiceState.RUNNING)
    assert services.start("web", wait=True).service.active_port == service.active_port


def test_declared_port_in_use_fails_the_start_and_names_the_process(services: Services) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        services.add("web", listen(), port=port)
        error = services.start_error("web")
        assert isinstance(error, ServicePortTaken)
        assert (error.details["port"], error.details["pid"]) == (port, os.getpid())
        assert f"(pid {os.getpid()})" in error.message
        service = services.get("web")
        assert (service.state, service.active_port) == (ServiceState.FAILED, None)
        assert f"port {port} is in use by" in str(service.reason)
    assert services.start("web").service.active_port == port


def test_port_of_another_service_fails_the_start_and_names_that_service(services: Services) -> None:
    port = free_port()
    services.add("first", ["sh", "-c", 'exec "$@"', "sh", *listen()], port=port, health_tcp=0, health_retries=1000)
    services.add("second", listen(), port=port)
    services.add("quiet", port=free_port())
    services.start("first", wait=True)
    error = services.start_error("second")
    assert isinstance(error, ServicePortTaken)
    assert error.details["holder"] == "first"
    assert 'service "first"' in error.message
    services.stop("first")
    services.start("second")
    services.stop("second")
    services.start("quiet")
    services.update("second", port=services.get("quiet").port)
    error = services.start_error("second")
    assert error.details["holder"] == "quiet"


def test_port_of_a_stopped_service_is_free_at_once(services: Services) -> None:
    services.add("web", listen(), port=free_port(), health_tcp=0, health_retries=1000)
    for _ in range(3):
        service = services.start("web", wait=True).service
        assert answer(service.active_port) == service.pid
        services.stop("web")
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", service.active_port or 0))
            sock.listen()


def test_stop_reason_names_the_holder_of_a_port_still_in_use(services: Services, tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        services.add("web", port=port)
        services.start("web")
        holder.listen()
        reason = str(services.stop("web").service.reason)
        assert reason.startswith(f"stopped on demand; port {port} is in use by")
    wait_until(lambda: services.get("web").state is ServiceState.STOPPED, "state stopped")
