"""The statuses of projects: what moves them, what is refused, and what begins them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from nexus_protocol import Command
from support.operations import TESTER
from support.projects import Speaker, events_of, project
from support.stores import make_store, running

from nexus.journal.operation import Operation
from nexus.projects.commands import (
    CompleteProject,
    CreateProject,
    FailProject,
    GetProject,
    PauseProject,
    Project,
    ProjectChanged,
    ProjectMoveRefused,
    ResumeProject,
)
from nexus.projects.states import PROJECT_MOVES, ProjectStatus
from nexus.projects.store import PROJECTS, move
from nexus.records.beginning import begin
from nexus.store import Transaction

COMMANDS: dict[str, type[Command[Project]]] = {
    "pause": PauseProject,
    "resume": ResumeProject,
    "complete": CompleteProject,
    "fail": FailProject,
}
BY: dict[ProjectStatus, list[str]] = {
    ProjectStatus.CREATED: [],
    ProjectStatus.IN_PROGRESS: ["pause", "resume"],
    ProjectStatus.PAUSED: ["pause"],
    ProjectStatus.COMPLETED: ["complete"],
    ProjectStatus.FAILED: ["fail"],
}
"""The moves that lead to a status."""


def send(speaker: Speaker, name: str) -> Project:
    reply: Project = speaker.call(COMMANDS[name]("shop"))  # type: ignore[call-arg]
    return reply


@pytest.mark.parametrize("status", BY)
@pytest.mark.parametrize("name", COMMANDS)
def test_each_move_is_allowed_as_the_table_says(nexus: Speaker, status: ProjectStatus, name: str) -> None:
    nexus.call(CreateProject("shop"))
    for each in BY[status]:
        send(nexus, each)
    before = nexus.call(GetProject("shop"))
    assert before.status is status
    allowed_in, to = PROJECT_MOVES[name]
    if status in allowed_in:
        after = send(nexus, name)
        assert (after.status, after.state_revision) == (to, before.state_revision + 1)
        assert (after.completed_at is not None) == (to is ProjectStatus.COMPLETED)
        return
    with pytest.raises(ProjectMoveRefused) as raised:
        send(nexus, name)
    assert raised.value.details is not None
    assert set(raised.value.details["allowed"]) == {each for each in COMMANDS if status in PROJECT_MOVES[each][0]}
    assert nexus.call(GetProject("shop")) == before


def test_reason_is_told_and_a_changed_project_is_left(nexus: Speaker) -> None:
    shop = project(nexus, "shop")
    shop.call(PauseProject("shop", reason="the customer is asked"))
    with pytest.raises(ProjectChanged):
        shop.call(ResumeProject("shop", if_state_revision=0))
    shop.call(ResumeProject("shop", if_state_revision=1))
    told = [(event.kind, event.detail) for event in events_of(shop)]
    assert told[-2:] == [("project.paused", {"reason": "the customer is asked"}), ("project.resumed", {})]


def test_first_work_begins_a_project_once(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(make_store(tmp_path)) as store:

            def begin_twice(tx: Transaction) -> list[Project]:
                operation = Operation(TESTER, "Begin")
                found = PROJECTS.insert(tx, operation, {"name": "shop", "mode": "genesis", "status": "created"})
                for _time in range(2):
                    begin(tx, operation, found.id)
                begun = PROJECTS.get(tx, found.id)
                move(tx, operation, begun, "pause", "paused", None)
                begin(tx, operation, found.id)
                return [begun, PROJECTS.get(tx, found.id)]

            begun, paused = await store.write(begin_twice)
            assert (begun.status, begun.state_revision) == (ProjectStatus.IN_PROGRESS, 1)
            assert (paused.status, paused.state_revision) == (ProjectStatus.PAUSED, 2)

    asyncio.run(run())
