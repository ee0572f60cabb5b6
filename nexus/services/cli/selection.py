"""How services are selected on the command line, and what they need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nexus.cli.selection import Selection
from nexus.services.cli.status import SERVICE, all_services
from nexus.services.commands import GetServiceStatus
from nexus.services.records import Service, ServiceStatus

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["SERVICES"]


def _needs(app: App, project: str) -> dict[str, list[str]]:
    from nexus.services.cli.dependencies import all_dependencies  # only where several are named

    needs: dict[str, list[str]] = {}
    for edge in all_dependencies(app, project=project).records:
        needs.setdefault(edge.service_id, []).append(edge.dependency_id)
    return needs


SERVICES: Selection[Service, ServiceStatus] = Selection(
    SERVICE,
    "service",
    list_all=lambda app, tag: all_services(app, tag=tag).records,
    get=GetServiceStatus,
    record=lambda status: status.service,
    needs=_needs,
)
