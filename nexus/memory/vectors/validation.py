"""Checks of vectors: pure functions from what a client gave to the bytes that a column holds. They know no numpy."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Sequence

from nexus.memory.vectors.errors import VectorInvalid, mismatch
from nexus.memory.vectors.states import MAX_DIMENSION, VALUE_BYTES

__all__ = ["dimension_of", "embedding", "unit", "values"]

_IS_BIG_ENDIAN = sys.byteorder == "big"


def embedding(given: bytes | Sequence[float], dimension: int | None = None) -> bytes:
    """A checked vector as float32, little-endian. ``dimension`` is that of its collection; None is any.

    Raises:
        VectorInvalid: it has NaN, infinity, a value beyond float32, only zeros, or no whole number of values.
        VectorDimensionMismatch: it has another number of values than ``dimension``.
    """
    if isinstance(given, (bytes, bytearray, memoryview)):
        numbers = values(bytes(given))
    else:
        try:
            numbers = array("f", given)
        except (TypeError, OverflowError):
            raise VectorInvalid("cannot use the vector: it is no list of numbers") from None
    if not numbers:
        raise VectorInvalid("cannot use the vector: it is empty", hint="Give at least one value.")
    if len(numbers) > MAX_DIMENSION:
        raise VectorInvalid(
            f"cannot use the vector: it has {len(numbers)} values, and at most {MAX_DIMENSION} are allowed",
            details={"given": len(numbers), "limit": MAX_DIMENSION},
        )
    if dimension is not None and len(numbers) != dimension:
        raise mismatch("cannot use the vector", "it", len(numbers), dimension)
    # The sum of so many float32 values is finite as a double, unless one of them is not.
    if not math.isfinite(sum(numbers)):
        at = next(place for place, value in enumerate(numbers, 1) if not math.isfinite(value))
        raise VectorInvalid(f"cannot use the vector: value {at} is not a finite float32 number", details={"at": at})
    if not any(numbers):
        raise VectorInvalid(
            "cannot use the vector: all of its values are 0, so it has no direction",
            hint="A model gives such a vector for an empty text: leave the embedding out.",
        )
    return _little_endian(numbers)


def dimension_of(data: bytes) -> int:
    """The number of values in the bytes of a checked vector."""
    return len(data) // VALUE_BYTES


def values(data: bytes) -> array[float]:
    """The values of float32, little-endian.

    Raises:
        VectorInvalid: the bytes are no whole number of values.
    """
    if len(data) % VALUE_BYTES:
        raise VectorInvalid(
            f"cannot use the vector: {len(data)} bytes are no whole number of float32 values of {VALUE_BYTES} bytes",
            details={"bytes": len(data)},
        )
    numbers = array("f", data)
    if _IS_BIG_ENDIAN:
        numbers.byteswap()
    return numbers


def unit(numbers: Sequence[float]) -> bytes | None:
    """The vector at length 1, as float32, little-endian; None if it has no direction or a value is not finite."""
    length = math.sqrt(sum(value * value for value in numbers))
    if not (0 < length < math.inf):
        return None
    return _little_endian(array("f", [value / length for value in numbers]))


def _little_endian(numbers: array[float]) -> bytes:
    if _IS_BIG_ENDIAN:
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()
