"""The SQL of what goes in steps, so that no transaction is long: deleting a conversation, copying one, and recovery."""

from __future__ import annotations

import uuid
from typing import Any, NamedTuple

from nexus.conversations.messages_store import MESSAGE_COLUMNS, part_rows
from nexus.conversations.records import Conversation
from nexus.conversations.states import MessageStatus
from nexus.conversations.store import CONVERSATIONS
from nexus.conversations.writing_store import insert_message, insert_parts
from nexus.journal.operation import Operation
from nexus.journal.rows import Subject
from nexus.records.links import unlink
from nexus.records.table import DOC, next_number
from nexus.store import Reader, Transaction

__all__ = ["Copied", "begin_fork", "copy_step", "finish_fork", "hidden", "interrupted", "sweep_step"]

# A step takes 10 to 20 ms, most of it for the search index; one that merges parts of the index takes 20 ms more.
_STEP_ROWS = 50
_STEP_BYTES = 64 * 1024
_UNLINKED_AT_ONCE = 50

_COPIED = [
    name
    for name in MESSAGE_COLUMNS
    if name
    not in ("id", "conversation_id", "parent_id", "source", "source_id", "space_id", "lease_id", "epoch", "revision")
]


def hidden(reader: Reader) -> list[tuple[str, int | None]]:
    """The ids of conversations that are being deleted, and of incomplete forks, with their operations."""
    return reader.all("SELECT id, operation_id FROM conversations WHERE hidden IS NOT NULL ORDER BY id")


def interrupted(reader: Reader, limit: int) -> list[tuple[str, int | None]]:
    """The ids of open messages, with the operations that they belong to; not those of hidden conversations."""
    return reader.all(
        "SELECT messages.id, messages.operation_id FROM messages "
        "JOIN conversations ON conversations.id = messages.conversation_id AND conversations.hidden IS NULL "
        "WHERE messages.status = 'open' ORDER BY messages.id LIMIT ?",
        (limit,),
    )


# Deleting


def sweep_step(tx: Transaction, operation: Operation, conversation_id: str) -> bool:
    """Delete a part of what a hidden conversation has left; returns whether all of it is gone."""
    if tx.one("SELECT 1 FROM conversations WHERE id = ? AND hidden IS NOT NULL", (conversation_id,)) is None:
        return True
    if not unlink(tx, operation, "conversation", conversation_id, _UNLINKED_AT_ONCE):
        return False
    rows = tx.all(
        "SELECT id, size_bytes FROM messages WHERE conversation_id = ? ORDER BY number LIMIT ?",
        (conversation_id, _STEP_ROWS),
    )
    left = _STEP_BYTES
    for message_id, size in rows:
        tx.execute("DELETE FROM message_parts WHERE message_id = ?", (message_id,))
        tx.execute("DELETE FROM messages WHERE id = ?", (message_id,))
        left -= size
        if left <= 0:
            return False
    if rows:
        return False
    rows = tx.all(
        "SELECT message_id, revision, size_bytes FROM message_revision WHERE conversation_id = ? LIMIT ?",
        (conversation_id, _STEP_ROWS),
    )
    for message_id, revision, size in rows:
        tx.execute("DELETE FROM message_revision WHERE message_id = ? AND revision = ?", (message_id, revision))
        left -= size
        if left <= 0:
            return False
    if rows:
        return False
    CONVERSATIONS.write_tags(tx, conversation_id, ())
    before = CONVERSATIONS.rows.delete(tx, conversation_id)
    assert before is not None
    subject = Subject("conversation", conversation_id, str(before["number"]), None)
    CONVERSATIONS.rows.record(tx, operation, subject, conversation_id, before, None, (), before["revision"])
    return True


# Copying


class Copied(NamedTuple):
    """How far a copy is."""

    last: int
    """The number of the last message that was copied."""
    ids: dict[str, str]
    """By the ids of all messages that were copied, those of their copies."""
    done: bool


