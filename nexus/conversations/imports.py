"""The handlers of imports and of their sources."""

from __future__ import annotations

from typing import Any

from nexus_protocol import InvalidArgument

from nexus.capability import Context, handles
from nexus.conversations import import_store, origins_store
from nexus.conversations.derived import derived_fields
from nexus.conversations.errors import SourceNotFound
from nexus.conversations.import_commands import (
    AddConversationSource,
    GetConversationSource,
    ImportMessages,
    ListConversationSources,
    RemoveConversationSource,
)
from nexus.conversations.import_records import (
    ConversationSource,
    Imported,
    ImportedConversation,
)
from nexus.conversations.import_store import SOURCES
from nexus.conversations.manager import ConversationManager
from nexus.conversations.parts_store import stored, write_bytes
from nexus.conversations.records import Conversation
from nexus.conversations.states import SourceFormat
from nexus.conversations.store import CONVERSATIONS
from nexus.journal.operation import Operation
from nexus.records.contents import Contents, Held, contents, numbered
from nexus.records.handlers import check_metadata, lists
from nexus.records.scope import reference_of
from nexus.store import Reader, Transaction

__all__ = [
    "add_conversation_source",
    "get_conversation_source",
    "import_messages",
    "list_conversation_sources",
    "remove_conversation_source",
]

_TITLE = "New Conversation"


def _all_completed(reader: Reader, sources: list[ConversationSource]) -> list[ConversationSource]:
    of = import_store.roots(reader)
    return [import_store.completed(reader, each, of) for each in sources]


list_conversation_sources = lists(SOURCES, ListConversationSources, "sources", complete=_all_completed)


def _delete_all(tx: Transaction, operation: Operation, _project_id: str, held: list[Held]) -> None:
    for each in held:
        _delete(tx, operation, SOURCES.get(tx, each.id))


def _delete(tx: Transaction, operation: Operation, source: ConversationSource) -> None:
    origins_store.forget_origins(tx, source.id)
    SOURCES.delete(tx, operation, source, ("path",))


def _wake(ctx: Context, _ids: Any = None) -> None:
    ctx.daemon.manager(ConversationManager).follower.wake()


def _wake_for(ctx: Context, source: ConversationSource) -> None:
    if source.watched:
        _wake(ctx)


contents(Contents("conversation_source", "conversation source", numbered(SOURCES), _delete_all, after=_wake))


def _size(command: ImportMessages) -> int:
    texts = [text for each in command.messages for text in (each.content, *(part.body for part in each.parts))]
    return write_bytes(texts, 1024 * (1 + len(command.messages)))


def _resolve(reader: Reader, ctx: Context, reference: str) -> ConversationSource:
    """The source with a path, or a number, or an id."""
    found = import_store.source_by_path(reader, reference) if reference.startswith("/") else None
    return found or SOURCES.resolve(reader, reference, ctx.scope(reader))


@handles(GetConversationSource)
def get_conversation_source(ctx: Context, command: GetConversationSource) -> ConversationSource:
    def get(reader: Reader) -> ConversationSource:
        return _completed(reader, _resolve(reader, ctx, command.source))

    return ctx.store.read(get)


@handles(ImportMessages, size_bytes=_size)
def import_messages(tx: Transaction, ctx: Context, command: ImportMessages) -> Imported:
    cannot = "cannot import"
    project_id = ctx.scope(tx).home(cannot)
    if command.messages and command.conversation is None:
        raise InvalidArgument(f"{cannot}: messages need a conversation", details={"path": "conversation"})
    reply = Imported()
    progress = command.progress
    if progress is not None:
        import_store.check_progress(tx, progress)
    if command.conversation is not None:
        reply = _add(tx, ctx, command, command.conversation, project_id)
    if progress is not None and not import_store.write_progress(tx, progress, reply.added):
        raise SourceNotFound(f'conversation source "{progress.source}" not found', details={"source": progress.source})
    return reply


def _add(
    tx: Transaction, ctx: Context, command: ImportMessages, header: ImportedConversation, project_id: str
) -> Imported:
    cannot = "cannot import"
    file_id = None if command.progress is None else command.progress.source
    found = import_store.found_conversation(tx, header)
    if command.followed and origins_store.is_left_alone(tx, header, file_id, is_there=found is not None):
        if file_id is not None:
            origins_store.leave_alone(tx, header, file_id)
        return Imported(deleted=True)
    kept = []
    for message in command.messages:
        name = f"{cannot} message {message.source_id}"
        check_metadata(message, name)
        kept.append((message, stored(message.content, message.parts or None, name)))
    conversation = _create(tx, ctx, header, project_id) if found is None else found
    if found is not None:
        import_store.take_title(tx, ctx.operation, found, header.title)
    counts = import_store.add_messages(tx, ctx.operation, conversation, header, kept, redacted=command.redacted)
    if file_id is not None:
        origins_store.take_origin(tx, header, file_id, counts.added)
    return Imported(
        conversation_id=conversation.id,
        number=conversation.number,
        project=conversation.project,
        created=found is None,
        added=counts.added,
        known=counts.known,
        changed=counts.changed,
    )


def _create(tx: Transaction, ctx: Context, header: ImportedConversation, project_id: str) -> Conversation:
    check_metadata(header, "cannot import the conversation")
    title = header.title or _TITLE
    created_at = tx.now if header.created_at is None else header.created_at
    fields: dict[str, Any] = {
        "project_id": project_id,
        "title": title,
        "source_title": title,
        "metadata": header.metadata,
        "folder": header.folder,
        "tool": header.tool,
        "source": header.source,
        "source_id": header.source_id,
        "forked_from": header.forked_from,
        "forked_at": header.forked_at,
        "created_at": created_at,
        "updated_at": created_at if header.updated_at is None else header.updated_at,
    }
    return CONVERSATIONS.insert(tx, ctx.operation, fields | derived_fields(header.metadata))


@handles(AddConversationSource, after=_wake_for)
def add_conversation_source(tx: Transaction, ctx: Context, command: AddConversationSource) -> ConversationSource:
    cannot = f"cannot read conversations from {command.path}"
    project_id = ctx.scope(tx).home(cannot)
    found = import_store.source_by_path(tx, command.path)
    if found is None:
        fields = {
            "project_id": project_id,
            "path": command.path,
            "format": command.format,
            "watched": command.watched,
            "redact": command.redact,
            "redact_secrets": command.redact_secrets,
        }
        return _completed(tx, SOURCES.insert(tx, ctx.operation, fields))
    changes: dict[str, Any] = {}
    if command.format not in (SourceFormat.AUTO, found.format):
        changes["format"] = command.format
        import_store.read_anew(tx, found)
    if command.watched:
        changes["watched"] = True
    if command.redact is not None:
        changes["redact"] = command.redact
    if command.redact_secrets:
        changes["redact_secrets"] = True
    return _completed(tx, SOURCES.update(tx, ctx.operation, found, changes))


def _completed(reader: Reader, source: ConversationSource) -> ConversationSource:
    return import_store.completed(reader, source, import_store.roots(reader))


@handles(RemoveConversationSource, after=_wake_for)
def remove_conversation_source(tx: Transaction, ctx: Context, command: RemoveConversationSource) -> ConversationSource:
    source = _resolve(tx, ctx, command.source)
    cannot = f"cannot remove conversation source {reference_of(source)}"
    SOURCES.expect(source, cannot, command.if_revision, command.if_state_revision)
    source = _completed(tx, source)
    _delete(tx, ctx.operation, source)
    return source
