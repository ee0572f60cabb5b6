"""The handlers of the memory, by subject."""

from __future__ import annotations

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

__all__ = [
    "delete_chunks",
    "find_symbols",
    "get_chunk",
    "get_chunk_map",
    "index_chunks",
    "list_chunk_hashes",
    "list_chunks",
    "list_unembedded_chunks",
    "set_chunk_embeddings",
]
