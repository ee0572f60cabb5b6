"""The SQL that reads messages, their parts and their revisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from nexus.conversations.errors import (
    MessageAmbiguous,
    MessageNotFound,
)
from nexus.conversations.parts_store import PartRow, assemble, stored
from nexus.conversations.records import Conversation, Message, MessagePart, MessageRevision
from nexus.conversations.states import MessageChange, MessageStatus, Role
from nexus.conversations.store import CONVERSATIONS
from nexus.hints import command_line
from nexus.records.errors import RecordNotFound
from nexus.records.scope import Scope
from nexus.store import Reader, Row
from nexus.store.fulltext import Words, matching_docs

__all__ = [
    "MESSAGE_COLUMNS",
    "PART_COLUMNS",
    "Found",
    "decode_message",
    "find_message",
    "message_by_id",
    "message_by_source",
    "message_status",
    "messages_between",
    "messages_numbered",
    "part_rows",
    "resolve_message",
    "revisions",
    "revisions_of",
    "sizes_after",
    "sizes_before",
]

MESSAGE_COLUMNS = (
    "id",
    "conversation_id",
    "number",
    "role",
    "status",
    "created_at",
    "updated_at",
    "metadata",
    "parent_id",
    "source",
    "source_id",
    "model",
    "tokens",
    "size_bytes",
    "space_id",
    "lease_id",
    "epoch",
    "revision",
    "content",
)
_SELECT = f"SELECT {', '.join(f'messages.{column}' for column in MESSAGE_COLUMNS)}"
_VISIBLE = (
    "FROM messages JOIN conversations ON conversations.id = messages.conversation_id AND conversations.hidden IS NULL"
)
PART_COLUMNS = ", ".join(PartRow._fields)
_SHOWN = 5

_decode_json = msgspec.json.Decoder().decode
_decode_parts = msgspec.json.Decoder(list[MessagePart]).decode


class Found(NamedTuple):
    """A message, and the conversation that it is of."""

    message: Message
    conversation: Conversation


def decode_message(row: Row, parts: Sequence[MessagePart] = ()) -> Message:
    """Make a message from ``MESSAGE_COLUMNS``."""
    fields = dict(zip(MESSAGE_COLUMNS, row, strict=True))
    fields["role"] = Role(fields["role"])
    fields["status"] = MessageStatus(fields["status"])
    fields["metadata"] = _decode_json(fields["metadata"]) if fields["metadata"] else {}
    return Message(**fields, parts=list(parts))


def find_message(reader: Reader, reference: str, scope: Scope) -> Found | None:
    """The message with exactly this id, else with this number of a conversation, else with this prefix of its id.

    Raises:
        ConversationNotFound, ConversationAmbiguous: ``CONVERSATION:NUMBER`` names no single conversation.
        MessageAmbiguous: several ids have the prefix.
    """
    conversation, colon, number = reference.rpartition(":")
    if colon:
        of = CONVERSATIONS.resolve(reader, conversation, scope)
        wanted = int(number) if number.isascii() and number.isdigit() and len(number) < 19 else -1
        row = reader.one(f"{_SELECT} FROM messages WHERE conversation_id = ? AND number = ?", (of.id, wanted))
        return None if row is None else Found(_whole(reader, row), of)
    prefix = reference.lower()
    if len(prefix) == 36:
        return message_by_id(reader, prefix)
    if not (4 <= len(prefix) < 36 and set(prefix) <= set("0123456789abcdef-")):
        return None
    rows = reader.all(
        f"SELECT messages.id, messages.number {_VISIBLE} WHERE messages.id >= ? AND messages.id < ? "
        f"ORDER BY messages.id LIMIT {_SHOWN + 1}",
        (prefix, prefix + "g"),
    )
    if len(rows) > 1:
        raise MessageAmbiguous(
            f'cannot tell which message "{reference}" means: several ids begin with it',
            hint="Give more characters of the id, or CONVERSATION:NUMBER.",
            details={"matches": [{"id": row[0], "number": row[1]} for row in rows[:_SHOWN]]},
        )
    return message_by_id(reader, rows[0][0]) if rows else None


def resolve_message(reader: Reader, reference: str, scope: Scope) -> Found:
    """Like ``find_message``, for a message that must exist.

    Raises:
        MessageNotFound: there is none.
    """
    found = find_message(reader, reference, scope)
    if found is None:
        raise _not_found(reference, scope, _not_found_hint(reader, reference, scope))
    return found


def _not_found_hint(reader: Reader, reference: str, scope: Scope) -> str | None:
    """The way to what a reference to no message may mean."""
    if reference.isascii() and reference.isdigit():
        return "A message has two numbers. List them: " + command_line("nexusctl", "message", "list", reference)
    try:
        revisions_of(reader, reference, scope)
    except RecordNotFound:
        return None
    line = command_line("nexusctl", "message", "show", "--revisions", reference)
    return f"It was deleted. What it was: {line}"


def _not_found(reference: str, scope: Scope, hint: str | None = None) -> RecordNotFound:
    """The error for a reference that names no message."""
    sentence = f'message "{reference}" not found'
    if scope.is_nowhere and scope.changes:
        return scope.no_project(sentence)
    return MessageNotFound(sentence, hint=scope.hint() if scope.is_nowhere else hint, details={"message": reference})


def message_by_id(reader: Reader, message_id: str) -> Found | None:
    """The message with this id, with its parts."""
    row = reader.one(f"{_SELECT} {_VISIBLE} WHERE messages.id = ?", (message_id,))
    if row is None:
        return None
    message = _whole(reader, row)
    return Found(message, CONVERSATIONS.get(reader, message.conversation_id))


def message_status(reader: Reader, message_id: str) -> MessageStatus | None:
    """The status of a message; None where it, or its conversation, was deleted."""
    row = reader.one(f"SELECT messages.status {_VISIBLE} WHERE messages.id = ?", (message_id,))
    return None if row is None else MessageStatus(row[0])


def message_by_source(reader: Reader, source: str | None, source_id: str | None) -> Message | None:
    """The message with this id of its source, without its parts; also one of a hidden conversation."""
    if source_id is None:
        return None
    row = reader.one(f"{_SELECT} FROM messages WHERE source = ? AND source_id = ?", (source, source_id))
    return None if row is None else decode_message(row)


def _whole(reader: Reader, row: Row) -> Message:
    return _with_parts(decode_message(row), part_rows(reader, row[0]), parts=True)


def _with_parts(message: Message, rows: Sequence[PartRow], *, parts: bool) -> Message:
    found = assemble(message.content or "", rows)
    content = message.content
    if message.status is MessageStatus.OPEN:
        content = stored("", None, "").content if not found else stored(None, found, "", bounded=False).content
        if [part.kind.value for part in found] == ["text"]:
            found = []
    return msgspec.structs.replace(message, content=content, parts=found if parts else [])


def part_rows(reader: Reader, message_id: str) -> list[PartRow]:
    """The rows of the parts of a message, in their order."""
    rows = reader.all(f"SELECT {PART_COLUMNS} FROM message_parts WHERE message_id = ? ORDER BY number", (message_id,))
    return [PartRow(*row) for row in rows]


_SIZES = "SELECT number, size_bytes + coalesce(length(metadata), 0) FROM messages WHERE conversation_id = ?"


def _matching(match: Words | None) -> tuple[str, list[Any]]:
    """The condition that a message, or a part of it, has words, and its parameters."""
    if match is None:
        return "", []
    whole, parameters = matching_docs("messages.doc", match)
    part, _ = matching_docs("message_parts.doc", match)
    found = f" AND ({whole} OR messages.id IN (SELECT message_parts.message_id FROM message_parts WHERE {part}))"
    return found, parameters * 2


def sizes_after(
    reader: Reader, conversation_id: str, after: int, limit: int, match: Words | None = None
) -> list[tuple[int, int]]:
    """The numbers and the sizes in bytes of messages after a number, ascending; only those that have the words."""
    condition, words = _matching(match)
    return reader.all(
        f"{_SIZES} AND number > ?{condition} ORDER BY number LIMIT ?", (conversation_id, after, *words, limit)
    )


def sizes_before(
    reader: Reader, conversation_id: str, before: int, limit: int, match: Words | None = None
) -> list[tuple[int, int]]:
    """The numbers and the sizes in bytes of messages before a number, descending; only those that have the words."""
    condition, words = _matching(match)
    return reader.all(
        f"{_SIZES} AND number < ?{condition} ORDER BY number DESC LIMIT ?", (conversation_id, before, *words, limit)
    )


def messages_between(reader: Reader, conversation_id: str, first: int, last: int, *, parts: bool) -> list[Message]:
    """The messages from one number to another, perhaps with their parts."""
    return _messages(reader, conversation_id, "number >= ? AND number <= ?", (first, last), parts=parts)


def messages_numbered(reader: Reader, conversation_id: str, numbers: Sequence[int], *, parts: bool) -> list[Message]:
    """The messages with these numbers, in their order, perhaps with their parts."""
    return _messages(reader, conversation_id, f"number IN ({', '.join('?' * len(numbers))})", numbers, parts=parts)


def _messages(
    reader: Reader, conversation_id: str, condition: str, numbers: Sequence[int], *, parts: bool
) -> list[Message]:
    rows = reader.all(
        f"{_SELECT} FROM messages WHERE conversation_id = ? AND {condition} ORDER BY number",
        (conversation_id, *numbers),
    )
    found = [decode_message(row) for row in rows]
    wanted = [message.id for message in found if parts or message.status is MessageStatus.OPEN]
    by_id: dict[str, list[PartRow]] = {}
    for id_ in wanted:
        by_id[id_] = part_rows(reader, id_)
    return [
        _with_parts(message, by_id[message.id], parts=parts) if message.id in by_id else message for message in found
    ]


# Revisions


def revisions_of(reader: Reader, reference: str, scope: Scope) -> str:
    """The id of a message by a reference, also of one that was deleted.

    Raises:
        MessageNotFound: there is none, and never was.
    """
    found = find_message(reader, reference, scope)
    if found is not None:
        return found.message.id
    conversation, colon, number = reference.rpartition(":")
    if colon and number.isascii() and number.isdigit() and len(number) < 19:
        of = CONVERSATIONS.resolve(reader, conversation, scope)
        condition = "conversation_id = ? AND number = ?"
        parameters: tuple[Any, ...] = (of.id, int(number))
    else:
        condition = "message_id = ? AND conversation_id IN (SELECT id FROM conversations WHERE hidden IS NULL)"
        parameters = (reference.lower(),)
    row = reader.one(f"SELECT message_id FROM message_revision WHERE {condition} LIMIT 1", parameters)
    if row is None:
        raise _not_found(reference, scope)
    return str(row[0])


def revisions(
    reader: Reader, message_id: str, before: int | None, most_bytes: int
) -> tuple[list[MessageRevision], bool]:
    """Revisions of a message, newest first, of at most so many bytes, one at least; and whether more follow."""
    sizes = reader.all(
        "SELECT revision, size_bytes FROM message_revision WHERE message_id = ? AND revision < ? "
        "ORDER BY revision DESC LIMIT 1000",
        (message_id, 2**62 if before is None else before),
    )
    found: list[MessageRevision] = []
    for revision, size in sizes:
        most_bytes -= size + 500
        if found and most_bytes < 0:
            return found, True
        row = reader.one(
            "SELECT message_id, conversation_id, number, revision, role, content, parts, change, changed_at, "
            "operation_id "
            "FROM message_revision WHERE message_id = ? AND revision = ?",
            (message_id, revision),
        )
        if row is not None:
            found.append(
                MessageRevision(
                    message_id=row[0],
                    conversation_id=row[1],
                    number=row[2],
                    revision=row[3],
                    role=Role(row[4]),
                    content=row[5],
                    parts=_decode_parts(row[6]) if row[6] else [],
                    change=MessageChange(row[7]),
                    changed_at=row[8],
                    operation_id=row[9],
                )
            )
    return found, len(sizes) == 1000
