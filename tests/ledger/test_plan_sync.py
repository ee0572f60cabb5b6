"""The plan in a file of the repository: both ways, three ways, and over two branches of git."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nexus_protocol.errors import InvalidArgument
from support.cli import Cli
from support.daemon import DaemonProcess
from support.git import GitWorld
from support.soak import SOAK

from nexus.cli.plan_sync import apply_changes
from nexus.client import BlockingClient
from nexus.ledger.agents.commands import CreateAgent
from nexus.ledger.features.commands import CreateFeature, CreateSubFeature, GetFeature, GetSubFeature, UpdateFeature
from nexus.ledger.files.commands import ReadPlan
from nexus.ledger.importing.plan_merge import Change
from nexus.ledger.requirements.commands import CreateRequirement, GetRequirement
from nexus.ledger.sessions.commands import StartSession
from nexus.ledger.states import AgentType, FeatureStatus, RequirementCategory, SessionType, TaskStatus
from nexus.ledger.tasks.commands import (
    AddTaskComment,
    ClaimTask,
    CompleteTask,
    CreateTask,
    DeleteTask,
    GetTask,
    ListTasks,
    UpdateTask,
)
from nexus.ledger.tasks.records import Task
from nexus.projects.commands import CreateProject, DeleteProject, GetProject


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
    """nexusctl in that project, and in a folder for the file."""
    return Cli(shared.environment | {"NEXUS_PROJECT": "plan"}, tmp_path)


def edited(file: Path, record: str, number: int, **fields: Any) -> None:
    """Change a line as a person does."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    (found,) = [line for line in lines if (line["record"], line.get("number")) == (record, number)]
    found.update(fields)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def synced(cli: Cli, *options: str, file: str = "plan.jsonl", code: int = 0) -> Any:
    result = cli("project", "sync", file, *options, "-o", "json")
    assert result.code == code, result.err
    return result.json


def task(nexus: BlockingClient, number: int) -> Task:
    return nexus.call(GetTask(str(number)))


def test_changes_of_both_sides_meet(cli: Cli, nexus: BlockingClient, tmp_path: Path) -> None:
    file = tmp_path / "plan.jsonl"
    feature = nexus.call(CreateFeature("All"))
    for name in ("Draw", "Ship", "Rest"):
        nexus.call(CreateTask(name, tags=["a", "b"]))
    nexus.call(CreateRequirement(RequirementCategory.TECHNICAL, "Fast"))
    nexus.call(AddTaskComment("1", "Why?"))
    assert synced(cli)["written"]
    inode = file.stat().st_ino
    again = synced(cli)
    assert (again["written"], again["changed"], again["file_changed"]) == (False, [], [])
    assert file.stat().st_ino == inode
    edited(file, "task", 1, status="completed", priority=2, tags=["a", "b", "c"], feature_id=feature.id)
    edited(file, "task", 2, depends_on=[task(nexus, 3).id], description="In full")
    edited(file, "requirement", 1, validated=True, linked_features=[feature.id], source="me")
    edited(file, "feature", 1, description="All of it")
    new = {"record": "task", "id": "6f1c0f7e-2f0c-4b60-9a63-3f1d5e0c1a02", "name": "New"}
    with file.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(new) + "\n")
    nexus.call(UpdateTask("1", name="Draw it", tags=["b"]))
    nexus.call(UpdateFeature("1", status=FeatureStatus.IN_PROGRESS))
    dry = cli.ok("project", "sync", "plan.jsonl", "--dry-run")
    assert 'ledger: task 1 "Draw it": status pending → completed, priority 5 → 2' in dry.out
    assert task(nexus, 1).priority == 5
    synced(cli)
    one, two = task(nexus, 1), task(nexus, 2)
    assert (one.status, one.priority, one.name, one.tags) == (TaskStatus.COMPLETED, 2, "Draw it", ["b", "c"])
    assert (two.depends_on, two.open_dependencies, two.description) == ([task(nexus, 3).id], 1, "In full")
    requirement = nexus.call(GetRequirement("1"))
    assert (requirement.validated, requirement.linked_features, requirement.source) == (True, [feature.id], "me")
    assert task(nexus, 4).id == new["id"]
    text = file.read_text(encoding="utf-8")
    assert '"name":"Draw it"' in text
    assert '"status":"in_progress"' in text
    assert not synced(cli)["written"]


