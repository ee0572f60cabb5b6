"""The SQL of conversations and of single messages; what takes steps is in ``steps_store``.

Messages have no images: what one was before a change is a row of ``message_revision``.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from nexus_protocol.command import Record

from nexus.conversations.errors import (
    BlobNotFound,
    ConversationAmbiguous,
    ConversationChanged,
    ConversationCursorInvalid,
    ConversationIdTaken,
    ConversationNotFound,
    MessageAmbiguous,
    MessageNotFound,
)
from nexus.conversations.parts_store import PartRow, Stored, assemble, stored
from nexus.conversations.records import Blob, Conversation, Message, MessagePart, MessageRevision
from nexus.conversations.states import TRANSITIONS, MessageChange, MessageStatus, Role
from nexus.journal.operation import Operation
from nexus.journal.rows import Subject, append_only, record
from nexus.records.errors import RecordErrors, RecordNameTaken, RecordNotFound
from nexus.records.scope import Scope
from nexus.records.table import DOC, Table, next_number
from nexus.store import Reader, Row, Transaction
from nexus.store.fulltext import Words, matching_docs
from nexus.store.splitting import INDEXED_CHARACTERS

__all__ = [
    "CONVERSATIONS",
    "MESSAGE_COLUMNS",
    "Found",
    "add_blob",
    "add_flushed",
    "add_message",
    "blob",
    "by_source",
    "change_message",
    "decode_message",
    "delete_message",
    "encode_json",
    "end_message",
    "find_message",
    "hide",
    "insert_parts",
    "is_taken",
    "join_flushed",
    "message_by_id",
    "message_by_source",
    "message_status",
    "operation_exists",
    "messages_between",
    "messages_numbered",
    "numbers_and_titles",
    "part_rows",
    "resolve_message",
    "revisions",
    "revisions_of",
    "sizes_after",
    "sizes_before",
    "touch",
]

append_only("messages", "message_revision")
append_only("message_parts", "message_revision")
append_only("message_revision", "itself")
append_only("blobs", "the files, whose names are their hashes")


class _Private(Record):
    """The columns that only the daemon reads."""

    source_title: str | None = None
    """The title that an import gave last."""
    redacted: bool = False
    """Whether an import replaced secrets in it."""


CONVERSATIONS = Table(
    Conversation,
    "conversations",
    kind="conversation",
    word="conversation",
    look="conversation inspect",
    errors=RecordErrors(
        ConversationNotFound,
        ConversationAmbiguous,
        RecordNameTaken,
        ConversationIdTaken,
        ConversationChanged,
        ConversationCursorInvalid,
    ),
    # Each message changes these; the events of messages tell it.
    volatile=("updated_at", "state_revision", "messages", "last_number", "tokens", "redacted"),
    order=("updated_at", "id"),
    indexed=("archived", "pinned"),
    told=("title", "forked_from"),
    private=_Private,
    others=("hidden", "operation_id"),
    searchable=True,
    visible="hidden IS NULL",
)

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
_PART_COLUMNS = ", ".join(PartRow._fields)
_SHOWN = 5
_SEARCHED_PARTS = frozenset({"text", "thinking", "tool_use", "tool_result"})
"""The kinds of parts whose own texts the search covers."""
_INDEXED_OF_PARTS = 128 * 1024

_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder().decode
_decode_parts = msgspec.json.Decoder(list[MessagePart]).decode


def encode_json(value: Any) -> str | None:
    """The column of a map or a list; NULL for an empty one."""
    return _encode_json(value).decode() if value else None


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


# Conversations


def by_source(reader: Reader, source: str | None, source_id: str | None) -> Conversation | None:
    """The conversation with this id of its source."""
    if source_id is None:
        return None
    row = reader.one("SELECT id FROM conversations WHERE source = ? AND source_id = ?", (source, source_id))
    return None if row is None else CONVERSATIONS.by_id(reader, row[0])


def is_taken(reader: Reader, conversation_id: str) -> bool:
    """Whether a conversation has this id, also one that is hidden."""
    return reader.one("SELECT 1 FROM conversations WHERE id = ?", (conversation_id,)) is not None


def numbers_and_titles(reader: Reader, project_id: str, after: int, limit: int) -> list[tuple[str, int]]:
    """The id and number of conversations of a project, by number: at most ``limit`` (-1: all) after a number."""
    return reader.all(
        "SELECT id, number FROM conversations WHERE project_id = ? AND number > ? ORDER BY number LIMIT ?",
        (project_id, after, limit),
    )


def hide(tx: Transaction, operation: Operation, conversation: Conversation) -> None:
    """Delete a conversation for all readers. Its rows go in steps; its project and its source are free at once."""
    before = CONVERSATIONS.rows.read(
        tx, conversation.id, ("project_id", "source", "source_id", "hidden", "operation_id")
    )
    assert before is not None
    after = {
        "project_id": None,
        "source": None,
        "source_id": None,
        "hidden": "deleted",
        "operation_id": operation.enter(tx, conversation.project_id),
    }
    CONVERSATIONS.rows.update(tx, conversation.id, after)
    detail = {"title": conversation.title, "messages": conversation.messages}
    subject = Subject("conversation", conversation.id, conversation.name, conversation.project_id)
    events = [("conversation.deleted", detail)]
    CONVERSATIONS.rows.record(tx, operation, subject, conversation.id, before, after, events, conversation.revision)


def touch(tx: Transaction, conversation_id: str, *, messages: int = 0, tokens: int = 0, number: bool = False) -> int:
    """Count a change of a conversation's messages; returns the last number, which ``number`` raises by one."""
    row = CONVERSATIONS.rows.read(
        tx, conversation_id, ("updated_at", "state_revision", "messages", "last_number", "tokens")
    )
    assert row is not None
    changes = {
        "updated_at": max([tx.now, row["updated_at"]]),
        "state_revision": row["state_revision"] + 1,
        "messages": row["messages"] + messages,
        "last_number": row["last_number"] + number,
        "tokens": row["tokens"] + tokens,
    }
    CONVERSATIONS.rows.update(tx, conversation_id, changes)
    return int(changes["last_number"])


