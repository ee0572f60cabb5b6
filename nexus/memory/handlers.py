"""The handlers of memory, by subject."""

from __future__ import annotations

import nexus.memory.episodes.store  # noqa: F401 - declares the table
from nexus.memory.recall.handlers import search_memory
from nexus.memory.vectors.handlers import list_vector_collections, reset_vectors, search_vectors

__all__ = ["list_vector_collections", "reset_vectors", "search_memory", "search_vectors"]
