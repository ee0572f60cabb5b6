"""Tasks: their fields, lists, what they depend on, and the one definition of ready."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from nexus_protocol import InvalidArgument, NexusError
from support.daemon import DaemonProcess
from support.projects import Speaker, events_of

from nexus.client import BlockingClient
from nexus.ledger.features.commands import CreateFeature, DeleteFeature
from nexus.ledger.states import TaskKind, TaskReason, TaskStatus, TaskType
from nexus.ledger.tasks.commands import (
    AddTaskComment,
    AddTaskNote,
    ApproveTask,
    BlockTask,
    CompleteTask,
    CountTasks,
    CreateTask,
    CreateTaskGraph,
    DeleteTask,
    ExplainTask,
    FailTask,
    GetTask,
    GraphFeature,
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
from nexus.ledger.tasks.errors import (
    TaskChanged,
    TaskCycle,
    TaskIdTaken,
    TaskInvalid,
    TaskIsCheckpoint,
    TaskMoveRefused,
    TaskNeeded,
    TaskNotesNeeded,
    TaskNotFound,
    TaskNotReady,
)
from nexus.ledger.tasks.records import Task
from nexus.projects.commands import CreateProject, DeleteProject


@pytest.fixture
def nexus(daemon: DaemonProcess) -> Iterator[BlockingClient]:
    """A client of a daemon without tasks."""
    with BlockingClient(daemon.socket_path) as client:
        yield client


@pytest.fixture
def speaker(daemon: DaemonProcess) -> Iterator[Speaker]:
    """Speaks in any project of a daemon without tasks."""
    speaker = Speaker(daemon)
    yield speaker
    speaker.close()


def create(nexus: BlockingClient, name: str = "work", *depends_on: str, **fields: Any) -> Task:
    """A new task."""
    return nexus.call(CreateTask(name, depends_on=list(depends_on) or None, **fields))


def ready(nexus: BlockingClient) -> list[int]:
    """The numbers of the ready tasks, the best first."""
    return [task.number for task in nexus.call(ListReadyTasks()).tasks]


def get(nexus: BlockingClient, task: object) -> Task:
    """A task as it is now."""
    return nexus.call(GetTask(str(task)))


def test_task_has_a_number_and_the_defaults_of_the_seed(nexus: BlockingClient) -> None:
    made = create(nexus, "Log in")
    assert (made.number, made.name, made.type, made.kind, made.status) == (
        1, "Log in", TaskType.AUTO, TaskKind.FEATURE, TaskStatus.PENDING,
    )  # fmt: skip
    assert (made.priority, made.max_iterations, made.estimated_minutes, made.depends_on) == (5, 50, 15, [])
    again = create(nexus, "Log in", priority=1, tags=["ui"])
    assert again.number == 2
    for reference in ("2", "#2", again.id, again.id[:8]):
        assert get(nexus, reference) == again


def test_limit_of_rejects_is_that_of_the_project(nexus: BlockingClient) -> None:
    nexus.call(CreateProject("shop", settings={"qa_max_iterations": 3}))
    assert nexus.call(CreateTask("a"), project="shop").max_iterations == 3
    assert nexus.call(CreateTask("a", max_iterations=7), project="shop").max_iterations == 7


def test_request_that_is_repeated_returns_the_same_task(nexus: BlockingClient) -> None:
    first = create(nexus)
    id_ = str(uuid.uuid4())
    made = create(nexus, "x", "1", id=id_, tags=["a", "a"])
    assert create(nexus, "x", "1", id=id_, tags=["a", "a"]) == made
    with pytest.raises(TaskIdTaken):
        create(nexus, "y", "1", id=id_)
    assert made.depends_on == [first.id]
    assert len(nexus.call(ListTasks()).tasks) == 2


def test_lists_are_by_number_and_filtered(nexus: BlockingClient) -> None:
    for number in range(1, 6):
        kind = TaskKind.BUG if number % 2 else TaskKind.CHORE
        create(nexus, f"task number{number}", kind=kind, tags=["odd"] if number % 2 else [])
    nexus.call(QueueTask("3"))

    def numbers(**filters: Any) -> list[int]:
        return [task.number for task in nexus.call(ListTasks(**filters)).tasks]

    assert numbers() == [1, 2, 3, 4, 5]
    assert numbers(kind=TaskKind.BUG) == numbers(tag="odd") == [1, 3, 5]
    assert numbers(status=TaskStatus.QUEUED) == numbers(match="number3") == [3]
    assert numbers(feature_id="7") == []
    page = nexus.call(ListTasks(limit=2))
    assert [task.number for task in nexus.call(ListTasks(cursor=page.next_cursor)).tasks] == [3, 4, 5]


def test_update_changes_and_clears_fields(nexus: BlockingClient) -> None:
    made = create(nexus, "a", description="long")
    changed = nexus.call(UpdateTask("1", name="b", priority=1, clear=["description"], if_revision=made.revision))
    assert (changed.name, changed.priority, changed.description, changed.revision) == ("b", 1, None, 2)
    with pytest.raises(TaskChanged):
        nexus.call(UpdateTask("1", name="c", if_revision=made.revision))
    with pytest.raises(InvalidArgument):
        nexus.call(UpdateTask("1"))
    with pytest.raises(TaskInvalid):
        nexus.call(UpdateTask("1", description="x", clear=["description"]))


def test_ready_are_those_whose_dependencies_are_completed_the_best_first(nexus: BlockingClient) -> None:
    create(nexus, "a")
    create(nexus, "b", "1")
    create(nexus, "c", "1", "2", priority=1)
    create(nexus, "d", priority=1)
    assert get(nexus, 3).open_dependencies == 2
    assert ready(nexus) == [4, 1]
    nexus.call(CompleteTask("1"))
    assert ready(nexus) == [4, 2]
    nexus.call(CompleteTask("2"))
    assert ready(nexus) == [3, 4]
    nexus.call(ResetTask("1"))  # what was done is not: those that depend on it wait again
    assert ready(nexus) == [4, 1]
    assert get(nexus, 3).open_dependencies == 1
    page = nexus.call(ListReadyTasks(limit=1))
    assert [task.number for task in nexus.call(ListReadyTasks(cursor=page.next_cursor)).tasks] == [1]


def test_failed_dependency_keeps_tasks_waiting(nexus: BlockingClient) -> None:
    create(nexus, "a")
    create(nexus, "b", "1")
    nexus.call(FailTask("1", reason="no way"))
    assert ready(nexus) == []
    assert get(nexus, 1).reason == "no way"


def test_dependencies_are_added_and_removed(nexus: BlockingClient) -> None:
    for name in "abc":
        create(nexus, name)
    changed = nexus.call(UpdateTask("3", add_depends_on=["1", "2", "#1"]))
    assert (changed.depends_on, changed.open_dependencies) == ([get(nexus, 1).id, get(nexus, 2).id], 2)
    changed = nexus.call(UpdateTask("3", remove_depends_on=["2"]))
    assert (changed.depends_on, changed.open_dependencies) == ([get(nexus, 1).id], 1)
    with pytest.raises(TaskNotFound):
        nexus.call(UpdateTask("3", add_depends_on=["9"]))


def test_cycle_is_refused_and_spelled_out(nexus: BlockingClient) -> None:
    create(nexus, "a")
    create(nexus, "b", "1")
    create(nexus, "c", "2")
    with pytest.raises(TaskCycle) as refused:
        nexus.call(UpdateTask("1", add_depends_on=["3"]))
    assert refused.value.details["cycle"] == ["1", "3", "2", "1"]
    assert get(nexus, 1).depends_on == []
    with pytest.raises(TaskCycle):
        nexus.call(UpdateTask("1", add_depends_on=["1"]))
    assert ready(nexus) == [1]


def test_cycle_is_refused_across_projects(nexus: BlockingClient) -> None:
    nexus.call(CreateProject("shop"))
    create(nexus, "a")
    nexus.call(CreateTask("b", depends_on=["default/1"]), project="shop")
    with pytest.raises(TaskCycle) as refused:
        nexus.call(UpdateTask("1", add_depends_on=["shop/1"]))
    assert refused.value.details["cycle"] == ["1", "shop/1", "1"]


def test_delete_of_what_others_depend_on_is_refused(nexus: BlockingClient) -> None:
    for depends_on in ([], ["1"], ["2"]):
        create(nexus, "x", *depends_on)
    create(nexus, "other")
    with pytest.raises(TaskNeeded) as refused:
        nexus.call(DeleteTask("1"))
    assert [each["number"] for each in refused.value.details["dependents"]] == [2]
    deleted = nexus.call(DeleteTask("1", cascade=True))
    assert sorted(each.number for each in deleted.dependents) == [2, 3]
    assert [task.number for task in nexus.call(ListTasks()).tasks] == [4]
    assert create(nexus).number == 5


def test_project_that_is_deleted_leaves_tasks_of_others_waiting(speaker: Speaker) -> None:
    nexus = speaker
    shop = nexus.at("shop")
    nexus.call(CreateProject("shop"))
    gone = shop.call(CreateTask("a"))
    nexus.call(CreateTask("b", depends_on=["shop/1"]))
    assert nexus.error(DeleteProject("shop")).type == "project.not_empty"
    nexus.call(DeleteProject("shop", cascade=True))
    assert nexus.call(ListReadyTasks()).tasks == []
    told = nexus.call(ExplainTask("1"))
    assert "deleted" in told.why
    assert [(wait.id, wait.number) for wait in told.chain] == [(gone.id, None)]
    assert nexus.call(UpdateTask("1", remove_depends_on=[gone.id])).open_dependencies == 0
    assert len(nexus.call(ListReadyTasks()).tasks) == 1


def test_refused_move_names_the_allowed_ones(nexus: BlockingClient) -> None:
    create(nexus)
    with pytest.raises(TaskMoveRefused) as refused:
        nexus.call(SubmitTask("1"))
    assert refused.value.details["allowed"] == ["queue", "claim", "complete", "fail", "block"]
    assert nexus.call(QueueTask("1")).status is TaskStatus.QUEUED
    assert nexus.call(UnqueueTask("1")).status is TaskStatus.PENDING
    nexus.call(CompleteTask("1"))
    with pytest.raises(TaskMoveRefused) as refused:
        nexus.call(FailTask("1"))
    assert refused.value.details["allowed"] == ["reset"]


def test_block_lasts_until_its_task_is_completed(nexus: BlockingClient) -> None:
    create(nexus, "a")
    create(nexus, "b")
    with pytest.raises(TaskInvalid):
        nexus.call(BlockTask("2"))
    with pytest.raises(TaskInvalid):
        nexus.call(BlockTask("2", blocked_by="2"))
    blocked = nexus.call(BlockTask("2", blocked_by="1"))
    assert (blocked.status, blocked.blocked_by, blocked.reason_code) == (
        TaskStatus.BLOCKED, get(nexus, 1).id, TaskReason.BLOCKER,
    )  # fmt: skip
    assert ready(nexus) == [1]
    nexus.call(CompleteTask("1"))
    free = get(nexus, 2)
    assert (free.status, free.blocked_by, free.reason, free.reason_code) == (TaskStatus.PENDING, None, None, None)
    nexus.call(BlockTask("2", reason="no key"))
    assert get(nexus, 2).reason == "no key"
    assert nexus.call(UnblockTask("2")).status is TaskStatus.PENDING


def test_block_outlives_the_task_that_was_waited_for(nexus: BlockingClient) -> None:
    create(nexus, "a")
    create(nexus, "b")
    nexus.call(BlockTask("2", blocked_by="1"))
    nexus.call(DeleteTask("1"))
    left = get(nexus, 2)
    assert (left.status, left.blocked_by) == (TaskStatus.BLOCKED, None)
    assert "was deleted" in (left.reason or "")


def test_tdd_needs_a_red_note_and_then_a_green_one(nexus: BlockingClient) -> None:
    create(nexus, type=TaskType.TDD)
    nexus.call(AddTaskNote("1", "passes", kind="green"))
    with pytest.raises(TaskNotesNeeded) as refused:
        nexus.call(CompleteTask("1"))
    assert refused.value.details["kind"] == "red"
    nexus.call(AddTaskNote("1", "fails", kind="red"))
    with pytest.raises(TaskNotesNeeded) as refused:
        nexus.call(CompleteTask("1"))
    assert refused.value.details["kind"] == "green"
    nexus.call(AddTaskNote("1", "passes", kind="green"))
    assert nexus.call(CompleteTask("1")).status is TaskStatus.COMPLETED


def test_checkpoint_is_approved_or_rejected_and_nothing_else_completes_it(nexus: BlockingClient) -> None:
    create(nexus, "gate", type=TaskType.CHECKPOINT)
    create(nexus, "b", "1")
    with pytest.raises(TaskIsCheckpoint):
        nexus.call(CompleteTask("1"))
    rejected = nexus.call(RejectTask("1", reason="not yet"))
    assert (rejected.status, rejected.reason, rejected.reason_code) == (
        TaskStatus.FAILED, "not yet", TaskReason.REJECTED,
    )  # fmt: skip
    nexus.call(ResetTask("1"))
    assert nexus.call(ApproveTask("1")).status is TaskStatus.COMPLETED
    assert ready(nexus) == [2]
    with pytest.raises(TaskMoveRefused):
        nexus.call(ApproveTask("2"))


def test_notes_and_comments_are_shown_in_their_order(nexus: BlockingClient) -> None:
    create(nexus)
    for text in ("one", "two", "three"):
        nexus.call(AddTaskNote("1", text))
    shown = nexus.call(AddTaskComment("1", "fine"))
    assert [note.text for note in shown.notes] == ["one", "two", "three"]
    assert [comment.text for comment in shown.comments] == ["fine"]
    assert get(nexus, 1) == shown
    nexus.call(DeleteTask("1"))


def test_counts_are_by_status_and_of_what_is_ready(nexus: BlockingClient) -> None:
    create(nexus, "a")
    create(nexus, "b", "1")
    create(nexus, "c")
    nexus.call(CompleteTask("3"))
    counted = nexus.call(CountTasks())
    assert (counted.by_status, counted.ready, counted.total) == ({"completed": 1, "pending": 2}, 1, 3)
    assert nexus.call(CountTasks(feature_id="9")).total == 0


def test_why_tells_the_chain(nexus: BlockingClient) -> None:
    create(nexus, "a")
    create(nexus, "b", "1")
    create(nexus, "c", "2")
    told = nexus.call(ExplainTask("3"))
    assert (told.ready, told.why) == (False, "Task 3 waits for task 2 (pending).")
    assert [(wait.number, wait.depth) for wait in told.chain] == [(2, 1), (1, 2)]
    assert nexus.call(ExplainTask("1")).ready


def test_moves_are_events(speaker: Speaker) -> None:
    create(speaker.client)
    speaker.call(QueueTask("1"))
    moved = [event for event in events_of(speaker) if event.kind == "task.moved"]
    assert [(event.subject_name, event.detail) for event in moved] == [
        ("1", {"move": "queue", "from": "pending", "to": "queued"})
    ]


def graph(count: int) -> CreateTaskGraph:
    """A chain of tasks in one feature."""
    tasks = [
        GraphTask(ref=f"t{number}", name=f"task {number}", feature="f", depends_on=[f"t{number - 1}"] * (number > 0))
        for number in range(count)
    ]
    return CreateTaskGraph(tasks[::-1], [GraphFeature("f", "The feature")])


def test_graph_is_created_as_a_whole(nexus: BlockingClient) -> None:
    made = nexus.call(graph(3))
    assert [task.name for task in made.tasks] == ["t2", "t1", "t0"]
    tasks = nexus.call(ListTasks(feature_id=made.features[0].id)).tasks
    assert [(task.name, task.open_dependencies) for task in tasks] == [("task 0", 0), ("task 1", 1), ("task 2", 1)]
    assert {task.feature_id for task in tasks} == {made.features[0].id}
    circle = [GraphTask(ref=ref, name=ref, depends_on=[on]) for ref, on in (("a", "b"), ("b", "a"))]
    with pytest.raises(TaskCycle) as refused:
        nexus.call(CreateTaskGraph(circle))
    assert refused.value.details["cycle"] == ["a", "b", "a"]
    for wrong in (
        [GraphTask(ref="a", name="a"), GraphTask(ref="a", name="b")],
        [GraphTask(ref="a", name="a"), GraphTask(ref="b", name="b", depends_on=["nothing"])],
    ):
        with pytest.raises(NexusError):
            nexus.call(CreateTaskGraph(wrong))
    assert len(nexus.call(ListTasks()).tasks) == 3


def test_cycle_through_thousands_is_found_and_named_shortest(nexus: BlockingClient) -> None:
    last = nexus.call(graph(2000)).tasks[0]
    began = time.monotonic()
    with pytest.raises(TaskCycle) as refused:
        nexus.call(UpdateTask("1", add_depends_on=[last.id, "3"]))
    assert refused.value.details["cycle"] == ["1", "3", "2", "1"]
    assert time.monotonic() - began < 5


def test_task_that_waits_is_not_completed_by_hand(nexus: BlockingClient) -> None:
    first = nexus.call(CreateTask("one"))
    second = nexus.call(CreateTask("two", depends_on=["1"]))
    with pytest.raises(TaskNotReady) as refused:
        nexus.call(CompleteTask(second.id))
    assert refused.value.message == "cannot complete task 2: it waits for task 1"
    nexus.call(CompleteTask(first.id))
    assert nexus.call(CompleteTask(second.id)).status == "completed"


def test_completed_task_that_is_deleted_is_no_dependency_any_more_and_an_open_one_is(nexus: BlockingClient) -> None:
    nexus.call(CreateFeature("gone"))
    nexus.call(CreateTask("done", feature_id="1"))
    nexus.call(CreateTask("open", feature_id="1"))
    ready = nexus.call(CreateTask("after what is done", depends_on=["1"]))
    waiting = nexus.call(CreateTask("after what is open", depends_on=["2"]))
    nexus.call(CompleteTask("1"))
    nexus.call(DeleteFeature("1", cascade=True))
    assert (nexus.call(GetTask(ready.id)).depends_on, nexus.call(GetTask(ready.id)).open_dependencies) == ([], 0)
    assert nexus.call(GetTask(waiting.id)).open_dependencies == 1
    nexus.call(UpdateTask(ready.id, name="still ready"))
    assert [task.id for task in nexus.call(ListReadyTasks()).tasks] == [ready.id]
