"""The handlers of the memory, by subject."""

from __future__ import annotations

from nexus.memory.checkpointed import PARTS
from nexus.memory.chunks.handlers import (
    delete_chunks,
    find_symbols,
    get_chunk,
    get_chunk_map,
    index_chunks,
    list_chunk_hashes,
    list_chunks,
    list_unembedded_chunks,
    set_chunk_embeddings,
)
from nexus.memory.continue_points.handlers import (
    create_continue_point,
    delete_continue_point,
    get_continue_point,
    get_resume_point,
    list_continue_points,
)
from nexus.memory.episodes.handlers import (
    create_episode,
    delete_episode,
    get_episode,
    list_episodes,
    prune_episodes,
    update_episode,
)
from nexus.memory.recall.handlers import search_memory
from nexus.memory.vectors.handlers import list_vector_collections, reset_vectors, search_vectors

__all__ = [
    "PARTS",
    "create_continue_point",
    "create_episode",
    "delete_chunks",
    "delete_continue_point",
    "delete_episode",
    "find_symbols",
    "get_chunk",
    "get_chunk_map",
    "get_continue_point",
    "get_episode",
    "get_resume_point",
    "index_chunks",
    "list_chunk_hashes",
    "list_chunks",
    "list_continue_points",
    "list_episodes",
    "list_unembedded_chunks",
    "list_vector_collections",
    "prune_episodes",
    "reset_vectors",
    "search_memory",
    "search_vectors",
    "set_chunk_embeddings",
    "update_episode",
]