# Reading messages


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
        raise _not_found(reference, scope)
    return found


def _not_found(reference: str, scope: Scope) -> RecordNotFound:
    """The error for a reference that names no message."""
    sentence = f'message "{reference}" not found'
    if scope.is_nowhere and scope.changes:
        return scope.no_project(sentence)
    return MessageNotFound(sentence, hint=scope.hint() if scope.is_nowhere else None, details={"message": reference})


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


def operation_exists(reader: Reader, operation_id: int) -> bool:
    """Whether an operation was not pruned."""
    return reader.one("SELECT 1 FROM operation WHERE id = ?", (operation_id,)) is not None


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
    rows = reader.all(f"SELECT {_PART_COLUMNS} FROM message_parts WHERE message_id = ? ORDER BY number", (message_id,))
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


# Writing messages


def _told(message: Message) -> dict[str, Any]:
    return {"conversation_id": message.conversation_id, "number": message.number, "role": message.role.value}


def _tell(
    tx: Transaction,
    operation: Operation,
    kind: str,
    message: Message,
    conversation: Conversation,
    detail: Mapping[str, Any],
) -> None:
    name = f"{conversation.name}:{message.number}"
    record(
        tx,
        operation,
        kind,
        Subject("message", message.id, name, conversation.project_id),
        _told(message) | dict(detail),
    )


def add_message(
    tx: Transaction,
    operation: Operation,
    conversation: Conversation,
    kept: Stored,
    values: Mapping[str, Any],
) -> Message:
    """Add a message to the end of a conversation, with its event; returns it without its text.

    ``values`` are columns of the table; ``id``, ``status``, ``created_at`` and the counters have defaults.
    """
    columns: dict[str, Any] = {"id": str(uuid.uuid4()), "status": MessageStatus.COMPLETE.value, "created_at": tx.now}
    columns |= {name: value for name, value in values.items() if value is not None}
    tokens = columns.get("tokens") or 0
    columns |= {
        "conversation_id": conversation.id,
        "number": touch(tx, conversation.id, messages=1, tokens=tokens, number=True),
        "updated_at": columns["created_at"],
        "operation_id": operation.enter(tx, conversation.project_id),
        "doc": next_number(tx, "", DOC),
        "size_bytes": kept.size_bytes,
        "content": kept.content,
    }
    tx.execute(
        f"INSERT INTO messages ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})", (*columns.values(),)
    )
    insert_parts(tx, columns["id"], kept.rows)
    message = _written(tx, columns["id"])
    _tell(tx, operation, "message.created", message, conversation, {"status": message.status.value})
    return message


