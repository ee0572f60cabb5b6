"""Rebuilds the search index in the background: on demand, and where a daemon ended within a rebuild or splits words
differently than the one that made the index."""

from __future__ import annotations

import asyncio
import logging

from nexus.capability import ManagerContext
from nexus.search.index import INDEX
from nexus.store import StoreError
from nexus.tasks import cancel_and_wait

__all__ = ["SearchManager", "make_manager"]

_log = logging.getLogger("nexus.search")

_RETRY_S = 1.0


class SearchManager:
    """The rebuilds of one daemon: one at a time."""

    def __init__(self, context: ManagerContext) -> None:
        self._store = context.store
        self._rebuilding: asyncio.Task[int] | None = None
        self._mending: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to rebuild an index that is behind."""
        reason = self._store.read(INDEX.check)
        if reason is not None:
            _log.info("the search index is rebuilt: %s", reason)
            self._begin()

    async def close(self) -> None:
        """Stop rebuilding; the next daemon goes on."""
        await cancel_and_wait(self._mending, self._rebuilding)

    def children(self) -> int:
        """It supervises no processes. A rebuild keeps the daemon from being idle."""
        return sum(task is not None and not task.done() for task in (self._rebuilding, self._mending))

    async def rebuild(self) -> int:
        """Make the index again, or wait for a rebuild that has begun; returns how many texts it has.

        The rebuild goes on where this call is cancelled: until its end the index has a part of the texts only.

        Raises:
            StoreError: it cannot be written.
        """
        return await asyncio.shield(self._begin())

    def _begin(self) -> asyncio.Task[int]:
        if self._rebuilding is None or self._rebuilding.done():
            self._rebuilding = asyncio.create_task(INDEX.rebuild(self._store))
            self._rebuilding.add_done_callback(self._ended)
        return self._rebuilding

    def _ended(self, rebuilding: asyncio.Task[int]) -> None:
        if rebuilding.cancelled():
            return
        error = rebuilding.exception()
        if error is None:
            _log.info("the search index was rebuilt, with %d texts", rebuilding.result())
        elif isinstance(error, StoreError):
            _log.warning("the search index cannot be rebuilt at present: %s", error.message)
            self._mending = asyncio.create_task(self._again())
        else:
            _log.error("the search index was not rebuilt", exc_info=error)

    async def _again(self) -> None:
        await asyncio.sleep(_RETRY_S)
        self._begin()


def make_manager(context: ManagerContext) -> SearchManager:
    """Make the manager of a daemon."""
    return SearchManager(context)
