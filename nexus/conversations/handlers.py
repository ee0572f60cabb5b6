"""The handlers of the commands on conversations; those of messages are in ``messages``."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
from nexus_protocol import InvalidArgument

from nexus.capability import Context, handles
from nexus.conversations import messages_store, steps_store, store
from nexus.conversations.commands import (
    CreateConversation,
    DeleteConversation,
    ForkConversation,
    GetConversation,
    ListConversations,
    UpdateConversation,
)
from nexus.conversations.derived import CLASSIFIED, derived_fields, merged_metadata
from nexus.conversations.errors import ConversationIdTaken, ConversationSourceTaken, MessageNotFound
from nexus.conversations.import_store import forget_conversation
from nexus.conversations.imports import (
    add_conversation_source,
    get_conversation_source,
    import_messages,
    list_conversation_sources,
    remove_conversation_source,
)
from nexus.conversations.manager import ConversationManager
from nexus.conversations.messages import (
    append_message,
    create_message,
    delete_message,
    edit_message,
    get_blob,
    get_message,
    get_message_revisions,
    list_messages,
    put_blob,
    sweep_blobs,
)
from nexus.conversations.records import Conversation
from nexus.conversations.store import CONVERSATIONS
from nexus.journal.operation import Operation
from nexus.records.contents import Contents, Held, contents, numbered
from nexus.records.handlers import check_metadata, gets, lists
from nexus.records.links import Target, target
from nexus.records.scope import Scope
from nexus.store import Reader, Transaction

__all__ = [
    "add_conversation_source",
    "append_message",
    "create_conversation",
    "create_message",
    "delete_conversation",
    "delete_message",
    "edit_message",
    "fork_conversation",
    "get_blob",
    "get_conversation",
    "get_conversation_source",
    "get_message",
    "get_message_revisions",
    "import_messages",
    "list_conversation_sources",
    "list_conversations",
    "list_messages",
    "put_blob",
    "sweep_blobs",
    "remove_conversation_source",
    "update_conversation",
]

_PLAIN = ("title", "folder", "tool", "source", "source_id")


def _manager(ctx: Context) -> ConversationManager:
    return ctx.daemon.manager(ConversationManager)


def _delete_all(tx: Transaction, operation: Operation, _project_id: str, held: list[Held]) -> None:
    for each in held:
        _hide(tx, operation, CONVERSATIONS.get(tx, each.id))


def _hide(tx: Transaction, operation: Operation, conversation: Conversation) -> None:
    store.hide(tx, operation, conversation)
    forget_conversation(tx, conversation)


contents(
    Contents(
        "conversation",
        "conversation",
        numbered(CONVERSATIONS),
        _delete_all,
        after=lambda ctx, ids: _manager(ctx).sweep(ids),
    )
)


def _conversation_ids(reader: Reader, reference: str, scope: Scope) -> dict[str, str]:
    return {"conversation": CONVERSATIONS.resolve(reader, reference, scope).id}


def _message_ids(reader: Reader, reference: str, scope: Scope) -> dict[str, str]:
    found = messages_store.resolve_message(reader, reference, scope)
    return {"message": found.message.id, "conversation": found.conversation.id}


target(Target("conversation", _conversation_ids))
target(Target("message", _message_ids))

get_conversation = gets(CONVERSATIONS, GetConversation)
list_conversations = lists(CONVERSATIONS, ListConversations, "conversations")


@handles(CreateConversation, size_bytes=lambda _command: 4096)
def create_conversation(tx: Transaction, ctx: Context, command: CreateConversation) -> Conversation:
    cannot = "cannot create the conversation"
    check_metadata(command, cannot)
    _check_source(command, cannot)
    fields: dict[str, Any] = {name: getattr(command, name) for name in _PLAIN}
    fields["project_id"] = ctx.scope(tx).home(cannot)
    fields["metadata"] = merged_metadata(command, command.metadata or {})
    _check_size(fields["metadata"], cannot)
    fields |= derived_fields(fields["metadata"])
    if command.id is not None and (found := CONVERSATIONS.by_id(tx, command.id)) is not None:
        return _repeated(found, fields)
    if command.id is not None and store.is_taken(tx, command.id):
        raise ConversationIdTaken(
            f"{cannot}: the conversation with the id {command.id} is being deleted",
            hint="Choose another id.",
            details={"id": command.id},
        )
    found = store.by_source(tx, command.source, command.source_id)
    if found is not None:
        if command.id is None and found.project_id == fields["project_id"]:
            return found
        raise ConversationSourceTaken(
            f"{cannot}: conversation {found.name} has the id {command.source_id} of {command.source}",
            details={"id": found.id, "number": found.number},
        )
    return CONVERSATIONS.insert(tx, ctx.operation, fields | {"id": command.id})


def _check_source(command: Any, cannot: str) -> None:
    """Refuse one half of a source.

    Raises:
        InvalidArgument: one of ``source`` and ``source_id`` is missing.
    """
    if (command.source is None) != (command.source_id is None):
        raise InvalidArgument(f"{cannot}: source and source_id go together", details={"path": "source"})


def _check_size(metadata: dict[str, Any], cannot: str) -> None:
    """Check the bounds of metadata once tags, archived and pinned are written into it."""
    check_metadata(UpdateConversation("", metadata=metadata), cannot)


def _repeated(found: Conversation, fields: dict[str, Any]) -> Conversation:
    """The conversation that the same request made before.

    Raises:
        ConversationIdTaken: it differs from the request.
    """
    if all((getattr(found, name) or None) == (value or None) for name, value in fields.items()):
        return found
    raise ConversationIdTaken(
        f"cannot create the conversation: conversation {found.name} has the id {found.id} and differs from the request",
        hint="To repeat a request, give the fields that the conversation has; for another one choose another id.",
        details={"id": found.id, "number": found.number},
    )


@handles(UpdateConversation, size_bytes=lambda _command: 4096)
def update_conversation(tx: Transaction, ctx: Context, command: UpdateConversation) -> Conversation:
    conversation = CONVERSATIONS.resolve(tx, command.conversation, ctx.scope(tx))
    cannot = f"cannot update conversation {conversation.name}"
    check_metadata(command, cannot)
    CONVERSATIONS.expect(conversation, cannot, command.if_revision)
    changes: dict[str, Any] = {
        name: value for name in ("title", "folder", "tool") if (value := getattr(command, name)) is not None
    }
    if any(getattr(command, name) is not None for name in ("metadata", *CLASSIFIED)):
        present = conversation.metadata if command.metadata is None else command.metadata
        changes["metadata"] = merged_metadata(command, present)
        _check_size(changes["metadata"], cannot)
        changes |= derived_fields(changes["metadata"])
    if not changes:
        raise InvalidArgument(f"{cannot}: no field to change was given", details={"path": ""})
    return CONVERSATIONS.update(tx, ctx.operation, conversation, changes)


def _deleted(ctx: Context, conversation: Conversation) -> None:
    _manager(ctx).sweep([conversation.id], ctx.operation)


@handles(DeleteConversation, after=_deleted)
def delete_conversation(tx: Transaction, ctx: Context, command: DeleteConversation) -> Conversation:
    conversation = CONVERSATIONS.resolve(tx, command.conversation, ctx.scope(tx))
    cannot = f"cannot delete conversation {conversation.name}"
    CONVERSATIONS.expect(conversation, cannot, command.if_revision, command.if_state_revision)
    _hide(tx, ctx.operation, conversation)
    return conversation


@handles(ForkConversation)
async def fork_conversation(ctx: Context, command: ForkConversation) -> Conversation:
    fork_id = command.id or str(uuid.uuid4())

    def begin(tx: Transaction) -> tuple[Conversation, int, Conversation | None]:
        of = CONVERSATIONS.resolve(tx, command.conversation, ctx.scope(tx))
        cannot = f"cannot fork conversation {of.name}"
        if command.at is not None and not messages_store.messages_between(
            tx, of.id, command.at, command.at, parts=False
        ):
            raise MessageNotFound(
                f"{cannot}: it has no message {command.at}", details={"message": f"{of.name}:{command.at}"}
            )
        at = of.last_number if command.at is None else command.at
        repeated = CONVERSATIONS.by_id(tx, fork_id)
        if repeated is not None and repeated.forked_from == of.id:
            return of, at, repeated
        if repeated is not None or store.is_taken(tx, fork_id):
            raise ConversationIdTaken(
                f"{cannot}: another conversation has the id {fork_id}",
                hint="Choose another id.",
                details={"id": fork_id},
            )
        steps_store.begin_fork(tx, ctx.operation, of, at, fork_id, command.title)
        return of, at, None

    of, at, repeated = await ctx.store.write(begin, size_bytes=4096)
    if repeated is not None:
        return repeated
    try:
        return await _copy(ctx, of, fork_id, at)
    except BaseException:
        # Also where the request is cancelled: what was copied is deleted.
        _manager(ctx).sweep([fork_id], ctx.operation)
        raise


async def _copy(ctx: Context, of: Conversation, fork_id: str, at: int) -> Conversation:
    copied = steps_store.Copied(0, {}, done=False)
    while not copied.done:
        copied = await ctx.store.write(
            lambda tx, so_far=copied: steps_store.copy_step(  # type: ignore[misc]
                tx, ctx.operation, of.id, fork_id, so_far, at
            ),
            size_bytes=1024 * 1024,
        )

    def finish(tx: Transaction) -> Conversation:
        # It may have been deleted, or its project, since the copy began.
        present = CONVERSATIONS.get(tx, of.id)
        return steps_store.finish_fork(
            tx, ctx.operation, msgspec.structs.replace(of, project_id=present.project_id), fork_id
        )

    return await ctx.store.write(finish, size_bytes=4096)
