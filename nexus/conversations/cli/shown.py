"""How conversations and messages are shown to a person."""

from __future__ import annotations

from collections.abc import Iterator

from nexus.cli.output import Column, format_time, printable
from nexus.cli.records import Noun
from nexus.conversations.records import Conversation, ConversationPage, Message, MessagePart
from nexus.conversations.states import MessageStatus, PartKind

__all__ = ["COLUMNS", "CONVERSATION", "lines", "rendered"]

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


def rendered(message: Message, *, unfold: bool = False) -> Iterator[str]:
    """The lines of a message: a heading, then its text, in which everything else is folded to a line."""
    details = [message.role.value, format_time(message.created_at) or ""]
    if message.model is not None:
        details.append(message.model)
    if message.status is not MessageStatus.COMPLETE:
        details.append(message.status.value)
    yield printable(f"── {message.number} · {' · '.join(details)}")
    if not message.parts:
        yield from _text(message.content or "")
    for part in message.parts:
        if part.kind is PartKind.TEXT:
            yield from _text(part.body or "")
        elif unfold:
            yield printable(f"▾ {_heading(part)}")
            yield from ("  " + line for line in _text(part.body or ""))
        else:
            yield printable(f"▸ {_heading(part)}: {_short(part.body or part.blob or '', _FOLDED_WIDTH)}")


def _heading(part: MessagePart) -> str:
    name = part.tool or part.name or part.media_type
    word = _FOLDED.get(part.kind, part.kind.value)
    return word if name is None else f"{word} {name}"


def _text(text: str) -> Iterator[str]:
    return map(printable, text.splitlines())
