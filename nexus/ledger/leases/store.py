"""All SQL of leases and fences that ``records.Table`` does not have, and what holders and resources ask of them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import msgspec
from nexus_protocol.context import HeldLease

from nexus.caller import Caller
from nexus.hints import command_line
from nexus.journal.operation import Operation
from nexus.journal.rows import derived
from nexus.ledger.agents.store import touch
from nexus.ledger.leases.errors import (
    LeaseAmbiguous,
    LeaseChanged,
    LeaseCursorInvalid,
    LeaseIdTaken,
    LeaseNameTaken,
    LeaseTaken,
)
from nexus.ledger.leases.records import Lease
from nexus.ledger.names_store import names_of
from nexus.ledger.states import LeaseState, OnLost
from nexus.records.errors import LeaseNotFound, LeaseRequired, LeaseStale, RecordErrors
from nexus.records.leases import on_accepted
from nexus.records.table import Table
from nexus.store import FenceMark, Reader, Transaction
from nexus.supervision.store import this_boot

__all__ = [
    "LEASES",
    "end",
    "expect_live",
    "fence",
    "grant",
    "guard",
    "live_lease",
    "live_leases",
    "prune",
    "put_back",
    "raise_fence",
    "with_names",
    "resource",
]

LEASES = Table(
    Lease,
    "lease",
    kind="lease",
    word="lease",
    look="lease inspect",
    errors=RecordErrors(LeaseNotFound, LeaseAmbiguous, LeaseNameTaken, LeaseIdTaken, LeaseChanged, LeaseCursorInvalid),
    observed=("state", "ended_at", "reason"),
    volatile=("renewed_at", "pid_start"),
    order=("granted_at", "id"),
    indexed=("state", "holder"),
    told=("resource_kind", "resource_id", "epoch", "holder"),
    called="id",
    computed=("names",),
)
derived("fence", "the column epoch of the leases: the highest that a resource had")

OnEnd = Callable[[Transaction, Operation, Lease], None]
Tells = Callable[[Reader, Lease], dict[str, Any]]
_RESOURCES: dict[str, tuple[OnEnd, Tells]] = {}


def resource(kind: str, on_end: OnEnd, tells: Tells = lambda _reader, _lease: {}) -> None:
    """Have ``on_end`` called in the transaction that ends a lease of this kind of resource, with the lease as it is.

    ``tells`` gives, before that, further fields of the event.
    """
    _RESOURCES[kind] = (on_end, tells)


def live_lease(reader: Reader, kind: str, resource_id: str) -> Lease | None:
    """The live lease on a resource; there is one at most."""
    row = reader.one(
        f"{LEASES.select} WHERE lease.resource_kind = ? AND lease.resource_id = ? AND lease.state = 'live'",
        (kind, resource_id),
    )
    return None if row is None else LEASES.decode(row)


def with_names(reader: Reader, found: list[Lease]) -> list[Lease]:
    """Leases with the names of what they are on, and of their holders."""
    names = names_of(reader, None, {"agent": [lease.holder for lease in found]})
    for project_id in {lease.project_id for lease in found}:
        tasks = [each.resource_id for each in found if (each.project_id, each.resource_kind) == (project_id, "task")]
        names |= names_of(reader, project_id, {"task": tasks})
    return [
        msgspec.structs.replace(
            lease, names={id_: names[id_] for id_ in (lease.resource_id, lease.holder) if id_ in names}
        )
        for lease in found
    ]


def live_leases(reader: Reader) -> list[Lease]:
    """Every live lease."""
    return [LEASES.decode(row) for row in reader.all(f"{LEASES.select} WHERE lease.state = 'live'")]


def _note_work(tx: Transaction, operation: Operation, held: HeldLease) -> None:
    """A change is accepted under a lease: its holder works."""
    lease = LEASES.by_id(tx, held.id)
    if lease is not None:
        touch(tx, lease.holder, operation)


on_accepted(_note_work)


def fence(reader: Reader, kind: str, resource_id: str) -> int:
    """The highest epoch that a resource had, as the database knows; 0 without one."""
    row = reader.one("SELECT epoch FROM fence WHERE resource_kind = ? AND resource_id = ?", (kind, resource_id))
    return 0 if row is None else int(row[0])


def raise_fence(tx: Transaction, kind: str, resource_id: str, epoch: int) -> None:
    """Make an epoch the highest of a resource, if it is higher than the present one."""
    tx.execute(
        "INSERT INTO fence (resource_kind, resource_id, epoch) VALUES (?, ?, ?) "
        "ON CONFLICT (resource_kind, resource_id) DO UPDATE SET epoch = excluded.epoch "
        "WHERE excluded.epoch > fence.epoch",
        (kind, resource_id, epoch),
    )


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
    """Grant a lease on a resource that has none, with the next epoch of it.

    Raises:
        LeaseTaken: one is live on it.
        LeaseIdTaken: another lease has the ``id``.
    """
    cannot = f"cannot grant a lease on {kind} {resource_id}"
    present = live_lease(tx, kind, resource_id)
    if present is not None:
        raise LeaseTaken(
            f"{cannot}: {_holder(tx, present)} has it under lease {present.id}",
            hint=f"Look at it: {command_line('nexusctl', 'lease', 'inspect', present.id)}",
            details={"lease": present.id, "epoch": present.epoch, "holder": present.holder},
        )
    if id is not None and LEASES.by_id(tx, id) is not None:
        raise LeaseIdTaken(f"{cannot}: a lease has the id {id}", details={"id": id})
    mark = tx.fence_mark(kind, resource_id)
    epoch = max(fence(tx, kind, resource_id), mark.dead, mark.granted) + 1
    raise_fence(tx, kind, resource_id, epoch)
    lease = LEASES.insert(
        tx,
        operation,
        {
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
            "boot_id": this_boot(),
            "on_lost": on_lost,
            "pid": pid,
            "job_id": job_id,
        },
        event="granted",
    )
    tx.mark_fence(FenceMark(kind, resource_id, epoch - 1, epoch))
    return lease


def end(tx: Transaction, operation: Operation, lease: Lease, state: LeaseState, reason: str | None) -> Lease:
    """End a live lease, and tell what it was on; a revoked one raises the fence as well. Returns it as it is then."""
    operation.enter(tx, lease.project_id)  # while the lease lives: the request may be its holder's
    told = {name: getattr(lease, name) for name in LEASES.told} | {"reason": reason}
    on_end, tells = _RESOURCES.get(lease.resource_kind, (None, None))
    if tells is not None:
        told |= tells(tx, lease)
    ended = LEASES.write(
        tx,
        operation,
        lease.id,
        {"state": state, "ended_at": tx.now, "reason": reason},
        [(f"lease.{state.value}", told)],
    )
    assert ended is not None
    highest = lease.epoch
    if state is LeaseState.REVOKED:
        highest = max(fence(tx, lease.resource_kind, lease.resource_id), lease.epoch) + 1
        raise_fence(tx, lease.resource_kind, lease.resource_id, highest)
    tx.mark_fence(FenceMark(lease.resource_kind, lease.resource_id, lease.epoch, highest))
    if on_end is not None:
        on_end(tx, operation, ended)
    return ended


def _holder(reader: Reader, lease: Lease) -> str:
    row = reader.one("SELECT name FROM agents WHERE id = ?", (lease.holder,))
    return lease.holder if row is None else f'agent "{row[0]}"'


def guard(tx: Transaction, ctx: Any, kind: str, resource_id: str, cannot: str) -> Lease | None:
    """Refuse what only the holder of a resource may do, where another holds it; returns the live lease.

    ``ctx`` is the context of the request, ``cannot`` begins the sentence of the error.

    Raises:
        LeaseRequired: a lease is live on the resource, and the request is not made under it.
    """
    lease = live_lease(tx, kind, resource_id)
    if lease is None:
        return None
    held = ctx.request.lease
    if held is not None and (held.id, held.epoch) == (lease.id, lease.epoch):
        return lease
    raise LeaseRequired(
        f"{cannot}: {_holder(tx, lease)} holds it under lease {lease.id}",
        hint="Its holder gives the lease with each request, in NEXUS_LEASE or by --lease.\n"
        f"To take it away: {command_line('nexusctl', 'lease', 'revoke', lease.id)}",
        details={"lease": lease.id, "epoch": lease.epoch, "holder": lease.holder, "resource_kind": kind},
    )


def expect_live(lease: Lease, cannot: str) -> None:
    """Refuse a change of a lease that has ended.

    Raises:
        LeaseStale: it has.
    """
    if lease.state is not LeaseState.LIVE:
        because = f": {lease.reason}" if lease.reason else ""
        raise LeaseStale(
            f"{cannot}: it is {lease.state.value}{because}",
            details={"lease": lease.id, "epoch": lease.epoch, "state": lease.state.value},
        )


def put_back(tx: Transaction, caller: Caller, cause: str) -> list[str]:
    """Make an older database, which was put in the place of a newer one, agree with the high water of its fences.

    Every live lease whose epoch is over there is revoked, and no fence stays below it. Returns the ids of the leases.
    """
    revoked = []
    for lease in live_leases(tx):
        if lease.epoch <= tx.fence_mark(lease.resource_kind, lease.resource_id).dead:
            end(tx, Operation(caller, cause), lease, LeaseState.REVOKED, "an older database was put back")
            revoked.append(lease.id)
    for mark in tx.fence_marks():
        highest = max(mark.dead, mark.granted)
        if fence(tx, mark.kind, mark.id) < highest:
            raise_fence(tx, mark.kind, mark.id, highest)
    return revoked


def prune(tx: Transaction, operation: Operation, before_at: int, limit: int) -> int:
    """Delete at most ``limit`` leases that ended before a time, and not their fences; returns how many there were."""
    deleted = 0
    for state in LeaseState:
        if state is LeaseState.LIVE:
            continue
        rows = tx.all(
            f"{LEASES.select} WHERE lease.state = ? AND lease.granted_at < ? AND lease.ended_at < ? "
            "ORDER BY lease.granted_at, lease.id LIMIT ?",
            (state.value, before_at, before_at, limit - deleted),
        )
        for lease in map(LEASES.decode, rows):
            LEASES.delete(tx, operation, lease, LEASES.told)
        deleted += len(rows)
    return deleted
