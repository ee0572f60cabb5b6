"""The plan in a file of the repository: both ways, three ways, and over two branches of git."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import Cli
from support.daemon import DaemonProcess
from support.git import GitWorld

from nexus.client import BlockingClient
from nexus.ledger.agents.commands import CreateAgent
from nexus.ledger.features.commands import CreateFeature, UpdateFeature
from nexus.ledger.requirements.commands import CreateRequirement, GetRequirement
from nexus.ledger.states import AgentType, FeatureStatus, RequirementCategory, TaskStatus
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
from nexus.projects.commands import CreateProject, DeleteProject


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
