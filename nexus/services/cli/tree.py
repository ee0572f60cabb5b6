"""``service tree``: draws the dependencies with the states of the services."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from nexus.cli.output import Printer, colour_wanted, painted, printable
from nexus.cli.verbs import shell_complete, verb
from nexus.services.cli.dependencies import all_dependencies
from nexus.services.cli.status import all_services, edge_text, shown_health, state_colour
from nexus.services.commands import GetServiceStatus, ListDependencies

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
    services: Mapping[str, dict[str, Any]],
    edges: Sequence[dict[str, Any]],
    roots: Sequence[str],
    *,
    unicode: bool,
    colour: bool = False,
) -> Iterator[str]:
    """Yield the lines of the trees below ``roots``, each service with its dependencies.

    ``services`` is by name. The dependencies of a service are drawn once; later occurrences refer to them.
    """
    dependencies: dict[str, list[dict[str, Any]]] = {}
    for edge in edges:
        dependencies.setdefault(edge["service"], []).append(edge)
    lines = _UNICODE if unicode else _ASCII
    drawn: set[str] = set()
    # Iterative, since a chain may be longer than Python's recursion limit.
    pending: list[tuple[str, str, str, str]] = [(name, "", "", "") for name in reversed(roots)]
    while pending:
        name, before, below, note = pending.pop()
        again = name in drawn and name in dependencies
        text = _node_text(services[name], note, colour)
        yield f"{before}{text}" + (" (see above)" if again else "")
        if again:
            continue
        drawn.add(name)
        children = dependencies.get(name, [])
        for index in range(len(children) - 1, -1, -1):
            edge = children[index]
            end = index == len(children) - 1
            branch, further = (lines.last, lines.blank) if end else (lines.branch, lines.through)
            pending.append((edge["dependency"], below + branch, below + further, edge_text(edge)))


def _node_text(service: dict[str, Any], note: str, colour: bool) -> str:
    health = shown_health(service)
    state = service["state"] + (f", {'health unknown' if health == 'unknown' else health}" if health else "")
    if colour:
        state = painted(state, state_colour(service))
    lost = service.get("lost_dependencies")
    words = f"{service['name']} [{state}]" + (f" ({note})" if note else "")
    return words + (f" lost: {', '.join(lost)}" if lost else "")


def _tree(app: App, values: dict[str, Any], out: Printer) -> None:
    root = None if values["service"] is None else app.call_raw(GetServiceStatus(values["service"]))["service"]
    project = None if root is None else root["project_id"]
    found, edges = all_services(app, project=project), all_dependencies(app, project=project)
    if app.all_projects and root is None:
        _qualify(found, "name")
        _qualify(edges, "service", "dependency")
    services = {service["name"]: service for service in found}
    edges = [edge for edge in edges if edge["service"] in services and edge["dependency"] in services]
    if root is not None:
        roots = [root["name"]]
        edges = list(_below(roots[0], edges))
    else:
        needed = {edge["dependency"] for edge in edges}
        roots = [name for name in services if name not in needed]
    if not out.for_person:
        out.many(edges, (), key="dependency", nothing="No dependencies found.")
        return
    if not services:
        click.echo("No services found.", err=True)
        app.hint_missing_project()
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    colour = colour_wanted()
    for line in draw(services, edges, roots, unicode=unicode, colour=colour):
        click.echo(line if colour else printable(line))


def _qualify(records: Sequence[dict[str, Any]], *fields: str) -> None:
    """Give the names in these fields with their projects, in which alone they are unique."""
    for record in records:
        for field in fields:
            record[field] = f"{record['project']}/{record[field]}"


def _below(root: str, edges: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The direct and transitive dependencies of a service, as edges."""
    reached, before = {root}, 0
    while len(reached) != before:
        before = len(reached)
        reached |= {edge["dependency"] for edge in edges if edge["service"] in reached}
    return (edge for edge in edges if edge["service"] in reached)


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
