"""All SQL of dependencies between services, against a transaction or a reader of the store.

The column ``dependent_service_id`` holds the dependency, not the dependent; its field is ``dependency_id``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nexus_protocol.command import Record

from nexus.journal.operation import Operation
from nexus.journal.rows import Rows, Subject
from nexus.records.scope import project_name, qualified
from nexus.runtime import loopback
from nexus.services.records import Dependency, Service
from nexus.services.states import DependencyCondition, ServiceHealth, ServiceState, WhenLost
from nexus.store import Reader, Transaction
from nexus.supervision.store import LeaseOwner, lease, lease_of_port, release

__all__ = [
    "EDGES",
    "StoredDependency",
    "dependencies_of",
    "dependent_ids",
    "dependents_of",
    "edge",
    "edges",
    "graph_of_ids",
    "insert",
    "give_up_idle_port",
    "listed",
    "name_of_lease",
    "names_of",
    "needs",
    "remove",
    "set_tunnel",
    "tunnel_lease",
    "tunnel_run",
]


class StoredDependency(Record):
    """A row of a dependency, with the names of both services."""

    id: int
    service_id: str
    """Id of the dependent."""
    service: str
    dependency_id: str
    """Id of the service that it depends on."""
    dependency: str
    condition: DependencyCondition
    when_lost: WhenLost
    tunnel_enabled: bool
    created_at: int
    project_id: str
    """Of both services."""
    project: str
    """The name of their project."""
    tunnel_port: int | None = None
    """Kept from run to run of the dependent."""
    tunnel_run_id: str | None = None
    """The run id of the tunnel's process, while there is one."""


_EDGE_COLUMNS = (
    "d.id, d.service_id, a.name, d.dependent_service_id, b.name, d.condition, d.when_lost, d.tunnel_enabled, "
    "d.created_at, a.project_id, (SELECT name FROM projects WHERE id = a.project_id), d.tunnel_port, d.tunnel_run_id"
)
_FROM = (
    "FROM service_dependency AS d JOIN service AS a ON a.id = d.service_id "
    "JOIN service AS b ON b.id = d.dependent_service_id"
)
_EDGES = f"SELECT {_EDGE_COLUMNS} {_FROM}"
_LISTED = f"SELECT {_EDGE_COLUMNS}, b.status, b.health {_FROM}"

EDGES = Rows(
    "service_dependency",
    (
        "id",
        "service_id",
        "dependent_service_id",
        "tunnel_enabled",
        "condition",
        "when_lost",
        "tunnel_port",
        "tunnel_run_id",
        "created_at",
    ),
    kind="dependency",
)

_CONDITIONS = {condition.value: condition for condition in DependencyCondition}
_WHEN_LOST = {when.value: when for when in WhenLost}
_STATES = {state.value: state for state in ServiceState}
_HEALTH = {health.value: health for health in ServiceHealth}


def _from_row(row: tuple[Any, ...]) -> StoredDependency:
    return StoredDependency(
        id=row[0],
        service_id=row[1],
        service=row[2],
        dependency_id=row[3],
        dependency=row[4],
        condition=_CONDITIONS[row[5]],
        when_lost=_WHEN_LOST[row[6]],
        tunnel_enabled=bool(row[7]),
        created_at=row[8],
        project_id=row[9],
        project=row[10],
        tunnel_port=row[11],
        tunnel_run_id=row[12],
    )


def _dependency(row: tuple[Any, ...]) -> Dependency:
    edge = _from_row(row[:13])
    tunnelled = edge.tunnel_run_id is not None
    return Dependency(
        service=edge.service,
        dependency=edge.dependency,
        service_id=edge.service_id,
        dependency_id=edge.dependency_id,
        condition=edge.condition,
        tunnel_enabled=edge.tunnel_enabled,
        when_lost=edge.when_lost,
        created_at=edge.created_at,
        project_id=edge.project_id,
        project=edge.project,
        state=_STATES[row[13]],
        health=_HEALTH[row[14]],
        tunnel_host=loopback.HOST if tunnelled else None,
        tunnel_port=edge.tunnel_port if tunnelled else None,
    )


