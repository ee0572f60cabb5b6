"""The records of metrics, and their sums."""

from __future__ import annotations

from typing import Any

from msgspec import field
from nexus_protocol.command import Record

from nexus.ledger.states import MetricType

__all__ = ["Metric", "MetricPage", "MetricSum", "MetricSums"]


class Metric(Record, kw_only=True):
    """A value that was measured. Metrics are added and never changed. Optional fields are present only if set."""

    id: str
    project_id: str
    project: str
    """The name of the project."""
    agent_id: str | None = None
    task_id: str | None = None
    type: MetricType
    value: float
    metadata: dict[str, Any] = field(default_factory=dict)
    source: str | None = None
    """What it was made from, where that may be read again: no two metrics have the same."""
    timestamp: int
    """When it was measured (ms)."""


class MetricPage(Record):
    """One page of metrics, newest first, and the cursor of the next page."""

    metrics: list[Metric]
    next_cursor: str | None = None


class MetricSum(Record, kw_only=True):
    """The sum of the metrics of one type that have something in common."""

    type: MetricType
    agent_id: str | None = None
    """Of sums by agent; absent in the sum of metrics without one."""
    agent: str | None = None
    """The name of the agent, if it is there still."""
    task_id: str | None = None
    """Of sums by task; absent in the sum of metrics without one."""
    task: int | None = None
    """The number of the task, if it is there still."""
    begins_at: int | None = None
    """Of sums by time: where the hour, day or week begins (ms)."""
    count: int
    sum: float
    lowest: float
    highest: float


class MetricSums(Record):
    """Sums by time, then by type, and whether there are more than were asked for."""

    sums: list[MetricSum]
    more: bool = False
