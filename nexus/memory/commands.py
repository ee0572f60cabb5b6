"""The commands of the memory, by subject."""

from __future__ import annotations

from nexus.memory.chunks.commands import (
    DeleteChunks,
    FindSymbols,
    GetChunk,
    GetChunkMap,
    IndexChunks,
    ListChunkHashes,
    ListChunks,
    ListUnembeddedChunks,
    SetChunkEmbeddings,
)

__all__ = [
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
