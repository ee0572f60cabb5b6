"""The records of a plan in the form that files keep: what a person or an agent gave, and no counter of the daemon."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field
from nexus_protocol.command import UNRECORDED, Record

from nexus.ledger.states import (
    AgentType,
    Complexity,
    FeatureStatus,
    MetricType,
    ModelProvider,
    MoscowPriority,
    RequirementCategory,
    RequirementPriority,
    SessionStatus,
    SessionType,
    TaskKind,
    TaskReason,
    TaskSize,
    TaskStatus,
    TaskType,
)
from nexus.records.fields import UUID_PATTERN, Name, Tags

__all__ = [
    "PLAN_KINDS",
    "PlanAgent",
    "PlanComment",
    "PlanFeature",
    "PlanMetric",
    "PlanNote",
    "PlanPage",
    "PlanRequirement",
    "PlanSession",
    "PlanSubFeature",
    "PlanTask",
    "PlanWritten",
]

_LINE = r"^[^\x00-\x1f\x7f]*$(?!\n)"
_TEXT = r"^[^\x00]*$"
Id = Annotated[str, Meta(pattern=UUID_PATTERN)]
Number = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Time = Annotated[int, Meta(ge=0, le=2**53)]
Title = Annotated[str, Meta(min_length=1, max_length=200, pattern=_LINE)]
Long = Annotated[str, Meta(max_length=65_536, pattern=_TEXT)]
Text = Annotated[str, Meta(min_length=1, max_length=16_384, pattern=_TEXT)]
Item = Annotated[str, Meta(min_length=1, max_length=4096, pattern=_TEXT)]
Items = Annotated[list[Item], Meta(max_length=100)]
Path = Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^/[^\x00]*$")]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
Who = Annotated[str, Meta(min_length=1, max_length=255, pattern=_LINE)]
"""The name of an agent, or the id of one that is there no more."""


class PlanAgent(Record, kw_only=True):
    """An agent that the plan refers to, by its name."""

    name: Name
    type: AgentType = AgentType.CODER
    model_provider: ModelProvider = ModelProvider.ANTHROPIC
    model_name: Annotated[str, Meta(min_length=1, max_length=200, pattern=_LINE)] = "claude-sonnet-4"


class PlanFeature(Record, kw_only=True):
    """A feature."""

    id: Id
    number: Number | None = None
    name: Title
    description: Annotated[str, Meta(max_length=32_768)] | None = None
    priority: MoscowPriority = MoscowPriority.SHOULD
    status: FeatureStatus = FeatureStatus.BACKLOG
    complexity: Complexity = Complexity.SIMPLE
    tags: Tags = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    estimated_tasks: Count = 0
    created_at: Time | None = None
    updated_at: Time | None = None


class PlanSubFeature(Record, kw_only=True):
    """A part of a feature."""

    id: Id
    number: Number | None = None
    feature_id: Id
    name: Title
    description: Annotated[str, Meta(max_length=32_768)] | None = None
    status: FeatureStatus = FeatureStatus.BACKLOG
    created_at: Time | None = None
    updated_at: Time | None = None


class PlanTask(Record, kw_only=True):
    """A task."""

    id: Id
    number: Number | None = None
    feature_id: Id | None = None
    sub_feature_id: Id | None = None
    name: Title
    description: Long | None = None
    type: TaskType = TaskType.AUTO
    kind: TaskKind = TaskKind.FEATURE
    status: TaskStatus = TaskStatus.PENDING
    size: TaskSize = TaskSize.SMALL
    priority: Annotated[int, Meta(ge=1, le=1000)] = 5
    tags: Tags = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    assigned_agent: Who | None = None
    worktree_path: Path | None = None
    branch_name: Annotated[str, Meta(min_length=1, max_length=255, pattern=_LINE)] | None = None
    depends_on: Annotated[list[Id], Meta(max_length=10_000)] = field(default_factory=list)
    blocked_by: Id | None = None
    reason: Annotated[str, Meta(min_length=1, max_length=8192, pattern=_TEXT)] | None = None
    reason_code: TaskReason | None = None
    qa_iterations: Count = 0
    max_iterations: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    estimated_minutes: Count = 15
    actual_minutes: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    claimed_at: Time | None = None
    started_at: Time | None = None
    completed_at: Time | None = None
    created_at: Time | None = None
    updated_at: Time | None = None


class PlanNote(Record, kw_only=True):
    """A note on a task."""

    id: Id
    task_id: Id
    kind: Annotated[str, Meta(min_length=1, max_length=32, pattern=r"^[a-z][a-z0-9_-]*$(?!\n)")] = "note"
    text: Text
    at: Time | None = None
    agent: Who | None = None
    actor: Who | None = None


class PlanComment(Record, kw_only=True):
    """A comment on a task."""

    id: Id
    task_id: Id
    text: Text
    at: Time | None = None
    agent: Who | None = None
    actor: Who | None = None


class PlanRequirement(Record, kw_only=True):
    """A requirement."""

    id: Id
    number: Number | None = None
    category: RequirementCategory
    description: Annotated[str, Meta(min_length=1, max_length=32_768, pattern=_TEXT)]
    priority: RequirementPriority = RequirementPriority.MEDIUM
    source: Annotated[str, Meta(max_length=1000, pattern=_LINE)] | None = None
    user_stories: Items = field(default_factory=list)
    acceptance_criteria: Items = field(default_factory=list)
    linked_features: Annotated[list[Id], Meta(max_length=10_000)] = field(default_factory=list)
    validated: bool = False
    confidence: Annotated[float, Meta(ge=0, le=1)] = 1.0
    tags: Tags = field(default_factory=list)
    created_at: Time | None = None
    updated_at: Time | None = None


class PlanSession(Record, kw_only=True):
    """A session."""

    id: Id
    number: Number | None = None
    type: SessionType
    status: SessionStatus = SessionStatus.ACTIVE
    title: Title | None = None
    data: Annotated[dict[str, Any], UNRECORDED] = field(default_factory=dict)
    started_at: Time | None = None
    ended_at: Time | None = None
    created_at: Time | None = None
    updated_at: Time | None = None


class PlanMetric(Record, kw_only=True):
    """A value that was measured."""

    id: Id
    agent: Who | None = None
    task_id: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    type: MetricType
    value: Annotated[float, Meta(ge=0)]
    metadata: dict[str, Any] = field(default_factory=dict)
    source: Annotated[str, Meta(min_length=1, max_length=1000)] | None = None
    timestamp: Time


PLAN_KINDS: dict[str, type[Any]] = {
    "agents": PlanAgent,
    "features": PlanFeature,
    "sub_features": PlanSubFeature,
    "tasks": PlanTask,
    "notes": PlanNote,
    "comments": PlanComment,
    "requirements": PlanRequirement,
    "sessions": PlanSession,
    "metrics": PlanMetric,
}
"""By the field of a page or a part, in an order in which each refers to earlier ones alone."""


class PlanPage(Record, kw_only=True):
    """Some records of a plan, and the cursor of the next page."""

    agents: list[PlanAgent] = field(default_factory=list)
    features: list[PlanFeature] = field(default_factory=list)
    sub_features: list[PlanSubFeature] = field(default_factory=list)
    tasks: list[PlanTask] = field(default_factory=list)
    notes: list[PlanNote] = field(default_factory=list)
    comments: list[PlanComment] = field(default_factory=list)
    requirements: list[PlanRequirement] = field(default_factory=list)
    sessions: list[PlanSession] = field(default_factory=list)
    metrics: list[PlanMetric] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    """By kind, the highest number that was given in the project; of the first page."""
    changed: bool = False
    """Whether the plan was changed since the first page was read."""
    next_cursor: str | None = None


class PlanWritten(Record, kw_only=True):
    """What a part of a plan has become."""

    created: dict[str, int] = field(default_factory=dict)
    """By kind, how many records were created."""
    present: dict[str, int] = field(default_factory=dict)
    """By kind, how many were there already; they stay as they are."""
    requeued: int = 0
    """How many tasks were in progress and are queued: no lease is part of a plan."""
    renumbered: int = 0
    """How many records got another number, as another record has theirs."""
