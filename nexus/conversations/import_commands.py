"""The commands of imports and of their sources, and the kinds of their events."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field
from nexus_protocol.command import UNRECORDED, Command, Effect, command
from nexus_protocol.events import cause, event

from nexus.conversations.errors import (
    BlobNotFound,
    ConversationRedacted,
    MessageInvalid,
    SourceAmbiguous,
    SourceBusy,
    SourceChanged,
    SourceCursorInvalid,
    SourceMoved,
    SourceNotFound,
)
from nexus.conversations.import_records import (
    ConversationSource,
    ConversationSourcePage,
    Imported,
    ImportedConversation,
    ImportedMessage,
    SourceProgress,
    SourceReference,
)
from nexus.conversations.records import MESSAGE_BYTES
from nexus.conversations.states import SourceFormat
from nexus.records.events import record_events
from nexus.records.fields import Cursor, PageLimit, Revision, StateRevision
from nexus.records.processes import Path

__all__ = [
    "MAX_IMPORTED",
    "AddConversationSource",
    "GetConversationSource",
    "ImportMessages",
    "ListConversationSources",
    "RemoveConversationSource",
]

MAX_IMPORTED = 256
"""Messages of one ImportMessages."""
_MAX_PAYLOAD = 2 * MESSAGE_BYTES + 128 * 1024

record_events(
    "conversation_source",
    "A source of conversations",
    created={"path": "its file or folder", "format": "what it is written in", "watched": "whether it is followed"},
    deleted={"path": "its file or folder"},
)
event(
    "conversation.imported",
    "Messages were imported into a conversation.",
    messages="how many are new",
    changed="how many were there, and are changed",
    last_number="the highest number there now",
)
cause("conversations.followed", "The daemon started, or ended, the process that follows sources of conversations.")

_Watched = Annotated[bool, Meta(description="whether it is followed")]


@command(
    0x0420,
    Effect.CHANGE,
    errors=(MessageInvalid, BlobNotFound, SourceBusy, SourceNotFound, SourceMoved, ConversationRedacted),
    max_payload=_MAX_PAYLOAD,
)
class ImportMessages(Command[Imported]):
    """Add messages of a source to the conversation with its ``source_id``, which is created if it is not there.

    It is created without messages, too. A message whose ``source_id`` is there is not added again. It is changed if it
    differs from what was imported before, unless it was edited since then. A conversation without a source is found by
    its id as the ``source_id`` of the source ``nexus``, and so are messages. ``progress`` is written in the same
    transaction.

    ``followed`` makes nothing of a conversation that was deleted here. ``redacted`` says that secrets were replaced;
    without it, a conversation in which an import replaced them gets no message, and none of its messages is changed.
    """

    conversation: Annotated[ImportedConversation, UNRECORDED] | None = None
    messages: Annotated[list[ImportedMessage], UNRECORDED, Meta(max_length=MAX_IMPORTED)] = field(default_factory=list)
    progress: Annotated[SourceProgress, UNRECORDED] | None = None
    followed: bool = False
    redacted: bool = False


@command(0x0421, Effect.CHANGE)
class AddConversationSource(Command[ConversationSource]):
    """Add a file or folder from which conversations are imported. One that is there is returned.

    Another ``format`` than ``auto`` replaces the one that it has; it is then read from its beginning.
    ``watched`` makes the daemon follow it, from now on and after each of its starts.
    """

    path: Annotated[Path, Meta(description="the file or folder", extra={"path": "real"})]
    format: Annotated[SourceFormat, Meta(description="what it is written in")] = SourceFormat.AUTO
    watched: Annotated[bool, Meta(description="follow it")] = False
    redact: (
        Annotated[Path, Meta(description="a file with patterns of text to replace, one a line", extra={"path": True})]
        | None
    ) = None
    redact_secrets: Annotated[bool, Meta(description="replace known forms of secrets")] = False


@command(0x0422, Effect.READ, errors=(SourceCursorInvalid,), large_reply=True, all_projects=True)
class ListConversationSources(Command[ConversationSourcePage]):
    """List sources of conversations by path: those that are followed, and all files that were read.

    A page ends at ``limit`` sources or 1 MiB, whichever comes first; ``next_cursor`` is set when more follow.
    """

    watched: Annotated[bool, Meta(description="only those that are followed, or only others")] | None = None
    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(0x0423, Effect.READ, errors=(SourceNotFound, SourceAmbiguous))
class GetConversationSource(Command[ConversationSource]):
    """Get a source of conversations."""

    source: SourceReference


@command(0x0424, Effect.CHANGE, errors=(SourceNotFound, SourceAmbiguous, SourceChanged))
class RemoveConversationSource(Command[ConversationSource]):
    """Follow a source no more, and forget how far it was read. What was imported from it stays."""

    source: SourceReference
    if_revision: Revision | None = None
    if_state_revision: StateRevision | None = None
