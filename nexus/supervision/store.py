"""The SQL of port leases, against a transaction or a reader of the store.

A lease makes a TCP port of the loopback belong to one record and purpose, so that no other record gets it.
"""

from __future__ import annotations

from typing import NamedTuple

from nexus.journal.rows import derived
from nexus.store import Reader, StoreConflict, Transaction
from nexus.supervision.boot import this_boot

__all__ = ["LeaseOwner", "lease", "lease_of_port", "leased_ports", "release", "release_all", "this_boot"]


derived("port_lease", "the columns of its owners that hold their ports, such as service.active_port")


class LeaseOwner(NamedTuple):
    """Who has a port, and for what; it has one port at most."""

    kind: str
    """Of the record: service, dependency."""
    id: str
    purpose: str
    """run: of the present run; tunnel: kept from run to run."""


def leased_ports(reader: Reader, owner: LeaseOwner) -> set[int]:
    """Every leased port but the one of ``owner``."""
    rows = reader.all(
        "SELECT port FROM port_lease WHERE NOT (owner_kind = ? AND owner = ? AND purpose = ?)", tuple(owner)
    )
    return {row[0] for row in rows}


def lease_of_port(reader: Reader, port: int) -> LeaseOwner | None:
    """Who has this port."""
    row = reader.one("SELECT owner_kind, owner, purpose FROM port_lease WHERE port = ?", (port,))
    return None if row is None else LeaseOwner(*row)


def lease(tx: Transaction, owner: LeaseOwner, port: int) -> None:
    """Lease a port in place of the one that ``owner`` has.

    Raises:
        StoreConflict: another one has it.
    """
    holder = lease_of_port(tx, port)
    if holder == owner:
        return
    if holder is not None:
        raise StoreConflict(f"cannot lease port {port}: {holder.kind} {holder.id} has it for its {holder.purpose}")
    release(tx, owner)
    tx.execute(
        "INSERT INTO port_lease (port, owner_kind, owner, purpose, leased_at) VALUES (?, ?, ?, ?, ?)",
        (port, *owner, tx.now),
    )


def release(tx: Transaction, owner: LeaseOwner) -> None:
    """End the lease of ``owner``, if it has one."""
    tx.execute("DELETE FROM port_lease WHERE owner_kind = ? AND owner = ? AND purpose = ?", tuple(owner))


def release_all(tx: Transaction, kind: str, owner: str) -> None:
    """End every lease of a record that is deleted."""
    tx.execute("DELETE FROM port_lease WHERE owner_kind = ? AND owner = ?", (kind, owner))