def _written(reader: Reader, message_id: str) -> Message:
    """A message without its text, as replies have it."""
    names = ", ".join(MESSAGE_COLUMNS[:-1])
    row = reader.one(f"SELECT {names} FROM messages WHERE id = ?", (message_id,))
    assert row is not None
    return decode_message((*row, None))


def insert_parts(
    tx: Transaction, message_id: str, rows: Iterable[PartRow], first: int = 1, *, searchable: bool = True
) -> None:
    """Insert rows of parts, from a number on. ``searchable`` ones with a text of their own get a number for the search.

    Of a message with many long parts only the first ones do, so that indexing them takes no more than about 30 ms.

    Raises:
        BlobNotFound: a part names a blob that was not stored.
    """
    left = _INDEXED_OF_PARTS
    for number, row in enumerate(rows, first):
        # Named again: a blob is not deleted soon after, also where the message goes at once.
        if row.blob is not None and not tx.execute(
            "UPDATE blobs SET created_at = ? WHERE hash = ?", (tx.now, row.blob)
        ):
            raise BlobNotFound(
                f"cannot keep the message: blob {row.blob} not found",
                hint="Store it first: PutBlob",
                details={"blob": row.blob},
            )
        doc = None
        if searchable and left > 0 and row.body and row.kind in _SEARCHED_PARTS:
            doc = next_number(tx, "", DOC)
            left -= min([len(row.body), INDEXED_CHARACTERS])
        tx.execute(
            f"INSERT INTO message_parts (message_id, number, doc, {_PART_COLUMNS}) "
            f"VALUES (?, ?, ?, {', '.join('?' * len(row))})",
            (message_id, number, doc, *row),
        )


def add_flushed(tx: Transaction, message_id: str, rows: Sequence[PartRow], first: int, size_bytes: int) -> None:
    """Add what was received of an open message, which has ``size_bytes`` then."""
    insert_parts(tx, message_id, rows, first, searchable=False)
    tx.execute("UPDATE messages SET size_bytes = ?, updated_at = ? WHERE id = ?", (size_bytes, tx.now, message_id))


def join_flushed(tx: Transaction, message_id: str) -> None:
    """Make what was received of an open message since the last such call searchable, as one row for each part.

    Its pieces are joined for that, so that no word is cut where they were written.
    """
    pieces: list[list[tuple[int, PartRow]]] = []
    for number, *row in tx.all(
        f"SELECT number, {_PART_COLUMNS} FROM message_parts WHERE message_id = ? AND doc IS NULL ORDER BY number",
        (message_id,),
    ):
        part = PartRow(*row)
        if part.body is None or part.kind not in _SEARCHED_PARTS:
            continue
        if part.continues and pieces and pieces[-1][-1][1].kind == part.kind:
            pieces[-1].append((number, part))
        else:
            pieces.append([(number, part)])
    for joined in pieces:
        for number, _part in joined:
            tx.execute("DELETE FROM message_parts WHERE message_id = ? AND number = ?", (message_id, number))
        number, first = joined[0]
        body = "".join(part.body or "" for _number, part in joined)
        insert_parts(tx, message_id, [first._replace(body=body)], number)


