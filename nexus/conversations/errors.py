"""The domain errors of conversations and messages.

::

    NotFound            ConversationNotFound, MessageNotFound, BlobNotFound, BlobDamaged, SourceNotFound
    Conflict            ConversationAmbiguous, ConversationChanged, ConversationIdTaken, ConversationSourceTaken,
                        MessageAmbiguous, MessageChanged, MessageIdTaken, MessageSourceTaken
                        SourceAmbiguous, SourceBusy, SourceChanged, SourceIdTaken, SourceMoved
    InvalidArgument     ConversationCursorInvalid, MessageInvalid, SourceCursorInvalid
    FailedPrecondition  ConversationRedacted, MessageOpen
"""

from __future__ import annotations

from nexus_protocol.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound

from nexus.records.errors import RecordAmbiguous, RecordChanged, RecordCursorInvalid, RecordIdTaken, RecordNotFound

__all__ = [
    "BlobDamaged",
    "BlobNotFound",
    "ConversationAmbiguous",
    "ConversationChanged",
    "ConversationCursorInvalid",
    "ConversationIdTaken",
    "ConversationNotFound",
    "ConversationRedacted",
    "ConversationSourceTaken",
    "MessageAmbiguous",
    "MessageChanged",
    "MessageIdTaken",
    "MessageInvalid",
    "MessageNotFound",
    "MessageOpen",
    "MessageSourceTaken",
    "SourceAmbiguous",
    "SourceBusy",
    "SourceChanged",
    "SourceCursorInvalid",
    "SourceIdTaken",
    "SourceMoved",
    "SourceNotFound",
]


class ConversationNotFound(RecordNotFound):
    """No conversation has this number or id."""

    type = "conversation.not_found"


class ConversationAmbiguous(RecordAmbiguous):
    """Several conversations have an id that begins so, or this number in their projects."""

    type = "conversation.ambiguous"


class ConversationIdTaken(RecordIdTaken):
    """A conversation with the id exists and differs from the request, or is being deleted."""

    type = "conversation.id_taken"


class ConversationSourceTaken(Conflict):
    """Another conversation has this source_id of the source; ``details.id`` is its id."""

    type = "conversation.source_taken"


class ConversationChanged(RecordChanged):
    """The conversation has another revision than the request expects."""

    type = "conversation.changed"


class ConversationCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by this list for these filters."""

    type = "conversation.cursor_invalid"


class ConversationRedacted(FailedPrecondition):
    """An import replaced secrets in the conversation, and the request would add text in which none were replaced."""

    type = "conversation.redacted"


class MessageNotFound(RecordNotFound):
    """No message has this id, or this number in its conversation."""

    type = "message.not_found"


class MessageAmbiguous(RecordAmbiguous):
    """Several messages have an id that begins so."""

    type = "message.ambiguous"


class MessageIdTaken(RecordIdTaken):
    """A message with the id exists and differs from the request."""

    type = "message.id_taken"


class MessageSourceTaken(Conflict):
    """Another message has this source_id of the source; ``details.id`` is its id."""

    type = "message.source_taken"


class MessageChanged(RecordChanged):
    """The message has another revision than the request expects."""

    type = "message.changed"


class MessageInvalid(InvalidArgument):
    """The message is larger than 4 MiB, has no text and no parts, or its parts contradict each other."""

    type = "message.invalid"


class MessageOpen(FailedPrecondition):
    """A client is appending to the message."""

    type = "message.open"


class BlobNotFound(NotFound):
    """No blob has this hash."""

    type = "blob.not_found"


class BlobDamaged(NotFound):
    """The file of the blob has another content than that of its hash."""

    type = "blob.damaged"


class SourceNotFound(RecordNotFound):
    """No source of conversations has this id."""

    type = "conversation_source.not_found"


class SourceAmbiguous(RecordAmbiguous):
    """Several sources of conversations have an id that begins so."""

    type = "conversation_source.ambiguous"


class SourceIdTaken(RecordIdTaken):
    """A source of conversations with the id exists and differs from the request."""

    type = "conversation_source.id_taken"


class SourceChanged(RecordChanged):
    """The source of conversations has another revision than the request expects."""

    type = "conversation_source.changed"


class SourceCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by this list for these filters."""

    type = "conversation_source.cursor_invalid"


class SourceBusy(Conflict):
    """The conversation that these messages were imported into before is being deleted; try again in a moment."""

    type = "conversation_source.busy"


class SourceMoved(Conflict):
    """The source was read by another importer meanwhile: get it, and go on from where it is."""

    type = "conversation_source.moved"
