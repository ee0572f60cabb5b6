"""The domain errors of the search of memory."""

from __future__ import annotations

from nexus_protocol.errors import DeadlineExceeded

__all__ = ["MemorySearchTimedOut"]


class MemorySearchTimedOut(DeadlineExceeded):
    """The search for the text took longer than two seconds."""

    type = "memory.timed_out"
