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
        self._mending: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Begin to rebuild an index that is behind."""
        reason = self._store.read(INDEX.check)
        if reason is not None:
            _log.info("the search index is rebuilt: %s", reason)
            self._mending = asyncio.create_task(self._mend())

    async def close(self) -> None:
        """Stop rebuilding; the next daemon goes on."""
        await cancel_and_wait(self._mending)

    def children(self) -> int:
        """It supervises no processes. A rebuild at the start keeps the daemon from being idle."""
        return int(self._mending is not None and not self._mending.done())

    async def rebuild(self) -> int:
        """Make the index again; returns how many texts it has.

        Raises:
            StoreError: it cannot be written.
        """
        async with self._lock:
            return await INDEX.rebuild(self._store)

    async def _mend(self) -> None:
        while True:
            try:
                _log.info("the search index was rebuilt, with %d texts", await self.rebuild())
                return
            except StoreError as error:
                _log.warning("the search index cannot be rebuilt at present: %s", error.message)
                await asyncio.sleep(_RETRY_S)


def make_manager(context: ManagerContext) -> SearchManager:
    """Make the manager of a daemon."""
    return SearchManager(context)
