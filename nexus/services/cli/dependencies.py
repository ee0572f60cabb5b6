"""``service dependency add``, ``remove`` and ``list``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nexus.cli.output import Column, Printer
from nexus.cli.records import print_list
from nexus.cli.verbs import build_command, shell_complete, verb
from nexus.services.cli.status import edge_text
from nexus.services.commands import AddDependency, ListDependencies, RemoveDependency

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["all_dependencies", "make_add", "make_list", "make_remove"]

_COLUMNS = (
    Column("SERVICE", lambda d: d["service"], 20),
    Column("NEEDS", lambda d: d["dependency"], 20),
    Column("CONDITION", lambda d: d["condition"]),
    Column("STATE", lambda d: d["state"], 8),
    Column("HEALTH", lambda d: d["health"]),
    Column("TUNNEL", lambda d: _tunnel(d)),
    Column("WHEN LOST", lambda d: d["when_lost"]),
)


def _tunnel(edge: dict[str, Any]) -> str:
    if not edge.get("tunnel_enabled"):
        return "no"
    port = edge.get("tunnel_port")
    return f"{edge.get('tunnel_host', '127.0.0.1')}:{port}" if port else "yes"


def all_dependencies(app: App, *, project: str | None = None) -> list[dict[str, Any]]:
    """All dependencies of the services of a project, by default of that of this run."""
    found: list[dict[str, Any]] = app.call_raw(ListDependencies(), project=project).get("dependencies", [])
    return found


def _add(app: App, values: dict[str, Any], out: Printer) -> None:
    edge = app.call_raw(build_command(AddDependency, values))
    text = edge_text(edge)
    out.one(
        edge,
        key="dependency",
        sentence=lambda: click.echo(
            f'Service "{edge["service"]}" depends on "{edge["dependency"]}"' + (f" ({text})" if text else "")
        ),
    )


def _remove(app: App, values: dict[str, Any], out: Printer) -> None:
    edge = app.call_raw(build_command(RemoveDependency, values))
    out.one(
        edge,
        key="dependency",
        sentence=lambda: click.echo(f'Service "{edge["service"]}" no longer depends on "{edge["dependency"]}"'),
    )


def _list(app: App, values: dict[str, Any], out: Printer) -> None:
    if values["service"] is None and values["reverse"]:
        raise click.UsageError("--reverse needs the name of a service")
    found = app.call_raw(build_command(ListDependencies, values)).get("dependencies", [])
    key = "service" if values["reverse"] else "dependency"
    print_list(app, found, _COLUMNS, out, key=key, nothing="No dependencies found.")


_ADD_HELP = """Make service NAME depend on service DEPENDENCY.

\b
    nexusctl service dep add api db --condition healthy --tunnel
"""


def make_add() -> click.Command:
    """``service dependency add``."""
    return verb(AddDependency, _add, help=_ADD_HELP)


def make_remove() -> click.Command:
    """``service dependency remove``."""
    return verb(RemoveDependency, _remove)


def make_list() -> click.Command:
    """``service dependency list``."""
    name = click.Argument(["service"], metavar="[NAME]", required=False, shell_complete=shell_complete("service"))
    return verb(ListDependencies, _list, parameters=[name], exclude=("service",))
