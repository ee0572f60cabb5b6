"""All SQL of leases that ``records.Table`` does not have."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from nexus_protocol.events import event

from nexus.journal.operation import Operation
from nexus.journal.rows import derived
from nexus.ledger.leases.errors import (
    LeaseAmbiguous,
    LeaseChanged,
    LeaseCursorInvalid,
    LeaseNotFound,
    LeaseRequired,
)
from nexus.ledger.leases.records import Lease
from nexus.ledger.states import LeaseState, OnLost
from nexus.records.errors import RecordErrors, RecordIdTaken, RecordNameTaken
from nexus.records.table import Table
from nexus.store import Reader, Transaction

__all__ = ["LEASES", "end", "grant", "guard", "live_lease", "resource"]

derived("fence", "the epochs of leases")
event("lease.granted", "A lease was granted.", holder="the agent", epoch="its epoch")
event("lease.ended", "A lease ended.", state="how", reason="why")
event("lease.written", "A lease was changed.")

LEASES = Table(
    Lease,
    "lease",
    kind="lease",
    word="lease",
    look="lease inspect",
    errors=RecordErrors(
        LeaseNotFound, LeaseAmbiguous, RecordNameTaken, RecordIdTaken, LeaseChanged, LeaseCursorInvalid
    ),
    observed=("state", "ended_at", "reason"),
    volatile=("renewed_at",),
    order=("granted_at", "id"),
)
_ON_END: dict[str, Callable[[Transaction, Operation, Lease], None]] = {}


def resource(kind: str, on_end: Callable[[Transaction, Operation, Lease], None]) -> None:
    """Declare what is leased."""
    _ON_END[kind] = on_end


def grant(
    tx: Transaction,
    operation: Operation,
    *,
    kind: str,
    resource_id: str,
    project_id: str | None,
    holder: str,
    ttl_ms: int,
    on_lost: OnLost,
    pid: int | None = None,
    job_id: str | None = None,
    id: str | None = None,
) -> Lease:
    """Grant a lease."""
    row = tx.one("SELECT epoch FROM fence WHERE resource_kind = ? AND resource_id = ?", (kind, resource_id))
    if row is None:
        epoch = 1
        tx.execute("INSERT INTO fence (resource_kind, resource_id, epoch) VALUES (?, ?, 1)", (kind, resource_id))
    else:
        epoch = row[0] + 1
        tx.execute("UPDATE fence SET epoch = ? WHERE resource_kind = ? AND resource_id = ?", (epoch, kind, resource_id))
    values = {
        "id": id,
        "resource_kind": kind,
        "resource_id": resource_id,
        "project_id": project_id,
        "epoch": epoch,
        "holder": holder,
        "host": socket.gethostname(),
        "granted_at": tx.now,
        "ttl_ms": ttl_ms,
        "renewed_at": tx.now,
        "state": LeaseState.LIVE,
        "boot_id": "boot",
        "on_lost": on_lost,
        "pid": pid,
        "job_id": job_id,
    }
    return LEASES.insert(tx, operation, values, event="granted", detail={"holder": holder, "epoch": epoch})


def end(tx: Transaction, operation: Operation, lease: Lease, state: LeaseState, reason: str | None) -> Lease:
    """End a lease."""
    changes = {"state": state, "reason": reason, "ended_at": tx.now}
    ended = LEASES.update(tx, operation, lease, changes, event="ended", detail={"state": state, "reason": reason})
    if lease.resource_kind in _ON_END:
        _ON_END[lease.resource_kind](tx, operation, ended)
    return ended


def live_lease(reader: Reader, kind: str, resource_id: str) -> Lease | None:
    """The live lease of a resource."""
    row = reader.one(
        "SELECT id FROM lease WHERE resource_kind = ? AND resource_id = ? AND state = 'live'", (kind, resource_id)
    )
    return None if row is None else LEASES.by_id(reader, row[0])


def guard(tx: Transaction, ctx: Any, kind: str, resource_id: str, cannot: str) -> Lease | None:
    """Refuse a change of what another holds."""
    lease = live_lease(tx, kind, resource_id)
    given = getattr(ctx.request, "lease", None)
    if lease is None or (given is not None and (given.id, given.epoch) == (lease.id, lease.epoch)):
        return lease
    raise LeaseRequired(f"{cannot}: agent {lease.holder} holds it", details={"holder": lease.holder})
