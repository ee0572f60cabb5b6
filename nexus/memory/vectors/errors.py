"""The errors of vectors: what a caller gave, and what became of the process that searches."""

from __future__ import annotations

from nexus_protocol.errors import DeadlineExceeded, InvalidArgument, Unavailable

from nexus.records.errors import RecordAmbiguous, RecordNotFound

__all__ = [
    "VectorDimensionMismatch",
    "VectorFilterInvalid",
    "VectorInvalid",
    "VectorTaskAmbiguous",
    "VectorTaskNotFound",
    "VectorsTimedOut",
    "VectorsUnavailable",
    "VectorsWorkerEnded",
    "mismatch",
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


class VectorFilterInvalid(InvalidArgument):
    """A filter is none of the collection, or its value is no type of it; ``details.path`` names it."""

    type = "vectors.filter_invalid"


class VectorTaskNotFound(RecordNotFound):
    """No task has this id or number."""

    type = "vectors.task_not_found"


class VectorTaskAmbiguous(RecordAmbiguous):
    """Several tasks are meant by this reference; ``details.matches`` lists some of them."""

    type = "vectors.task_ambiguous"


def mismatch(cannot: str, what: str, given: int, expected: int) -> VectorDimensionMismatch:
    """The error for a vector of another dimension than its collection has."""
    return VectorDimensionMismatch(
        f"{cannot}: {what} has {given} values, and those of the collection have {expected}",
        hint="Use the model that made the other vectors, or reset the collection for the new one.",
        details={"given": given, "expected": expected},
    )
