"""``nexusctl message``: add, list, show, edit and delete messages of a conversation."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from nexus.cli.output import Column, Printer, can_ask, confirm, format_time
from nexus.cli.result import Result, Results
from nexus.cli.verbs import NounGroup, Number, Values, for_each, verb
from nexus.conversations.cli.conversations import messages_of
from nexus.conversations.cli.shown import message_names, rendered
from nexus.conversations.commands import (
    CreateMessage,
    DeleteMessage,
    EditMessage,
    GetMessage,
    GetMessageRevisions,
    ListMessages,
)
from nexus.conversations.records import MESSAGE_BYTES, Message, MessageRevisions
from nexus.conversations.states import Role
from nexus.hints import command_line

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["message"]

_WIDTH = 60


def _begin(message: Message) -> str:
    text = " ".join((message.content or "").split())
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


_COLUMNS: tuple[Column[Message], ...] = (
    Column("NUMBER", lambda one: one.number, 6),
    Column("ROLE", lambda one: one.role, 9),
    Column("CREATED", lambda one: format_time(one.created_at), 23),
    Column("TEXT", _begin),
    Column("STATUS", lambda one: one.status, wide=True),
    Column("MODEL", lambda one: one.model, wide=True),
    Column("TOKENS", lambda one: one.tokens, wide=True),
    Column("ID", lambda one: one.id, wide=True),
)


def _text(values: Values) -> str | None:
    """The text of a message: the argument, or the standard input for ``-``.

    Raises:
        UsageError: it is larger than 4 MiB, or no UTF-8.
    """
    text = values.text("text")
    if text != "-":
        return text
    data = sys.stdin.buffer.read(MESSAGE_BYTES + 1)
    if len(data) > MESSAGE_BYTES:
        raise click.UsageError("the standard input is larger than 4 MiB")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise click.UsageError("the standard input is not UTF-8") from None


def _make_add() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        result = app.fetch(values.build(CreateMessage, role=Role(values.word("role")), content=_text(values)))
        out.one(result, name=message_names(app), sentence=lambda one: click.echo(f"Added message {one.number}"))

    text = click.Argument(["text"], metavar="TEXT")
    role = click.Option(
        ["--role"],
        type=click.Choice([role.value for role in Role]),
        default="user",
        help="Who said it (default: user).",
    )
    return verb(
        CreateMessage,
        run,
        parameters=[text, role],
        exclude=("role", "content", "parts", "metadata", "source", "source_id", "id"),
        help="Add a message to a conversation. TEXT is its text; - reads it from the standard input.",
    )


def _make_list() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        limit = values.number("limit")
        found = messages_of(
            app, values.word("conversation"), limit, from_start=not values.flag("last"), match=values.text("match")
        )
        out.many(found, _COLUMNS, name=message_names(app), nothing="No messages found.")

    limit = click.Option(["--limit"], type=Number(1), help="Maximum number of messages (default: all).")
    last = click.Option(["--last"], is_flag=True, help="The last ones, 20 by default.")
    return verb(ListMessages, run, parameters=[limit, last], exclude=("at_end", "after", "before", "parts", "limit"))


def _make_show() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> int:
        names = values.every("message", str)
        if values.flag("revisions"):
            for name in names:
                _show_revisions(app, name, out)
            return 0
        found: list[Result[Message]] = []
        code = for_each(names, lambda name: found.append(app.fetch(GetMessage(name))))
        if out.for_person:
            for index, result in enumerate(found):
                click.echo("\n" * (index > 0), nl=False)
                for line in rendered(result.record, unfold=True):
                    click.echo(line)
        elif len(names) > 1:
            out.many(Results.of(found), (), name=message_names(app), nothing="No messages found.")
        elif found:
            out.one(found[0], name=message_names(app), sentence=lambda _message: None)
        return code

    revisions = click.Option(["--revisions"], is_flag=True, help="What it was before it was edited or deleted.")
    return verb(GetMessage, run, parameters=[revisions], variadic=True)


def _show_revisions(app: App, name: str, out: Printer) -> None:
    pages = []
    before: int | None = None
    while True:
        page = app.fetch(GetMessageRevisions(name, before=before))
        pages.append(page.rows(MessageRevisions.revisions))
        before = page.plain.get("before")
        if before is None:
            break
    found = Results.joined(pages)
    if not out.for_person:
        out.many(found, (), name=lambda one: one.revision, nothing="No revisions found.")
        return
    if not found:
        click.echo("No revisions found.", err=True)
    for one in found.records:
        click.echo(f"── revision {one.revision} · {one.change} {format_time(one.changed_at)}")
        click.echo(one.content)


def _make_edit() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        result = app.fetch(values.build(EditMessage, content=_text(values)))
        out.one(result, name=message_names(app), sentence=lambda one: click.echo(f"Changed message {one.number}"))

    text = click.Argument(["text"], metavar="[TEXT]", required=False)
    return verb(
        EditMessage,
        run,
        parameters=[text],
        exclude=("content", "parts", "metadata"),
        help="Change a message. TEXT is its new text; - reads it from the standard input.",
    )


def _make_delete() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> int:
        names = values.every("message", str)
        if not values.flag("yes"):
            question = ""
            if can_ask():
                found: list[Message] = []
                if code := for_each(names, lambda name: found.append(app.call(GetMessage(name)))):
                    return code
                names = [one.id for one in found]
                question = (
                    f"Delete {'message' if len(found) == 1 else 'messages'} {', '.join(one.name for one in found)}?"
                )
            line = command_line("nexusctl", "message", "delete", *names, "--yes")
            if not confirm(question, "refusing to delete message without confirmation", line):
                return 1
        deleted: list[Result[Message]] = []
        many = out.output == "json" and len(names) > 1

        def delete(name: str) -> None:
            result = app.fetch(DeleteMessage(name))
            deleted.append(result)
            if not many:
                out.one(
                    result, name=message_names(app), sentence=lambda one: click.echo(f"Deleted message {one.number}")
                )

        code = for_each(names, delete)
        if many:
            out.many(Results.of(deleted), (), name=message_names(app), nothing="No messages deleted.")
        return code

    yes = click.Option(["-y", "--yes"], is_flag=True, help="Skip confirmation.")
    return verb(DeleteMessage, run, parameters=[yes], variadic=True)


message = NounGroup(
    "message",
    "Add, show and edit messages.",
    {
        "add": ("Add a message to a conversation.", _make_add),
        "list": ("List the messages of a conversation.", _make_list),
        "show": ("Show messages, with all that they were made of.", _make_show),
        "edit": ("Change a message; its old text is kept.", _make_edit),
        "delete": ("Delete messages; their text is kept with the conversation.", _make_delete),
    },
    {
        **dict.fromkeys(("rm", "remove"), " (did you mean 'delete'?)"),
        **dict.fromkeys(("get", "inspect", "cat"), " (did you mean 'show'?)"),
        **dict.fromkeys(("create", "new", "send"), " (did you mean 'add'?)"),
        "update": " (did you mean 'edit'?)",
        "ls": " (did you mean 'list'?)",
    },
)
