"""What follows from the record of a service that an earlier daemon supervised, and from what is found of its run."""

from __future__ import annotations

from typing import NamedTuple

from nexus.journal.operation import Operation
from nexus.runtime import Exit, Orphans, Process
from nexus.runtime.status import now_ms
from nexus.services.reasons import HOST_RESTARTED, stored_reason
from nexus.services.states import RestartPolicy, ServiceReason, ServiceState, ServiceType
from nexus.services.store import StoredService
from nexus.supervision.exits import lost
from nexus.supervision.requests import Reason, RestartRequest, StartOptions, StopRequest
from nexus.supervision.supervisor import ORPHANS_ENDED

__all__ = ["Resumption", "plan_resumption"]


class Resumption(NamedTuple):
    """How a supervision goes on."""

    exit: Exit | None = None
    """How the run ended; None while it runs, or where there was none."""
    came_up: bool = False
    """Whether the run outlived its start window."""
    is_written: bool = False
    """Whether the record has the exit already, as a part of the operation that led to its present state."""
    stop: StopRequest | None = None
    restart: RestartRequest | None = None


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
