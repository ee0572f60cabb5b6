"""How conversations and messages are shown to a person."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from nexus.cli.output import Column, colour_wanted, format_time, painted, printable, reference, shortened
from nexus.cli.records import Noun
from nexus.conversations.commands import GetConversation
from nexus.conversations.records import Conversation, ConversationPage, Message, MessagePart
from nexus.conversations.states import MessageStatus, PartKind, Role

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["COLUMNS", "Blobs", "CONVERSATION", "lines", "message_names", "part_heading", "rendered", "terminal_width"]

CONVERSATION = Noun("conversation", "conversations", "conversation", ConversationPage.conversations)
_TITLE_WIDTH = 50
_FOLDED_WIDTH = 80
_FOLDED = {
    PartKind.THINKING: "thinking",
    PartKind.TOOL_USE: "call",
    PartKind.TOOL_RESULT: "result",
    PartKind.IMAGE: "image",
    PartKind.FILE: "file",
    PartKind.RAW: "raw",
}

_COLOURS = {Role.USER: "blue", Role.ASSISTANT: "green", Role.TOOL: "yellow"}


Blobs = Callable[[str], bytes | None]
"""Gives the content of a blob; None where it is missing."""


def _short(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _marks(conversation: Conversation) -> str | None:
    marks = [name for name in ("pinned", "archived") if getattr(conversation, name)]
    return " ".join([*marks, *conversation.tags]) or None


COLUMNS: tuple[Column[Conversation], ...] = (
    Column("NUMBER", lambda one: one.number, 6),
    Column("UPDATED", lambda one: format_time(one.updated_at), 23),
    Column("MESSAGES", lambda one: one.messages, 8),
    Column("TITLE", lambda one: _short(one.title, _TITLE_WIDTH), 20),
    Column("TAGS", _marks),
    Column("TOOL", lambda one: one.tool, wide=True),
    Column("FOLDER", lambda one: one.folder, wide=True),
    Column("TOKENS", lambda one: one.tokens, wide=True),
    Column("CREATED", lambda one: format_time(one.created_at), wide=True),
    Column("ID", lambda one: one.id, wide=True),
)


def lines(one: Conversation) -> list[tuple[str, object]]:
    """The labels and values of one conversation."""
    return [
        ("Conversation", one.number),
        ("ID", one.id),
        ("Project", None if one.project == "default" else one.project),
        ("Title", one.title),
        ("Tags", " ".join(one.tags) or None),
        ("Archived", "yes" if one.archived else None),
        ("Pinned", "yes" if one.pinned else None),
        ("Folder", one.folder),
        ("Tool", one.tool),
        ("Source", None if one.source is None else f"{one.source} {one.source_id}"),
        ("Fork of", None if one.forked_from is None else f"{one.forked_from}, up to message {one.forked_at}"),
        ("Messages", one.messages),
        ("Tokens", one.tokens or None),
        ("Created", format_time(one.created_at)),
        ("Updated", format_time(one.updated_at)),
    ]


def message_names(app: App) -> Callable[[Message], str]:
    """What ``-o name`` prints of a message: ``CONVERSATION:NUMBER``, which every verb takes."""
    conversations: dict[str, str] = {}

    def name(message: Message) -> str:
        id_ = message.conversation_id
        if id_ not in conversations:
            conversations[id_] = reference(app.call(GetConversation(id_)))
        return f"{conversations[id_]}:{message.number}"

    return name


def rendered(message: Message, *, unfold: bool = False) -> Iterator[str]:
    """The lines of a message: a heading, then its text, in which everything else is folded to a line.

    On a terminal the text is wrapped to its width, and its Markdown is shown by colours.
    """
    details = [message.role.value, format_time(message.created_at) or ""]
    if message.model is not None:
        details.append(message.model)
    if message.status is not MessageStatus.COMPLETE:
        details.append(message.status.value)
    width = terminal_width()
    heading = _within(printable(f"── {message.number} · {' · '.join(details)}"), width)
    yield painted(heading, _COLOURS.get(message.role), bold=True) if colour_wanted() else heading
    if not message.parts:
        yield from _text(message.content or "", width)
    for part in message.parts:
        if part.kind is PartKind.TEXT:
            yield from _text(part.body or "", width)
        elif unfold:
            yield _dimmed(printable(f"▾ {part_heading(part)}"))
            yield from ("  " + line for line in _plain(part.body or ""))
        else:
            rest = _FOLDED_WIDTH if width is None else width
            line = printable(f"▸ {part_heading(part)}: {_short(part.body or part.blob or '', rest)}")
            yield _dimmed(_within(line, width))


def terminal_width() -> int | None:
    """How many columns the terminal has that is the standard output; None where it is none."""
    if not sys.stdout.isatty():
        return None
    import shutil

    return max(20, shutil.get_terminal_size().columns)


def _within(line: str, width: int | None) -> str:
    return line if width is None else shortened(line, width)


def _dimmed(line: str) -> str:
    return painted(line, None, dim=True) if colour_wanted() else line


def part_heading(part: MessagePart) -> str:
    """What a part is, in a few words."""
    name = part.tool or part.name or part.media_type
    word = _FOLDED.get(part.kind, part.kind.value)
    return word if name is None else f"{word} {name}"


def _plain(text: str) -> Iterator[str]:
    return map(printable, text.splitlines())


def _text(text: str, width: int | None) -> Iterator[str]:
    if width is None:
        return _plain(text)
    from nexus.conversations.cli.terminal_markdown import terminal_lines

    return terminal_lines(text, width, colour=colour_wanted())
