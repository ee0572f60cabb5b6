"""Agents: their configuration, their statuses, and what they note of their work."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nexus_protocol import Command, InvalidArgument
from support.daemon import DaemonProcess
from support.operations import an_operation
from support.stores import make_store, running

from nexus.client import BlockingClient
from nexus.journal.commands import WatchEvents
from nexus.ledger.agents.commands import (
    CreateAgent,
    DeleteAgent,
    GetAgent,
    ListAgents,
    PauseAgent,
    ReportAgentError,
    ResumeAgent,
    TerminateAgent,
    UpdateAgent,
)
from nexus.ledger.agents.errors import (
    AgentChanged,
    AgentIdTaken,
    AgentLeased,
    AgentMoveRefused,
    AgentNameTaken,
    AgentNotFound,
)
from nexus.ledger.agents.records import Agent
from nexus.ledger.agents.store import AGENTS, agent_named, claimed, count_tokens, finished, touch
from nexus.ledger.states import AGENT_MOVES, AgentStatus, AgentType, ModelProvider
from nexus.projects.commands import CreateProject
from nexus.store import Transaction

ID = "0190f4a2-7c1e-4d5a-9b3e-2f6c8d1a4b71"
TASK, OTHER = "0190f4a2-7c1e-4d5a-9b3e-2f6c8d1a4b72", "0190f4a2-7c1e-4d5a-9b3e-2f6c8d1a4b73"

MOVES: dict[str, Callable[[str], Command[Agent]]] = {
    "pause": lambda name: PauseAgent(name, reason="waits"),
    "resume": ResumeAgent,
    "fail": lambda name: ReportAgentError(name, "it broke"),
    "terminate": lambda name: TerminateAgent(name, reason="done"),
}
BY: dict[AgentStatus, tuple[str, ...]] = {
    AgentStatus.IDLE: (),
    AgentStatus.PAUSED: ("pause",),
    AgentStatus.ERROR: ("fail",),
    AgentStatus.TERMINATED: ("terminate",),
}
"""The moves that lead to a status."""


@pytest.fixture
def nexus(daemon: DaemonProcess) -> Iterator[BlockingClient]:
    with BlockingClient(daemon.socket_path) as client:
        yield client


def hold(daemon: DaemonProcess, agent_id: str, kind: str = "space", resource_id: str = TASK) -> None:
    """Give an agent a live lease, which no daemon watches."""
    values = {
        "id": resource_id,
        "resource_kind": kind,
        "resource_id": resource_id,
        "epoch": 1,
        "holder": agent_id,
        "host": "h",
        "granted_at": 1,
        "ttl_ms": 10**9,
        "renewed_at": 1,
        "state": "live",
        "boot_id": "b",
        "created_at": 1,
        "updated_at": 1,
    }
    with contextlib.closing(sqlite3.connect(daemon.database)) as database, database:
        names = ", ".join(values)
        database.execute(f"INSERT INTO lease ({names}) VALUES ({', '.join('?' * len(values))})", (*values.values(),))


def test_agent_has_what_it_was_spawned_with(nexus: BlockingClient) -> None:
    made = nexus.call(CreateAgent("ada", AgentType.CODER, tools=["git"], tags=["fast", "fast"], id=ID))
    assert (made.status, made.model_provider, made.model_name) == (
        *(AgentStatus.IDLE, ModelProvider.ANTHROPIC),
        "claude-sonnet-4",
    )
    assert (made.temperature, made.max_tokens, made.tools, made.tags) == (0.3, 8000, ["git"], ["fast"])
    assert made.spawned_at == made.last_activity_at == made.created_at
    again = CreateAgent("ada", AgentType.CODER, tools=["git"], tags=["fast"], id=ID)
    assert nexus.call(again) == made
    with pytest.raises(AgentIdTaken):
        nexus.call(CreateAgent("ada", AgentType.TESTER, id=ID))
    with pytest.raises(AgentNameTaken):
        nexus.call(CreateAgent("ada", AgentType.CODER))
    nexus.call(CreateProject("shop"))
    assert nexus.call(GetAgent("ada"), project="shop") == made


def test_configuration_changes_and_state_does_not(nexus: BlockingClient) -> None:
    made = nexus.call(CreateAgent("ada", AgentType.CODER))
    new = {
        "model_provider": ModelProvider.GOOGLE,
        "model_name": "gemini-2.5",
        "temperature": 1.0,
        "max_tokens": 1,
        "system_prompt": "prompts/ada.md",
        "tools": ["sh"],
        "tags": ["slow"],
    }
    changed = nexus.call(UpdateAgent("ada", name="bo", if_revision=1, **new))  # type: ignore[arg-type]
    assert {name: getattr(changed, name) for name in new} == new
    assert (changed.name, changed.revision, changed.state_revision) == ("bo", 2, 0)
    assert changed.spawned_at == made.spawned_at
    with pytest.raises(AgentChanged):
        nexus.call(UpdateAgent("bo", temperature=0.1, if_revision=1))
    with pytest.raises(AgentNotFound):
        nexus.call(GetAgent("ada"))
    assert [each.name for each in nexus.call(ListAgents(tag="slow")).agents] == ["bo"]
    assert nexus.call(ListAgents(tag="fast")).agents == []


@pytest.mark.parametrize("value", [-0.1, 2.1, math.nan, math.inf])
def test_temperature_is_a_number_between_0_and_2(nexus: BlockingClient, value: float) -> None:
    with pytest.raises(InvalidArgument) as raised:
        nexus.call(CreateAgent("ada", AgentType.CODER, temperature=value))
    assert raised.value.details["path"] == "temperature"  # type: ignore[index]
    nexus.call(CreateAgent("ada", AgentType.CODER))
    with pytest.raises(InvalidArgument):
        nexus.call(UpdateAgent("ada", temperature=value))


def test_lists_are_by_name_and_filtered(nexus: BlockingClient) -> None:
    for name, kind in (("c", AgentType.CODER), ("a", AgentType.TESTER), ("b", AgentType.CODER)):
        nexus.call(CreateAgent(name, kind))
    nexus.call(PauseAgent("b"))

    def names(**filters: Any) -> list[str]:
        return [each.name for each in nexus.call(ListAgents(**filters)).agents]

    assert names() == ["a", "b", "c"]
    assert names(type=AgentType.CODER) == ["b", "c"]
    assert names(status=AgentStatus.PAUSED) == ["b"]
    assert names(status=AgentStatus.IDLE, type=AgentType.CODER) == ["c"]
    first = nexus.call(ListAgents(limit=2))
    assert [each.name for each in nexus.call(ListAgents(limit=2, cursor=first.next_cursor)).agents] == ["c"]


@pytest.mark.parametrize("status", BY)
@pytest.mark.parametrize("name", MOVES)
def test_each_move_is_allowed_as_the_table_says(nexus: BlockingClient, status: AgentStatus, name: str) -> None:
    nexus.call(CreateAgent("ada", AgentType.CODER))
    for each in BY[status]:
        nexus.call(MOVES[each]("ada"))
    before = nexus.call(GetAgent("ada"))
    assert before.status is status
    allowed_in, to = AGENT_MOVES[name]
    if status not in allowed_in:
        with pytest.raises(AgentMoveRefused) as raised:
            nexus.call(MOVES[name]("ada"))
        allowed = {each for each in MOVES if status in AGENT_MOVES[each][0]}
        assert set(raised.value.details["allowed"]) == allowed  # type: ignore[index]
        assert all(each in raised.value.message for each in allowed)
        assert nexus.call(GetAgent("ada")) == before
        return
    after = nexus.call(MOVES[name]("ada"))
    assert after.status in to
    assert after.state_revision == before.state_revision + 1
    assert after.reason == {"pause": "waits", "fail": "it broke"}.get(name)
    assert (after.terminated_at is not None, after.termination_reason) == (
        (True, "done") if name == "terminate" else (False, None)
    )


def test_agent_with_a_live_lease_stays(daemon: DaemonProcess, nexus: BlockingClient) -> None:
    ada = nexus.call(CreateAgent("ada", AgentType.CODER))
    hold(daemon, ada.id)
    for command in (DeleteAgent("ada"), TerminateAgent("ada")):
        with pytest.raises(AgentLeased) as raised:
            nexus.call(command)
        assert raised.value.details["leases"] == [{"resource_kind": "space", "resource_id": TASK}]  # type: ignore[index]
    nexus.call(PauseAgent("ada"))
    assert nexus.call(ResumeAgent("ada")).status is AgentStatus.WORKING
    assert nexus.call(TerminateAgent("ada", force=True)).status is AgentStatus.TERMINATED
    with contextlib.closing(sqlite3.connect(daemon.database)) as database:
        assert database.execute("SELECT state FROM lease").fetchall() == [("revoked",)]
    assert nexus.call(DeleteAgent("ada")).name == "ada"
    with nexus.stream(WatchEvents(follow=False)) as stream:
        kinds = [event.kind for event in stream if event.subject_kind == "agent"]
    assert kinds == [
        *("agent.created", "agent.paused", "agent.resumed", "agent.terminated"),
        "agent.deleted",
    ]


def test_work_is_noted(tmp_path: Path) -> None:
    operation = an_operation()

    def spawn(tx: Transaction) -> Agent:
        fields = {
            "name": "ada",
            "type": AgentType.CODER,
            "status": AgentStatus.IDLE,
            "temperature": 0.3,
            "model_provider": ModelProvider.OPENAI,
            "model_name": "m",
            "max_tokens": 1,
            "tokens_used": 0,
            "tasks_completed": 0,
            "tasks_failed": 0,
            "spawned_at": 1,
            "last_activity_at": 1,
        }
        return AGENTS.insert(tx, operation, fields)

    def work(tx: Transaction) -> list[Agent]:
        ada = agent_named(tx, "ada")
        seen = [claimed(tx, operation, ada.id, TASK, "/w", "b")]
        touch(tx, ada.id)
        seen.append(AGENTS.get(tx, ada.id))
        touch(tx, ada.id, operation)
        seen.append(AGENTS.get(tx, ada.id))
        claimed(tx, operation, ada.id, OTHER, None, None)
        # The task that it does not work on at present ends, and then the one that it does.
        for task, failed in ((TASK, False), (OTHER, True)):
            done = finished(tx, operation, ada.id, task, completed=not failed, failed=failed)
            assert done is not None
            seen.append(done)
        count_tokens(tx, ada.id, 7)
        seen.append(AGENTS.get(tx, ada.id))
        return seen

    async def run() -> None:
        async with running(make_store(tmp_path)) as store:
            await store.write(spawn)
            seen = await store.write(work)
            assert [each.status.value for each in seen] == [
                *("assigned", "assigned", "working", "assigned", "idle", "idle"),
            ]
            assert [each.current_task_id for each in seen] == [TASK, TASK, TASK, OTHER, None, None]
            assert (seen[0].worktree_path, seen[0].branch_name, seen[4].worktree_path) == ("/w", "b", None)
            assert (seen[4].tasks_completed, seen[4].tasks_failed, seen[5].tokens_used) == (1, 1, 7)
            assert seen[1].last_activity_at > 1
            assert seen[5].revision == 1

    asyncio.run(run())


@pytest.mark.parametrize("move", ["pause", "fail", "terminate"])
def test_only_an_agent_that_can_work_claims(tmp_path: Path, daemon: DaemonProcess, move: str) -> None:
    with BlockingClient(daemon.socket_path) as client:
        ada = client.call(CreateAgent("ada", AgentType.CODER))
        client.call(MOVES[move]("ada"))
    assert daemon.stop() == 0
    (tmp_path / "state").mkdir()
    with contextlib.closing(sqlite3.connect(daemon.database)) as database:
        database.execute("VACUUM INTO ?", (str(tmp_path / "state" / "nexus.db"),))

    async def run() -> None:
        async with running(make_store(tmp_path)) as store:
            with pytest.raises(AgentMoveRefused) as raised:
                await store.write(lambda tx: claimed(tx, an_operation(), ada.id, TASK, None, None))
            assert "cannot claim a task for agent" in raised.value.message
            ended = await store.write(
                lambda tx: finished(tx, an_operation(), ada.id, TASK, completed=True, failed=False)
            )
            assert ended is not None
            assert ended.status not in (AgentStatus.IDLE, AgentStatus.WORKING)

    asyncio.run(run())
