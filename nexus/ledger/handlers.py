"""The handlers of the ledger: those of its subjects."""

from __future__ import annotations

from nexus.ledger.leases.handlers import get_lease, list_leases, release_lease, renew_lease, revoke_lease

__all__ = ["get_lease", "list_leases", "release_lease", "renew_lease", "revoke_lease"]
