"""Features and sub-features: their numbers, their progress, the statuses that tasks speak for, and their deletion."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

import pytest
from nexus_protocol import InvalidArgument
from support.cli import Cli
from support.daemon import DaemonProcess

from nexus.client import BlockingClient
from nexus.journal.commands import WatchEvents
from nexus.ledger.features.commands import (
    CreateFeature,
    CreateSubFeature,
    DeleteFeature,
    DeleteSubFeature,
    GetFeature,
    GetSubFeature,
    ListFeatures,
    ListSubFeatures,
    SyncFeatures,
    UpdateFeature,
    UpdateSubFeature,
)
from nexus.ledger.features.errors import (
    FeatureChanged,
    FeatureIdTaken,
    FeatureNotEmpty,
    FeatureNotFound,
    SubFeatureIdTaken,
    SubFeatureNotEmpty,
)
from nexus.ledger.features.records import Feature
from nexus.ledger.requirements.commands import CreateRequirement, GetRequirement
from nexus.ledger.states import FeatureStatus, MoscowPriority, RequirementCategory
from nexus.projects.commands import CreateProject, DeleteProject
from nexus.records.scope import DEFAULT_ID
from nexus.store.connection import connect

ID = "6f1c0f7e-2f0c-4b60-9a63-3f1d5e0c1a01"


@pytest.fixture
def nexus(daemon: DaemonProcess) -> Iterator[BlockingClient]:
    """A client of a daemon without records."""
    with BlockingClient(daemon.socket_path) as client:
        yield client


def add_tasks(daemon: DaemonProcess, feature_id: str, *statuses: str, part: str | None = None) -> None:
    """Write tasks of a feature, with these statuses, into the database."""
    with contextlib.closing(connect(str(daemon.database), isolation_level=None)) as database:
        (last,) = database.execute("SELECT coalesce(max(doc), 10000000) FROM tasks").fetchone()
        for at, status in enumerate(statuses, last + 1):
            database.execute(
                "INSERT INTO tasks (id, number, project_id, feature_id, sub_feature_id, name, status, created_at, "
                "updated_at, doc) VALUES (?, ?, ?, ?, ?, ?, ?, 1, 1, ?)",
                (str(uuid.uuid4()), at, DEFAULT_ID, feature_id, part, f"task {at}", status, at),
            )


def numbers(nexus: BlockingClient, **filters: object) -> list[int]:
    """The numbers of the features that a list has."""
    return [feature.number for feature in nexus.call(ListFeatures(**filters)).features]  # type: ignore[arg-type]


def test_features_are_numbered_in_their_project_and_may_have_one_name(nexus: BlockingClient) -> None:
    nexus.call(CreateProject("shop"))
    made = [nexus.call(CreateFeature("Log in")), nexus.call(CreateFeature("Log in"))]
    other = nexus.call(CreateFeature("Pay"), project="shop")
    assert [feature.number for feature in (*made, other)] == [1, 2, 1]
    for reference in ("2", "#2", made[1].id, made[1].id[:8], "default/2"):
        assert nexus.call(GetFeature(reference)) == made[1]
    assert nexus.call(GetFeature("shop/1")) == other
    nexus.call(DeleteFeature("2"))
    assert nexus.call(CreateFeature("Log out")).number == 3  # a number is given once
    with pytest.raises(FeatureNotFound):
        nexus.call(GetFeature("2"))


def test_create_of_a_feature_can_be_repeated(nexus: BlockingClient) -> None:
    command = CreateFeature("Log in", tags=["auth", "auth"], estimated_tasks=3, id=ID)
    made = nexus.call(command)
    assert nexus.call(command) == made
    assert made.tags == ["auth"]
    with pytest.raises(FeatureIdTaken):
        nexus.call(CreateFeature("Log out", id=ID))
    part = CreateSubFeature("1", "With a passkey", id=ID)
    assert nexus.call(part) == nexus.call(part)
    with pytest.raises(SubFeatureIdTaken):
        nexus.call(CreateSubFeature("1", "With a password", id=ID))


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "a\x1bb"])
def test_name_of_a_feature_is_one_line(nexus: BlockingClient, name: str) -> None:
    with pytest.raises(InvalidArgument):
        nexus.call(CreateFeature(name))


def test_features_are_listed_by_what_they_have(nexus: BlockingClient) -> None:
    nexus.call(CreateFeature("Log in", priority=MoscowPriority.MUST, tags=["auth"]))
    nexus.call(CreateFeature("Log out", tags=["auth"], description="ends the walrus"))
    nexus.call(CreateFeature("Pay", status=FeatureStatus.DONE))
    assert numbers(nexus) == [1, 2, 3]
    assert numbers(nexus, tag="auth") == [1, 2]
    assert numbers(nexus, priority=MoscowPriority.MUST) == [1]
    assert numbers(nexus, status=FeatureStatus.BACKLOG, priority=MoscowPriority.SHOULD) == [2]
    assert numbers(nexus, match="walrus") == [2]
    page = nexus.call(ListFeatures(limit=2))
    assert page.next_cursor is not None
    assert numbers(nexus, limit=2, cursor=page.next_cursor) == [3]


def test_status_is_moved_by_hand_and_guarded_by_the_revision(nexus: BlockingClient) -> None:
    made = nexus.call(CreateFeature("Log in"))
    moved = nexus.call(UpdateFeature("1", status=FeatureStatus.HUMAN_REVIEW, if_revision=1))
    assert (moved.status, moved.revision) == (FeatureStatus.HUMAN_REVIEW, 2)
    with pytest.raises(FeatureChanged, match='cannot update feature "1": its revision is 2 and not 1'):
        nexus.call(UpdateFeature(made.id, name="x", if_revision=1))
    events = list(nexus.stream(WatchEvents(kinds=["feature.updated"], follow=False)))
    assert [event.detail for event in events] == [{"status": {"from": "backlog", "to": "human_review"}}]


def test_progress_counts_the_tasks_against_the_larger_of_plan_and_count(
    daemon: DaemonProcess, nexus: BlockingClient
) -> None:
    feature = nexus.call(CreateFeature("Log in", estimated_tasks=8))
    add_tasks(daemon, feature.id, *["completed"] * 3, "pending")
    with contextlib.closing(connect(str(daemon.database), isolation_level=None)) as database:
        database.execute("UPDATE features SET completed_tasks = 3")

    def progress(one: Feature) -> tuple[int, int]:
        return one.tasks, one.percentage

    assert progress(nexus.call(GetFeature("1"))) == (4, 37)
    assert progress(nexus.call(ListFeatures()).features[0]) == (4, 37)
    assert progress(nexus.call(UpdateFeature("1", estimated_tasks=2))) == (4, 75)


@pytest.mark.parametrize(
    ("tasks", "proposed"),
    [
        (["completed", "in_progress"], FeatureStatus.IN_PROGRESS),
        (["completed", "completed"], FeatureStatus.DONE),
        (["completed", "in_review"], FeatureStatus.AI_REVIEW),
        (["in_review"], FeatureStatus.AI_REVIEW),
        (["completed", "pending"], None),
        (["failed"], None),
        ([], None),
    ],
)
def test_sync_proposes_what_the_tasks_speak_for_and_sets_it_where_it_is_told_to(
    daemon: DaemonProcess, nexus: BlockingClient, tasks: list[str], proposed: FeatureStatus | None
) -> None:
    feature = nexus.call(CreateFeature("Log in"))
    part = nexus.call(CreateSubFeature("1", "With a passkey"))
    nexus.call(CreateFeature("Pay"))
    add_tasks(daemon, feature.id, *tasks, part=part.id)
    found = nexus.call(SyncFeatures())
    wanted = [] if proposed is None else [("feature", 1, proposed), ("sub_feature", 1, proposed)]
    assert [(each.kind, each.number, each.proposed) for each in found.proposals] == wanted
    assert nexus.call(GetFeature("1")).revision == 1
    assert nexus.call(SyncFeatures(feature="2")).proposals == []
    assert nexus.call(SyncFeatures(feature="1", apply=True)).proposals == found.proposals
    status = proposed or FeatureStatus.BACKLOG
    assert (nexus.call(GetFeature("1")).status, nexus.call(GetSubFeature("1")).status) == (status, status)
    assert nexus.call(SyncFeatures()).proposals == []


def test_feature_that_has_others_is_deleted_with_them_alone(daemon: DaemonProcess, nexus: BlockingClient) -> None:
    feature = nexus.call(CreateFeature("Log in"))
    part = nexus.call(CreateSubFeature("1", "With a passkey"))
    add_tasks(daemon, feature.id, "pending")
    add_tasks(daemon, feature.id, "pending", part=part.id)
    linked = nexus.call(CreateRequirement(RequirementCategory.FUNCTIONAL, "People log in.", features=["1"]))
    assert linked.linked_features == [feature.id]
    with pytest.raises(FeatureNotEmpty, match=r'it has 1 sub-feature \(1 "With a passkey"\) and 2 tasks') as refused:
        nexus.call(DeleteFeature("1"))
    assert refused.value.hint == "Delete them too: nexusctl feature delete 1 --cascade"
    with pytest.raises(SubFeatureNotEmpty, match="it has 1 task"):
        nexus.call(DeleteSubFeature("1"))
    gone = nexus.call(DeleteSubFeature("1", cascade=True))
    assert (gone.sub_feature.id, gone.tasks) == (part.id, 1)
    nexus.call(CreateSubFeature("1", "With a password"))
    deleted = nexus.call(DeleteFeature("1", cascade=True))
    assert (deleted.sub_features, deleted.tasks, deleted.requirements) == (1, 1, 1)
    assert nexus.call(GetRequirement("1")).linked_features == []
    assert nexus.call(ListSubFeatures()).sub_features == []


def test_sub_features_are_listed_by_feature_and_moved(nexus: BlockingClient) -> None:
    nexus.call(CreateFeature("Log in"))
    nexus.call(CreateFeature("Pay"))
    for feature in ("1", "2", "2"):
        nexus.call(CreateSubFeature(feature, "part"))
    nexus.call(UpdateSubFeature("3", status=FeatureStatus.DONE))
    assert [part.number for part in nexus.call(ListSubFeatures(feature_id="2")).sub_features] == [2, 3]
    assert [part.number for part in nexus.call(ListSubFeatures(status=FeatureStatus.DONE)).sub_features] == [3]
    with pytest.raises(FeatureNotFound):
        nexus.call(CreateSubFeature("9", "part"))


def test_project_takes_its_features_with_it(nexus: BlockingClient) -> None:
    nexus.call(CreateProject("shop"))
    nexus.call(CreateFeature("Log in"), project="shop")
    nexus.call(CreateSubFeature("1", "With a passkey"), project="shop")
    nexus.call(CreateRequirement(RequirementCategory.FUNCTIONAL, "x", features=["1"]), project="shop")
    deleted = nexus.call(DeleteProject("shop", cascade=True))
    assert sorted(record.kind for record in deleted.records) == ["feature", "requirement", "sub_feature"]
    assert nexus.call(ListFeatures(), project="*").features == []


def test_verbs_of_features_call_them_by_number(daemon: DaemonProcess) -> None:
    cli = Cli(daemon.environment)

    def run(*words: str) -> str:
        return cli.ok(*words).out

    assert run("feature", "create", "Log in", "--priority", "must").splitlines()[0] == 'Created feature "1" (Log in)'
    assert run("sub-feature", "create", "1", "With a passkey").startswith('Created sub-feature "1" (With a passkey)')
    assert run("feature", "list", "-o", "name") == "1\n"
    assert run("feature", "update", "1", "--status", "in_progress") == 'Updated feature "1"\n'
    assert "Log in" in run("feature", "inspect", "1")
    refused = cli("feature", "delete", "1", "--yes")
    assert refused.code == 5
    assert "feature delete 1 --cascade" in refused.err
    assert run("feature", "sync") == ""
    assert run("feature", "delete", "1", "--cascade", "--yes") == 'Deleted feature "1"\n'
