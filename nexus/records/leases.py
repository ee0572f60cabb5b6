"""The check of the lease that a request presents: one that is not live changes nothing, whatever it is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nexus_protocol.context import HeldLease

from nexus.hints import command_line
from nexus.records.errors import LeaseStale
from nexus.store import Reader, Transaction

__all__ = ["accepted", "check_lease", "on_accepted"]

Hears = Callable[[Transaction, Any, HeldLease], None]
_HEARS: list[Hears] = []


def on_accepted(hears: Hears) -> None:
    """Declare what happens in the transaction of the first change of each operation that is made under a live lease."""
    _HEARS.append(hears)


def accepted(tx: Transaction, operation: Any, lease: HeldLease) -> None:
    """Tell that an operation under a live lease changes something."""
    for hears in _HEARS:
        hears(tx, operation, lease)


def check_lease(reader: Reader, lease: HeldLease) -> None:
    """Refuse a request whose lease is not live; in a change it is asked in the transaction of the change.

    Raises:
        LeaseStale: there is no such lease, it has ended, or it has another epoch.
    """
    row = reader.one(
        "SELECT lease.epoch, lease.state, lease.reason, lease.resource_kind, lease.resource_id, fence.epoch "
        "FROM lease LEFT JOIN fence ON fence.resource_kind = lease.resource_kind "
        "AND fence.resource_id = lease.resource_id WHERE lease.id = ?",
        (lease.id,),
    )
    if row is None:
        raise LeaseStale(
            f"cannot carry out the request: there is no lease {lease.id}",
            hint=f"See what is held: {command_line('nexusctl', 'lease', 'list', '--state', 'live')}",
            details={"lease": lease.id, "epoch": lease.epoch},
        )
    epoch, state, reason, kind, resource_id, current = row
    if (epoch, state) == (lease.epoch, "live"):
        return
    because = f"it is {state}" + (f": {reason}" if reason else "") if state != "live" else f"its epoch is {epoch}"
    raise LeaseStale(
        f"cannot carry out the request under epoch {lease.epoch} of lease {lease.id}: {because}",
        hint="Stop the work that was done under it: nothing of it is written any more.\n"
        "For other work, unset NEXUS_LEASE, or claim a task in a shell without it.\n"
        f"See what became of it: {command_line('nexusctl', 'lease', 'inspect', lease.id)}",
        details={
            "lease": lease.id,
            "epoch": lease.epoch,
            "state": state,
            "current_epoch": epoch if current is None else current,
            "resource_kind": kind,
            "resource_id": resource_id,
        },
    )
