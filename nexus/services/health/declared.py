"""Whether a service's record declares a health check."""

from __future__ import annotations

from nexus.services.records import Service

__all__ = ["has_health_check"]


def has_health_check(service: Service) -> bool:
    """Whether any check ever tells that the service is healthy."""
    return service.health_exec is not None or service.health_tcp is not None or service.health_log is not None
