"""Messages as they are kept: text that stands in the content and in a part is in the content alone.

It knows no table and no daemon: functions from parts and contents to rows, and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nexus.conversations.errors import MessageInvalid
from nexus.conversations.records import MESSAGE_BYTES, MessagePart
from nexus.conversations.states import PartKind
from nexus.store.splitting import INDEXED_CHARACTERS

__all__ = ["PartRow", "Stored", "assemble", "joined_text", "stored", "with_new_text", "write_bytes"]

_BETWEEN = "\n\n"
"""Between two text parts, in the content."""


class PartRow(NamedTuple):
    """A part as a row: its columns but for those of its message and its place there."""

    kind: str
    tool: str | None = None
    call_id: str | None = None
    name: str | None = None
    media_type: str | None = None
    body: str | None = None
    """None: ``length`` characters of the content, from ``start`` on; or nothing where both are None."""
    start: int | None = None
    length: int | None = None
    blob: str | None = None
    continues: int = 0
    """1: it is more of the part before. Only open messages have such rows."""


class Stored(NamedTuple):
    """A message as it is kept."""

    content: str
    rows: list[PartRow]
    """Empty for a message that is text alone."""
    size_bytes: int


def write_bytes(texts: Iterable[str | None], others: int = 2048) -> int:
    """What a write of texts counts among the writes that share a commit: the index takes longer than the row."""
    return others + sum(len(text) + 3 * min(len(text), INDEXED_CHARACTERS) for text in texts if text)


def joined_text(parts: Iterable[MessagePart]) -> str:
    """The text of the text parts, with an empty line between them."""
    return _BETWEEN.join(part.body for part in parts if part.kind is PartKind.TEXT and part.body)


def stored(content: str | None, parts: Sequence[MessagePart] | None, cannot: str, *, bounded: bool = True) -> Stored:
    """Divide a message into what is kept. Without ``content`` it is the text of the text parts.

    One that is not ``bounded`` may be larger than a request may make it.

    Raises:
        MessageInvalid: it has neither text nor parts, or is too large. ``cannot`` begins the sentence.
    """
    if content is None and not parts:
        raise MessageInvalid(f"{cannot}: it has neither content nor parts", details={"path": "content"})
    text = joined_text(parts or ()) if content is None else content
    rows: list[PartRow] = []
    size = len(text.encode())
    at = 0
    for part in parts or ():
        start = text.find(part.body, at) if part.kind is PartKind.TEXT and part.body else -1
        body, length = part.body, None
        if start >= 0:
            assert part.body is not None
            body, length = None, len(part.body)
            at = start + length
        elif part.body is not None:
            size += len(part.body.encode())
        rows.append(
            PartRow(
                part.kind.value,
                part.tool,
                part.call_id,
                part.name,
                part.media_type,
                body,
                start if length is not None else None,
                length,
                part.blob,
            )
        )
    if bounded and size > MESSAGE_BYTES:
        raise MessageInvalid(
            f"{cannot}: it has {size} bytes, and a message 4 MiB at most",
            hint="Keep what is large as a file, or a blob.",
            details={"path": "content", "limit": MESSAGE_BYTES},
        )
    if len(rows) == 1 and rows[0] == PartRow(PartKind.TEXT.value, start=0, length=len(text)):
        rows = []
    return Stored(text, rows, size)


def assemble(content: str, rows: Iterable[PartRow]) -> list[MessagePart]:
    """Make the parts of a message from its rows; what continues a part is joined to it."""
    found: list[tuple[PartRow, list[str]]] = []
    for row in rows:
        body = row.body
        if body is None and row.start is not None and row.length is not None:
            body = content[row.start : row.start + row.length]
        if row.continues and found:
            found[-1][1].append(body or "")
        else:
            found.append((row, [] if body is None else [body]))
    return [
        MessagePart(
            PartKind(row.kind),
            "".join(bodies) if bodies else None,
            row.tool,
            row.call_id,
            row.name,
            row.media_type,
            row.blob,
        )
        for row, bodies in found
    ]


def with_new_text(parts: Sequence[MessagePart], content: str) -> list[MessagePart] | None:
    """The parts of a message whose text is replaced: one text part, in the place of the first; None: text alone."""
    if all(part.kind is PartKind.TEXT for part in parts):
        return None
    first = next((index for index, part in enumerate(parts) if part.kind is PartKind.TEXT), len(parts))
    others = [part for part in parts if part.kind is not PartKind.TEXT]
    before = sum(part.kind is not PartKind.TEXT for part in parts[:first])
    return [*others[:before], MessagePart(PartKind.TEXT, content), *others[before:]]
