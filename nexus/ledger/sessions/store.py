"""The table of sessions."""

from __future__ import annotations

from nexus.ledger.sessions.errors import (
    SessionAmbiguous,
    SessionChanged,
    SessionCursorInvalid,
    SessionIdTaken,
    SessionNotFound,
)
from nexus.ledger.sessions.records import Session
from nexus.records.errors import RecordErrors, RecordNameTaken
from nexus.records.table import Table

__all__ = ["SESSIONS"]

SESSIONS = Table(
    Session,
    "sessions",
    kind="session",
    word="session",
    look="session inspect",
    errors=RecordErrors(
        SessionNotFound, SessionAmbiguous, RecordNameTaken, SessionIdTaken, SessionChanged, SessionCursorInvalid
    ),
    observed=("status", "ended_at"),
    order=("number", "id"),
    descending=False,
    indexed=("status", "type"),
    told=("type", "title"),
    state="status",
    unlisted=("data",),
)
