"""A conversation as Markdown to read: what was said as it is, calls of tools in fences."""

from __future__ import annotations

from collections.abc import Iterator

from nexus.cli.output import format_time, without_controls
from nexus.conversations.cli.markdown import fence_for, open_fence
from nexus.conversations.cli.shown import part_heading
from nexus.conversations.records import Conversation, Message, MessagePart
from nexus.conversations.states import MessageStatus, PartKind

__all__ = ["markdown"]


def markdown(one: Conversation, messages: Iterator[Message]) -> Iterator[str]:
    """The text of a conversation, piece by piece."""
    yield f"# {_line(one.title)}\n\n"
    details = [
        ("Created", format_time(one.created_at)),
        ("Updated", format_time(one.updated_at)),
        ("Tool", one.tool),
        ("Folder", one.folder),
        ("Tags", ", ".join(one.tags)),
    ]
    yield "".join(f"- {name}: {_line(value)}\n" for name, value in details if value)
    for message in messages:
        yield from _message(message)


def _message(message: Message) -> Iterator[str]:
    details = [message.role.value.capitalize(), format_time(message.created_at) or "", message.model or ""]
    if message.status is not MessageStatus.COMPLETE:
        details.append(message.status.value)
    yield f"\n## {message.number}. {_line(' · '.join(each for each in details if each))}\n"
    if not message.parts:
        yield _text(message.content or "")
    for part in message.parts:
        yield _text(part.body or "") if part.kind is PartKind.TEXT else _part(part)


def _line(text: str) -> str:
    return " ".join(without_controls(text).split("\n"))


def _text(text: str) -> str:
    """Text as it is; a fence that it leaves open is closed, so that the rest stays what it is."""
    text = without_controls(text).strip("\n")
    fence = open_fence(text)
    return f"\n{text}\n{fence}\n" if fence else f"\n{text}\n"


def _part(part: MessagePart) -> str:
    heading = _line(part_heading(part)).replace("*", "\\*").replace("`", "\\`")
    if part.body is None:
        return f"\n*{heading}*\n"
    body = without_controls(part.body).strip("\n")
    fence = fence_for(body)
    language = "json" if part.kind in (PartKind.TOOL_USE, PartKind.RAW) and body.startswith(("{", "[")) else ""
    return f"\n*{heading}*\n\n{fence}{language}\n{body}\n{fence}\n"
