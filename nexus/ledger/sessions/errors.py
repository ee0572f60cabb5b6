"""The domain errors of sessions.

::

    NotFound            SessionNotFound
    Conflict            SessionAmbiguous, SessionChanged, SessionIdTaken
    InvalidArgument     SessionCursorInvalid
    FailedPrecondition  SessionMoveRefused
"""

from __future__ import annotations

from nexus_protocol.errors import FailedPrecondition

from nexus.records.errors import RecordAmbiguous, RecordChanged, RecordCursorInvalid, RecordIdTaken, RecordNotFound

__all__ = [
    "SessionAmbiguous",
    "SessionChanged",
    "SessionCursorInvalid",
    "SessionIdTaken",
    "SessionMoveRefused",
    "SessionNotFound",
]


class SessionNotFound(RecordNotFound):
    """No session has this number or id."""

    type = "session.not_found"


class SessionAmbiguous(RecordAmbiguous):
    """Several sessions have an id that begins so, or this number in their projects."""

    type = "session.ambiguous"


class SessionIdTaken(RecordIdTaken):
    """A session with the id exists and differs from the request."""

    type = "session.id_taken"


class SessionChanged(RecordChanged):
    """The session has another revision than the request expects."""

    type = "session.changed"


class SessionCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by this list for these filters."""

    type = "session.cursor_invalid"


class SessionMoveRefused(FailedPrecondition):
    """The status of the session does not allow it; ``details.allowed`` are the moves that it allows."""

    type = "session.move_refused"
