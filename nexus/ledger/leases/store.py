"""The SQL of leases."""

from __future__ import annotations

from typing import NamedTuple

from nexus.journal.operation import Operation
from nexus.ledger.states import LeaseState
from nexus.store import Reader, Transaction

__all__ = ["Lease", "end", "live_lease"]


class Lease(NamedTuple):
    """A lease."""

    id: str
    holder: str
    epoch: int


def live_lease(reader: Reader, kind: str, resource_id: str) -> Lease | None:
    """The live lease on a resource."""
    row = reader.one(
        "SELECT id, holder, epoch FROM lease WHERE resource_kind = ? AND resource_id = ? AND state = 'live'",
        (kind, resource_id),
    )
    return None if row is None else Lease(*row)


def end(tx: Transaction, operation: Operation, lease: Lease, state: LeaseState, reason: str | None) -> Lease:
    """End a lease."""
    tx.execute(
        "UPDATE lease SET state = ?, reason = ?, ended_at = ? WHERE id = ?", (state.value, reason, tx.now, lease.id)
    )
    return lease
