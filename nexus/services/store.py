"""All SQL of service records, against a transaction or a reader of the store; dependencies have ``dependencies.store``.

Only this module sets a service's state. Values of environments leave it only in ``StoredService``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from msgspec import field
from nexus_protocol.command import SECRET, Record

from nexus.hints import command_line
from nexus.journal.operation import Operation
from nexus.journal.rows import Event
from nexus.records.errors import RecordErrors
from nexus.records.fields import fields_of_next_start
from nexus.records.scope import ANYWHERE, Scope, qualified, reference_of
from nexus.records.table import Table, without_repeats
from nexus.services.commands import AddService
from nexus.services.dependencies.store import (
    StoredDependency,
    dependencies_of,
    dependents_of,
    edges,
    give_up_idle_port,
    remove,
)
from nexus.services.errors import (
    ServiceAmbiguous,
    ServiceChanged,
    ServiceCursorInvalid,
    ServiceIdTaken,
    ServiceNameTaken,
    ServiceNeeded,
    ServiceNotFound,
    ServiceRunning,
)
from nexus.services.records import Service
from nexus.services.states import (
    TRANSITIONS,
    ServiceHealth,
    ServiceState,
)
from nexus.store import Reader, Transaction
from nexus.store.dialect import differs
from nexus.supervision.store import LeaseOwner, lease, release

__all__ = [
    "DECLARED",
    "carried_leases",
    "under_lease",
    "SERVICES",
    "UP",
    "StoredService",
    "all_stored",
    "change_state",
    "count_change",
    "declared",
    "declared_ports",
    "delete",
    "delete_all",
    "by_id",
    "get",
    "insert",
    "names_and_states",
    "operation_of",
    "port_lease",
    "resolve",
    "set_health",
    "stored",
    "update",
]

UP = frozenset({ServiceState.STARTING, ServiceState.RUNNING, ServiceState.STOPPING})
"""The states in which a service has processes, or may get one."""

_NEXT_START = fields_of_next_start(AddService)
DECLARED = tuple(name for name in AddService.__struct_fields__ if name != "id")
"""The declared configuration of a service: the fields of AddService."""


class StoredService(Record):
    """A service with the columns that only the daemon may read."""

    service: Service
    environment: Annotated[dict[str, str], SECRET]
    start_environment: Annotated[dict[str, str], SECRET]
    """The variables that its last start gave beside those of the record."""
    wanted: bool
    """Whether it is meant to be up."""
    run_id: str | None = None
    """The id of the last run; it is written before the process exists."""
    restart_times: list[int] = field(default_factory=list)
    """When its policy restarted it, as far as that still counts."""
    stopped_in_boot: str | None = None
    """The boot in which a client stopped it: autostart leaves it alone until the next boot."""
    ended_in_boot: str | None = None
    """The boot in which its last run ended; None for a record that is older than the column."""
    operation_id: int | None = None
    """The operation of the last change of its state; None for a record that is older than the column."""
    dependencies: list[StoredDependency] = field(default_factory=list)


# Columns and fields

_CONFIG_COLUMNS = {"run_command": "run_command", "config_filename": "filename", "config_format": "format"}
"""The fields that are in ``service_config``, with their columns there."""


class _Private(Record):
    """The columns that only the daemon may read, as ``StoredService`` has them."""

    environment: Annotated[dict[str, str], SECRET]
    start_environment: Annotated[dict[str, str], SECRET]
    wanted: bool
    run_id: str | None
    restart_times: list[int]
    stopped_in_boot: str | None
    ended_in_boot: str | None
    operation_id: int | None


_SERVICE_FIELDS = set(Service.__struct_fields__)

SERVICES = Table(
    Service,
    "service",
    kind="service",
    word="service",
    look="service status",
    errors=RecordErrors(
        ServiceNotFound, ServiceAmbiguous, ServiceNameTaken, ServiceIdTaken, ServiceChanged, ServiceCursorInvalid
    ),
    observed=(_SERVICE_FIELDS | set(_Private.__struct_fields__)) - {*DECLARED, "environment_names", "operation_id"},
    volatile=("operation_id",),
    order=("name", "id"),
    descending=False,
    indexed=("state",),
    told=("type", "port", "restart", "autostart", "directory", "repo_url", "repo_path", "tags"),
    columns={field: f"service_config.{column}" for field, column in _CONFIG_COLUMNS.items()} | {"state": "status"},
    joined=("service_config", "config_id"),
    text_or_list=("config_filename",),
    private=_Private,
    others=("config_id",),
    searchable=True,
)

_FIELDS = len(SERVICES.columns)
_SELECT_STORED = SERVICES.selecting(*SERVICES.private)


def _stored(row: tuple[Any, ...], dependencies: list[StoredDependency]) -> StoredService:
    columns = zip(SERVICES.private.items(), row[_FIELDS:], strict=True)
    private = {name: column.to_field(value) for (name, column), value in columns}
    return StoredService(service=SERVICES.decode(row[:_FIELDS]), dependencies=dependencies, **private)


# Reading


by_id = SERVICES.by_id
get = SERVICES.get
resolve = SERVICES.resolve


def stored(reader: Reader, reference: str, scope: Scope = ANYWHERE) -> StoredService:
    """``resolve``, as ``StoredService``; an id needs no scope.

    It reads twice: only a snapshot or a transaction makes it consistent.

    Raises:
        ServiceNotFound: there is none.
        ServiceAmbiguous: several ids have this prefix.
    """
    row = SERVICES.find_row(reader, _SELECT_STORED, reference, scope)
    if row is None:
        raise SERVICES.not_found(reference, scope)
    return _stored(row, dependencies_of(reader, row[0]))


def all_stored(reader: Reader) -> list[StoredService]:
    """Every service of every project, sorted by name. Reads the whole table: for the start of the daemon."""
    dependencies: dict[str, list[StoredDependency]] = {}
    for edge in edges(reader):
        dependencies.setdefault(edge.service_id, []).append(edge)
    rows = reader.all(f"{_SELECT_STORED} ORDER BY service.name, service.id")
    return [_stored(row, dependencies.get(row[0], [])) for row in rows]


def operation_of(reader: Reader, service_id: str) -> int | None:
    """The operation of the last change of a service's state, as ``StoredService`` has it; None without a service."""
    row = reader.one("SELECT operation_id FROM service WHERE id = ?", (service_id,))
    return None if row is None else row[0]


