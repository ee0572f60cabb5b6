"""Conversations as one HTML file that needs nothing else: no script, no address that is loaded.

All text is escaped. A link goes to http, https or mailto alone, and images are of types that hold no code.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape

from nexus.cli.output import format_time, without_controls
from nexus.conversations.cli.markdown import Block, blocks, spans
from nexus.conversations.cli.shown import Blobs, part_heading
from nexus.conversations.records import Conversation, Message, MessagePart
from nexus.conversations.states import MessageStatus, PartKind

__all__ = ["html"]

_SAFE_IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"})
_SAFE_LINKS = ("https://", "http://", "mailto:")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a;
  background: #fff; overflow-wrap: anywhere; }
article { border-left: 3px solid #bbb; padding: .2rem 1rem; margin: 1rem 0; }
article.user { border-color: #2563eb; } article.assistant { border-color: #16a34a; }
article > header, .details { color: #666; font-size: .85rem; }
pre { background: #f4f4f5; padding: .6rem; overflow-x: auto; white-space: pre-wrap; }
code { background: #f4f4f5; } blockquote { border-left: 2px solid #ccc; margin: .3rem 0; padding-left: .8rem; }
p { white-space: pre-wrap; } img { max-width: 100%; } summary { cursor: pointer; color: #555; }
.item { padding-left: calc(1.2rem * var(--depth, 1)); }
@media (prefers-color-scheme: dark) { body { color: #e5e5e5; background: #18181b; } pre, code { background: #27272a; } }
"""


def html(conversations: Sequence[tuple[Conversation, Iterator[Message]]], blob: Blobs) -> Iterator[str]:
    """The text of the file, piece by piece."""
    title = conversations[0][0].title if len(conversations) == 1 else f"{len(conversations)} conversations"
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
    )
    for one, messages in conversations:
        yield from _conversation(one, messages, blob)
    yield "</body>\n</html>\n"


def _text(text: str) -> str:
    return escape(without_controls(text), quote=True)


def _conversation(one: Conversation, messages: Iterator[Message], blob: Blobs) -> Iterator[str]:
    details = [
        f"created {format_time(one.created_at)}",
        f"updated {format_time(one.updated_at)}",
        one.tool,
        one.folder,
        *one.tags,
    ]
    shown = " · ".join(_text(each) for each in details if each)
    yield f'<h1>{_text(one.title)}</h1>\n<p class="details">{shown}</p>\n'
    for message in messages:
        yield from _message(message, blob)


def _message(message: Message, blob: Blobs) -> Iterator[str]:
    details = [str(message.number), message.role.value, format_time(message.created_at), message.model]
    if message.status is not MessageStatus.COMPLETE:
        details.append(message.status.value)
    shown = " · ".join(_text(each) for each in details if each)
    yield f'<article class="{_text(message.role.value)}">\n<header>{shown}</header>\n'
    if not message.parts:
        yield from _markdown(message.content or "")
    for part in message.parts:
        if part.kind is PartKind.TEXT:
            yield from _markdown(part.body or "")
        else:
            yield _part(part, blob)
    yield "</article>\n"


def _part(part: MessagePart, blob: Blobs) -> str:
    heading = _text(part_heading(part))
    if part.kind is PartKind.IMAGE and part.blob is not None and part.media_type in _SAFE_IMAGES:
        content = blob(part.blob)
        if content is not None:
            data = base64.b64encode(content).decode("ascii")
            return f'<p><img alt="{heading}" src="data:{part.media_type};base64,{data}"></p>\n'
    body = "" if part.body is None else f"<pre>{_text(part.body)}</pre>"
    return f"<details><summary>{heading}</summary>{body}</details>\n"


def _markdown(text: str) -> Iterator[str]:
    for block in blocks(text):
        yield _block(block)


def _block(block: Block) -> str:
    match block.kind:
        case "blank":
            return ""
        case "rule":
            return "<hr>\n"
        case "code":
            return f"<pre><code>{_text(block.text)}</code></pre>\n"
        case "heading":
            level = min(6, block.level + 1)  # the title of the conversation is the first
            return f"<h{level}>{_inline(block.text)}</h{level}>\n"
        case "item":
            marker = "•" if block.word in "-*+" else _text(block.word)
            return f'<div class="item" style="--depth:{block.level + 1}">{marker} {_inline(block.text)}</div>\n'
        case "quote":
            return f"<blockquote>{_inline(block.text)}</blockquote>\n"
        case _:
            return f"<p>{_inline(block.text)}</p>\n"


def _inline(text: str) -> str:
    found = []
    for span in spans(text):
        shown = _text(span.text)
        if span.kind == "code":
            shown = f"<code>{shown}</code>"
        elif span.kind == "strong":
            shown = f"<strong>{shown}</strong>"
        elif span.kind == "emphasis":
            shown = f"<em>{shown}</em>"
        elif span.kind == "link":
            if span.target.lower().startswith(_SAFE_LINKS):
                shown = f'<a href="{_text(span.target)}" rel="noreferrer noopener">{shown}</a>'
            else:
                shown = f"{shown} ({_text(span.target)})"
        found.append(shown)
    return "".join(found)
