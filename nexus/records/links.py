"""Which records refer to records of another kind: each capability says how its own are unlinked when those go.

Neither capability knows the other. Rows refer by foreign keys without an action, so whatever deletes a record unlinks
it first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from nexus.journal.operation import Operation
from nexus.store import Transaction

__all__ = ["Link", "link", "unlink"]


class Link(NamedTuple):
    """Records that refer to records of the kind ``to``."""

    to: str
    unlink: Callable[[Transaction, Operation, str, int], int]
    """Unset the references of at most a number of records to the one with this id; returns how many there were."""


_LINKS: list[Link] = []


def link(of: Link) -> None:
    """Declare that records refer to records of a kind."""
    _LINKS.append(of)


def unlink(tx: Transaction, operation: Operation, kind: str, id_: str, limit: int) -> bool:
    """Unset the references of at most ``limit`` records to a record; returns whether none is left."""
    left = limit
    for each in _LINKS:
        if each.to == kind:
            left -= each.unlink(tx, operation, id_, left)
            if left <= 0:
                return False
    return True
