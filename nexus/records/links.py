"""Which records refer to records of another kind: what a reference means, and how they are unlinked when those go.

Neither capability knows the other. Rows refer by foreign keys without an action, so whatever deletes a record unlinks
it first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from nexus.journal.operation import Operation
from nexus.records.errors import RecordNotFound
from nexus.records.scope import Scope
from nexus.store import Reader, Transaction

__all__ = ["Link", "Target", "link", "linked", "target", "unlink", "unlinked"]


class Target(NamedTuple):
    """Records of the kind ``kind``, to which others refer."""

    kind: str
    resolve: Callable[[Reader, str, Scope], dict[str, str]]
    """By kind, the id of the record with a reference, and of those that it belongs to. A record that is not there, or
    several that are meant, are errors of its capability."""


class Link(NamedTuple):
    """Records that refer to records of the kind ``to``."""

    to: str
    unlink: Callable[[Transaction, Operation, str, int], int]
    """Unset the references of at most a number of records to the one with this id; returns how many there were."""


_ALL = 2**31
_LINKS: list[Link] = []
_TARGETS: dict[str, Target] = {}


def target(of: Target) -> None:
    """Declare that records of a kind can be referred to."""
    _TARGETS[of.kind] = of


def linked(reader: Reader, kind: str, reference: str, scope: Scope) -> dict[str, str]:
    """By kind, the id of the record of this kind with a reference, and of those that it belongs to.

    Raises:
        RecordNotFound, RecordAmbiguous: the reference names no single record.
    """
    if kind not in _TARGETS:
        raise RecordNotFound(f'{kind} "{reference}" not found')
    return _TARGETS[kind].resolve(reader, reference, scope)


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


def unlinked(tx: Transaction, operation: Operation, kind: str, id_: str) -> int:
    """Unset all references to a record in one transaction, where it has few; returns how many there were."""
    return sum(each.unlink(tx, operation, id_, _ALL) for each in _LINKS if each.to == kind)
