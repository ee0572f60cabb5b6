"""What the ledger does without being asked."""

from __future__ import annotations

from nexus.capability import ManagerContext
from nexus.ledger.metrics.retention import Retention

__all__ = ["LedgerManager", "make_manager"]


class LedgerManager:
    """Deletes old metrics."""

    def __init__(self, context: ManagerContext) -> None:
        self._retention = Retention(context)

    async def start(self) -> None:
        """Begin to work."""
        self._retention.start()

    async def close(self) -> None:
        """End the work, because the daemon ends."""
        await self._retention.close()

    def children(self) -> int:
        """It has no processes."""
        return 0


def make_manager(context: ManagerContext) -> LedgerManager:
    """The manager of this capability."""
    return LedgerManager(context)
