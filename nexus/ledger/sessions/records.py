"""The records of sessions."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta
from nexus_protocol.command import UNRECORDED, Record

from nexus.ledger.states import SessionStatus, SessionType
from nexus.records.fields import Reference

__all__ = ["DATA_BYTES", "Session", "SessionPage", "SessionReference"]

DATA_BYTES = 1024 * 1024
"""The most data of a session."""

SessionReference = Annotated[
    Reference,
    Meta(
        description="the number of the session in its project, as 12 or #12, else its id or a unique prefix of it; "
        "PROJECT/12 is that in another project",
        extra={"completes": "session", "metavar": "SESSION"},
    ),
]


class Session(Record, kw_only=True):
    """A session. Optional fields are present only if they are set."""

    id: str
    number: int
    """It identifies the session in its project, and is given once."""
    project_id: str
    project: str
    """The name of its project."""
    type: SessionType
    status: SessionStatus = SessionStatus.ACTIVE
    title: str | None = None
    data: Annotated[dict[str, Any], UNRECORDED] | None = None
    """What it has gathered; lists leave it out."""
    started_at: int
    ended_at: int | None = None
    """When it was completed or cancelled."""
    created_at: int
    updated_at: int
    revision: int
    """Counts the changes of its title and its data, from 1."""
    state_revision: int
    """Counts the changes of its status, from 0."""

    @property
    def name(self) -> str:
        """How sentences and references name it: by its number."""
        return str(self.number)


class SessionPage(Record):
    """One page of sessions, by number, and the cursor of the next page."""

    sessions: list[Session]
    next_cursor: str | None = None
