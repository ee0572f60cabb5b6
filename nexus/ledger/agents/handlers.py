"""The handlers of the commands on agents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nexus_protocol import InvalidArgument

from nexus.capability import Context, handles
from nexus.hints import command_line
from nexus.ledger.agents.commands import (
    CreateAgent,
    DeleteAgent,
    GetAgent,
    ListAgents,
    PauseAgent,
    ReportAgentError,
    ResumeAgent,
    TerminateAgent,
    UpdateAgent,
)
from nexus.ledger.agents.errors import AgentLeased
from nexus.ledger.agents.records import Agent
from nexus.ledger.agents.store import AGENTS, agent_named, held_by, move, with_names
from nexus.ledger.leases.peers import require_person
from nexus.ledger.leases.store import end, live_lease
from nexus.ledger.states import AgentStatus, LeaseState
from nexus.records.handlers import creates, deletes, lists, updates
from nexus.store import Transaction

__all__ = [
    "create_agent",
    "delete_agent",
    "get_agent",
    "list_agents",
    "pause_agent",
    "report_agent_error",
    "resume_agent",
    "terminate_agent",
    "update_agent",
]

_SHOWN = 20
_AT_ONCE = 1000


def _check_temperature(temperature: float | None, cannot: str) -> None:
    if temperature is not None and math.isnan(temperature):
        raise InvalidArgument(f"{cannot}: temperature is not a number", details={"path": "temperature"})


def _complete(tx: Transaction, command: CreateAgent) -> Mapping[str, Any]:
    _check_temperature(command.temperature, f'cannot create agent "{command.name}"')
    counters = dict.fromkeys(("tokens_used", "tasks_completed", "tasks_failed"), 0)
    return {"status": AgentStatus.IDLE, "spawned_at": tx.now, "last_activity_at": tx.now, **counters}


def _check_update(_tx: Transaction, _agent: Agent, command: UpdateAgent, cannot: str) -> None:
    _check_temperature(command.temperature, cannot)


def _refuse_leased(tx: Transaction, agent: Agent, cannot: str, hint: str) -> None:
    held = held_by(tx, agent.id, _SHOWN)
    if held:
        kind, resource_id = held[0]
        more = f" and {len(held) - 1} more" if len(held) > 1 else ""
        raise AgentLeased(
            f"{cannot}: it holds a live lease on {kind} {resource_id}{more}",
            hint=hint,
            details={
                "id": agent.id,
                "name": agent.name,
                "leases": [{"resource_kind": each, "resource_id": id_} for each, id_ in held],
            },
        )


def _check_delete(tx: Transaction, agent: Agent, _command: DeleteAgent, cannot: str) -> None:
    line = command_line("nexusctl", "agent", "terminate", agent.name, "--force")
    _refuse_leased(tx, agent, cannot, f"Wait until its work ends, or end it: {line}")


create_agent = creates(AGENTS, CreateAgent, _complete)
list_agents = lists(AGENTS, ListAgents, "agents", complete=with_names)
update_agent = updates(AGENTS, UpdateAgent, _check_update)
delete_agent = deletes(AGENTS, DeleteAgent, _check_delete, AGENTS.told)


@handles(GetAgent)
async def get_agent(ctx: Context, command: GetAgent) -> Agent:
    (agent,) = await ctx.store.fetch(lambda reader: with_names(reader, [agent_named(reader, command.agent)]))
    return agent


def _found(tx: Transaction, reference: str, verb: str, state_revision: int | None) -> Agent:
    agent = agent_named(tx, reference)
    AGENTS.expect(agent, f'cannot {verb} agent "{agent.name}"', None, state_revision)
    return agent


def _detail(reason: str | None) -> dict[str, Any]:
    return {} if reason is None else {"reason": reason}


@handles(PauseAgent)
def pause_agent(tx: Transaction, ctx: Context, command: PauseAgent) -> Agent:
    agent = _found(tx, command.agent, "pause", command.if_state_revision)
    changes = {"reason": command.reason}
    return move(tx, ctx.operation, agent, "pause", AgentStatus.PAUSED, "paused", changes, _detail(command.reason))


@handles(ResumeAgent)
def resume_agent(tx: Transaction, ctx: Context, command: ResumeAgent) -> Agent:
    agent = _found(tx, command.agent, "resume", command.if_state_revision)
    status = AgentStatus.WORKING if held_by(tx, agent.id, 1) else AgentStatus.IDLE
    return move(tx, ctx.operation, agent, "resume", status, "resumed", {"reason": None}, {})


@handles(ReportAgentError)
def report_agent_error(tx: Transaction, ctx: Context, command: ReportAgentError) -> Agent:
    agent = _found(tx, command.agent, "fail", command.if_state_revision)
    changes = {"reason": command.reason}
    return move(tx, ctx.operation, agent, "fail", AgentStatus.ERROR, "failed", changes, _detail(command.reason))


@handles(TerminateAgent)
def terminate_agent(tx: Transaction, ctx: Context, command: TerminateAgent) -> Agent:
    agent = _found(tx, command.agent, "terminate", command.if_state_revision)
    cannot = f'cannot terminate agent "{agent.name}"'
    if not command.force:
        line = command_line("nexusctl", "agent", "terminate", agent.name, "--force")
        _refuse_leased(tx, agent, cannot, f"Terminate it nevertheless: {line}")
    elif held_by(tx, agent.id, 1):
        require_person(ctx.caller.pid, cannot)
    changes = {
        "reason": None,
        "terminated_at": max([tx.now, agent.spawned_at]),
        "termination_reason": command.reason,
    }
    # Before its leases end: what they were on is ready again then, and it goes to no other task.
    terminated = move(
        tx, ctx.operation, agent, "terminate", AgentStatus.TERMINATED, "terminated", changes, _detail(command.reason)
    )
    held = held_by(tx, agent.id, _AT_ONCE)
    for kind, resource_id in held:
        lease = live_lease(tx, kind, resource_id)
        if lease is not None:
            end(tx, ctx.operation, lease, LeaseState.REVOKED, f'agent "{agent.name}" was terminated')
    return AGENTS.get(tx, agent.id) if held else terminated
