"""``nexusctl conversation``: create, list, show, change, fork and delete conversations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nexus.cli.output import Printer, hint, of_project, reference
from nexus.cli.records import make_delete, make_inspect, make_list, make_update, name_of
from nexus.cli.result import Results
from nexus.cli.verbs import NounGroup, Number, Values, completers, verb
from nexus.conversations.cli.shown import COLUMNS, CONVERSATION, lines, message_names, rendered
from nexus.conversations.commands import (
    CreateConversation,
    DeleteConversation,
    ForkConversation,
    GetConversation,
    ListConversations,
    ListMessages,
    UpdateConversation,
)
from nexus.conversations.records import Conversation, Message, MessagePage
from nexus.hints import command_line

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["conversation"]

_PAGE = 1000
_RECENT = 20


def _created(one: Conversation) -> None:
    click.echo(f'Created conversation {one.number} "{one.title}"{of_project(one)}')
    hint(f"Add a message: {command_line('nexusctl', 'message', 'add', reference(one), 'TEXT')}")


def _make_create() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        title = values.text("given_title")
        command = values.build(CreateConversation, **({} if title is None else {"title": title}))
        out.one(app.fetch(command), name=name_of, sentence=_created)

    title = click.Argument(["given_title"], metavar="[TITLE]", required=False)
    return verb(CreateConversation, run, parameters=[title], exclude=("title", "metadata", "source", "source_id", "id"))


def _make_show() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        found = messages_of(app, values.word("conversation"), values.number("limit"), from_start=values.flag("all"))
        if not out.for_person:
            out.many(found, (), name=message_names(app), nothing="No messages found.")
            return
        if not found:
            click.echo("No messages found.", err=True)
        for index, message in enumerate(found.records):
            click.echo("\n" * (index > 0), nl=False)
            for line in rendered(message, unfold=values.flag("unfold")):
                click.echo(line)
        if found and found.records[0].number > 1 and not values.flag("all"):
            line = command_line("nexusctl", "conversation", "show", "--all", values.word("conversation"))
            hint(f"From its beginning: {line}")

    limit = click.Option(["--limit"], type=Number(1), help=f"How many messages at most (default: {_RECENT}).")
    every = click.Option(["--all"], is_flag=True, help="Begin at its beginning, and show all.")
    unfold = click.Option(["--unfold"], is_flag=True, help="Show calls of tools and their results in full.")
    return verb(
        ListMessages,
        run,
        parameters=[limit, every, unfold],
        exclude=("at_end", "after", "before", "parts", "limit", "match"),
        help=_SHOW_HELP,
    )


_SHOW_HELP = """Show the end of a conversation, with calls of tools folded to a line each."""


def messages_of(
    app: App, conversation: str, limit: int | None, *, from_start: bool, match: str | None = None
) -> Results[Message]:
    """The last messages of a conversation in their order, 20 by default; or the first ones, all by default.

    With ``match`` only those that the search finds.
    """
    pages: list[Results[Message]] = []
    left = limit if limit is not None or from_start else _RECENT
    position: int | None = None
    while left is None or left > 0:
        count = _PAGE if left is None else min(_PAGE, left)
        command = ListMessages(
            conversation, match=match, parts=True, limit=count, after=position if from_start else None
        )
        if not from_start:
            command = ListMessages(
                conversation, match=match, parts=True, limit=count, at_end=position is None, before=position
            )
        page = app.fetch(command)
        rows = page.rows(MessagePage.messages)
        pages.append(rows)
        left = None if left is None else left - len(rows)
        position = page.plain.get("after" if from_start else "before")
        if position is None:
            break
    return Results.joined(pages if from_start else pages[::-1])


def _make_fork() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        out.one(app.fetch(values.build(ForkConversation)), name=name_of, sentence=_forked)

    return verb(ForkConversation, run, exclude=("id",))


def _forked(one: Conversation) -> None:
    click.echo(f'Created conversation {one.number} "{one.title}", a fork up to message {one.forked_at}')


def _complete(app: App, incomplete: str) -> list[str]:
    page = app.call(ListConversations(limit=1000))
    return [one.name for one in page.conversations if one.name.startswith(incomplete)]


completers["conversation"] = _complete


def _make_import() -> click.Command:
    from nexus.conversations.cli.sources import make_import

    return make_import()


def _make_resume() -> click.Command:
    from nexus.conversations.cli.sources import make_resume

    return make_resume()


def _make_export() -> click.Command:
    from nexus.conversations.cli.export import make_export

    return make_export()


def _make_source() -> click.Command:
    from nexus.conversations.cli.sources import source

    return source


conversation = NounGroup(
    "conversation",
    "Manage conversations.",
    {
        "create": ("Create a conversation.", _make_create),
        "list": (
            "List conversations, the last changed one first.",
            lambda: make_list(ListConversations, CONVERSATION, COLUMNS),
        ),
        "show": ("Show the end of a conversation, or all of it.", _make_show),
        "inspect": ("Show conversation details.", lambda: make_inspect(GetConversation, CONVERSATION, lines)),
        "update": (
            "Change a conversation: its title, its tags.",
            lambda: make_update(UpdateConversation, CONVERSATION),
        ),
        "fork": ("Copy a conversation up to a message.", _make_fork),
        "import": ("Import conversations of other programs, or of an export.", _make_import),
        "export": ("Export conversations as Markdown, HTML or JSON Lines.", _make_export),
        "source": ("Manage what conversations are imported from.", _make_source),
        "resume": ("Print the command line that goes on in its program.", _make_resume),
        "delete": (
            "Delete conversations with their messages.",
            lambda: make_delete(GetConversation, DeleteConversation, CONVERSATION),
        ),
    },
    {
        **dict.fromkeys(("rm", "remove"), " (did you mean 'delete'?)"),
        **dict.fromkeys(("get", "info"), " (did you mean 'inspect'?)"),
        **dict.fromkeys(("cat", "view", "log"), " (did you mean 'show'?)"),
        **dict.fromkeys(("add", "new"), " (did you mean 'create'?)"),
        **dict.fromkeys(("edit", "rename", "tag"), " (did you mean 'update'?)"),
        "ls": " (did you mean 'list'?)",
    },
)
