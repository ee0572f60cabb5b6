"""The observed state of a project: its services, variables, dependencies and VM records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from nexus_protocol.command import Command
from nexus_protocol.errors import NexusError, NotFound

from nexus.cli.project.keys import Edge, service_defaults, vm_defaults
from nexus.services.cli.dependencies import all_dependencies
from nexus.services.cli.status import all_services
from nexus.services.commands import GetConfig, GetServiceStatus
from nexus.vms.commands import GetVm, ListVms

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["Observed", "observe", "service_fields", "shared_records", "vm_fields"]


class Observed(NamedTuple):
    """The daemon's records that a plan is computed from."""

    services: Mapping[str, dict[str, Any]] = {}
    """By name."""
    environments: Mapping[str, dict[str, str]] = {}
    """The variables of services, by service name."""
    edges: Mapping[str, Mapping[str, Edge]] = {}
    """By the name of the dependent, then by the name of its dependency."""
    vms: Mapping[str, dict[str, Any]] = {}


def observe(app: App, environments_of: Sequence[str] | None = None) -> Observed:
    """Read the records of the project of this run; variables only of the services in ``environments_of``, by default
    of all."""
    services = {service["name"]: service for service in all_services(app)}
    edges: dict[str, dict[str, Edge]] = {}
    for edge in all_dependencies(app):
        edges.setdefault(edge["service"], {})[edge["dependency"]] = Edge(
            edge["condition"], bool(edge.get("tunnel_enabled")), edge["when_lost"]
        )
    wanted = [
        name
        for name, service in services.items()
        if service.get("environment_names") and (environments_of is None or name in environments_of)
    ]
    environments: dict[str, dict[str, str]] = {}
    for index, config in app.connect().calls([GetConfig(services[name]["id"], reveal=True) for name in wanted]):
        if isinstance(config, NexusError):
            raise config
        environments[wanted[index]] = {one["name"]: one.get("value", "") for one in config.get("variables", ())}
    return Observed(services, environments, edges, {vm["name"]: vm for vm in _all_vms(app)})


def _all_vms(app: App) -> list[dict[str, Any]]:
    page = app.call_raw(ListVms(limit=10_000))
    vms: list[dict[str, Any]] = page["vms"]
    while cursor := page.get("next_cursor"):
        page = app.call_raw(ListVms(limit=10_000, cursor=cursor))
        vms += page["vms"]
    return vms


def service_fields(service: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """The fields of ``AddService`` that would create the same service."""
    fields = {name: service.get(name, default) for name, default in service_defaults().items()}
    return fields | {"environment": dict(environment) or None, "tags": sorted(set(fields["tags"] or ())) or None}


def vm_fields(vm: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``CreateVm`` that would create the same VM record."""
    return {name: vm.get(name, default) for name, default in vm_defaults().items()}


def shared_records(app: App, shared: Sequence[str], project: str) -> list[tuple[str, dict[str, Any]]]:
    """Those of the records ``s:ID`` and ``v:ID`` that are in the project of this name, each with its kind."""
    known = [one.partition(":")[::2] for one in shared if one.startswith(("s:", "v:")) and len(one) > 2]
    commands: list[Command[Any]] = [GetServiceStatus(id) if kind == "s" else GetVm(id) for kind, id in known]
    found: dict[int, tuple[str, dict[str, Any]]] = {}
    for index, reply in app.connect().calls(commands, timeout_s=app.timeout_s):
        if isinstance(reply, NotFound):
            continue
        if isinstance(reply, NexusError):
            raise reply
        kind, record = ("service", reply["service"]) if known[index][0] == "s" else ("vm", reply)
        if record["project"] == project:
            found[index] = kind, record
    return [found[index] for index in sorted(found)]
