"""The manager of the memory: it counts the accesses of episodes."""

from __future__ import annotations

from nexus.capability import ManagerContext
from nexus.memory.episodes.accesses import Accesses

__all__ = ["MemoryManager", "make_manager"]


class MemoryManager:
    """What the memory of one daemon has beside its records."""

    def __init__(self, context: ManagerContext) -> None:
        self.accesses = Accesses(context)

    async def start(self) -> None:
        """Nothing is to be adopted."""

    async def close(self) -> None:
        """Write what is only in memory."""
        await self.accesses.close()

    def children(self) -> int:
        """None: it supervises no process."""
        return 0


def make_manager(context: ManagerContext) -> MemoryManager:
    """The manager of this capability."""
    return MemoryManager(context)
