"""How metrics are grouped in sums."""

from __future__ import annotations

from nexus_protocol.command import WireEnum

__all__ = ["MetricBucket", "MetricGroup"]


class MetricGroup(WireEnum):
    """What metrics have in common in one sum, beside their type: those of different types are never added."""

    TYPE = "type"
    AGENT = "agent"
    TASK = "task"


class MetricBucket(WireEnum):
    """The stretch of time of one sum, in UTC. A week begins on Monday."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
