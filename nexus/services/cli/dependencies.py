"""``service dependency add``, ``remove`` and ``list``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nexus.cli.output import Column, Printer
from nexus.cli.records import print_list
from nexus.cli.result import Results
from nexus.cli.verbs import shell_complete, verb_of
from nexus.services.cli.status import edge_text
from nexus.services.commands import AddDependency, ListDependencies, RemoveDependency
from nexus.services.records import Dependency, DependencyList

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["all_dependencies", "make_add", "make_list", "make_remove"]

_COLUMNS: tuple[Column[Dependency], ...] = (
    Column("SERVICE", lambda d: d.service, 20),
    Column("NEEDS", lambda d: d.dependency, 20),
    Column("CONDITION", lambda d: d.condition),
    Column("STATE", lambda d: d.state, 8),
    Column("HEALTH", lambda d: d.health),
    Column("TUNNEL", lambda d: _tunnel(d)),
    Column("WHEN LOST", lambda d: d.when_lost),
)


def _tunnel(edge: Dependency) -> str:
    if not edge.tunnel_enabled:
        return "no"
    port = edge.tunnel_port
    return f"{edge.tunnel_host or '127.0.0.1'}:{port}" if port else "yes"


def all_dependencies(app: App, *, project: str | None = None) -> Results[Dependency]:
    """All dependencies of the services of a project, by default of that of this run."""
    return app.fetch(ListDependencies(), project=project).rows(DependencyList.dependencies)


def _add(app: App, command: AddDependency, out: Printer) -> None:
    def sentence(edge: Dependency) -> None:
        text = edge_text(edge)
        click.echo(f'Service "{edge.service}" depends on "{edge.dependency}"' + (f" ({text})" if text else ""))

    out.one(app.fetch(command), name=_needed, sentence=sentence)


def _remove(app: App, command: RemoveDependency, out: Printer) -> None:
    def sentence(edge: Dependency) -> None:
        click.echo(f'Service "{edge.service}" no longer depends on "{edge.dependency}"')

    out.one(app.fetch(command), name=_needed, sentence=sentence)


def _needed(edge: Dependency) -> str:
    return edge.dependency


def _dependent(edge: Dependency) -> str:
    return edge.service


def _list(app: App, command: ListDependencies, out: Printer) -> None:
    if command.service is None and command.reverse:
        raise click.UsageError("--reverse needs the name of a service")
    found = app.fetch(command).rows(DependencyList.dependencies)
    name = _dependent if command.reverse else _needed
    print_list(app, found, _COLUMNS, out, name=name, nothing="No dependencies found.")


_ADD_HELP = """Make service NAME depend on service DEPENDENCY.

\b
    nexusctl service dep add api db --condition healthy --tunnel
"""


def make_add() -> click.Command:
    """``service dependency add``."""
    return verb_of(AddDependency, _add, help=_ADD_HELP)


def make_remove() -> click.Command:
    """``service dependency remove``."""
    return verb_of(RemoveDependency, _remove)


def make_list() -> click.Command:
    """``service dependency list``."""
    name = click.Argument(["service"], metavar="[NAME]", required=False, shell_complete=shell_complete("service"))
    return verb_of(ListDependencies, _list, parameters=[name], exclude=("service",))