def test_conflict_is_told_and_resolved(cli: Cli, nexus: BlockingClient, tmp_path: Path) -> None:
    file = tmp_path / "plan.jsonl"
    nexus.call(CreateTask("Draw"))
    synced(cli)
    edited(file, "task", 1, name="Of the file", priority=1)
    nexus.call(UpdateTask("1", name="Of the ledger"))
    result = cli("project", "sync", "plan.jsonl")
    assert result.code == 1
    assert "conflict: task 1" in result.err
    assert "name: the file has Of the file, the ledger Of the ledger" in result.err
    # Neither is lost, and what is no conflict is merged.
    assert (task(nexus, 1).name, task(nexus, 1).priority) == ("Of the ledger", 1)
    assert "Of the file" in file.read_text(encoding="utf-8")
    copy = file.read_bytes()
    assert synced(cli, code=1)["conflicts"][0]["field"] == "name"
    synced(cli, "--prefer", "file")
    assert task(nexus, 1).name == "Of the file"
    file.write_bytes(copy)
    nexus.call(UpdateTask("1", name="Of the ledger"))
    edited(file, "task", 1, name="Other")
    synced(cli, "--prefer", "daemon")
    assert '"name":"Of the ledger"' in file.read_text(encoding="utf-8")
    assert synced(cli)["conflicts"] == []


def test_status_that_no_move_leads_to_is_told(cli: Cli, nexus: BlockingClient, tmp_path: Path) -> None:
    file = tmp_path / "plan.jsonl"
    nexus.call(CreateAgent("coder-of-sync", AgentType.CODER))
    for name in ("Held", "Reviewed", "Blocked"):
        nexus.call(CreateTask(name))
    nexus.call(ClaimTask("coder-of-sync", "1"))
    synced(cli)
    # A lease is of one daemon: the file has the task as one that is wanted.
    assert json.loads(file.read_text(encoding="utf-8").splitlines()[1])["record"] == "task"
    assert "in_progress" not in file.read_text(encoding="utf-8")
    edited(file, "task", 1, status="completed")
    edited(file, "task", 2, status="in_review")
    edited(file, "task", 3, status="blocked", reason="no key")
    refused = synced(cli, code=1)["refused"]
    assert sorted(each["type"] for each in refused) == ["failed_precondition", "lease.required"]
    assert (task(nexus, 1).status, task(nexus, 2).status) == (TaskStatus.IN_PROGRESS, TaskStatus.PENDING)
    assert (task(nexus, 3).status, task(nexus, 3).reason) == (TaskStatus.BLOCKED, "no key")


def test_deletion_is_no_accident(cli: Cli, nexus: BlockingClient, tmp_path: Path) -> None:
    file = tmp_path / "plan.jsonl"
    for name in ("Draw", "Ship", "Rest"):
        nexus.call(CreateTask(name, depends_on=["1"] if name == "Ship" else None))
    synced(cli)
    nexus.call(DeleteTask("3"))
    lines = [line for line in file.read_text().splitlines(keepends=True) if '"Draw"' not in line and "Ship" not in line]
    file.write_text("".join(lines))
    assert len(synced(cli)["missing"]) == 2
    assert "Rest" not in file.read_text()
    assert [each.name for each in nexus.call(ListTasks()).tasks] == ["Draw", "Ship"]
    synced(cli, "--prune")
    assert nexus.call(ListTasks()).tasks == []


