"""Arithmetic on the rows of a matrix: what an engine does, and the one that needs nothing but Python.

A score is the cosine, rounded to six decimals, which is what float32 rows can tell. The nearest are in the order of
their scores, and of equal ones by id. It knows no file and no database.
"""

from __future__ import annotations

import functools
import heapq
import mmap
import operator
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from nexus.memory.vectors.states import VALUE_BYTES
from nexus.memory.vectors.validation import unit

__all__ = ["SCORE_UNIT", "Engine", "PlainEngine", "Rows"]

SCORE_UNIT = 1_000_000
_LOOK_ROWS = 256


class Rows:
    """The rows of a matrix in memory: ``count`` vectors of length 1 with ``dimension`` values, from ``offset`` on."""

    def __init__(self, data: mmap.mmap, offset: int, dimension: int, count: int) -> None:
        self.data = data
        self.offset = offset
        self.dimension = dimension
        self.count = count


class Engine(Protocol):
    """How vectors are computed with."""

    name: str
    is_fast: bool
    """Whether it is done with rows as fast as they are read."""

    def normalise(self, block: bytearray, dimension: int) -> list[int]:
        """Bring the rows of a block to length 1, in place; gives the numbers of those that have no direction."""

    def nearest(
        self,
        rows: Rows,
        ids: Sequence[str],
        query: bytes,
        limit: int,
        places: Sequence[int] | None,
        look: Callable[[], None],
    ) -> list[tuple[str, float]]:
        """The ids and scores of the nearest to a vector of length 1; ``places`` are the rows to choose from.

        ``look`` is called every few ms of work, and raises to end it.
        """


class PlainEngine:
    """Python alone: a hundred times slower than numpy, with the same results."""

    name = "python"
    is_fast = False

    def normalise(self, block: bytearray, dimension: int) -> list[int]:
        """See ``Engine``."""
        row = struct.Struct(f"<{dimension}f")
        size = dimension * VALUE_BYTES
        bad = []
        for number in range(len(block) // size):
            data = unit(row.unpack_from(block, number * size))
            if data is None:
                bad.append(number)
            else:
                block[number * size : (number + 1) * size] = data
        return bad

    def nearest(
        self,
        rows: Rows,
        ids: Sequence[str],
        query: bytes,
        limit: int,
        places: Sequence[int] | None,
        look: Callable[[], None],
    ) -> list[tuple[str, float]]:
        """See ``Engine``."""
        chosen = range(rows.count) if places is None else places
        best = heapq.nsmallest(limit, self._ranks(rows, ids, query, chosen, look))
        return [(name, -rank / SCORE_UNIT) for rank, name in best]

    def _ranks(
        self, rows: Rows, ids: Sequence[str], query: bytes, chosen: Iterable[int], look: Callable[[], None]
    ) -> Iterator[tuple[int, str]]:
        row = struct.Struct(f"<{rows.dimension}f")
        size = rows.dimension * VALUE_BYTES
        wanted = row.unpack(query)
        multiply = functools.partial(map, operator.mul, wanted)
        unpack, data, offset = row.unpack_from, rows.data, rows.offset
        for number, place in enumerate(chosen):
            if not number % _LOOK_ROWS:
                look()
            score = sum(multiply(unpack(data, offset + place * size)))
            yield -round(score * SCORE_UNIT), ids[place]
