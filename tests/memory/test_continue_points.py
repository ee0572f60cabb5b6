"""Continue points: who may save one, which are kept, what goes with their tasks, and who is told of them."""

from __future__ import annotations

from typing import Any

import pytest
from support.daemon import DaemonProcess
from support.memory import Desk
from support.raw import wait_until
from support.stores import look_at

from nexus.ledger.leases.commands import ReleaseLease, RevokeLease
from nexus.ledger.pages.commands import GetExecution
from nexus.ledger.states import TaskStatus
from nexus.ledger.tasks.commands import (
    CompleteTask,
    DeleteTask,
    ExplainTask,
    GetTask,
    RejectTask,
    ResetTask,
    SubmitTask,
)
from nexus.ledger.tasks.errors import TaskNotFound
from nexus.memory.continue_points.commands import (
    CreateContinuePoint,
    DeleteContinuePoint,
    GetContinuePoint,
    GetResumePoint,
    ListContinuePoints,
)
from nexus.memory.continue_points.errors import (
    ContinuePointChanged,
    ContinuePointIdTaken,
    ContinuePointInvalid,
    ContinuePointNotFound,
)
from nexus.memory.continue_points.handlers import KEPT
from nexus.projects.commands import DeleteProject
from nexus.records.errors import LeaseRequired, LeaseStale

ID = "6f1c0f7e-2f0c-4b60-9a63-3f1d5e0c1a77"
WHOLE: dict[str, Any] = {
    "file": "src/form.py", "line": 120, "function_name": "submit", "next_steps": ["test it", "tidy up"],
}  # fmt: skip


def numbers(desk: Desk, **filters: Any) -> list[int]:
    """The numbers of continue points, as they are listed."""
    return [point.number for point in desk.call(ListContinuePoints(**filters)).continue_points]


def test_holder_saves_where_the_work_is(desk: Desk) -> None:
    lease, claimed = desk.claim(desk.task())
    point = desk.call(CreateContinuePoint("wrote the form", **WHOLE), lease)
    assert (point.number, point.task_id, point.task_number) == (1, claimed.task.id, 1)
    assert (point.agent_id, point.agent, point.iteration_count) == (desk.agent_id, desk.agent, 0)
    assert {name: getattr(point, name) for name in WHOLE} == WHOLE
    assert point.saved_at == point.created_at
    assert desk.call(GetContinuePoint("1")) == point
    assert desk.call(ListContinuePoints()).continue_points == [point]
    (event,) = desk.events("continue_point.*")
    assert (event.kind, event.subject_name) == ("continue_point.created", "1")
    assert event.detail == {"task_id": claimed.task.id, "agent_id": desk.agent_id}


def test_saving_needs_the_live_lease(desk: Desk) -> None:
    task = desk.task()
    desk.call(CreateContinuePoint("planned it", task))  # no agent has it
    lease, _claimed = desk.claim(task)
    with pytest.raises(LeaseRequired):
        desk.call(CreateContinuePoint("meddled", task))
    with pytest.raises(LeaseRequired):
        desk.call(DeleteContinuePoint("1"))
    desk.call(RevokeLease(lease.id))
    for named in (task, None):
        with pytest.raises(LeaseStale):
            desk.call(CreateContinuePoint("too late", named), lease)
    again, _claimed = desk.claim(task)
    with pytest.raises(LeaseStale):
        desk.call(CreateContinuePoint("too late", task), lease)
    assert numbers(desk) == [1]
    assert desk.call(CreateContinuePoint("in time", task), again).number == 2


def test_without_a_task_that_of_the_lease_is_meant(desk: Desk) -> None:
    with pytest.raises(ContinuePointInvalid, match="no task is named"):
        desk.call(CreateContinuePoint("wrote"))
    with pytest.raises(ContinuePointInvalid):
        desk.call(GetResumePoint())
    with pytest.raises(TaskNotFound):
        desk.call(CreateContinuePoint("wrote", "7"))
    lease, claimed = desk.claim(desk.task(), worktree_path="/srv/one", branch_name="one")
    desk.call(CreateContinuePoint("wrote"), lease)
    found = desk.call(GetResumePoint(), lease)
    assert (found.task_id, found.number, found.status, found.agent) == (
        claimed.task.id, 1, TaskStatus.IN_PROGRESS, desk.agent,
    )  # fmt: skip
    assert (found.worktree_path, found.branch_name, found.continue_point.last_action) == ("/srv/one", "one", "wrote")
    assert desk.call(GetResumePoint(desk.task("b"))).continue_point is None


def test_rejects_are_counted(desk: Desk) -> None:
    task = desk.task()
    lease, _claimed = desk.claim(task)
    desk.call(SubmitTask(task, keep_lease=True), lease)
    desk.call(RejectTask(task))
    assert desk.call(CreateContinuePoint("again"), lease).iteration_count == 1


