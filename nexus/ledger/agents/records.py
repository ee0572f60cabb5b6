"""The records of agents."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field
from nexus_protocol.command import Record

from nexus.ledger.states import AgentStatus, AgentType, ModelProvider
from nexus.records.fields import Reference

__all__ = ["Agent", "AgentReference", "AgentPage"]


AgentReference = Annotated[Reference, Meta(extra={"completes": "agent", "metavar": "AGENT"})]


class Agent(Record, kw_only=True):
    """An agent, which is in no project. Optional fields are present only if they are set."""

    id: str
    name: str
    type: AgentType
    status: AgentStatus
    model_provider: ModelProvider
    model_name: str
    temperature: float
    max_tokens: int
    """The most tokens of one request to its model."""
    system_prompt: str | None = None
    """The prompt, or the path of the file with it."""
    tools: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    current_task_id: str | None = None
    """The task that it claimed last and has not ended."""
    worktree_path: str | None = None
    branch_name: str | None = None
    tokens_used: int
    """The sum of its metrics token_usage, also of those that are no longer kept."""
    tasks_completed: int
    tasks_failed: int
    reason: str | None = None
    """Why it is paused, or in error."""
    spawned_at: int
    last_activity_at: int
    terminated_at: int | None = None
    termination_reason: str | None = None
    created_at: int
    updated_at: int
    revision: int
    """Counts the changes of its configuration, from 1."""
    state_revision: int
    """Counts the changes of its state, from 0."""
    names: dict[str, str] = field(default_factory=dict)
    """Of GetAgent and ListAgents, for people: what the current task is called, by id, as ``#12 Log in``."""


class AgentPage(Record):
    """One page of agents, by name, and the cursor of the next page."""

    agents: list[Agent]
    next_cursor: str | None = None
