"""The errors of vectors: what a caller gave, and what became of the process that searches."""

from __future__ import annotations

from nexus_protocol.errors import DeadlineExceeded, InvalidArgument, Unavailable

__all__ = [
    "VectorDimensionMismatch",
    "VectorInvalid",
    "VectorsTimedOut",
    "VectorsUnavailable",
    "VectorsWorkerEnded",
]


class VectorInvalid(InvalidArgument):
    """The vector has NaN, infinity, only zeros, no whole number of float32 values, or too many."""

    type = "vectors.invalid"


class VectorDimensionMismatch(InvalidArgument):
    """The vector has another number of values than its collection: ``details.expected`` and ``details.given``."""

    type = "vectors.dimension_mismatch"


class VectorsTimedOut(DeadlineExceeded):
    """The search took longer than its time."""

    type = "vectors.timed_out"


class VectorsUnavailable(Unavailable):
    """The process that searches cannot be started, or cannot read the rows or write the matrix."""

    type = "vectors.unavailable"


class VectorsWorkerEnded(Unavailable):
    """The process that searches was killed, or ended, during the request. The next one starts another."""

    type = "vectors.worker_ended"
