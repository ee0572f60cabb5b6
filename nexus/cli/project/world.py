"""What the daemon has: its services with their variables, dependencies and VM records, and what was made from a file.

What was made from a file is remembered in the daemon's settings, ``apply.PROJECT`` and, where one is not enough,
``apply.PROJECT.1`` and so on: lists of ``s:ID`` (a service), ``v:ID`` (a VM record) and ``r:ID:MS`` (a service that was
changed at that time and has to be started anew). It is written before what it speaks of is made.
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

__all__ = ["Ledger", "World", "look", "service_fields", "vm_fields", "write_ledger"]

_PREFIX = "apply."
_IN_ONE_SETTING = 200
"""A setting has 16 KiB, an entry 54 bytes at most."""


class Ledger(NamedTuple):
    """What was made from one project's file, by id."""

    services: frozenset[str] = frozenset()
    vms: frozenset[str] = frozenset()
    restarts: tuple[tuple[str, int], ...] = ()
    """Services that run as they were before they were changed, and when that was, in ms since 1970."""

    def entries(self) -> list[str]:
        """As it is kept."""
        return [
            *(f"s:{one}" for one in sorted(self.services)),
            *(f"v:{one}" for one in sorted(self.vms)),
            *(f"r:{one}:{at}" for one, at in sorted(self.restarts)),
        ]


class World(NamedTuple):
    """Everything that a plan is made from, as the daemon's records have it."""

    services: Mapping[str, dict[str, Any]] = {}
    """By name."""
    environments: Mapping[str, dict[str, str]] = {}
    """The variables of services, by name."""
    edges: Mapping[str, Mapping[str, Edge]] = {}
    """By the dependent's name, and the name of what it depends on."""
    vms: Mapping[str, dict[str, Any]] = {}
    ledgers: Mapping[str, Ledger] = {}
    """By project."""


def look(app: App, environments_of: Sequence[str] | None = None) -> World:
    """Ask the daemon for all of it; for variables only of the services that are named, or of all."""
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
    for place, config in app.connect().calls([GetConfig(services[name]["id"], reveal=True) for name in wanted]):
        if isinstance(config, NexusError):
            raise config
        environments[wanted[place]] = {one["name"]: one.get("value", "") for one in config.get("variables", ())}
    return World(services, environments, edges, {vm["name"]: vm for vm in _all_vms(app)}, _ledgers(app))


def _all_vms(app: App) -> list[dict[str, Any]]:
    page = app.call_raw(ListVms(limit=10_000))
    vms: list[dict[str, Any]] = page["vms"]
    while cursor := page.get("next_cursor"):
        page = app.call_raw(ListVms(limit=10_000, cursor=cursor))
        vms += page["vms"]
    return vms


def service_fields(service: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """What a service is told to be, by the fields of ``AddService``."""
    fields = {name: service.get(name, default) for name, default in service_defaults().items()}
    return fields | {"environment": dict(environment) or None, "tags": sorted(set(fields["tags"] or ())) or None}


def vm_fields(vm: Mapping[str, Any]) -> dict[str, Any]:
    """What a VM record says, by the fields of ``CreateVm``."""
    return {name: vm.get(name, default) for name, default in vm_defaults().items()}


def _ledgers(app: App) -> dict[str, Ledger]:
    kept: dict[str, list[str]] = {}
    for key, entries in _settings(app).items():
        project = key.removeprefix(_PREFIX).partition(".")[0]
        kept.setdefault(project, []).extend(one for one in entries if isinstance(one, str))
    return {project: _ledger(entries) for project, entries in kept.items()}


def _ledger(entries: Sequence[str]) -> Ledger:
    parts = [entry.split(":") for entry in entries]
    return Ledger(
        frozenset(part[1] for part in parts if part[0] == "s" and len(part) == 2),
        frozenset(part[1] for part in parts if part[0] == "v" and len(part) == 2),
        tuple((part[1], int(part[2])) for part in parts if part[0] == "r" and len(part) == 3 and part[2].isdecimal()),
    )


def _settings(app: App) -> dict[str, list[Any]]:
    """The settings that hold what was made, by key."""
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


def write_ledger(app: App, project: str, ledger: Ledger) -> None:
    """Remember what was made from a project's file."""
    entries = ledger.entries()
    wanted = {
        _PREFIX + project + (f".{index}" if index else ""): entries[index * _IN_ONE_SETTING :][:_IN_ONE_SETTING]
        for index in range(-(-len(entries) // _IN_ONE_SETTING))
    }
    kept = {key: value for key, value in _settings(app).items() if key.split(".")[1] == project}
    for key, value in wanted.items():
        if kept.get(key) != value:
            app.call_raw(SetSetting(key, value))
    for key in kept.keys() - wanted.keys():
        app.call_raw(DeleteSetting(key))
