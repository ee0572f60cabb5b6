"""``nexusctl session``: the verbs of sessions, and how sessions are printed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from nexus.cli.output import Column, Printer, format_time
from nexus.cli.records import Noun, make_delete, make_inspect, make_list, make_switch, name_of, names_starting
from nexus.cli.verbs import NounGroup, Values, completers, verb
from nexus.ledger.cli.features import SUGGESTIONS
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
from nexus.ledger.sessions.records import Session, SessionPage

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["session"]

_SESSION = Noun("session", "sessions", "session", SessionPage.sessions)
_COLUMNS: tuple[Column[Session], ...] = (
    Column("NUMBER", lambda one: one.number, 6),
    Column("TYPE", lambda one: one.type, 10),
    Column("STATUS", lambda one: one.status, 10),
    Column("STARTED", lambda one: format_time(one.started_at), 19),
    Column("TITLE", lambda one: one.title, 30),
    Column("ENDED", lambda one: format_time(one.ended_at), wide=True),
    Column("ID", lambda one: one.id, wide=True),
)


def _lines(one: Session) -> list[tuple[str, object]]:
    return [
        ("Number", one.number),
        ("ID", one.id),
        ("Project", one.project),
        ("Type", one.type),
        ("Status", one.status),
        ("Title", one.title),
        ("Started", format_time(one.started_at)),
        ("Ended", format_time(one.ended_at)),
        ("Data", json.dumps(one.data, ensure_ascii=False, default=str) if one.data else None),
    ]


def _make(command: type[StartSession | UpdateSession], done: str) -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        others = {}
        if (path := values.text("file")) is not None:
            if values.given("data"):
                raise click.UsageError("give --data or --file, and not both")
            others["data"] = _data(path)
        if command is UpdateSession and not others and not values.any_given(lambda name: name in ("title", "data")):
            raise click.UsageError("nothing to change: give --title, --data or --file")
        result = app.fetch(values.build(command, **others))
        out.one(result, name=name_of, sentence=lambda one: click.echo(f'{done} session "{one.number}" ({one.type})'))

    file = click.Option(["--file"], metavar="FILE", help="A file with its data, a JSON object; - is the input.")
    return verb(command, run, parameters=[file])


def _data(path: str) -> object:
    try:
        with click.open_file(path, "rb") as file:
            data = json.loads(file.read())
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise click.UsageError(f"the file of --file is no JSON: {error}") from None
    if not isinstance(data, dict):
        raise click.UsageError("the file of --file has no JSON object")
    return data


def _complete(app: App, incomplete: str) -> list[str]:
    return names_starting(app, ListSessions(limit=10_000), _SESSION, incomplete)


completers["session"] = _complete

session = NounGroup(
    "session",
    "Manage sessions.",
    {
        "start": ("Start a session.", lambda: _make(StartSession, "Started")),
        "list": ("List sessions.", lambda: make_list(ListSessions, _SESSION, _COLUMNS)),
        "inspect": ("Show sessions with their data.", lambda: make_inspect(GetSession, _SESSION, _lines)),
        "update": ("Change the title of a session, or its data.", lambda: _make(UpdateSession, "Updated")),
        "pause": ("Pause active sessions.", lambda: make_switch(PauseSession, _SESSION, "Paused")),
        "resume": ("Resume paused sessions.", lambda: make_switch(ResumeSession, _SESSION, "Resumed")),
        "complete": ("Complete sessions.", lambda: make_switch(CompleteSession, _SESSION, "Completed")),
        "cancel": ("Cancel sessions.", lambda: make_switch(CancelSession, _SESSION, "Cancelled")),
        "delete": ("Delete sessions.", lambda: make_delete(GetSession, DeleteSession, _SESSION)),
    },
    SUGGESTIONS | dict.fromkeys(("create", "add", "new"), " (did you mean 'start'?)"),
)
