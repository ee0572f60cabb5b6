"""Vectors as lists, and as the bytes that a column holds."""

from __future__ import annotations

from nexus.memory.vectors.validation import embedding, values

__all__ = ["to_bytes", "to_list"]


def to_bytes(numbers: list[float]) -> bytes:
    """Check a vector, and encode it.

    Raises:
        VectorInvalid: it is empty or too long, has a value that is not finite, or has only zeros.
    """
    return embedding(numbers)


def to_list(packed: bytes) -> list[float]:
    """The values of a vector."""
    return list(values(packed))
