"""The commands of the memory, by subject."""

from __future__ import annotations

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
    "DeleteContinuePoint",
    "DeleteEpisode",
    "GetContinuePoint",
    "GetEpisode",
    "GetResumePoint",
    "ListContinuePoints",
    "ListEpisodes",
    "ListVectorCollections",
    "PruneEpisodes",
    "ResetVectors",
    "SearchMemory",
    "SearchVectors",
    "UpdateEpisode",
]
