"""The checks before a dependency is added or a service is renamed, inside the transaction of the change."""

from __future__ import annotations

from nexus import graph
from nexus.hints import command_line
from nexus.journal.operation import Operation
from nexus.records.scope import qualified, reference_of
from nexus.services.commands import AddDependency
from nexus.services.dependencies import store as dependency_store
from nexus.services.dependencies.store import StoredDependency
from nexus.services.errors import (
    ServiceCycle,
    ServiceDependencyElsewhere,
    ServiceDependencyExists,
    ServiceTunnelNameTaken,
)
from nexus.services.records import Service, tunnel_prefix
from nexus.store import Reader, Transaction

__all__ = ["add", "refuse_tunnel_names_of"]


def add(tx: Transaction, operation: Operation, service: Service, dependency: Service, command: AddDependency) -> bool:
    """Make ``service`` depend on ``dependency``; False if the same dependency exists.

    Raises:
        ServiceDependencyElsewhere: they are in different projects.
        ServiceDependencyExists: it exists with another condition, loss policy or tunnel.
        ServiceCycle: it would close a cycle.
        ServiceTunnelNameTaken: two tunnels of ``service`` would set the same variables.
    """
    cannot = f'cannot make service "{service.name}" depend on "{dependency.name}"'
    if service.project_id != dependency.project_id:
        raise ServiceDependencyElsewhere(
            f'{cannot}: "{service.name}" is in the project "{service.project}", and "{dependency.name}" in '
            f'"{dependency.project}"',
            hint="Add the dependency to the same project.",
            details={"project": service.project, "dependency_project": dependency.project},
        )
    existing = dependency_store.edge(tx, service.id, dependency.id)
    wanted = (command.condition, command.when_lost, command.tunnel_enabled)
    if existing is not None:
        if (existing.condition, existing.when_lost, existing.tunnel_enabled) == wanted:
            return False
        raise ServiceDependencyExists(
            f"{cannot}: it already does, with other settings",
            hint="Remove it first: "
            + command_line("nexusctl", "service", "dependency", "remove", reference_of(service), dependency.name),
            details={
                "condition": existing.condition.value,
                "when_lost": existing.when_lost.value,
                "tunnel_enabled": existing.tunnel_enabled,
            },
        )
    _refuse_cycle(tx, service, dependency, cannot)
    if command.tunnel_enabled:
        others = dependency_store.dependencies_of(tx, service.id)
        _refuse_tunnel_name(cannot, dependency.name, service.name, others)
    dependency_store.insert(
        tx,
        operation,
        service,
        dependency,
        condition=command.condition,
        when_lost=command.when_lost,
        tunnel_enabled=command.tunnel_enabled,
    )
    return True


def _refuse_cycle(reader: Reader, service: Service, dependency: Service, cannot: str) -> None:
    if not dependency_store.needs(reader, dependency.id, service.id):
        return
    edges = dependency_store.graph_of_ids(reader)
    edges.setdefault(service.id, []).append(dependency.id)
    cycle = graph.find_cycle(edges, service.id)
    if cycle is None:
        return
    names = dependency_store.names_of(reader, cycle)
    spelled = [names[node] for node in cycle]
    problem = "it would depend on itself" if len(cycle) == 2 else "that would be a cycle"
    raise ServiceCycle(
        f"{cannot}: {problem}: {' → '.join(spelled)}",
        hint="Give another service as the dependency."
        if len(cycle) == 2
        else "Remove one of these first: "
        + command_line(
            "nexusctl", "service", "dependency", "remove", qualified(service.project, spelled[1]), spelled[2]
        ),
        details={"cycle": spelled},
    )


def refuse_tunnel_names_of(reader: Reader, service: Service, new_name: str) -> None:
    """Refuse a new name of a service that would give two tunnels of a dependent the same variables.

    Raises:
        ServiceTunnelNameTaken: there is such a dependent.
    """
    for edge in dependency_store.dependents_of(reader, service.id):
        if edge.tunnel_enabled:
            others = [
                other
                for other in dependency_store.dependencies_of(reader, edge.service_id)
                if other.dependency_id != service.id
            ]
            _refuse_tunnel_name(f'cannot rename service "{service.name}"', new_name, edge.service, others)


def _refuse_tunnel_name(cannot: str, name: str, dependent: str, others: list[StoredDependency]) -> None:
    prefix = tunnel_prefix(name)
    for other in others:
        if other.tunnel_enabled and tunnel_prefix(other.dependency) == prefix:
            raise ServiceTunnelNameTaken(
                f'{cannot}: "{dependent}" would get {prefix}HOST and {prefix}PORT of both "{other.dependency}" and '
                f'"{name}"',
                hint="Rename one of them, or give only one of them a tunnel.",
                details={"service": dependent, "dependency": other.dependency, "prefix": prefix},
            )
