"""The domain errors of agents."""

from __future__ import annotations

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
    "AgentNameTaken",
    "AgentNotFound",
]


class AgentNotFound(RecordNotFound):
    """No agent has this name or id."""

    type = "agent.not_found"


class AgentAmbiguous(RecordAmbiguous):
    """Several agents have an id that begins so."""

    type = "agent.ambiguous"


class AgentNameTaken(RecordNameTaken):
    """Another agent has the name."""

    type = "agent.name_taken"


class AgentIdTaken(RecordIdTaken):
    """An agent with the id exists and differs from the request."""

    type = "agent.id_taken"


class AgentChanged(RecordChanged):
    """The agent has another revision than the request expects."""

    type = "agent.changed"


class AgentCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by this list for these filters."""

    type = "agent.cursor_invalid"
