"""Restores: rows are what they were, agents of before are stale, and what others write meanwhile is not lost."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nexus_protocol.context import HeldLease
from nexus_protocol.errors import NexusError
from support.agent_mutations import AGENT_MAKERS
from support.daemon import DaemonProcess
from support.memory_mutations import MEMORY_MAKERS
from support.mutations import Pool
from support.plan_mutations import PLAN
from support.replay import check
from support.stores import look_at
from support.task_mutations import TASK_MAKERS

from nexus.checkpoints.commands import (
    CreateCheckpoint,
    DeleteCheckpoint,
    DiffCheckpoints,
    GetCheckpointState,
    ListCheckpoints,
    RestoreCheckpoint,
)
from nexus.client import BlockingClient
from nexus.client.errors import ConnectionFailure
from nexus.journal.commands import WatchEvents
from nexus.ledger.agents.commands import CreateAgent, GetAgent
from nexus.ledger.features.commands import CreateFeature, DeleteFeature, GetFeature
from nexus.ledger.requirements.commands import CreateRequirement, GetRequirement
from nexus.ledger.states import AgentStatus, AgentType, RequirementCategory, TaskStatus
from nexus.ledger.tasks.commands import (
    AddTaskComment,
    AddTaskNote,
    BlockTask,
    ClaimTask,
    CompleteTask,
    CreateTask,
    DeleteTask,
    GetTask,
    QueueTask,
    UpdateTask,
)
from nexus.memory.continue_points.commands import CreateContinuePoint, GetResumePoint
from nexus.memory.episodes.commands import CreateEpisode, DeleteEpisode, GetEpisode
from nexus.memory.episodes.states import EpisodeType
from nexus.projects.commands import CreateProject
from nexus.records.errors import LeaseStale, RestoreRefused
from nexus.records.scope import DEFAULT_ID
from nexus.search.commands import Search
from nexus.store.connection import connect
from nexus.store.fulltext import check_index

TABLES = ("features", "sub_features", "tasks", "requirements", "sessions", "episodes", "continue_points")
PARTS = {"task_note": "tasks", "task_comment": "tasks"}
NOT_COMPARED = {"revision", "state_revision", "updated_at", "doc", "embedding"}
ID = "6f1c0f7e-2f0c-4b60-9a63-3f1d5e0c1a02"

Rows = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture
def nexus(daemon: DaemonProcess) -> Iterator[BlockingClient]:
    """A client of a daemon without records."""
    with BlockingClient(daemon.socket_path) as client:
        yield client


def rows_of(daemon: DaemonProcess, project_id: str = DEFAULT_ID) -> Rows:
    """Every row of a project that a checkpoint has."""
    found: Rows = {}
    with look_at(daemon.database) as database:
        database.row_factory = sqlite3.Row
        for table in TABLES:
            for row in database.execute(f"SELECT * FROM {table} WHERE project_id = ?", (project_id,)):
                found[table, row["id"]] = dict(row)
        for table, parent in PARTS.items():
            sql = f"SELECT * FROM {table} WHERE task_id IN (SELECT id FROM {parent} WHERE project_id = ?)"
            for row in database.execute(sql, (project_id,)):
                found[table, row["id"]] = dict(row)
    return found


def compared(rows: Rows) -> Rows:
    """What is compared of rows: claims end with a restore, and counters of changes only rise."""
    found = {}
    for key, row in rows.items():
        shown = {column: value for column, value in row.items() if column not in NOT_COMPARED}
        if shown.get("status") == "in_progress" and key[0] == "tasks":
            shown |= {"status": "pending", "assigned_agent": None}
        found[key] = shown
    return found


def revisions(rows: Rows) -> dict[tuple[str, str], tuple[int, int]]:
    """The revisions of records."""
    return {key: (row["revision"], row["state_revision"]) for key, row in rows.items() if "revision" in row}


def problems(daemon: DaemonProcess) -> list[str]:
    """What disagrees in the database: rows, journal, what is derived, and the search."""
    with contextlib.closing(sqlite3.connect(daemon.database)) as database:
        found = check(database)
    with contextlib.closing(connect(daemon.database)) as database:
        of_search = check_index(database)
    return found + ([] if of_search is None else [of_search])


def mutate(nexus: BlockingClient, pool: Pool, count: int, held: list[HeldLease]) -> None:
    """Send random commands on the plan, some of them under leases that are live or were."""
    makers = {**PLAN, **TASK_MAKERS, **AGENT_MAKERS, **MEMORY_MAKERS}
    names = [name for name in makers if "Checkpoint" not in name and "Project" not in name]
    for _ in range(count):
        (name,) = pool.chance.choices(names, [makers[each][0] for each in names])
        lease = pool.chance.choice(held) if held and pool.chance.random() < 0.4 else None
        with contextlib.suppress(NexusError):
            reply = nexus.call(makers[name][1](pool), lease=lease)
            if name == "ClaimTask":
                held.append(HeldLease(reply.lease.id, reply.lease.epoch))


@pytest.mark.parametrize("seed", [1, 2])
def test_restore_after_500_random_changes_makes_rows_what_they_were_and_is_undone_by_its_own_checkpoint(
    make_daemon: Callable[..., DaemonProcess], root: Path, seed: int
) -> None:
    daemon = make_daemon().start()
    pool = Pool(random.Random(seed), root)
    held: list[HeldLease] = []
    with BlockingClient(daemon.socket_path) as nexus:
        mutate(nexus, pool, 250, held)
        then = rows_of(daemon)
        nexus.call(CreateCheckpoint())
        mutate(nexus, pool, 500, held)
        later = rows_of(daemon)
        deleted = {}
        with look_at(daemon.database) as database:
            for table, key, revision in database.execute(
                "SELECT row_table, row_key, revision FROM journal WHERE after IS NULL AND revision IS NOT NULL"
            ):
                deleted[table, key] = revision
        assert len(later.keys() ^ then.keys()) > 20
        restored = nexus.call(RestoreCheckpoint("1"))
        back = rows_of(daemon)
        assert compared(back) == compared(then)
        for key, (revision, state_revision) in revisions(back).items():
            before = revisions(then)[key]
            assert revision >= before[0]
            assert state_revision >= before[1]
            if key not in later:
                assert revision > deleted[key]
            else:
                assert (revision, state_revision) >= revisions(later)[key]
        for lease in held:
            with pytest.raises(LeaseStale):
                nexus.call(CreateFeature("stale"), lease=lease)
        assert nexus.call(DiffCheckpoints("1", limit=0)).counts.keys() <= {"task"}  # those that were in progress
        assert restored.before is not None
        nexus.call(RestoreCheckpoint(str(restored.before.number)))
        assert compared(rows_of(daemon)) == compared(later)
    assert daemon.stop() == 0
    assert problems(daemon) == []


def test_deleted_records_come_back_and_new_ones_go(daemon: DaemonProcess, nexus: BlockingClient) -> None:
    feature = nexus.call(CreateFeature("Accounts", tags=["walrus"]))
    task = nexus.call(CreateTask("Log in", feature_id="1", tags=["a", "b"]))
    other = nexus.call(CreateTask("Log out", depends_on=["1"], feature_id="1"))
    requirement = nexus.call(CreateRequirement(RequirementCategory.UI_UX, "People log in.", features=["1"]))
    nexus.call(AddTaskNote("1", "a note"))
    nexus.call(CreateCheckpoint())
    nexus.call(DeleteFeature("1", cascade=True))
    new = nexus.call(CreateTask("Something else"))
    nexus.call(CreateFeature("New"))
    restored = nexus.call(RestoreCheckpoint("1"))
    assert restored.counts == {
        "feature": {"added": 1, "removed": 1},
        "task": {"added": 2, "removed": 1},
        "task_note": {"added": 1},
        "requirement": {"changed": 1},
    }
    again = nexus.call(GetTask("1"))
    assert (again.id, again.number, again.tags, again.notes[0].text) == (task.id, 1, ["a", "b"], "a note")
    assert again.revision > task.revision
    assert nexus.call(GetTask("2")).open_dependencies == 1 == other.open_dependencies
    assert nexus.call(GetRequirement("1")).linked_features == [feature.id] == requirement.linked_features
    with pytest.raises(NexusError, match="not found"):
        nexus.call(GetTask(str(new.number)))
    assert nexus.call(CreateTask("later")).number == new.number + 1  # no number is given twice
    assert [hit.name for hit in nexus.call(Search("Accounts")).hits] == ["1"]
    assert nexus.call(Search("Something")).hits == []
    events = list(nexus.stream(WatchEvents(kinds=["feature.*", "checkpoint.restored"], follow=False)))[-3:]
    assert [(each.kind, each.detail.get("name")) for each in events] == [
        ("feature.created", "Accounts"),
        ("feature.deleted", "New"),
        ("checkpoint.restored", None),
    ]


def test_agent_of_before_is_stale_and_its_task_is_pending(nexus: BlockingClient) -> None:
    nexus.call(CreateAgent("ada", AgentType.CODER))
    nexus.call(CreateTask("one"))
    claimed = nexus.call(ClaimTask("ada"))
    lease = HeldLease(claimed.lease.id, claimed.lease.epoch)
    nexus.call(CreateCheckpoint())
    nexus.call(CompleteTask("1"), lease=lease)
    nexus.call(CreateTask("two"))
    other = nexus.call(ClaimTask("ada", task="2"))
    restored = nexus.call(RestoreCheckpoint("1"))
    assert restored.leases == 1
    task = nexus.call(GetTask("1"))
    assert (task.status, task.assigned_agent, task.started_at) == (TaskStatus.PENDING, None, claimed.task.started_at)
    agent = nexus.call(GetAgent("ada"))
    assert (agent.status, agent.current_task_id) == (AgentStatus.IDLE, None)
    with pytest.raises(LeaseStale, match="checkpoint 1 was restored"):
        nexus.call(CreateTask("x"), lease=HeldLease(other.lease.id, other.lease.epoch))
    again = nexus.call(ClaimTask("ada", task="1"))
    assert again.lease.epoch > claimed.lease.epoch


def test_counts_of_features_and_of_open_dependencies_are_right_after_a_restore(nexus: BlockingClient) -> None:
    nexus.call(CreateFeature("f"))
    nexus.call(CreateTask("one", feature_id="1"))
    nexus.call(CreateTask("two", feature_id="1", depends_on=["1"]))
    nexus.call(CreateProject("shop"))
    nexus.call(CreateTask("elsewhere", depends_on=["default/1"]), project="shop")
    nexus.call(CreateCheckpoint())
    nexus.call(CompleteTask("1"))
    nexus.call(CreateCheckpoint())
    assert nexus.call(GetTask("shop/1")).open_dependencies == 0
    nexus.call(RestoreCheckpoint("1"))
    assert nexus.call(GetFeature("1")).completed_tasks == 0
    assert (nexus.call(GetTask("2")).open_dependencies, nexus.call(GetTask("shop/1")).open_dependencies) == (1, 1)
    nexus.call(BlockTask("shop/1", blocked_by="default/1"))
    nexus.call(RestoreCheckpoint("2"))
    assert nexus.call(GetFeature("1")).completed_tasks == 1
    there = nexus.call(GetTask("shop/1"))
    assert (there.open_dependencies, there.status) == (0, TaskStatus.PENDING)


def test_what_other_projects_need_is_not_deleted(nexus: BlockingClient) -> None:
    nexus.call(CreateProject("shop"))
    nexus.call(CreateCheckpoint())
    nexus.call(CreateTask("new"))
    nexus.call(CreateTask("waits", depends_on=["default/1"]), project="shop")
    nexus.call(CreateTask("is blocked"), project="shop")
    nexus.call(BlockTask("shop/2", blocked_by="default/1"))
    with pytest.raises(RestoreRefused, match="depend on tasks that it would delete: shop/1 on 1"):
        nexus.call(RestoreCheckpoint("1"))
    assert len(nexus.call(ListCheckpoints()).checkpoints) == 1  # nothing was done
    nexus.call(UpdateTask("shop/1", remove_depends_on=["default/1"]))
    nexus.call(RestoreCheckpoint("1"))
    blocked = nexus.call(GetTask("shop/2"))
    assert (blocked.blocked_by, blocked.reason) == (None, "task 1, which blocked it, was deleted")


def test_circle_through_another_project_is_refused(nexus: BlockingClient) -> None:
    nexus.call(CreateProject("shop"))
    nexus.call(CreateTask("there"), project="shop")
    nexus.call(CreateTask("here", depends_on=["shop/1"]))
    nexus.call(CreateCheckpoint())
    nexus.call(UpdateTask("1", remove_depends_on=["shop/1"]))
    nexus.call(UpdateTask("shop/1", add_depends_on=["default/1"]))
    with pytest.raises(RestoreRefused, match="would wait for itself"):
        nexus.call(RestoreCheckpoint("1"))


def test_blocker_of_another_project_that_is_over_blocks_no_more(nexus: BlockingClient) -> None:
    nexus.call(CreateProject("shop"))
    for name in ("done", "gone"):
        nexus.call(CreateTask(name), project="shop")
    for number in (1, 2):
        nexus.call(CreateTask("here"))
        nexus.call(BlockTask(str(number), blocked_by=f"shop/{number}"))
    nexus.call(CreateCheckpoint())
    nexus.call(CompleteTask("shop/1"))
    nexus.call(DeleteTask("shop/2"))
    nexus.call(DeleteTask("1"))
    nexus.call(DeleteTask("2"))
    nexus.call(RestoreCheckpoint("1"))
    assert nexus.call(GetTask("1")).status is TaskStatus.PENDING
    left = nexus.call(GetTask("2"))
    assert (left.status, left.blocked_by) == (TaskStatus.BLOCKED, None)


def test_id_that_a_record_of_another_project_has_now_is_refused(nexus: BlockingClient) -> None:
    nexus.call(CreateTask("one", id=ID))
    nexus.call(CreateCheckpoint())
    nexus.call(DeleteTask("1"))
    nexus.call(CreateProject("shop"))
    nexus.call(CreateTask("two", id=ID), project="shop")
    with pytest.raises(RestoreRefused, match="records of another project have the ids"):
        nexus.call(RestoreCheckpoint("1"))
    assert nexus.call(GetTask(ID)).name == "two"


def test_episodes_come_back_with_their_embeddings_and_continue_points_with_their_tasks(
    daemon: DaemonProcess, nexus: BlockingClient
) -> None:
    nexus.call(CreateTask("one"))
    nexus.call(CreateContinuePoint("wrote the test", task="1"))
    nexus.call(CreateEpisode(EpisodeType.DECISION, "walruses are kept", embedding=[0.5, 0.25], task="1"))
    nexus.call(CreateCheckpoint())
    nexus.call(DeleteEpisode("1"))
    nexus.call(DeleteTask("1"))
    nexus.call(CreateEpisode(EpisodeType.DECISION, "later", embedding=[1.0, 0.25]))
    restored = nexus.call(RestoreCheckpoint("1"))
    assert restored.counts["episode"] == {"added": 1, "removed": 1}
    assert restored.counts["continue_point"] == {"added": 1}
    back = nexus.call(GetEpisode("1", embedding=True))
    assert (back.content, back.embedding) == ("walruses are kept", [0.5, 0.25])
    assert len(nexus.call(Search("walruses")).hits) == 1
    point = nexus.call(GetResumePoint("1"))
    assert point.continue_point is not None
    assert point.continue_point.last_action == "wrote the test"
    assert point.checkpoint is not None
    assert point.checkpoint["number"] == 2
    assert restored.before is not None
    nexus.call(RestoreCheckpoint(str(restored.before.number)))
    assert nexus.call(GetEpisode("2", embedding=True)).embedding == [1.0, 0.25]
    for number in (1, 2, 3):
        nexus.call(DeleteCheckpoint(str(number)))
    assert daemon.stop() == 0
    assert problems(daemon) == []
    with look_at(daemon.database) as database:
        assert database.execute("SELECT count(*) FROM kept_embedding").fetchone() == (0,)


def test_dry_run_changes_nothing(daemon: DaemonProcess, nexus: BlockingClient) -> None:
    nexus.call(CreateTask("one"))
    nexus.call(CreateCheckpoint())
    nexus.call(UpdateTask("1", name="other"))
    before = rows_of(daemon)
    told = nexus.call(RestoreCheckpoint("1", dry_run=True))
    assert (told.dry_run, told.before, told.counts) == (True, None, {"task": {"changed": 1}})
    assert [(each.field, each.after) for each in told.changes[0].fields] == [("name", "one")]
    assert rows_of(daemon) == before
    assert len(nexus.call(ListCheckpoints()).checkpoints) == 1


def test_what_is_written_while_a_restore_is_planned_is_in_its_checkpoint(daemon: DaemonProcess) -> None:
    with BlockingClient(daemon.socket_path) as nexus:
        for start in range(0, 1000, 100):
            nexus.batch([CreateTask(f"task {number}") for number in range(start, start + 100)])
        nexus.call(CreateCheckpoint())
        for start in range(1, 1001, 100):
            nexus.batch([QueueTask(str(number)) for number in range(start, start + 100)])
        stop, began = threading.Event(), threading.Event()

        def write() -> None:
            with BlockingClient(daemon.socket_path) as other:
                for number in range(100_000):
                    if stop.is_set():
                        return
                    other.call(AddTaskComment("1", f"comment {number}"))
                    began.set()
                    other.call(UpdateTask(str(number % 1000 + 1), priority=number % 9 + 1))

        writer = threading.Thread(target=write)
        writer.start()
        try:
            assert began.wait(30)
            restored = nexus.call(RestoreCheckpoint("1"))
        finally:
            stop.set()
            writer.join()
        assert restored.before is not None
        created = {}
        with look_at(daemon.database) as database:
            (at,) = database.execute(
                "SELECT seq FROM journal WHERE kind = 'checkpoint.created' AND subject_id = ?", (restored.before.id,)
            ).fetchone()
            (done,) = database.execute("SELECT seq FROM journal WHERE kind = 'checkpoint.restored'").fetchone()
            for seq, key in database.execute("SELECT seq, row_key FROM journal WHERE kind = 'task.commented'"):
                created[key] = seq
            there = {row[0] for row in database.execute("SELECT id FROM task_comment")}
        kept, start = set(), 0
        while start is not None:
            part = nexus.call(GetCheckpointState(restored.before.id, start=start, limit=10_000))
            kept |= {row["row"]["id"] for row in part.rows if row["kind"] == "task_comment"}
            start = part.next  # type: ignore[assignment]
        assert kept == {key for key, seq in created.items() if seq < at}
        assert len(kept) > 0
        assert there == {key for key, seq in created.items() if seq > done}
    assert daemon.stop() == 0
    assert problems(daemon) == []


@pytest.mark.parametrize("wait_s", [0.02, 0.15, 0.3])
def test_daemon_that_is_killed_at_a_restore_has_all_of_it_or_nothing(daemon: DaemonProcess, wait_s: float) -> None:
    with BlockingClient(daemon.socket_path) as nexus:
        for start in range(0, 500, 100):
            nexus.batch([CreateTask(f"task {number}") for number in range(start, start + 100)])
        then = rows_of(daemon)
        nexus.call(CreateCheckpoint())
        for start in range(1, 501, 100):
            nexus.batch([UpdateTask(str(number), name="other") for number in range(start, start + 100)])
        later = rows_of(daemon)
        timer = threading.Timer(wait_s, daemon.kill)
        timer.start()
        with contextlib.suppress(ConnectionFailure):
            nexus.call(RestoreCheckpoint("1"))
        timer.join()
    daemon.start()
    with BlockingClient(daemon.socket_path) as nexus:
        is_restored = len(nexus.call(ListCheckpoints()).checkpoints) == 2
    assert compared(rows_of(daemon)) == compared(then if is_restored else later)
    assert daemon.stop() == 0
    assert problems(daemon) == []
