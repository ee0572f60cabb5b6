"""How a daemon resumes the service of an earlier one: what is found of its run, and what follows from the record."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import NamedTuple

from nexus.journal.operation import Operation
from nexus.runtime import Exit, Orphans, Process
from nexus.runtime.status import now_ms
from nexus.services.lifecycle.context import ServiceContext
from nexus.services.reasons import HOST_RESTARTED, stored_reason
from nexus.services.states import RestartPolicy, ServiceReason, ServiceState, ServiceType
from nexus.services.store import StoredService
from nexus.store import StoreError
from nexus.supervision.exits import lost
from nexus.supervision.requests import Reason, RequestPending, RestartRequest, StartOptions, StopRequest
from nexus.tasks import cancel_and_wait

__all__ = ["ORPHANS_ENDED", "Found", "Resumption", "find_run", "plan_resumption"]

_log = logging.getLogger("nexus.services")

_LOOK_AGAIN_S = 1.0

ORPHANS_ENDED = "its files were deleted: what was left of it was ended"


Found = Process | Exit | Orphans | Exception | None
"""What the process runtime has of a run; an exception is why it cannot be looked at."""


class Resumption(NamedTuple):
    """How a lifecycle goes on."""

    exit: Exit | None = None
    """How the run ended; None while it runs, or where there was none."""
    came_up: bool = False
    """Whether the run outlived its start window."""
    is_written: bool = False
    """Whether the record has the exit already, as a part of the operation that led to its present state."""
    stop: StopRequest | None = None
    restart: RestartRequest | None = None


async def find_run(context: ServiceContext, error: Exception) -> Process | Exit | Orphans | None:
    """Look for the run that the record knows until that is possible; ``error`` is why it was not.

    Meanwhile the record says since when the run is unknown; the caller unsets that. It is not taken for ended, and none
    is started. A stop that is requested reaches its shim at once, also while a look waits for a lock.
    """
    run_id = context.run_id
    assert run_id is not None
    _log.error("service %s: cannot look at its run, trying again: %s", context.state.name, error)
    await _write_unknown(context, context.state.read().service.unknown_since or now_ms())
    told = asyncio.Event()
    telling = asyncio.create_task(_stop_when_requested(context, run_id, told))
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN_S):
                    await told.wait()
            told.clear()
            try:
                found = await context.manager.runtime.adopt(context.owner, run_id)
                orphans = (
                    {} if found is not None else await context.manager.runtime.find_orphans({run_id: context.owner})
                )
            except Exception as again:
                if str(again) != str(error):
                    _log.error("service %s: cannot look at its run: %s", context.state.name, again)
                error = again
                continue
            _log.warning("service %s: its run can be looked at again", context.state.name)
            return orphans.get(run_id) if found is None else found
    finally:
        await cancel_and_wait(telling)


async def _stop_when_requested(context: ServiceContext, run_id: str, told: asyncio.Event) -> None:
    """Tell the shim of a run to stop it while that is requested, every second; sets ``told`` each time."""
    requests = context.requests
    while True:
        if requests.stop is not None:
            with contextlib.suppress(OSError):
                await context.manager.runtime.stop_unreadable(context.owner, run_id)
            told.set()
        elif requests.restart is None:
            with contextlib.suppress(RequestPending):
                await requests.wait()
            continue
        await asyncio.sleep(_LOOK_AGAIN_S)


async def _write_unknown(context: ServiceContext, since: int) -> None:
    service = context.state.read().service
    try:
        await context.state.write(
            service.state, operation=context.state.cause("adopted"), insist=False, unknown_since=since
        )
    except StoreError as error:
        _log.warning("service %s: %s", context.state.name, error.message)


def plan_resumption(
    stored: StoredService, found: Process | Exit | Orphans | None, operation: Operation, *, rebooted: bool
) -> Resumption:
    """Decide from the record and what the process runtime has of its run; ``operation`` led to its present state."""
    service = stored.service
    exit_ = found if isinstance(found, Exit) else None
    if found is None:
        if service.state is ServiceState.RUNNING:
            exit_ = lost("its process was not found")
        elif rebooted and service.restart is not RestartPolicy.ALWAYS:
            exit_ = lost(HOST_RESTARTED.text)
    came_up = service.state is not ServiceState.STARTING
    if exit_ is not None and not came_up:
        began_at = service.started_at or service.state_at
        came_up = service.type is ServiceType.ONESHOT or exit_.at - began_at > service.start_window_ms
    resumption = Resumption(exit_, came_up)
    if service.state is ServiceState.STOPPING:
        return _stopping(stored, found, operation, resumption)
    return resumption


def _stopping(
    stored: StoredService, found: Process | Exit | Orphans | None, operation: Operation, resumption: Resumption
) -> Resumption:
    """Go on with a stop, with the end of what a run left behind, or with a restart."""
    service = stored.service
    if service.reason_code is ServiceReason.FILES_DELETED:
        return resumption if isinstance(found, Orphans) else resumption._replace(exit=lost(ORPHANS_ENDED))
    if not stored.wanted:
        reason = stored_reason(service) or Reason(ServiceReason.REQUESTED, "stopped on demand")
        return resumption._replace(stop=StopRequest(operation, reason, on_demand=False))
    ended_at = service.stopped_at or now_ms()
    if service.exit_code is not None:
        return resumption._replace(exit=Exit("exit", service.exit_code, False, ended_at), is_written=True)
    if service.exit_signal is not None:
        return resumption._replace(exit=Exit("signal", service.exit_signal, False, ended_at), is_written=True)
    reason = stored_reason(service) or Reason(ServiceReason.REQUESTED, "restarted")
    # The loss of a dependency caused it: the next run waits for that one.
    options = None if service.lost_dependencies else StartOptions(operation)
    return resumption._replace(restart=RestartRequest(operation, reason, options=options))
