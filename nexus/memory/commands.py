"""The commands of the memory, by subject."""

from __future__ import annotations

from nexus.memory.chunks.commands import (
    MAX_EMBEDDINGS,
    MAX_OPERATIONS,
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
from nexus.memory.continue_points.commands import (
    CreateContinuePoint,
    DeleteContinuePoint,
    GetContinuePoint,
    GetResumePoint,
    ListContinuePoints,
)
from nexus.memory.episodes.commands import (
    CLEARABLE,
    CreateEpisode,
    DeleteEpisode,
    GetEpisode,
    ListEpisodes,
    PruneEpisodes,
    UpdateEpisode,
)
from nexus.memory.recall.commands import SearchMemory
from nexus.memory.vectors.commands import ListVectorCollections, ResetVectors, SearchVectors

__all__ = [
    "CLEARABLE",
    "CreateContinuePoint",
    "CreateEpisode",
    "DeleteChunks",
    "DeleteContinuePoint",
    "DeleteEpisode",
    "FindSymbols",
    "GetChunk",
    "GetChunkMap",
    "GetContinuePoint",
    "GetEpisode",
    "GetResumePoint",
    "IndexChunks",
    "ListChunkHashes",
    "ListChunks",
    "ListContinuePoints",
    "ListEpisodes",
    "ListUnembeddedChunks",
    "ListVectorCollections",
    "MAX_EMBEDDINGS",
    "MAX_OPERATIONS",
    "PruneEpisodes",
    "ResetVectors",
    "SearchMemory",
    "SearchVectors",
    "SetChunkEmbeddings",
    "UpdateEpisode",
]
