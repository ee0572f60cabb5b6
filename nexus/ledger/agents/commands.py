"""The commands on agents, and the kinds of their events."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from nexus_protocol.command import Command, Effect, command
from nexus_protocol.events import event

from nexus.ledger.agents.errors import (
    AgentAmbiguous,
    AgentChanged,
    AgentCursorInvalid,
    AgentIdTaken,
    AgentLeased,
    AgentMoveRefused,
    AgentNameTaken,
    AgentNotFound,
)
from nexus.ledger.agents.records import Agent, AgentPage, AgentReference
from nexus.ledger.states import AgentStatus, AgentType, ModelProvider
from nexus.records.errors import LeaseNeedsPerson
from nexus.records.events import record_events
from nexus.records.fields import ClientId, Cursor, Name, PageLimit, Revision, StateRevision, Tag, Tags

__all__ = [
    "CreateAgent",
    "DeleteAgent",
    "GetAgent",
    "ListAgents",
    "PauseAgent",
    "ReportAgentError",
    "ResumeAgent",
    "TerminateAgent",
    "UpdateAgent",
]

record_events("agent", "An agent", created={"type": "what it does"}, deleted={"type": "what it does"})
event("agent.assigned", "An agent claimed a task.", task_id="the task")
event("agent.working", "An agent sent the first command under the lease of its task.")
event("agent.finished", "An agent ended its work on a task.", task_id="the task")
event("agent.paused", "An agent was paused.", reason="why, if that was given")
event("agent.resumed", "An agent goes on.")
event("agent.failed", "An agent is in error.", reason="what happened")
event("agent.terminated", "An agent was terminated.", reason="why, if that was given")

Kind = Annotated[AgentType, Meta(description="what it does", extra={"metavar": "TYPE"})]
Provider = Annotated[ModelProvider, Meta(description="whose model it uses")]
ModelName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        pattern=r"^[^\x00-\x20\x7f]*$(?!\n)",
        description="its model, without blanks",
        extra={"option": "--model", "metavar": "MODEL"},
    ),
]
Temperature = Annotated[float, Meta(ge=0, le=2, description="the temperature of its model, 0 to 2")]
MaxTokens = Annotated[int, Meta(ge=1, le=2**31 - 1, description="the most tokens of one request to its model")]
SystemPrompt = Annotated[
    str, Meta(max_length=32_768, description="its prompt, or the path of the file with it; empty: none")
]
Tools = Annotated[
    list[
        Annotated[
            str,
            Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x20\x7f]*$(?!\n)", description="without blanks"),
        ]
    ],
    Meta(max_length=256, description="tools that it may use", extra={"option": "--tool", "metavar": "TOOL"}),
]
Reason = Annotated[str, Meta(min_length=1, max_length=4096, description="why, in words")]
_FOUND = (AgentNotFound, AgentAmbiguous)


@command(0x0540, Effect.CHANGE, errors=(AgentNameTaken, AgentIdTaken), in_project=False)
class CreateAgent(Command[Agent]):
    """Spawn an agent: an idle one that can claim tasks of any project.

    No process begins by this. With an ``id`` chosen by the client, a request can be repeated after a lost reply.
    """

    name: Annotated[Name, Meta(extra={"metavar": "NAME"})]
    type: Kind
    model_provider: Provider = ModelProvider.ANTHROPIC
    model_name: ModelName = "claude-sonnet-4"
    temperature: Temperature = 0.3
    max_tokens: MaxTokens = 8000
    system_prompt: SystemPrompt | None = None
    tools: Tools | None = None
    tags: Tags | None = None
    id: ClientId | None = None


@command(0x0541, Effect.READ, errors=(AgentCursorInvalid,), large_reply=True, in_project=False)
class ListAgents(Command[AgentPage]):
    """List agents, by name.

    A page ends at ``limit`` records or 1 MiB, whichever comes first; ``next_cursor`` is present when more follow.
    """

    status: Annotated[AgentStatus, Meta(description="only agents with this status")] | None = None
    type: Annotated[AgentType, Meta(description="only agents that do this")] | None = None
    tag: Annotated[Tag, Meta(description="only agents with this tag")] | None = None
    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(0x0542, Effect.READ, errors=_FOUND, in_project=False)
class GetAgent(Command[Agent]):
    """Get an agent."""

    agent: AgentReference


@command(0x0543, Effect.CHANGE, errors=(*_FOUND, AgentNameTaken, AgentChanged), in_project=False)
class UpdateAgent(Command[Agent]):
    """Change the configuration of an agent, whatever its status is."""

    agent: AgentReference
    name: Name | None = None
    type: Kind | None = None
    model_provider: Provider | None = None
    model_name: ModelName | None = None
    temperature: Temperature | None = None
    max_tokens: MaxTokens | None = None
    system_prompt: SystemPrompt | None = None
    tools: Tools | None = None
    tags: Tags | None = None
    if_revision: Revision | None = None


@command(0x0544, Effect.CHANGE, errors=(*_FOUND, AgentChanged, AgentLeased), in_project=False)
class DeleteAgent(Command[Agent]):
    """Delete an agent that holds no live lease; what it did keeps its id."""

    agent: AgentReference
    if_revision: Revision | None = None
    if_state_revision: StateRevision | None = None


@command(0x0545, Effect.CHANGE, errors=(*_FOUND, AgentChanged, AgentMoveRefused), in_project=False)
class PauseAgent(Command[Agent]):
    """Pause an agent: it claims no task until it is resumed. A lease that it holds stays."""

    agent: AgentReference
    reason: Reason | None = None
    if_state_revision: StateRevision | None = None


@command(0x0546, Effect.CHANGE, errors=(*_FOUND, AgentChanged, AgentMoveRefused), in_project=False)
class ResumeAgent(Command[Agent]):
    """Let an agent that is paused or in error go on: with the task that it holds, else it is idle."""

    agent: AgentReference
    if_state_revision: StateRevision | None = None


@command(0x0547, Effect.CHANGE, errors=(*_FOUND, AgentChanged, AgentMoveRefused), in_project=False)
class ReportAgentError(Command[Agent]):
    """Report that an agent failed: it is in error, and claims no task until it is resumed."""

    agent: AgentReference
    reason: Annotated[Reason, Meta(extra={"metavar": "REASON"})]
    if_state_revision: StateRevision | None = None


@command(
    0x0548,
    Effect.CHANGE,
    errors=(*_FOUND, AgentChanged, AgentMoveRefused, AgentLeased, LeaseNeedsPerson),
    in_project=False,
)
class TerminateAgent(Command[Agent]):
    """Terminate an agent for good. One that holds a live lease is terminated with ``force``, which revokes it.

    That is for people: a client of a job or a service is refused.
    """

    agent: AgentReference
    reason: Reason | None = None
    force: Annotated[bool, Meta(description="revoke the leases that it holds")] = False
    if_state_revision: StateRevision | None = None
