"""The verbs of a record type: list, inspect, update and delete, made from its declarations and a few words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import click

from nexus.cli.output import (
    Column,
    Named,
    Printer,
    can_ask,
    confirm,
    handle,
    hint,
    of_project,
    print_fields,
    printable,
    reference,
)
from nexus.cli.result import Result, Results
from nexus.cli.verbs import NounGroup, Number, Values, command_parameters, completers, for_each, verb
from nexus.hints import command_line

if TYPE_CHECKING:
    from nexus_protocol.command import Command

    from nexus.cli.app import App

__all__ = [
    "Noun",
    "Removal",
    "all_records",
    "name_of",
    "names_starting",
    "print_list",
    "make_create",
    "make_delete",
    "make_inspect",
    "make_list",
    "make_switch",
    "make_update",
    "record_group",
    "remove_each",
    "where_found",
]

R = TypeVar("R", bound=Named)
T = TypeVar("T")

Lines = Callable[[R], list[tuple[str, object]]]
"""The labels and values by which a record is shown to a person."""

_PAGE = 10_000


class Noun(NamedTuple, Generic[R]):
    """How the command line speaks of a record type."""

    word: str
    """One record in a sentence: ``VM``."""
    plural: str
    verbs: str
    """The words before a verb: ``vm``."""
    rows: list[R]
    """The field of a page that has the records: ``VmPage.vms``."""

    def nothing(self, what: str = "found") -> str:
        """The sentence for no records."""
        return f"No {self.plural} {what}."


def name_of(record: Named) -> str:
    """What a record is called by: its number, else its name."""
    return handle(record)


def all_records(
    app: App,
    noun: Noun[R],
    page_of: Callable[[int, str | None], Command[Any]],
    *,
    limit: int | None = None,
    project: str | None = None,
) -> Results[R]:
    """All records of a project, by default of that of this run; at most ``limit``.

    ``page_of`` is the command that lists the records of one page, of a number of them and after a cursor.
    """
    pages: list[Results[R]] = []
    left = limit
    cursor: str | None = None
    while left is None or left > 0:
        count = _PAGE if left is None else min(_PAGE, left)
        page = app.fetch(page_of(count, cursor), project=project)
        pages.append(page.rows(noun.rows))
        left = None if left is None else left - len(pages[-1])
        cursor = page.plain.get("next_cursor")
        if cursor is None:
            break
    return Results.joined(pages)


def make_list(
    list_: type[Command[Any]],
    noun: Noun[R],
    columns: Sequence[Column[R]],
    *,
    parameters: Sequence[click.Parameter] = (),
    exclude: Sequence[str] = (),
) -> click.Command:
    """``list``: the fields of the command are filters. ``parameters`` replace those of ``exclude``."""

    def run(app: App, values: Values, out: Printer) -> None:
        def page_of(count: int, cursor: str | None) -> Command[Any]:
            return values.build(list_, limit=count, cursor=cursor)

        records = all_records(app, noun, page_of, limit=values.number("limit"))
        print_list(app, records, columns, out, name=name_of, nothing=noun.nothing())

    limit = click.Option(["--limit"], type=Number(1), help=f"Maximum number of {noun.plural} (default: all).")
    return verb(list_, run, parameters=[*parameters, limit], exclude=("cursor", "limit", *exclude))


def make_inspect(
    get: type[Command[R]],
    noun: Noun[R],
    lines: Lines[R],
    text: Callable[[R], str | None] = lambda _record: None,
) -> click.Command:
    """``inspect``: the fields of each named record, as ``lines`` names them for a person, and below them its text."""
    (reference, *_) = get.__struct_fields__

    def run(app: App, values: Values, out: Printer) -> int:
        found: list[Result[R]] = []
        names = values.every(reference, str)
        code = for_each(names, lambda name: found.append(app.fetch(values.build(get, **{reference: name}))))
        if out.for_person:
            for index, result in enumerate(found):
                click.echo("\n" * (index > 0), nl=False)
                print_fields(lines(result.record))
                if (body := text(result.record)) is not None:
                    click.echo("\n" + "\n".join(map(printable, body.splitlines())))
        elif len(names) > 1:
            out.many(Results.of(found), (), name=name_of, nothing=noun.nothing())
        elif found:
            out.one(found[0], name=name_of, sentence=lambda _record: None)
        return code

    help = f"Show {noun.word} details.\n\nNAME is a name, an id, or the first characters of an id, at least 4."
    return verb(get, run, variadic=True, help=help)


def make_create(
    create: type[Command[R]],
    noun: Noun[R],
    *,
    told: Callable[[R], str] = lambda _record: "",
    help: str | None = None,
    prepare: Callable[[App, Values], None] | None = None,
) -> click.Command:
    """``create``: ``told`` is what the sentence says of the new record, in parentheses.

    ``prepare`` changes values before the command is built.
    """

    def sentence(record: R) -> None:
        click.echo(f'Created {noun.word} "{name_of(record)}"' + (f" ({text})" if (text := told(record)) else ""))
        hint(f"Inspect it: {command_line('nexusctl', *noun.verbs.split(), 'inspect', reference(record))}")

    def run(app: App, values: Values, out: Printer) -> None:
        if prepare is not None:
            prepare(app, values)
        out.one(app.fetch(values.build(create)), name=name_of, sentence=sentence)

    return verb(create, run, help=help)


def make_update(
    update: type[Command[R]], noun: Noun[R], prepare: Callable[[App, Values], None] | None = None
) -> click.Command:
    """``update``: the fields of the command beside the reference and what it expects; one must be given.

    ``prepare`` changes values before the command is built.
    """
    (reference, *_) = update.__struct_fields__

    def run(app: App, values: Values, out: Printer) -> None:
        if not values.any_given(lambda field: field != reference and field[:3] != "if_"):
            changing = [option for option in command_parameters(update)[1:] if (option.name or "")[:3] != "if_"]
            *options, last = [option.opts[0] for option in changing]
            raise click.UsageError(f"nothing to change: give {', '.join(options)} or {last}")
        if prepare is not None:
            prepare(app, values)
        result = app.fetch(values.build(update))
        out.one(result, name=name_of, sentence=lambda record: click.echo(f'Updated {noun.word} "{name_of(record)}"'))

    return verb(update, run)


def print_list(
    app: App,
    records: Results[T],
    columns: Sequence[Column[T]],
    out: Printer,
    *,
    name: Callable[[T], object],
    nothing: str,
) -> None:
    """Print a list of the project of this run, or of all, and say so where it is empty for want of a project."""
    out.many(records, columns, name=name, nothing=nothing, projects=app.all_projects)
    if not records:
        app.hint_missing_project()


def names_starting(app: App, page: Command[Any], noun: Noun[R], incomplete: str) -> list[str]:
    """The names on a page that begin with a word, for completion: of the project of this run; ``P/`` asks in another
    project."""
    project, slash, start = incomplete.partition("/") if "/" in incomplete else ("", "", incomplete)
    if slash and not project[:1].isalnum():
        return []  # no project has such a name, and * is for all of them
    records = app.fetch(page, project=project or None).rows(noun.rows).records
    return [f"{project}{slash}{name_of(record)}" for record in records if name_of(record).startswith(start)]


def _removed(app: App, noun: Noun[R], removal: Removal[R], record: R) -> str:
    return f'{removal.done} {noun.word} "{name_of(record)}"{where_found(app, record)}'


def where_found(app: App, record: object) -> str:
    """What a destructive verb adds to its question and its result: the project that the line itself does not name."""
    return "" if app.project_option is not None else of_project(record)


class Removal(NamedTuple, Generic[R]):
    """How the records of a type are removed, and what is said of it."""

    verb: str
    """``delete`` or ``remove``."""
    done: str
    """``Deleted`` or ``Removed``."""
    look: Callable[[App, str], R]
    """Gets the record that a name stands for."""
    remove: Callable[[App, str], Result[R]]
    """Removes the record with this name or id, and returns it."""
    question: Callable[[App, list[R]], str]
    options: Sequence[str] = ()
    """Options of this line that are a part of the command line which skips the question."""
    in_order: Callable[[App, Sequence[str]], Sequence[int]] | None = None
    """Gives the places of the names in the order of their removal; by default that of the line."""
    words: Sequence[str] | None = None
    """How the line selects the records, where it is not by the names."""


def remove_each(app: App, names: Sequence[str], yes: bool, noun: Noun[R], removal: Removal[R], out: Printer) -> int:
    """Remove the named records, after a question unless ``yes``; returns the exit code.

    A record that others need, which are named too, is removed after them.
    """
    from nexus_protocol.errors import FailedPrecondition, NotFound

    typed: dict[str, str] = {}
    if not yes:
        # A name that begins with a dash must come after --.
        options = [*removal.options, "--yes"]
        given = names if removal.words is None else removal.words
        is_dashed = removal.words is None and any(name.startswith("-") for name in names)
        words = [*options, "--", *given] if is_dashed else [*given, *options]
        question = ""
        if can_ask():
            found: list[R] = []
            code = for_each(names, lambda name: found.append(removal.look(app, name)))
            if code:
                return code
            # Exactly the records of the question, even if their names are taken by others meanwhile.
            typed = {record.id: name for record, name in zip(found, names, strict=True)}
            question = removal.question(app, list({record.id: record for record in found}.values()))
            names = tuple(typed)
        line = command_line("nexusctl", *noun.verbs.split(), removal.verb, *words)
        if not confirm(question, f"refusing to {removal.verb} {noun.word} without confirmation", line):
            return 1

    order = range(len(names)) if removal.in_order is None else removal.in_order(app, names)
    places = {name: place for place, name in reversed([*enumerate(names)])}
    removed: list[Result[R]] = []
    one_document = out.output == "json" and len(names) > 1

    def remove(name: str) -> None:
        app.next_place(places[name])  # one that waited for others keeps its key
        try:
            result = removal.remove(app, name)
        except NotFound as error:
            error.message = error.message.replace(name, typed.get(name, name))
            raise
        removed.append(result)
        if not one_document:
            out.one(result, name=name_of, sentence=lambda record: click.echo(_removed(app, noun, removal, record)))

    names = tuple(names[place] for place in order)
    needed: list[str] = []

    def remove_or_wait(name: str) -> None:
        try:
            remove(name)
        except FailedPrecondition as error:
            if not error.type.endswith(".needed"):
                raise
            needed.append(name)

    code = 0
    while names:
        code = for_each(names, remove_or_wait) or code
        if len(needed) == len(names):
            code = for_each(needed, remove) or code
            break
        names, needed = tuple(needed), []
    if one_document:
        out.many(Results.of(removed), (), name=name_of, nothing=noun.nothing(removal.done.lower()))
    return code


def make_delete(
    get: type[Command[R]],
    delete: type[Command[Any]],
    noun: Noun[R],
    deleted: Callable[[Result[Any]], Result[R]] = lambda reply: reply,
) -> click.Command:
    """``delete``, after a question with the full names and ids, since a prefix of an id may have been typed.

    ``deleted`` gives the deleted record of a reply that has more.
    """
    (reference, *_) = get.__struct_fields__

    def question(app: App, records: list[R]) -> str:
        shown = [f'"{name_of(record)}"{where_found(app, record)} ({record.id})' for record in records]
        if len(shown) == 1:
            return f"Delete {noun.word} {shown[0]}?"
        return f"Delete {len(shown)} {noun.plural}: {', '.join(shown)}?"

    def run(app: App, values: Values, out: Printer) -> int:
        cascade = cascades and values.flag("cascade")
        others = {"cascade": True} if cascade else {}
        removal: Removal[R] = Removal(
            "delete",
            "Deleted",
            look=lambda app, name: app.call(get(name)),
            remove=lambda app, name: deleted(app.fetch(delete(name, **others))),
            question=question,
            options=["--cascade"] if cascade else [],
        )
        return remove_each(app, values.every(reference, str), values.flag("yes"), noun, removal, out)

    cascades = "cascade" in delete.__struct_fields__
    yes = click.Option(["-y", "--yes"], is_flag=True, help="Skip confirmation.")
    return verb(delete, run, parameters=[yes], variadic=True)


def make_switch(command: type[Command[R]], noun: Noun[R], done: str) -> click.Command:
    """A verb that sends a command for each named record; ``done`` begins the sentence that tells it: ``Paused``."""
    (reference, *_) = command.__struct_fields__

    def run(app: App, values: Values, out: Printer) -> int:
        found: list[Result[R]] = []
        code = for_each(values.every(reference, str), lambda name: found.append(app.fetch(command(name))))
        for result in found:
            out.one(result, name=name_of, sentence=lambda record: click.echo(f'{done} {noun.word} "{name_of(record)}"'))
        return code

    return verb(command, run, variadic=True)


def record_group(
    noun: Noun[R],
    help: str,
    create: type[Command[R]],
    list_: type[Command[Any]],
    get: type[Command[R]],
    update: type[Command[R]],
    delete: type[Command[R]],
    *,
    columns: Sequence[Column[R]],
    lines: Lines[R],
    helps: Sequence[str],
    told: Callable[[R], str] = lambda _record: "",
    create_help: str | None = None,
    suggestions: dict[str, str] | None = None,
) -> NounGroup:
    """A noun with the verbs of a record type.

    ``helps`` are the one-line helps of create, list, inspect, update and delete, ``told`` what the sentence of a create
    says of the new record in parentheses.
    """

    def complete(app: App, incomplete: str) -> list[str]:
        return names_starting(app, list_(limit=_PAGE), noun, incomplete)

    completers[noun.verbs] = complete
    made: dict[str, Callable[[], click.Command]] = {
        "create": lambda: make_create(create, noun, told=told, help=create_help),
        "list": lambda: make_list(list_, noun, columns),
        "inspect": lambda: make_inspect(get, noun, lines),
        "update": lambda: make_update(update, noun),
        "delete": lambda: make_delete(get, delete, noun),
    }
    others = {
        **dict.fromkeys(("rm", "remove"), " (did you mean 'delete'?)"),
        **dict.fromkeys(("show", "get", "info"), " (did you mean 'inspect'?)"),
        "ls": " (did you mean 'list'?)",
    }
    verbs = {name: (text, make) for (name, make), text in zip(made.items(), helps, strict=True)}
    return NounGroup(noun.verbs, help, verbs, others | (suggestions or {}))
