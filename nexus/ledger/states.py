"""The statuses of what the ledger keeps, the one table of a task's moves, and the other enums."""

from __future__ import annotations

from nexus_protocol.command import WireEnum

__all__ = [
    "AGENT_MOVES",
    "OPEN",
    "READY",
    "SESSION_MOVES",
    "TASK_MOVES",
    "AgentStatus",
    "AgentType",
    "Complexity",
    "FeatureStatus",
    "LeaseState",
    "MetricType",
    "ModelProvider",
    "MoscowPriority",
    "OnLost",
    "RequirementCategory",
    "RequirementPriority",
    "SessionStatus",
    "SessionType",
    "TaskKind",
    "TaskReason",
    "TaskSize",
    "TaskStatus",
    "TaskType",
]


class MoscowPriority(WireEnum):
    """How much a feature is needed."""

    MUST = "must"
    SHOULD = "should"
    COULD = "could"
    WONT = "wont"


class FeatureStatus(WireEnum):
    """How far a feature or a sub-feature is."""

    BACKLOG = "backlog"
    IN_PROGRESS = "in_progress"
    AI_REVIEW = "ai_review"
    HUMAN_REVIEW = "human_review"
    DONE = "done"


class Complexity(WireEnum):
    """How complex a feature is."""

    SIMPLE = "simple"
    COMPLEX = "complex"


class TaskType(WireEnum):
    """Who ends a task, and how."""

    AUTO = "auto"
    """An agent does it."""
    CHECKPOINT = "checkpoint"
    """A person decides; it is approved or rejected, and cannot be claimed."""
    TDD = "tdd"
    """Completing it needs a note of kind red, and after it one of kind green."""


class TaskKind(WireEnum):
    """What a task is for."""

    FEATURE = "feature"
    BUG = "bug"
    CHORE = "chore"
    QUESTION = "question"


class TaskSize(WireEnum):
    """How large a task is."""

    ATOMIC = "atomic"
    SMALL = "small"


class TaskStatus(WireEnum):
    """The status of a task."""

    PENDING = "pending"
    QUEUED = "queued"
    """It is wanted soon."""
    IN_PROGRESS = "in_progress"
    """An agent has claimed it."""
    IN_REVIEW = "in_review"
    """Its work was submitted."""
    COMPLETED = "completed"
    FAILED = "failed"
    BLOCKED = "blocked"


class TaskReason(WireEnum):
    """Why a task is failed or blocked, for programs; ``reason`` is the sentence for people."""

    GIVEN = "given"
    """The client said why."""
    BLOCKER = "blocker"
    """The task ``blocked_by`` is not completed."""
    ESCALATED = "escalated"
    """It was rejected ``max_iterations`` times; a person decides."""
    REJECTED = "rejected"
    """A person rejected it."""


READY = frozenset({TaskStatus.PENDING, TaskStatus.QUEUED})
"""The statuses in which a task may be claimed."""
OPEN = frozenset(TaskStatus) - {TaskStatus.COMPLETED, TaskStatus.FAILED}
"""The statuses of a task whose work is not over."""

_P, _Q, _W = TaskStatus.PENDING, TaskStatus.QUEUED, TaskStatus.IN_PROGRESS
_R, _C, _F, _B = TaskStatus.IN_REVIEW, TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.BLOCKED

TASK_MOVES: dict[str, tuple[frozenset[TaskStatus], frozenset[TaskStatus]]] = {
    "queue": (frozenset({_P}), frozenset({_Q})),
    "unqueue": (frozenset({_Q}), frozenset({_P})),
    "claim": (READY, frozenset({_W})),
    "take over": (frozenset({_W, _R}), frozenset({_W})),
    "release": (frozenset({_W}), frozenset({_P})),
    "submit": (frozenset({_W}), frozenset({_R})),
    "complete": (READY | {_W, _R}, frozenset({_C})),
    "approve": (READY | {_R}, frozenset({_C})),
    "reject": (READY | {_R}, frozenset({_W, _Q, _B, _F})),
    "fail": (OPEN, frozenset({_F})),
    "block": (OPEN - {_B}, frozenset({_B})),
    "unblock": (frozenset({_B}), frozenset({_P})),
    "reset": (frozenset({_B, _F, _C}), frozenset({_P})),
}
"""By move, the statuses that it is allowed in, and those that it may lead to.

A claim that ends without the task's end is the move release, whatever ended it. A reject leads to in_progress while its
holder's lease is live, else to queued; to blocked once ``max_iterations`` are used up; and of a checkpoint to failed.
"""