def test_a_repeated_request_saves_once(desk: Desk) -> None:
    task = desk.task()
    command = CreateContinuePoint("wrote", task, **WHOLE, id=ID)
    made = desk.call(command)
    desk.claim(task)  # its reply was lost, and another agent has the task now
    assert desk.call(command) == made
    with pytest.raises(ContinuePointIdTaken):
        desk.call(CreateContinuePoint("wrote more", task, **WHOLE, id=ID))
    assert numbers(desk) == [1]


def test_the_newest_of_a_task_are_kept(desk: Desk) -> None:
    task, other = desk.task(), desk.task("b")
    desk.call(CreateContinuePoint("of another", other))
    desk.client.batch([CreateContinuePoint(str(at), task) for at in range(KEPT + 3)], project=desk.project.id)
    kept = list(range(KEPT + 4, 4, -1))
    assert numbers(desk) == [*kept, 1]
    assert numbers(desk, task_id=task) == kept
    assert numbers(desk, task_id=other) == [1]
    assert numbers(desk, task_id="99") == numbers(desk, agent_id=desk.agent) == []
    assert desk.call(GetResumePoint(task)).continue_point.last_action == str(KEPT + 2)
    assert len(desk.events("continue_point.deleted")) == 3


def test_a_deleted_one_is_gone(desk: Desk) -> None:
    desk.call(CreateContinuePoint("wrote", desk.task()))
    with pytest.raises(ContinuePointChanged):
        desk.call(DeleteContinuePoint("1", if_revision=2))
    desk.call(DeleteContinuePoint("1", if_revision=1))
    with pytest.raises(ContinuePointNotFound):
        desk.call(GetContinuePoint("1"))
    assert desk.call(CreateContinuePoint("wrote", "1")).number == 2, "no number is given twice"


def test_they_go_with_their_task_and_their_project(desk: Desk, shared: DaemonProcess) -> None:
    first, second = desk.task(), desk.task("b")
    for task in (first, first, second):
        desk.call(CreateContinuePoint("wrote", task))
    desk.call(DeleteTask(first))
    assert numbers(desk) == [3]
    deleted = desk.call(DeleteProject(desk.project.name, cascade=True))
    assert sorted(record.kind for record in deleted.records) == ["continue_point", "task"]
    with look_at(shared.database) as database:
        left = database.execute("SELECT count(*) FROM continue_points WHERE project_id = ?", (desk.project.id,))
        assert left.fetchone() == (0,)


# Who is told of them


def test_an_expired_lease_and_the_next_claim_name_the_continue_point(desk: Desk) -> None:
    task = desk.task()
    lease, claimed = desk.claim(task, ttl_ms=1000)
    assert claimed.recovery is None, "its work begins"
    desk.call(CreateContinuePoint("planned", task), lease)
    desk.call(CreateContinuePoint("wrote the form", task, **WHOLE), lease)
    (expired,) = wait_until(lambda: desk.events("lease.expired"), "the end of the lease")
    assert expired.detail["continue_point"] == 2
    (freed,) = [event for event in desk.events("task.moved") if event.detail["move"] == "release"]
    assert (freed.detail["to"], freed.detail["continue_point"]) == ("pending", 2)
    _lease, again = desk.claim(task)
    assert again.recovery is not None
    point = again.recovery.continue_point
    assert point is not None
    assert (point["number"], point["last_action"]) == (2, "wrote the form")
    assert {name: point[name] for name in WHOLE} == WHOLE


@pytest.mark.parametrize("end", [ReleaseLease, RevokeLease])
def test_each_end_of_a_lease_names_it(desk: Desk, end: type[Any]) -> None:
    lease, _claimed = desk.claim(desk.task())
    desk.call(CreateContinuePoint("wrote"), lease)
    desk.call(end(lease.id))
    (ended,) = desk.events("lease.released", "lease.revoked")
    assert ended.detail["continue_point"] == 1
    assert desk.events("task.moved")[-1].detail["continue_point"] == 1


def test_without_one_nothing_is_told(desk: Desk) -> None:
    lease, _claimed = desk.claim(desk.task())
    desk.call(ReleaseLease(lease.id))
    assert not [event for event in desk.events("lease.*", "task.moved") if "continue_point" in event.detail]
    assert desk.call(ExplainTask("1")).recovery is None
    assert desk.claim("1")[1].recovery is None


def test_why_and_the_execution_name_it(desk: Desk) -> None:
    task, other = desk.task(), desk.task("b")
    lease, _claimed = desk.claim(task)
    desk.call(CreateContinuePoint("wrote"), lease)
    assert desk.call(ExplainTask(task)).recovery.continue_point["last_action"] == "wrote"
    page = desk.call(GetExecution())
    assert [card.continue_point["number"] for card in page.working] == [1]
    assert [(card.number, card.continue_point) for card in page.ready] == [(int(other), None)]
    desk.call(CompleteTask(task), lease)
    assert desk.call(ExplainTask(task)).recovery is None, "nothing is to be resumed"
    desk.call(ResetTask(task))
    assert desk.call(GetTask(task)).status is TaskStatus.PENDING
    assert desk.claim(task)[1].recovery is not None, "a reset keeps what was saved"
