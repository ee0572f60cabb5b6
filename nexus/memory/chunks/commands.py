"""The commands on chunks, and the kinds of their events."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field
from nexus_protocol.command import UNRECORDED, Command, Effect, command
from nexus_protocol.events import event

from nexus.memory.chunks.errors import (
    ChunkAmbiguous,
    ChunkCursorInvalid,
    ChunkElsewhere,
    ChunkIdTaken,
    ChunkInvalid,
    ChunkNotFound,
)
from nexus.memory.chunks.records import (
    Chunk,
    ChunkEmbedding,
    ChunkHashPage,
    ChunkId,
    ChunkMapPage,
    ChunkPage,
    ChunksDeleted,
    ChunksEmbedded,
    ChunksIndexed,
    ChunkTextPage,
    FilePath,
    FoundSymbols,
    MovedChunk,
    NewChunk,
)
from nexus.memory.chunks.states import ChunkType
from nexus.memory.vectors.errors import VectorDimensionMismatch, VectorInvalid
from nexus.records.fields import Cursor, PageLimit

__all__ = [
    "MAX_EMBEDDINGS",
    "MAX_OPERATIONS",
    "DeleteChunks",
    "FindSymbols",
    "GetChunk",
    "GetChunkMap",
    "IndexChunks",
    "ListChunkHashes",
    "ListChunks",
    "ListUnembeddedChunks",
    "SetChunkEmbeddings",
]

MAX_OPERATIONS = 500
"""In one request."""
MAX_EMBEDDINGS = 256
"""In one request."""

event(
    "chunk.indexed",
    "The index of a project's code was changed.",
    created="how many chunks are new",
    moved="how many are at another place",
    deleted="how many are gone",
    embedded="how many of the new ones got the embedding of another",
)
event("chunk.embedded", "Chunks got embeddings.", embedded="how many")
event("chunk.deleted", "Chunks were deleted.", deleted="how many", under="the file or folder, if any")

_ChunkReference = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=1100,
        description="the id, a unique prefix of it of 4 or more characters, or FILE:LINE",
        extra={"metavar": "CHUNK"},
    ),
]
_Under = Annotated[
    FilePath, Meta(description="only those of this file or below this folder, a path from the folder of the project")
]
_OfType = Annotated[ChunkType, Meta(description="only those of this type", extra={"option": "--type"})]
_OfLanguage = Annotated[str, Meta(min_length=1, max_length=64, description="only those in this language")]


@command(
    0x0598,
    Effect.CHANGE,
    errors=(ChunkInvalid, ChunkElsewhere, ChunkIdTaken, VectorDimensionMismatch),
    max_payload=1024 * 1024,
)
class IndexChunks(Command[ChunksIndexed]):
    """Change the index of the project's code: delete chunks, move them, and create new ones, in this order.

    It has at most 500 of them together. It can be repeated: what is not there is not moved or deleted, and a chunk
    whose id is there is not created. A request that changes nothing has no event.
    """

    create: Annotated[list[NewChunk], UNRECORDED, Meta(max_length=MAX_OPERATIONS)] = field(default_factory=list)
    move: Annotated[list[MovedChunk], Meta(max_length=MAX_OPERATIONS)] = field(default_factory=list)
    delete: Annotated[list[ChunkId], Meta(max_length=MAX_OPERATIONS)] = field(default_factory=list)


@command(0x0599, Effect.READ, errors=(ChunkInvalid, ChunkCursorInvalid), large_reply=True)
class ListChunkHashes(Command[ChunkHashPage]):
    """List what an indexer compares with the files: the file, the lines and the hash of each chunk.

    A page ends at ``limit`` chunks or 1 MiB, whichever comes first; ``next_cursor`` is present when more follow.
    """

    under: _Under | None = None
    limit: PageLimit = 10_000
    cursor: Cursor | None = None


@command(0x059A, Effect.READ, errors=(ChunkInvalid, ChunkCursorInvalid), large_reply=True)
class ListChunks(Command[ChunkPage]):
    """List chunks by file and line, without their contents.

    A page ends at ``limit`` chunks or 1 MiB, whichever comes first; ``next_cursor`` is present when more follow. One
    without a chunk may have one too.
    """

    under: _Under | None = None
    language: _OfLanguage | None = None
    chunk_type: _OfType | None = None
    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(0x059B, Effect.READ, errors=(ChunkNotFound, ChunkAmbiguous), large_reply=True)
class GetChunk(Command[Chunk]):
    """Get a chunk with its content: by its id, or by a line of its file."""

    chunk: _ChunkReference
    embedding: Annotated[bool, Meta(description="with its embedding")] = False


@command(
    0x059C,
    Effect.CHANGE,
    errors=(ChunkElsewhere, VectorInvalid, VectorDimensionMismatch),
    max_payload=12 * 1024 * 1024,
)
class SetChunkEmbeddings(Command[ChunksEmbedded]):
    """Set the embeddings of chunks, which a model of the caller's made of their contents; at most 256.

    All of a project have the same number of values, which the first one fixes. A chunk that is not there any more is
    counted as ``gone``.
    """

    embeddings: Annotated[list[ChunkEmbedding], UNRECORDED, Meta(min_length=1, max_length=MAX_EMBEDDINGS)]


@command(0x059D, Effect.READ, errors=(ChunkInvalid, ChunkCursorInvalid), large_reply=True)
class ListUnembeddedChunks(Command[ChunkTextPage]):
    """List the chunks that have no embedding, by file and line, with their contents.

    A page ends at ``limit`` chunks or 1 MiB, whichever comes first; ``next_cursor`` is present when more follow. One
    without a chunk may have one too.
    """

    under: _Under | None = None
    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(0x059E, Effect.READ, large_reply=True)
class FindSymbols(Command[FoundSymbols]):
    """Find symbols by their name or a part of it, whatever the case; ``::`` is a dot.

    The best come first: those that are exactly so, those that end so after a dot, those that begin so, and those that
    have it in them; then those in the same case, and the shorter ones.
    """

    symbol: Annotated[str, Meta(min_length=1, max_length=256, description="the name", extra={"metavar": "NAME"})]
    limit: Annotated[int, Meta(ge=1, le=1000, description="how many at most, 1 to 1000")] = 50


@command(0x059F, Effect.READ, errors=(ChunkInvalid, ChunkCursorInvalid), large_reply=True)
class GetChunkMap(Command[ChunkMapPage]):
    """Get the files of the index and their symbols, from which a map of the repository is drawn.

    A page ends at ``limit`` rows or 1 MiB, whichever comes first; ``next_cursor`` is present when more follow.
    """

    under: _Under | None = None
    limit: PageLimit = 10_000
    cursor: Cursor | None = None


@command(0x05A0, Effect.CHANGE, errors=(ChunkInvalid,))
class DeleteChunks(Command[ChunksDeleted]):
    """Delete chunks of the index, at most ``limit``; ``more`` says that the request is to be repeated.

    Without ``under`` they are all of the project.
    """

    under: _Under | None = None
    limit: Annotated[int, Meta(ge=1, le=1000, description="how many at most, 1 to 1000")] = 200
