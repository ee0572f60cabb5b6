"""The records of conversations and messages, and the annotated types that records and commands share."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field
from nexus_protocol.command import UNRECORDED, Record

from nexus.conversations.states import MessageChange, MessageStatus, PartKind, Role
from nexus.records.fields import Reference

__all__ = [
    "MESSAGE_BYTES",
    "Appended",
    "Blob",
    "BlobContent",
    "Conversation",
    "ConversationPage",
    "ConversationReference",
    "Message",
    "MessagePage",
    "MessagePart",
    "MessageReference",
    "MessageRevision",
    "MessageRevisions",
    "SweptBlobs",
]

MESSAGE_BYTES = 4 * 1024 * 1024
"""The largest message: its content, and what its parts have beside that."""

ConversationReference = Annotated[
    Reference,
    Meta(
        description="the number of the conversation in its project, as 12 or #12, else its id or a unique prefix of "
        "it; PROJECT/12 is that in another project",
        extra={"completes": "conversation", "metavar": "CONVERSATION"},
    ),
]
MessageReference = Annotated[
    Reference,
    Meta(
        description="the message as CONVERSATION:NUMBER, such as 12:3, else its id or a unique prefix of it",
        extra={"metavar": "MESSAGE"},
    ),
]


class Conversation(Record, kw_only=True):
    """A conversation, without its messages."""

    id: str
    number: int
    """It identifies the conversation in its project, and is given once."""
    project_id: str
    project: str
    """The name of its project."""
    title: str
    created_at: int
    updated_at: int
    """When it, or one of its messages, was changed last."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Free-form values; ``tags``, ``archived`` and ``pinned`` in it are what the next three fields tell."""
    tags: list[str] = field(default_factory=list)
    archived: bool = False
    pinned: bool = False
    folder: str | None = None
    """The folder where it was held."""
    tool: str | None = None
    """The program that it was held with."""
    source: str | None = None
    """What it was imported from."""
    source_id: str | None = None
    forked_from: str | None = None
    """The id of the conversation that it begins like; that one may be deleted."""
    forked_at: int | None = None
    """The number of the last message that both have."""
    messages: int = 0
    """How many messages it has."""
    last_number: int = 0
    """The highest number that a message of it was given."""
    tokens: int = 0
    """Of all its messages."""
    space_id: str | None = None
    lease_id: str | None = None
    epoch: int | None = None
    revision: int
    """Counts the changes of its configuration, from 1."""
    state_revision: int
    """Counts the changes of its messages, from 0."""

    @property
    def name(self) -> str:
        """How sentences and references name it: by its number."""
        return str(self.number)


class ConversationPage(Record):
    """A page of a list of conversations."""

    conversations: list[Conversation]
    next_cursor: str | None = None


class MessagePart(Record):
    """A part of a message. Optional fields are absent when they are not set."""

    kind: PartKind
    body: Annotated[str, UNRECORDED] | None = None
    """The text; of a tool_use its arguments."""
    tool: str | None = None
    call_id: str | None = None
    """What a tool_use and its tool_result have in common."""
    name: str | None = None
    """Of a file or an image."""
    media_type: str | None = None
    blob: str | None = None
    """The hash of its content."""


class Message(Record, kw_only=True):
    """A message. The replies of commands that write it leave out ``content`` and ``parts``, which the client has."""

    id: str
    conversation_id: str
    number: int
    """Its place in the conversation, from 1; given once."""
    role: Role
    status: MessageStatus
    content: Annotated[str, UNRECORDED] | None = None
    """What a person reads, as Markdown."""
    parts: Annotated[list[MessagePart], UNRECORDED] = field(default_factory=list)
    """What it was made of. A message that is text alone has none."""
    created_at: int
    updated_at: int
    metadata: Annotated[dict[str, Any], UNRECORDED] = field(default_factory=dict)
    parent_id: str | None = None
    """The message that it answers; that one may be deleted."""
    source: str | None = None
    source_id: str | None = None
    model: str | None = None
    tokens: int | None = None
    size_bytes: int
    """Of its content, and what its parts have beside that."""
    space_id: str | None = None
    lease_id: str | None = None
    epoch: int | None = None
    revision: int
    """Counts its changes, from 1."""

    @property
    def name(self) -> str:
        """How sentences name it."""
        return str(self.number)


class MessagePage(Record):
    """Messages of a conversation, by number. It ends at the limit or at 1 MiB, but has one message at least."""

    messages: list[Message]
    before: int | None = None
    """Where earlier messages are there: give it as ``before`` for the page before this one."""
    after: int | None = None
    """Where later messages are there: give it as ``after`` for the page after this one."""


class Appended(Record):
    """How far a message that is being appended to is durable. The first item tells its id and number alone."""

    id: str
    number: int
    size_bytes: int = 0


class MessageRevision(Record, kw_only=True):
    """What a message was before a change."""

    message_id: str
    conversation_id: str
    number: int
    revision: int
    """The revision of the message that had this content."""
    role: Role
    content: Annotated[str, UNRECORDED]
    parts: Annotated[list[MessagePart], UNRECORDED] = field(default_factory=list)
    change: MessageChange
    """What ended it."""
    changed_at: int
    operation_id: int | None = None


class MessageRevisions(Record):
    """Earlier revisions of a message, newest first. It ends at 1 MiB, but has one at least."""

    revisions: list[MessageRevision]
    before: int | None = None
    """Where earlier ones are there: give it as ``before``."""


class Blob(Record):
    """A blob, which parts of messages name by its hash."""

    hash: str
    """SHA-256, in hexadecimal."""
    size_bytes: int


class BlobContent(Record):
    """The content of a blob."""

    data: Annotated[bytes, UNRECORDED]


class SweptBlobs(Record):
    """What a sweep of blobs deleted, or would delete."""

    count: int
    """The number of files."""
    size_bytes: int
    temporary: int
    """How many of them were unfinished, or of no record."""
