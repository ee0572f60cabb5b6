"""The plan as files: imports of other trackers, exports and their imports, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nexus_protocol.context import HeldLease
from support.cli import Cli
from support.daemon import DaemonProcess

from nexus.client import BlockingClient
from nexus.ledger.agents.commands import CreateAgent
from nexus.ledger.features.commands import CreateFeature, CreateSubFeature, ListFeatures
from nexus.ledger.files.commands import ReadPlan, WritePlan
from nexus.ledger.files.errors import PlanIdTaken, PlanInvalid
from nexus.ledger.files.records import PlanFeature, PlanTask
from nexus.ledger.metrics.commands import RecordMetric
from nexus.ledger.requirements.commands import CreateRequirement, ValidateRequirement
from nexus.ledger.sessions.commands import CompleteSession, StartSession
from nexus.ledger.states import (
    AgentType,
    MetricType,
    RequirementCategory,
    SessionType,
    TaskStatus,
)
from nexus.ledger.tasks.commands import (
    AddTaskComment,
    AddTaskNote,
    BlockTask,
    ClaimTask,
    CompleteTask,
    CountTasks,
    CreateTask,
    DeleteTask,
    FailTask,
    GetTask,
    ListTasks,
)
from nexus.projects.commands import CreateProject, DeleteProject

KINDS = ["project", "agent", "feature", "sub_feature", "task", "note", "comment", "requirement", "session", "metric"]
IDS = [f"6f1c0f7e-2f0c-4b60-9a63-{number:012x}" for number in range(10)]


@pytest.fixture
def nexus(shared: DaemonProcess) -> Iterator[BlockingClient]:
    """A client that speaks in a project of the test's own."""
    with BlockingClient(shared.socket_path) as client:
        project = client.call(CreateProject("plan"))
    with BlockingClient(shared.socket_path, project="plan") as client:
        yield client
        client.call(DeleteProject(project.id, cascade=True))


@pytest.fixture
def cli(shared: DaemonProcess, nexus: BlockingClient, tmp_path: Path) -> Cli:
    """nexusctl in that project, and in a folder with the test's files."""
    return Cli(shared.environment | {"NEXUS_PROJECT": "plan"}, tmp_path)


def line(record: str, **fields: Any) -> str:
    return json.dumps({"record": record, **fields}) + "\n"


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_import_of_5000_tasks_twice_adds_nothing(cli: Cli, nexus: BlockingClient, tmp_path: Path) -> None:
    issues = [
        {
            "id": f"x-{number}",
            "title": f"Do {number}",
            "status": "closed" if number % 5 == 0 else "open",
            "dependencies": [{"depends_on_id": f"x-{number + 1}", "type": "blocks"}]
            if number % 2 and number < 4999
            else [],
        }
        for number in range(5000)
    ]
    issues[-1]["dependencies"] = []
    write(tmp_path / "issues.jsonl", *(json.dumps(issue) + "\n" for issue in issues))
    first = cli.ok("project", "import", "issues.jsonl", "-o", "json").json
    assert (first["created"], first["present"]) == ({"tasks": 5000}, 0)
    counts = nexus.call(CountTasks())
    assert counts.by_status == {"completed": 1000, "pending": 4000}
    second = cli.ok("project", "import", "issues.jsonl", "-o", "json").json
    assert (second["created"], second["present"], second["told"]) == ({}, 5000, {})
    assert nexus.call(CountTasks()) == counts


