"""The records of vectors."""

from __future__ import annotations

from nexus_protocol.command import Record

from nexus.memory.recall.records import Remembered
from nexus.memory.vectors.states import Collection, MatrixState

__all__ = ["VectorCollection", "VectorCollections", "VectorHit", "VectorResult", "VectorsReset"]


class VectorCollection(Record, kw_only=True):
    """The embeddings of the episodes or the chunks of a project."""

    project_id: str
    project: str
    """The name of the project."""
    collection: Collection
    dimension: int | None = None
    """How many values each embedding has. Absent without embeddings: the next one fixes it."""
    generation: int
    """How often they changed; 0 if there never was one."""
    embedded: int
    """How many records have an embedding."""
    without: int
    """How many have none."""
    matrix: MatrixState
    """Whether the file that is searched has what the rows have."""


class VectorCollections(Record):
    """The collections that have records, by project."""

    collections: list[VectorCollection]
    engine: str
    """What the next search compares vectors with: ``numpy`` or ``python``."""


class VectorHit(Remembered, kw_only=True):
    """A record whose embedding is near."""

    score: float
    """The cosine, from -1 to 1."""


class VectorResult(Record):
    """The nearest, the best first."""

    hits: list[VectorHit]
    engine: str | None = None
    """What compared the vectors: ``numpy``, or ``python``, which is a hundred times slower. Absent without any."""


class VectorsReset(Record):
    """A collection without embeddings."""

    collection: Collection
    removed: int
    """How many records had an embedding."""
