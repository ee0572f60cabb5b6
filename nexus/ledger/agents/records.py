"""The records of agents."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field
from nexus_protocol.command import Record

from nexus.ledger.states import AgentStatus, AgentType, ModelProvider
from nexus.records.fields import Reference

__all__ = ["Agent", "AgentReference"]

AgentReference = Annotated[
    Reference,
    Meta(description="the name of the agent, else its id or a unique prefix of it", extra={"metavar": "AGENT"}),
]


class Agent(Record, kw_only=True):
    """An agent."""

    id: str
    name: str
    type: AgentType
    status: AgentStatus = AgentStatus.IDLE
    model_provider: ModelProvider = ModelProvider.ANTHROPIC
    model_name: str = "claude-sonnet-4"
    temperature: float = 0.3
    max_tokens: int = 8000
    system_prompt: str | None = None
    tools: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    current_task_id: str | None = None
    worktree_path: str | None = None
    branch_name: str | None = None
    tokens_used: int = 0
    tasks_completed: int = 0
    tasks_failed: int = 0
    reason: str | None = None
    spawned_at: int
    last_activity_at: int
    terminated_at: int | None = None
    termination_reason: str | None = None
    created_at: int
    updated_at: int
    revision: int
    state_revision: int
