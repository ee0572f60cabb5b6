"""The SQL that writes messages, their parts and their revisions, with the events that tell it.

Messages have no images: what one was before a change is a row of ``message_revision``.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nexus.conversations.errors import BlobNotFound
from nexus.conversations.messages_store import (
    MESSAGE_COLUMNS,
    PART_COLUMNS,
    Found,
    decode_message,
    message_by_id,
    part_rows,
)
from nexus.conversations.parts_store import PartRow, Stored, assemble, stored
from nexus.conversations.records import Conversation, Message
from nexus.conversations.states import TRANSITIONS, MessageChange, MessageStatus
from nexus.conversations.store import encode_json, touch
from nexus.journal.operation import Operation
from nexus.journal.rows import Subject, append_only, record
from nexus.records.table import DOC, next_number
from nexus.records.usage import Usage, used
from nexus.store import Reader, Transaction
from nexus.store.fulltext import index_text
from nexus.store.splitting import INDEXED_CHARACTERS

__all__ = [
    "add_flushed",
    "add_message",
    "change_message",
    "delete_message",
    "end_message",
    "insert_message",
    "insert_parts",
    "join_flushed",
]

append_only("messages", "message_revision")
append_only("message_parts", "message_revision")
append_only("message_revision", "itself")

_SEARCHED_PARTS = frozenset({"text", "thinking", "tool_use", "tool_result"})
"""The kinds of parts whose own texts the search covers."""
_INDEXED_OF_PARTS = 128 * 1024


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

    ``conversation`` is as this transaction has read it.
    ``values`` are columns of the table; ``id``, ``status``, ``created_at`` and the counters have defaults.
    """
    columns: dict[str, Any] = {"id": str(uuid.uuid4()), "status": MessageStatus.COMPLETE.value, "created_at": tx.now}
    columns |= {name: value for name, value in values.items() if value is not None}
    touch(tx, conversation, messages=1, tokens=columns.get("tokens") or 0, numbers=1)
    columns |= {
        "conversation_id": conversation.id,
        "number": conversation.last_number + 1,
        "updated_at": columns["created_at"],
        "operation_id": operation.enter(tx, conversation.project_id),
        "doc": next_number(tx, "", DOC),
        "revision": 1,
        "size_bytes": kept.size_bytes,
        "content": kept.content,
    }
    insert_message(tx, columns)
    insert_parts(tx, columns["id"], kept.rows)
    message = decode_message((*map(columns.get, MESSAGE_COLUMNS[:-1]), None))
    _tell(tx, operation, "message.created", message, conversation, {"status": message.status.value})
    _use(tx, operation, conversation, message, message.tokens or 0)
    return message


def _use(tx: Transaction, operation: Operation, conversation: Conversation, message: Message, tokens: int) -> None:
    """Tell the tokens that a message has more than before: what it has at its creation, or got while it was written."""
    is_first = tokens == message.tokens
    source = message.id if is_first else f"{message.id}:{message.tokens}"
    project_id, id_ = conversation.project_id, conversation.id
    used(tx, operation, Usage(source, project_id, id_, tokens, message.created_at, message.model))


def insert_message(tx: Transaction, columns: Mapping[str, Any]) -> None:
    """Insert the row of a message, and let the search find its text unless it is open."""
    tx.execute(
        f"INSERT INTO messages ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})", (*columns.values(),)
    )
    if columns["status"] != MessageStatus.OPEN.value:
        index_text(tx, columns["doc"], "", columns["content"])


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
            f"INSERT INTO message_parts (message_id, number, doc, {PART_COLUMNS}) "
            f"VALUES (?, ?, ?, {', '.join('?' * len(row))})",
            (message_id, number, doc, *row),
        )
        if doc is not None:
            index_text(tx, doc, row.tool or "", row.body or "")


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
        f"SELECT number, {PART_COLUMNS} FROM message_parts WHERE message_id = ? AND doc IS NULL ORDER BY number",
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
    touch(tx, found.conversation, tokens=tokens)
    message = _written(tx, message_id)
    kind = "message.completed" if status is MessageStatus.COMPLETE else "message.interrupted"
    _tell(tx, operation, kind, message, found.conversation, {"size_bytes": kept.size_bytes})
    _use(tx, operation, found.conversation, message, tokens)
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
    touch(tx, found.conversation, tokens=tokens)
    _tell(tx, operation, "message.edited", message, found.conversation, {"revision": message.revision + 1})
    return _written(tx, message.id)


def delete_message(tx: Transaction, operation: Operation, found: Found) -> Message:
    """Delete a message that no job names, and keep what it was as a revision."""
    message = found.message
    written = _written(tx, message.id)
    _keep_revision(tx, operation, found, MessageChange.DELETED)
    tx.execute("DELETE FROM message_parts WHERE message_id = ?", (message.id,))
    tx.execute("DELETE FROM messages WHERE id = ?", (message.id,))
    touch(tx, found.conversation, messages=-1, tokens=-(message.tokens or 0))
    _tell(tx, operation, "message.deleted", message, found.conversation, {})
    return written
