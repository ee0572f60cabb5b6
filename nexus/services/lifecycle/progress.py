"""How far a start has come, in words: for clients whose time limit has passed. Pure reads."""

from __future__ import annotations

from nexus.services import store
from nexus.services.dependencies.conditions import is_met
from nexus.services.lifecycle.failures import is_ready
from nexus.services.records import Service
from nexus.services.states import ServiceHealth, ServiceReason, ServiceState, ServiceType
from nexus.store import Reader
from nexus.supervision.boot import Boot

__all__ = ["describe_progress"]

_DEPTH = 8
"""Dependencies of dependencies that are named."""


def describe_progress(reader: Reader, service_id: str, boot: Boot) -> str:
    """What a service still lacks for a start; where that is a dependency, also what this one lacks.

    ``it is starting: waits for "db" to be healthy; "db" is unhealthy: no answer within 500 ms``.
    """
    stored = store.stored(reader, service_id)
    words = [f"it {_lack(stored.service)}"]
    while stored.service.reason_code is ServiceReason.WAITING and len(words) < _DEPTH:
        found = ((edge, store.stored(reader, edge.dependency_id)) for edge in stored.dependencies)
        missing = next((other for edge, other in found if not is_met(edge.condition, other, boot)), None)
        if missing is None:
            break
        stored = missing
        words.append(f'"{stored.service.name}" {_lack(stored.service)}')
    return "; ".join(words)


def _lack(service: Service) -> str:
    if service.state is ServiceState.RUNNING:
        if service.type is ServiceType.ONESHOT:
            return "has not completed"
        if service.health is ServiceHealth.UNHEALTHY:
            return f"is unhealthy: {service.health_message}" if service.health_message else "is unhealthy"
        return "is running" if is_ready(service) else "is not healthy yet"
    return f"is {service.state}: {service.reason}" if service.reason else f"is {service.state}"
