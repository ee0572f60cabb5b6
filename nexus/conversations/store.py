"""The SQL of conversations; that of their messages is in ``messages_store`` and ``writing_store``."""

from __future__ import annotations

from typing import Any

import msgspec
from nexus_protocol.command import Record

from nexus.conversations.errors import (
    ConversationAmbiguous,
    ConversationChanged,
    ConversationCursorInvalid,
    ConversationIdTaken,
    ConversationNotFound,
)
from nexus.conversations.records import Conversation
from nexus.journal.operation import Operation
from nexus.journal.rows import Subject
from nexus.records.errors import RecordErrors, RecordNameTaken
from nexus.records.table import Table
from nexus.store import Reader, Transaction

__all__ = [
    "CONVERSATIONS",
    "by_source",
    "encode_json",
    "hide",
    "is_taken",
    "operation_exists",
    "touch",
]


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

_encode_json = msgspec.json.Encoder().encode


def encode_json(value: Any) -> str | None:
    """The column of a map or a list; NULL for an empty one."""
    return _encode_json(value).decode() if value else None


def by_source(reader: Reader, source: str | None, source_id: str | None) -> Conversation | None:
    """The conversation with this id of its source."""
    if source_id is None:
        return None
    row = reader.one("SELECT id FROM conversations WHERE source = ? AND source_id = ?", (source, source_id))
    return None if row is None else CONVERSATIONS.by_id(reader, row[0])


def is_taken(reader: Reader, conversation_id: str) -> bool:
    """Whether a conversation has this id, also one that is hidden."""
    return reader.one("SELECT 1 FROM conversations WHERE id = ?", (conversation_id,)) is not None


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


def touch(tx: Transaction, conversation: Conversation, *, messages: int = 0, tokens: int = 0, numbers: int = 0) -> None:
    """Count a change of a conversation's messages, of which ``numbers`` are new.

    ``conversation`` is as this transaction has read it.
    """
    changes = {
        "updated_at": max([tx.now, conversation.updated_at]),
        "state_revision": conversation.state_revision + 1,
        "messages": conversation.messages + messages,
        "last_number": conversation.last_number + numbers,
        "tokens": conversation.tokens + tokens,
    }
    CONVERSATIONS.rows.update(tx, conversation.id, changes)


def operation_exists(reader: Reader, operation_id: int) -> bool:
    """Whether an operation was not pruned."""
    return reader.one("SELECT 1 FROM operation WHERE id = ?", (operation_id,)) is not None
