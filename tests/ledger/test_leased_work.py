"""What follows from work under a lease: the row of its agent, its figures, and what others are told or refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from nexus_protocol.context import HeldLease
from support.daemon import DaemonProcess
from support.leases import granted, written
from support.raw import wait_until

from nexus.checkpoints.commands import CreateCheckpoint
from nexus.client import BlockingClient
from nexus.conversations.commands import CreateConversation, CreateMessage
from nexus.conversations.states import Role
from nexus.jobs.commands import CreateJob, GetJob
from nexus.journal.commands import Event, WatchEvents
from nexus.ledger.agents.commands import CreateAgent, GetAgent, TerminateAgent
from nexus.ledger.leases.commands import GetLease, ListLeases, ReleaseLease, RenewLease, RevokeLease
from nexus.ledger.leases.store import LEASES, fence
from nexus.ledger.metrics.commands import ListMetrics
from nexus.ledger.states import AgentStatus, AgentType, LeaseState, TaskStatus, TaskType
from nexus.ledger.tasks.commands import (
    AddTaskComment,
    ApproveTask,
    ClaimTask,
    CompleteTask,
    CreateTask,
    GetTask,
    ResetTask,
    SubmitTask,
    UpdateTask,
)
from nexus.services.commands import AddService, RemoveService, StartService
from nexus.services.states import ServiceType
from nexus.system.commands import SetSetting

_ASK = """
import sys
from nexus.checkpoints.commands import RestoreCheckpoint
from nexus.client import BlockingClient
from nexus.ledger.agents.commands import TerminateAgent
from nexus.ledger.leases.commands import ReleaseLease, RevokeLease
from nexus.ledger.tasks.commands import ApproveTask, ClaimTask
socket, task, gate, lease, agent, checkpoint, out = sys.argv[1:]
types = []
with BlockingClient(socket) as client:
    for command in (
        ApproveTask(gate), RevokeLease(lease), ReleaseLease(lease), ClaimTask(agent, task=task, take_over=True),
        TerminateAgent(agent, force=True), RestoreCheckpoint(checkpoint),
    ):
        try:
            client.call(command)
            types.append("done")
        except Exception as error:
            types.append(error.type)
