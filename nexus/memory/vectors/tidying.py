"""Deletes what is noted of changes of embeddings that no matrix needs, and what deleted projects have left."""

from __future__ import annotations

import asyncio
import functools
import logging

from nexus.capability import ManagerContext
from nexus.memory.vectors.index import VectorIndex
from nexus.memory.vectors.store import delete_of_project, every_collection, projects_gone, prune_changes
from nexus.store import StoreError
from nexus.tasks import Periodic

__all__ = ["Tidying"]

_log = logging.getLogger("nexus.memory")

_INTERVAL_S = 3600.0
_KEPT = 10_000
"""A matrix that is behind by more changes is built again."""
_STEP = 500
"""Rows deleted in one step, which limits how long the writes of clients wait for it."""


class Tidying(Periodic):
    """Looks at the start of the daemon, and every hour."""

    def __init__(self, context: ManagerContext, index: VectorIndex) -> None:
        self._context = context
        self._index = index
        super().__init__(self.apply, _INTERVAL_S, _log, "the changes of embeddings", "tidied", (StoreError, OSError))

    async def apply(self) -> None:
        """Delete what is not needed, in small steps.

        Raises:
            StoreError: the store cannot be read or written.
            OSError: a file cannot be removed.
        """
        store = self._context.store
        for project_id in await store.fetch(projects_gone):
            await store.write(functools.partial(delete_of_project, project_id=project_id))
            await self._index.forget(project_id)
        for project_id, collection in await store.fetch(every_collection):
            step = functools.partial(
                prune_changes, project_id=project_id, collection=collection, keep=_KEPT, limit=_STEP
            )
            deleted = _STEP
            while deleted:
                deleted = await store.write(step)
                await asyncio.sleep(0.01)  # let the writes of clients pass
