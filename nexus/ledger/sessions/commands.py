"""The commands of sessions, and the kinds of their events."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta
from nexus_protocol.command import UNRECORDED, Command, Effect, command
from nexus_protocol.events import event

from nexus.ledger.sessions.errors import (
    SessionAmbiguous,
    SessionChanged,
    SessionCursorInvalid,
    SessionIdTaken,
    SessionMoveRefused,
    SessionNotFound,
)
from nexus.ledger.sessions.records import DATA_BYTES, Session, SessionPage, SessionReference
from nexus.ledger.states import SessionStatus, SessionType
from nexus.records.events import record_events
from nexus.records.fields import ClientId, Cursor, PageLimit, Revision, StateRevision

__all__ = [
    "CancelSession",
    "CompleteSession",
    "DeleteSession",
    "GetSession",
    "ListSessions",
    "PauseSession",
    "ResumeSession",
    "StartSession",
    "UpdateSession",
]

record_events(
    "session",
    "A session",
    created={"type": "what it is for", "title": "its title"},
    deleted={"type": "what it is for", "title": "its title", "status": "its status"},
)
event("session.moved", "A session was paused, resumed, completed or cancelled.", status="its status before and after")

_LOOKUP = (SessionNotFound, SessionAmbiguous)
_MOVE = (*_LOOKUP, SessionChanged, SessionMoveRefused)
_MAX_PAYLOAD = DATA_BYTES + 64 * 1024

Title = Annotated[
    str,
    Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)", description="what it is about"),
]
Data = Annotated[
    dict[str, Any],
    UNRECORDED,
    Meta(description="what it has gathered: free-form values, 1 MiB at most", extra={"metavar": "NAME=VALUE"}),
]


@command(0x0558, Effect.CHANGE, errors=(SessionIdTaken,), max_payload=_MAX_PAYLOAD, large_reply=True)
class StartSession(Command[Session]):
    """Start a session, in status active.

    With an ``id`` chosen by the client, a request can be repeated after a lost reply: if a session with this id and
    the same fields exists, it is returned.
    """

    type: Annotated[SessionType, Meta(description="what it is for")]
    title: Title | None = None
    data: Data | None = None
    id: ClientId | None = None


@command(0x0559, Effect.READ, errors=(SessionCursorInvalid,), large_reply=True, all_projects=True)
class ListSessions(Command[SessionPage]):
    """List sessions without their data, by number.

    A page ends at ``limit`` records or 1 MiB, whichever comes first; ``next_cursor`` is present when more follow.
    """

    status: Annotated[SessionStatus, Meta(description="only sessions in this status")] | None = None
    type: Annotated[SessionType, Meta(description="only sessions of this type")] | None = None
    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(0x055A, Effect.READ, errors=_LOOKUP, large_reply=True)
class GetSession(Command[Session]):
    """Get one session, with its data."""

    session: SessionReference


@command(0x055B, Effect.CHANGE, errors=(*_LOOKUP, SessionChanged), max_payload=_MAX_PAYLOAD, large_reply=True)
class UpdateSession(Command[Session]):
    """Change the title of a session, or replace its data."""

    session: SessionReference
    title: Title | None = None
    data: Data | None = None
    if_revision: Revision | None = None


@command(0x055C, Effect.CHANGE, errors=_MOVE, large_reply=True)
class PauseSession(Command[Session]):
    """Pause an active session, to be resumed later."""

    session: SessionReference
    if_state_revision: StateRevision | None = None


@command(0x055D, Effect.CHANGE, errors=_MOVE, large_reply=True)
class ResumeSession(Command[Session]):
    """Resume a paused session."""

    session: SessionReference
    if_state_revision: StateRevision | None = None


@command(0x055E, Effect.CHANGE, errors=_MOVE, large_reply=True)
class CompleteSession(Command[Session]):
    """Complete a session: it has reached what it was for."""

    session: SessionReference
    if_state_revision: StateRevision | None = None


@command(0x055F, Effect.CHANGE, errors=_MOVE, large_reply=True)
class CancelSession(Command[Session]):
    """Cancel a session: it ends without a result."""

    session: SessionReference
    if_state_revision: StateRevision | None = None


@command(0x0560, Effect.CHANGE, errors=(*_LOOKUP, SessionChanged), large_reply=True)
class DeleteSession(Command[Session]):
    """Delete a session with its data."""

    session: SessionReference
    if_revision: Revision | None = None
    if_state_revision: StateRevision | None = None
