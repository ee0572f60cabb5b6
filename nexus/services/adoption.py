"""The adoption of the services of an earlier daemon: their tunnels first, then their runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nexus.capability import ManagerContext
from nexus.journal.operation import Operation, resumed
from nexus.services import store
from nexus.services.dependencies.tunnels import Tunnels
from nexus.services.lifecycle.context import owner_of_service
from nexus.services.lifecycle.handle import ServiceHandle
from nexus.services.store import StoredService
from nexus.supervision.adoption import Found, RecordedRun, find_runs, wait_until_handled

__all__ = ["adopt_services"]

_log = logging.getLogger("nexus.services")


async def adopt_services(
    manager: ManagerContext, tunnels: Tunnels, rows: list[StoredService], handle: Callable[[str], ServiceHandle]
) -> None:
    """Adopt the tunnels and runs of ``rows``; returns when their ends are written, or after five seconds."""
    # Tunnels first: a supervision whose run has ended closes the tunnels of its service.
    await _adopt_tunnels(manager, tunnels, rows)
    up = [stored for stored in rows if stored.service.state in store.UP]
    found = await find_runs(
        manager.runtime, [RecordedRun(owner_of_service(stored.service.id), stored.run_id) for stored in up]
    )
    # Resume all before yielding: a dependent would otherwise see an unadopted service as stopped and start a second
    # copy.
    handled = [_resume(handle, stored, each, manager.boot.is_new) for stored, each in zip(up, found, strict=True)]
    await wait_until_handled(event for event in handled if event is not None)


async def _adopt_tunnels(manager: ManagerContext, tunnels: Tunnels, rows: list[StoredService]) -> None:
    def led(stored: StoredService) -> Operation:
        return manager.store.read(lambda reader: resumed(reader, manager.caller, stored.operation_id, "adopted"))

    borrowed = manager.store.read(lambda reader: manager.environments.borrowed(reader, "service"))
    for stored in rows:
        if stored.service.state in store.UP:
            tunnels.use(stored.service.id)
    adoptions = [
        tunnels.adopt(edge, stored.service.state in store.UP or stored.service.id in borrowed, led(stored))
        for stored in rows
        for edge in stored.dependencies
        if edge.tunnel_run_id is not None
    ]
    for outcome in await asyncio.gather(*adoptions, return_exceptions=True):
        if isinstance(outcome, Exception):
            _log.error("a tunnel was not adopted", exc_info=outcome)


def _resume(
    handle: Callable[[str], ServiceHandle], stored: StoredService, found: Found, rebooted: bool
) -> asyncio.Event | None:
    """Go on with one service; the event is set once what was found is handled."""
    try:
        return handle(stored.service.id).resume(stored, found, rebooted=rebooted)
    except Exception:
        _log.exception("service %s was not adopted", stored.service.name)
        return None
