"""The status of a node, and its transition table."""

from __future__ import annotations

from nexus_protocol.command import WireEnum

__all__ = ["TRANSITIONS", "NodeStatus"]


class NodeStatus(WireEnum):
    """Whether a node answers, as far as that is known: it is asked while it has jobs, and when it is checked."""

    ONLINE = "online"
    """It answered the last time."""
    OFFLINE = "offline"
    """It has not answered yet, or three times in a row not."""


TRANSITIONS: dict[NodeStatus, frozenset[NodeStatus]] = {
    NodeStatus.ONLINE: frozenset({NodeStatus.OFFLINE}),
    NodeStatus.OFFLINE: frozenset({NodeStatus.ONLINE}),
}
"""The statuses that may follow each one."""
