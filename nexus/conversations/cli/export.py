"""``nexusctl conversation export``: a conversation as JSON Lines, Markdown or HTML, written as its pages arrive."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import secrets
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from nexus_protocol.errors import NotFound

from nexus.cli.output import Printer, reference, write_exact
from nexus.cli.verbs import FilePath, Values, verb
from nexus.conversations.cli.shown import Blobs
from nexus.conversations.commands import GetBlob, GetConversation, GetMessage, ListMessages
from nexus.conversations.errors import BlobDamaged
from nexus.conversations.importing.nexus_lines import SOURCE, VERSION
from nexus.conversations.records import Conversation, Message, MessagePart
from nexus.conversations.states import MessageStatus, PartKind

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["json_lines", "make_export", "messages_in_order"]

FORMATS = ("markdown", "jsonl", "html")
_PAGE = 200
_REMEMBERED = 4096
_HELP = """Export conversations: as Markdown to read, as HTML in one file, or as JSON Lines without any loss.

JSON Lines can be imported again, here or elsewhere, and make an equal conversation. The earlier revisions of messages
are not exported. Where the content of an image is missing or damaged, the rest is exported, and the exit code is 1."""


def make_export() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> int:
        del out
        return _export(app, values.every("conversation", str), values.word("format"), values.text("file"))

    return verb(
        GetConversation,
        run,
        parameters=[
            click.Option(
                ["--format"], type=click.Choice(FORMATS), default="markdown", help="The format (default: markdown)."
            ),
            click.Option(["-f", "--file"], type=FilePath(), help="Write this file (default: the standard output)."),
        ],
        variadic=True,
        help=_HELP,
    )


def _export(app: App, names: list[str], format_: str, file: str | None) -> int:
    # All are found before anything is written.
    found = [app.call(GetConversation(name)) for name in names]
    blobs = _Blobs(app)
    parts = _written(app, found, format_, blobs)
    if file is None:
        for text in parts:
            write_exact(text)
        sys.stdout.flush()
        return blobs.tell()
    try:
        _write_file(Path(file), parts)
    except OSError as error:
        click.echo(f"Error: cannot write {file}: {error.strerror}", err=True)
        return 1
    count = "1 conversation" if len(found) == 1 else f"{len(found)} conversations"
    click.echo(f"Exported {count} to {file}")
    return blobs.tell()


def _write_file(path: Path, parts: Iterator[str]) -> None:
    """Write a file that only its owner can read; it is in its place once it is complete.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists() and not path.is_file():
        with open(path, "w", encoding="utf-8", errors="replace") as stream:  # a pipe, /dev/null
            stream.writelines(parts)
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8", errors="replace", newline="\n") as stream:
            stream.writelines(parts)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


