"""The commands of conversations and messages, and the kinds of their events."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from nexus_protocol.command import UNRECORDED, Command, Effect, Repeat, StreamCommand, command
from nexus_protocol.events import cause, event

from nexus.conversations.errors import (
    BlobDamaged,
    BlobNotFound,
    ConversationAmbiguous,
    ConversationChanged,
    ConversationCursorInvalid,
    ConversationIdTaken,
    ConversationNotFound,
    ConversationSourceTaken,
    MessageAmbiguous,
    MessageChanged,
    MessageIdTaken,
    MessageInvalid,
    MessageNotFound,
    MessageOpen,
    MessageSourceTaken,
)
from nexus.conversations.records import (
    MESSAGE_BYTES,
    Appended,
    Blob,
    BlobContent,
    Conversation,
    ConversationPage,
    ConversationReference,
    Message,
    MessagePage,
    MessagePart,
    MessageReference,
    MessageRevisions,
    SweptBlobs,
)
from nexus.conversations.states import Role
from nexus.records.errors import QueryInvalid
from nexus.records.events import record_events
from nexus.records.fields import (
    ClientId,
    Cursor,
    Match,
    Metadata,
    PageLimit,
    Revision,
    StateRevision,
)
from nexus.records.processes import Path

__all__ = [
    "AppendMessage",
    "CreateConversation",
    "CreateMessage",
    "DeleteConversation",
    "DeleteMessage",
    "EditMessage",
    "ForkConversation",
    "GetBlob",
    "GetConversation",
    "GetMessage",
    "GetMessageRevisions",
    "ListConversations",
    "ListMessages",
    "PutBlob",
    "SweepBlobs",
    "UpdateConversation",
]

_MAX_PAYLOAD = 2 * MESSAGE_BYTES + 64 * 1024
"""Of the commands that carry a message, in bytes: its text may stand in the content and in parts."""
_MAX_BLOB = 8 * 1024 * 1024

_LOOKUP_ERRORS = (ConversationNotFound, ConversationAmbiguous)
_CHANGE_ERRORS = (*_LOOKUP_ERRORS, ConversationChanged)
_MESSAGE_LOOKUP_ERRORS = (MessageNotFound, MessageAmbiguous)
_MESSAGE_CHANGE_ERRORS = (*_MESSAGE_LOOKUP_ERRORS, MessageChanged, MessageOpen)

_MESSAGE = {"conversation_id": "its conversation", "number": "its number there", "role": "its role"}

record_events(
    "conversation",
    "A conversation",
    created={"title": "its title", "forked_from": "the conversation that it begins like"},
    deleted={"title": "its title", "messages": "how many it had, which are deleted in steps"},
)
event("message.created", "A message was added to a conversation.", **_MESSAGE, status="complete, or open")
event("message.completed", "A message to which a client appended is complete.", **_MESSAGE, size_bytes="its size")
event("message.interrupted", "The client or the daemon ended before a message did.", **_MESSAGE, size_bytes="its size")
event("message.edited", "A message was changed; what it was is a revision.", **_MESSAGE, revision="the new one")
event("message.deleted", "A message was deleted; what it was is a revision.", **_MESSAGE)

cause("messages.interrupted", "The daemon ended while clients appended to messages.")
cause("conversations.swept", "What was left of deleted conversations, and of forks that were interrupted, was deleted.")

Title = Annotated[
    str,
    Meta(min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)", description="what it is about"),
]
ConversationTag = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)")]
ConversationTags = Annotated[
    list[ConversationTag],
    Meta(
        max_length=64,
        description="tags to find it by: tags in its metadata",
        extra={"option": "--tag", "metavar": "TAG"},
    ),
]
Archived = Annotated[bool, Meta(description="archive it: archived in its metadata")]
Pinned = Annotated[bool, Meta(description="pin it: pinned in its metadata")]
Folder = Annotated[Path, Meta(description="the folder where it is held", extra={"option": "--folder", "path": True})]
Tool = Annotated[
    str,
    Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)", description="the program it is held with"),
]
Source = Annotated[
    str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)", description="what it comes from")
]
SourceId = Annotated[
    str, Meta(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)", description="its id there")
]


@command(0x0400, Effect.CHANGE, errors=(ConversationIdTaken, ConversationSourceTaken))
class CreateConversation(Command[Conversation]):
    """Create a conversation without messages.

    With an ``id``, or a ``source`` and a ``source_id``, of the client, a request that is repeated after a lost reply
    returns the same conversation. ``tags``, ``archived`` and ``pinned`` are written into ``metadata``.
    """

    title: Title = "New Conversation"
    metadata: Metadata | None = None
    tags: ConversationTags | None = None
    archived: Archived | None = None
    pinned: Pinned | None = None
    folder: Folder | None = None
    tool: Tool | None = None
    source: Source | None = None
    source_id: SourceId | None = None
    id: ClientId | None = None


@command(0x0401, Effect.READ, errors=(ConversationCursorInvalid, QueryInvalid), large_reply=True, all_projects=True)
class ListConversations(Command[ConversationPage]):
    """List conversations, the last changed one first.

    A page ends at ``limit`` conversations or 1 MiB, whichever comes first; ``next_cursor`` is set when more follow. A
    conversation that is changed during the walk moves to its beginning, and is not met again.
    """

    tag: Annotated[ConversationTag, Meta(description="only conversations with this tag")] | None = None
    archived: Annotated[bool, Meta(description="only archived ones, or only others")] | None = None
    pinned: Annotated[bool, Meta(description="only pinned ones, or only others")] | None = None
    folder: Annotated[Folder, Meta(description="only those of this folder")] | None = None
    tool: Annotated[Tool, Meta(description="only those of this program")] | None = None
    match: Match | None = None
    limit: PageLimit = 20
    cursor: Cursor | None = None


@command(0x0402, Effect.READ, errors=_LOOKUP_ERRORS)
class GetConversation(Command[Conversation]):
    """Get a conversation, without its messages."""

    conversation: ConversationReference


@command(0x0403, Effect.CHANGE, errors=_CHANGE_ERRORS)
class UpdateConversation(Command[Conversation]):
    """Change a conversation; absent fields keep theirs.

    ``metadata`` replaces all of it; ``tags``, ``archived`` and ``pinned`` are then written into it.
    """

    conversation: ConversationReference
    title: Title | None = None
    metadata: Metadata | None = None
    tags: ConversationTags | None = None
    archived: Archived | None = None
    pinned: Pinned | None = None
    folder: Folder | None = None
    tool: Tool | None = None
    if_revision: Revision | None = None


@command(0x0404, Effect.CHANGE, errors=_CHANGE_ERRORS)
class DeleteConversation(Command[Conversation]):
    """Delete a conversation with its messages, and unlink its jobs.

    It is gone with the reply. Its messages and their revisions are deleted after that in small steps, also over a
    restart of the daemon.
    """

    conversation: ConversationReference
    if_revision: Revision | None = None
    if_state_revision: StateRevision | None = None


@command(
    0x0405,
    Effect.ACT,
    errors=(*_LOOKUP_ERRORS, MessageNotFound, ConversationIdTaken),
    repeat=Repeat.REFUSE,
)
class ForkConversation(Command[Conversation]):
    """Copy a conversation up to a message, by default to its last one; replies when the copy is complete.

    The copy has messages of its own, with the same numbers. A message that is still open ends it. With an ``id``
    of the client, a request that is repeated after a lost reply returns the same fork.
    """

    conversation: ConversationReference
    at: Annotated[int, Meta(ge=1, le=2**63 - 1, description="the number of the last message of the copy")] | None = None
    title: Annotated[Title, Meta(description="its title (default: that of the original)")] | None = None
    id: ClientId | None = None


Content = Annotated[str, UNRECORDED, Meta(description="its text, as Markdown", extra={"option": None})]
Parts = Annotated[
    list[MessagePart],
    UNRECORDED,
    Meta(min_length=1, max_length=10_000, description="what it was made of", extra={"option": None}),
]
MessageRole = Annotated[Role, Meta(description="who said it")]
Model = Annotated[str, Meta(min_length=1, max_length=255, description="the model that made it")]
Tokens = Annotated[
    int, Meta(ge=0, le=2**53, description="its tokens (default: tokens in its metadata, where that is a number)")
]
ParentId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        description="the message that it answers: its id or a unique prefix of it, or CONVERSATION:NUMBER",
        extra={"option": "--parent", "metavar": "MESSAGE"},
    ),
]
MessageMetadata = Annotated[Metadata, UNRECORDED]


@command(
    0x0408,
    Effect.CHANGE,
    errors=(*_LOOKUP_ERRORS, MessageInvalid, MessageIdTaken, MessageSourceTaken, BlobNotFound),
    max_payload=_MAX_PAYLOAD,
)
class CreateMessage(Command[Message]):
    """Add a message to the end of a conversation: its text as ``content``, the ``parts`` that it was made of, or both.

    Without ``content`` it is the text of its text parts, with an empty line between them. Text that stands in both is
    kept once. With an ``id``, or a ``source`` and a ``source_id``, of the client, a request that is repeated after a
    lost reply returns the same message.
    """

    conversation: ConversationReference
    role: MessageRole
    content: Content | None = None
    parts: Parts | None = None
    metadata: MessageMetadata | None = None
    parent_id: ParentId | None = None
    model: Model | None = None
    tokens: Tokens | None = None
    source: Source | None = None
    source_id: SourceId | None = None
    id: ClientId | None = None


@command(
    0x0409,
    Effect.ACT,
    errors=(*_LOOKUP_ERRORS, MessageInvalid, MessageIdTaken, MessageSourceTaken),
    takes_input=True,
    repeat=Repeat.REFUSE,
)
class AppendMessage(StreamCommand[Appended, Message]):
    """Add a message to the end of a conversation while its text comes in.

    The first item tells its id and number. Input ``data`` is text in UTF-8 for its present part, which is of the kind
    text at first. The ``control`` ``{"part": {"kind": …, "tool": …, "call_id": …}}`` begins another part, and
    ``{"set": {"tokens": …, "model": …, "metadata": …}}`` sets fields; ``eof`` completes the message. Text is durable
    200 ms or 16 KiB after it came at the latest; an item tells how much is. When the client, its connection or the
    daemon ends before ``eof``, the message keeps what was received, and is ``incomplete``.
    """

    conversation: ConversationReference
    role: MessageRole
    metadata: MessageMetadata | None = None
    parent_id: ParentId | None = None
    model: Model | None = None
    source: Source | None = None
    source_id: SourceId | None = None
    id: ClientId | None = None


@command(0x040A, Effect.READ, errors=_MESSAGE_LOOKUP_ERRORS, large_reply=True)
class GetMessage(Command[Message]):
    """Get a message with its parts. One that is open has what is durable of it."""

    message: MessageReference


@command(0x040B, Effect.READ, errors=(*_LOOKUP_ERRORS, QueryInvalid), large_reply=True)
class ListMessages(Command[MessagePage]):
    """List messages of a conversation in the order of their numbers: the first 100, by default.

    ``at_end`` begins with the last page; ``after`` and ``before`` continue either way, from the numbers that a page
    tells. Messages that come meanwhile are at the end, and change no other page.
    """

    conversation: ConversationReference
    at_end: Annotated[bool, Meta(description="the last ones")] = False
    after: Annotated[int, Meta(ge=0, le=2**63 - 1, description="only messages after this number")] | None = None
    before: Annotated[int, Meta(ge=0, le=2**63 - 1, description="the last ones before this number")] | None = None
    parts: Annotated[bool, Meta(description="with what they were made of")] = False
    match: Match | None = None
    limit: PageLimit = 100


@command(
    0x040C,
    Effect.CHANGE,
    errors=(*_MESSAGE_CHANGE_ERRORS, MessageInvalid, BlobNotFound),
    max_payload=_MAX_PAYLOAD,
)
class EditMessage(Command[Message]):
    """Change a message; absent fields keep theirs, and what its text was is a revision.

    ``content`` alone replaces its text parts by one, in the place of the first; ``parts`` replace all of them.
    """

    message: MessageReference
    content: Content | None = None
    parts: Parts | None = None
    metadata: MessageMetadata | None = None
    model: Model | None = None
    tokens: Tokens | None = None
    if_revision: Revision | None = None


@command(0x040D, Effect.CHANGE, errors=_MESSAGE_CHANGE_ERRORS)
class DeleteMessage(Command[Message]):
    """Delete a message, and unlink its jobs. Its text stays as a revision as long as its conversation is there."""

    message: MessageReference
    if_revision: Revision | None = None


@command(0x040E, Effect.READ, errors=_MESSAGE_LOOKUP_ERRORS, large_reply=True)
class GetMessageRevisions(Command[MessageRevisions]):
    """Get what a message was before it was edited or deleted, newest first. A deleted one is named like any other."""

    message: MessageReference
    before: Annotated[int, Meta(ge=1, le=2**63 - 1, description="only revisions before this one")] | None = None


@command(0x0410, Effect.ACT, max_payload=_MAX_BLOB + 64 * 1024, repeat=Repeat.AGAIN, in_project=False)
class PutBlob(Command[Blob]):
    """Store a blob, 8 MiB at most, for parts of messages. One with the same content is stored once."""

    data: Annotated[bytes, UNRECORDED, Meta(max_length=_MAX_BLOB, extra={"option": None})]


@command(0x0411, Effect.READ, errors=(BlobNotFound, BlobDamaged), large_reply=True, in_project=False)
class GetBlob(Command[BlobContent]):
    """Get the content of a blob."""

    hash: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)", description="its hash")]


@command(0x0412, Effect.ACT, repeat=Repeat.AGAIN, in_project=False)
class SweepBlobs(Command[SweptBlobs]):
    """Delete the blobs that neither a message nor a revision of one names, and what unfinished writes have left.

    The daemon does so by itself once a day. A blob is stored before the message that names it: one that was stored, or
    named by a message, within the grace time is kept.
    """

    dry_run: Annotated[bool, Meta(description="count only, and delete nothing")] = False
    grace_ms: Annotated[
        int, Meta(ge=0, le=366 * 86_400_000, description="how long a blob is kept after it was stored or named")
    ] = 86_400_000