class AgentType(WireEnum):
    """What an agent does."""

    PLANNER = "planner"
    CODER = "coder"
    TESTER = "tester"
    REVIEWER = "reviewer"
    MERGER = "merger"


class AgentStatus(WireEnum):
    """The status of an agent."""

    IDLE = "idle"
    ASSIGNED = "assigned"
    """It has claimed a task."""
    WORKING = "working"
    """It has sent a command under the lease of its task."""
    PAUSED = "paused"
    """It claims nothing."""
    ERROR = "error"
    TERMINATED = "terminated"


_WORK = frozenset({AgentStatus.IDLE, AgentStatus.ASSIGNED, AgentStatus.WORKING})

AGENT_MOVES: dict[str, tuple[frozenset[AgentStatus], frozenset[AgentStatus]]] = {
    "claim": (_WORK, frozenset({AgentStatus.ASSIGNED})),
    "work": (frozenset({AgentStatus.ASSIGNED}), frozenset({AgentStatus.WORKING})),
    "finish": (_WORK, frozenset({AgentStatus.IDLE})),
    "pause": (_WORK | {AgentStatus.ERROR}, frozenset({AgentStatus.PAUSED})),
    "resume": (frozenset({AgentStatus.PAUSED, AgentStatus.ERROR}), frozenset({AgentStatus.IDLE, AgentStatus.WORKING})),
    "fail": (_WORK | {AgentStatus.PAUSED}, frozenset({AgentStatus.ERROR})),
    "terminate": (_WORK | {AgentStatus.PAUSED, AgentStatus.ERROR}, frozenset({AgentStatus.TERMINATED})),
}
"""By move, the statuses that it is allowed in, and those that it may lead to."""


class ModelProvider(WireEnum):
    """Whose model an agent uses."""

    ANTHROPIC = "anthropic"
    GOOGLE = "google"
    OPENAI = "openai"


class RequirementCategory(WireEnum):
    """What a requirement is about."""

    FUNCTIONAL = "functional"
    NON_FUNCTIONAL = "non_functional"
    UI_UX = "ui_ux"
    TECHNICAL = "technical"
    BUSINESS_LOGIC = "business_logic"
    INTEGRATION = "integration"


class RequirementPriority(WireEnum):
    """How important a requirement is, in either of two scales."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    MUST = "must"
    SHOULD = "should"
    COULD = "could"
    WONT = "wont"


class MetricType(WireEnum):
    """What a metric measures."""

    TOKEN_USAGE = "token_usage"
    """Tokens."""
    TASK_DURATION = "task_duration"
    """Minutes from the claim of a task to its completion."""
    QA_ITERATIONS = "qa_iterations"
    """Rejects of a task until its completion."""


class SessionType(WireEnum):
    """What a session is for."""

    INTERVIEW = "interview"
    PLANNING = "planning"
    EXECUTION = "execution"


class SessionStatus(WireEnum):
    """The status of a session."""

    ACTIVE = "active"
    PAUSED = "paused"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


_RUNS = frozenset({SessionStatus.ACTIVE, SessionStatus.PAUSED})

SESSION_MOVES: dict[str, tuple[frozenset[SessionStatus], frozenset[SessionStatus]]] = {
    "pause": (frozenset({SessionStatus.ACTIVE}), frozenset({SessionStatus.PAUSED})),
    "resume": (frozenset({SessionStatus.PAUSED}), frozenset({SessionStatus.ACTIVE})),
    "complete": (_RUNS, frozenset({SessionStatus.COMPLETED})),
    "cancel": (_RUNS, frozenset({SessionStatus.CANCELLED})),
}
"""By move, the statuses that it is allowed in, and those that it may lead to."""


class LeaseState(WireEnum):
    """The state of a lease."""

    LIVE = "live"
    RELEASED = "released"
    """Its holder gave it back, or finished the task."""
    EXPIRED = "expired"
    """It was not renewed in time."""
    REVOKED = "revoked"
    """A person took it away, or an older database was put back."""


class OnLost(WireEnum):
    """What becomes of the jobs and services of a lease that is revoked or expires."""

    STOP = "stop"
    KEEP = "keep"
