"""The records of imports: what an importer sends, what it is told, and the sources that are read."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field
from nexus_protocol.command import UNRECORDED, Record

from nexus.conversations.records import MessagePart
from nexus.conversations.states import MessageStatus, Role, SourceFormat
from nexus.records.fields import Metadata

__all__ = [
    "ConversationSource",
    "ConversationSourcePage",
    "Imported",
    "ImportedConversation",
    "ImportedMessage",
    "SourceProgress",
    "SourceReference",
]

_LINE = r"^[^\x00-\x1f\x7f]*$(?!\n)"

_Title = Annotated[str, Meta(min_length=1, max_length=1000, pattern=_LINE)]
_Word = Annotated[str, Meta(min_length=1, max_length=64, pattern=_LINE)]
_SourceId = Annotated[str, Meta(min_length=1, max_length=255, pattern=_LINE)]
_Folder = Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^/[^\x00]*$")]
_Time = Annotated[int, Meta(ge=0, le=2**53)]

SourceReference = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=4096,
        description="the number of the source in its project, its path, or its id or a unique prefix of it",
        extra={"metavar": "SOURCE"},
    ),
]


class ImportedConversation(Record, kw_only=True):
    """The conversation that imported messages are of.

    Its fields count when it is created; later only its title, and an ``updated_at`` that is higher.
    """

    source: _Word
    """What it comes from, such as ``codex``."""
    source_id: _SourceId
    title: _Title | None = None
    """Replaces the title that an import gave it before, unless it was changed since then."""
    folder: _Folder | None = None
    tool: _Word | None = None
    created_at: _Time | None = None
    updated_at: _Time | None = None
    """When it was changed last, with all of its messages (default: when its newest message was)."""
    metadata: Annotated[Metadata, UNRECORDED] = field(default_factory=dict)
    forked_from: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    forked_at: Annotated[int, Meta(ge=0, le=2**53)] | None = None


class ImportedMessage(Record, kw_only=True):
    """A message as an importer sends it."""

    source: _Word | None = None
    """What it comes from (default: what its conversation comes from)."""
    source_id: _SourceId
    role: Role
    content: Annotated[str, UNRECORDED] | None = None
    """Its text (default: that of its text parts)."""
    parts: Annotated[list[MessagePart], UNRECORDED] = field(default_factory=list)
    metadata: Annotated[Metadata, UNRECORDED] = field(default_factory=dict)
    parent: _SourceId | None = None
    """The ``source_id`` of the message that it answers."""
    model: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    tokens: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    created_at: _Time | None = None
    updated_at: _Time | None = None
    status: MessageStatus = MessageStatus.COMPLETE
    number: Annotated[int, Meta(ge=1, le=2**53)] | None = None
    """Its place in the conversation, if that is higher than the last one there."""


class SourceProgress(Record, kw_only=True):
    """How far a source was read: the next reading begins there."""

    source: Annotated[str, Meta(min_length=1, max_length=64)]
    """The id of the source."""
    after_bytes: _Time | None = None
    """How far it was read before, as the importer knows it; if it is elsewhere now, the request is refused."""
    offset_bytes: _Time
    size_bytes: _Time
    inode: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    head: Annotated[str, Meta(max_length=128)] | None = None
    state: Annotated[dict[str, Any], UNRECORDED] = field(default_factory=dict)
    skipped: Annotated[dict[str, int], UNRECORDED, Meta(max_length=200)] = field(default_factory=dict)
    last_error: Annotated[str, Meta(max_length=1000)] | None = None


class Imported(Record, kw_only=True):
    """What an import did."""

    conversation_id: str | None = None
    """Absent where no conversation was given."""
    number: int | None = None
    project: str | None = None
    created: bool = False
    """Whether the conversation is new."""
    added: int = 0
    known: list[int] = field(default_factory=list)
    """The places in the request, from 0, of the messages that were there before."""
    changed: int = 0
    """How many of these were changed, because they are longer, or otherwise differ, in their source."""
    deleted: bool = False
    """Whether nothing was imported because the conversation was deleted here: an import on demand makes it again."""


class ConversationSource(Record, kw_only=True):
    """A file or a folder from which conversations are imported, and how far it was read."""

    id: str
    number: int
    """It identifies the source in its project."""
    project_id: str
    project: str
    """The name of the project that new conversations are in."""
    path: str
    format: SourceFormat
    watched: bool = False
    """Whether it is followed; a folder with all files in it."""
    followed: bool = False
    """Whether it is followed, by itself or in a folder that is."""
    redact: str | None = None
    """The file with the patterns of text that is replaced."""
    redact_secrets: bool = False
    """Whether known forms of secrets are replaced."""
    created_at: int
    updated_at: int
    offset_bytes: int = 0
    """How far it was read."""
    size_bytes: int = 0
    """Its size then."""
    inode: int | None = None
    head: str | None = None
    """The length and the SHA-256 of its beginning."""
    state: Annotated[dict[str, Any], UNRECORDED] = field(default_factory=dict)
    """What the reader must know to go on."""
    messages: int = 0
    """How many messages were imported from it, or from the files in it, without those of deleted conversations."""
    deleted: int = 0
    """How many of its conversations were deleted here; an import on demand makes them again."""
    skipped: Annotated[dict[str, int], UNRECORDED] = field(default_factory=dict)
    """How many lines were not imported, by the reason."""
    last_error: str | None = None
    """Why it, or a file in it, could not be read the last time."""
    read_at: int | None = None
    """When it was read last."""
    revision: int
    state_revision: int

    @property
    def name(self) -> str:
        """How sentences and references name it: by its number."""
        return str(self.number)


class ConversationSourcePage(Record):
    """A page of a list of sources."""

    sources: list[ConversationSource]
    next_cursor: str | None = None