def edges(reader: Reader, project_id: str | None = None) -> list[StoredDependency]:
    """Every dependency in a project, by default in all, sorted by the names of dependent and dependency."""
    condition, parameters = ("", ()) if project_id is None else (" WHERE a.project_id = ?", (project_id,))
    return [_from_row(row) for row in reader.all(f"{_EDGES}{condition} ORDER BY a.name, b.name", parameters)]


def graph_of_ids(reader: Reader) -> dict[str, list[str]]:
    """For the id of each service that has dependencies, the ids of those."""
    found: dict[str, list[str]] = {}
    for service_id, dependency_id in reader.all("SELECT service_id, dependent_service_id FROM service_dependency"):
        found.setdefault(service_id, []).append(dependency_id)
    return found


def needs(reader: Reader, service_id: str, other_id: str) -> bool:
    """Whether a service is another one or depends on it, directly or not."""
    row = reader.one(
        "WITH RECURSIVE needed (id) AS (SELECT service.id FROM service WHERE service.id = ? "
        "UNION SELECT d.dependent_service_id FROM service_dependency AS d JOIN needed ON needed.id = d.service_id) "
        "SELECT 1 FROM needed WHERE id = ?",
        (service_id, other_id),
    )
    return row is not None


def names_of(reader: Reader, ids: Iterable[str]) -> dict[str, str]:
    """The names of services, by id."""
    rows = (reader.one("SELECT id, name FROM service WHERE id = ?", (id_,)) for id_ in set(ids))
    return {row[0]: row[1] for row in rows if row is not None}


def dependencies_of(reader: Reader, service_id: str) -> list[StoredDependency]:
    """The dependencies of a service, sorted by name."""
    return [_from_row(row) for row in reader.all(f"{_EDGES} WHERE d.service_id = ? ORDER BY b.name", (service_id,))]


def dependents_of(reader: Reader, service_id: str) -> list[StoredDependency]:
    """The dependents of a service, sorted by name."""
    return [
        _from_row(row)
        for row in reader.all(f"{_EDGES} WHERE d.dependent_service_id = ? ORDER BY a.name", (service_id,))
    ]


def dependent_ids(reader: Reader, service_id: str, *, after: int = 0, limit: int) -> list[tuple[int, str]]:
    """At most ``limit`` dependencies on a service, with ids above ``after``: each with the id of its dependent."""
    return reader.all(
        "SELECT id, service_id FROM service_dependency WHERE dependent_service_id = ? AND id > ? ORDER BY id LIMIT ?",
        (service_id, after, limit),
    )


def edge(reader: Reader, service_id: str, dependency_id: str) -> StoredDependency | None:
    """The dependency of one service on another, if there is one."""
    row = reader.one(f"{_EDGES} WHERE d.service_id = ? AND d.dependent_service_id = ?", (service_id, dependency_id))
    return None if row is None else _from_row(row)


def listed(
    reader: Reader,
    *,
    service_id: str | None = None,
    dependency_id: str | None = None,
    project_id: str | None = None,
    after: tuple[str, str, str] = ("", "", ""),
    limit: int = -1,
) -> list[Dependency]:
    """Dependencies with state and health of the dependency, sorted by the names of dependent and dependency.

    Those of ``service_id``, those on ``dependency_id``, those in ``project_id``, or all; at most ``limit`` (-1: all),
    from behind ``after``: both names and the id of the dependent.
    """
    conditions, parameters = ["(a.name, b.name, a.id) > (?, ?, ?)"], [*after]
    if service_id is not None:
        conditions.append("d.service_id = ?")
        parameters.append(service_id)
    if dependency_id is not None:
        conditions.append("d.dependent_service_id = ?")
        parameters.append(dependency_id)
    if project_id is not None:
        conditions.append("a.project_id = ?")
        parameters.append(project_id)
    sql = f"{_LISTED} WHERE {' AND '.join(conditions)} ORDER BY a.name, b.name, a.id LIMIT ?"
    return [_dependency(row) for row in reader.all(sql, (*parameters, limit))]


