"""The commands of memory, by subject; each folder declares its own."""

from __future__ import annotations

from nexus.memory.recall.commands import SearchMemory
from nexus.memory.vectors.commands import ListVectorCollections, ResetVectors, SearchVectors

__all__ = ["ListVectorCollections", "ResetVectors", "SearchMemory", "SearchVectors"]
