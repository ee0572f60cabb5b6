"""``nexusctl project``: the verbs of projects, and how projects are printed."""

from __future__ import annotations

import re
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from nexus.cli.output import Column, Printer, can_ask, confirm, format_time, print_fields
from nexus.cli.records import Noun, make_create, make_list, make_switch, make_update, name_of, names_starting
from nexus.cli.result import Result, Results
from nexus.cli.verbs import NounGroup, Values, completers, for_each, verb
from nexus.hints import command_line
from nexus.projects.commands import (
    CompleteProject,
    CreateProject,
    DeleteProject,
    FailProject,
    GetProjectHoldings,
    ListProjects,
    PauseProject,
    Project,
    ProjectDeleted,
    ProjectHoldings,
    ProjectPage,
    ResumeProject,
    UpdateProject,
)

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["project", "shell_complete_project"]

_PROJECT = Noun("project", "projects", "project", ProjectPage.projects)
_COLUMNS: tuple[Column[Project], ...] = (
    Column("NAME", lambda project: project.name, 20),
    Column("STATUS", lambda project: project.status, 12),
    Column("MODE", lambda project: project.mode, 10),
    Column("ROOT", lambda project: project.root_path, 30),
    Column("CREATED", lambda project: format_time(project.created_at or None), wide=True),
    Column("ID", lambda project: project.id, wide=True),
)
_WORDS = {
    "service": ("service", "services"),
    "vm": ("VM", "VMs"),
    "feature": ("feature", "features"),
    "sub_feature": ("sub-feature", "sub-features"),
    "requirement": ("requirement", "requirements"),
    "session": ("session", "sessions"),
}
_SHOWN = 20


def _lines(holdings: ProjectHoldings) -> list[tuple[str, object]]:
    project = holdings.project
    return [
        ("Name", project.name),
        ("ID", project.id),
        ("Status", project.status),
        ("Mode", project.mode),
        ("Root", project.root_path),
        ("Repository", project.repository_url),
        ("Description", project.description),
        ("Created", format_time(project.created_at or None)),
        ("Completed", format_time(project.completed_at)),
        *[
            (_WORDS.get(kind, (kind, kind))[1].capitalize() if kind != "vm" else "VMs", _states(states))
            for kind, states in holdings.counts.items()
        ],
    ]


def _states(states: dict[str, int]) -> str:
    shown = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"{sum(states.values())} ({shown})"


def _make_inspect() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> int:
        found: list[Result[ProjectHoldings]] = []
        references = values.every("projects", str) or [""]
        code = for_each(references, lambda name: found.append(app.fetch(GetProjectHoldings(name or None))))
        if out.for_person:
            for index, holdings in enumerate(found):
                click.echo("\n" * (index > 0), nl=False)
                print_fields(_lines(holdings.record))
            return code
        projects = [_with_counts(holdings) for holdings in found]
        if len(references) > 1:
            out.many(Results.of(projects), (), name=name_of, nothing=_PROJECT.nothing())
        elif projects:
            out.one(projects[0], name=name_of, sentence=lambda _project: None)
        return code

    names = click.Argument(
        ["projects"], metavar="[NAME]...", nargs=-1, required=False, shell_complete=shell_complete_project
    )
    return verb(GetProjectHoldings, run, parameters=[names], exclude=("project",), help=_INSPECT_HELP)


def _with_counts(holdings: Result[ProjectHoldings]) -> Result[Project]:
    """A project, for a program with the number of its records."""
    project = holdings.part(ProjectHoldings.project)
    return Result(project.plain | {"counts": holdings.plain["counts"]}, lambda: project.record)


_INSPECT_HELP = """Show projects with the number of their records; without a name, the project of this folder."""


def _make_delete() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> int:
        names, cascade = values.every("project", str), values.flag("cascade")
        if not values.flag("yes"):
            words = [*names, *(["--cascade"] if cascade else []), "--yes"]
            line = command_line("nexusctl", "project", "delete", *words)
            question = ""
            if can_ask():
                found: list[ProjectHoldings] = []
                if code := for_each(names, lambda name: found.append(app.call(GetProjectHoldings(name)))):
                    return code
                # Exactly the projects of the question, even if their names are taken by others meanwhile.
                names = list(dict.fromkeys(holdings.project.id for holdings in found))
                question = "\n".join(_question(holdings, cascade) for holdings in found)
            if not confirm(question, "refusing to delete project without confirmation", line):
                return 1
        deleted: list[Result[ProjectDeleted]] = []
        many = out.output == "json" and len(names) > 1

        def delete(name: str) -> None:
            reply = app.fetch(DeleteProject(name, cascade=cascade))
            plain = reply.plain["project"] | {"deleted_records": reply.plain["records"]}
            result = Result(plain, lambda: reply.record)
            deleted.append(result)
            if not many:
                out.one(result, name=_deleted_name, sentence=_print_deleted)

        code = for_each(names, delete)
        if many:
            out.many(Results.of(deleted), (), name=_deleted_name, nothing=_PROJECT.nothing("deleted"))
        return code

    yes = click.Option(["-y", "--yes"], is_flag=True, help="Skip confirmation.")
    cascade = click.Option(["--cascade"], is_flag=True, help="Delete its services and VM records too.")
    return verb(DeleteProject, run, parameters=[cascade, yes], exclude=("cascade",), variadic=True, help=_DELETE_HELP)


