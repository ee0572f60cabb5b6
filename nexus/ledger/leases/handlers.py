"""The handlers of the commands on leases."""

from __future__ import annotations

from typing import Any

from nexus.capability import Context, handles
from nexus.ledger.agents.store import touch
from nexus.ledger.leases.commands import GetLease, ListLeases, ReleaseLease, RenewLease, RevokeLease
from nexus.ledger.leases.errors import LeaseInvalid
from nexus.ledger.leases.peers import require_person
from nexus.ledger.leases.records import Lease
from nexus.ledger.leases.store import LEASES, end, expect_live, with_names
from nexus.ledger.manager import LedgerManager
from nexus.ledger.states import LeaseState
from nexus.records.handlers import lists
from nexus.records.links import linked
from nexus.runtime.procfs import process_exists
from nexus.store import Transaction

__all__ = ["get_lease", "list_leases", "release_lease", "renew_lease", "revoke_lease"]

list_leases = lists(LEASES, ListLeases, "leases", complete=with_names)


@handles(GetLease)
async def get_lease(ctx: Context, command: GetLease) -> Lease:
    (lease,) = await ctx.store.fetch(
        lambda reader: with_names(reader, [LEASES.resolve(reader, command.lease, ctx.scope(reader))])
    )
    return lease


def _renewed(ctx: Context, lease: Lease) -> None:
    ctx.daemon.manager(LedgerManager).renewed(lease)


@handles(RenewLease, after=_renewed)
def renew_lease(tx: Transaction, ctx: Context, command: RenewLease) -> Lease:
    lease = LEASES.resolve(tx, command.lease, ctx.scope(tx))
    cannot = f"cannot renew lease {lease.id}"
    expect_live(lease, cannot)
    LEASES.expect(lease, cannot, command.if_revision)
    changes: dict[str, Any] = {"renewed_at": tx.now}
    if command.ttl_ms is not None:
        changes["ttl_ms"] = command.ttl_ms
    if command.pid is not None:
        if not process_exists(command.pid):
            raise LeaseInvalid(f"{cannot}: there is no process {command.pid}", details={"path": "pid"})
        changes |= {"pid": command.pid, "pid_start": None}
    if command.job is not None:
        changes["job_id"] = linked(tx, "job", command.job, ctx.scope(tx))["job"]
    touch(tx, lease.holder)
    return LEASES.update(tx, ctx.operation, lease, changes)


@handles(ReleaseLease)
def release_lease(tx: Transaction, ctx: Context, command: ReleaseLease) -> Lease:
    return _end(tx, ctx, command, "release", LeaseState.RELEASED, None)


@handles(RevokeLease)
def revoke_lease(tx: Transaction, ctx: Context, command: RevokeLease) -> Lease:
    return _end(tx, ctx, command, "revoke", LeaseState.REVOKED, command.reason or "taken away on demand")


def _end(
    tx: Transaction, ctx: Context, command: ReleaseLease | RevokeLease, verb: str, state: LeaseState, reason: str | None
) -> Lease:
    lease = LEASES.resolve(tx, command.lease, ctx.scope(tx))
    if lease.state is state:
        return lease
    cannot = f"cannot {verb} lease {lease.id}"
    expect_live(lease, cannot)
    LEASES.expect(lease, cannot, None, command.if_state_revision)
    held = ctx.request.lease
    if state is LeaseState.REVOKED or held is None or held.id != lease.id:
        require_person(ctx.caller.pid, cannot)
    return end(tx, ctx.operation, lease, state, reason)