def declared(stored: StoredService) -> dict[str, Any]:
    """The declared configuration of the service: the fields of ``DECLARED``."""
    return {name: getattr(stored.service, name) for name in DECLARED if name != "environment"} | {
        "environment": stored.environment
    }


def names_and_states(reader: Reader, project_id: str, after: str = "", limit: int = -1) -> list[tuple[str, str, str]]:
    """The id, name and state of services of a project, by name: at most ``limit`` (-1: all) after a name."""
    return reader.all(
        "SELECT id, name, status FROM service WHERE project_id = ? AND name > ? ORDER BY name LIMIT ?",
        (project_id, after, limit),
    )


# The declared configuration


def insert(tx: Transaction, operation: Operation, command: AddService, scope: Scope) -> Service:
    """Insert the service in the project of the scope; if the same request made it before, return it.

    Raises:
        ProjectNotFound: the scope has no project.
        ServiceNameTaken: another service of the project has the name.
        ServiceIdTaken: a service with this id has other fields.
    """
    fields = dict(without_repeats({name: getattr(command, name) for name in DECLARED}))
    fields["environment"] = fields["environment"] or {}
    fields["tags"] = fields["tags"] or []
    cannot = f'cannot add service "{command.name}"'
    project_id = scope.home(cannot)
    if command.id is not None and by_id(tx, command.id) is not None:
        existing = stored(tx, command.id)
        if declared(existing) == fields and existing.service.project_id == project_id:
            return existing.service
        raise ServiceIdTaken(
            f'{cannot}: service "{existing.service.name}" has the id {command.id} and other fields',
            hint="Repeat the request with the present fields of the service, or choose another id for a new service.",
            details={"id": command.id, "name": existing.service.name},
        )
    SERVICES.refuse_taken_name(tx, command.name, project_id, cannot)
    fields |= {
        "id": command.id,
        "project_id": project_id,
        "state_at": tx.now,
        "environment_names": sorted(fields["environment"]),
    }
    return SERVICES.insert(tx, operation, fields, event="added")


def update(
    tx: Transaction, operation: Operation, service: Service, changes: Mapping[str, Any], detail: dict[str, Any]
) -> Service:
    """Set these fields of ``DECLARED`` to new values, and return the changed service.

    Raises:
        ServiceNameTaken: another service has the new name.
    """
    if changes.get("name", service.name) != service.name:
        SERVICES.refuse_taken_name(tx, changes["name"], service.project_id, f'cannot update service "{service.name}"')
    fields = dict(without_repeats(changes))
    if "environment" in changes:
        fields["environment_names"] = sorted(changes["environment"])
    if not _NEXT_START.isdisjoint(changes):
        fields |= _restart_due(tx, service)
    return _written(service.id, SERVICES.write(tx, operation, service.id, fields, [("service.updated", detail)]))