def insert(
    tx: Transaction,
    operation: Operation,
    service: Service,
    dependency: Service,
    *,
    condition: DependencyCondition,
    when_lost: WhenLost,
    tunnel_enabled: bool,
) -> None:
    """Insert a dependency, with its event; the caller has checked for cycles.

    Raises:
        StoreConflict: it exists.
    """
    row = EDGES.insert(
        tx,
        {
            "service_id": service.id,
            "dependent_service_id": dependency.id,
            "condition": condition.value,
            "when_lost": when_lost.value,
            "tunnel_enabled": int(tunnel_enabled),
            "created_at": tx.now,
            "tunnel_port": None,
            "tunnel_run_id": None,
        },
    )
    detail = {
        "dependency": dependency.name,
        "dependency_id": dependency.id,
        "condition": condition,
        "when_lost": when_lost,
        "tunnel_enabled": tunnel_enabled,
    }
    subject = Subject("service", service.id, service.name, service.project_id)
    EDGES.record(tx, operation, subject, row["id"], None, row, [("service.dependency_added", detail)])


def remove(tx: Transaction, operation: Operation, edge: StoredDependency) -> None:
    """Delete a dependency, with its event, and end the lease of its tunnel's port."""
    release(tx, tunnel_lease(edge.id))
    before = EDGES.delete(tx, edge.id)
    detail = {"dependency": edge.dependency, "dependency_id": edge.dependency_id}
    EDGES.record(tx, operation, _subject_of(edge), edge.id, before, None, [("service.dependency_removed", detail)])


def _subject_of(edge: StoredDependency) -> Subject:
    """The dependent: what is told of a dependency is about it."""
    return Subject("service", edge.service_id, edge.service, edge.project_id)


# Tunnels and their ports


def tunnel_lease(dependency: int) -> LeaseOwner:
    """The owner of the port lease of a dependency's tunnel."""
    return LeaseOwner("dependency", str(dependency), "tunnel")


def tunnel_run(reader: Reader, dependency: str) -> tuple[bool, str | None]:
    """Whether a dependency with this id exists, and the run id of its tunnel's process."""
    row = reader.one("SELECT tunnel_run_id FROM service_dependency WHERE CAST(id AS TEXT) = ?", (dependency,))
    return row is not None, None if row is None else row[0]


def set_tunnel(tx: Transaction, operation: Operation, dependency: int, port: int | None, run_id: str | None) -> None:
    """Write and lease the port of a dependency's tunnel, and write the run id of its process, None without one.

    Nothing is written for a dependency that was deleted meanwhile.

    Raises:
        StoreConflict: another record has leased the port.
    """
    if _write(tx, operation, dependency, {"tunnel_port": port, "tunnel_run_id": run_id}) and port is not None:
        lease(tx, tunnel_lease(dependency), port)


def give_up_idle_port(tx: Transaction, operation: Operation, port: int) -> None:
    """Take a port from a tunnel without a process, which only keeps it for its next run: a service needs it now."""
    rows = tx.all("SELECT id FROM service_dependency WHERE tunnel_port = ? AND tunnel_run_id IS NULL", (port,))
    for (dependency,) in rows:
        release(tx, tunnel_lease(dependency))
        _write(tx, operation, dependency, {"tunnel_port": None})


def _write(tx: Transaction, operation: Operation, dependency: int, values: dict[str, Any]) -> bool:
    """Set columns of a dependency; False where there is none."""
    found = tx.one(f"{_EDGES} WHERE d.id = ?", (dependency,))
    present = EDGES.read(tx, dependency, tuple(values))
    if found is None or present is None:
        return False
    changed = {column: value for column, value in values.items() if value != present[column]}
    if changed:
        EDGES.update(tx, dependency, changed)
        EDGES.record(tx, operation, _subject_of(_from_row(found)), dependency, present, changed)
    return True


def name_of_lease(reader: Reader, port: int) -> str | None:
    """The service that has leased a port, for its run or for a tunnel, as ``qualified``; None if no service has."""
    owner = lease_of_port(reader, port)
    if owner is None:
        return None
    if owner.kind == "service":
        row = reader.one("SELECT project_id, name FROM service WHERE id = ?", (owner.id,))
    else:
        row = reader.one(f"SELECT a.project_id, a.name {_FROM} WHERE CAST(d.id AS TEXT) = ?", (owner.id,))
    return None if row is None else qualified(project_name(reader, row[0]), row[1])