def fill(client: BlockingClient) -> None:
    """A plan with a record of each kind, of which nothing is in progress."""
    feature = client.call(CreateFeature("Accounts", description="All of it", tags=["a"], metadata={"z": 1, "b": [2]}))
    part = client.call(CreateSubFeature("1", "Keys"))
    client.call(CreateAgent("ada", AgentType.TESTER, model_name="small"))
    for number in range(1, 7):
        client.call(
            CreateTask(
                f"Task {number}",
                sub_feature_id=part.id if number == 1 else None,
                feature_id=feature.id if number == 2 else None,
                depends_on=["1"] if number == 3 else None,
                tags=["b", "a"],
            )
        )
    client.call(DeleteTask("6"))
    client.call(ClaimTask("ada", "1"))
    lease = client.call(GetTask("1")).lease
    assert lease is not None
    held = HeldLease(lease.id, lease.epoch)
    client.call(AddTaskNote("1", "so", agent="ada"), lease=held)
    client.call(CompleteTask("1"), lease=held)
    client.call(AddTaskComment("2", "Why? \u2028 \U0001f600", agent="ada"))
    client.call(BlockTask("4", blocked_by="2"))
    client.call(FailTask("5", "no use"))
    client.call(CreateRequirement(RequirementCategory.TECHNICAL, "Fast", features=["1"], confidence=0.25))
    client.call(ValidateRequirement("1"))
    client.call(StartSession(SessionType.INTERVIEW, data={"text": "long"}))
    client.call(CompleteSession("1"))
    client.call(RecordMetric(MetricType.TOKEN_USAGE, 12.5, agent="ada", task="1", source="once"))


def test_export_then_import_into_an_empty_database_has_the_same_export(
    cli: Cli, nexus: BlockingClient, daemon: DaemonProcess, tmp_path: Path
) -> None:
    cli.ok("project", "update", "plan", "--description", "A shop")
    fill(nexus)
    assert "Exported" in cli.ok("project", "export", "plan.jsonl").out
    assert "Unchanged" in cli.ok("project", "export", "plan.jsonl").out
    exported = (tmp_path / "plan.jsonl").read_bytes()
    kinds = [json.loads(line)["record"] for line in exported.splitlines()]
    assert kinds == sorted(kinds, key=KINDS.index)
    assert set(kinds) == set(KINDS)
    other = Cli(daemon.environment | {"NEXUS_PROJECT": "plan"}, tmp_path)
    other.ok("project", "create", "plan")
    first = other.ok("project", "import", "plan.jsonl", "-o", "json").json
    assert first["told"] == {}
    assert other.ok("project", "export").out.encode() == exported
    assert other.ok("project", "import", "plan.jsonl", "-o", "json").json["created"] == {}
    with BlockingClient(daemon.socket_path, project="plan") as client:
        assert client.call(ListFeatures()).features[0].completed_tasks == 1
        tasks = {task.number: task for task in client.call(ListTasks()).tasks}
        assert (tasks[3].open_dependencies, tasks[4].blocked_by) == (0, tasks[2].id)
        # The number of the task that was deleted is not given again.
        assert client.call(CreateTask("Next")).number == 7


def test_task_in_progress_comes_back_queued(cli: Cli, nexus: BlockingClient, daemon: DaemonProcess) -> None:
    nexus.call(CreateAgent("bob", AgentType.CODER))
    nexus.call(CreateTask("Draw"))
    nexus.call(ClaimTask("bob", "1"))
    cli.ok("project", "export", "plan.jsonl")
    other = Cli(daemon.environment, cli.folder)
    told = other.ok("project", "import", "plan.jsonl", "-o", "json").json["told"]
    assert told == {"in progress without a lease here: queued": 1}
    (task,) = other.ok("task", "list", "-o", "json").json
    assert (task["status"], task.get("assigned_agent")) == ("queued", None)


BEADS = [
    {"id": "x-1", "title": "All", "issue_type": "epic", "status": "open"},
    {
        "id": "x-2",
        "title": "Draw",
        "status": "in_progress",
        "priority": 0,
        "labels": ["ui"],
        "dependencies": [{"depends_on_id": "x-1", "type": "parent-child"}],
        "comments": [{"author": "eve", "text": "Nice", "created_at": "2025-01-01T00:00:00Z"}],
    },
    {"id": "x-3", "title": "Ship", "status": "open", "dependencies": [{"depends_on_id": "x-2", "type": "blocks"}]},
]
GITHUB = [
    {"number": 2, "title": "Draw", "state": "OPEN", "labels": ["p0", "ui"], "milestone": {"title": "All"},
     "comments": [{"author": {"login": "eve"}, "body": "Nice", "createdAt": "2025-01-01T00:00:00Z"}]},
    {"number": 3, "title": "Ship", "state": "OPEN", "body": "Depends on #2"},
]  # fmt: skip
TASK = "---\nid: {id}\ntitle: {title}\nstatus: To Do\n{more}---\nText\n"


