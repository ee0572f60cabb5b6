"""The key ``depends_on`` of a service in ``nexus.toml``: the dependencies, and what the daemon would refuse of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Set
from difflib import get_close_matches
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

from nexus import graph
from nexus.cli.apply.keys import FLAG, choice
from nexus.cli.apply.reader import ProjectFile, Reader
from nexus.cli.apply.steps import Phase, Step
from nexus.hints import command_line
from nexus.services.commands import AddDependency, RemoveDependency
from nexus.services.records import Service, tunnel_prefix
from nexus.services.states import DependencyCondition, WhenLost

__all__ = ["Edge", "Edges", "WantedEdges", "edge_steps", "needs_table", "read_needs", "wanted_edges"]

_KIND, _TABLE = "service", "services"
_KEYS = {"condition": choice(DependencyCondition), "tunnel": FLAG, "when_lost": choice(WhenLost)}


class Edge(NamedTuple):
    """The attributes of a dependency."""

    condition: str = DependencyCondition.STARTED.value
    tunnel: bool = False
    when_lost: str = WhenLost.IGNORE.value

    @property
    def text(self) -> str:
        """The attributes in parentheses, after a space; empty if all have their defaults."""
        words = [self.condition] if self.condition != "started" else []
        words += ["tunnel"] if self.tunnel else []
        words += [f"{self.when_lost} when lost"] if self.when_lost != "ignore" else []
        return f" ({', '.join(words)})" if words else ""


Edges = Mapping[str, Mapping[str, Edge]]
"""By the name of the dependent, then by the name of its dependency."""


class WantedEdges(Protocol):
    """What is looked at in the desired state of a service."""

    @property
    def fields(self) -> Mapping[str, Any]:
        """Those of ``AddService``."""

    @property
    def needs(self) -> Mapping[str, Edge]:
        """Its dependencies."""

    @property
    def runs(self) -> bool:
        """Whether it should run and can."""


def read_needs(reader: Reader, service: tuple[str, ...], value: Any) -> dict[str, Edge]:
    """Read the value of ``depends_on``: a list of names, or a table of them."""
    at = (*service, "depends_on")
    needs: dict[str, Edge] = {}
    if isinstance(value, list) and all(type(name) is str for name in value):
        needs = {name: Edge() for name in value}
    elif not isinstance(value, dict):
        reader.wrong(at, "expected a list of names, or a table of them")
    else:
        for name, asked in value.items():
            given = {}
            for key, one in reader.table((*at, name), asked).items():
                if key not in _KEYS:
                    reader.unknown((*at, name, key), tuple(_KEYS))
                else:
                    given[key] = reader.value((*at, name, key), _KEYS[key], one)
            needs[name] = Edge(**given)
    if service[-1] in needs:
        reader.wrong(at, "a service cannot depend on itself")
    return needs


def needs_table(needs: Mapping[str, Edge]) -> list[str] | dict[str, dict[str, Any]]:
    """The value of ``depends_on`` for the file."""
    if set(needs.values()) == {Edge()}:
        return sorted(needs)
    return {
        name: {key: value for key, value in needs[name]._asdict().items() if value != getattr(Edge(), key)}
        for name in sorted(needs)
    }


def wanted_edges(
    file: ProjectFile,
    wanted: Mapping[str, WantedEdges],
    there: Mapping[str, Service],
    edges_there: Edges,
    gone: Set[str],
    *,
    start: bool,
) -> dict[str, dict[str, Edge]]:
    """The desired dependencies: from the file for its services, unchanged for all others that are not ``gone``.

    ``start`` is whether the services are started.

    Raises:
        ProjectFileInvalid: the daemon would refuse one of them.
    """
    for name, service in wanted.items():
        _check_names(file, name, service, wanted, there, gone, start=start)
    edges = {name: dict(needs) for name, needs in edges_there.items() if name not in wanted and name not in gone}
    for name, needs in edges.items():
        for lost in sorted(gone & needs.keys()):
            raise file.wrong(
                (_TABLE,),
                f'"{lost}" is no longer in the file, and --prune cannot remove it: "{name}" depends on it',
                f"Remove that: {command_line('nexusctl', 'service', 'dependency', 'remove', name, lost)}",
            )
    edges |= {name: dict(service.needs) for name, service in wanted.items()}
    _check_cycles(file, edges, wanted)
    for name, service in wanted.items():
        _check_tunnels(file, name, service, wanted, there, edges_there)
    return edges


def _check_names(
    file: ProjectFile,
    name: str,
    service: WantedEdges,
    wanted: Mapping[str, WantedEdges],
    there: Mapping[str, Service],
    gone: Set[str],
    *,
    start: bool,
) -> None:
    for other in service.needs:
        at = (_TABLE, name, "depends_on", other)
        if other not in wanted and other not in there:
            near = get_close_matches(other, {*wanted, *there}, 1)
            raise file.wrong(
                at,
                f'service "{name}" depends on "{other}", which is neither in the file nor in the project',
                f'Did you mean "{near[0]}"?' if near else f"Add it: [services.{other}]",
            )
        if other in gone:
            raise file.wrong(
                at,
                f'service "{name}" depends on "{other}", which is no longer in the file: --prune would remove it',
                f"Add it: [services.{other}]; or take it out of depends_on.",
            )
        command = wanted[other].fields["run_command"] if other in wanted else there[other].run_command
        if start and service.runs and command is None:
            raise file.wrong(
                at,
                f'service "{name}" depends on "{other}", which has no command to run',
                f"Give it one: run in [services.{other}]"
                if other in wanted
                else f"Give it one: {command_line('nexusctl', 'service', 'update', other, '--run', 'COMMAND')}",
            )


def _check_cycles(file: ProjectFile, edges: Edges, wanted: Collection[str]) -> None:
    cycle = graph.any_cycle(edges)
    if cycle is None:
        return
    at = next(((_TABLE, name, "depends_on", other) for name, other in pairwise(cycle) if name in wanted), (_TABLE,))
    raise file.wrong(at, f"the dependencies form a cycle: {' → '.join(cycle)}", "Remove one of them from depends_on.")


def _check_tunnels(
    file: ProjectFile,
    name: str,
    service: WantedEdges,
    wanted: Mapping[str, WantedEdges],
    there: Mapping[str, Service],
    edges_there: Edges,
) -> None:
    """Refuse a tunnel to a service without a port, unless the daemon already has this dependency; and two tunnels that
    would set the same variables."""
    prefixes: dict[str, str] = {}
    for other, edge in service.needs.items():
        if not edge.tunnel:
            continue
        at = (_TABLE, name, "depends_on", other, "tunnel")
        first = prefixes.setdefault(tunnel_prefix(other), other)
        if first != other:
            prefix = tunnel_prefix(other)
            raise file.wrong(
                at,
                f'"{name}" would get {prefix}HOST and {prefix}PORT of both "{first}" and "{other}"',
                "Rename one of them, or give only one of them a tunnel.",
            )
        port = wanted[other].fields["port"] if other in wanted else there[other].port
        as_before = other in there and there[other].port is None
        if port is not None or (as_before and edges_there.get(name, {}).get(other) == edge):
            continue
        raise file.wrong(
            at,
            f'"{other}" has no port for the tunnel',
            f"Give it a port: port = 0 in [services.{other}] leases a free one."
            if other in wanted
            else f"Give it a port: {command_line('nexusctl', 'service', 'update', other, '--port', '0')}",
        )


def edge_steps(edges: Edges, there: Edges) -> Iterator[Step]:
    """The steps that remove and add dependencies; one that changes is removed and added."""
    for name in sorted({*edges, *there}):
        is_, to_be = there.get(name, {}), edges.get(name, {})
        for other in sorted(is_):
            if to_be.get(other) != is_[other]:
                yield _step("disconnect", Phase.DISCONNECT, name, other, is_[other])
        for other in sorted(to_be):
            if is_.get(other) != to_be[other]:
                yield _step("connect", Phase.CONNECT, name, other, to_be[other])


def _step(action: str, phase: Phase, name: str, other: str, edge: Edge) -> Step:
    command: AddDependency | RemoveDependency = RemoveDependency(name, other)
    if action == "connect":
        command = AddDependency(
            name,
            other,
            condition=DependencyCondition(edge.condition),
            tunnel_enabled=edge.tunnel,
            when_lost=WhenLost(edge.when_lost),
        )
    return Step(
        action,
        _KIND,
        name,
        other=other,
        text=f'depends on "{other}"{edge.text}',
        detail={"dependency": other, **edge._asdict()},
        phase=phase,
        command=command,
    )
