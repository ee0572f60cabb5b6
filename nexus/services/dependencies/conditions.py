"""What a dependency must have reached before its dependent starts, and when it counts as lost: pure rules."""

from __future__ import annotations

from nexus.services.states import DependencyCondition, ServiceHealth, ServiceState, ServiceType
from nexus.services.store import StoredService
from nexus.supervision.boot import Boot

__all__ = ["completed", "is_lost", "is_met"]


def completed(stored: StoredService, boot: Boot) -> bool:
    """Whether the last run did its work: exit code 0 in this boot of the machine, and no stop on demand."""
    service = stored.service
    return (
        stored.wanted and service.state is ServiceState.STOPPED and service.exit_code == 0 and _ended_in(stored, boot)
    )


def _ended_in(stored: StoredService, boot: Boot) -> bool:
    """Whether the last run ended in this boot; of an older record only the wall clock tells."""
    if stored.ended_in_boot is not None:
        return stored.ended_in_boot == boot.id
    return stored.service.stopped_at is not None and stored.service.stopped_at >= boot.at


def is_met(condition: DependencyCondition, stored: StoredService, boot: Boot) -> bool:
    """Whether a dependency has reached what its dependent waits for."""
    dependency = stored.service
    if condition is DependencyCondition.COMPLETED:
        return completed(stored, boot)
    if condition is DependencyCondition.HEALTHY:
        return dependency.state is ServiceState.RUNNING and dependency.health is ServiceHealth.HEALTHY
    if dependency.type is ServiceType.ONESHOT and completed(stored, boot):
        return True
    return dependency.state is ServiceState.RUNNING


def is_lost(condition: DependencyCondition, stored: StoredService, boot: Boot) -> bool:
    """Whether a dependency that was there is lost. A health check without a result is no loss."""
    dependency = stored.service
    if condition is DependencyCondition.COMPLETED:
        return False
    if dependency.type is ServiceType.ONESHOT and completed(stored, boot):
        return False
    if dependency.state is not ServiceState.RUNNING:
        return True
    return condition is DependencyCondition.HEALTHY and dependency.health is ServiceHealth.UNHEALTHY
