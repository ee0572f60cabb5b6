"""The records of the search of memory."""

from __future__ import annotations

from typing import Annotated

from nexus_protocol.command import UNRECORDED, Record

from nexus.memory.vectors.states import Collection

__all__ = ["MemoryHit", "MemoryResult", "Remembered"]


class Remembered(Record, kw_only=True):
    """An episode or a chunk in short. Optional fields are present only if set."""

    collection: Collection
    id: str
    name: str
    """The number of the episode; of a chunk the file and its lines, as ``src/app.py:10-42``."""
    type: str
    """Of the episode, or of the chunk."""
    text: Annotated[str, UNRECORDED]
    """The summary of the episode, or the beginning of its content; of a chunk its first line. On one line."""
    symbols: list[str] | None = None
    """What is defined in the chunk."""
    language: str | None = None
    """Of the chunk."""
    task_id: str | None = None
    """The task of the episode."""
    created_at: int
    """When the episode was created, or the chunk read (ms)."""


class MemoryHit(Remembered, kw_only=True):
    """What was found, and why it is at its place."""

    score: float
    """The sum of 1 / (60 + rank) over both ranks; the highest is the best."""
    text_rank: int | None = None
    """Its place among what the text found, from 1."""
    vector_rank: int | None = None
    """Its place among the nearest vectors of its collection, from 1."""
    cosine: float | None = None
    """How near its vector is, from -1 to 1."""


class MemoryResult(Record, kw_only=True):
    """What was found, the best first."""

    hits: list[MemoryHit]
    more: bool = False
    """Whether more were found than were asked for."""
    by_text: bool
    """Whether a text was searched for."""
    by_vectors: list[Collection]
    """The collections whose vectors were compared: those for which one was given, and which have embeddings."""
    engine: str | None = None
    """What compared them: ``numpy``, or ``python``, which is a hundred times slower. Absent where nothing did."""
    behind: str | None = None
    """Why the search index does not have all texts at present: a clause. Absent where it has."""
