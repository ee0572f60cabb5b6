"""Sessions: their moves, their data, and what is refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nexus_protocol import InvalidArgument
from support.cli import Cli
from support.daemon import DaemonProcess

from nexus.client import BlockingClient
from nexus.journal.commands import WatchEvents
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
from nexus.ledger.sessions.errors import SessionChanged, SessionIdTaken, SessionMoveRefused
from nexus.ledger.states import SESSION_MOVES, SessionStatus, SessionType
from nexus.projects.commands import CreateProject, DeleteProject

ID = "6f1c0f7e-2f0c-4b60-9a63-3f1d5e0c1a03"
MOVES: dict[str, Any] = {
    "pause": PauseSession,
    "resume": ResumeSession,
    "complete": CompleteSession,
    "cancel": CancelSession,
}
MEBIBYTE = 1024 * 1024


@pytest.fixture
def nexus(daemon: DaemonProcess) -> Iterator[BlockingClient]:
    """A client of a daemon without records."""
    with BlockingClient(daemon.socket_path) as client:
        yield client


def test_session_makes_exactly_the_moves_of_its_status(nexus: BlockingClient) -> None:
    ways: dict[SessionStatus, list[str]] = {
        SessionStatus.ACTIVE: [],
        SessionStatus.PAUSED: ["pause"],
        SessionStatus.COMPLETED: ["complete"],
        SessionStatus.CANCELLED: ["pause", "cancel"],
    }
    for (status, way), move in itertools.product(ways.items(), MOVES):
        made = nexus.call(StartSession(SessionType.INTERVIEW))
        for each in way:
            made = nexus.call(MOVES[each](made.id))
        assert made.status is status
        allowed = [name for name, (statuses, _to) in SESSION_MOVES.items() if status in statuses]
        if move in allowed:
            moved = nexus.call(MOVES[move](str(made.number)))
            assert SESSION_MOVES[move][1] == {moved.status}
            assert (moved.ended_at is not None) == (move in ("complete", "cancel"))
            assert (moved.revision, moved.state_revision) == (1, len(way) + 1)
            continue
        with pytest.raises(SessionMoveRefused, match=f'cannot {move} session "{made.number}": it is {status}') as error:
            nexus.call(MOVES[move](made.id))
        assert error.value.details["allowed"] == allowed
        assert all(f"nexusctl session {name} {made.number}" in (error.value.hint or "") for name in allowed)
        assert nexus.call(GetSession(made.id)) == made


def test_session_is_resumed_with_its_data(daemon: DaemonProcess, nexus: BlockingClient) -> None:
    data = {"asked": 3, "answers": [{"text": "ja", "sure": 0.5}], "note": "ü" * 1000}
    nexus.call(StartSession(SessionType.INTERVIEW, title="First talk", data=data))
    nexus.call(PauseSession("1", if_state_revision=0))
    with pytest.raises(SessionChanged):
        nexus.call(ResumeSession("1", if_state_revision=0))
    assert daemon.stop() == 0
    daemon.start()
    with BlockingClient(daemon.socket_path) as client:
        resumed = client.call(ResumeSession("1", if_state_revision=1))
        assert (resumed.status, resumed.data, resumed.title) == (SessionStatus.ACTIVE, data, "First talk")


def test_data_has_1_mib_at_most_and_is_not_in_lists_and_events(nexus: BlockingClient) -> None:
    nexus.call(StartSession(SessionType.PLANNING, data={"text": "walrus"}))
    large = {"text": "x" * (MEBIBYTE - 16)}
    assert nexus.call(UpdateSession("1", data=large, if_revision=1)).revision == 2
    assert nexus.call(GetSession("1")).data == large
    for command in (UpdateSession("1", data={"text": "x" * MEBIBYTE}), StartSession(SessionType.PLANNING, data=None)):
        if isinstance(command, StartSession):
            assert nexus.call(command).data == {}
            continue
        with pytest.raises(InvalidArgument, match="data is larger than 1 MiB"):
            nexus.call(command)
    assert [one.data for one in nexus.call(ListSessions()).sessions] == [None, None]
    events = list(nexus.stream(WatchEvents(kinds=["session.updated"], follow=False)))
    assert [event.detail for event in events] == [{"data": {"changed": True}}]


def test_sessions_are_repeated_listed_and_deleted(nexus: BlockingClient) -> None:
    command = StartSession(SessionType.EXECUTION, title="Build", id=ID)
    assert nexus.call(command) == nexus.call(command)
    with pytest.raises(SessionIdTaken):
        nexus.call(StartSession(SessionType.EXECUTION, title="Test", id=ID))
    nexus.call(StartSession(SessionType.INTERVIEW))
    nexus.call(PauseSession("2"))
    nexus.call(StartSession(SessionType.INTERVIEW))
    nexus.call(StartSession(SessionType.INTERVIEW))
    nexus.call(CompleteSession("3"))
    nexus.call(CancelSession("4"))
    for number in ("3", "4"):
        assert nexus.call(DeleteSession(number)).ended_at is not None
    assert [one.number for one in nexus.call(ListSessions(status=SessionStatus.PAUSED)).sessions] == [2]
    assert [one.number for one in nexus.call(ListSessions(type=SessionType.EXECUTION)).sessions] == [1]
    nexus.call(DeleteSession("2", if_revision=1, if_state_revision=1))
    assert [one.number for one in nexus.call(ListSessions()).sessions] == [1]
    nexus.call(CreateProject("shop"))
    nexus.call(StartSession(SessionType.PLANNING), project="shop")
    assert [record.kind for record in nexus.call(DeleteProject("shop", cascade=True)).records] == ["session"]


def test_verbs_of_sessions_move_them(daemon: DaemonProcess, root: Path) -> None:
    cli = Cli(daemon.environment)

    def run(*words: str) -> str:
        return cli.ok(*words).out

    file = root / "data.json"
    file.write_text(json.dumps({"asked": [1, 2]}))
    assert run("session", "start", "interview", "--title", "Talk") == 'Started session "1" (interview)\n'
    assert run("session", "update", "1", "--file", str(file)) == 'Updated session "1" (interview)\n'
    assert run("session", "pause", "1") == 'Paused session "1"\n'
    refused = cli("session", "pause", "1")
    assert refused.code == 5
    assert "nexusctl session resume 1" in refused.err
    assert json.loads(run("session", "inspect", "1", "-o", "json"))["data"] == {"asked": [1, 2]}
    assert run("session", "complete", "1") == 'Completed session "1"\n'
    assert run("session", "delete", "1", "--yes") == 'Deleted session "1"\n'
    file.write_text("[1]")
    assert cli("session", "start", "planning", "--file", str(file)).code == 2