def test_file_of_an_old_commit_takes_nothing_back(cli: Cli, nexus: BlockingClient, tmp_path: Path) -> None:
    file = tmp_path / "plan.jsonl"
    nexus.call(CreateTask("Draw"))
    synced(cli)
    old = file.read_bytes()
    nexus.call(CompleteTask("1"))
    synced(cli)
    new = file.read_bytes()
    file.write_bytes(old)
    synced(cli)
    assert task(nexus, 1).status is TaskStatus.COMPLETED
    assert file.read_bytes() == new
    # A person who sets it back means it.
    edited(file, "task", 1, status="pending")
    synced(cli)
    assert task(nexus, 1).status is TaskStatus.PENDING


def merged(world: GitWorld, folder: Path, branch: str) -> bool:
    """Merge a branch; returns whether git left a conflict."""
    done = subprocess.run(
        ["git", "merge", "-q", "-m", "merge", branch],
        cwd=folder,
        env=world.environment,
        capture_output=True,
        check=False,
    )
    return done.returncode != 0


@pytest.mark.parametrize("style", ["merge", "diff3"])
def test_copies_of_two_branches_and_two_daemons_merge(
    cli: Cli, nexus: BlockingClient, daemon: DaemonProcess, tmp_path: Path, style: str
) -> None:
    world = GitWorld(tmp_path)
    here = world.repository("here")
    world.git(here, "config", "merge.conflictStyle", style)
    for number in range(1, 4):
        nexus.call(CreateTask(f"Task {number}", tags=["a"]))
    mine = Cli(cli.environment, here)
    synced(mine)
    world.git(here, "add", "plan.jsonl")
    world.git(here, "commit", "-qm", "plan")
    # Another person has a clone, and a daemon of her own.
    there = world.cloned("there", here)
    theirs = Cli(daemon.environment, there)
    first = synced(theirs)
    assert (first["created"], first["written"]) == ({"tasks": 3}, False)
    with BlockingClient(daemon.socket_path) as other:
        other.call(UpdateTask("1", priority=1, tags=["a", "b"]))
        other.call(CompleteTask("2"))
        other.call(CreateTask("Of hers"))
        synced(theirs)
        world.git(there, "commit", "-qam", "hers")
        nexus.call(UpdateTask("1", name="Renamed", tags=["a", "c"]))
        nexus.call(UpdateTask("3", description="In full"))
        nexus.call(CreateTask("Of mine"))
        synced(mine)
        world.git(here, "commit", "-qam", "mine")
        world.git(here, "fetch", "-q", str(there), "HEAD:hers")
        assert merged(world, here, "hers")
        assert "<<<<<<<" in (here / "plan.jsonl").read_text()
        assert synced(mine)["conflicts"] == []
        one = task(nexus, 1)
        assert (one.name, one.priority, sorted(one.tags)) == ("Renamed", 1, ["a", "b", "c"])
        assert task(nexus, 2).status is TaskStatus.COMPLETED
        assert sorted(each.name for each in nexus.call(ListTasks()).tasks)[:2] == ["Of hers", "Of mine"]
        assert "<<<<<<<" not in (here / "plan.jsonl").read_text()
        world.git(here, "commit", "-qam", "merged")
        world.git(there, "pull", "-q", "--ff-only", str(here), "HEAD")
        assert not synced(theirs)["written"]
        assert not synced(mine)["written"]

        def contents(client: BlockingClient, of: Callable[[Task], Any]) -> list[Any]:
            return sorted(of(each) for each in client.call(ListTasks()).tasks)

        def of(each: Task) -> Any:
            return each.id, each.name, each.priority, each.status, each.tags, each.description or ""

        assert contents(other, of) == contents(nexus, of)


def test_change_since_the_read_is_not_overwritten(nexus: BlockingClient) -> None:
    made = nexus.call(CreateTask("Draw"))
    (present,) = nexus.call(ReadPlan(figures=False)).tasks
    nexus.call(UpdateTask("1", name="Of another client"))
    app: Any = SimpleNamespace(call=nexus.call)
    key = ("tasks", made.id)
    refused, stale = apply_changes(app, None, [Change(key, {"name": "Of the file"}, present, present)])
    assert (refused, list(stale), task(nexus, 1).name) == ([], [key], "Of another client")