def end_message(
    tx: Transaction,
    operation: Operation,
    message_id: str,
    status: MessageStatus,
    values: Mapping[str, Any] | None = None,
) -> Message | None:
    """Put the pieces of an open message together, with the event; returns it without its text.

    None where it is there no more, because it or its conversation was deleted.

    Raises:
        ValueError: TRANSITIONS does not allow the change.
    """
    found = message_by_id(tx, message_id)
    if found is None:
        return None
    if status not in TRANSITIONS[found.message.status]:
        raise ValueError(f"a message does not go from {found.message.status} to {status}")
    parts = assemble("", part_rows(tx, message_id))
    kept = stored(None if parts else "", parts, "", bounded=False)
    columns = {name: value for name, value in (values or {}).items() if value is not None}
    tokens = (columns.get("tokens", found.message.tokens) or 0) - (found.message.tokens or 0)
    columns |= {
        "status": status.value,
        "size_bytes": kept.size_bytes,
        "updated_at": max([tx.now, found.message.updated_at]),
        "content": kept.content,
    }
    tx.execute("DELETE FROM message_parts WHERE message_id = ?", (message_id,))
    insert_parts(tx, message_id, kept.rows)
    _update(tx, message_id, columns)
    touch(tx, found.conversation.id, tokens=tokens)
    message = _written(tx, message_id)
    kind = "message.completed" if status is MessageStatus.COMPLETE else "message.interrupted"
    _tell(tx, operation, kind, message, found.conversation, {"size_bytes": kept.size_bytes})
    return message


def _update(tx: Transaction, message_id: str, columns: Mapping[str, Any]) -> None:
    assignments = ", ".join(f"{name} = ?" for name in columns)
    tx.execute(f"UPDATE messages SET {assignments} WHERE id = ?", (*columns.values(), message_id))


def _keep_revision(tx: Transaction, operation: Operation, found: Found, change: MessageChange) -> None:
    message = found.message
    tx.execute(
        "INSERT INTO message_revision (message_id, revision, conversation_id, number, role, content, parts, change, "
        "size_bytes, changed_at, operation_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            message.id,
            message.revision,
            message.conversation_id,
            message.number,
            message.role.value,
            message.content,
            encode_json(message.parts),
            change.value,
            message.size_bytes,
            tx.now,
            operation.enter(tx, found.conversation.project_id),
        ),
    )


def change_message(
    tx: Transaction, operation: Operation, found: Found, kept: Stored | None, values: Mapping[str, Any]
) -> Message:
    """Change a message, whose text becomes ``kept`` (None: stays), and keep what it was as a revision."""
    message = found.message
    _keep_revision(tx, operation, found, MessageChange.EDITED)
    columns: dict[str, Any] = {**values}
    if kept is not None:
        columns |= {"content": kept.content, "size_bytes": kept.size_bytes}
        tx.execute("DELETE FROM message_parts WHERE message_id = ?", (message.id,))
        insert_parts(tx, message.id, kept.rows)
    columns |= {"revision": message.revision + 1, "updated_at": max([tx.now, message.updated_at])}
    _update(tx, message.id, columns)
    tokens = (columns["tokens"] or 0) - (message.tokens or 0) if "tokens" in columns else 0
    touch(tx, message.conversation_id, tokens=tokens)
    _tell(tx, operation, "message.edited", message, found.conversation, {"revision": message.revision + 1})
    return _written(tx, message.id)


def delete_message(tx: Transaction, operation: Operation, found: Found) -> Message:
    """Delete a message that no job names, and keep what it was as a revision."""
    message = found.message
    written = _written(tx, message.id)
    _keep_revision(tx, operation, found, MessageChange.DELETED)
    tx.execute("DELETE FROM message_parts WHERE message_id = ?", (message.id,))
    tx.execute("DELETE FROM messages WHERE id = ?", (message.id,))
    touch(tx, message.conversation_id, messages=-1, tokens=-(message.tokens or 0))
    _tell(tx, operation, "message.deleted", message, found.conversation, {})
    return written


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


# Blobs


def add_blob(tx: Transaction, hash_: str, size_bytes: int) -> Blob:
    """Note a blob whose file is durable, and when it was stored last: it is not swept soon after."""
    tx.execute(
        "INSERT INTO blobs (hash, size_bytes, created_at) VALUES (?, ?, ?) "
        "ON CONFLICT (hash) DO UPDATE SET created_at = excluded.created_at",
        (hash_, size_bytes, tx.now),
    )
    return Blob(hash_, size_bytes)


def blob(reader: Reader, hash_: str) -> Blob | None:
    """The blob with this hash."""
    row = reader.one("SELECT hash, size_bytes FROM blobs WHERE hash = ?", (hash_,))
    return None if row is None else Blob(*row)
