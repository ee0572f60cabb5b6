"""The manager of checkpoints: it makes those of projects that are worked on, by the clock."""

from __future__ import annotations

from nexus.capability import ManagerContext
from nexus.checkpoints.automatic import Automatic

__all__ = ["CheckpointManager", "make_manager"]


class CheckpointManager:
    """The clock of the checkpoints of one daemon."""

    def __init__(self, context: ManagerContext) -> None:
        self._automatic = Automatic(context)

    async def start(self) -> None:
        """Begin to look at the clock."""
        self._automatic.start()

    async def close(self) -> None:
        """Stop looking."""
        await self._automatic.close()

    def children(self) -> int:
        """None: a checkpoint is no process."""
        return 0


def make_manager(context: ManagerContext) -> CheckpointManager:
    """The manager of this capability."""
    return CheckpointManager(context)
