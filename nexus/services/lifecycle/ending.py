"""What is written before a run is ended, or what it left behind: a request that is refused ends nothing."""

from __future__ import annotations

import logging
from typing import Any

from nexus_protocol import NexusError

from nexus.services.lifecycle.context import ServiceContext
from nexus.services.lifecycle.start import check_start
from nexus.services.reasons import FILES_DELETED, exit_reason, reason_columns
from nexus.services.states import ServiceState
from nexus.supervision.driver import RunEnded
from nexus.supervision.requests import Reason, Request, RestartRequest, StopRequest

__all__ = ["admit", "write_leftovers", "write_orphans"]

_log = logging.getLogger("nexus.services")


async def admit(context: ServiceContext, request: Request, environment: dict[str, str]) -> None:
    """Check and write a request; if it is refused, the run goes on.

    ``environment`` is that of the run that a restart begins. A restart on demand must be possible, and it and a strict
    stop must be durable. Another stop is admitted even if the store cannot be written, and the next write corrects the
    record. A restart that no client asked for waits until it can be written.

    Raises:
        NexusError: it is refused.
    """
    columns: dict[str, Any] = {}
    on_demand = isinstance(request, RestartRequest) and request.options is not None
    try:
        if isinstance(request, StopRequest):
            columns = context.state.stop_columns(request)
        elif on_demand:
            await check_start(context, environment)
            columns = {"start_environment": environment}
        await context.state.write(
            ServiceState.STOPPING,
            ("service.stopping", {"reason": request.reason.text}),
            operation=request.operation,
            insist=isinstance(request, RestartRequest) and not on_demand,
            **reason_columns(request.reason),
            **columns,
        )
    except NexusError as error:
        if not isinstance(request, StopRequest) or request.strict:
            raise
        _log.warning("service %s: %s", context.state.name, error.message)


async def write_leftovers(context: ServiceContext, end: RunEnded, exit_columns: dict[str, Any]) -> None:
    """Write that the main process has ended, and its descendants are being ended."""
    ended = exit_reason(end.exit)
    words = ended._replace(text=f"{ended.text}; what it left behind is being ended")
    await context.state.write(
        ServiceState.STOPPING,
        *_first_event(context, words),
        operation=end.operation,
        **reason_columns(words),
        **exit_columns,
    )


async def write_orphans(context: ServiceContext) -> None:
    """Write that a run whose files were deleted is being ended."""
    context.state.refresh()
    await context.state.write(
        ServiceState.STOPPING,
        *_first_event(context, FILES_DELETED),
        operation=context.state.cause("adopted"),
        insist=False,
        **reason_columns(FILES_DELETED),
    )


def _first_event(context: ServiceContext, reason: Reason) -> list[tuple[str, dict[str, Any]]]:
    """The event of the state stopping, unless the service is in it."""
    service = context.state.record
    is_stopping = service is not None and service.state is ServiceState.STOPPING
    return [] if is_stopping else [("service.stopping", {"reason": reason.text})]
