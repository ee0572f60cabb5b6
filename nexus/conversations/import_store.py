"""The SQL of imports: messages that are added in batches, each once, and the sources that they come from."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import msgspec

from nexus.conversations.errors import (
    ConversationRedacted,
    SourceAmbiguous,
    SourceBusy,
    SourceChanged,
    SourceCursorInvalid,
    SourceIdTaken,
    SourceMoved,
    SourceNotFound,
)
from nexus.conversations.import_records import ConversationSource, ImportedConversation, ImportedMessage, SourceProgress
from nexus.conversations.messages_store import part_rows
from nexus.conversations.origins_store import mark_deleted, number_deleted
from nexus.conversations.parts_store import Stored, assemble
from nexus.conversations.records import Conversation
from nexus.conversations.states import MessageChange, MessageStatus
from nexus.conversations.store import CONVERSATIONS, by_source, encode_json
from nexus.conversations.writing_store import insert_message, insert_parts
from nexus.journal.operation import Operation
from nexus.journal.rows import Subject, record
from nexus.records.errors import RecordErrors, RecordNameTaken
from nexus.records.scope import reference_of
from nexus.records.table import DOC, Table, next_number
from nexus.records.usage import Usage, used
from nexus.store import Reader, Transaction

__all__ = [
    "NATIVE",
    "SOURCES",
    "Counts",
    "add_messages",
    "check_progress",
    "completed",
    "count_watched",
    "forget_conversation",
    "found_conversation",
    "read_anew",
    "roots",
    "source_by_path",
    "take_title",
    "watched_exist",
    "write_progress",
]

NATIVE = "nexus"
"""The source of what has no other: its ``source_id`` is the id that it has, or had, in a daemon."""

SOURCES = Table(
    ConversationSource,
    "conversation_sources",
    kind="conversation_source",
    word="conversation source",
    look="conversation source inspect",
    errors=RecordErrors(
        SourceNotFound, SourceAmbiguous, RecordNameTaken, SourceIdTaken, SourceChanged, SourceCursorInvalid
    ),
    # How far it was read: each batch of messages changes it, and their events tell it.
    volatile=(
        *("offset_bytes", "size_bytes", "inode", "head", "state", "messages", "deleted", "skipped"),
        *("last_error", "read_at"),
    ),
    order=("path", "id"),
    descending=False,
    indexed=("watched",),
    told=("path", "format", "watched"),
    computed=("followed",),
)

_encode = msgspec.msgpack.Encoder().encode


class Counts(NamedTuple):
    """What a batch did."""

    added: int
    known: list[int]
    changed: int


# Conversations


def found_conversation(reader: Reader, header: ImportedConversation) -> Conversation | None:
    """The conversation that an import made before, or that the export was made from."""
    found = by_source(reader, header.source, header.source_id)
    if found is not None or header.source != NATIVE:
        return found
    native = CONVERSATIONS.by_id(reader, header.source_id)
    return native if native is not None and native.source is None else None


def take_title(tx: Transaction, operation: Operation, conversation: Conversation, title: str | None) -> None:
    """Give a conversation the title that its source has now, unless a client gave it another one."""
    row = tx.one("SELECT source_title FROM conversations WHERE id = ?", (conversation.id,))
    if title is None or row is None or row[0] != conversation.title or title == conversation.title:
        return
    detail = {"title": {"from": conversation.title, "to": title}}
    changes = {"title": title, "source_title": title}
    CONVERSATIONS.write(tx, operation, conversation.id, changes, [("conversation.updated", detail)])
    # Its place among the last changed ones is that of its last message.
    CONVERSATIONS.rows.update(tx, conversation.id, {"updated_at": conversation.updated_at})


# Messages


class _Known(NamedTuple):
    """A message that is there."""

    id: str
    conversation_id: str
    revision: int
    form: str | None
    hidden: bool


def _find(reader: Reader, source: str, source_id: str) -> _Known | None:
    row = reader.one(
        "SELECT messages.id, messages.conversation_id, messages.revision, messages.source_form, conversations.hidden "
        "FROM messages JOIN conversations ON conversations.id = messages.conversation_id "
        "WHERE messages.source = ? AND messages.source_id = ?",
        (source, source_id),
    )
    if row is None and source == NATIVE:
        row = reader.one(
            "SELECT messages.id, messages.conversation_id, messages.revision, NULL, conversations.hidden "
            "FROM messages JOIN conversations ON conversations.id = messages.conversation_id "
            "WHERE messages.id = ? AND messages.source IS NULL",
            (source_id,),
        )
    return None if row is None else _Known(row[0], row[1], row[2], row[3], row[4] is not None)


def _digest(kept: Stored, values: Mapping[str, Any]) -> str:
    """What tells whether a message in its source differs from what was imported."""
    parts = [[*row] for row in kept.rows]
    return hashlib.blake2b(_encode([kept.content, parts, list(values.values())]), digest_size=12).hexdigest()


def add_messages(
    tx: Transaction,
    operation: Operation,
    conversation: Conversation,
    header: ImportedConversation,
    messages: Sequence[tuple[ImportedMessage, Stored]],
    *,
    redacted: bool = False,
) -> Counts:
    """Add the messages that are not there, and change those that differ from what was imported before.

    Raises:
        SourceBusy: one of them is in a conversation that is being deleted.
        BlobNotFound: a part names a blob that was not stored.
        ConversationRedacted: secrets were replaced in the conversation, and not in a message that is to be written.
    """
    if not messages:
        return Counts(0, [], 0)
    source = header.source
    present = CONVERSATIONS.rows.read(tx, conversation.id, ("updated_at", "last_number", "tokens", "redacted"))
    assert present is not None
    keeps_out = present["redacted"] and not redacted
    last, tokens, newest = present["last_number"], present["tokens"], present["updated_at"]
    known: list[int] = []
    added = changed = 0
    ids: dict[str, str] = {}
    doc = next_number(tx, "", DOC, len(messages))
    for place, (message, kept) in enumerate(messages):
        of = message.source or source
        values = {
            "role": message.role.value,
            "metadata": encode_json(message.metadata),
            "model": message.model,
            "tokens": message.tokens,
            "status": _status(message.status),
        }
        digest = _digest(kept, values)
        found = _find(tx, of, message.source_id)
        if found is not None:
            if found.hidden:
                raise SourceBusy(
                    f"cannot import message {message.source_id}: the conversation that it was in is being deleted",
                    hint="Try again in a moment.",
                    details={"source_id": message.source_id},
                )
            known.append(place)
            ids[message.source_id] = found.id
            if found.form == f"{found.revision}:{digest}" or found.conversation_id != conversation.id:
                continue
            if found.form is None or not found.form.startswith(f"{found.revision}:"):
                continue  # a client has edited it
            if keeps_out:
                raise _not_redacted(conversation)
            changed_at = tx.now if message.updated_at is None else message.updated_at
            grown = _change(tx, operation, conversation, found, kept, values | {"updated_at": changed_at}, digest)
            _use(tx, operation, conversation, of, message, grown, message.created_at or changed_at)
            tokens += grown
            changed += 1
            newest = max([newest, changed_at])
            continue
        if keeps_out:
            raise _not_redacted(conversation)
        number = max([last + 1, message.number or 0])
        last = number
        created_at = newest if message.created_at is None else message.created_at
        parent_id = None if message.parent is None else ids.get(message.parent)
        if message.parent is not None and parent_id is None:
            parent_id = _id_of(tx, (of, source, NATIVE), message.parent)
        id_ = str(uuid.uuid4())
        ids[message.source_id] = id_
        updated_at = created_at if message.updated_at is None else message.updated_at
        insert_message(
            tx,
            values
            | {
                "id": id_,
                "conversation_id": conversation.id,
                "number": number,
                "parent_id": parent_id,
                "created_at": created_at,
                "updated_at": updated_at,
                "source": of,
                "source_id": message.source_id,
                "source_form": f"1:{digest}",
                "size_bytes": kept.size_bytes,
                "operation_id": operation.enter(tx, conversation.project_id),
                "doc": doc + added,
                "content": kept.content,
            },
        )
        insert_parts(tx, id_, kept.rows)
        _use(tx, operation, conversation, of, message, message.tokens or 0, created_at)
        added += 1
        tokens += message.tokens or 0
        newest = max([newest, created_at, updated_at])
    if added or changed:
        if header.updated_at is not None:  # it tells when all of it was changed last
            newest = max([present["updated_at"], header.updated_at])
        _count(tx, conversation, added, tokens, last, newest)
        if redacted and not present["redacted"]:
            CONVERSATIONS.rows.update(tx, conversation.id, {"redacted": 1})
        subject = Subject("conversation", conversation.id, conversation.name, conversation.project_id)
        detail = {"messages": added, "changed": changed, "last_number": last}
        record(tx, operation, "conversation.imported", subject, detail)
    return Counts(added, known, changed)


def _use(
    tx: Transaction,
    operation: Operation,
    conversation: Conversation,
    of: str,
    message: ImportedMessage,
    tokens: int,
    at: int,
) -> None:
    """Tell the tokens that a message has more than what was imported of it before."""
    source = message.source_id if of == NATIVE else f"{of}:{message.source_id}"
    if tokens != message.tokens:
        source += f":{message.tokens}"
    used(
        tx, operation, Usage(source, conversation.project_id, conversation.id, tokens, at, message.model, imported=True)
    )


def _not_redacted(conversation: Conversation) -> ConversationRedacted:
    return ConversationRedacted(
        f"cannot import into conversation {reference_of(conversation)}: secrets were replaced in it",
        hint="Import with --redact FILE or --redact-secrets again, or delete the conversation first.",
        details={"id": conversation.id, "conversation": reference_of(conversation)},
    )


def _status(status: MessageStatus) -> str:
    """An import is not being appended to."""
    return (MessageStatus.INCOMPLETE if status is MessageStatus.OPEN else status).value


def _id_of(reader: Reader, sources: Sequence[str], source_id: str) -> str | None:
    """The id of a message, which may come from another source than the one that answers it."""
    found = next((each for source in dict.fromkeys(sources) if (each := _find(reader, source, source_id))), None)
    return None if found is None else found.id


def _count(tx: Transaction, conversation: Conversation, added: int, tokens: int, last: int, newest: int) -> None:
    row = CONVERSATIONS.rows.read(tx, conversation.id, ("state_revision", "messages"))
    assert row is not None
    values = {
        "state_revision": row["state_revision"] + 1,
        "messages": row["messages"] + added,
        "last_number": last,
        "tokens": tokens,
        "updated_at": newest,
    }
    CONVERSATIONS.rows.update(tx, conversation.id, values)


def _change(
    tx: Transaction,
    operation: Operation,
    conversation: Conversation,
    found: _Known,
    kept: Stored,
    values: Mapping[str, Any],
    digest: str,
) -> int:
    """Make a message what it is in its source now; returns by how many its tokens grew.

    What it was is kept as a revision, unless its text only grew.
    """
    row = tx.one("SELECT number, role, content, size_bytes, tokens FROM messages WHERE id = ?", (found.id,))
    assert row is not None
    number, role, content, size_bytes, tokens = row
    before = part_rows(tx, found.id)
    revision = found.revision
    if not kept.content.startswith(content) or not _has_grown(content, before, kept):
        tx.execute(
            "INSERT INTO message_revision (message_id, revision, conversation_id, number, role, content, parts, "
            "change, size_bytes, changed_at, operation_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(found.id, revision, conversation.id, number, role, content),
                *(encode_json(assemble(content, before)), MessageChange.EDITED.value, size_bytes, tx.now),
                operation.enter(tx, conversation.project_id),
            ),
        )
        revision += 1
    tx.execute("DELETE FROM message_parts WHERE message_id = ?", (found.id,))
    insert_parts(tx, found.id, kept.rows)
    columns = {
        **values,
        "content": kept.content,
        "size_bytes": kept.size_bytes,
        "revision": revision,
        "source_form": f"{revision}:{digest}",
    }
    assignments = ", ".join(f"{name} = ?" for name in columns)
    tx.execute(f"UPDATE messages SET {assignments} WHERE id = ?", (*columns.values(), found.id))
    return (values["tokens"] or 0) - (tokens or 0)


def _has_grown(content: str, before: Sequence[Any], kept: Stored) -> bool:
    """Whether every part that was there is there still, or begins one that is."""
    old, new = assemble(content, before), assemble(kept.content, kept.rows)
    return len(new) >= len(old) and all(
        (one.kind, one.call_id, one.blob) == (two.kind, two.call_id, two.blob)
        and (two.body or "").startswith(one.body or "")
        for one, two in zip(old, new, strict=False)
    )


# Sources


def source_by_path(reader: Reader, path: str) -> ConversationSource | None:
    """The source with this path."""
    row = reader.one(f"{SOURCES.select} WHERE conversation_sources.path = ?", (path,))
    return None if row is None else SOURCES.decode(row)


def watched_exist(reader: Reader) -> bool:
    """Whether any source is followed."""
    return reader.one("SELECT 1 FROM conversation_sources WHERE watched = 1 LIMIT 1") is not None


def count_watched(reader: Reader) -> int:
    """How many sources are followed."""
    row = reader.one("SELECT count(*) FROM conversation_sources WHERE watched = 1")
    return 0 if row is None else int(row[0])


def check_progress(reader: Reader, progress: SourceProgress) -> None:
    """Check that no other importer has read the source meanwhile: their messages would be in another order.

    Raises:
        SourceMoved: it has.
    """
    if progress.after_bytes is None:
        return
    row = reader.one("SELECT offset_bytes FROM conversation_sources WHERE id = ?", (progress.source,))
    if row is not None and row[0] != progress.after_bytes:
        raise SourceMoved(
            f"cannot import: the source was read up to {row[0]} bytes, and not up to {progress.after_bytes}",
            hint="Another importer reads it: get the source, and go on from there.",
            details={"source": progress.source, "offset_bytes": row[0]},
        )


def write_progress(tx: Transaction, progress: SourceProgress, added: int) -> bool:
    """Write how far a source was read; returns whether the source is there."""
    present = SOURCES.rows.read(tx, progress.source, ("messages",))
    if present is None:
        return False
    columns = {
        "offset_bytes": progress.offset_bytes,
        "size_bytes": progress.size_bytes,
        "inode": progress.inode,
        "head": progress.head,
        "state": encode_json(progress.state) or "{}",
        "messages": present["messages"] + added,
        "deleted": number_deleted(tx, progress.source),
        "skipped": encode_json(progress.skipped) or "{}",
        "last_error": progress.last_error,
        "read_at": tx.now,
    }
    SOURCES.rows.update(tx, progress.source, columns)
    return True


def read_anew(tx: Transaction, source: ConversationSource) -> None:
    """Read a source from its beginning the next time."""
    columns = {"offset_bytes": 0, "head": None, "state": "{}", "skipped": "{}", "last_error": None}
    SOURCES.rows.update(tx, source.id, columns)


def forget_conversation(tx: Transaction, conversation: Conversation) -> None:
    """Tell its sources that a conversation was deleted: an import on demand makes it again, and a follower does not."""
    of = (conversation.source or NATIVE, conversation.source_id or conversation.id)
    for id_, messages in mark_deleted(tx, *of).items():
        present = SOURCES.rows.read(tx, id_, ("messages",))
        if present is not None:
            left = max([0, present["messages"] - messages])
            SOURCES.rows.update(tx, id_, {"messages": left, "deleted": number_deleted(tx, id_)})


# What is followed


def roots(reader: Reader) -> set[str]:
    """The paths of the files and folders that are followed."""
    return {path for (path,) in reader.all("SELECT path FROM conversation_sources WHERE watched = 1")}


def completed(reader: Reader, source: ConversationSource, of: Collection[str]) -> ConversationSource:
    """A source with what no column of it has, by the paths of what is followed. A folder has its files' messages."""
    path = source.path
    is_followed = path in of or any(str(each) in of for each in PurePath(path).parents)
    messages = source.messages
    if source.watched:
        below = path.rstrip("/")
        row = reader.one(
            "SELECT coalesce(sum(messages), 0) FROM conversation_sources WHERE path > ? AND path < ?",
            (f"{below}/", f"{below}0"),  # the character after the slash
        )
        messages += 0 if row is None else row[0]
    return msgspec.structs.replace(source, followed=is_followed, messages=messages)
