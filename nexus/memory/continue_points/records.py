"""The records of continue points."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field
from nexus_protocol.command import Record

from nexus.ledger.states import TaskStatus
from nexus.records.fields import Reference

__all__ = ["ContinuePoint", "ContinuePointPage", "ContinuePointReference", "ResumePoint"]

ContinuePointReference = Annotated[
    Reference,
    Meta(
        description="the number of the continue point in its project, as 12 or #12, else its id or a unique prefix of "
        "it; PROJECT/12 is that in another project",
        extra={"completes": "continue-point", "metavar": "CONTINUE_POINT"},
    ),
]


class ContinuePoint(Record, kw_only=True):
    """Where the work on a task was at a time. It is never changed: the next one takes its place.

    Optional fields are present only if they are set.
    """

    id: str
    number: int
    """It identifies the continue point in its project, and is given once. A later one has a higher number."""
    project_id: str
    project: str
    """The name of its project."""
    task_id: str
    task_number: int | None = None
    """The number of its task."""
    last_action: str
    """What was done last."""
    file: str | None = None
    line: int | None = None
    function_name: str | None = None
    next_steps: list[str] = field(default_factory=list)
    agent_id: str | None = None
    """The id of the agent that had the task."""
    agent: str | None = None
    """The name of that agent, where it is still there."""
    iteration_count: int = 0
    """How often the task had been rejected."""
    saved_at: int
    created_at: int
    updated_at: int
    revision: int
    """Stays 1: it is never changed."""
    state_revision: int
    """Stays 0: it has no state."""

    @property
    def name(self) -> str:
        """How sentences and references name it: by its number."""
        return str(self.number)


class ContinuePointPage(Record):
    """One page of continue points, newest first, and the cursor of the next page."""

    continue_points: list[ContinuePoint]
    next_cursor: str | None = None


class ResumePoint(Record, kw_only=True):
    """What is to be known to go on with a task."""

    task_id: str
    number: int
    """The number of the task."""
    project_id: str
    project: str
    name: str
    """What is to be done."""
    status: TaskStatus
    agent: str | None = None
    """The name of the agent that works on it, or did last."""
    worktree_path: str | None = None
    branch_name: str | None = None
    continue_point: ContinuePoint | None = None
    """The newest one of the task."""
    checkpoint: dict[str, Any] | None = None
    """The newest checkpoint of its project, with its ``number``."""

    @property
    def id(self) -> str:
        """That of the task."""
        return self.task_id
