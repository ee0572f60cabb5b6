"""Operations that a verb makes of several requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nexus.journal.commands import BeginOperation

__all__ = ["begin_operation"]


def begin_operation(call: Callable[[BeginOperation], Any], command: str, args: Mapping[str, str | int | bool]) -> int:
    """Begin an operation; returns its number, which further requests have as their cause."""
    number: int = call(BeginOperation(command, dict(args))).operation
    return number
