"""The section ``services`` of ``nexus.toml``: services, their variables, and whether they run.

Their dependencies are in ``manifest_edges``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from nexus_protocol.errors import NexusError

from nexus import graph
from nexus.cli.apply.keys import FLAG, InvalidValue, Keys, Kind
from nexus.cli.apply.reader import Reader
from nexus.cli.apply.sections import Fields, Planning, RecordSection
from nexus.cli.apply.steps import Phase, Record, Step
from nexus.hints import command_line
from nexus.services.cli.dependencies import all_dependencies
from nexus.services.cli.lifecycle import started_text
from nexus.services.cli.status import SERVICE, fields_at_start, is_checked, is_up, summary
from nexus.services.commands import (
    AddService,
    GetConfig,
    GetServiceStatus,
    ListServices,
    RemoveService,
    RestartService,
    StartService,
    UpdateService,
)
from nexus.services.errors import ServiceInvalid
from nexus.services.manifest_edges import Edge, Edges, edge_steps, needs_table, read_needs, wanted_edges
from nexus.services.records import Service, ServiceStarted, ServiceStatus, tunnel_prefix
from nexus.services.states import ServiceType
from nexus.services.validation import check

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["KEYS", "SECTIONS", "SERVICES", "Observed", "Wanted"]

_OTHER_KEYS = ("depends_on", "start")


class Wanted(NamedTuple):
    """The desired state of a service."""

    fields: dict[str, Any]
    """All fields of ``AddService`` except name and id, as plain values, with defaults for those not in the file."""
    needs: dict[str, Edge]
    start: bool = True
    """Whether it should run."""

    @property
    def runs(self) -> bool:
        """Whether it should run and can."""
        return self.start and self.fields["run_command"] is not None


class Observed(NamedTuple):
    """What is there of a project's services."""

    services: Mapping[str, Service] = {}
    """By name."""
    environments: Mapping[str, dict[str, str]] = {}
    """The variables of services, by service name."""
    edges: Mapping[str, Mapping[str, Edge]] = {}


def _read_umask(value: Any, _directory: str) -> str:
    if type(value) is str and re.fullmatch("0?[0-7]{3}", value):
        return value
    raise InvalidValue('expected three octal digits in quotes, such as "022"')


def _read_files(value: Any, _directory: str) -> Any:
    if (type(value) is str and value) or (isinstance(value, list) and all(type(name) is str for name in value)):
        return value or None
    raise InvalidValue("expected the name of a file, or a list of names")


def _read_tcp(value: Any, _directory: str) -> int:
    if value is True:
        return 0
    if type(value) is not int:
        raise InvalidValue("expected a port, or true for the service's own")
    return value


_ONESHOT = Kind(
    lambda value, directory: ServiceType.ONESHOT.value if FLAG.read(value, directory) else ServiceType.SIMPLE.value,
    lambda value: value == ServiceType.ONESHOT.value,
)

KEYS = Keys(
    AddService,
    kinds={
        "type": _ONESHOT,
        "umask": Kind(_read_umask),
        "config_filename": Kind(_read_files),
        "health_tcp": Kind(_read_tcp, lambda value: value or True),
    },
    short={"restart": "policy", "stop": "signal", "config": "file", "repo": "url"},
    references=("port", "config_filename"),
)