def count_change(tx: Transaction, operation: Operation, service: Service) -> None:
    """Raise the revision of a service whose dependencies were changed: they are a part of its configuration.

    One that is up has them with its next start.
    """
    SERVICES.write(tx, operation, service.id, _restart_due(tx, service), configured=True)


def _restart_due(tx: Transaction, service: Service) -> dict[str, Any]:
    """The field by which a service that is up has a change of what takes effect with its next start."""
    due = service.state in UP and service.restart_pending_since is None
    return {"restart_pending_since": tx.now} if due else {}


def _starts_as(stored: StoredService) -> tuple[dict[str, Any], set[tuple[Any, ...]]]:
    """What a run has of a record from its start on: fields and dependencies."""
    fields = {name: value for name, value in declared(stored).items() if name in _NEXT_START}
    edges = {(each.dependency_id, each.condition, each.when_lost, each.tunnel_enabled) for each in stored.dependencies}
    return fields, edges


def _written(service_id: str, service: Service | None) -> Service:
    if service is None:
        raise SERVICES.not_found(service_id)
    return service


def delete(
    tx: Transaction,
    operation: Operation,
    service_id: str,
    revision: int | None = None,
    state_revision: int | None = None,
) -> Service:
    """Delete a service that is not up and has no dependents, with its dependencies and leases, and return it.

    Raises:
        ServiceNotFound: there is no such service.
        ServiceChanged: it has another revision than ``revision``, or another one of its state.
        ServiceNeeded: other services depend on it.
        ServiceRunning: it is up.
    """
    service = get(tx, service_id)
    SERVICES.expect(service, f'cannot remove service "{service.name}"', revision, state_revision)
    dependents = [edge.service for edge in dependents_of(tx, service.id)]
    if dependents:
        quoted = ", ".join(f'"{name}"' for name in dependents[:5]) + (", …" if len(dependents) > 5 else "")
        raise ServiceNeeded(
            f'cannot remove service "{service.name}": {quoted} depend{"s" if len(dependents) == 1 else ""} on it',
            hint="Remove the dependency first: "
            + command_line(
                "nexusctl",
                "service",
                "dependency",
                "remove",
                qualified(service.project, dependents[0]),
                reference_of(service),
            ),
            details={"id": service.id, "name": service.name, "dependents": dependents},
        )
    if service.state in UP:
        raise ServiceRunning(
            f'cannot remove service "{service.name}": it is {service.state}, stop it first',
            hint="Stop it and remove it: "
            + command_line("nexusctl", "service", "remove", reference_of(service), "--force"),
            details={"id": service.id, "name": service.name, "state": service.state.value},
        )
    _delete(tx, operation, service)
    return service


def delete_all(tx: Transaction, operation: Operation, project_id: str) -> None:
    """Delete every service of a project, none of which is up, and all dependencies between them."""
    for edge in edges(reader=tx, project_id=project_id):
        remove(tx, operation, edge)
    for id_, _name, _state in names_and_states(tx, project_id):
        _delete(tx, operation, get(tx, id_))


def _delete(tx: Transaction, operation: Operation, service: Service) -> None:
    release(tx, port_lease(service.id))
    for edge in dependencies_of(tx, service.id):
        remove(tx, operation, edge)
    SERVICES.delete(tx, operation, service, event="removed")


# The present state

_RUN_COLUMNS = frozenset(
    {
        "wanted",
        "run_id",
        "pid",
        "active_port",
        "start_environment",
        "started_at",
        "stopped_at",
        "restarts",
        "restart_times",
        "next_restart_at",
        "exit_code",
        "exit_signal",
        "reason",
        "reason_code",
        "lost_dependencies",
        "stopped_in_boot",
        "unknown_since",
        "ended_in_boot",
    }
)
_STATE_COLUMNS = ("reason", "reason_code", "next_restart_at")
_LIVE_COLUMNS = ("lease_id", "epoch", "pid", "active_port", "next_restart_at", "lost_dependencies")
"""The columns that are unset in the states stopped and failed."""


