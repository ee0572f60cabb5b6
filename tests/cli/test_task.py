"""nexusctl task, against a real daemon."""

from __future__ import annotations

import json

import pytest
from support.cli import Cli
from support.daemon import DaemonProcess

from nexus.client import BlockingClient
from nexus.ledger.states import TaskStatus, TaskType
from nexus.ledger.tasks.commands import (
    AddTaskComment,
    AddTaskNote,
    ApproveTask,
    BlockTask,
    ClaimTask,
    CompleteTask,
    CountTasks,
    CreateTask,
    CreateTaskGraph,
    DeleteTask,
    ExplainTask,
    FailTask,
    GetTask,
    GraphTask,
    ListReadyTasks,
    ListTasks,
    QueueTask,
    RejectTask,
    ResetTask,
    SubmitTask,
    UnblockTask,
    UnqueueTask,
    UpdateTask,
)
from nexus.ledger.tasks.errors import TaskMoveRefused, TaskNotFound


@pytest.fixture
def tasks(daemon: DaemonProcess, cli: Cli) -> Cli:
    """Three tasks in a row, and a checkpoint."""
    with BlockingClient(daemon.socket_path) as nexus:
        nexus.call(
            CreateTaskGraph([GraphTask(ref=r, name=r * 3, depends_on=on) for r, on in (("a", []), ("b", ["a"]))])
        )
        nexus.call(CreateTask("ccc", depends_on=["2"]))
        nexus.call(CreateTask("gate", type=TaskType.CHECKPOINT, priority=9))
    return cli


def test_task_is_created_with_what_it_waits_for(tasks: Cli) -> None:
    made = tasks("task", "create", "Log in", "--depends-on", "1", "--depends-on", "2", "--tag", "ui", "--minutes", "5")
    assert (made.code, made.lines) == (0, ['Created task 5 "Log in"'])
    assert "nexusctl task ready" in made.err
    shown = tasks("task", "inspect", "5", "-o", "json").json
    assert (shown["open_dependencies"], shown["tags"], shown["estimated_minutes"]) == (2, ["ui"], 5)
    assert "Waits for" in tasks("task", "inspect", "#5").out


def test_lists_show_numbers(tasks: Cli) -> None:
    assert tasks("task", "list", "-o", "name").lines == ["1", "2", "3", "4"]
    assert tasks("tasks", "ready", "-o", "name").lines == ["1", "4"]
    assert tasks("task", "ready", "--limit", "1", "-o", "name").lines == ["1"]
    heading, first, *_ = tasks("task", "list").lines
    assert heading.split() == ["NUMBER", "STATUS", "PRIO", "WAITS", "NAME", "TAGS"]
    assert first.split()[:3] == ["1", "pending", "5"]


def test_why_prints_the_chain(tasks: Cli) -> None:
    assert tasks("task", "why", "3").lines == [
        "Task 3 waits for task 2 (pending).",
        '  2 "bbb" is pending',
        '    1 "aaa" is pending',
    ]


def test_tasks_are_moved(tasks: Cli) -> None:
    assert tasks("task", "queue", "1", "2").lines == ['Queued task 1 "aaa"', 'Queued task 2 "bbb"']
    assert tasks("task", "unqueue", "2").code == 0
    assert tasks("task", "block", "2", "--reason", "no key").code == 0
    assert tasks("task", "unblock", "2").code == 0
    assert tasks("task", "done", "1").lines == ['Completed task 1 "aaa"']
    assert tasks("task", "close", "2").code == 0
    assert tasks("task", "reset", "2").code == 0
    assert tasks("task", "fail", "2", "--reason", "no way").code == 0
    refused = tasks("task", "submit", "3")
    assert refused.code != 0
    assert "which allows queue, claim, complete, fail, block" in refused.err
    assert tasks("task", "reject", "4").lines == ['Rejected task 4 "gate"']
    assert tasks("task", "reset", "4").code == 0
    assert tasks("task", "approve", "4").lines == ['Approved task 4 "gate"']
    assert tasks("task", "count").lines == ["completed: 2", "failed: 1", "pending: 1", "ready: 0", "all: 4"]


def test_dependencies_notes_and_comments_are_edited(tasks: Cli) -> None:
    assert tasks("task", "depend", "4", "1", "2").code == 0
    assert tasks("task", "undepend", "4", "2").code == 0
    assert tasks("task", "inspect", "4", "-o", "json").json["open_dependencies"] == 1
    cycle = tasks("task", "depend", "1", "3")
    assert "1 → 3 → 2 → 1" in cycle.err
    assert tasks("task", "note", "1", "fails", "--kind", "red").code == 0
    assert tasks("task", "comment", "1", "fine").code == 0
    shown = tasks("task", "inspect", "1").out
    assert "Note (red):" in shown
    assert "Comment:" in shown
    assert tasks("task", "update", "1", "--priority", "1").lines == ['Updated task 1 "aaa"']
    assert "nothing to change" in tasks("task", "update", "1").err


def test_delete_says_what_depends_on_a_task(tasks: Cli) -> None:
    refused = tasks("task", "delete", "1", "--yes")
    assert refused.code != 0
    assert "task 2 depends on it" in refused.err
    assert tasks("task", "delete", "1", "--cascade", "--yes").lines == ['Deleted task "1"']
    assert tasks("task", "list", "-o", "name").lines == ["4"]
    assert "refusing to delete" in tasks("task", "delete", "4").err


def test_plan_is_read_from_a_file(tasks: Cli) -> None:
    plan = {
        "features": [{"ref": "f", "name": "Accounts"}],
        "tasks": [{"ref": "x", "name": "X", "feature": "f"}, {"ref": "y", "name": "Y", "depends_on": ["x", "1"]}],
    }
    assert tasks("task", "plan", "-", input=json.dumps(plan)).lines == [
        "Created 2 tasks and 1 features",
        "  5 x",
        "  6 y",
    ]
    assert "cannot read" in tasks("task", "plan", "-", input="{").err


def test_every_command_is_answered(daemon: DaemonProcess) -> None:
    with BlockingClient(daemon.socket_path) as nexus:
        made = nexus.call(CreateTask("a"))
        for command in (QueueTask("1"), UnqueueTask("1"), BlockTask("1", reason="x"), UnblockTask("1")):
            nexus.call(command)
        for command in (FailTask("1"), ResetTask("1"), AddTaskNote("1", "n"), AddTaskComment("1", "c")):
            nexus.call(command)
        assert nexus.call(UpdateTask("1", name="b")).name == "b"
        for command in (SubmitTask("1"), ApproveTask("1"), RejectTask("1")):
            with pytest.raises(TaskMoveRefused):
                nexus.call(command)
        with pytest.raises(TaskNotFound):
            nexus.call(GetTask("2"))
        assert nexus.call(ListReadyTasks()).tasks[0].id == made.id
        assert nexus.call(ExplainTask("1")).ready
        assert nexus.call(CompleteTask("1")).status is TaskStatus.COMPLETED
        assert nexus.call(CountTasks()).by_status == {"completed": 1}
        nexus.call(DeleteTask("1"))
        assert nexus.call(ListTasks()).tasks == []


def test_claim_needs_an_agent_that_is_there(tasks: Cli, daemon: DaemonProcess) -> None:
    assert 'agent "nobody" not found' in tasks("task", "claim", "--agent", "nobody").err
    assert "--agent" in tasks("task", "claim").err
    with BlockingClient(daemon.socket_path) as nexus, pytest.raises(Exception, match="nobody"):
        nexus.call(ClaimTask("nobody"))