def beads(folder: Path) -> Path:
    write(folder / ".beads" / "issues.jsonl", *(json.dumps(issue) + "\n" for issue in BEADS))
    return folder


def backlog(folder: Path) -> Path:
    draw = TASK.format(id="task-2", title="Draw", more="priority: critical\nmilestone: All\nlabels: [ui]\n")
    ship = TASK.format(id="task-3", title="Ship", more="dependencies: [task-2]\n")
    write(folder / "backlog" / "tasks" / "task-2.md", draw)
    write(folder / "backlog" / "tasks" / "task-3.md", ship)
    return folder / "backlog"


def checklist(folder: Path) -> Path:
    return write(folder / "TODO.md", "# All\n\n- [ ] Draw #ui\n- [x] Ship\n")


def github(folder: Path) -> Path:
    return write(folder / "issues.json", json.dumps(GITHUB))


@pytest.mark.parametrize("make", [beads, backlog, checklist, github])
@pytest.mark.parametrize("source", ["auto", "named"])
def test_file_of_another_tracker_is_imported(
    cli: Cli, nexus: BlockingClient, tmp_path: Path, make: Callable[[Path], Path], source: str
) -> None:
    path = str(make(tmp_path))
    options = [] if source == "auto" else ["--from", make.__name__]
    dry = cli.ok("project", "import", path, *options, "--dry-run")
    assert "Would import 1 feature, 2 tasks" in dry.out
    assert "task Draw" in dry.out
    assert nexus.call(ListTasks()).tasks == []
    cli.ok("project", "import", path, *options)
    draw, ship = nexus.call(ListTasks()).tasks
    (feature,) = nexus.call(ListFeatures()).features
    assert (draw.feature_id, feature.name, draw.tags) == (feature.id, "All", draw.tags)
    assert "ui" in draw.tags
    if make is checklist:
        assert (ship.status, feature.completed_tasks) == (TaskStatus.COMPLETED, 1)
    else:
        assert (draw.priority, ship.depends_on, ship.open_dependencies) == (1, [draw.id], 1)
    if make in (beads, github):
        (comment,) = nexus.call(GetTask(draw.id)).comments
        assert (comment.actor, comment.text, comment.at) == ("eve", "Nice", 1735689600000)
    again = cli.ok("project", "import", path, *options)
    assert again.out == "Imported nothing\n"
    assert "Already there" in again.err


def test_import_tells_what_differs_and_what_has_no_place(cli: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "issues.jsonl", *(json.dumps(issue) + "\n" for issue in BEADS))
    assert "queued: 1" in cli.ok("project", "import", str(path)).err
    changed = [BEADS[0], BEADS[1], BEADS[2] | {"title": "Ship it"}]
    write(path, *(json.dumps(issue) + "\n" for issue in changed))
    assert "differs: stays as it is: 1" in cli.ok("project", "import", str(path)).err
    assert "Ship it" not in cli.ok("task", "list").out


