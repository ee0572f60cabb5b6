"""Events that only a test has: the registry of all events, of which COMMANDS.md is made, is without them afterwards."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

__all__ = ["declared"]


@contextlib.contextmanager
def declared(declare: Callable[[], object]) -> Iterator[None]:
    """Declare events until the end of the block."""
    registry = sys.modules["nexus_protocol.events"].__dict__["_EVENTS"]
    before = dict(registry)
    declare()
    try:
        yield
    finally:
        registry.clear()
        registry.update(before)
