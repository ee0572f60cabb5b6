"""The errors of agents."""

from __future__ import annotations

from nexus_protocol.errors import FailedPrecondition

from nexus.records.errors import (
    RecordAmbiguous,
    RecordChanged,
    RecordCursorInvalid,
    RecordIdTaken,
    RecordNameTaken,
    RecordNotFound,
)

__all__ = [
    "AgentAmbiguous",
    "AgentChanged",
    "AgentCursorInvalid",
    "AgentIdTaken",
    "AgentLeased",
    "AgentMoveRefused",
    "AgentNameTaken",
    "AgentNotFound",
]


class AgentNotFound(RecordNotFound):
    """No agent has this id or name."""

    type = "agent.not_found"


class AgentAmbiguous(RecordAmbiguous):
    """Several ids begin with this reference; ``details.matches`` lists some of them."""

    type = "agent.ambiguous"


class AgentNameTaken(RecordNameTaken):
    """Another agent has this name."""

    type = "agent.name_taken"


class AgentIdTaken(RecordIdTaken):
    """An agent with this id exists and differs from the request."""

    type = "agent.id_taken"


class AgentChanged(RecordChanged):
    """The agent has another revision than the request expects; ``details.revision`` is the present one."""

    type = "agent.changed"


class AgentCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by ListAgents for these filters."""

    type = "agent.cursor_invalid"


class AgentMoveRefused(FailedPrecondition):
    """The status of the agent does not allow this; ``details.allowed`` are the moves that it allows."""

    type = "agent.move_refused"


class AgentLeased(FailedPrecondition):
    """The agent holds a live lease; ``details.leases`` lists some of what it holds."""

    type = "agent.leased"
