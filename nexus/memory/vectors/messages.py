"""The messages between the daemon and the process that searches: MessagePack after a length of four bytes, big-endian.

It knows no socket. A reply has the number of its request, so that the reply to a request that was given up is known.
"""

from __future__ import annotations

import msgspec

__all__ = [
    "MAX_CANDIDATES",
    "MAX_LIMIT",
    "MAX_MESSAGE_BYTES",
    "PREFIX_BYTES",
    "Behind",
    "Failed",
    "FailureKind",
    "FindNearest",
    "Found",
    "GaveUp",
    "Reply",
    "Request",
    "SyncMatrix",
    "Synced",
    "Working",
    "decode_reply",
    "decode_request",
    "framed",
]

PREFIX_BYTES = 4
MAX_MESSAGE_BYTES = 8 * 1024 * 1024
MAX_CANDIDATES = 100_000
MAX_LIMIT = 1000
FailureKind = str
"""``dimension``: the query has another one than the matrix; ``unavailable``: the rows or the files cannot be used."""


class SyncMatrix(msgspec.Struct, frozen=True, array_like=True, tag="sync"):
    """Bring the matrix up to the rows. It is carried on when its request is given up."""

    number: int
    collection: str
    project_id: str


class FindNearest(msgspec.Struct, frozen=True, array_like=True, tag="nearest"):
    """Find the nearest in a matrix of this generation, until ``timeout_ms`` are over or the next request comes."""

    number: int
    collection: str
    project_id: str
    generation: int
    query: bytes
    limit: int
    candidates: list[str] | None
    timeout_ms: int


class Working(msgspec.Struct, frozen=True, array_like=True, tag="working"):
    """The process works on this request; sent twice a second while a matrix is brought up to the rows."""

    number: int


class Behind(msgspec.Struct, frozen=True, array_like=True, tag="behind"):
    """The matrix is not open, or has another generation: it is to be brought up to the rows first."""

    number: int


class Found(msgspec.Struct, frozen=True, array_like=True, tag="found"):
    """The nearest, the best first."""

    number: int
    hits: list[tuple[str, float]]
    engine: str


class Synced(msgspec.Struct, frozen=True, array_like=True, tag="synced"):
    """The matrix has the rows of this generation."""

    number: int
    engine: str
    dimension: int
    """0 without a collection."""
    generation: int
    rows: int
    skipped: int
    """Rows that were left out of a rebuild because their embedding is no vector of the collection."""
    rebuilt: bool
    damage: str
    """Why the matrix that was there could not be used; empty where it could, or there was none."""


class GaveUp(msgspec.Struct, frozen=True, array_like=True, tag="gave_up"):
    """The time of the request was over, or the next request came."""

    number: int


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """The request cannot be carried out."""

    number: int
    kind: FailureKind
    message: str
    expected: int = 0


Request = SyncMatrix | FindNearest
Reply = Working | Behind | Found | Synced | GaveUp | Failed

_encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(SyncMatrix | FindNearest).decode
decode_reply = msgspec.msgpack.Decoder(Working | Behind | Found | Synced | GaveUp | Failed).decode


def framed(message: Request | Reply) -> bytes:
    """Encode one message with its length."""
    data = _encode(message)
    return len(data).to_bytes(PREFIX_BYTES, "big") + data
