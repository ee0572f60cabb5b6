"""Gemini CLI: one JSON document for each session, which is written anew as the session goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nexus.conversations.import_records import ImportedConversation, ImportedMessage
from nexus.conversations.importing.parsed import (
    Begun,
    Item,
    Said,
    Skipped,
    as_dict,
    as_list,
    as_text,
    bounded_metadata,
    folder_of,
    identifier,
    image_part,
    one_line,
    time_ms,
    tokens_of,
)
from nexus.conversations.importing.redaction import Redactor
from nexus.conversations.records import MessagePart
from nexus.conversations.states import PartKind, Role

__all__ = ["SOURCE", "parse_document"]

SOURCE = "gemini"
_ROLES = {"user": Role.USER, "gemini": Role.ASSISTANT, "model": Role.ASSISTANT}
_ROLES |= dict.fromkeys(("info", "warning", "error", "system"), Role.SYSTEM)
_ROOT_BYTES = 4096


def parse_document(document: Any, path: Path, redactor: Redactor) -> Iterator[Item]:
    """Everything that a document tells."""
    session = as_dict(document)
    messages = session.get("messages")
    if not isinstance(messages, list):
        yield Skipped("no session of Gemini")
        return
    source_id = identifier(as_text(session.get("sessionId")) or path.stem)
    title = one_line(session.get("summary"))
    if title is None:
        first = next((_content(each) for each in map(as_dict, messages) if each.get("type") == "user"), None)
        title = one_line(first)
    yield Begun(
        ImportedConversation(
            source=SOURCE,
            source_id=source_id,
            title=title,
            folder=_folder(path),
            tool=SOURCE,
            created_at=time_ms(session.get("startTime")),
            metadata=bounded_metadata({"project_hash": session.get("projectHash"), "kind": session.get("kind")}),
        )
    )
    for number, each in enumerate(messages):
        yield from _message(each, number, source_id, redactor)


def _folder(path: Path) -> str | None:
    """The folder of the project, which newer versions note beside their chats."""
    try:
        with open(path.parent.parent / ".project_root", encoding="utf-8", errors="replace") as file:
            return folder_of(file.read(_ROOT_BYTES).strip())
    except OSError:
        return None


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    texts = [content] if isinstance(content, str) else [as_dict(each).get("text") for each in as_list(content)]
    return "\n".join(text for text in texts if isinstance(text, str))


def _message(value: Any, number: int, session: str, redactor: Redactor) -> Iterator[Item]:
    message = as_dict(value)
    kind = as_text(message.get("type"))
    role = _ROLES.get(kind or "")
    id_ = as_text(message.get("id")) or f"#{number}"
    at = time_ms(message.get("timestamp"))
    if role is None:
        part = MessagePart(PartKind.RAW, redactor.body(value))
        raw = ImportedMessage(source_id=identifier(f"{session}:{id_}"), role=Role.SYSTEM, parts=[part], created_at=at)
        yield Said(raw)
        return
    parts: list[MessagePart] = []
    blobs: tuple[bytes, ...] = ()
    for thought in map(as_dict, as_list(message.get("thoughts"))):
        words = [as_text(thought.get("subject")), as_text(thought.get("description"))]
        parts += [MessagePart(PartKind.THINKING, "\n".join(word for word in words if word))] if any(words) else []
    content = message.get("content")
    for block in [content] if isinstance(content, str) else as_list(content):
        found, data = _block(block, redactor)
        parts += found
        blobs += data
    for call in map(as_dict, as_list(message.get("toolCalls"))):
        parts += _call(call, redactor)
    if not parts:
        yield Skipped("empty message")
        return
    tokens = as_dict(message.get("tokens"))
    text: str | None = None
    if [part.kind for part in parts] == [PartKind.TEXT]:
        text, parts = parts[0].body, []
    yield Said(
        ImportedMessage(
            source_id=identifier(f"{session}:{id_}"),
            role=role,
            content=text,
            parts=parts,
            metadata=bounded_metadata({"usage": tokens, "level": kind if role is Role.SYSTEM else None}),
            model=one_line(message.get("model")),
            tokens=tokens_of(tokens.get("output")),
            created_at=at,
        ),
        blobs,
    )


def _block(value: Any, redactor: Redactor) -> tuple[list[MessagePart], tuple[bytes, ...]]:
    if isinstance(value, str):
        return ([MessagePart(PartKind.TEXT, value)] if value else []), ()
    block = as_dict(value)
    if isinstance(block.get("text"), str):
        kind = PartKind.THINKING if block.get("thought") is True else PartKind.TEXT
        return ([MessagePart(kind, block["text"])] if block["text"] else []), ()
    inline = as_dict(block.get("inlineData"))
    if inline:
        part, blobs = image_part(inline.get("mimeType"), inline.get("data"), inline.get("displayName"))
        return [part], blobs
    return ([MessagePart(PartKind.RAW, redactor.body(value))] if value else []), ()


def _call(call: dict[str, Any], redactor: Redactor) -> Iterator[MessagePart]:
    name, id_ = one_line(call.get("name")), one_line(call.get("id"))
    yield MessagePart(PartKind.TOOL_USE, redactor.body(call.get("args")), name, id_)
    outputs: list[str] = []
    for result in as_list(call.get("result")):
        response = as_dict(as_dict(as_dict(result).get("functionResponse")).get("response"))
        found = next((response[key] for key in ("output", "error") if key in response), response or result)
        outputs.append(redactor.body(found))
    if not outputs and call.get("resultDisplay"):
        outputs.append(redactor.body(call["resultDisplay"]))
    if outputs:
        failed = "error" if call.get("status") in ("error", "cancelled") else None
        yield MessagePart(PartKind.TOOL_RESULT, "\n".join(outputs), name, id_, failed)
