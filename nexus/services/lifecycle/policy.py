"""What follows from how a service ended: pure rules, in words and in numbers. They know no process and no store."""

from __future__ import annotations

import random
import signal
from typing import TYPE_CHECKING, Any, NamedTuple

from nexus.services.records import Service
from nexus.services.states import DependencyCondition, RestartPolicy, ServiceHealth, ServiceState, ServiceType

if TYPE_CHECKING:
    from nexus.runtime import Exit
    from nexus.services.store import StoredService

__all__ = [
    "Retry",
    "accepts_exit",
    "completed",
    "describe_exit",
    "ends_with_machine",
    "exit_columns",
    "has_health_check",
    "is_lost",
    "is_met",
    "plan_restart",
    "wants_restart",
]

_SHUT_DOWN_SIGNALS = (signal.SIGTERM, signal.SIGKILL, signal.SIGHUP)
_SHUT_DOWN_CODES = tuple(128 + number for number in _SHUT_DOWN_SIGNALS)
"""What programs make of those that catch them."""

_JITTER = 0.2
_REMEMBERED = 64
"""Restarts that are remembered beyond the limit, for how long the next wait is."""


def describe_exit(exit_: Exit) -> str:
    """``exited with 3``, ``killed by SIGSEGV (core dumped)``, or how it was lost."""
    if exit_.kind == "exit":
        return f"exited with {exit_.code}"
    if exit_.kind == "signal":
        try:
            name = signal.Signals(exit_.code).name
        except ValueError:
            name = f"signal {exit_.code}"
        beside = [word for word in ("core dumped" * exit_.core, exit_.reason) if word]
        return f"killed by {name}" + (f" ({', '.join(beside)})" if beside else "")
    return exit_.reason or "nobody knows how it ended"


def exit_columns(exit_: Exit) -> dict[str, Any]:
    """What a service's row keeps of an exit."""
    return {
        "exit_code": exit_.code if exit_.kind == "exit" else None,
        "exit_signal": exit_.code if exit_.kind == "signal" else None,
        "stopped_at": exit_.at,
    }


def accepts_exit(exit_: Exit) -> bool:
    """Whether a program that ends like this has done what it was to do."""
    return exit_.kind == "exit" and exit_.code == 0


def ends_with_machine(exit_: Exit) -> bool:
    """Whether a program may have ended like this because the machine went down."""
    if exit_.kind == "exit":
        return exit_.code in _SHUT_DOWN_CODES
    return exit_.kind == "lost" or exit_.code in _SHUT_DOWN_SIGNALS


def wants_restart(policy: RestartPolicy, *, failed: bool) -> bool:
    """Whether the policy starts a service again after an end that is a failure, or none."""
    return policy is RestartPolicy.ALWAYS or (policy is RestartPolicy.ON_FAILURE and failed)


class Retry(NamedTuple):
    """A restart to come, or (``at`` is None) the refusal of one more."""

    at: int | None
    """When, in ms since 1970."""
    times: list[int]
    """The restarts so far that still count."""
    recent: int
    """How many of them were within the window."""


def plan_restart(service: Service, times: list[int], ended_at: int, now: int, up_ms: int) -> Retry:
    """When a service that ended at ``ended_at``, after having been up for ``up_ms``, is started again.

    The wait doubles with each restart of the series, never ends earlier than the policy says, and is up to a fifth
    longer, so that services that died together do not come back together. A run longer than the window ends the series.
    """
    if up_ms > service.restart_window_ms:
        times = []
    times = times[-max(service.restart_limit, _REMEMBERED) :]
    # What lies ahead is of a clock that was set back since.
    recent = sum(1 for at in times if now - service.restart_window_ms < at <= now)
    if service.restart_limit and recent >= service.restart_limit:
        return Retry(None, times, recent)
    wait_ms = min(service.restart_backoff_ms << min(len(times), 32), service.restart_backoff_max_ms)
    return Retry(max(now, ended_at + int(wait_ms * (1 + random.random() * _JITTER)) + 1), times, recent)


def has_health_check(service: Service) -> bool:
    """Whether anything ever tells that it is healthy."""
    return service.health_exec is not None or service.health_tcp is not None or service.health_log is not None


def completed(stored: StoredService, boot_at: int) -> bool:
    """Whether its last run has done its work, in this boot of the machine, and nobody stopped it."""
    service = stored.service
    return (
        stored.wanted
        and service.state is ServiceState.STOPPED
        and service.exit_code == 0
        and service.stopped_at is not None
        and service.stopped_at >= boot_at
    )


def is_met(condition: DependencyCondition, stored: StoredService, boot_at: int) -> bool:
    """Whether a dependency has reached what its dependent waits for."""
    dependency = stored.service
    if condition is DependencyCondition.COMPLETED:
        return completed(stored, boot_at)
    if condition is DependencyCondition.HEALTHY:
        return dependency.state is ServiceState.RUNNING and dependency.health is ServiceHealth.HEALTHY
    if dependency.type is ServiceType.ONESHOT and completed(stored, boot_at):
        return True
    return dependency.state is ServiceState.RUNNING


def is_lost(condition: DependencyCondition, stored: StoredService, boot_at: int) -> bool:
    """Whether a dependency that was there is so no more. A health check that has no result yet is no loss."""
    dependency = stored.service
    if condition is DependencyCondition.COMPLETED:
        return False
    if dependency.type is ServiceType.ONESHOT and completed(stored, boot_at):
        return False
    if dependency.state is not ServiceState.RUNNING:
        return True
    return condition is DependencyCondition.HEALTHY and dependency.health is ServiceHealth.UNHEALTHY