def test_file_of_an_export_is_not_overwritten(cli: Cli, nexus: BlockingClient, tmp_path: Path) -> None:
    nexus.call(StartSession(SessionType.INTERVIEW))
    cli.ok("project", "export", "plan.jsonl")
    before = (tmp_path / "plan.jsonl").read_bytes()
    refused = cli("project", "sync", "plan.jsonl")
    assert "it is a file of 'project export', with sessions" in refused.err
    assert (tmp_path / "plan.jsonl").read_bytes() == before


def test_fields_are_cleared(cli: Cli, nexus: BlockingClient, tmp_path: Path) -> None:
    feature = nexus.call(CreateFeature("All", description="x"))
    part = nexus.call(CreateSubFeature(feature.id, "Half", description="x"))
    need = nexus.call(CreateRequirement(RequirementCategory.TECHNICAL, "Fast", source="me"))
    synced(cli)
    for word in ("feature", "sub_feature"):
        edited(tmp_path / "plan.jsonl", word, 1, description=None)
    edited(tmp_path / "plan.jsonl", "requirement", 1, source=None)
    assert synced(cli)["refused"] == []
    assert nexus.call(GetSubFeature(part.id)).description is None
    assert nexus.call(GetRequirement(need.id)).source is None
    nexus.call(UpdateFeature("1", description="y"))
    cli.ok("feature", "update", "1", "--clear", "description")
    assert nexus.call(GetFeature(feature.id)).description is None
    assert not synced(cli)["written"]
    with pytest.raises(InvalidArgument, match="name cannot be unset"):
        nexus.call(UpdateFeature("1", clear=["name"]))
    with pytest.raises(InvalidArgument, match="sets and clears"):
        nexus.call(UpdateFeature("1", description="x", clear=["description"]))


def test_settings_of_a_project_are_numbers_on_the_command_line(cli: Cli, nexus: BlockingClient) -> None:
    cli.ok("project", "update", "plan", "--settings", "max_task_minutes=6", "--settings", "colour=7")
    assert nexus.call(GetProject()).settings == {"max_task_minutes": 6, "colour": "7"}
    assert (
        "max_task_minutes is a whole number" in cli("project", "update", "plan", "--settings", "max_task_minutes=x").err
    )


def test_without_an_ancestor_what_differs_is_told(cli: Cli, nexus: BlockingClient, tmp_path: Path) -> None:
    file = tmp_path / "plan.jsonl"
    nexus.call(CreateTask("Draw", description="long", tags=["a"]))
    synced(cli)
    before = file.read_text()
    nexus.call(UpdateTask("1", description="longer"))
    synced(cli)
    head, ours = file.read_text().splitlines()
    theirs = before.splitlines()[1].replace('["a"]', '["b"]').replace('"long"', '"short"')
    file.write_text("\n".join([head, "<<<<<<< HEAD", ours, "=======", theirs, ">>>>>>> hers", ""]))
    assert [(each["field"], each["file"]) for each in synced(cli, code=1)["conflicts"]] == [("description", "short")]
    assert sorted(task(nexus, 1).tags) == ["a", "b"]
    synced(cli, "--prefer", "file")
    assert task(nexus, 1).description == "short"


def _state(client: BlockingClient) -> dict[str, dict[str, Any]]:
    return {
        each.id: {"name": each.name, "description": each.description, "priority": each.priority, "tags": set(each.tags)}
        for each in client.call(ListTasks()).tasks
    }


