"""Deletes what is noted of changes of embeddings that no matrix needs, and what deleted projects have left."""

from __future__ import annotations

import asyncio
import functools
import logging

from nexus.capability import ManagerContext
from nexus.memory.vectors.index import VectorIndex
from nexus.memory.vectors.store import delete_of_project, every_collection, projects_gone, prune_changes
from nexus.store import StoreError
from nexus.tasks import cancel_and_wait

__all__ = ["Tidying"]

_log = logging.getLogger("nexus.memory")

_INTERVAL_S = 3600.0
_KEPT = 10_000
"""A matrix that is behind by more changes is built again."""
_STEP = 500
"""Rows deleted in one step, which limits how long the writes of clients wait for it."""


class Tidying:
    """Looks at the start of the daemon, and every hour."""

    def __init__(self, context: ManagerContext, index: VectorIndex) -> None:
        self._context = context
        self._index = index
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """End the work."""
        await cancel_and_wait(self._task)

    async def _work(self) -> None:
        while True:
            try:
                await self.apply()
            except (StoreError, OSError) as error:
                _log.warning("the changes of embeddings cannot be tidied at present: %s", error)
            except Exception:  # the next look may succeed
                _log.exception("the changes of embeddings were not tidied")
            await asyncio.sleep(_INTERVAL_S)

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
