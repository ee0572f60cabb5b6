"""The commands that read the plan of a project as a whole, and that add a part of one."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field
from nexus_protocol.command import Command, Effect, command

from nexus.ledger.files.errors import PlanCursorInvalid, PlanIdTaken, PlanInvalid
from nexus.ledger.files.records import (
    PlanAgent,
    PlanComment,
    PlanFeature,
    PlanMetric,
    PlanNote,
    PlanPage,
    PlanRequirement,
    PlanSession,
    PlanSubFeature,
    PlanTask,
    PlanWritten,
)
from nexus.records.errors import ProjectNotFound
from nexus.records.fields import Cursor

__all__ = ["PART_BYTES", "PART_RECORDS", "PLAN_BYTES", "ReadPlan", "WritePlan"]

PART_RECORDS = 500
"""The most records of one request."""
PART_BYTES = 2 * 1024 * 1024
"""What a client puts at most into one request, unless one record alone is larger."""
PLAN_BYTES = 4 * 1024 * 1024
_SOME = Meta(max_length=PART_RECORDS)


@command(0x0578, Effect.READ, errors=(ProjectNotFound, PlanCursorInvalid), large_reply=True)
class ReadPlan(Command[PlanPage]):
    """Read the plan of a project, kind by kind: what a file of it holds.

    A page ends at ``limit`` records or 1 MiB, whichever comes first; ``next_cursor`` is present when more follow.
    """

    figures: Annotated[bool, Meta(description="sessions and metrics too")] = False
    limit: Annotated[int, Meta(ge=1, le=2000, description="records in a page, 1 to 2000")] = 1000
    cursor: Cursor | None = None


@command(0x0579, Effect.CHANGE, errors=(ProjectNotFound, PlanIdTaken, PlanInvalid), max_payload=PLAN_BYTES)
class WritePlan(Command[PlanWritten]):
    """Add records to the plan of a project, with the ids that they have; all or none.

    A record whose id is in the project already stays as it is, so that the request can be repeated. A record keeps its
    number where no other has it. A task that was in progress is queued: a lease is no part of a plan. A record refers
    to others of the request, or to what is there.
    """

    agents: Annotated[list[PlanAgent], _SOME] = field(default_factory=list)
    features: Annotated[list[PlanFeature], _SOME] = field(default_factory=list)
    sub_features: Annotated[list[PlanSubFeature], _SOME] = field(default_factory=list)
    tasks: Annotated[list[PlanTask], _SOME] = field(default_factory=list)
    notes: Annotated[list[PlanNote], _SOME] = field(default_factory=list)
    comments: Annotated[list[PlanComment], _SOME] = field(default_factory=list)
    requirements: Annotated[list[PlanRequirement], _SOME] = field(default_factory=list)
    sessions: Annotated[list[PlanSession], _SOME] = field(default_factory=list)
    metrics: Annotated[list[PlanMetric], _SOME] = field(default_factory=list)
    numbers: Annotated[
        dict[str, Annotated[int, Meta(ge=0, le=1_000_000_000)]],
        Meta(max_length=20, description="by kind, a number after which the next one is given"),
    ] = field(default_factory=dict)

    def records(self) -> dict[str, list[Any]]:
        """The records by kind."""
        from nexus.ledger.files.records import PLAN_KINDS

        return {kind: getattr(self, kind) for kind in PLAN_KINDS}
