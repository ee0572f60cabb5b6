"""Which records a verb is about: those that are named, ``--all`` or ``--tag``, with ``-A`` of every project.

What is named in one line is ordered by needs, so that no record is refused because of another one of the line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

import click
from nexus_protocol.command import Command
from nexus_protocol.errors import NexusError

from nexus.cli.output import Named
from nexus.cli.records import Noun
from nexus.cli.verbs import Values, shell_complete

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["Selection", "layers", "needs_of_line", "selected", "selection_parameters", "words_of"]

Needs = Mapping[str, Iterable[str]]
"""By the id of a record, the ids of those that it needs."""


class Scoped(Named, Protocol):
    """A record of a project."""

    @property
    def project_id(self) -> str:
        """The id of its project."""


R = TypeVar("R", bound=Scoped)
S = TypeVar("S")


class Selection(NamedTuple, Generic[R, S]):
    """How the records of a type, ``R``, are selected."""

    noun: Noun[R]
    field: str
    """The field of the commands that names a record, and of the values of the command line."""
    list_all: Callable[[App, str | None], list[R]]
    """Reads the records with a tag, by default all."""
    get: Callable[[str], Command[S]]
    """The command that gets the record of a reference."""
    record: Callable[[S], R]
    """The record in its reply."""
    needs: Callable[[App, str], Needs]
    """Reads what the records of the project with this id need."""


def selection_parameters(selection: Selection[R, S], *, required: bool = False) -> list[click.Parameter]:
    """The names, ``--all`` and ``--tag``; ``required`` is for a verb whose usage says that names are the usual way."""
    completes, plural = selection.noun.verbs, selection.noun.plural
    metavar = "NAME..." if required else "[NAME]..."
    return [
        click.Argument([selection.field], metavar=metavar, nargs=-1, shell_complete=shell_complete(completes)),
        click.Option(["--all"], is_flag=True, help=f"All {plural} of the project; with -A those of every project."),
        click.Option(["--tag"], help=f"All {plural} with this tag.", shell_complete=shell_complete(f"{completes} tag")),
    ]


def selected(app: App, values: Values, selection: Selection[R, S]) -> list[str]:
    """References to the records that are selected; those of ``-A`` are ids.

    Raises:
        UsageError: not exactly one of the three ways is given, or names with ``-A``.
    """
    names, every, tag = values.every(selection.field, str), values.flag("all"), values.text("tag")
    plural = selection.noun.plural
    if (bool(names) + every + (tag is not None)) != 1:
        raise click.UsageError(f"select {plural}: by name, with --all, or with --tag TAG")
    if names and app.all_projects:
        word = selection.noun.word
        raise click.UsageError(f"-A goes with --all or --tag TAG; name a {word} of another project as PROJECT/NAME")
    if names:
        return names
    found = selection.list_all(app, tag)
    if not found:
        click.echo(selection.noun.nothing(), err=True)
        app.hint_missing_project()
    return [record.id if app.all_projects else record.name for record in found]


def words_of(app: App, values: Values, selection: Selection[R, S]) -> list[str]:
    """The words of the command line that make this selection."""
    tag = values.text("tag")
    if not values.flag("all") and tag is None:
        return values.every(selection.field, str)
    return [*(["-A"] if app.all_projects else []), *(["--all"] if tag is None else ["--tag", tag])]


def needs_of_line(app: App, names: Sequence[str], selection: Selection[R, S]) -> dict[int, set[int]]:
    """Which of the named records need which, directly or not: by their places. One that is not found needs none."""
    if len(names) < 2:
        return {place: set() for place in range(len(names))}
    ids: dict[int, str] = {}
    projects: set[str] = set()
    for place, reply in app.fetch_all([selection.get(name) for name in names]):
        if not isinstance(reply, NexusError):  # its own command reports it
            record = selection.record(reply.record)
            ids[place] = record.id
            projects.add(record.project_id)
    edges: dict[str, list[str]] = {}
    for project in sorted(projects):
        for one, others in selection.needs(app, project).items():
            edges.setdefault(one, []).extend(others)
    places: dict[str, set[int]] = {}
    for place, id_ in ids.items():
        places.setdefault(id_, set()).add(place)
    from nexus import graph

    found: dict[int, set[int]] = {place: set() for place in range(len(names))}
    for place, id_ in ids.items():
        below = graph.closure(edges, edges.get(id_, ()))
        found[place] = {other for needed in below for other in places.get(needed, ())} - {place}
    return found


def layers(needs: Mapping[int, Iterable[int]], *, dependents_first: bool = False) -> list[list[int]]:
    """The places in groups: each is only in need of what is in groups before, or with ``dependents_first`` after it."""
    if not any(needs.values()):
        return [sorted(needs)]
    import graphlib  # not for the frequent case

    sorter = graphlib.TopologicalSorter(needs)
    sorter.prepare()
    found: list[list[int]] = []
    while sorter.is_active():
        ready = sorter.get_ready()
        found.append(sorted(ready))
        sorter.done(*ready)
    return found[::-1] if dependents_first else found
