"""The commands of schedules, of a real daemon: fields, refusals, secrets, projects, groups, and the jobs that come."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from nexus_protocol import InvalidArgument, NexusError
from support.daemon import DaemonProcess
from support.projects import Speaker, events_of, project
from support.raw import wait_until
from support.stores import look_at

from nexus.jobs.commands import CreateJobGroup, DeleteJobGroup, GetJob, UpdateJobGroup
from nexus.jobs.errors import (
    JobGroupInUse,
    JobGroupNotFound,
    ScheduleChanged,
    ScheduleIdTaken,
    ScheduleInvalid,
    ScheduleNameTaken,
    ScheduleNotFound,
)
from nexus.jobs.records import Job, Schedule
from nexus.jobs.schedules.commands import (
    CreateSchedule,
    DeleteSchedule,
    GetSchedule,
    ListSchedules,
    PauseSchedule,
    ResumeSchedule,
    TriggerSchedule,
    UpdateSchedule,
)
from nexus.jobs.states import ENDED, Missed, Overlap
from nexus.projects.commands import DeleteProject, ProjectNotEmpty


def create(nexus: Speaker, name: str = "", **fields: Any) -> Schedule:
    """Create a schedule; its time does not come while the test runs."""
    fields = {"cron": "0 0 1 1 *", "command": "true", **fields}
    if fields.get("every_ms") is not None:
        fields.pop("cron")
    made: Schedule = nexus.call(CreateSchedule(name or f"s-{uuid.uuid4()}"[:20], **fields))
    return made


def ended(nexus: Speaker, job: Job) -> Job:
    def look() -> Job | None:
        found: Job = nexus.call(GetJob(job.id))
        return found if found.status in ENDED else None

    return wait_until(look, "the end of the job")


def kinds(nexus: Speaker, schedule: Schedule) -> list[str]:
    return [str(event.kind) for event in events_of(nexus) if event.subject_id == schedule.id]


def test_a_schedule_has_what_it_was_created_with(nexus: Speaker, root: Path) -> None:
    given: dict[str, Any] = {
        "command": ["printf", "a b"],
        "cron": "30 2 * * *",
        "timezone": "Europe/Berlin",
        "overlap": Overlap.REPLACE,
        "missed": Missed.SKIP,
        "tool": "print",
        "directory": str(root),
        "priority": 3,
        "label": "at night",
        "tags": ["b", "a", "b"],
        "timeout_ms": 5000,
        "retries": 2,
        "retry_backoff_ms": 50,
        "managed_by": "nexus.toml",
    }
    made = create(nexus, **given)
    expected = given | {"command": "printf 'a b'", "argv": ["printf", "a b"], "tags": ["b", "a"], "every_ms": None}
    assert {name: getattr(made, name) for name in expected} == expected
    assert (made.project, made.paused, made.revision, made.state_revision) == ("default", False, 1, 0)
    assert made.next_at is not None
    found = nexus.call(GetSchedule(made.name))
    assert found.next_times[0] == made.next_at
    assert len(found.next_times) == 5
    job = nexus.call(TriggerSchedule(made.id))
    for name in ("tool", "command", "argv", "directory", "priority", "label", "tags", "timeout_ms", "retries"):
        assert getattr(job, name) == getattr(made, name)
    assert (job.schedule_id, job.retry_backoff_ms, job.group) == (made.id, 50, "default")
    assert ended(nexus, job).stdout == "a b"
    assert nexus.call(GetSchedule(made.id)).last_job_number == job.number


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"cron": None}, "cron"),
        ({"cron": "@daily", "every_ms": 1000}, "cron"),
        ({"cron": "0 0 31 2 *"}, "cron"),
        ({"cron": "@reboot"}, "cron"),
        ({"timezone": "Mars/X"}, "timezone"),
        ({"every_ms": 1000, "cron": None, "timezone": "UTC"}, "timezone"),
        ({"command": None}, "command"),
        ({"command": "run 'it", "tool": "docker"}, "command"),
        ({"cron": "0 0 1 1 *; rm"}, "cron"),
        ({"every_ms": 99, "cron": None}, "every_ms"),
        ({"directory": "relative"}, "directory"),
        ({"variables": {"A B": "x"}}, "variables"),
    ],
)
def test_what_cannot_be_is_refused(nexus: Speaker, fields: dict[str, Any], path: str) -> None:
    error = nexus.error(CreateSchedule("wrong", **{"cron": "@daily", "command": "true", **fields}))
    assert isinstance(error, InvalidArgument)
    assert str(error.details["path"]).startswith(path)
    assert isinstance(nexus.error(GetSchedule("wrong")), ScheduleNotFound)
    if isinstance(error, ScheduleInvalid):
        made = create(nexus)
        given = {name: value for name, value in fields.items() if value is not None}
        if given and "command" not in fields and "every_ms" not in fields:
            again = nexus.error(UpdateSchedule(made.id, **given))
            assert again.message.startswith(f'cannot update schedule "{made.name}": ')


def test_names_and_ids(nexus: Speaker) -> None:
    made = create(nexus, "one")
    assert isinstance(nexus.error(CreateSchedule("one", command="x", cron="@daily")), ScheduleNameTaken)
    id_ = str(uuid.uuid4())
    fields: dict[str, Any] = {
        "command": ["ls"], "cron": "@daily", "variables": {"A": "1"}, "tags": ["x"], "id": id_,
    }  # fmt: skip
    two = nexus.call(CreateSchedule("two", **fields))
    nexus.call(PauseSchedule("two"))
    assert nexus.call(CreateSchedule("two", **fields)).revision == two.revision
    for other in ({"command": ["ps"]}, {"variables": {"A": "2"}}, {"environment": {}}, {"cron": "@hourly"}):
        if other != {"environment": {}}:
            assert isinstance(nexus.error(CreateSchedule("two", **{**fields, **other})), ScheduleIdTaken)
    assert isinstance(nexus.error(UpdateSchedule("two", name="one")), ScheduleNameTaken)
    renamed = nexus.call(UpdateSchedule("two", name="three"))
    assert (renamed.id, renamed.name, renamed.revision) == (id_, "three", 2)
    assert nexus.call(GetSchedule(id_[:8])).name == "three"
    for each in (made, two):
        nexus.call(DeleteSchedule(each.id))


def test_an_update_sets_and_clears(nexus: Speaker) -> None:
    made = create(nexus, label="x", tags=["a"], timeout_ms=1000, timezone="UTC", variables={"A": "1"}, tool="t")
    changed = nexus.call(
        UpdateSchedule(made.id, clear=["label", "tags", "timeout_ms", "timezone", "variables", "tool"])
    )
    assert (changed.label, changed.tags, changed.timeout_ms) == (None, [], None)
    assert (changed.timezone, changed.variable_names, changed.tool) == (None, [], "bash")
    assert nexus.call(UpdateSchedule(made.id, priority=0)).revision == changed.revision == 2
    changed = nexus.call(UpdateSchedule(made.id, command=["ls", "-l"], overlap=Overlap.QUEUE))
    assert (changed.command, changed.argv, changed.tool, changed.overlap) == ("ls -l", ["ls", "-l"], "ls", "queue")
    changed = nexus.call(UpdateSchedule(made.id, tool="list"))
    assert (changed.argv, changed.tool) == (["ls", "-l"], "list")
    for command in (
        UpdateSchedule(made.id),
        UpdateSchedule(made.id, clear=["name"]),
        UpdateSchedule(made.id, label="x", clear=["label"]),
        UpdateSchedule(made.id, clear=["cron"]),
    ):
        assert isinstance(nexus.error(command), ScheduleInvalid)
    every = nexus.call(UpdateSchedule(made.id, every_ms=3_600_000, clear=["cron"]))
    assert (every.cron, every.every_ms) == (None, 3_600_000)
    assert isinstance(nexus.error(UpdateSchedule(made.id, priority=1, if_revision=1)), ScheduleChanged)
    assert isinstance(nexus.error(DeleteSchedule(made.id, if_revision=1)), ScheduleChanged)
    assert nexus.call(DeleteSchedule(made.id, if_revision=every.revision)).id == made.id
    updates = (each.detail for each in events_of(nexus) if each.subject_id == made.id)
    told = [detail["command"] for detail in updates if detail and "command" in detail]
    assert told == [{"changed": True}]
    assert kinds(nexus, made)[0] == "schedule.created"
    assert kinds(nexus, made)[-1] == "schedule.deleted"


def test_pause_and_resume_are_told_once(nexus: Speaker) -> None:
    made = create(nexus)
    for command in (PauseSchedule, PauseSchedule, ResumeSchedule, ResumeSchedule):
        nexus.call(command(made.id))
    assert kinds(nexus, made) == ["schedule.created", "schedule.paused", "schedule.resumed"]
    paused = nexus.call(PauseSchedule(made.id))
    assert ended(nexus, nexus.call(TriggerSchedule(made.id))).exit_code == 0
    assert nexus.call(GetSchedule(made.id)).next_at is paused.next_at is None


def test_the_environment_is_that_of_its_creation_with_the_variables(nexus: Speaker) -> None:
    line = 'printf "%s-%s-%s" "$A" "$B" "$C"'
    whole = create(nexus, command=line, environment={"A": "1", "B": "2", "PATH": "/usr/bin:/bin"}, variables={"B": "3"})
    assert ended(nexus, nexus.call(TriggerSchedule(whole.id))).stdout == "1-3-"
    own = create(nexus, command='printf "%s-%s" "$HOME" "$B"', variables={"B": "3"})
    home = nexus.call(GetSchedule(own.id)).directory
    assert ended(nexus, nexus.call(TriggerSchedule(own.id))).stdout == f"{home}-3"
    nexus.call(UpdateSchedule(whole.id, clear=["environment", "variables"]))
    assert ended(nexus, nexus.call(TriggerSchedule(whole.id))).stdout == "--"


def test_secrets_are_told_to_nobody_who_does_not_ask(nexus: Speaker, shared: DaemonProcess) -> None:
    made = create(nexus, variables={"TOKEN": "s3cret-1"}, environment={"WHOLE": "s3cret-2"}, command="echo s3cret-3")
    nexus.call(UpdateSchedule(made.id, variables={"TOKEN": "s3cret-4"}, command="true s3cret-3"))
    found = nexus.call(GetSchedule(made.id, reveal=True))
    assert (found.variables, found.variable_names) == ({"TOKEN": "s3cret-4"}, ["TOKEN"])
    assert "s3cret-4" not in repr(found)
    assert nexus.call(GetSchedule(made.id)).variables is None
    listed = [each for each in nexus.call(ListSchedules()).schedules if each.id == made.id]
    assert [each.variables for each in listed] == [None]
    ended(nexus, nexus.call(TriggerSchedule(made.id)))
    nexus.call(DeleteSchedule(made.id))
    with look_at(shared.database) as database:
        for table in ("journal", "operation", "request_key"):
            assert "s3cret" not in repr(database.execute(f"SELECT * FROM {table}").fetchall()), table
        assert "s3cret-1" not in repr(database.execute("SELECT environment FROM jobs").fetchall())
    assert "s3cret" not in shared.log()


def test_lists_are_by_name_and_by_tag(nexus: Speaker) -> None:
    shop = project(nexus, "lists")
    for name in ("c", "a", "b"):
        create(shop, name, tags=["x"] if name != "b" else None)
    page = shop.call(ListSchedules(limit=2))
    assert [each.name for each in page.schedules] == ["a", "b"]
    rest = shop.call(ListSchedules(limit=2, cursor=page.next_cursor))
    assert ([each.name for each in rest.schedules], rest.next_cursor) == (["c"], None)
    assert [each.name for each in shop.call(ListSchedules(tag="x")).schedules] == ["a", "c"]
    everywhere = nexus.at("*").call(ListSchedules(tag="x")).schedules
    assert {(each.project, each.name) for each in everywhere} >= {("lists", "a"), ("lists", "c")}
    assert nexus.call(GetSchedule("lists/a")).name == "a"
    shop.call(DeleteProject("lists", cascade=True))


def test_schedules_go_with_their_project_before_its_jobs(nexus: Speaker) -> None:
    shop = project(nexus, "gone")
    made = create(shop, "a")
    job = ended(shop, shop.call(TriggerSchedule("a")))
    error = nexus.error(DeleteProject("gone"))
    assert isinstance(error, ProjectNotEmpty)
    assert error.message == 'cannot delete project "gone": it has 1 schedule and 1 job'
    deleted = nexus.call(DeleteProject("gone", cascade=True))
    assert [(each.kind, each.id) for each in deleted.records] == [("schedule", made.id), ("job", job.id)]
    assert isinstance(nexus.error(GetSchedule(made.id)), ScheduleNotFound)


def test_a_schedule_holds_its_group(nexus: Speaker) -> None:
    assert isinstance(nexus.error(CreateSchedule("x", command="x", cron="@daily", group="none")), JobGroupNotFound)
    nexus.call(CreateJobGroup("builds", slots=1))
    made = create(nexus, group="builds")
    assert nexus.call(TriggerSchedule(made.id)).group == "builds"
    for command in (DeleteJobGroup("builds"), UpdateJobGroup("builds", name="other")):
        assert isinstance(nexus.error(command), JobGroupInUse)
    assert isinstance(nexus.error(UpdateSchedule(made.id, group="none")), JobGroupNotFound)
    nexus.call(UpdateSchedule(made.id, group="default"))
    wait_until(lambda: not isinstance(_try(nexus, DeleteJobGroup("builds")), NexusError), "the end of the job")


def _try(nexus: Speaker, command: Any) -> Any:
    try:
        return nexus.call(command)
    except NexusError as error:
        return error


def test_a_deleted_schedule_leaves_its_jobs(nexus: Speaker) -> None:
    made = create(nexus, command="sleep 0.2; exit 3")
    job = nexus.call(TriggerSchedule(made.id))
    nexus.call(DeleteSchedule(made.id))
    assert ended(nexus, job).exit_code == 3