T0, T1 = IDS[:2]
HOSTILE: dict[str, tuple[bytes, str]] = {
    "unknown key": (line("task", id=T0, name="x", colour=1).encode(), 'line 1: a task has no field "colour"'),
    "unknown kind": (line("wish", id=T0).encode(), 'line 1: "wish" is no kind of record'),
    "no UTF-8": (line("task", id=T0, name="x").encode() + b'{"record": "\xff"}\n', "line 2: it is not UTF-8"),
    "no JSON": (line("task", id=T0, name="x").encode() + b"{\n", "line 2: it is no JSON"),
    "huge line": (b'{"record": "task", "name": "' + b"x" * 5_000_000 + b'"}\n', "line 1: it is longer than 4096 KiB"),
    "deep": (b'{"record": "task", "metadata": ' + b"[" * 100_000 + b"\n", "line 1: it is nested too deep"),
    "wrong type": (line("task", id=T0, name="x", priority="high").encode(), "line 1: priority: Expected `int`"),
    "no id": (line("task", name="x").encode(), "line 1: Object missing required field `id`"),
    "later format": (line("project", format=2).encode(), "line 1: it is of format 2"),
    "given twice": (
        (line("task", id=T0, name="x") + line("task", id=T0, name="y")).encode(),
        f"line 2: the task {T0} is given twice, first in line 1",
    ),
    "a circle": (
        (line("task", id=T0, name="x", depends_on=[T1]) + line("task", id=T1, name="y", depends_on=[T0])).encode(),
        "tasks would wait for each other: x → y → x",
    ),
    "no feature": (
        line("task", id=T0, name="x", feature_id=T1).encode(),
        f"there is no feature {T1}",
    ),
    "a conflict": (b"<<<<<<< a\n=======\n>>>>>>> b\n", "git left a conflict in it"),
    "nothing known": (b"\x00\x01", "it is of no tracker that is known"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_file_is_refused_with_a_sentence(cli: Cli, tmp_path: Path, what: str) -> None:
    data, sentence = HOSTILE[what]
    (tmp_path / "plan.jsonl").write_bytes(data)
    result = cli("project", "import", "plan.jsonl")
    assert (result.code, result.out) == (2, "")
    assert sentence in result.err
    assert "Traceback" not in result.err
    assert cli.ok("task", "list", "-o", "json").json == []


def test_missing_file_is_refused_with_a_sentence(cli: Cli) -> None:
    result = cli("project", "import", "gone.jsonl")
    assert (result.code, result.out) == (1, "")
    assert "cannot read" in result.err
    assert "No such file" in result.err


def test_part_of_a_plan_is_written_whole_or_not_at_all(nexus: BlockingClient) -> None:
    feature, task, other = PlanFeature(id=IDS[0], name="All"), IDS[1], IDS[2]
    with pytest.raises(PlanInvalid, match="there is no feature"):
        nexus.call(WritePlan(features=[feature], tasks=[PlanTask(id=task, name="x", feature_id=IDS[9])]))
    assert nexus.call(ListFeatures()).features == []
    # A task that is waited for before it is there.
    nexus.call(WritePlan(tasks=[PlanTask(id=task, name="x", depends_on=[other])]))
    with pytest.raises(PlanInvalid, match="wait for each other"):
        nexus.call(WritePlan(tasks=[PlanTask(id=other, name="y", depends_on=[task])]))
    nexus.call(WritePlan(tasks=[PlanTask(id=other, name="y", status=TaskStatus.COMPLETED)]))
    assert nexus.call(GetTask(task)).open_dependencies == 0


def test_record_keeps_its_number_where_no_other_has_it(nexus: BlockingClient) -> None:
    tasks = [PlanTask(id=IDS[0], name="x", number=5), PlanTask(id=IDS[1], name="y", number=5)]
    written = nexus.call(WritePlan(tasks=tasks))
    assert (written.created, written.renumbered) == ({"tasks": 2}, 1)
    assert [task.number for task in nexus.call(ReadPlan()).tasks] == [5, 6]
    assert nexus.call(WritePlan(tasks=tasks)).present == {"tasks": 2}


def test_record_of_another_project_is_refused(shared: DaemonProcess, nexus: BlockingClient) -> None:
    task = PlanTask(id=IDS[0], name="x")
    nexus.call(WritePlan(tasks=[task]))
    with BlockingClient(shared.socket_path) as client, pytest.raises(PlanIdTaken, match='project "plan" has the task'):
        client.call(WritePlan(tasks=[task]))


def test_plan_is_read_in_pages(nexus: BlockingClient) -> None:
    nexus.call(WritePlan(tasks=[PlanTask(id=id_, name="x") for id_ in IDS]))
    page = nexus.call(ReadPlan(limit=4))
    found = [task.id for task in page.tasks]
    while page.next_cursor is not None:
        page = nexus.call(ReadPlan(limit=4, cursor=page.next_cursor))
        assert not page.changed
        found += [task.id for task in page.tasks]
    assert found == IDS
    cursor = nexus.call(ReadPlan(limit=4)).next_cursor
    nexus.call(CreateTask("More"))
    assert nexus.call(ReadPlan(limit=4, cursor=cursor)).changed
