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
    CreateEpisode,
    DeleteEpisode,
    GetEpisode,
    ListEpisodes,
    PruneEpisodes,
    UpdateEpisode,
)

__all__ = [
    "CreateContinuePoint",
    "CreateEpisode",
    "DeleteContinuePoint",
    "DeleteEpisode",
    "GetContinuePoint",
    "GetEpisode",
    "GetResumePoint",
    "ListContinuePoints",
    "ListEpisodes",
    "PruneEpisodes",
    "UpdateEpisode",
]
