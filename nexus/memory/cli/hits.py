"""What people call what a search of the memory has found."""

from __future__ import annotations

from nexus.memory.recall.records import Remembered
from nexus.memory.vectors.states import Collection

__all__ = ["hit_name"]


def hit_name(hit: Remembered) -> str:
    """``#12`` of an episode, ``FILE:LINE`` of a chunk."""
    return f"#{hit.name}" if hit.collection is Collection.EPISODES else hit.name
