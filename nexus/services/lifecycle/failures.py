"""The errors of starts, with the last lines that a run wrote; and whether a running service is ready."""

from __future__ import annotations

import contextlib
from typing import Any

from nexus_protocol import NexusError

from nexus.hints import command_line
from nexus.records.scope import reference_of
from nexus.runtime import Exit
from nexus.services.errors import ServiceStartFailed, ServiceStopped
from nexus.services.health.declared import has_health_check
from nexus.services.lifecycle.context import ServiceContext
from nexus.services.records import Service
from nexus.services.states import ServiceHealth, ServiceReason, ServiceState, ServiceType
from nexus.supervision.exits import accepts_exit, exit_detail

__all__ = ["early_exit_hint", "is_ready", "policy_ended", "start_failed", "stopped_meanwhile"]

_LOG_LINES = 20
_LOG_LINE_BYTES = 500


def is_ready(service: Service) -> bool:
    """Whether a running service is what a start with ``wait`` waits for."""
    if service.type is ServiceType.ONESHOT:
        return False
    return service.health is ServiceHealth.HEALTHY or not has_health_check(service)


def start_failed(
    context: ServiceContext, sentence: str, reason: str, exit_: Exit | None, hint: str | None = None
) -> ServiceStartFailed:
    """The error of a failed start; with ``exit_`` it has the last lines of the run."""
    name = context.state.name
    details: dict[str, Any] = {"id": context.id, "name": name, "reason": reason}
    if exit_ is not None:
        lines: list[bytes] = []
        with contextlib.suppress(OSError):  # without descriptors the error is told without its output
            lines = context.manager.runtime.log(context.owner).tail(_LOG_LINES, from_run=context.run_id)
        details |= exit_detail(exit_)
        details["log"] = [line[:_LOG_LINE_BYTES].decode(errors="replace") for line in lines]
    return ServiceStartFailed(
        f'cannot start service "{name}": {sentence}',
        hint=hint or f"Look at its output: {command_line('nexusctl', 'service', 'logs', context.state.reference)}",
        details=details,
    )


def early_exit_hint(service: Service, exit_: Exit) -> str | None:
    """The hint for a service that ended at once with exit code 0: mostly it became a daemon, or is a oneshot."""
    if not accepts_exit(exit_) or service.type is ServiceType.ONESHOT:
        return None
    return (
        "It has to stay in the foreground, without becoming a daemon; one that does its work and ends: "
        f"{command_line('nexusctl', 'service', 'update', reference_of(service), '--type', 'oneshot')}\n"
        f"Look at its output: {command_line('nexusctl', 'service', 'logs', reference_of(service))}"
    )


def policy_ended(error: NexusError, why: str) -> NexusError:
    """An error of an attempt as the error of the whole start: nothing tries again, and why."""
    reason = f"{error.details.get('reason') or error.message}; {why}"
    return type(error)(f"{error.message}; {why}", hint=error.hint, details=error.details | {"reason": reason})


def stopped_meanwhile(context: ServiceContext) -> ServiceStopped:
    """The error of a start whose service another client, or the loss of a dependency, has stopped."""
    name, service = context.state.name, context.state.record
    why = ""
    if service is not None and service.state is ServiceState.STOPPED and service.reason is not None:
        why = "" if service.reason_code is ServiceReason.REQUESTED else f": {service.reason}"
    return ServiceStopped(
        f'cannot start service "{name}": it was stopped meanwhile{why}',
        hint=f"Start it again: {command_line('nexusctl', 'service', 'start', context.state.reference)}",
        details={"id": context.id, "name": name},
    )
