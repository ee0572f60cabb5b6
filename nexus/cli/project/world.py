"""The observed state: the daemon's services, variables, dependencies and VM records, and which project owns them.

A project owns the objects that were created from its file. The daemon's settings keep their ids: ``apply.PROJECT`` and,
if one setting is too small, ``apply.PROJECT.1`` and so on. Each is a list of ``s:ID`` (a service), ``v:ID`` (a VM
record) and ``r:ID:MS`` (a service that was changed at that time and needs a restart). An id is written before its
object is created, so that an interrupted run never leaves an object without an owner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from nexus_protocol.errors import NexusError

from nexus.cli.project.keys import Edge, service_defaults, vm_defaults
from nexus.services.cli.dependencies import all_dependencies
from nexus.services.cli.status import all_services
from nexus.services.commands import GetConfig
from nexus.system.commands import DeleteSetting, ListSettings, SetSetting
from nexus.vms.commands import ListVms

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["Ownership", "Observed", "observe", "service_fields", "vm_fields", "write_ownership"]

_PREFIX = "apply."
_ENTRIES_PER_SETTING = 200
"""A setting holds 16 KiB; an entry has at most 54 bytes."""


class Ownership(NamedTuple):
    """The objects that were created from one project's file, by id."""

    services: frozenset[str] = frozenset()
    vms: frozenset[str] = frozenset()
    restarts: tuple[tuple[str, int], ...] = ()
    """Services that were changed and not restarted since, each with the time of the change in ms since 1970."""

    def entries(self) -> list[str]:
        """The entries that the settings keep."""
        return [
            *(f"s:{one}" for one in sorted(self.services)),
            *(f"v:{one}" for one in sorted(self.vms)),
            *(f"r:{one}:{at}" for one, at in sorted(self.restarts)),
        ]


class Observed(NamedTuple):
    """The daemon's records that a plan is computed from."""

    services: Mapping[str, dict[str, Any]] = {}
    """By name."""
    environments: Mapping[str, dict[str, str]] = {}
    """The variables of services, by service name."""
    edges: Mapping[str, Mapping[str, Edge]] = {}
    """By the name of the dependent, then by the name of its dependency."""
    vms: Mapping[str, dict[str, Any]] = {}
    ownership: Mapping[str, Ownership] = {}
    """By project."""


def observe(app: App, environments_of: Sequence[str] | None = None) -> Observed:
    """Read the records from the daemon; variables only of the services in ``environments_of``, by default of all."""
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
    return Observed(services, environments, edges, {vm["name"]: vm for vm in _all_vms(app)}, _read_ownership(app))


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


def _read_ownership(app: App) -> dict[str, Ownership]:
    kept: dict[str, list[str]] = {}
    for key, entries in _settings(app).items():
        project = key.removeprefix(_PREFIX).partition(".")[0]
        kept.setdefault(project, []).extend(one for one in entries if isinstance(one, str))
    return {project: _parse_entries(entries) for project, entries in kept.items()}


def _parse_entries(entries: Sequence[str]) -> Ownership:
    parts = [entry.split(":") for entry in entries]
    return Ownership(
        frozenset(part[1] for part in parts if part[0] == "s" and len(part) == 2),
        frozenset(part[1] for part in parts if part[0] == "v" and len(part) == 2),
        tuple((part[1], int(part[2])) for part in parts if part[0] == "r" and len(part) == 3 and part[2].isdecimal()),
    )


def _settings(app: App) -> dict[str, list[Any]]:
    """The settings that keep the ownership of projects, by key."""
    found: dict[str, list[Any]] = {}
    cursor: str | None = None
    while True:
        page = app.call_raw(ListSettings(cursor))
        for setting in page["settings"]:
            if setting["key"].startswith(_PREFIX) and isinstance(setting.get("value"), list):
                found[setting["key"]] = setting["value"]
        cursor = page.get("next_cursor")
        if cursor is None:
            return found


def write_ownership(app: App, project: str, ownership: Ownership) -> None:
    """Write a project's ownership to the daemon's settings."""
    entries = ownership.entries()
    wanted = {
        _PREFIX + project + (f".{index}" if index else ""): entries[index * _ENTRIES_PER_SETTING :][
            :_ENTRIES_PER_SETTING
        ]
        for index in range(-(-len(entries) // _ENTRIES_PER_SETTING))
    }
    kept = {key: value for key, value in _settings(app).items() if key.split(".")[1] == project}
    for key, value in wanted.items():
        if kept.get(key) != value:
            app.call_raw(SetSetting(key, value))
    for key in kept.keys() - wanted.keys():
        app.call_raw(DeleteSetting(key))
