"""The handlers of the commands on sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from nexus_protocol import Command, InvalidArgument, encode_record

from nexus.capability import Context, handles
from nexus.hints import command_line
from nexus.journal.operation import Operation
from nexus.ledger.sessions.commands import (
    CancelSession,
    CompleteSession,
    DeleteSession,
    GetSession,
    ListSessions,
    PauseSession,
    ResumeSession,
    StartSession,
    UpdateSession,
)
from nexus.ledger.sessions.errors import SessionIdTaken, SessionMoveRefused
from nexus.ledger.sessions.records import DATA_BYTES, Session
from nexus.ledger.sessions.store import SESSIONS
from nexus.ledger.states import SESSION_MOVES, SessionStatus
from nexus.records.contents import Contents, Held, contents, numbered
from nexus.records.handlers import deletes, gets, lists, updates
from nexus.records.scope import reference_of
from nexus.store import Transaction

__all__ = [
    "cancel_session",
    "complete_session",
    "delete_session",
    "get_session",
    "list_sessions",
    "pause_session",
    "resume_session",
    "start_session",
    "update_session",
]

_TOLD = ("type", "title", "status")
_ENDED = (SessionStatus.COMPLETED, SessionStatus.CANCELLED)


def _delete_all(tx: Transaction, operation: Operation, _project_id: str, held: list[Held]) -> None:
    for each in held:
        SESSIONS.delete(tx, operation, SESSIONS.get(tx, each.id), _TOLD)


contents(Contents("session", "session", numbered(SESSIONS), _delete_all))


def _check_data(data: Mapping[str, Any] | None, cannot: str) -> None:
    """Refuse data that is too large.

    Raises:
        InvalidArgument: it is.
    """
    if data is not None and len(encode_record(data)) > DATA_BYTES:
        raise InvalidArgument(f"{cannot}: data is larger than 1 MiB", details={"path": "data"})


@handles(StartSession)
def start_session(tx: Transaction, ctx: Context, command: StartSession) -> Session:
    cannot = "cannot start the session"
    _check_data(command.data, cannot)
    fields = msgspec.structs.asdict(command) | {
        "data": command.data or {},
        "project_id": ctx.scope(tx).home(cannot),
    }
    present = None if command.id is None else SESSIONS.by_id(tx, command.id)
    if present is None:
        return SESSIONS.insert(tx, ctx.operation, fields | {"started_at": tx.now})
    if all(getattr(present, field) == value for field, value in fields.items()):
        return present
    raise SessionIdTaken(
        f'{cannot}: session "{present.number}" has the id {present.id} and differs from this request',
        hint="To repeat a request, give the fields that the session has now; for another one choose another id.",
        details={"id": present.id, "number": present.number},
    )


def _check_update(_tx: Transaction, _session: Session, command: UpdateSession, cannot: str) -> None:
    _check_data(command.data, cannot)


get_session = gets(SESSIONS, GetSession)
list_sessions = lists(SESSIONS, ListSessions, "sessions")
update_session = updates(SESSIONS, UpdateSession, _check_update)
delete_session = deletes(SESSIONS, DeleteSession, told=_TOLD)


def _moves(move: str, of: type[Command[Session]]) -> Any:
    """Make the handler of a move; the table of moves says when it is allowed, and where it leads."""
    allowed, (to,) = SESSION_MOVES[move]

    @handles(of)
    def handler(tx: Transaction, ctx: Context, command: Any) -> Session:
        session = SESSIONS.resolve(tx, command.session, ctx.scope(tx))
        cannot = f'cannot {move} session "{session.number}"'
        SESSIONS.expect(session, cannot, None, command.if_state_revision)
        if session.status not in allowed:
            raise _refused(session, cannot)
        changes = {"status": to, "ended_at": tx.now if to in _ENDED else None}
        detail = {"status": {"from": session.status, "to": to}}
        return SESSIONS.update(tx, ctx.operation, session, changes, event="moved", detail=detail)

    return handler


def _refused(session: Session, cannot: str) -> SessionMoveRefused:
    moves = [move for move, (allowed, _to) in SESSION_MOVES.items() if session.status in allowed]
    name = reference_of(session)
    lines = {
        "pause": command_line("nexusctl", "session", "pause", name),
        "resume": command_line("nexusctl", "session", "resume", name),
        "complete": command_line("nexusctl", "session", "complete", name),
        "cancel": command_line("nexusctl", "session", "cancel", name),
    }
    return SessionMoveRefused(
        f"{cannot}: it is {session.status}, which allows "
        + (f"{', '.join(moves[:-1])} and {moves[-1]}" if moves else "no move any more"),
        hint="\n".join(f"To {move} it: {lines[move]}" for move in moves)
        or "Start another one: nexusctl session start TYPE",
        details={"id": session.id, "number": session.number, "status": session.status, "allowed": moves},
    )


pause_session = _moves("pause", PauseSession)
resume_session = _moves("resume", ResumeSession)
complete_session = _moves("complete", CompleteSession)
cancel_session = _moves("cancel", CancelSession)
