"""The records of chunks: what an indexer sends, what lists and searches return."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field
from nexus_protocol.command import Record

from nexus.memory.chunks.states import ChunkType, SymbolMatch
from nexus.records.fields import UUID_PATTERN, ClientId

__all__ = [
    "MAX_CONTENT_BYTES",
    "MAX_FILE_BYTES",
    "MAX_SYMBOLS",
    "Chunk",
    "ChunkEmbedding",
    "ChunkHash",
    "ChunkHashPage",
    "ChunkId",
    "ChunkMapPage",
    "ChunkMapRow",
    "ChunkPage",
    "ChunkText",
    "ChunkTextPage",
    "ChunksDeleted",
    "ChunksEmbedded",
    "ChunksIndexed",
    "FilePath",
    "FoundSymbol",
    "FoundSymbols",
    "MovedChunk",
    "NewChunk",
]

MAX_CONTENT_BYTES = 16 * 1024
MAX_FILE_BYTES = 1024
MAX_SYMBOLS = 64

ChunkId = Annotated[str, Meta(pattern=UUID_PATTERN)]
FilePath = Annotated[str, Meta(min_length=1, max_length=MAX_FILE_BYTES)]
"""A path below the folder of the project, with ``/``."""
_Line = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_Language = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9+#._-]+$(?!\n)")]
_Symbol = Annotated[str, Meta(min_length=1, max_length=256)]


class NewChunk(Record, kw_only=True):
    """A chunk that is new."""

    id: Annotated[ClientId, Meta(description="")] | None = None
    """A UUID that the client chooses, in lower case: a repeated request makes no second chunk of it."""
    file: FilePath
    start_line: _Line
    end_line: _Line
    content: Annotated[str, Meta(min_length=1, max_length=MAX_CONTENT_BYTES)]
    """At most 16 KiB of UTF-8."""
    symbols: Annotated[list[_Symbol], Meta(max_length=MAX_SYMBOLS)] = field(default_factory=list)
    """What it belongs to (``Class.method``), and the names in it."""
    chunk_type: ChunkType
    language: _Language
    complexity: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    hash: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
    """SHA-256, in hex, of all that makes it this chunk, but not of its file and lines."""
    like: ChunkId | None = None
    """A chunk with the same hash, whose embedding this one gets."""


class MovedChunk(Record):
    """A chunk whose file or lines are others now; its embedding stays."""

    id: ChunkId
    file: FilePath
    start_line: _Line
    end_line: _Line


class ChunksIndexed(Record, kw_only=True):
    """What a request changed of the index."""

    created: int
    moved: int
    deleted: int
    embedded: int = 0
    """How many of the new chunks got the embedding of another."""
    gone: int = 0
    """How many chunks that were to be moved or deleted are not there."""


class ChunkHash(Record):
    """What an indexer compares of a chunk."""

    id: str
    file: str
    hash: str
    start_line: int
    end_line: int


class ChunkHashPage(Record):
    """One page, sorted by file and line, and the cursor of the next page."""

    hashes: list[ChunkHash]
    next_cursor: str | None = None


class Chunk(Record, kw_only=True):
    """A part of a file. Optional fields are present only if they are set."""

    id: str
    project_id: str
    project: str
    """The name of the project."""
    file: str
    """The path below the folder of the project."""
    start_line: int
    end_line: int
    chunk_type: ChunkType
    language: str
    symbols: list[str] = field(default_factory=list)
    """What it belongs to (``Class.method``), and the names in it."""
    complexity: int | None = None
    """1 and the number of decisions in its lines."""
    hash: str
    embedded: bool
    """Whether it has an embedding."""
    indexed_at: int
    """When its text was indexed (ms)."""
    content: str | None = None
    """Absent in lists."""
    embedding: list[float] | None = None
    """Present only where it was asked for."""


class ChunkPage(Record):
    """One page of chunks, sorted by file and line, and the cursor of the next page."""

    chunks: list[Chunk]
    next_cursor: str | None = None


class ChunkText(Record):
    """What a model needs to make the embedding of a chunk."""

    id: str
    file: str
    start_line: int
    language: str
    symbols: list[str]
    content: str


class ChunkTextPage(Record):
    """One page, sorted by file and line, and the cursor of the next page."""

    chunks: list[ChunkText]
    next_cursor: str | None = None


class ChunkEmbedding(Record):
    """The embedding of a chunk."""

    id: ChunkId
    embedding: Annotated[list[float], Meta(max_length=8192)] | Annotated[bytes, Meta(max_length=32768)]
    """Numbers, or these as float32, the lowest byte first."""


class ChunksEmbedded(Record):
    """How many chunks got an embedding, and how many were not there."""

    embedded: int
    gone: int = 0


class ChunksDeleted(Record):
    """How many chunks a request deleted, and whether there are more to delete."""

    deleted: int
    more: bool = False


class FoundSymbol(Record, kw_only=True):
    """A symbol, and a chunk that has it."""

    symbol: str
    match: SymbolMatch
    id: str
    """Of the chunk."""
    file: str
    start_line: int
    end_line: int
    chunk_type: ChunkType
    language: str


class FoundSymbols(Record):
    """Symbols, the best first, and whether there are more."""

    symbols: list[FoundSymbol]
    more: bool = False


class ChunkMapRow(Record, kw_only=True):
    """A chunk, as far as a map needs it."""

    id: str
    file: str
    start_line: int
    chunk_type: ChunkType
    symbol: str | None = None
    """What it belongs to."""


class ChunkMapPage(Record):
    """One page, sorted by file and line, and the cursor of the next page."""

    rows: list[ChunkMapRow]
    next_cursor: str | None = None
