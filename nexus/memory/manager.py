"""The manager of the memory: the process that searches vectors, and what is counted and tidied beside the records."""

from __future__ import annotations

import asyncio
import logging

from nexus.capability import ManagerContext
from nexus.memory.chunks.sweeper import ChunkSweeper
from nexus.memory.episodes.accesses import Accesses
from nexus.memory.vectors.index import VectorIndex
from nexus.memory.vectors.tidying import Tidying
from nexus.tasks import BackgroundTasks

__all__ = ["MemoryManager", "make_manager"]

_log = logging.getLogger("nexus.memory")


class MemoryManager:
    """What the memory of one daemon has beside its records."""

    def __init__(self, context: ManagerContext) -> None:
        self.accesses = Accesses(context)
        self.sweeper = ChunkSweeper(context)
        self.index = VectorIndex(
            context.store.path,
            idle_s=lambda: float(context.setting("vectors.idle_seconds")),
            engine=lambda: str(context.setting("vectors.engine")),
        )
        self._tidying = Tidying(context, self.index)
        self._tasks = BackgroundTasks("memory", _log)

    async def start(self) -> None:
        """Begin to tidy, and go on with what an earlier daemon was deleting."""
        self.sweeper.start()
        self._tidying.start()

    async def close(self) -> None:
        """Write what is only in memory, and end the process that searches."""
        await self.accesses.close()
        await self.sweeper.close()
        await self._tidying.close()
        if removing := list(self._tasks):
            await asyncio.wait(removing)
        await self.index.close()

    def children(self) -> int:
        """It supervises no processes: the one that searches ends with the daemon."""
        return 0

    def forget(self, project_id: str) -> None:
        """Have the files of a deleted project removed."""
        self._tasks.spawn(self._forget(project_id))

    async def _forget(self, project_id: str) -> None:
        try:
            await self.index.forget(project_id)
        except OSError as error:  # the next process that searches removes them
            _log.warning("the matrices of project %s cannot be removed: %s", project_id, error.strerror or error)


def make_manager(context: ManagerContext) -> MemoryManager:
    """The manager of this capability."""
    return MemoryManager(context)