def _edit(dice: random.Random, client: BlockingClient, mark: str) -> None:
    """Change a few fields of tasks, unset some, and delete one at times."""
    for step in range(dice.randint(1, 4)):
        one = dice.choice(client.call(ListTasks()).tasks)
        word = f"{mark}{step}"
        match dice.randrange(7):
            case 0:
                client.call(UpdateTask(one.id, name=word))
            case 1:
                client.call(UpdateTask(one.id, description=word))
            case 2:
                client.call(UpdateTask(one.id, clear=["description"]))
            case 3:
                client.call(UpdateTask(one.id, priority=dice.randint(1, 9)))
            case 4:
                client.call(UpdateTask(one.id, tags=[*one.tags, word]))
            case 5:
                client.call(UpdateTask(one.id, tags=one.tags[1:]))
            case _:
                client.call(DeleteTask(one.id))
                client.call(CreateTask(word, description=word, tags=["x", "y"]))


@pytest.mark.soak
def test_edits_on_two_branches_are_in_both_or_told(
    cli: Cli, nexus: BlockingClient, daemon: DaemonProcess, tmp_path: Path
) -> None:
    seed = random.randrange(10**9)
    dice = random.Random(seed)
    world = GitWorld(tmp_path)
    folders = [world.repository("here")]
    for number in range(5):
        nexus.call(CreateTask(f"Task {number}", description="of old", tags=["a", "b"]))
    mine = Cli(cli.environment, folders[0])
    synced(mine)
    world.git(folders[0], "add", "plan.jsonl")
    world.git(folders[0], "commit", "-qm", "plan")
    folders.append(world.cloned("there", folders[0]))
    theirs = Cli(daemon.environment, folders[1])
    synced(theirs)

    with BlockingClient(daemon.socket_path) as other:
        clients, clis = [nexus, other], [mine, theirs]
        for turn in range(2 * SOAK):
            told: set[tuple[str, str | None]] = set()

            def sync(side: int, *options: str, told: set[tuple[str, str | None]] = told) -> None:
                result = clis[side]("project", "sync", "plan.jsonl", "--prune", *options, "-o", "json")
                assert result.out, (seed, result.err)
                assert not result.json["refused"], (seed, result.out)
                told.update((each["id"], each["field"]) for each in result.json["conflicts"])
                world.git(folders[side], "commit", "-qam", "sync", "--allow-empty")

            before = _state(nexus)
            assert before == _state(other), seed
            for side in (0, 1):
                for part in range(dice.randint(1, 2)):
                    _edit(dice, clients[side], f"{'mh'[side]}{turn}.{part}.")
                    sync(side)
            wanted = [_state(client) for client in clients]
            into = dice.randrange(2)
            world.git(folders[into], "fetch", "-q", str(folders[1 - into]), "+HEAD:refs/heads/hers")
            merged(world, folders[into], "hers")
            sync(into)
            sync(into, "--prefer", "file")
            world.git(folders[1 - into], "pull", "-q", "--ff-only", str(folders[into]), "HEAD")
            sync(1 - into)
            sync(1 - into, "--prefer", "file")
            after = _state(nexus)
            assert after == _state(other), seed
            for id_ in before.keys() | wanted[0].keys() | wanted[1].keys():
                if (id_, None) in told:
                    assert id_ in after, (seed, id_)
                    continue
                old, one, two = (each.get(id_) for each in (before, *wanted))
                if old is None or one is None or two is None:
                    gone = old is not None
                    assert (id_ in after) is not gone, (seed, id_, old, one, two)
                    # What was changed is not deleted untold.
                    assert not gone or (one or old) == (two or old) == old, (seed, id_, old, one, two)
                    continue
                for field, was in old.items():
                    a, b, now = one[field], two[field], after[id_][field]
                    if (id_, field) in told:
                        continue
                    if field == "tags":
                        assert now == (a & b) | ((a | b) - was), (seed, id_, was, a, b, now)
                    else:
                        assert a == b or was in (a, b), (seed, id_, field, was, a, b)
                        assert now == (b if a == was else a), (seed, id_, field, was, a, b, now)
