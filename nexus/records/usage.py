"""What was used of models: the capability that keeps that says so here, and the capability that counts it hears it.

Neither knows the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from nexus.journal.operation import Operation
from nexus.store import Transaction

__all__ = ["Usage", "on_usage", "used"]


class Usage(NamedTuple):
    """Tokens that were used once."""

    source: str
    """Names what told it, so that nothing counts twice: also where that is deleted and read again."""
    project_id: str
    conversation_id: str
    tokens: int
    at: int
    """When, in ms since 1970."""
    model: str | None
    imported: bool = False
    """Whether the file of another program tells it: the client that reads the file has not used it."""


Hears = Callable[[Transaction, Operation, Usage], None]

_HEARS: list[Hears] = []


def on_usage(hears: Hears) -> None:
    """Declare what happens with what was used."""
    _HEARS.append(hears)


def used(tx: Transaction, operation: Operation, usage: Usage) -> None:
    """Tell what was used, in the transaction of what tells it; nothing where that are no tokens."""
    if usage.tokens > 0:
        for hears in _HEARS:
            hears(tx, operation, usage)
