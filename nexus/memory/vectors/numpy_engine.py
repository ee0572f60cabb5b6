"""Arithmetic on the rows of a matrix with numpy, which the process that searches alone loads.

One product of float32 tells which rows can be among the nearest; these are scored again as doubles, row by row, so that
equal rows have equal scores wherever they are in the matrix.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nexus.memory.vectors.engines import SCORE_UNIT, Rows
from nexus.memory.vectors.states import VALUE_BYTES

__all__ = ["NumpyEngine"]

_FLOAT = np.dtype("<f4")
_CHUNK_BYTES = 32 * 1024 * 1024
_COPIED_BYTES = 4 * 1024 * 1024
_EPSILON = 2.0**-24

_Floats = npt.NDArray[Any]


class NumpyEngine:
    """Exact nearest by one product of a matrix and a vector."""

    name = "numpy"
    is_fast = True

    def normalise(self, block: bytearray, dimension: int) -> list[int]:
        """See ``Engine``."""
        rows = np.frombuffer(block, _FLOAT).reshape(-1, dimension)
        doubles = rows.astype(np.float64)
        lengths = np.sqrt(np.einsum("ij,ij->i", doubles, doubles))
        bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
        lengths[bad] = 1.0
        np.divide(doubles, lengths[:, None], out=doubles)
        rows[:] = doubles
        return [int(number) for number in bad]

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
        matrix = np.frombuffer(rows.data, _FLOAT, rows.count * rows.dimension, rows.offset)
        matrix = matrix.reshape(rows.count, rows.dimension)
        wanted = np.frombuffer(query, _FLOAT)
        chosen = None if places is None else np.array(places, np.int64)
        rough = self._rough(matrix, wanted, chosen, look)
        # No score is further from its rough one than this, nor are two that are equal once rounded.
        margin = 2 * rows.dimension * _EPSILON + 2 / SCORE_UNIT
        near = np.flatnonzero(rough >= _least_of_best(rough, limit) - margin)
        if chosen is not None:
            near = chosen[near]
        scores = self._exact(matrix, wanted, near, look)
        least = _least_of_best(scores, limit)
        better = [(-int(score), ids[place]) for place, score in _pairs(near, scores, scores > least)]
        equal = [(-int(score), ids[place]) for place, score in _pairs(near, scores, scores == least)]
        best = sorted(better) + heapq.nsmallest(limit - len(better), equal)
        return [(name, -rank / SCORE_UNIT) for rank, name in best]

    def _rough(self, matrix: _Floats, wanted: _Floats, chosen: _Floats | None, look: Callable[[], None]) -> _Floats:
        """The products as float32."""
        count = len(matrix) if chosen is None else len(chosen)
        found = np.empty(count, np.float32)
        step = max(1, (_CHUNK_BYTES if chosen is None else _COPIED_BYTES) // (VALUE_BYTES * matrix.shape[1]))
        for start in range(0, count, step):
            look()
            end = start + step
            part = matrix[start:end] if chosen is None else matrix[chosen[start:end]]
            found[start:end] = part @ wanted
        return found

    def _exact(self, matrix: _Floats, wanted: _Floats, places: _Floats, look: Callable[[], None]) -> _Floats:
        """The products as doubles, in units of the last decimal."""
        doubles = wanted.astype(np.float64)
        found = np.empty(len(places), np.int64)
        step = max(1, _COPIED_BYTES // (8 * matrix.shape[1]))
        for start in range(0, len(places), step):
            look()
            part = matrix[places[start : start + step]].astype(np.float64) * doubles
            found[start : start + step] = np.rint(part.sum(axis=1) * SCORE_UNIT)
        return found


def _least_of_best(scores: _Floats, limit: int) -> Any:
    """The lowest of the ``limit`` highest."""
    if len(scores) <= limit:
        return scores.min() if len(scores) else 0
    return np.partition(scores, len(scores) - limit)[len(scores) - limit]


def _pairs(places: _Floats, scores: _Floats, which: _Floats) -> list[tuple[int, int]]:
    return list(zip(places[which].tolist(), scores[which].tolist(), strict=True))