open(out, "w").write(" ".join(types))
"""
"""Asks for what persons do, with nothing of NEXUS in its environment that nexusctl would read."""


@pytest.fixture
def nexus(shared: DaemonProcess) -> Iterator[BlockingClient]:
    """A client of the daemon of this module."""
    with BlockingClient(shared.socket_path) as client:
        yield client


def claimed(nexus: BlockingClient, agent: str) -> tuple[str, HeldLease]:
    """A new task that a new agent has claimed: its number, and the lease."""
    nexus.call(CreateAgent(agent, AgentType.CODER))
    number = str(nexus.call(CreateTask("a")).number)
    lease = nexus.call(ClaimTask(agent, task=number)).lease
    return number, HeldLease(lease.id, lease.epoch)


def events(nexus: BlockingClient, kind: str, subject: str) -> list[Event]:
    """The events of a kind that a record has."""
    with nexus.stream(WatchEvents(kinds=[kind], subject=subject, follow=False)) as stream:
        return [event for event in stream if event.kind is not None]


def test_an_agent_works_from_its_first_change_under_the_lease_until_the_end(nexus: BlockingClient) -> None:
    number, lease = claimed(nexus, "ada")
    before = nexus.call(GetAgent("ada"))
    nexus.call(GetTask(number), lease=lease)
    assert nexus.call(GetAgent("ada")).status is AgentStatus.ASSIGNED
    nexus.call(CreateTask("another"), lease=lease)
    agent = nexus.call(GetAgent("ada"))
    assert agent.status is AgentStatus.WORKING
    assert agent.last_activity_at > before.last_activity_at
    nexus.call(RenewLease(lease.id))
    renewed = nexus.call(GetAgent("ada"))
    assert renewed.last_activity_at > agent.last_activity_at
    assert renewed.state_revision == agent.state_revision
    assert len(events(nexus, "agent.working", agent.id)) == 1
    nexus.call(SubmitTask(number), lease=lease)
    assert nexus.call(GetAgent("ada")).status is AgentStatus.IDLE


def test_tokens_of_messages_are_those_of_the_agent_that_writes_them(nexus: BlockingClient) -> None:
    number, lease = claimed(nexus, "bob")
    work = nexus.call(CreateConversation(title="work")).id
    nexus.call(CreateMessage(work, Role.ASSISTANT, "a", tokens=7), lease=lease)
    nexus.call(CreateMessage(work, Role.ASSISTANT, "a", tokens=5))
    (metric,) = nexus.call(ListMetrics(task=number)).metrics
    agent = nexus.call(GetAgent("bob"))
    assert (metric.value, metric.agent_id) == (7, agent.id)
    assert agent.tokens_used == 7


def test_reset_keeps_what_the_agent_did(nexus: BlockingClient) -> None:
    number, lease = claimed(nexus, "eve")
    nexus.call(CompleteTask(number), lease=lease)
    nexus.call(ResetTask(number))
    assert nexus.call(GetAgent("eve")).tasks_completed == 1


def test_the_holder_is_told_of_what_others_edit(nexus: BlockingClient) -> None:
    number, lease = claimed(nexus, "fay")
    nexus.call(UpdateTask(number, description="mine"), lease=lease)
    nexus.call(AddTaskComment(number, "mine"), lease=lease)
    nexus.call(UpdateTask(number, priority=5, tags=[]))
    task = nexus.call(GetTask(number))
    assert events(nexus, "task.edited", task.id) == []
    nexus.call(UpdateTask(number, priority=1, name="b"))
    nexus.call(AddTaskComment(number, "look"))
    found = [event.detail for event in events(nexus, "task.edited", task.id)]
    told = {"lease": lease.id, "holder": nexus.call(GetAgent("fay")).id}
    assert found == [told | {"changed": ["name", "priority"]}, told | {"changed": ["comments"]}]
    nexus.call(SubmitTask(number), lease=lease)
    nexus.call(UpdateTask(number, name="c"))
    assert len(events(nexus, "task.edited", task.id)) == 2


@pytest.mark.parametrize("kind", ["job", "service"])
def test_what_persons_do_is_refused_to_what_runs_in_a_job_or_a_service(
    nexus: BlockingClient, shared: DaemonProcess, tmp_path: Path, kind: str
) -> None:
    checkpoint = str(nexus.call(CreateCheckpoint()).number)
    number, lease = claimed(nexus, f"gil-{kind}")
    gate = str(nexus.call(CreateTask("gate", type=TaskType.CHECKPOINT)).number)
    out = tmp_path / "types"
    words = [sys.executable, "-c", _ASK, shared.socket_path, number, gate, lease.id, f"gil-{kind}", checkpoint, out]
    line = ["env", "-i", *map(str, words)]
    if kind == "job":
        job = nexus.call(CreateJob(line))
        wait_until(lambda: nexus.call(GetJob(job.id)).completed_at, "the job")
    else:
        nexus.call(AddService("asks", line, directory=str(tmp_path), type=ServiceType.ONESHOT))
        nexus.call(StartService("asks"))
        nexus.call(RemoveService("asks"))
    assert out.read_text() == "task.needs_person" + 5 * " lease.needs_person"
    assert nexus.call(GetLease(lease.id)).state is LeaseState.LIVE
    assert nexus.call(GetTask(gate)).status is TaskStatus.PENDING
    assert nexus.call(ApproveTask(gate)).status is TaskStatus.COMPLETED
    assert nexus.call(ReleaseLease(lease.id)).state is LeaseState.RELEASED
    nexus.call(ClaimTask(f"gil-{kind}", task=number))
    again = nexus.call(ClaimTask(f"gil-{kind}", task=number, take_over=True))
    assert nexus.call(RevokeLease(again.lease.id)).state is LeaseState.REVOKED
    nexus.call(ClaimTask(f"gil-{kind}", task=number))
    assert nexus.call(TerminateAgent(f"gil-{kind}", force=True)).status is AgentStatus.TERMINATED


def test_a_holder_in_a_job_gives_its_own_lease_back(nexus: BlockingClient, shared: DaemonProcess) -> None:
    _number, lease = claimed(nexus, "hal")
    program = (
        "import sys\n"
        "from nexus.client import BlockingClient\n"
        "from nexus_protocol.context import HeldLease\n"
        "from nexus.ledger.leases.commands import ReleaseLease\n"
        "with BlockingClient(sys.argv[1]) as client:\n"
        "    client.call(ReleaseLease(sys.argv[2]), lease=HeldLease(sys.argv[2], int(sys.argv[3])))\n"
    )
    words = [sys.executable, "-c", program, str(shared.socket_path), lease.id, str(lease.epoch)]
    job = nexus.call(CreateJob(words))
    wait_until(lambda: nexus.call(GetJob(job.id)).completed_at, "the job")
    assert nexus.call(GetLease(lease.id)).state is LeaseState.RELEASED


def test_old_leases_go_and_their_fences_stay(daemon: DaemonProcess) -> None:
    with BlockingClient(daemon.socket_path) as nexus:
        _number, lease = claimed(nexus, "ada")
        nexus.call(RevokeLease(lease.id))
        recent = nexus.call(ClaimTask("ada")).lease
        nexus.call(ReleaseLease(recent.id))
        task = nexus.call(GetLease(lease.id)).resource_id
        nexus.call(SetSetting("leases.keep_days", 2))
    daemon.stop()
    live = granted(daemon.database)
    long_ago = 3 * 86_400_000
    written(
        daemon.database,
        lambda tx: [
            tx.execute("UPDATE lease SET granted_at = granted_at - ?, ended_at = ended_at - ? WHERE id = ?", (
                long_ago, long_ago, id_,
            ))
            for id_ in (lease.id, live.id)
        ],
    )  # fmt: skip
    daemon.start()
    with BlockingClient(daemon.socket_path) as nexus:
        wait_until(lambda: events(nexus, "lease.deleted", lease.id), "the look at old leases")
        assert {each.id for each in nexus.call(ListLeases()).leases} == {recent.id, live.id}
        assert nexus.call(ClaimTask("ada")).lease.epoch > recent.epoch
    daemon.stop()
    assert written(daemon.database, lambda tx: fence(tx, "task", task)) > recent.epoch
    assert written(daemon.database, lambda tx: LEASES.by_id(tx, lease.id)) is None


def test_a_job_that_ends_while_no_daemon_runs_gives_the_task_back_at_the_next_start(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    begun, stop, ended = (tmp_path / name for name in ("begun", "stop", "ended"))
    script = f"touch {begun}; while [ ! -e {stop} ]; do sleep 0.02; done; touch {ended}; exit 4"
    with BlockingClient(daemon.socket_path) as nexus:
        number, lease = claimed(nexus, "ada")
        job = nexus.call(CreateJob(["sh", "-c", script]), lease=lease)
        assert nexus.call(RenewLease(lease.id, job=job.id), lease=lease).job_id == job.id
        wait_until(begun.exists, "the job")
    daemon.stop()
    stop.touch()
    wait_until(ended.exists, "its end")
    daemon.start()
    with BlockingClient(daemon.socket_path) as nexus:
        found = wait_until(
            lambda: None if (each := nexus.call(GetLease(lease.id))).state is LeaseState.LIVE else each, "the release"
        )
        assert (found.state, found.reason) == (LeaseState.RELEASED, "job 1 has ended with exit code 4 (failed)")
        assert nexus.call(GetTask(number)).status is TaskStatus.PENDING


def test_a_job_that_has_ended_renews_no_lease(nexus: BlockingClient) -> None:
    number, lease = claimed(nexus, "ivy")
    job = nexus.call(CreateJob(["true"]))
    wait_until(lambda: nexus.call(GetJob(job.id)).completed_at, "the job")
    nexus.call(RenewLease(lease.id, job=job.id))
    wait_until(lambda: nexus.call(GetLease(lease.id)).state is LeaseState.RELEASED, "the release")
    assert nexus.call(GetTask(number)).status is TaskStatus.PENDING