_DELETE_HELP = """Delete projects of which nothing runs.

One that has services or VM records is deleted with --cascade, which names them before it asks.
"""


def _deleted_name(reply: ProjectDeleted) -> str:
    return reply.project.name


def _print_deleted(reply: ProjectDeleted) -> None:
    for each in reply.records:
        click.echo(f'Deleted {_WORDS.get(each.kind, (each.kind,))[0]} "{each.name}"')
    click.echo(f'Deleted project "{reply.project.name}"')


def _question(holdings: ProjectHoldings, cascade: bool) -> str:
    project = holdings.project
    parts = []
    for kind, states in holdings.counts.items():
        count = sum(states.values())
        names = [each.name for each in holdings.records if each.kind == kind][:_SHOWN]
        more = ", …" if count > len(names) else ""
        parts.append(f"{count} {_WORDS.get(kind, (kind, kind))[count != 1]} ({', '.join(names)}{more})")
    what = f" with {' and '.join(parts)}" if parts and cascade else ""
    return f'Delete project "{project.name}" ({project.id}){what}?'


def _complete(app: App, incomplete: str) -> list[str]:
    return names_starting(app, ListProjects(limit=10_000), _PROJECT, incomplete)


def shell_complete_project(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of a project, for an option or an argument."""
    from nexus.cli.verbs import shell_complete

    return shell_complete("project")(ctx, parameter, incomplete)


def _make_create() -> click.Command:
    return make_create(
        CreateProject, _PROJECT, told=lambda one: f"status: {one.status}", help=_CREATE_HELP, prepare=_typed
    )


_CREATE_HELP = """Create a project: a scope in which names are unique.

With --root, it is the project of that folder: ordinary verbs speak in it there and below. An apply in a folder creates
its project by itself.

\b
    nexusctl project create shop --root ~/shop
"""


def _make_move(command: type[Any], done: str) -> click.Command:
    """A verb that moves each named project, with a reason where the command has one."""

    def run(app: App, values: Values, out: Printer) -> int:
        found: list[Result[Project]] = []
        code = for_each(
            values.every("project", str), lambda name: found.append(app.fetch(values.build(command, project=name)))
        )
        for result in found:
            out.one(result, name=name_of, sentence=lambda one: click.echo(f'{done} project "{one.name}"'))
        return code

    return verb(command, run, variadic=True)


completers["project"] = _complete


def _files() -> ModuleType:
    """The files of plans."""
    from nexus.cli import plan_files

    return plan_files


def _sync() -> ModuleType:
    """The files that are kept in a repository."""
    from nexus.cli import plan_sync

    return plan_sync


def _pages() -> ModuleType:
    """The pages, which other verbs of projects do not need."""
    from nexus.cli import pages

    return pages


def _typed(_app: App, values: Values) -> None:
    """Make numbers of known settings, which are text on the command line; the daemon refuses what is none."""
    from nexus.records.known_settings import KNOWN_SETTINGS

    given: dict[str, str] = dict(values.every("settings", tuple))
    if given:
        values.put(
            "settings",
            {
                key: int(value) if key in KNOWN_SETTINGS and re.fullmatch("-?[0-9]{1,18}", value) else value
                for key, value in given.items()
            },
        )


project = NounGroup(
    "project",
    "Manage projects.",
    {
        "create": ("Create a project.", _make_create),
        "list": ("List projects.", lambda: make_list(ListProjects, _PROJECT, _COLUMNS)),
        "inspect": ("Show projects with the number of their records.", _make_inspect),
        "update": ("Change a project: its name, its folder.", lambda: make_update(UpdateProject, _PROJECT, _typed)),
        "pause": ("Pause projects: none of their tasks is ready.", lambda: _make_move(PauseProject, "Paused")),
        "resume": ("Let projects go on.", lambda: make_switch(ResumeProject, _PROJECT, "Resumed")),
        "complete": ("Complete projects.", lambda: make_switch(CompleteProject, _PROJECT, "Completed")),
        "fail": ("Give projects up.", lambda: _make_move(FailProject, "Failed")),
        "delete": ("Delete projects of which nothing runs.", _make_delete),
        "overview": ("Show a project at a glance.", lambda: _pages().make_overview()),
        "board": ("Show tasks in columns of a board.", lambda: _pages().make_board()),
        "execution": ("Show what is worked on.", lambda: _pages().make_execution()),
        "import": ("Add the plan of a file.", lambda: _files().make_import()),
        "export": ("Write the plan to a file.", lambda: _files().make_export()),
        "sync": ("Merge the plan with a file of the repository.", lambda: _sync().make_sync()),
    },
    {
        **dict.fromkeys(("rm", "remove"), " (did you mean 'delete'?)"),
        **dict.fromkeys(("show", "get", "info", "status"), " (did you mean 'inspect'?)"),
        "ls": " (did you mean 'list'?)",
        **dict.fromkeys(("rename", "move", "edit"), " (did you mean 'update'?)"),
        **dict.fromkeys(("add", "new"), " (did you mean 'create'?)"),
    },
)