class _Blobs:
    """The contents of blobs, and which of them are lost."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._message = ""
        self._lost: dict[str, str] = {}

    def within(self, one: Conversation, messages: Iterator[Message]) -> Iterator[Message]:
        """The messages, and notes which one names a blob."""
        for message in messages:
            self._message = f"{reference(one)}:{message.number}"
            yield message

    def content(self, hash_: str) -> bytes | None:
        """The content with this hash; None where it is missing or damaged."""
        try:
            data = self._app.call(GetBlob(hash_)).data
        except NotFound as error:
            reason = "it is damaged" if isinstance(error, BlobDamaged) else "it is missing"
        else:
            if hashlib.sha256(data).hexdigest() == hash_:
                return data
            reason = "it is damaged"
        self._lost.setdefault(hash_, f"cannot export blob {hash_} of message {self._message}: {reason}")
        return None

    def tell(self) -> int:
        """Tell which blobs are lost; returns the exit code."""
        for sentence in self._lost.values():
            click.echo(f"Error: {sentence}", err=True)
        if self._lost:
            click.echo("  All else was exported. A backup with files may have it: nexusctl db backups", err=True)
        return 1 if self._lost else 0


def _written(app: App, conversations: list[Conversation], format_: str, blobs: _Blobs) -> Iterator[str]:
    if format_ == "jsonl":
        parents = _Parents(app)
        seen: set[str] = set()
        for one in conversations:
            yield from json_lines(
                one, blobs.within(one, messages_in_order(app, one.id)), blobs.content, parents.source_id, seen
            )
    elif format_ == "markdown":
        from nexus.conversations.cli.export_markdown import markdown

        for index, one in enumerate(conversations):
            yield "\n" * (index > 0)
            yield from markdown(one, messages_in_order(app, one.id))
    else:
        from nexus.conversations.cli.export_html import html

        yield from html(
            [(one, blobs.within(one, messages_in_order(app, one.id))) for one in conversations], blobs.content
        )


def messages_in_order(app: App, conversation: str) -> Iterator[Message]:
    """Every message of a conversation with its parts, from the first on, a page at a time."""
    after: int | None = None
    while True:
        page = app.call(ListMessages(conversation, parts=True, limit=_PAGE, after=after))
        yield from page.messages
        after = page.after
        if after is None:
            return


# JSON Lines


Parents = Callable[[Message], str | None]
"""Gives the ``source_id`` of the message that one answers."""


class _Parents:
    """What answered messages are called in an export. The last ones are remembered."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._known: OrderedDict[str, tuple[str, str]] = OrderedDict()

    def source_id(self, message: Message) -> str | None:
        """The ``source_id`` of the message that this one answers, if that is in the same conversation."""
        self._known[message.id] = (message.conversation_id, message.source_id or message.id)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        if message.parent_id is None:
            return None
        found = self._known.get(message.parent_id)
        if found is None:
            try:
                parent = self._app.call(GetMessage(message.parent_id))
            except NotFound:
                return None
            found = (parent.conversation_id, parent.source_id or parent.id)
        return found[1] if found[0] == message.conversation_id else None


def json_lines(
    one: Conversation,
    messages: Iterator[Message],
    blob: Blobs,
    parent_of: Parents,
    seen: set[str],
) -> Iterator[str]:
    """The lines of a conversation; ``seen`` are the blobs that were written before."""
    source = one.source or SOURCE
    header = {
        "nexus": "conversation",
        "version": VERSION,
        "source": source,
        "source_id": one.source_id or one.id,
        "title": one.title,
        "folder": one.folder,
        "tool": one.tool,
        "created_at": one.created_at,
        "updated_at": one.updated_at,
        "metadata": one.metadata,
        "forked_from": one.forked_from,
        "forked_at": one.forked_at,
    }
    yield _line(header)
    for message in messages:
        for part in message.parts:
            if part.blob is not None and part.blob not in seen:
                seen.add(part.blob)
                content = blob(part.blob)
                if content is not None:
                    yield _line({"nexus": "blob", "hash": part.blob, "data": base64.b64encode(content).decode()})
        yield _line(_message(message, source, parent_of(message)))


def _message(message: Message, source: str, parent: str | None) -> dict[str, Any]:
    own = message.source or SOURCE
    has_more = not message.parts or _text(message.parts) != (message.content or "")
    is_complete = message.status is MessageStatus.COMPLETE
    return {
        "nexus": "message",
        "number": message.number,
        "source": None if own == source else own,
        "source_id": message.source_id or message.id,
        "parent": parent,
        "role": message.role.value,
        "content": (message.content or "") if has_more else None,
        "parts": message.parts,
        "metadata": message.metadata,
        "model": message.model,
        "tokens": message.tokens,
        "created_at": message.created_at,
        "updated_at": message.updated_at,
        "status": None if is_complete else MessageStatus.INCOMPLETE.value,
    }


def _text(parts: list[MessagePart]) -> str:
    return "\n\n".join(part.body for part in parts if part.kind is PartKind.TEXT and part.body)


def _line(fields: dict[str, Any]) -> str:
    given = {name: value for name, value in fields.items() if value is not None and value != [] and value != {}}
    return msgspec.json.encode(given).decode() + "\n"
