"""The manager of the ledger: it keeps the time of leases."""

from __future__ import annotations

from nexus.capability import ManagerContext
from nexus.ledger.leases.keeper import LeaseManager

__all__ = ["make_manager"]


def make_manager(context: ManagerContext) -> LeaseManager:
    """The manager of this capability."""
    return LeaseManager(context)
