"""Operations for tests that write without a request."""

from __future__ import annotations

from nexus.caller import Caller
from nexus.journal.operation import Operation

__all__ = ["TESTER", "an_operation"]

TESTER = Caller(1000, 42, "agent")


def an_operation(command: str = "Test") -> Operation:
    """A new operation of ``TESTER``."""
    return Operation(TESTER, command)
