"""Vectors as lists, and as the bytes that a column holds: 32-bit floats, the lowest byte first."""

from __future__ import annotations

import math
import struct

from nexus.memory.vectors.errors import VectorInvalid

__all__ = ["to_bytes", "to_list"]

_MOST = 8192


def to_bytes(numbers: list[float]) -> bytes:
    """Check a vector, and encode it.

    Raises:
        VectorInvalid: it is empty or too long, has a value that is not finite, or has only zeros.
    """
    if not 0 < len(numbers) <= _MOST:
        raise VectorInvalid(f"cannot use the vector: it has {len(numbers)} values, and not 1 to {_MOST}")
    try:
        packed = struct.pack(f"<{len(numbers)}f", *numbers)
    except OverflowError:
        raise VectorInvalid("cannot use the vector: a value is beyond 32-bit floats") from None
    if not all(map(math.isfinite, numbers)):
        raise VectorInvalid("cannot use the vector: a value is not finite")
    if not any(packed):
        raise VectorInvalid("cannot use the vector: all of its values are 0, so it has no direction")
    return packed


def to_list(packed: bytes) -> list[float]:
    """The values of a vector."""
    return list(struct.unpack(f"<{len(packed) // 4}f", packed))
