"""The handlers of the commands on messages and blobs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import Annotated, Any

import msgspec
from nexus_protocol import InvalidArgument, NexusError, Unavailable, encode_record
from nexus_protocol.command import Record

from nexus.capability import PAGE_BYTES, Context, Stream, encoded_list, handles
from nexus.conversations import blobs_store, messages_store, store, writing_store
from nexus.conversations.appending import Appending
from nexus.conversations.commands import (
    AppendMessage,
    CreateMessage,
    DeleteMessage,
    EditMessage,
    GetBlob,
    GetMessage,
    GetMessageRevisions,
    ListMessages,
    PutBlob,
    SweepBlobs,
)
from nexus.conversations.errors import (
    BlobNotFound,
    MessageChanged,
    MessageIdTaken,
    MessageInvalid,
    MessageOpen,
    MessageSourceTaken,
)
from nexus.conversations.manager import ConversationManager
from nexus.conversations.messages_store import Found
from nexus.conversations.parts_store import PartRow, Stored, stored, with_new_text, write_bytes
from nexus.conversations.records import (
    Appended,
    Blob,
    BlobContent,
    Conversation,
    Message,
    MessagePage,
    MessageRevisions,
    SweptBlobs,
)
from nexus.conversations.states import MessageStatus, PartKind
from nexus.conversations.store import CONVERSATIONS
from nexus.hints import command_line
from nexus.records.errors import RecordAmbiguous, RecordNotFound
from nexus.records.fields import Metadata
from nexus.records.handlers import MATCH_S, check_metadata
from nexus.records.links import unlink
from nexus.records.matching import parse_words
from nexus.records.scope import reference_of
from nexus.store import DiskFull, Reader, Transaction
from nexus.streams import daemon_stopping

__all__ = [
    "append_message",
    "create_message",
    "delete_message",
    "edit_message",
    "get_blob",
    "get_message",
    "get_message_revisions",
    "list_messages",
    "put_blob",
    "sweep_blobs",
]

_MAX_LISTED = 2048
"""Messages of a page: 1 MiB, at the 500 bytes that each counts beside its text."""
_ROW_BYTES = 500
_READ_AT_ONCE = 100
_MAX_UNLINKED = 1_000_000


def _manager(ctx: Context) -> ConversationManager:
    return ctx.daemon.manager(ConversationManager)


def _tokens(tokens: int | None, metadata: dict[str, Any] | None) -> int | None:
    """The tokens of a message: the field, else what its metadata says."""
    said = (metadata or {}).get("tokens")
    if tokens is not None or isinstance(said, bool) or not isinstance(said, int) or not 0 <= said <= 2**53:
        return tokens
    return said


def _columns(command: CreateMessage | AppendMessage) -> dict[str, Any]:
    return {
        "id": command.id,
        "role": command.role.value,
        "metadata": store.encode_json(command.metadata),
        "model": command.model,
        "tokens": _tokens(getattr(command, "tokens", None), command.metadata),
        "source": command.source,
        "source_id": command.source_id,
    }


def _parent(
    tx: Transaction, ctx: Context, conversation: Conversation, command: CreateMessage | AppendMessage, cannot: str
) -> dict[str, str]:
    """The id of the message that one answers.

    Raises:
        MessageInvalid: none, or more than one, has this reference.
    """
    if command.parent_id is None:
        return {}
    try:
        return {"parent_id": messages_store.resolve_message(tx, command.parent_id, ctx.scope(tx)).message.id}
    except (RecordNotFound, RecordAmbiguous) as error:
        look = command_line("nexusctl", "message", "list", reference_of(conversation))
        raise MessageInvalid(
            f"{cannot}: {error.message}",
            hint=error.hint or f"It answers a message by its id, or as CONVERSATION:NUMBER: {look}",
            details={"path": "parent_id"},
        ) from None


def _check(command: CreateMessage | AppendMessage, cannot: str) -> None:
    check_metadata(command, cannot)
    if (command.source is None) != (command.source_id is None):
        raise InvalidArgument(f"{cannot}: source and source_id go together", details={"path": "source"})


def _existing(
    tx: Transaction,
    conversation: Conversation,
    command: CreateMessage | AppendMessage,
    content: str | None,
    cannot: str,
) -> Message | None:
    """The message that the same request made before; ``content`` is its text, as far as that is known.

    Raises:
        MessageIdTaken, MessageSourceTaken: another message has its id, or its id of the source.
    """
    found = None if command.id is None else messages_store.message_by_id(tx, command.id)
    if found is not None:
        message = found.message
        same = (message.conversation_id, message.role) == (conversation.id, command.role)
        # The text of one that was edited since then is another one.
        if same and (content is None or message.revision > 1 or message.content == content):
            return msgspec.structs.replace(message, content=None, parts=[])
        raise MessageIdTaken(
            f"{cannot}: message {found.conversation.name}:{message.number} has the id {message.id} and differs from "
            "the request",
            hint="To repeat a request, give what the message has; for another one choose another id.",
            details={"id": message.id, "number": message.number},
        )
    of_source = messages_store.message_by_source(tx, command.source, command.source_id)
    if of_source is None:
        return None
    if command.id is None and of_source.conversation_id == conversation.id:
        return msgspec.structs.replace(of_source, content=None)
    raise MessageSourceTaken(
        f"{cannot}: message {of_source.id} has the id {command.source_id} of {command.source}",
        details={"id": of_source.id},
    )


def _size(command: Any) -> int:
    return write_bytes([command.content, *(part.body for part in command.parts or ())])


@handles(CreateMessage, size_bytes=_size)
def create_message(tx: Transaction, ctx: Context, command: CreateMessage) -> Message:
    cannot = "cannot add the message"
    _check(command, cannot)
    conversation = CONVERSATIONS.resolve(tx, command.conversation, ctx.scope(tx))
    kept = stored(command.content, command.parts, cannot)
    existing = _existing(tx, conversation, command, kept.content, cannot)
    if existing is not None:
        return existing  # the message that it answers may be gone
    columns = _columns(command) | _parent(tx, ctx, conversation, command, cannot)
    return writing_store.add_message(tx, ctx.operation, conversation, kept, columns)


# Appending


class _Part(Record, forbid_unknown_fields=True):
    kind: PartKind
    tool: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    call_id: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    name: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    media_type: Annotated[str, msgspec.Meta(max_length=255)] | None = None


class _Set(Record, forbid_unknown_fields=True):
    tokens: Annotated[int, msgspec.Meta(ge=0, le=2**53)] | None = None
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None
    metadata: Metadata | None = None


class _Control(Record, forbid_unknown_fields=True):
    part: _Part | None = None
    set: _Set | None = None


@handles(AppendMessage)
async def append_message(ctx: Context, command: AppendMessage, stream: Stream[Appended]) -> Message:
    cannot = "cannot append a message"
    _check(command, cannot)

    def begin(tx: Transaction) -> Message:
        conversation = CONVERSATIONS.resolve(tx, command.conversation, ctx.scope(tx))
        if (existing := _existing(tx, conversation, command, None, cannot)) is not None:
            raise MessageIdTaken(
                f"{cannot}: message {existing.id} exists, and is {existing.status}",
                hint="Look at it: " + command_line("nexusctl", "message", "show", existing.id),
                details={"id": existing.id, "number": existing.number, "status": existing.status.value},
            )
        columns = _columns(command) | _parent(tx, ctx, conversation, command, cannot)
        columns["status"] = MessageStatus.OPEN.value
        return writing_store.add_message(tx, ctx.operation, conversation, Stored("", [], 0), columns)

    message = await ctx.store.write(begin, size_bytes=2048)
    appending = Appending(ctx.store, ctx.operation, message)
    stopping = asyncio.Event()
    stream.on_draining(stopping.set)
    ended: Message | None = None
    try:
        await stream.send(Appended(message.id, message.number))
        await _receive(appending, stream, stopping)
        ended = await appending.end(MessageStatus.COMPLETE)
        return ended
    finally:
        if ended is None:
            # In a task of its own: this one may be cancelled again while it waits.
            _manager(ctx).interrupt(appending)


async def _receive(appending: Appending, stream: Stream[Appended], stopping: asyncio.Event) -> None:
    """Take the client's Input until its end, and write it in pieces.

    Raises:
        Unavailable: the daemon stops.
    """
    unacknowledged = 0

    async def flush() -> None:
        nonlocal unacknowledged
        await appending.flush()
        size, unacknowledged = unacknowledged, 0
        if size:
            await stream.acknowledge(size)
            await stream.send(Appended(appending.message.id, appending.message.number, appending.size_bytes))

    stop = asyncio.create_task(stopping.wait())
    receiving: asyncio.Task[dict[str, Any]] | None = None
    try:
        while True:
            if receiving is None:
                receiving = asyncio.create_task(stream.receive())
            left = None
            if appending.wakes_at is not None:
                left = max(appending.wakes_at - asyncio.get_running_loop().time(), 0)
            await asyncio.wait({receiving, stop}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                body, receiving = receiving.result(), None
                if "eof" in body:
                    return
                unacknowledged += _take(appending, body)
            elif stop.done() or stream.draining:
                await flush()
                raise daemon_stopping("What was received is kept, and the message is incomplete.")
            now = asyncio.get_running_loop().time()
            if appending.is_full or (appending.flush_at is not None and now >= appending.flush_at):
                await flush()
            elif appending.idle_at is not None and now >= appending.idle_at:
                await appending.make_searchable()
    except asyncio.CancelledError:
        # What has come before the client's Cancel, or the end of its connection, belongs to the message.
        rest = receiving.result() if receiving is not None and receiving.done() else stream.receive_now()
        with contextlib.suppress(NexusError):
            while rest is not None:
                _take(appending, rest)
                rest = stream.receive_now()
        raise
    finally:
        for task in (stop, receiving):
            if task is not None:
                task.cancel()


def _take(appending: Appending, body: dict[str, Any]) -> int:
    """Take data or a control; returns how many bytes of credit it took.

    Raises:
        InvalidArgument: it is malformed.
    """
    if "data" in body:
        appending.feed(body["data"])
        return len(body["data"])
    if "control" in body:
        _control(appending, body["control"])
    return 0


def _control(appending: Appending, control: dict[str, Any]) -> None:
    try:
        given = msgspec.convert(control, _Control)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"cannot take this control: {error}", details={"path": "control"}) from None
    if (given.part is None) == (given.set is None):
        raise InvalidArgument("cannot take this control: give one of part and set", details={"path": "control"})
    if given.part is not None:
        part = given.part
        if part.kind in (PartKind.IMAGE, PartKind.FILE):
            raise InvalidArgument(
                f"cannot take this control: a part of the kind {part.kind} has no text", details={"path": "control"}
            )
        appending.begin_part(PartRow(part.kind.value, part.tool, part.call_id, part.name, part.media_type))
        return
    assert given.set is not None
    check_metadata(EditMessage("", metadata=given.set.metadata), "cannot take this control")
    if given.set.metadata is not None:
        appending.values["metadata"] = store.encode_json(given.set.metadata)
    tokens = _tokens(given.set.tokens, given.set.metadata)
    appending.values |= {
        name: value for name, value in (("tokens", tokens), ("model", given.set.model)) if value is not None
    }


# Reading


@handles(GetMessage)
def get_message(ctx: Context, command: GetMessage) -> Message:
    return ctx.store.read(
        lambda reader: messages_store.resolve_message(reader, command.message, ctx.scope(reader)).message, snapshot=True
    )


@handles(ListMessages)
async def list_messages(ctx: Context, command: ListMessages) -> MessagePage:
    if sum((command.at_end, command.after is not None, command.before is not None)) > 1:
        raise InvalidArgument(
            "cannot list messages: give one of at_end, after and before at most", details={"path": "after"}
        )
    backwards = command.at_end or command.before is not None
    limit = min([command.limit, _MAX_LISTED])
    match = None if command.match is None else parse_words(command.match, "match")

    def sizes(reader: Reader) -> tuple[str, list[tuple[int, int]], bool]:
        of = CONVERSATIONS.resolve(reader, command.conversation, ctx.scope(reader))
        if backwards:
            before = of.last_number + 1 if command.before is None else command.before
            found = messages_store.sizes_before(reader, of.id, before, limit + 1, match)
            beyond = bool(messages_store.sizes_after(reader, of.id, before - 1, 1, match))
        else:
            after = command.after or 0
            found = messages_store.sizes_after(reader, of.id, after, limit + 1, match)
            beyond = bool(messages_store.sizes_before(reader, of.id, after + 1, 1, match))
        return of.id, found, beyond

    if match is None:
        id_, found, beyond = await ctx.store.fetch(sizes, snapshot=True)
    else:
        id_, found, beyond = await ctx.store.scan(sizes, limit_s=MATCH_S)
    taken, left = 0, PAGE_BYTES
    for _number, size in found[:limit]:
        left -= size + _ROW_BYTES
        if left < 0 and taken:
            break
        taken += 1
    numbers = sorted(number for number, _size in found[:taken])
    encoded: list[bytes] = []
    for at in range(0, len(numbers), _READ_AT_ONCE):
        chunk = numbers[at : at + _READ_AT_ONCE]
        messages = await ctx.store.fetch(
            lambda reader, numbers=chunk: messages_store.messages_numbered(  # type: ignore[misc]
                reader, id_, numbers, parts=command.parts
            ),
            snapshot=True,
        )
        encoded += [encode_record(message) for message in messages]
        await asyncio.sleep(0)
    follows = len(found) > taken
    page: dict[str, Any] = {"messages": encoded_list(encoded)}
    if numbers and (follows if backwards else beyond):
        page["before"] = numbers[0]
    if numbers and (beyond if backwards else follows):
        page["after"] = numbers[-1]
    return MessagePage(**page)


@handles(GetMessageRevisions)
def get_message_revisions(ctx: Context, command: GetMessageRevisions) -> MessageRevisions:
    def read(reader: Reader) -> MessageRevisions:
        id_ = messages_store.revisions_of(reader, command.message, ctx.scope(reader))
        found, follows = messages_store.revisions(reader, id_, command.before, PAGE_BYTES)
        return MessageRevisions(found, found[-1].revision if follows and found else None)

    return ctx.store.read(read, snapshot=True)


# Changing


def _changeable(tx: Transaction, ctx: Context, reference: str, revision: int | None, verb: str) -> tuple[Found, str]:
    """The message with a reference, and the beginning of a sentence.

    Raises:
        MessageOpen: a client is appending to it.
        MessageChanged: it has another revision.
    """
    found = messages_store.resolve_message(tx, reference, ctx.scope(tx))
    message = found.message
    cannot = f"cannot {verb} message {found.conversation.name}:{message.number}"
    details = {"id": message.id, "number": message.number, "revision": message.revision}
    if message.status is MessageStatus.OPEN:
        raise MessageOpen(f"{cannot}: a client is appending to it", details=details)
    if revision not in (None, message.revision):
        raise MessageChanged(f"{cannot}: its revision is {message.revision} and not {revision}", details=details)
    return found, cannot


@handles(EditMessage, size_bytes=_size)
def edit_message(tx: Transaction, ctx: Context, command: EditMessage) -> Message:
    found, cannot = _changeable(tx, ctx, command.message, command.if_revision, "edit")
    message = found.message
    check_metadata(command, cannot)
    kept: Stored | None = None
    if command.parts is not None:
        kept = stored(command.content, command.parts, cannot)
    elif command.content is not None:
        kept = stored(command.content, with_new_text(message.parts, command.content), cannot)
    values: dict[str, Any] = {}
    if command.metadata is not None and command.metadata != message.metadata:
        values["metadata"] = store.encode_json(command.metadata)
    tokens = _tokens(command.tokens, command.metadata)
    if tokens not in (None, message.tokens):
        values["tokens"] = tokens
    if command.model not in (None, message.model):
        values["model"] = command.model
    given = (command.content, command.parts, command.metadata, command.tokens, command.model)
    if all(value is None for value in given):
        raise MessageInvalid(f"{cannot}: no field to change was given", details={"path": ""})
    if kept is not None and kept == stored(message.content, message.parts, cannot):
        kept = None
    if kept is None and not values:
        return msgspec.structs.replace(message, content=None, parts=[])
    return writing_store.change_message(tx, ctx.operation, found, kept, values)


@handles(DeleteMessage, size_bytes=lambda _command: 256 * 1024)
def delete_message(tx: Transaction, ctx: Context, command: DeleteMessage) -> Message:
    found, _cannot = _changeable(tx, ctx, command.message, command.if_revision, "delete")
    unlink(tx, ctx.operation, "message", found.message.id, _MAX_UNLINKED)
    return writing_store.delete_message(tx, ctx.operation, found)


# Blobs


@handles(PutBlob)
async def put_blob(ctx: Context, command: PutBlob) -> Blob:
    try:
        return await _manager(ctx).blobs.put(command.data)
    except OSError as error:
        kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else Unavailable
        raise kind(f"cannot store the blob: {error.strerror}") from error


@handles(GetBlob)
async def get_blob(ctx: Context, command: GetBlob) -> BlobContent:
    found = await ctx.store.fetch(lambda reader: blobs_store.find_blob(reader, command.hash))
    if found is None:
        raise BlobNotFound(f"blob {command.hash} not found", details={"blob": command.hash})
    return BlobContent(await asyncio.to_thread(_manager(ctx).blobs.folder.get, command.hash))


@handles(SweepBlobs)
async def sweep_blobs(ctx: Context, command: SweepBlobs) -> SweptBlobs:
    before_at = ctx.daemon.trusted_now_ms() - command.grace_ms
    return SweptBlobs(*await _manager(ctx).blobs.sweep(before_at, dry_run=command.dry_run))