def begin_fork(
    tx: Transaction, operation: Operation, of: Conversation, at: int, fork_id: str, title: str | None
) -> None:
    """Insert a conversation that no reader sees until its copy is complete."""
    row = CONVERSATIONS.rows.insert(
        tx,
        {
            "id": fork_id,
            "number": next_number(tx, of.project_id, "conversation"),
            "project_id": None,
            "title": title or of.title,
            "created_at": tx.now,
            "updated_at": tx.now,
            "metadata": CONVERSATIONS.encode("metadata", of.metadata),
            "tags": CONVERSATIONS.encode("tags", of.tags),
            "archived": int(of.archived),
            "pinned": int(of.pinned),
            "folder": of.folder,
            "tool": of.tool,
            "forked_from": of.id,
            "forked_at": at,
            "hidden": "copying",
            "operation_id": operation.enter(tx, of.project_id),
            "doc": next_number(tx, "", DOC),
        },
    )
    CONVERSATIONS.write_tags(tx, fork_id, of.tags)
    subject = Subject("conversation", fork_id, str(row["number"]), of.project_id)
    CONVERSATIONS.rows.record(tx, operation, subject, fork_id, None, row, (), 1)


def copy_step(tx: Transaction, operation: Operation, of: str, fork_id: str, so_far: Copied, at: int) -> Copied:
    """Copy some more messages, up to the number ``at`` and before the first open one."""
    after, ids = so_far.last, so_far.ids
    names = ", ".join(_COPIED)
    sizes = tx.all(
        "SELECT number, size_bytes, status FROM messages WHERE conversation_id = ? AND number > ? AND number <= ? "
        "ORDER BY number LIMIT ?",
        (of, after, at, _STEP_ROWS),
    )
    left, last, done = _STEP_BYTES, after, len(sizes) < _STEP_ROWS
    for number, size, status in sizes:
        if status == MessageStatus.OPEN.value:
            done = True
            break
        last = number
        left -= size
        if left <= 0:
            done = False
            break
    made: dict[str, str] = {}
    tokens = 0
    for old_id, parent_id, *values in tx.all(
        f"SELECT id, parent_id, {names} FROM messages WHERE conversation_id = ? AND number > ? AND number <= ? "
        "ORDER BY number",
        (of, after, last),
    ):
        made[old_id] = new_id = str(uuid.uuid4())
        parent = None if parent_id is None else made.get(parent_id) or ids.get(parent_id)
        copied = dict(zip(_COPIED, values, strict=True))
        tokens += copied["tokens"] or 0
        insert_message(
            tx,
            copied
            | {
                "id": new_id,
                "conversation_id": fork_id,
                "parent_id": parent,
                "doc": next_number(tx, "", DOC),
                "operation_id": operation.enter(tx),
            },
        )
        insert_parts(tx, new_id, part_rows(tx, old_id))
    counters = CONVERSATIONS.rows.read(tx, fork_id, ("messages", "tokens", "last_number"))
    assert counters is not None
    CONVERSATIONS.rows.update(
        tx,
        fork_id,
        {
            "messages": counters["messages"] + len(made),
            "tokens": counters["tokens"] + tokens,
            "last_number": max([counters["last_number"], last]) if made else counters["last_number"],
        },
    )
    return Copied(last, {**ids, **made}, done)


def finish_fork(tx: Transaction, operation: Operation, of: Conversation, fork_id: str) -> Conversation:
    """Show a fork whose copy is complete, with the event of its creation."""
    before: dict[str, Any] | None = CONVERSATIONS.rows.read(
        tx, fork_id, ("project_id", "hidden", "operation_id", "forked_at", "last_number")
    )
    assert before is not None
    after = {
        "project_id": of.project_id,
        "hidden": None,
        "operation_id": None,
        "forked_at": before["last_number"],
    }
    CONVERSATIONS.rows.update(tx, fork_id, after)
    fork = CONVERSATIONS.get(tx, fork_id)
    subject = Subject("conversation", fork_id, fork.name, of.project_id)
    events: list[tuple[str, dict[str, Any]]] = [("conversation.created", {"title": fork.title, "forked_from": of.id})]
    CONVERSATIONS.rows.record(tx, operation, subject, fork_id, before, after, events, fork.revision)
    return fork
