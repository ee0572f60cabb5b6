"""What parsers give, and the small conversions that all of them need. Nothing here fails for what a file contains."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import msgspec

from nexus.conversations.import_records import ImportedConversation, ImportedMessage
from nexus.conversations.importing.redaction import Redactor
from nexus.conversations.records import MessagePart
from nexus.conversations.states import PartKind, Role

__all__ = [
    "MAX_BLOB_BYTES",
    "Attached",
    "Begun",
    "Item",
    "LineParser",
    "Said",
    "Skipped",
    "State",
    "as_dict",
    "as_list",
    "as_text",
    "bounded_metadata",
    "folder_of",
    "identifier",
    "image_part",
    "line_id",
    "one_line",
    "raw_message",
    "time_ms",
    "tokens_of",
]

MAX_BLOB_BYTES = 8 * 1024 * 1024
"""The largest blob that the daemon stores."""
_METADATA_BYTES = 12 * 1024
_METADATA_DEPTH = 6
_MAX_TITLE = 200
_MAX_ID = 255

State = dict[str, Any]
"""What a parser must know to go on from an offset: a small map that JSON can hold, without text of the file."""


class Begun(NamedTuple):
    """The messages that follow are of this conversation; told again, it has another title."""

    conversation: ImportedConversation
    is_whole: bool = False
    """Whether it is a conversation also where no message follows."""


class Said(NamedTuple):
    """A message, with the content of the blobs that its parts name."""

    message: ImportedMessage
    blobs: tuple[bytes, ...] = ()


class Attached(NamedTuple):
    """The content of a blob that later messages name."""

    blob: bytes


class Skipped(NamedTuple):
    """Something is not imported."""

    reason: str


Item = Begun | Said | Attached | Skipped


class LineParser(Protocol):
    """Reads one file, line after line, from its beginning or from where an earlier parser stopped."""

    def line(self, data: bytes, offset: int) -> Iterator[Item]:
        """Take a line, without its end, that begins at an offset of the file."""

    def raw(self, data: bytes, offset: int) -> Iterator[Item]:
        """Keep a line that ``line`` did not understand."""

    def end(self) -> Iterator[Item]:
        """Give what was held back, because the file ends here at present."""

    def position(self, offset: int) -> tuple[int, State]:
        """From where to go on once ``offset`` is reached: before a message that is held back."""


def as_dict(value: object) -> dict[str, Any]:
    """The value, if it is a map; else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """The value, if it is a list; else an empty one."""
    return value if isinstance(value, list) else []


def as_text(value: object) -> str | None:
    """The value, if it is a text that is not empty."""
    return value if isinstance(value, str) and value else None


def one_line(text: object, most: int = _MAX_TITLE) -> str | None:
    """Text as one line without control characters; None for none."""
    if not isinstance(text, str):
        return None
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * most]).split())
    return (line if len(line) <= most else line[: most - 1] + "…") or None


def identifier(text: str) -> str:
    """Text as a ``source_id``: itself, or a hash of it where it is too long or has control characters."""
    if 0 < len(text) <= _MAX_ID and text.isprintable():
        return text
    return "sha256-" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def line_id(conversation: str, data: bytes, offset: int) -> str:
    """The ``source_id`` of a line that has none: its place in the file, and a digest of it.

    A file that only grows has the same ids each time; another line at the place of an old one has another id.
    """
    return identifier(f"{conversation}:@{offset}.{hashlib.sha256(data).hexdigest()[:8]}")


def folder_of(value: object) -> str | None:
    """The value, if it is an absolute path."""
    text = as_text(value)
    return text if text is not None and text.startswith("/") and len(text) <= 4096 and "\0" not in text else None


def time_ms(value: object) -> int | None:
    """A time as ms since 1970: of ISO 8601 text, of seconds or of ms."""
    if isinstance(value, str):
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            return None
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        ms = at.timestamp() * 1000
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**53:
        ms = value if value >= 1e11 else value * 1000
    else:
        return None
    return int(ms) if 0 <= ms < 2**53 else None


def tokens_of(value: object) -> int | None:
    """The value, if it is a number of tokens."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2**53 else None


def bounded_metadata(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are there, within the bounds of metadata; what does not fit is left out."""
    found: dict[str, Any] = {}
    size = 0
    for name, value in values.items():
        if value in (None, "", [], {}, False):
            continue
        kept = _shallow(value, _METADATA_DEPTH)
        try:
            length = len(msgspec.msgpack.encode(kept)) + len(name) + 8
        except (OverflowError, ValueError, TypeError):
            continue
        if size + length <= _METADATA_BYTES:
            size += length
            found[name] = kept
    return found


def _shallow(value: Any, depth: int) -> Any:
    if isinstance(value, dict):
        return {str(key): _shallow(inner, depth - 1) for key, inner in value.items()} if depth > 0 else "…"
    if isinstance(value, list):
        return [_shallow(inner, depth - 1) for inner in value] if depth > 0 else "…"
    return value


_SUFFIXED = {"image/jpg": "image/jpeg"}


def image_part(media_type: object, data: object, name: object = None) -> tuple[MessagePart, tuple[bytes, ...]]:
    """The part for an image or a file in base64, with its content; a part without content where that is malformed."""
    kind = as_text(media_type) or "application/octet-stream"
    kind = _SUFFIXED.get(kind, kind)[:255]
    part_kind = PartKind.IMAGE if kind.startswith("image/") else PartKind.FILE
    content = b""
    if isinstance(data, str):
        try:
            content = base64.b64decode(data, validate=False)
        except (binascii.Error, ValueError):
            content = b""
    if not content or len(content) > MAX_BLOB_BYTES:
        why = "larger than 8 MiB, not kept" if content else "not kept"
        return MessagePart(part_kind, f"({why})", name=as_text(name), media_type=kind), ()
    hash_ = hashlib.sha256(content).hexdigest()
    return MessagePart(part_kind, name=as_text(name), media_type=kind, blob=hash_), (content,)


def raw_message(source_id: str, data: bytes, redactor: Redactor, created_at: int | None = None) -> Said:
    """A message for a line that is not understood: it is kept as a part of the kind raw."""
    part = MessagePart(PartKind.RAW, redactor.raw(data))
    return Said(ImportedMessage(source_id=source_id, role=Role.SYSTEM, parts=[part], created_at=created_at))
