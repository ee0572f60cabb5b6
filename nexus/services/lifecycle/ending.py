"""Whether a stop or restart of a running service is carried out: it is checked and written before anything ends."""

from __future__ import annotations

import logging
from typing import Any

from nexus_protocol import NexusError

from nexus.services.lifecycle.context import ServiceContext
from nexus.services.lifecycle.start import check_start
from nexus.services.reasons import reason_columns
from nexus.services.states import ServiceState
from nexus.supervision.requests import RestartRequest, StopRequest

__all__ = ["admit"]

_log = logging.getLogger("nexus.services")


async def admit(
    context: ServiceContext, request: StopRequest | RestartRequest, environment: dict[str, str]
) -> NexusError | None:
    """Check and write a request; gives the error if it is refused, and the run goes on.

    ``environment`` is that of the run that a restart begins. A restart on demand must be possible, and it and a strict
    stop must be durable. Another stop is admitted even if the store cannot be written, and the next write corrects the
    record. A restart that no client asked for waits until it can be written.
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
            return error
        _log.warning("service %s: %s", context.state.name, error.message)
    return None
