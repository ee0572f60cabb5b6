"""The handler of the search of memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from nexus.capability import Context, encode_each, handles
from nexus.memory.manager import MemoryManager
from nexus.memory.recall.commands import SearchMemory
from nexus.memory.recall.errors import MemorySearchTimedOut
from nexus.memory.recall.records import MemoryHit, MemoryResult
from nexus.memory.recall.store import ranked
from nexus.memory.vectors.searching import nearest, remembered
from nexus.memory.vectors.states import Collection
from nexus.memory.vectors.validation import embedding
from nexus.records.errors import QueryInvalid
from nexus.records.matching import parse_words
from nexus.store import Reader, ReadTimedOut
from nexus.store.fulltext import stale_reason

__all__ = ["search_memory"]

_RANK_CONSTANT = 60
"""The k of reciprocal rank fusion, as its authors have it (Cormack, Clarke and Buettcher, SIGIR 2009)."""
_LEAST_DEPTH = 100
"""How many places each ranking has at least, so that what is second in both may become first."""
_MOST_DEPTH = 1000
_TEXT_S = 2.0

Key = tuple[Collection, str]


class _Ranks(NamedTuple):
    """The places of one record."""

    text: int | None
    vector: int | None

    @property
    def score(self) -> float:
        return sum(1 / (_RANK_CONSTANT + rank) for rank in self if rank is not None)


@handles(SearchMemory)
async def search_memory(ctx: Context, command: SearchMemory) -> MemoryResult:
    wanted = sorted(set(command.collections or Collection), key=list(Collection).index)
    vectors = {Collection.EPISODES: command.episode_vector, Collection.CHUNKS: command.chunk_vector}
    given = {each: vector for each, vector in vectors.items() if vector is not None}
    _check(command, wanted, given)
    words = None if command.text is None else parse_words(command.text, "text")
    project_id = (await ctx.store.fetch(ctx.scope)).home("cannot search memory")
    depth = min(max(command.limit + 1, _LEAST_DEPTH), _MOST_DEPTH)

    by_text: list[Key] = []
    behind: str | None = None
    if words is not None:

        def read(reader: Reader) -> tuple[list[Key], str | None]:
            return ranked(reader, words, project_id, wanted, depth), stale_reason(reader)

        try:
            by_text, behind = await ctx.store.scan(read, limit_s=_TEXT_S)
        except ReadTimedOut:
            raise MemorySearchTimedOut(
                f"cannot search memory: the text took longer than {_TEXT_S:g} s", hint="Give more words."
            ) from None
    index = ctx.daemon.manager(MemoryManager).index
    by_vector: dict[Key, tuple[int, float]] = {}
    engine: str | None = None
    compared: list[Collection] = []
    for collection, vector in given.items():
        found = await nearest(ctx, index, project_id, collection, vector, depth)
        if found is not None:
            compared.append(collection)
            engine = found.engine
            by_vector |= {(collection, id_): (rank, cosine) for rank, (id_, cosine) in enumerate(found.hits, 1)}
    ranks = _fused(by_text, by_vector)
    shown = await remembered(ctx, [key for key, _ranks in ranks[: command.limit]])
    hits = (
        MemoryHit(
            score=round(each.score, 6),
            text_rank=each.text,
            vector_rank=each.vector,
            cosine=None if key not in by_vector else by_vector[key][1],
            **msgspec.structs.asdict(shown[key]),
        )
        for key, each in ranks[: command.limit]
        if key in shown
    )
    return MemoryResult(
        hits=await encode_each(hits),
        more=len(ranks) > command.limit,
        by_text=words is not None,
        by_vectors=compared,
        engine=engine,
        behind=behind,
    )


def _check(command: SearchMemory, wanted: Sequence[Collection], given: Mapping[Collection, list[float]]) -> None:
    """Refuse what is no search, before anything is read.

    Raises:
        QueryInvalid: there is nothing to search for, or a vector is for a collection that is left out.
        VectorInvalid: a vector is none.
    """
    if command.text is None and not given:
        raise QueryInvalid("cannot search memory: it needs a text, a vector, or both", details={"path": "text"})
    for collection, vector in given.items():
        if collection not in wanted:
            raise QueryInvalid(
                f"cannot search memory: there is a vector for {collection.value}, which are not searched",
                details={"path": "collections"},
            )
        embedding(vector)


def _fused(by_text: Sequence[Key], by_vector: Mapping[Key, tuple[int, float]]) -> list[tuple[Key, _Ranks]]:
    """Everything that was found, by the sum of both; of equal sums, what the text found comes first."""
    texts = {key: rank for rank, key in enumerate(by_text, 1)}
    ranks = {
        key: _Ranks(texts.get(key), by_vector[key][0] if key in by_vector else None) for key in (*texts, *by_vector)
    }
    return sorted(ranks.items(), key=lambda each: (-each[1].score, each[1].text or _MOST_DEPTH + 1, each[0]))
