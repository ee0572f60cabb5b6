"""The index of the search, behind an interface of five: index, remove, query, check, rebuild.

SQLite keeps its index by triggers in the transaction of each change, so that no change of a record calls ``index`` or
``remove``; a store without such triggers calls them where it writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from nexus.search.states import SearchOrder
from nexus.search.store import Candidate, Conditions, candidates
from nexus.store import Reader, StateStore, Transaction
from nexus.store.fulltext import (
    Words,
    begin_rebuild,
    count_docs,
    index_docs,
    literal_words,
    names_expression,
    rebuild_step,
    remove_docs,
    stale_reason,
    words_expression,
)

__all__ = ["INDEX", "SearchIndex"]

_STEP_BYTES = 1024 * 1024
"""What a step tells the writer of its size: it shares its transaction with few others."""


class SearchIndex(Protocol):
    """What finds texts by their words. Texts are known by their numbers ``doc``."""

    def index(self, tx: Transaction, docs: Iterable[int]) -> None:
        """Add texts as they are now, which are not in the index."""

    def remove(self, tx: Transaction, docs: Iterable[int]) -> None:
        """Remove texts, which are as they were when they were added."""

    def query(
        self,
        reader: Reader,
        words: Words | str,
        conditions: Conditions,
        *,
        home: str | None,
        order: SearchOrder,
        limit: int,
    ) -> list[Candidate]:
        """Find texts with words, or with a text as it stands: at most ``limit``, those of the project ``home`` first.

        It may take long, and belongs into ``StateStore.scan``.
        """

    def check(self, reader: Reader) -> str | None:
        """Why the index does not have all texts, or has them split differently: a clause; None where it has."""

    async def rebuild(self, store: StateStore) -> int:
        """Make the index again, in small transactions; returns how many texts it has."""


class _FullText:
    """The index by the store's database."""

    def index(self, tx: Transaction, docs: Iterable[int]) -> None:
        index_docs(tx, docs)

    def remove(self, tx: Transaction, docs: Iterable[int]) -> None:
        remove_docs(tx, docs)

    def query(
        self,
        reader: Reader,
        words: Words | str,
        conditions: Conditions,
        *,
        home: str | None,
        order: SearchOrder,
        limit: int,
    ) -> list[Candidate]:
        if isinstance(words, str):
            return candidates(reader, conditions, home, order, limit, expression=literal_words(words), literal=words)
        return candidates(
            reader,
            conditions,
            home,
            order,
            limit,
            expression=words_expression(words),
            names=names_expression(words),
        )

    def check(self, reader: Reader) -> str | None:
        return stale_reason(reader)

    async def rebuild(self, store: StateStore) -> int:
        await store.write(begin_rebuild, size_bytes=_STEP_BYTES)
        while not await store.write(rebuild_step, size_bytes=_STEP_BYTES):
            pass
        return await store.scan(count_docs, limit_s=60)


INDEX: SearchIndex = _FullText()
"""The index of this store."""
