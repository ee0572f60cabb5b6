"""Embeddings as clients give them, lists of numbers, and as columns hold them: float32, little-endian."""

from __future__ import annotations

from collections.abc import Sequence

from nexus.memory.vectors.validation import embedding, values

__all__ = ["to_bytes", "to_list"]


def to_bytes(numbers: Sequence[float]) -> bytes:
    """A vector for a column.

    Raises:
        VectorInvalid: it is empty or too long, or has NaN, infinity, a value beyond float32, or only zeros.
    """
    return embedding(numbers)


def to_list(data: bytes) -> list[float]:
    """The numbers of a column."""
    return list(values(data))
