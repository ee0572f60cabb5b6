"""The manager of the ledger: it keeps the time of leases, and deletes old metrics and leases."""

from __future__ import annotations

from nexus.capability import ManagerContext
from nexus.ledger.leases.keeper import LeaseManager
from nexus.ledger.leases.store import prune as prune_leases
from nexus.ledger.metrics.store import prune as prune_metrics
from nexus.ledger.retention import Retention

__all__ = ["LedgerManager", "make_manager"]


class LedgerManager(LeaseManager):
    """The live leases of one daemon, and the age of those that ended and of its metrics."""

    def __init__(self, context: ManagerContext) -> None:
        super().__init__(context)
        self._retentions = [Retention(context, "metrics", prune_metrics), Retention(context, "leases", prune_leases)]

    async def start(self) -> None:
        """As ``LeaseManager``."""
        await super().start()
        for retention in self._retentions:
            retention.start()

    async def close(self) -> None:
        """As ``LeaseManager``."""
        for retention in self._retentions:
            await retention.close()
        await super().close()


def make_manager(context: ManagerContext) -> LedgerManager:
    """The manager of this capability."""
    return LedgerManager(context)
