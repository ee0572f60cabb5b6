"""Work in a project begins: the capability that begins it says so here, and that of projects hears it.

Neither knows the other.
"""

from __future__ import annotations

from collections.abc import Callable

from nexus.journal.operation import Operation
from nexus.store import Transaction

__all__ = ["begin", "on_begin"]

Begin = Callable[[Transaction, Operation, str], None]
"""Called in a transaction with the id of the project."""

_HEARS: list[Begin] = []


def on_begin(hears: Begin) -> None:
    """Declare what happens when work in a project begins."""
    _HEARS.append(hears)


def begin(tx: Transaction, operation: Operation, project_id: str) -> None:
    """Tell that work in a project begins. Of a project in which some has begun nothing changes."""
    for hears in _HEARS:
        hears(tx, operation, project_id)
