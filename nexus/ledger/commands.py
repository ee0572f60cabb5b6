"""The public contract of the ledger: the commands of its subjects."""

from __future__ import annotations

from nexus.ledger.leases.commands import GetLease, ListLeases, ReleaseLease, RenewLease, RevokeLease

__all__ = ["GetLease", "ListLeases", "ReleaseLease", "RenewLease", "RevokeLease"]
