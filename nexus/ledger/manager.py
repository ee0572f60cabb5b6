"""The manager of the ledger: it keeps the time of leases, and deletes old metrics."""

from __future__ import annotations

from nexus.capability import ManagerContext
from nexus.ledger.leases.keeper import LeaseManager
from nexus.ledger.metrics.retention import Retention

__all__ = ["LedgerManager", "make_manager"]


class LedgerManager(LeaseManager):
    """The live leases of one daemon, and the age of its metrics."""

    def __init__(self, context: ManagerContext) -> None:
        super().__init__(context)
        self._retention = Retention(context)

    async def start(self) -> None:
        """As ``LeaseManager``."""
        await super().start()
        self._retention.start()

    async def close(self) -> None:
        """As ``LeaseManager``."""
        await self._retention.close()
        await super().close()


def make_manager(context: ManagerContext) -> LedgerManager:
    """The manager of this capability."""
    return LedgerManager(context)
