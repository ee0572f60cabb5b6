"""``nexusctl project``: the verbs of projects, and how projects are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nexus.cli.output import Column, Printer, can_ask, confirm, format_time, print_fields
from nexus.cli.records import Noun, make_create, make_list, make_update, names_starting
from nexus.cli.verbs import NounGroup, completers, for_each, verb
from nexus.hints import command_line
from nexus.projects.commands import (
    CreateProject,
    DeleteProject,
    GetProjectHoldings,
    ListProjects,
    UpdateProject,
)

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["project", "shell_complete_project"]

Record = dict[str, Any]

_PROJECT = Noun("project", "projects", "project", "projects")
_COLUMNS = (
    Column("NAME", lambda project: project["name"], 20),
    Column("STATUS", lambda project: project["status"], 12),
    Column("MODE", lambda project: project["mode"], 10),
    Column("ROOT", lambda project: project.get("root_path"), 30),
    Column("CREATED", lambda project: format_time(project["created_at"] or None), wide=True),
    Column("ID", lambda project: project["id"], wide=True),
)
_WORDS = {"service": ("service", "services"), "vm": ("VM", "VMs")}
_SHOWN = 20


def _lines(holdings: Record) -> list[tuple[str, Any]]:
    project = holdings["project"]
    return [
        ("Name", project["name"]),
        ("ID", project["id"]),
        ("Status", project["status"]),
        ("Mode", project["mode"]),
        ("Root", project.get("root_path")),
        ("Repository", project.get("repository_url")),
        ("Description", project.get("description")),
        ("Created", format_time(project["created_at"] or None)),
        ("Completed", format_time(project.get("completed_at"))),
        *[
            (_WORDS.get(kind, (kind, kind))[1].capitalize() if kind != "vm" else "VMs", _states(states))
            for kind, states in holdings["counts"].items()
        ],
    ]


def _states(states: dict[str, int]) -> str:
    shown = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"{sum(states.values())} ({shown})"


def _make_inspect() -> click.Command:
    def run(app: App, values: Record, out: Printer) -> int:
        found: list[Record] = []
        references: tuple[str, ...] = values["projects"] or ("",)
        code = for_each(references, lambda name: found.append(app.call_raw(GetProjectHoldings(name or None))))
        if out.for_person:
            for index, holdings in enumerate(found):
                click.echo("\n" * (index > 0), nl=False)
                print_fields(_lines(holdings))
            return code
        projects = [holdings["project"] | {"counts": holdings["counts"]} for holdings in found]
        if len(references) > 1:
            out.many(projects, (), key="name", nothing=_PROJECT.nothing())
        elif projects:
            out.one(projects[0], key="name", sentence=lambda: None)
        return code

    names = click.Argument(
        ["projects"], metavar="[NAME]...", nargs=-1, required=False, shell_complete=shell_complete_project
    )
    return verb(GetProjectHoldings, run, parameters=[names], exclude=("project",), help=_INSPECT_HELP)


_INSPECT_HELP = """Show projects with the number of their records; without a name, the project of this folder."""


def _make_delete() -> click.Command:
    def run(app: App, values: Record, out: Printer) -> int:
        names, cascade = values["project"], bool(values["cascade"])
        if not values["yes"]:
            words = [*names, *(["--cascade"] if cascade else []), "--yes"]
            line = command_line("nexusctl", "project", "delete", *words)
            question = ""
            if can_ask():
                found: list[Record] = []
                if code := for_each(names, lambda name: found.append(app.call_raw(GetProjectHoldings(name)))):
                    return code
                # Exactly the projects of the question, even if their names are taken by others meanwhile.
                names = tuple(dict.fromkeys(holdings["project"]["id"] for holdings in found))
                question = "\n".join(_question(holdings, cascade) for holdings in found)
            if not confirm(question, "refusing to delete project without confirmation", line):
                return 1
        deleted: list[Record] = []
        many = out.output == "json" and len(names) > 1

        def delete(name: str) -> None:
            reply = app.call_raw(DeleteProject(name, cascade=cascade))
            record = reply["project"] | {"deleted_records": reply["records"]}
            deleted.append(record)
            if not many:
                out.one(record, key="name", sentence=lambda: _print_deleted(record))

        code = for_each(names, delete)
        if many:
            out.many(deleted, (), key="name", nothing=_PROJECT.nothing("deleted"))
        return code

    yes = click.Option(["-y", "--yes"], is_flag=True, help="Skip confirmation.")
    cascade = click.Option(["--cascade"], is_flag=True, help="Delete its services and VM records too.")
    return verb(DeleteProject, run, parameters=[cascade, yes], exclude=("cascade",), variadic=True, help=_DELETE_HELP)


_DELETE_HELP = """Delete projects of which nothing runs.

One that has services or VM records is deleted with --cascade, which names them before it asks.
"""


def _print_deleted(record: Record) -> None:
    for each in record["deleted_records"]:
        click.echo(f'Deleted {_WORDS.get(each["kind"], (each["kind"],))[0]} "{each["name"]}"')
    click.echo(f'Deleted project "{record["name"]}"')


def _question(holdings: Record, cascade: bool) -> str:
    project = holdings["project"]
    parts = []
    for kind, states in holdings["counts"].items():
        count = sum(states.values())
        names = [each["name"] for each in holdings["records"] if each["kind"] == kind][:_SHOWN]
        more = ", …" if count > len(names) else ""
        parts.append(f"{count} {_WORDS.get(kind, (kind, kind))[count != 1]} ({', '.join(names)}{more})")
    what = f" with {' and '.join(parts)}" if parts and cascade else ""
    return f'Delete project "{project["name"]}" ({project["id"]}){what}?'


def _complete(app: App, incomplete: str) -> list[str]:
    return names_starting(app, ListProjects, _PROJECT, incomplete)


def shell_complete_project(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of a project, for an option or an argument."""
    from nexus.cli.verbs import shell_complete

    names: list[str] = shell_complete("project")(ctx, parameter, incomplete)
    return names


def _make_create() -> click.Command:
    return make_create(CreateProject, _PROJECT, told=lambda one: f"status: {one['status']}", help=_CREATE_HELP)


_CREATE_HELP = """Create a project: a scope in which names are unique.

With --root, it is the project of that folder: ordinary verbs speak in it there and below. An apply in a folder creates
its project by itself.

\b
    nexusctl project create shop --root ~/shop
"""

completers["project"] = _complete

project = NounGroup(
    "project",
    "Manage projects.",
    {
        "create": ("Create a project.", _make_create),
        "list": ("List projects.", lambda: make_list(ListProjects, _PROJECT, _COLUMNS)),
        "inspect": ("Show projects with the number of their records.", _make_inspect),
        "update": ("Change a project: its name, its folder.", lambda: make_update(UpdateProject, _PROJECT)),
        "delete": ("Delete projects of which nothing runs.", _make_delete),
    },
    {
        **dict.fromkeys(("rm", "remove"), " (did you mean 'delete'?)"),
        **dict.fromkeys(("show", "get", "info", "status"), " (did you mean 'inspect'?)"),
        "ls": " (did you mean 'list'?)",
        **dict.fromkeys(("rename", "move", "edit"), " (did you mean 'update'?)"),
        **dict.fromkeys(("add", "new"), " (did you mean 'create'?)"),
    },
)
