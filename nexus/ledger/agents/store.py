"""The table of agents, all SQL of them that ``records.Table`` does not have, and the only code that moves them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from nexus.hints import command_line, joined
from nexus.journal.operation import Operation
from nexus.ledger.agents.errors import (
    AgentAmbiguous,
    AgentChanged,
    AgentCursorInvalid,
    AgentIdTaken,
    AgentMoveRefused,
    AgentNameTaken,
    AgentNotFound,
)
from nexus.ledger.agents.records import Agent
from nexus.ledger.names_store import names_of
from nexus.ledger.states import AGENT_MOVES, AgentStatus
from nexus.records.errors import RecordErrors
from nexus.records.links import Target, target
from nexus.records.scope import ANYWHERE
from nexus.records.table import Table
from nexus.store import Reader, Transaction

__all__ = ["AGENTS", "agent_named", "claimed", "count_tokens", "finished", "held_by", "move", "touch", "with_names"]

AGENTS = Table(
    Agent,
    "agents",
    kind="agent",
    word="agent",
    look="agent inspect",
    errors=RecordErrors(AgentNotFound, AgentAmbiguous, AgentNameTaken, AgentIdTaken, AgentChanged, AgentCursorInvalid),
    observed=(
        *("status", "reason", "current_task_id", "worktree_path", "branch_name", "tasks_completed", "tasks_failed"),
        *("spawned_at", "terminated_at", "termination_reason"),
    ),
    # The metrics tell the tokens, one by one.
    volatile=("last_activity_at", "tokens_used"),
    order=("name",),
    descending=False,
    indexed=("status", "type"),
    told=("type",),
    state="status",
    computed=("names",),
)

_MOST = 2**63 - 1


def agent_named(reader: Reader, reference: str) -> Agent:
    """The agent with this id or name, or the only one whose id begins so.

    Raises:
        AgentNotFound, AgentAmbiguous: the reference names no single agent.
    """
    return AGENTS.resolve(reader, reference, ANYWHERE)


def with_names(reader: Reader, found: list[Agent]) -> list[Agent]:
    """Agents with the names of their current tasks."""
    names = names_of(reader, None, {"task": [agent.current_task_id for agent in found]})
    return [
        agent
        if agent.current_task_id not in names
        else msgspec.structs.replace(agent, names={agent.current_task_id: names[agent.current_task_id]})
        for agent in found
    ]


target(Target("agent", lambda reader, reference, _scope: {"agent": agent_named(reader, reference).id}))


def move(
    tx: Transaction,
    operation: Operation,
    agent: Agent,
    name: str,
    to: AgentStatus,
    event: str,
    changes: Mapping[str, Any],
    detail: Mapping[str, Any],
    cannot: str | None = None,
) -> Agent:
    """Carry out a move of ``AGENT_MOVES``, with its event; ``cannot`` begins the sentence where it is refused.

    Raises:
        AgentMoveRefused: the status of the agent does not allow it.
    """
    allowed_in, leads_to = AGENT_MOVES[name]
    if agent.status not in allowed_in:
        raise _refused(agent, cannot or f'cannot {name} agent "{agent.name}"')
    if to not in leads_to:
        raise ValueError(f"the move {name} does not lead to {to}")
    values = {"status": to, "last_activity_at": max([tx.now, agent.last_activity_at]), **changes}
    changed = AGENTS.write(tx, operation, agent.id, values, [(f"agent.{event}", dict(detail))])
    assert changed is not None
    return changed


def _refused(agent: Agent, cannot: str) -> AgentMoveRefused:
    lines = {
        "pause": f"Pause it: {command_line('nexusctl', 'agent', 'pause', agent.name)}",
        "resume": f"Let it go on: {command_line('nexusctl', 'agent', 'resume', agent.name)}",
        "fail": f"Report an error of it: {command_line('nexusctl', 'agent', 'fail', agent.name, 'REASON')}",
        "terminate": f"Terminate it: {command_line('nexusctl', 'agent', 'terminate', agent.name)}",
    }
    allowed = [each for each in lines if agent.status in AGENT_MOVES[each][0]]
    return AgentMoveRefused(
        f"{cannot}: it is {agent.status}, which allows {', '.join(allowed) or 'nothing more'}",
        hint=joined(*(lines[each] for each in allowed)) or None,
        details={"id": agent.id, "name": agent.name, "status": agent.status.value, "allowed": allowed},
    )


def held_by(reader: Reader, agent_id: str, limit: int) -> list[tuple[str, str]]:
    """The kinds and ids of what an agent holds a live lease on, oldest first: at most ``limit``."""
    return reader.all(
        "SELECT resource_kind, resource_id FROM lease WHERE holder = ? AND state = 'live' "
        "ORDER BY granted_at, id LIMIT ?",
        (agent_id, limit),
    )


def claimed(
    tx: Transaction,
    operation: Operation,
    agent_id: str,
    task_id: str,
    worktree_path: str | None,
    branch_name: str | None,
) -> Agent:
    """Note that an agent has claimed a task.

    Raises:
        AgentNotFound: there is no such agent.
        AgentMoveRefused: it is paused, in error, or terminated.
    """
    agent = AGENTS.get(tx, agent_id)
    changes = {"current_task_id": task_id, "worktree_path": worktree_path, "branch_name": branch_name}
    cannot = f'cannot claim a task for agent "{agent.name}"'
    detail = {"task_id": task_id}
    return move(tx, operation, agent, "claim", AgentStatus.ASSIGNED, "assigned", changes, detail, cannot)


def finished(
    tx: Transaction, operation: Operation, agent_id: str, task_id: str, *, completed: bool, failed: bool
) -> Agent | None:
    """Note that the claim of a task by an agent has ended, and with which outcome, if any.

    It goes on with another task that it holds, else it is idle. One that is paused, in error or terminated stays so.
    None where the agent was deleted.
    """
    agent = AGENTS.by_id(tx, agent_id)
    if agent is None:
        return None
    changes: dict[str, Any] = {
        "tasks_completed": agent.tasks_completed + completed,
        "tasks_failed": agent.tasks_failed + failed,
    }
    status = agent.status
    if agent.current_task_id in (None, task_id):
        other = _other_task(tx, agent_id, task_id)
        changes |= dict(zip(("current_task_id", "worktree_path", "branch_name"), other or (None,) * 3, strict=True))
        if other is None and status in AGENT_MOVES["finish"][0]:
            status = AgentStatus.IDLE
    changes |= {"status": status, "last_activity_at": max([tx.now, agent.last_activity_at])}
    return AGENTS.write(tx, operation, agent.id, changes, [("agent.finished", {"task_id": task_id})])


def _other_task(reader: Reader, agent_id: str, task_id: str) -> tuple[str, str | None, str | None] | None:
    """The task that an agent claimed last beside one, with its worktree and branch."""
    return reader.one(
        "SELECT tasks.id, tasks.worktree_path, tasks.branch_name FROM lease JOIN tasks ON tasks.id = lease.resource_id "
        "WHERE lease.holder = ? AND lease.state = 'live' AND lease.resource_kind = 'task' AND lease.resource_id <> ? "
        "ORDER BY lease.granted_at DESC, lease.id DESC LIMIT 1",
        (agent_id, task_id),
    )


def touch(tx: Transaction, agent_id: str, operation: Operation | None = None) -> None:
    """Note that an agent did something; with an operation, one that is assigned is working then."""
    agent = AGENTS.by_id(tx, agent_id)
    if agent is None:
        return
    if operation is not None and agent.status is AgentStatus.ASSIGNED:
        move(tx, operation, agent, "work", AgentStatus.WORKING, "working", {}, {})
    elif tx.now > agent.last_activity_at:
        AGENTS.rows.update(tx, agent_id, {"last_activity_at": tx.now})


def count_tokens(tx: Transaction, agent_id: str, tokens: int) -> None:
    """Add to the tokens that an agent has used; nothing where it was deleted."""
    row = AGENTS.rows.read(tx, agent_id, ("tokens_used",))
    if row is not None and tokens:
        AGENTS.rows.update(tx, agent_id, {"tokens_used": min([row["tokens_used"] + tokens, _MOST])})
