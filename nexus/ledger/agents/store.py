"""All SQL of agents that ``records.Table`` does not have."""

from __future__ import annotations

from typing import Any

from nexus.journal.operation import Operation
from nexus.ledger.agents.errors import (
    AgentAmbiguous,
    AgentChanged,
    AgentCursorInvalid,
    AgentIdTaken,
    AgentNameTaken,
    AgentNotFound,
)
from nexus.ledger.agents.records import Agent
from nexus.ledger.states import AgentStatus
from nexus.records.errors import RecordErrors
from nexus.records.events import record_events
from nexus.records.scope import ANYWHERE
from nexus.records.table import Table
from nexus.store import Reader, Transaction

__all__ = ["AGENTS", "agent_named", "claimed", "finished", "touch"]

record_events("agent", "An agent", created={"type": "its type"}, deleted={"type": "its type"})

AGENTS = Table(
    Agent,
    "agents",
    kind="agent",
    word="agent",
    look="agent inspect",
    errors=RecordErrors(AgentNotFound, AgentAmbiguous, AgentNameTaken, AgentIdTaken, AgentChanged, AgentCursorInvalid),
    observed=("status", "current_task_id", "worktree_path", "branch_name", "tasks_completed", "tasks_failed"),
    volatile=("last_activity_at", "tokens_used"),
    order=("name",),
    descending=False,
    indexed=("status", "type"),
    told=("type",),
    state="status",
)


def agent_named(reader: Reader, reference: str) -> Agent:
    """The agent with a name or an id."""
    return AGENTS.resolve(reader, reference, ANYWHERE)


def claimed(
    tx: Transaction,
    operation: Operation,
    agent_id: str,
    task_id: str,
    worktree_path: str | None,
    branch_name: str | None,
) -> None:
    """Note that an agent has claimed a task."""
    changes: dict[str, Any] = {
        "status": AgentStatus.ASSIGNED,
        "current_task_id": task_id,
        "worktree_path": worktree_path,
        "branch_name": branch_name,
    }
    AGENTS.write(tx, operation, agent_id, changes)


def finished(
    tx: Transaction, operation: Operation, agent_id: str, task_id: str, *, completed: bool, failed: bool
) -> None:
    """Note that an agent has no more to do with a task."""
    agent = AGENTS.by_id(tx, agent_id)
    if agent is None:
        return
    changes: dict[str, Any] = {
        "tasks_completed": agent.tasks_completed + completed,
        "tasks_failed": agent.tasks_failed + failed,
    }
    if agent.current_task_id == task_id:
        changes |= {"status": AgentStatus.IDLE, "current_task_id": None, "worktree_path": None, "branch_name": None}
    AGENTS.write(tx, operation, agent_id, changes)


def touch(tx: Transaction, agent_id: str) -> None:
    """Note that an agent did something now."""
    AGENTS.rows.update(tx, agent_id, {"last_activity_at": tx.now})
