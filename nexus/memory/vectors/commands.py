"""The commands on vectors, and the kinds of their events."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from nexus_protocol.command import Command, Effect, Repeat, command
from nexus_protocol.events import event

from nexus.memory.vectors.errors import (
    VectorDimensionMismatch,
    VectorFilterInvalid,
    VectorInvalid,
    VectorsTimedOut,
    VectorsUnavailable,
    VectorsWorkerEnded,
    VectorTaskAmbiguous,
    VectorTaskNotFound,
)
from nexus.memory.vectors.records import VectorCollections, VectorResult, VectorsReset
from nexus.memory.vectors.states import Collection

__all__ = ["ListVectorCollections", "ResetVectors", "SearchVectors"]

event(
    "vectors.reset",
    "A client had the embeddings of a collection removed.",
    collection="episodes or chunks",
    embeddings="how many there were",
)
event("vectors.deleted", "The embeddings of a project were deleted with it.", collections="those that had some")


@command(0x05A8, Effect.READ, all_projects=True)
class ListVectorCollections(Command[VectorCollections]):
    """List the collections of episodes and chunks, and what embeddings they have."""


@command(0x05A9, Effect.ACT, repeat=Repeat.AGAIN)
class ResetVectors(Command[VectorsReset]):
    """Remove all embeddings of a collection of the project, so that those of another model can take their place.

    The records stay. It is done in small steps beside other requests. A request that ends before has removed a part of
    them; a repeated one removes the rest.
    """

    collection: Annotated[Collection, Meta(description="episodes or chunks", extra={"metavar": "COLLECTION"})]


@command(
    0x05AA,
    Effect.READ,
    errors=(
        *(VectorInvalid, VectorDimensionMismatch, VectorFilterInvalid, VectorTaskNotFound, VectorTaskAmbiguous),
        *(VectorsTimedOut, VectorsUnavailable, VectorsWorkerEnded),
    ),
    large_reply=True,
    max_payload=1024 * 1024,  # so that a vector which is far too long is refused with its length
)
class SearchVectors(Command[VectorResult]):
    """Find the records of a collection of the project whose embeddings are nearest to a vector, by cosine.

    All embeddings are compared, and the scores are exact to six decimals. The vector is of the model that made the
    embeddings. Filters choose the records that are compared.
    """

    collection: Annotated[Collection, Meta(description="episodes or chunks", extra={"metavar": "COLLECTION"})]
    query: Annotated[list[float], Meta(description="the vector", extra={"option": None})]
    limit: Annotated[int, Meta(ge=1, le=1000, description="how many hits at most, 1 to 1000")] = 10
    type: (
        Annotated[str, Meta(min_length=1, max_length=64, description="only episodes or chunks of this type")] | None
    ) = None
    file: (
        Annotated[
            str,
            Meta(min_length=1, max_length=4096, description="only chunks of files whose paths begin so"),
        ]
        | None
    ) = None
    language: Annotated[str, Meta(min_length=1, max_length=64, description="only chunks in this language")] | None = (
        None
    )
    task: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=255,
                description="only episodes of this task: its number or its id",
                extra={"metavar": "TASK", "completes": "task"},
            ),
        ]
        | None
    ) = None