class _Services(RecordSection[Service, Wanted, Observed]):
    # The file

    def read(self, reader: Reader, at: tuple[str, ...], value: Any) -> Wanted:
        table = reader.table(at, value)
        fields = self.keys.defaults()
        if "repo" not in table:
            fields["directory"] = reader.folder
        fields |= reader.fields(at, self.keys, table, _OTHER_KEYS)
        self._check(reader, at, fields)
        start = table.get("start", True)
        if type(start) is not bool:
            reader.wrong((*at, "start"), "expected true or false")
        return Wanted(fields, read_needs(reader, at, table.get("depends_on", [])), start)

    def refer(self, tables: Any, key: str, at: tuple[str, ...], replaced: Callable[[str], str]) -> str:
        """The fixed port of another service: ``${services.db.port}``."""
        name, _, last = key.rpartition(".")
        if last != "port" or not name:
            raise InvalidValue(f"${{services.{key}}} is no reference: expected ${{services.NAME.port}}")
        table = tables.get(name) if isinstance(tables, dict) else None
        if not isinstance(table, dict):
            raise InvalidValue(f'${{services.{key}}}: there is no service "{name}" in the file')
        tunnel = f"{tunnel_prefix(name)}PORT"
        if at[0] == self.table and _has_tunnel(tables, at[1], name):
            raise InvalidValue(
                f'${{services.{key}}}: "{at[1]}" has a tunnel to "{name}", whose port is chosen at each start '
                f"(its program finds it in {tunnel})"
            )
        port = table.get("port")
        if isinstance(port, str) and "$" in port:
            if "${services." in port:
                raise InvalidValue(f'${{services.{key}}}: the port of "{name}" is a reference to another one itself')
            port = replaced(port)
        if port is None:
            raise InvalidValue(f'${{services.{key}}}: "{name}" has no port')
        if str(port) == "0":
            raise InvalidValue(
                f'${{services.{key}}}: the port of "{name}" is chosen at each start '
                f"(give it a fixed one; or depend on it with a tunnel, whose port is in {tunnel})"
            )
        return str(port)

    def _check(self, reader: Reader, at: tuple[str, ...], fields: Mapping[str, Any]) -> None:
        """Check what the daemon would refuse: single values, and those that contradict each other."""
        before = reader.problems
        command = reader.check(at, self.keys, fields)
        if command is None or reader.problems > before:
            return
        try:
            check("", {field: getattr(command, field) for field in fields})
        except ServiceInvalid as error:
            field = error.details["path"]
            hint = f" ({error.hint[:1].lower()}{error.hint[1:].rstrip('.')})" if error.hint else ""
            reader.wrong((*at, *self.keys.path(field)), error.message.removeprefix(": ") + hint)

    def fields(self, wanted: Wanted) -> Fields:
        return wanted.fields

    def needs(self, wanted: Wanted) -> Iterable[Record]:
        return [(self.kind, other) for other in wanted.needs]

    # The records

    def observe(self, app: App, wanted: Iterable[str] | None) -> Observed:
        services = self.read_records(app)
        edges: dict[str, dict[str, Edge]] = {}
        for edge in all_dependencies(app).records:
            edges.setdefault(edge.service, {})[edge.dependency] = Edge(
                edge.condition.value, edge.tunnel_enabled, edge.when_lost.value
            )
        asked = None if wanted is None else set(wanted)
        names = [
            name for name, service in services.items() if service.environment_names and (asked is None or name in asked)
        ]
        environments: dict[str, dict[str, str]] = {}
        for index, config in app.fetch_all([GetConfig(services[name].id, reveal=True) for name in names]):
            if isinstance(config, NexusError):
                raise config
            environments[names[index]] = {one.name: one.value or "" for one in config.record.variables}
        return Observed(services, environments, edges)

    def nothing(self) -> Observed:
        return Observed()

    def records(self, observed: Observed) -> Mapping[str, Service]:
        return observed.services

    def fields_there(self, observed: Observed, name: str) -> Fields:
        fields = super().fields_there(observed, name)
        return {
            **fields,
            "environment": dict(observed.environments.get(name, {})) or None,
            "tags": sorted(set(fields["tags"] or ())) or None,
        }

    def looked_up(self, reply: ServiceStatus) -> Service:
        return reply.service

    def export(self, observed: Observed) -> dict[str, Any]:
        tables = {}
        for name, service in observed.services.items():
            fields = self.fields_there(observed, name)
            table = tables[name] = self.keys.table(fields)
            if fields["directory"] is None and "repo" not in table:
                table["dir"] = ""
            wanted = is_up(service) or service.state == "failed"  # failed: the user has not stopped it
            if not (wanted or _is_completed(service, fields) or fields["run_command"] is None):
                table["start"] = False
            if observed.edges.get(name):
                table["depends_on"] = needs_table(observed.edges[name])
        return tables

    # The steps

    def pruned(self, planning: Planning) -> list[str]:
        """Dependents before their dependencies."""
        return graph.in_order(super().pruned(planning), self.observed(planning).edges)[::-1]

    def steps(self, planning: Planning) -> Iterable[Step]:
        observed = self.observed(planning)
        gone = set(self.pruned(planning)) if planning.prune else set()
        wanted = self.wanted(planning)
        edges = wanted_edges(planning.file, wanted, observed.services, observed.edges, gone, start=planning.start)
        self._check_ports(planning, gone)
        connections = list(edge_steps(edges, observed.edges))
        records = list(self.record_steps(planning))
        yield from (*connections, *self.prune_steps(planning), *records)
        if planning.start:
            yield from self._run_steps(planning, edges, records, connections)

    def _check_ports(self, planning: Planning, gone: set[str]) -> None:
        """Refuse that two services run with one port, of the file or of what runs in the project already."""
        observed = self.observed(planning)
        held = {
            service.active_port: name
            for name, service in observed.services.items()
            if is_up(service) and service.active_port and name not in gone
        }
        taken: dict[int, str] = {}
        for name, wanted in self.wanted(planning).items():
            port = wanted.fields["port"]
            if not port or not wanted.runs:
                continue
            at = (self.table, name, "port")
            holder = held.get(port, name)
            if planning.start and holder != name:
                raise planning.file.wrong(
                    at,
                    f'"{holder}" runs with the port {port}',
                    f"Stop that first: {command_line('nexusctl', 'service', 'stop', holder)}",
                )
            if wanted.fields["type"] != ServiceType.ONESHOT and taken.setdefault(port, name) != name:
                raise planning.file.wrong(
                    at,
                    f'"{taken[port]}" has the port {port} too',
                    "Give one of them another: port = 0 leases a free one at each start.",
                )

    def _run_steps(
        self, planning: Planning, edges: Edges, records: Iterable[Step], connections: Iterable[Step]
    ) -> Iterator[Step]:
        """Restarts and starts, in the order of the dependencies."""
        observed = self.observed(planning)
        updated = {
            step.name
            for step in records
            if step.action == "update" and any(c.field.partition(".")[0] in fields_at_start() for c in step.changes)
        }
        stale = updated | {step.name for step in connections}
        again = updated | {step.name for step in connections if step.detail["tunnel"]}
        wanted = self.wanted(planning)
        for name in graph.in_order(wanted, edges):
            service, one = observed.services.get(name), wanted[name]
            if service is not None and _runs(service) and (name in stale or _is_restart_due(planning, service)):
                command = RestartService(name, wait=planning.wait)
                yield Step("restart", self.kind, name, service.id, phase=Phase.RUN, command=command)
            elif one.runs:
                is_done = service is not None and _is_completed(service, one.fields) and name not in again
                if is_done or (service is not None and _runs(service)):
                    continue
                yield self._start("start", name, service, planning.wait)

    def _start(self, action: str, name: str, service: Service | None, wait: bool, text: str = "") -> Step:
        return Step(
            action,
            self.kind,
            name,
            "" if service is None else service.id,
            text=text,
            phase=Phase.RUN,
            command=StartService(name, wait=wait),
            together=True,  # the daemon starts dependencies first
        )

    def waits(self, planning: Planning, begun: set[Record]) -> Iterable[Step]:
        observed = self.observed(planning)
        wanted = self.wanted(planning)
        for name in graph.in_order(wanted, {name: one.needs for name, one in wanted.items()}):
            service = observed.services.get(name)
            if not wanted[name].start or service is None or (self.kind, name) in begun or not _runs(service):
                continue
            well = service.health == "healthy" or not is_checked(service)
            if service.state == "starting" or service.type == "oneshot" or not well:
                reason = f": {service.reason}" if service.state == "starting" and service.reason else ""
                yield self._start("wait", name, service, True, f"({summary(service)}){reason}")

    def done(self, step: Step, reply: object) -> str:
        if step.action == "connect":
            return f'Service "{step.name}" {step.text}'
        if step.action == "disconnect":
            return f'Service "{step.name}" no longer depends on "{step.other}"'
        assert isinstance(reply, ServiceStarted), step
        if step.action == "restart":
            return f'Restarted service "{step.name}" ({summary(reply.service)})'
        return started_text(reply)[-1]  # the lines before it are about other services, with steps of their own


def _has_tunnel(tables: Mapping[str, Any], dependent: str, name: str) -> bool:
    needs = tables[dependent].get("depends_on") if isinstance(tables.get(dependent), dict) else None
    edge = needs.get(name) if isinstance(needs, dict) else None
    return isinstance(edge, dict) and edge.get("tunnel") is True


def _runs(service: Service) -> bool:
    return service.state in ("starting", "running")


def _is_restart_due(planning: Planning, service: Service) -> bool:
    """Whether the service waits for a restart that is this file's matter."""
    target = planning.target
    return service.restart_pending_since is not None and target.manager(service) in (None, target.file)


def _is_completed(service: Service, fields: Fields) -> bool:
    """Whether it is a oneshot service that has done its work."""
    return fields["type"] == "oneshot" and service.state == "stopped" and service.exit_code == 0


SERVICES = _Services(
    "services",
    "service",
    SERVICE,
    "services",
    KEYS,
    list_=ListServices,
    get=GetServiceStatus,
    update=UpdateService,
    remove=lambda id_: RemoveService(id_, stop=True),
    removal=("remove", "--force"),
    after=("vms",),
    mark="s",
)
SECTIONS = (SERVICES,)
