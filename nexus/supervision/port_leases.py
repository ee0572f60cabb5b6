"""Free ports for what is about to run: listened on by no process, leased to no record, declared by none."""

from __future__ import annotations

from collections.abc import Callable, Set

from nexus.runtime import ports
from nexus.store import Reader, StateStore
from nexus.supervision.store import LeaseOwner, leased_ports

__all__ = ["PortLeases"]

Declared = Callable[[Reader, LeaseOwner], set[int]]
"""Gives the fixed ports that records declare, but for those of one owner."""


class PortLeases:
    """The port leases of one daemon. A lease itself is written by ``supervision.store`` in the record's transaction."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._declared: list[Declared] = []

    def avoid_declared(self, declared: Declared) -> None:
        """Never choose a port that ``declared`` gives."""
        self._declared.append(declared)

    async def find_free(self, owner: LeaseOwner, preferred: int | None, avoid: Set[int] = frozenset()) -> int:
        """A port that ``owner`` may lease: ``preferred`` if that is free, else another one, and none of ``avoid``.

        Raises:
            ResourceExhausted: there is none.
        """

        def read(reader: Reader) -> set[int]:
            return leased_ports(reader, owner).union(*(declared(reader, owner) for declared in self._declared))

        return await ports.find_free_in_thread(self._store.read(read, snapshot=True) | avoid, preferred)
