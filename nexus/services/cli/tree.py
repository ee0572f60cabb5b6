"""``service tree``: draws the dependencies with the states of the services."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from nexus.cli.output import Printer, colour_wanted, painted, printable
from nexus.cli.result import Result, Results, made
from nexus.cli.verbs import Values, shell_complete, verb
from nexus.services.cli.dependencies import all_dependencies
from nexus.services.cli.status import all_services, edge_text, shown_health, state_colour
from nexus.services.commands import GetServiceStatus, ListDependencies
from nexus.services.records import Dependency, Service

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["draw", "make_tree"]


class _Lines(NamedTuple):
    """The pieces that a tree's lines are drawn with."""

    branch: str
    last: str
    through: str
    blank: str


_UNICODE = _Lines("├── ", "└── ", "│   ", "    ")
_ASCII = _Lines("|-- ", "`-- ", "|   ", "    ")


def draw(
    services: Mapping[str, Service],
    edges: Sequence[Dependency],
    roots: Sequence[str],
    *,
    unicode: bool,
    colour: bool = False,
) -> Iterator[str]:
    """Yield the lines of the trees below ``roots``, each service with its dependencies.

    ``services`` is by name, as the edges have it. The dependencies of a service are drawn once; later occurrences refer
    to them.
    """
    dependencies: dict[str, list[Dependency]] = {}
    for edge in edges:
        dependencies.setdefault(edge.service, []).append(edge)
    lines = _UNICODE if unicode else _ASCII
    drawn: set[str] = set()
    # Iterative, since a chain may be longer than Python's recursion limit.
    pending: list[tuple[str, str, str, str]] = [(name, "", "", "") for name in reversed(roots)]
    while pending:
        name, before, below, note = pending.pop()
        again = name in drawn and name in dependencies
        text = _node_text(name, services[name], note, colour)
        yield f"{before}{text}" + (" (see above)" if again else "")
        if again:
            continue
        drawn.add(name)
        children = dependencies.get(name, [])
        for index in range(len(children) - 1, -1, -1):
            edge = children[index]
            end = index == len(children) - 1
            branch, further = (lines.last, lines.blank) if end else (lines.branch, lines.through)
            pending.append((edge.dependency, below + branch, below + further, edge_text(edge)))


def _node_text(name: str, service: Service, note: str, colour: bool) -> str:
    health = shown_health(service)
    state = service.state + (f", {'health unknown' if health == 'unknown' else health}" if health else "")
    if colour:
        state = painted(state, state_colour(service))
    lost = service.lost_dependencies
    words = f"{name} [{state}]" + (f" ({note})" if note else "")
    return words + (f" lost: {', '.join(lost)}" if lost else "")


def _tree(app: App, values: Values, out: Printer) -> None:
    named = values.text("service")
    root = None if named is None else app.call(GetServiceStatus(named)).service
    project = None if root is None else root.project_id
    found, edges = all_services(app, project=project).records, list(all_dependencies(app, project=project))
    qualify = app.all_projects and root is None
    services = {_qualified(one.project, one.name, qualify): one for one in found}
    if qualify:
        edges = [_qualified_edge(edge) for edge in edges]
    edges = [edge for edge in edges if edge.record.service in services and edge.record.dependency in services]
    if root is not None:
        roots = [root.name]
        edges = list(_below(roots[0], edges))
    else:
        needed = {edge.record.dependency for edge in edges}
        roots = [name for name in services if name not in needed]
    if not out.for_person:
        out.many(Results.of(edges), (), name=lambda edge: edge.dependency, nothing="No dependencies found.")
        return
    if not services:
        click.echo("No services found.", err=True)
        app.hint_missing_project()
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    colour = colour_wanted()
    for line in draw(services, [edge.record for edge in edges], roots, unicode=unicode, colour=colour):
        click.echo(line if colour else printable(line))


def _qualified(project: str, name: str, qualify: bool = True) -> str:
    """A name with its project, in which alone it is unique."""
    return f"{project}/{name}" if qualify else name


def _qualified_edge(edge: Result[Dependency]) -> Result[Dependency]:
    from msgspec.structs import replace

    project = edge.record.project
    service, dependency = _qualified(project, edge.record.service), _qualified(project, edge.record.dependency)
    record = replace(edge.record, service=service, dependency=dependency)
    return made(record, edge.plain | {"service": service, "dependency": dependency})


def _below(root: str, edges: Sequence[Result[Dependency]]) -> Iterator[Result[Dependency]]:
    """The direct and transitive dependencies of a service, as edges."""
    reached, before = {root}, 0
    while len(reached) != before:
        before = len(reached)
        reached |= {edge.record.dependency for edge in edges if edge.record.service in reached}
    return (edge for edge in edges if edge.record.service in reached)


def make_tree() -> click.Command:
    """``service tree``."""
    name = click.Argument(["service"], metavar="[NAME]", required=False, shell_complete=shell_complete("service"))
    return verb(
        ListDependencies,
        _tree,
        parameters=[name],
        exclude=("service", "reverse", "recursive"),
        help="Draw the tree of dependencies with the states, of all services or of one.",
    )
