"""What a run leaves behind: descendants of an ended main process, and processes whose files were deleted."""

from __future__ import annotations

import logging
import signal
from typing import Any

from nexus.journal.operation import Operation
from nexus.runtime import Exit, Orphans
from nexus.services.lifecycle.context import ServiceContext
from nexus.services.lifecycle.resume import ORPHANS_ENDED
from nexus.services.reasons import FILES_DELETED, reason_columns
from nexus.services.states import ServiceState
from nexus.store import StoreError
from nexus.supervision.exits import lost
from nexus.supervision.requests import Reason

__all__ = ["end_orphans", "write_leftovers"]

_log = logging.getLogger("nexus.services")


async def end_orphans(context: ServiceContext, orphans: Orphans) -> Exit:
    """End a run whose files were deleted: neither its end nor its output could be recorded."""
    state = context.state
    _log.warning("service %s: %s", state.name, FILES_DELETED.text)
    service = state.read().service
    first = service.state is not ServiceState.STOPPING
    try:
        await state.write(
            ServiceState.STOPPING,
            *([("service.stopping", {"reason": FILES_DELETED.text})] if first else []),
            operation=state.cause("adopted"),
            insist=False,
            **reason_columns(FILES_DELETED),
        )
    except StoreError as error:
        _log.warning("service %s: %s", state.name, error.message)
    number = signal.Signals[service.stop_signal.value]
    await context.manager.runtime.end_orphans(orphans, number, service.stop_grace_ms)
    return lost(ORPHANS_ENDED)


async def write_leftovers(
    context: ServiceContext, operation: Operation, ended: Reason, exit_columns: dict[str, Any]
) -> None:
    """Write that the main process has ended, which began ``operation``, and its descendants are being ended."""
    words = ended._replace(text=f"{ended.text}; what it left behind is being ended")
    service = context.state.service
    written = service is not None and service.state is ServiceState.STOPPING
    events = () if written else (("service.stopping", {"reason": words.text}),)
    await context.state.write(
        ServiceState.STOPPING, *events, operation=operation, **reason_columns(words), **exit_columns
    )
