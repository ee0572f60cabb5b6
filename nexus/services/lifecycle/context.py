"""What the parts of a service's life know of the manager that keeps them all."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

    from nexus.capability import Caller, Hooks
    from nexus.runtime import Runtime
    from nexus.services.dependencies.tunnels import Tunnels
    from nexus.services.lifecycle.handle import Unit
    from nexus.services.store import StoredService
    from nexus.store import StateStore

__all__ = ["Keeper", "now_ms", "owner_of_service"]


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


def owner_of_service(service_id: str) -> str:
    """What the process room calls a service."""
    return f"service-{service_id}"


class Keeper(Protocol):
    """What a unit needs of the manager."""

    store: StateStore
    runtime: Runtime
    hooks: Hooks | None
    tunnels: Tunnels
    caller: Caller
    """Of what the daemon does by itself."""
    boot_id: str
    boot_at: int
    """When the machine was started, in ms."""
    launches: asyncio.Semaphore
    """How many may be on their way to a process at the same time."""

    def changed(self, service_id: str) -> None:
        """The service's row was changed."""

    def unit(self, service_id: str) -> Unit:
        """The unit of a service."""

    def service_of_pid(self, pid: int) -> str | None:
        """The name of the service that a process belongs to. Blocks."""

    async def environment(
        self, stored: StoredService, run_id: str, port: int | None, tunnels: dict[str, int]
    ) -> dict[str, str]:
        """Everything that a run has in its environment."""
