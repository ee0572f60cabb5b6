"""The adoption of an earlier daemon's runs: running processes are adopted, exits are read, orphans are ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from nexus.capability import ManagerContext
from nexus.journal.operation import Operation, resumed
from nexus.runtime import Exit, Process
from nexus.services import store
from nexus.services.dependencies.tunnels import Tunnels
from nexus.services.lifecycle.context import owner_of_service
from nexus.services.lifecycle.handle import ServiceHandle
from nexus.services.lifecycle.resume import Found
from nexus.services.store import StoredService

__all__ = ["adopt_services"]

_log = logging.getLogger("nexus.services")

_ADOPTED_AT_ONCE = 32
_SETTLE_S = 5.0
"""How long the daemon's start waits until the ends of runs are written."""


async def adopt_services(
    manager: ManagerContext, tunnels: Tunnels, rows: list[StoredService], handle: Callable[[str], ServiceHandle]
) -> None:
    """Adopt the tunnels and runs of ``rows``; returns when their ends are written, or after five seconds."""
    # Tunnels first: a lifecycle whose run has ended closes the tunnels of its service.
    await _adopt_tunnels(manager, tunnels, rows)
    up = [stored for stored in rows if stored.service.state in store.UP]
    found = await _find_runs(manager, up)
    # Resume all before yielding: a dependent would otherwise see an unadopted service as stopped and start a second
    # copy.
    handled = [_resume(handle, stored, each, manager.boot.is_new) for stored, each in zip(up, found, strict=True)]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SETTLE_S):
            for event in handled:
                if event is not None:
                    await event.wait()


async def _adopt_tunnels(manager: ManagerContext, tunnels: Tunnels, rows: list[StoredService]) -> None:
    def led(stored: StoredService) -> Operation:
        return manager.store.read(lambda reader: resumed(reader, manager.caller, stored.operation_id, "adopted"))

    adoptions = [
        tunnels.adopt(edge, stored.service.state in store.UP, led(stored))
        for stored in rows
        for edge in stored.dependencies
        if edge.tunnel_run_id is not None
    ]
    for outcome in await asyncio.gather(*adoptions, return_exceptions=True):
        if isinstance(outcome, Exception):
            _log.error("a tunnel was not adopted", exc_info=outcome)


async def _find_runs(manager: ManagerContext, rows: list[StoredService]) -> list[Found]:
    """What the process runtime has of each run, then the orphans of runs that it has no trace of."""
    gate = asyncio.Semaphore(_ADOPTED_AT_ONCE)

    async def adopt(stored: StoredService) -> Process | Exit | Exception | None:
        if stored.run_id is None:
            return None
        async with gate:
            try:
                return await manager.runtime.adopt(owner_of_service(stored.service.id), stored.run_id)
            except Exception as error:  # it must not keep the others from being adopted
                return error

    found = await asyncio.gather(*(adopt(stored) for stored in rows))
    lost = {
        stored.run_id: owner_of_service(stored.service.id)
        for stored, each in zip(rows, found, strict=True)
        if each is None and stored.run_id is not None
    }
    try:
        orphans = await manager.runtime.find_orphans(lost)
    except Exception as error:
        return [error if stored.run_id in lost else each for stored, each in zip(rows, found, strict=True)]
    return [
        orphans.get(stored.run_id or "") if each is None else each for stored, each in zip(rows, found, strict=True)
    ]


def _resume(
    handle: Callable[[str], ServiceHandle], stored: StoredService, found: Found, rebooted: bool
) -> asyncio.Event | None:
    """Go on with one service; the event is set once what was found is handled."""
    try:
        return handle(stored.service.id).resume(stored, found, rebooted=rebooted)
    except Exception:
        _log.exception("service %s was not adopted", stored.service.name)
        return None
