"""The commands on metrics, and the kinds of their events."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from nexus_protocol.command import Command, Effect, command
from nexus_protocol.events import cause, event

from nexus.ledger.agents.errors import AgentAmbiguous, AgentNotFound
from nexus.ledger.metrics.errors import (
    MetricCursorInvalid,
    MetricInvalid,
    MetricSourceTaken,
    MetricTaskAmbiguous,
    MetricTaskNotFound,
)
from nexus.ledger.metrics.records import Metric, MetricPage, MetricSums
from nexus.ledger.metrics.states import MetricBucket, MetricGroup
from nexus.ledger.states import MetricType
from nexus.records.fields import Cursor, Metadata, PageLimit, Reference

__all__ = ["ListMetrics", "RecordMetric", "SumMetrics"]

event(
    "metric.recorded",
    "A client recorded a metric.",
    type="what it measures",
    value="the value",
    agent_id="the agent, if any",
    task_id="the task, if any",
)
event("metrics.deleted", "The metrics of a project were deleted with it.", metrics="how many")
cause("metrics.retention", "Metrics became older than the setting metrics.keep_days.")

Agent = Annotated[Reference, Meta(description="of this agent", extra={"completes": "agent", "metavar": "AGENT"})]
Task = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        description="of this task: its number or its id",
        extra={"metavar": "TASK"},
    ),
]
Since = Annotated[
    int, Meta(ge=0, le=2**53, description="only those of this time or later (ms)", extra={"option": "--since"})
]
Until = Annotated[int, Meta(ge=0, le=2**53, description="only those before it (ms)", extra={"option": "--until"})]
OfType = Annotated[MetricType, Meta(description="only those of this type")]


@command(
    0x0568,
    Effect.CHANGE,
    errors=(
        *(MetricInvalid, MetricSourceTaken, MetricTaskNotFound, MetricTaskAmbiguous, AgentNotFound, AgentAmbiguous),
    ),
)
class RecordMetric(Command[Metric]):
    """Record a value that was measured. Tokens are added to those that the agent has used.

    A metric of a task is of the project of the task. With a ``source`` a request can be repeated: the metric that was
    made from it is returned.
    """

    type: Annotated[MetricType, Meta(description="what it measures", extra={"metavar": "TYPE"})]
    value: Annotated[float, Meta(description="0 to 1e15; minutes of task_duration", extra={"metavar": "VALUE"})]
    agent: Agent | None = None
    task: Task | None = None
    metadata: Annotated[Metadata, Meta(extra={"option": None})] | None = None
    source: (
        Annotated[str, Meta(min_length=1, max_length=512, description="what it is made from, in any words")] | None
    ) = None
    timestamp: (
        Annotated[
            int,
            Meta(ge=0, le=2**53, description="when it was measured, in ms (default: now)", extra={"option": "--at"}),
        ]
        | None
    ) = None


@command(
    0x0569,
    Effect.READ,
    errors=(MetricCursorInvalid, MetricTaskAmbiguous, AgentAmbiguous),
    large_reply=True,
    all_projects=True,
)
class ListMetrics(Command[MetricPage]):
    """List metrics, newest first.

    A page ends at ``limit`` records or 1 MiB, whichever comes first; ``next_cursor`` is present when more follow. One
    without a metric may have one too.
    """

    type: OfType | None = None
    agent: Agent | None = None
    task: Task | None = None
    since_at: Since | None = None
    until_at: Until | None = None
    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(
    0x056A,
    Effect.READ,
    errors=(MetricTaskAmbiguous, AgentAmbiguous),
    large_reply=True,
    all_projects=True,
)
class SumMetrics(Command[MetricSums]):
    """Sum metrics: those of each type alone, and by what else is asked for.

    The sums are of the metrics that are kept: the setting ``metrics.keep_days``.
    """

    by: Annotated[MetricGroup, Meta(description="one sum for each")] = MetricGroup.TYPE
    bucket: Annotated[MetricBucket, Meta(description="one sum for each, in UTC", extra={"option": "--per"})] | None = (
        None
    )
    type: OfType | None = None
    agent: Agent | None = None
    task: Task | None = None
    since_at: Since | None = None
    until_at: Until | None = None
    limit: Annotated[PageLimit, Meta(description="the most sums, 1 to 10000")] = 1000
