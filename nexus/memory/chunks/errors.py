"""The domain errors of chunks.

::

    NotFound            ChunkNotFound
    Conflict            ChunkAmbiguous, ChunkIdTaken
    InvalidArgument     ChunkInvalid, ChunkCursorInvalid
    FailedPrecondition  ChunkElsewhere
"""

from __future__ import annotations

from nexus_protocol.errors import FailedPrecondition, InvalidArgument

from nexus.records.errors import RecordAmbiguous, RecordCursorInvalid, RecordIdTaken, RecordNotFound

__all__ = ["ChunkAmbiguous", "ChunkCursorInvalid", "ChunkElsewhere", "ChunkIdTaken", "ChunkInvalid", "ChunkNotFound"]


class ChunkNotFound(RecordNotFound):
    """No chunk has this id, or is at this line of this file."""

    type = "chunk.not_found"


class ChunkAmbiguous(RecordAmbiguous):
    """Several chunks have an id that begins so; ``details.matches`` lists some of them."""

    type = "chunk.ambiguous"


class ChunkIdTaken(RecordIdTaken):
    """A chunk with the id exists and has another text."""

    type = "chunk.id_taken"


class ChunkInvalid(InvalidArgument):
    """A file is no path below the project's folder, or a chunk is too large; ``details.path`` names the field."""

    type = "chunk.invalid"


class ChunkCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by this list for these filters."""

    type = "chunk.cursor_invalid"


class ChunkElsewhere(FailedPrecondition):
    """A chunk is of another project than that of the request; ``details.id`` is its id."""

    type = "chunk.elsewhere"
