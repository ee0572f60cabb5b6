"""Claims of tasks: who wins, what they change with them, and how they end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from nexus_protocol import NexusError
from nexus_protocol.context import HeldLease
from support.daemon import DaemonProcess
from support.raw import wait_until

from nexus.client import BlockingClient
from nexus.jobs.commands import CreateJob, GetJob
from nexus.ledger.agents.commands import CreateAgent, GetAgent
from nexus.ledger.features.commands import GetFeature
from nexus.ledger.states import AgentStatus, AgentType, TaskReason, TaskStatus, TaskType
from nexus.ledger.tasks.commands import (
    ApproveTask,
    BlockTask,
    ClaimTask,
    CompleteTask,
    CreateTask,
    CreateTaskGraph,
    DeleteTask,
    FailTask,
    GetTask,
    GraphFeature,
    GraphTask,
    ListTasks,
    RejectTask,
    ResetTask,
    SubmitTask,
    UpdateTask,
)
from nexus.ledger.tasks.errors import (
    TaskClaimed,
    TaskInvalid,
    TaskIsCheckpoint,
    TaskLimit,
    TaskMoveRefused,
    TaskNoneReady,
    TaskNotReady,
)
from nexus.projects.commands import CreateProject, GetProject, PauseProject
from nexus.projects.states import ProjectStatus


@pytest.fixture
def nexus(daemon: DaemonProcess) -> Iterator[BlockingClient]:
    """A client of a daemon with two agents."""
    with BlockingClient(daemon.socket_path) as client:
        for name in ("ada", "bob"):
            client.call(CreateAgent(name, AgentType.CODER))
        yield client


def test_claim_begins_a_task_for_its_agent(nexus: BlockingClient) -> None:
    nexus.call(CreateTask("a"))
    got = nexus.call(ClaimTask("ada", branch_name="task-1", worktree_path="/tmp/t1"))
    task, lease = got.task, got.lease
    agent = nexus.call(GetAgent("ada"))
    assert (task.number, task.status, task.assigned_agent) == (1, TaskStatus.IN_PROGRESS, agent.id)
    assert task.claimed_at == task.started_at is not None
    assert (lease.epoch, lease.holder, lease.agent, lease.ttl_ms) == (1, agent.id, "ada", 120_000)
    assert (agent.status, agent.current_task_id, agent.branch_name, agent.worktree_path) == (
        AgentStatus.ASSIGNED, task.id, "task-1", "/tmp/t1",
    )  # fmt: skip
    shown = nexus.call(GetTask("1")).lease
    assert shown is not None
    assert (shown.id, shown.epoch, shown.overdue) == (lease.id, 1, False)
    assert [each.number for each in nexus.call(ListTasks(assigned_agent="ada")).tasks] == [1]


def test_losers_are_told_who_was_first(nexus: BlockingClient) -> None:
    nexus.call(CreateTask("a"))
    nexus.call(ClaimTask("ada", task="1"))
    with pytest.raises(TaskClaimed) as refused:
        nexus.call(ClaimTask("bob", task="1"))
    assert refused.value.details["agent"] == "ada"
    assert 'agent "ada" claimed it' in refused.value.message


def test_claim_takes_the_best_that_fits(nexus: BlockingClient) -> None:
    nexus.call(CreateTask("gate", type=TaskType.CHECKPOINT, priority=1))
    nexus.call(CreateTask("later", priority=7, tags=["db"]))
    nexus.call(CreateTask("first", priority=2))
    nexus.call(CreateTask("waits", priority=1, depends_on=["2"]))
    assert nexus.call(ClaimTask("ada", tag="db")).task.number == 2
    assert nexus.call(ClaimTask("ada")).task.number == 3
    with pytest.raises(TaskNoneReady):
        nexus.call(ClaimTask("bob"))
    with pytest.raises(TaskIsCheckpoint):
        nexus.call(ClaimTask("bob", task="1"))
    with pytest.raises(TaskNotReady) as refused:
        nexus.call(ClaimTask("bob", task="4"))
    assert refused.value.details["open"] == ["2"]


def test_exactly_one_of_many_claims_wins(nexus: BlockingClient, daemon: DaemonProcess) -> None:
    nexus.call(CreateTask("a"))
    outcomes: list[str] = []
    begin = threading.Barrier(8)

    def claim() -> None:
        with BlockingClient(daemon.socket_path) as client:
            begin.wait()
            try:
                client.call(ClaimTask("bob", task="1"))
                outcomes.append("won")
            except NexusError as error:
                outcomes.append(error.type)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["task.claimed"] * 7 + ["won"]


def test_live_claims_are_bounded_by_the_project(nexus: BlockingClient) -> None:
    nexus.call(CreateProject("shop", settings={"max_parallel_agents": 1}))
    for name in "ab":
        nexus.call(CreateTask(name), project="shop")
    nexus.call(ClaimTask("ada"), project="shop")
    with pytest.raises(TaskLimit):
        nexus.call(ClaimTask("bob"), project="shop")
    nexus.call(ClaimTask("bob", task="1", take_over=True), project="shop")


def test_first_claim_begins_the_project_and_a_paused_one_has_nothing_ready(nexus: BlockingClient) -> None:
    nexus.call(CreateProject("shop"))
    for name in "ab":
        nexus.call(CreateTask(name), project="shop")
    nexus.call(ClaimTask("ada"), project="shop")
    assert nexus.call(GetProject("shop")).status is ProjectStatus.IN_PROGRESS
    nexus.call(PauseProject("shop"))
    with pytest.raises(TaskNoneReady):
        nexus.call(ClaimTask("ada"), project="shop")
    with pytest.raises(TaskNotReady):
        nexus.call(ClaimTask("ada", task="shop/2"))


def test_guarded_moves_need_the_lease_and_edits_do_not(nexus: BlockingClient) -> None:
    nexus.call(CreateTask("a"))
    nexus.call(ClaimTask("ada"))
    for command in (
        SubmitTask("1"),
        CompleteTask("1"),
        FailTask("1"),
        BlockTask("1", reason="x"),
        DeleteTask("1"),
        UpdateTask("1", branch_name="b"),
    ):
        with pytest.raises(NexusError) as refused:
            nexus.call(command)
        assert refused.value.type == "lease.required", command
    assert nexus.call(UpdateTask("1", name="b", priority=1)).name == "b"
    assert nexus.call(GetTask("1")).status is TaskStatus.IN_PROGRESS


def test_take_over_revokes_the_lease_and_raises_the_epoch(nexus: BlockingClient) -> None:
    nexus.call(CreateTask("a"))
    first = nexus.call(ClaimTask("ada"))
    second = nexus.call(ClaimTask("bob", task="1", take_over=True))
    assert second.lease.epoch > first.lease.epoch
    assert second.task.started_at == first.task.started_at
    assert nexus.call(GetAgent("ada")).current_task_id is None
    assert nexus.call(GetAgent("bob")).current_task_id == first.task.id
    again = nexus.call(ClaimTask("bob", task="1", take_over=True))
    assert again.lease.epoch > second.lease.epoch
    assert again.task.status is TaskStatus.IN_PROGRESS


def held(nexus: BlockingClient, **fields: object) -> HeldLease:
    """A new task that ada has claimed: its lease."""
    nexus.call(CreateTask("a", **fields))  # type: ignore[arg-type]
    lease = nexus.call(ClaimTask("ada")).lease
    return HeldLease(lease.id, lease.epoch)


def test_submitted_work_is_completed_by_its_approval(nexus: BlockingClient) -> None:
    lease = held(nexus)
    nexus.call(SubmitTask("1"), lease=lease)
    shown = nexus.call(GetTask("1"))
    assert (shown.status, shown.lease) == (TaskStatus.IN_REVIEW, None)
    agent = nexus.call(GetAgent("ada"))
    assert (agent.status, agent.tasks_completed) == (AgentStatus.IDLE, 0)
    done = nexus.call(ApproveTask("1"))
    assert (done.status, done.actual_minutes) == (TaskStatus.COMPLETED, 0)
    assert done.completed_at is not None
    assert nexus.call(GetAgent("ada")).tasks_completed == 1
    reset = nexus.call(ResetTask("1"))
    assert (reset.status, reset.completed_at, reset.actual_minutes) == (TaskStatus.PENDING, None, None)


def test_rejected_work_goes_on_while_its_lease_lives(nexus: BlockingClient) -> None:
    lease = held(nexus)
    nexus.call(SubmitTask("1", keep_lease=True), lease=lease)
    rejected = nexus.call(RejectTask("1"))
    assert (rejected.status, rejected.qa_iterations) == (TaskStatus.IN_PROGRESS, 1)
    nexus.call(SubmitTask("1"), lease=lease)
    rejected = nexus.call(RejectTask("1"))
    assert (rejected.status, rejected.qa_iterations, rejected.assigned_agent) == (TaskStatus.QUEUED, 2, None)
    with pytest.raises(TaskMoveRefused):
        nexus.call(RejectTask("1"))


def test_too_many_rejects_escalate_until_a_reset(nexus: BlockingClient) -> None:
    lease = held(nexus, max_iterations=1)
    nexus.call(SubmitTask("1", keep_lease=True), lease=lease)
    blocked = nexus.call(RejectTask("1", reason="no tests"))
    assert (blocked.status, blocked.reason_code) == (TaskStatus.BLOCKED, TaskReason.ESCALATED)
    assert "no tests" in (blocked.reason or "")
    assert nexus.call(GetTask("1")).lease is None
    assert nexus.call(GetAgent("ada")).status is AgentStatus.IDLE
    assert nexus.call(ResetTask("1")).qa_iterations == 0


def test_completion_by_the_holder_counts_for_agent_and_feature(nexus: BlockingClient) -> None:
    made = nexus.call(CreateTaskGraph([GraphTask(ref="a", name="a", feature="f")], [GraphFeature("f", "F")]))
    lease = nexus.call(ClaimTask("ada", feature_id=made.features[0].id)).lease
    nexus.call(CompleteTask("1"), lease=HeldLease(lease.id, lease.epoch))
    assert nexus.call(GetTask("1")).lease is None
    agent = nexus.call(GetAgent("ada"))
    assert (agent.status, agent.tasks_completed, agent.current_task_id) == (AgentStatus.IDLE, 1, None)


def test_failure_counts_for_the_agent(nexus: BlockingClient) -> None:
    lease = held(nexus)
    nexus.call(FailTask("1", reason="no way"), lease=lease)
    assert nexus.call(GetAgent("ada")).tasks_failed == 1
    assert nexus.call(ResetTask("1")).assigned_agent is None


def test_task_of_a_lease_that_expires_can_be_claimed_again(nexus: BlockingClient) -> None:
    nexus.call(CreateTask("a"))
    nexus.call(ClaimTask("ada", ttl_ms=1000))
    task = wait_until(
        lambda: found if (found := nexus.call(GetTask("1"))).status is TaskStatus.PENDING else None, "the release"
    )
    assert (task.assigned_agent, task.lease) == (None, None)
    assert task.started_at is not None
    assert nexus.call(GetAgent("ada")).status is AgentStatus.IDLE
    assert nexus.call(ClaimTask("bob")).task.number == 1


def test_claim_for_a_process_that_is_gone_is_refused(nexus: BlockingClient) -> None:
    nexus.call(CreateTask("a"))
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(TaskInvalid) as refused:
        nexus.call(ClaimTask("ada", pid=gone.pid))
    assert refused.value.details["path"] == "pid"
    assert nexus.call(ClaimTask("ada", pid=os.getpid())).task.number == 1


def test_feature_counts_what_is_completed_until_it_is_reset_or_deleted(nexus: BlockingClient) -> None:
    tasks = [GraphTask(ref=ref, name=ref, feature="f") for ref in "ab"]
    feature = nexus.call(CreateTaskGraph(tasks, [GraphFeature("f", "F")])).features[0].id

    def completed() -> int:
        return nexus.call(GetFeature(feature)).completed_tasks

    nexus.call(CompleteTask("1"))
    nexus.call(CompleteTask("2"))
    assert completed() == 2
    nexus.call(ResetTask("1"))
    assert completed() == 1
    nexus.call(DeleteTask("2"))
    assert completed() == 0


def test_checkpoint_is_not_decided_from_a_job(nexus: BlockingClient, daemon: DaemonProcess) -> None:
    nexus.call(CreateTask("gate", type=TaskType.CHECKPOINT))
    program = (
        "import sys\n"
        "from nexus.client import BlockingClient\n"
        "from nexus.ledger.tasks.commands import ApproveTask\n"
        "with BlockingClient(sys.argv[1]) as client:\n"
        "    try:\n"
        "        client.call(ApproveTask('1'))\n"
        "    except Exception as error:\n"
        "        sys.exit(0 if error.type == 'task.needs_person' else 3)\n"
        "sys.exit(4)\n"
    )
    job = nexus.call(CreateJob([sys.executable, "-c", program, str(daemon.socket_path)]))
    ended = wait_until(lambda: found if (found := nexus.call(GetJob(job.id))).completed_at else None, "the job")
    assert ended.exit_code == 0
    assert nexus.call(GetTask("1")).status is TaskStatus.PENDING
    assert nexus.call(ApproveTask("1")).status is TaskStatus.COMPLETED
