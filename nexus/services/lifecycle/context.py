"""What the parts of one service's lifecycle share. They are given this one object, and not each other."""

from __future__ import annotations

import asyncio
from typing import Protocol

from nexus.capability import ManagerContext
from nexus.services.dependencies.tracker import DependencyTracker, Peer
from nexus.services.dependencies.tunnels import Tunnels
from nexus.services.lifecycle.state_writer import ServiceWriter
from nexus.services.store import StoredService
from nexus.supervision.supervised import Supervised

__all__ = ["SERVICE_OWNER", "ServiceContext", "Services", "owner_of_service"]

SERVICE_OWNER = "service-"


def owner_of_service(service_id: str) -> str:
    """The owner of a service's runs and log in the process runtime."""
    return f"{SERVICE_OWNER}{service_id}"


class Services(Protocol):
    """What the lifecycle of one service needs of the manager of all."""

    tunnels: Tunnels
    launches: asyncio.Semaphore
    """Bounds how many services are between their admission and their process at the same time."""

    def handle(self, service_id: str) -> Peer:
        """The handle of another service."""

    def changed(self, service_id: str) -> None:
        """Tell dependents and tunnels that the service's record was changed."""

    def service_of_pid(self, pid: int) -> str | None:
        """The service that a process belongs to, as hints name it. Blocks."""

    async def environment(
        self, stored: StoredService, run_id: str, port: int | None, tunnels: dict[str, int]
    ) -> dict[str, str]:
        """The whole environment of a run."""


class ServiceContext(Supervised):
    """The shared parts of one service, for as long as the daemon knows it."""

    manager: ManagerContext
    state: ServiceWriter

    def __init__(self, manager: ManagerContext, services: Services, service_id: str) -> None:
        self.id = service_id
        self.services = services
        self.tracker = DependencyTracker(manager, service_id, services.handle)
        owner = owner_of_service(service_id)
        writer = ServiceWriter(manager, service_id, owner)
        super().__init__(manager, "service", owner, writer, lambda: services.changed(service_id))
