"""Keeps every service's record and its processes the same: starts, watches, restarts, connects and stops them.

It knows the process room and the store; it knows no socket, and the wire only as records.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from nexus.services.commands import GetServiceStdout, RemoveService, RestartService, StartService, StopService
from nexus.services.records import LogPiece, Service, ServicesStopped, ServiceStarted, ServiceStatus

if TYPE_CHECKING:
    from nexus.handling import Origin, World

__all__ = ["ServiceManager", "make_manager"]


class ServiceManager:
    """The services of one daemon."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def start(self) -> None:
        """Take back what runs, see to what ended meanwhile, and start what is to be started with the daemon."""

    async def close(self) -> None:
        """Let go of every process without touching it."""

    def children(self) -> int:
        """How many processes it holds."""
        return 0

    async def start_service(self, origin: Origin, command: StartService) -> ServiceStarted:
        raise NotImplementedError

    async def stop_service(self, origin: Origin, command: StopService) -> ServicesStopped:
        raise NotImplementedError

    async def restart_service(self, origin: Origin, command: RestartService) -> ServiceStarted:
        raise NotImplementedError

    async def remove_service(self, origin: Origin, command: RemoveService) -> Service:
        raise NotImplementedError

    async def status(self, service_id: str) -> ServiceStatus:
        raise NotImplementedError

    def updated(self, service_id: str) -> None:
        """A record was changed: what holds at once is taken over."""

    def output(self, service_id: str, command: GetServiceStdout) -> AsyncIterator[LogPiece]:
        raise NotImplementedError


def make_manager(world: World) -> ServiceManager:
    """The manager of this capability."""
    return ServiceManager(world)
