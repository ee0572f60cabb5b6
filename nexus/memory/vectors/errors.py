"""The errors of vectors."""

from __future__ import annotations

from nexus_protocol.errors import InvalidArgument

__all__ = ["VectorDimensionMismatch", "VectorInvalid"]


class VectorInvalid(InvalidArgument):
    """The vector has NaN, infinity, only zeros, or too many values."""

    type = "vectors.invalid"


class VectorDimensionMismatch(VectorInvalid):
    """The vector has another number of values than its collection: ``details.expected`` and ``details.given``."""

    type = "vectors.dimension_mismatch"
