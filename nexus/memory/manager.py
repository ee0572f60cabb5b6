"""The manager of the memory: it deletes the chunks that projects have left."""

from __future__ import annotations

from nexus.capability import ManagerContext
from nexus.memory.chunks.sweeper import ChunkSweeper

__all__ = ["MemoryManager", "make_manager"]


class MemoryManager:
    """What the memory of one daemon has beside its records."""

    def __init__(self, context: ManagerContext) -> None:
        self.sweeper = ChunkSweeper(context)

    async def start(self) -> None:
        """Go on with what an earlier daemon was deleting."""
        self.sweeper.start()

    async def close(self) -> None:
        """End the work."""
        await self.sweeper.close()

    def children(self) -> int:
        """None: it supervises no process."""
        return 0


def make_manager(context: ManagerContext) -> MemoryManager:
    """The manager of this capability."""
    return MemoryManager(context)