def change_state(
    tx: Transaction,
    operation: Operation,
    service_id: str,
    state: ServiceState,
    events: Sequence[Event] = (),
    *,
    made_from: StoredService | None = None,
    **columns: Any,
) -> Service:
    """Set the state of a service, which may be the present one, with columns of its run, and return the service.

    ``columns`` are of ``_RUN_COLUMNS``; None unsets one. A change of state unsets ``reason``, ``reason_code`` and
    ``next_restart_at`` unless they are given; stopped and failed also unset pid, port and lost dependencies. Health
    becomes unknown when a run ends and when one begins. Every write of a state unsets ``unknown_since`` unless it is
    given: the caller knows the run. A new run leaves a restart due if its configuration, which is from
    ``made_from``, is not the present one.

    Raises:
        ServiceNotFound: there is no such service.
        ValueError: TRANSITIONS does not allow the change, or a column is not in ``_RUN_COLUMNS``.
        StoreConflict: another service has the port.
    """
    unknown = columns.keys() - _RUN_COLUMNS
    if unknown:
        raise ValueError(f"change_state sets no {', '.join(sorted(unknown))}")
    row = tx.one(
        "SELECT status, run_id, active_port, project_id, revision, restart_pending_since FROM service WHERE id = ?",
        (service_id,),
    )
    if row is None:
        raise SERVICES.not_found(service_id)
    before = ServiceState(row[0])
    changes: dict[str, Any] = {"unknown_since": None}
    if state is not before:
        if state not in TRANSITIONS[before]:
            raise ValueError(f"a service does not go from {before} to {state}")
        changes |= {"state": state, "state_at": tx.now} | dict.fromkeys(_STATE_COLUMNS)
    if state not in UP:
        changes |= dict.fromkeys(_LIVE_COLUMNS)
    changes |= columns
    new_run = columns.get("run_id") is not None and columns["run_id"] != row[1]
    if state not in UP:
        changes["restart_pending_since"] = None
    elif new_run and made_from is not None:
        # It may be read before a change that is committed by now, also while the service was not up.
        is_present = made_from.service.revision == row[4] or _starts_as(made_from) == _starts_as(stored(tx, service_id))
        changes["restart_pending_since"] = None if is_present else row[5] or tx.now
    same_run = state is before or (before, state) == (ServiceState.STARTING, ServiceState.RUNNING)
    if new_run or not same_run or state not in (ServiceState.STARTING, ServiceState.RUNNING):
        changes |= {"health": ServiceHealth.UNKNOWN, "health_message": None}
    if changes.get("active_port", row[2]) != row[2]:
        _lease_port(tx, operation, service_id, changes["active_port"])
    for name, unset in _UNSET_VALUES.items():
        if changes.get(name, unset) is None:
            changes[name] = unset
    if operation.lease is not None and state in UP and (new_run or before not in UP):
        changes |= {"lease_id": operation.lease.id, "epoch": operation.lease.epoch}
    changes["operation_id"] = operation.enter(tx, row[3])
    return _written(service_id, SERVICES.write(tx, operation, service_id, changes, events))


_UNSET_VALUES: dict[str, Any] = {
    "wanted": False,
    "restarts": 0,
    "start_environment": {},
    "restart_times": [],
    "lost_dependencies": [],
}
"""The unset values of columns that are NOT NULL."""


def set_health(
    tx: Transaction,
    operation: Operation,
    service_id: str,
    health: ServiceHealth,
    message: str | None = None,
    events: Sequence[Event] = (),
) -> Service:
    """Write the result of a health check with its events, if the service is starting or running and the result new.

    Raises:
        ServiceNotFound: there is no such service.
    """
    service = get(tx, service_id)
    up = service.state in (ServiceState.STARTING, ServiceState.RUNNING)
    if not up or (service.health, service.health_message) == (health, message):
        return service
    changes = {"health": health, "health_message": message, "operation_id": operation.enter(tx, service.project_id)}
    return _written(service_id, SERVICES.write(tx, operation, service_id, changes, events))


# Ports


def carried_leases(reader: Reader) -> set[str]:
    """The leases of all services that are up."""
    return {row[0] for row in reader.all("SELECT DISTINCT lease_id FROM service WHERE lease_id IS NOT NULL")}


def under_lease(reader: Reader, lease_id: str) -> list[str]:
    """The ids of the services that were started under a lease and are up."""
    return [row[0] for row in reader.all("SELECT id FROM service WHERE lease_id = ?", (lease_id,))]


def port_lease(service_id: str) -> LeaseOwner:
    """The owner of the port lease of a service's run."""
    return LeaseOwner("service", service_id, "run")


def _lease_port(tx: Transaction, operation: Operation, service_id: str, port: int | None) -> None:
    """Lease a port for a run; None ends the lease.

    Raises:
        StoreConflict: another record has leased the port.
    """
    if port is None:
        release(tx, port_lease(service_id))
    else:
        give_up_idle_port(tx, operation, port)
        lease(tx, port_lease(service_id), port)


def declared_ports(reader: Reader, service_id: str | None) -> set[int]:
    """The fixed ports that services declare, without those of ``service_id``."""
    rows = reader.all(f"SELECT port FROM service WHERE port > 0 AND {differs('id')}", (service_id,))
    return {row[0] for row in rows}
