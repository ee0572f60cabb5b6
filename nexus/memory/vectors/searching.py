"""How a request searches vectors: what it reads before, the search, and what it shows of the records that are found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nexus.capability import Context
from nexus.memory.recall.records import Remembered
from nexus.memory.recall.store import shown
from nexus.memory.vectors.errors import mismatch
from nexus.memory.vectors.index import Nearest, VectorIndex
from nexus.memory.vectors.states import Collection
from nexus.memory.vectors.store import collection_row
from nexus.memory.vectors.validation import dimension_of, embedding
from nexus.store import Reader

__all__ = ["nearest", "remembered"]

_SHOWN_AT_ONCE = 50
"""So many are read in the event loop; more in a thread, for each row is on several pages, as its embedding is."""
_SHOWN_S = 10.0


async def nearest(
    ctx: Context,
    index: VectorIndex,
    project_id: str,
    collection: Collection,
    query: Sequence[float],
    limit: int,
    filters: Mapping[str, str] | None = None,
) -> Nearest | None:
    """The nearest of a collection; None if it has no embeddings.

    Raises:
        VectorInvalid: the query is no vector.
        VectorDimensionMismatch: it has another dimension than the collection.
        VectorsTimedOut, VectorsUnavailable, VectorsWorkerEnded: see ``VectorIndex``.
    """
    data = embedding(query)
    row = await ctx.store.fetch(lambda reader: collection_row(reader, project_id, collection.value), snapshot=True)
    if row is None or not row.has_embeddings:
        return None
    given = dimension_of(data)
    if given != row.dimension:
        raise mismatch("cannot search vectors", "the query", given, row.dimension)
    return await index.nearest(collection.value, project_id, data, limit, row.generation, filters=filters)


async def remembered(ctx: Context, keys: Sequence[tuple[Collection, str]]) -> dict[tuple[Collection, str], Remembered]:
    """What is shown of records; those that were deleted meanwhile are left out."""

    def read(reader: Reader) -> dict[tuple[Collection, str], Remembered]:
        found: dict[tuple[Collection, str], Remembered] = {}
        for collection in Collection:
            ids = [id_ for each, id_ in keys if each is collection]
            for at in range(0, len(ids), _SHOWN_AT_ONCE):
                some = shown(reader, collection, ids[at : at + _SHOWN_AT_ONCE])
                found |= {(collection, id_): each for id_, each in some.items()}
        return found

    if len(keys) <= _SHOWN_AT_ONCE:
        return await ctx.store.fetch(read)
    return await ctx.store.scan(read, limit_s=_SHOWN_S)
