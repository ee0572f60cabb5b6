"""Embeddings as lists of numbers, and as the bytes that a column holds: float32, the lowest byte first."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from nexus.memory.vectors.errors import VectorInvalid

__all__ = ["MAX_DIMENSION", "to_bytes", "to_list"]

MAX_DIMENSION = 8192


def to_bytes(numbers: Sequence[float]) -> bytes:
    """The bytes of a list of numbers.

    Raises:
        VectorInvalid: it is empty or too long, or has NaN, infinity or only zeros.
    """
    if not 1 <= len(numbers) <= MAX_DIMENSION:
        raise VectorInvalid(
            f"cannot use the vector: it has {len(numbers)} values, and 1 to {MAX_DIMENSION} are allowed",
            details={"given": len(numbers), "limit": MAX_DIMENSION},
        )
    try:
        data = struct.pack(f"<{len(numbers)}f", *numbers)
    except (OverflowError, struct.error):
        raise VectorInvalid("cannot use the vector: a value is not a finite float32 number") from None
    if not math.isfinite(sum(numbers)):
        raise VectorInvalid("cannot use the vector: a value is not a finite float32 number")
    if not any(data):
        raise VectorInvalid("cannot use the vector: all of its values are 0, so it has no direction")
    return data


def to_list(data: bytes) -> list[float]:
    """The numbers of the bytes of an embedding.

    Raises:
        VectorInvalid: the bytes are no whole number of values.
    """
    if len(data) % 4:
        raise VectorInvalid(f"cannot use the vector: {len(data)} bytes are no whole number of float32 values")
    return list(struct.unpack(f"<{len(data) // 4}f", data))
