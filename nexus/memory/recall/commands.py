"""The command that searches memory."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from nexus_protocol.command import Command, Effect, command

from nexus.memory.recall.errors import MemorySearchTimedOut
from nexus.memory.recall.records import MemoryResult
from nexus.memory.vectors.errors import (
    VectorDimensionMismatch,
    VectorInvalid,
    VectorsTimedOut,
    VectorsUnavailable,
    VectorsWorkerEnded,
)
from nexus.memory.vectors.states import Collection
from nexus.records.errors import QueryInvalid

__all__ = ["SearchMemory"]


@command(
    0x05B0,
    Effect.READ,
    errors=(
        *(QueryInvalid, MemorySearchTimedOut, VectorInvalid, VectorDimensionMismatch, VectorsTimedOut),
        *(VectorsUnavailable, VectorsWorkerEnded),
    ),
    large_reply=True,
    max_payload=1024 * 1024,  # so that a vector which is far too long is refused with its length
)
class SearchMemory(Command[MemoryResult]):
    """Search the episodes and chunks of the project by a text, by vectors, or by both together.

    The text finds words as Search does, and has no filters. A vector finds the nearest by cosine in its collection,
    whose model made it; a collection without embeddings is searched by the text alone. What both find is ranked by
    reciprocal rank fusion: a hit has 1 / (60 + rank) for its rank by text, and as much for its rank by vector.
    An episode that is found does not count as accessed.
    """

    text: (
        Annotated[str, Meta(min_length=1, description="the words to search for", extra={"metavar": "TEXT"})] | None
    ) = None
    episode_vector: (
        Annotated[list[float], Meta(description="what to look for near episodes", extra={"option": None})] | None
    ) = None
    chunk_vector: (
        Annotated[list[float], Meta(description="what to look for near chunks", extra={"option": None})] | None
    ) = None
    collections: Annotated[
        list[Collection],
        Meta(max_length=2, description="where to look (default: both)", extra={"option": "--in", "metavar": "WHERE"}),
    ] = []  # noqa: RUF012 - msgspec copies it
    limit: Annotated[int, Meta(ge=1, le=1000, description="how many hits at most, 1 to 1000")] = 20
