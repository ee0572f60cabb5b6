"""What it takes to make one service depend on another, and to rename one, inside the transaction that does it."""

from __future__ import annotations

from nexus import graph
from nexus.services.commands import AddDependency
from nexus.services.configuration.environment import tunnel_prefix
from nexus.services.dependencies import store as dependency_store
from nexus.services.dependencies.store import StoredDependency
from nexus.services.errors import ServiceCycle, ServiceDependencyExists, ServiceTunnelNameTaken
from nexus.services.records import Service
from nexus.store import Reader, Transaction

__all__ = ["add", "refuse_tunnel_names_of"]


def add(tx: Transaction, service: Service, dependency: Service, command: AddDependency) -> bool:
    """Make ``service`` depend on ``dependency``; False if it did already, in the same way.

    Raises:
        ServiceCycle, ServiceDependencyExists, ServiceTunnelNameTaken: it cannot.
    """
    cannot = f'cannot make service "{service.name}" depend on "{dependency.name}"'
    there = dependency_store.edge(tx, service.id, dependency.id)
    wanted = (command.condition, command.when_lost, command.tunnel_enabled)
    if there is not None:
        if (there.condition, there.when_lost, there.tunnel_enabled) == wanted:
            return False
        raise ServiceDependencyExists(
            f"{cannot}: it does already, in another way",
            hint=f"Remove that first: nexusctl service dependency remove {service.name} {dependency.name}",
            details={
                "condition": there.condition.value,
                "when_lost": there.when_lost.value,
                "tunnel_enabled": there.tunnel_enabled,
            },
        )
    _refuse_cycle(tx, service, dependency, cannot)
    if command.tunnel_enabled:
        others = dependency_store.dependencies_of(tx, service.id)
        _refuse_tunnel_name(cannot, dependency.name, service.name, others)
    dependency_store.insert(
        tx,
        service.id,
        dependency.id,
        condition=command.condition,
        when_lost=command.when_lost,
        tunnel_enabled=command.tunnel_enabled,
    )
    return True


def _refuse_cycle(reader: Reader, service: Service, dependency: Service, cannot: str) -> None:
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
        hint="Name another service, one that it needs."
        if len(cycle) == 2
        else f"Remove one of these first: nexusctl service dependency remove {spelled[1]} {spelled[2]}",
        details={"cycle": spelled},
    )


def refuse_tunnel_names_of(reader: Reader, service: Service, new_name: str) -> None:
    """Refuse a new name for a service with which a dependent could not tell two tunnels apart.

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
                f'{cannot}: "{dependent}" would have {prefix}HOST and {prefix}PORT of both "{other.dependency}" and '
                f'"{name}"',
                hint="Rename one of them, or do without one of the tunnels.",
                details={"service": dependent, "dependency": other.dependency, "prefix": prefix},
            )
