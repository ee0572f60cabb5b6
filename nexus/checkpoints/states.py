"""The enums of checkpoints."""

from __future__ import annotations

from nexus_protocol.command import WireEnum

__all__ = ["Difference"]


class Difference(WireEnum):
    """What became of a row from one state to another."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"
