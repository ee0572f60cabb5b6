"""The records of the pages: overview, board, execution, the graph of tasks, and the pool of agents."""

from __future__ import annotations

from typing import Any

from msgspec import field
from nexus_protocol.command import Record, WireEnum

from nexus.ledger.states import AgentStatus, AgentType, FeatureStatus, MoscowPriority, TaskStatus, TaskType

__all__ = [
    "AgentPool",
    "Board",
    "BoardBy",
    "BoardColumn",
    "Card",
    "Execution",
    "FeatureProgress",
    "Overview",
    "PoolAgent",
    "DependencyGraph",
    "UsageBucket",
]


class BoardBy(WireEnum):
    """What a board has a column for."""

    STATUS = "status"
    FEATURE = "feature"


class Card(Record, kw_only=True):
    """What pages show of a task."""

    id: str
    number: int
    name: str
    status: TaskStatus
    type: TaskType
    priority: int
    agent: str | None = None
    """The name of the agent that has it, or had it last."""
    open_dependencies: int = 0
    qa_iterations: int = 0
    claimed_at: int | None = None
    estimated_minutes: int = 0
    overdue: bool = False
    """Whether its claim is older than the project's ``max_task_minutes``."""
    reason: str | None = None
    depends_on: list[int] = field(default_factory=list)
    """The numbers of the tasks that it waits for; in a graph alone. Of another project's task it is negative."""
    continue_point: dict[str, Any] | None = None
    """The newest continue point of the task; of an execution alone."""


class FeatureProgress(Record, kw_only=True):
    """How far a feature is."""

    id: str
    number: int
    name: str
    status: FeatureStatus
    priority: MoscowPriority
    tasks: int
    """How many tasks it has."""
    completed: int
    percentage: int
    """Completed tasks of the larger of their count and the planner's estimate."""


class UsageBucket(Record):
    """The tokens of an hour."""

    at: int
    """Its beginning (ms since 1970, UTC)."""
    tokens: int


class Overview(Record, kw_only=True):
    """A project at a glance."""

    project: str
    status: str
    tasks: dict[str, int]
    """By status; statuses without tasks are left out."""
    ready: int
    overdue: int
    percentage: int
    """Completed tasks of all."""
    features: list[FeatureProgress]
    """Those that are not done first, by number; 50 at most."""
    feature_count: int
    agents: dict[str, int]
    """The pool of the daemon by status."""
    sessions: dict[str, int]
    requirements: int
    validated: int
    """Requirements that a person confirmed."""
    tokens: int
    usage: list[UsageBucket]
    """The last 24 hours, those without tokens too."""


class BoardColumn(Record, kw_only=True):
    """A column of a board: how many tasks it has, and the first of them."""

    name: str
    """A status, or the name of a feature; empty for tasks without one."""
    number: int | None = None
    """That of the feature."""
    count: int
    cards: list[Card]
    completed: int = 0


class Board(Record):
    """The tasks of a project in columns."""

    project: str
    by: BoardBy
    columns: list[BoardColumn]


class Execution(Record, kw_only=True):
    """What is worked on, what can be begun, and what is in the way."""

    project: str
    status: str
    working: list[Card]
    in_review: list[Card]
    ready: list[Card]
    blocked: list[Card]
    failed: list[Card]
    counts: dict[str, int]
    ready_count: int
    checkpoint: dict[str, Any] | None = None
    """The newest checkpoint of the project: ``number`` and so on."""


class DependencyGraph(Record):
    """The tasks of a project with what they wait for."""

    project: str
    tasks: list[Card]
    truncated: bool = False
    """Whether there are more than the limit."""


class PoolAgent(Record, kw_only=True):
    """An agent of the pool with what it works on."""

    id: str
    name: str
    type: AgentType
    status: AgentStatus
    model: str
    project: str | None = None
    task_number: int | None = None
    task_name: str | None = None
    claimed_at: int | None = None
    tokens_used: int
    tasks_completed: int
    tasks_failed: int
    last_activity_at: int
    reason: str | None = None


class AgentPool(Record):
    """All agents but those that were terminated."""

    agents: list[PoolAgent]
    counts: dict[str, int]
    """By status, the terminated ones too."""
