"""Checkpoints as records: what they keep, how they are listed, compared and deleted, and what a damaged one says."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Cli
from support.daemon import DaemonProcess

from nexus.checkpoints.commands import (
    CreateCheckpoint,
    DeleteCheckpoint,
    DiffCheckpoints,
    GetCheckpoint,
    GetCheckpointState,
    ListCheckpoints,
    RestoreCheckpoint,
    UpdateCheckpoint,
)
from nexus.checkpoints.errors import CheckpointChanged, CheckpointDamaged, CheckpointElsewhere, CheckpointNotFound
from nexus.client import BlockingClient
from nexus.journal.commands import WatchEvents
from nexus.ledger.agents.commands import CreateAgent
from nexus.ledger.features.commands import CreateFeature
from nexus.ledger.sessions.commands import StartSession
from nexus.ledger.states import AgentType, SessionType
from nexus.ledger.tasks.commands import AddTaskNote, ClaimTask, CreateTask, DeleteTask, UpdateTask
from nexus.projects.commands import CreateProject, DeleteProject

DAY_MS = 86_400_000
HOUR_MS = 3_600_000


@pytest.fixture
def nexus(daemon: DaemonProcess) -> Iterator[BlockingClient]:
    """A client of a daemon without records."""
    with BlockingClient(daemon.socket_path) as client:
        yield client


@contextlib.contextmanager
def writing(daemon: DaemonProcess) -> Iterator[sqlite3.Connection]:
    """The database of a daemon that does not run."""
    with contextlib.closing(sqlite3.connect(daemon.database)) as database, database:
        yield database


def test_checkpoint_has_its_counts_its_commit_and_what_the_client_says(nexus: BlockingClient, root: Path) -> None:
    folder = root / "shop"
    folder.mkdir()
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    nexus.call(CreateProject("shop", root_path=str(folder)))
    nexus.call(CreateFeature("Accounts"), project="shop")
    nexus.call(CreateTask("Log in", feature_id="1"), project="shop")
    nexus.call(AddTaskNote("1", "It needs a page."), project="shop")
    nexus.call(CreateTask("elsewhere"))
    made = nexus.call(CreateCheckpoint("before the rewrite", reason="It may fail."), project="shop")
    assert (made.number, made.name, made.reason, made.automatic) == (1, "before the rewrite", "It may fail.", False)
    assert made.counts == {"feature": 1, "task": 1, "task_note": 1}
    assert made.git_commit == head
    assert nexus.call(GetCheckpoint("shop/1")) == made
    outside = nexus.call(CreateCheckpoint())
    assert (outside.number, outside.name, outside.git_commit, outside.counts) == (1, "by hand", None, {"task": 1})


def test_checkpoints_are_listed_updated_and_deleted(nexus: BlockingClient) -> None:
    first, second = nexus.call(CreateCheckpoint("first")), nexus.call(CreateCheckpoint("second"))
    page = nexus.call(ListCheckpoints(limit=1))
    assert page.checkpoints == [second]
    assert nexus.call(ListCheckpoints(limit=1, cursor=page.next_cursor)).checkpoints == [first]
    assert nexus.call(ListCheckpoints(automatic=True)).checkpoints == []
    changed = nexus.call(UpdateCheckpoint("1", name="other", if_revision=1))
    assert (changed.name, changed.revision) == ("other", 2)
    with pytest.raises(CheckpointChanged):
        nexus.call(DeleteCheckpoint("1", if_revision=1))
    nexus.call(DeleteCheckpoint("1", if_revision=2))
    with pytest.raises(CheckpointNotFound):
        nexus.call(GetCheckpoint("1"))
    assert nexus.call(CreateCheckpoint()).number == 3  # no number is given twice
    events = [each.kind for each in nexus.stream(WatchEvents(kinds=["checkpoint.*"], follow=False))]
    assert events == ["checkpoint.created"] * 2 + ["checkpoint.updated", "checkpoint.deleted", "checkpoint.created"]


def test_no_event_and_no_list_has_what_a_checkpoint_keeps(daemon: DaemonProcess, nexus: BlockingClient) -> None:
    nexus.call(StartSession(SessionType.INTERVIEW, data={"text": "walrus"}))
    nexus.call(CreateCheckpoint())
    with contextlib.closing(sqlite3.connect(daemon.database)) as database:
        (state,) = database.execute("SELECT state FROM checkpoints").fetchone()
        images = [row[0] or b"" for row in database.execute("SELECT after FROM journal")]
    assert len(state) > 50
    assert all(state not in image for image in images)


def test_state_comes_in_parts(nexus: BlockingClient) -> None:
    nexus.batch([CreateTask(f"task {number}") for number in range(5)])
    nexus.call(CreateCheckpoint())
    found, start = [], 0
    while True:
        part = nexus.call(GetCheckpointState("1", start=start, limit=2))
        found.append([row["row"]["name"] for row in part.rows])
        if part.next is None:
            break
        start = part.next
    assert found == [["task 0", "task 1"], ["task 2", "task 3"], ["task 4"]]


def test_diff_tells_what_was_added_changed_and_removed_field_by_field(nexus: BlockingClient) -> None:
    for name in ("stays", "changes", "goes"):
        nexus.call(CreateTask(name))
    nexus.call(CreateCheckpoint())
    nexus.call(UpdateTask("2", priority=1, tags=["a"]))
    nexus.call(DeleteTask("3"))
    nexus.call(CreateTask("comes", description="x" * 1000))
    nexus.call(AddTaskNote("1", "a note"))
    diff = nexus.call(DiffCheckpoints("1"))
    assert diff.counts == {"task": {"added": 1, "changed": 1, "removed": 1}, "task_note": {"added": 1}}
    added, changed, removed, note = diff.changes
    assert (added.change, added.number, added.name) == ("added", 4, "comes")
    assert [(each.field, each.before, each.after) for each in changed.fields] == [
        ("priority", 5, 1),
        ("tags", [], ["a"]),
    ]
    assert (removed.change, removed.number, removed.name) == ("removed", 3, "goes")
    assert (note.kind, note.number, note.name) == ("task_note", 1, "a note")
    short = nexus.call(DiffCheckpoints("1", limit=1))
    assert (len(short.changes), short.more, short.counts) == (1, 3, diff.counts)
    nexus.call(CreateCheckpoint())
    assert nexus.call(DiffCheckpoints("1", "2")).changes == diff.changes
    assert nexus.call(DiffCheckpoints("2")).counts == {}
    nexus.call(CreateProject("shop"))
    nexus.call(CreateCheckpoint(), project="shop")
    with pytest.raises(CheckpointElsewhere):
        nexus.call(DiffCheckpoints("1", "shop/1"))


@pytest.mark.parametrize("damage", ["substr(state, 1, length(state) - 5)", "zeroblob(100)", "CAST('x' AS BLOB)"])
def test_damaged_checkpoint_says_so(daemon: DaemonProcess, damage: str) -> None:
    with BlockingClient(daemon.socket_path) as nexus:
        nexus.call(CreateTask("one"))
        nexus.call(CreateCheckpoint())
    daemon.stop()
    with writing(daemon) as database:
        database.execute(f"UPDATE checkpoints SET state = {damage}")
    daemon.start()
    with BlockingClient(daemon.socket_path) as nexus:
        nexus.call(UpdateTask("1", name="other"))
        for command in (RestoreCheckpoint("1"), DiffCheckpoints("1"), GetCheckpointState("1")):
            with pytest.raises(CheckpointDamaged, match='checkpoint "1": what it keeps is damaged'):
                nexus.call(command)
        assert len(nexus.call(ListCheckpoints()).checkpoints) == 1


def test_project_is_deleted_with_its_checkpoints(nexus: BlockingClient) -> None:
    nexus.call(CreateProject("shop"))
    nexus.call(CreateCheckpoint(), project="shop")
    nexus.call(DeleteProject("shop", cascade=True))
    assert nexus.call(ListCheckpoints(), project="*").checkpoints == []


# By the clock


def automatic(daemon: DaemonProcess) -> list[int]:
    """The numbers of the checkpoints made by the clock, once the daemon that starts has looked at it."""
    daemon.start()
    with BlockingClient(daemon.socket_path) as nexus:
        with nexus.stream(WatchEvents(kinds=["checkpoint.created"])) as events:
            nexus.call(CreateCheckpoint("mark"))  # the look at the start is before it, or waits for the same thread
            next(each for each in events if each.detail["name"] == "mark")
        found = nexus.call(ListCheckpoints(automatic=True)).checkpoints
    return [each.number for each in found]


def aged(daemon: DaemonProcess, hours: float) -> None:
    """Let the claims and the checkpoints of a daemon be older by so many hours, and end it."""
    if daemon.process is not None and daemon.process.poll() is None:
        daemon.stop()
    with writing(daemon) as database:
        by = int(hours * HOUR_MS)
        database.execute("UPDATE tasks SET claimed_at = claimed_at - ?", (by,))
        database.execute("UPDATE checkpoints SET created_at = created_at - ?", (by,))


def made_by_the_clock(daemon: DaemonProcess, count: int) -> None:
    """Start a daemon, and wait until so many checkpoints were made by the clock in all."""
    daemon.start()
    with BlockingClient(daemon.socket_path) as nexus, nexus.stream(WatchEvents(kinds=["checkpoint.created"])) as events:
        if len(nexus.call(ListCheckpoints(automatic=True)).checkpoints) < count:
            next(each for each in events if each.detail["automatic"])
        assert len(nexus.call(ListCheckpoints(automatic=True)).checkpoints) == count


def test_clock_makes_checkpoints_of_what_is_worked_on_and_has_changed(daemon: DaemonProcess) -> None:
    with BlockingClient(daemon.socket_path) as nexus:
        nexus.call(CreateAgent("ada", AgentType.CODER))
        nexus.call(CreateTask("one"))
        nexus.call(ClaimTask("ada", ttl_ms=24 * HOUR_MS))
    aged(daemon, 1.9)
    assert automatic(daemon) == []
    with BlockingClient(daemon.socket_path) as nexus:
        nexus.call(DeleteCheckpoint("1"))
    aged(daemon, 0.2)
    made_by_the_clock(daemon, 1)
    aged(daemon, 3)
    assert automatic(daemon) == [2]  # nothing has changed
    with BlockingClient(daemon.socket_path) as nexus:
        nexus.call(AddTaskNote("1", "It goes on."))
    aged(daemon, 1)
    assert automatic(daemon) == [2]  # the mark is new
    aged(daemon, 3)
    made_by_the_clock(daemon, 1)


def test_clock_keeps_the_last_24_and_then_one_a_day(daemon: DaemonProcess) -> None:
    with BlockingClient(daemon.socket_path) as nexus:
        nexus.call(CreateAgent("ada", AgentType.CODER))
        nexus.call(CreateTask("one"))
        nexus.call(CreateCheckpoint("kept"))
        nexus.call(ClaimTask("ada", ttl_ms=24 * HOUR_MS))
    daemon.stop()
    with writing(daemon) as database:
        (now,) = database.execute("SELECT created_at FROM checkpoints").fetchone()
        noon = now // DAY_MS * DAY_MS - 20 * DAY_MS + DAY_MS // 2
        columns = "project_id, state, size, counts, updated_at, name"
        times = [noon + each * HOUR_MS for each in (0, 1, 24, 25, *range(48, 71))]
        for number, at in enumerate(times, 2):
            database.execute(
                f"INSERT INTO checkpoints (id, number, automatic, created_at, {columns}) "
                f"SELECT 'old-' || ?, ?, 1, ?, {columns} FROM checkpoints WHERE number = 1",
                (number, number, at),
            )
        database.execute("UPDATE record_number SET last = 100 WHERE kind = 'checkpoint'")
        database.execute("UPDATE checkpoints SET created_at = ? WHERE number = 1", (noon,))
    daemon.start()
    with BlockingClient(daemon.socket_path) as nexus, nexus.stream(WatchEvents(kinds=["checkpoint.created"])) as events:
        if nexus.call(ListCheckpoints(limit=1)).checkpoints[0].number != 101:
            next(each for each in events if each.detail["automatic"])
        left = [each.number for each in nexus.call(ListCheckpoints()).checkpoints]
    # The new one and 23 before it; the last ones of the two days before; and the one that was made by hand.
    assert left == [101, *range(28, 5, -1), 5, 3, 1]


# The command line


def test_command_line(daemon: DaemonProcess, nexus: BlockingClient) -> None:
    nexusctl = Cli(daemon.environment)
    nexus.call(CreateTask("Log in"))
    made = nexusctl("checkpoint", "create", "--name", "start", "--reason", "a reason")
    assert (made.code, made.lines[0]) == (0, 'Created checkpoint "1" (1 task)')
    nexus.call(UpdateTask("1", name="Log out"))
    nexus.call(CreateTask("more"))
    assert "Log in → Log out" in nexusctl("checkpoint", "diff", "1").out
    assert nexusctl("checkpoint", "diff", "1", "1").out == "No differences.\n"
    assert nexusctl("checkpoint", "inspect", "1").lines[3].split() == ["Name:", "start"]
    assert '"name":"Log in"' in nexusctl("checkpoint", "inspect", "1", "--state").out
    dry = nexusctl("checkpoint", "restore", "1", "--dry-run")
    assert dry.lines[-1] == "Would restore checkpoint 1: changed 1 task; deleted 1 task"
    refused = nexusctl("checkpoint", "restore", "1")
    assert (refused.code, "refusing to restore" in refused.err) == (1, True)
    done = nexusctl("checkpoint", "restore", "1", "--yes")
    assert done.lines[0] == "Restored checkpoint 1: changed 1 task; deleted 1 task"
    assert "nexusctl checkpoint restore 2" in done.err
    assert "Nothing to restore" in nexusctl("checkpoint", "restore", "1", "--yes").out
    timeline = nexusctl("checkpoint", "timeline").lines
    assert timeline[0].endswith("#1  start")
    assert timeline[-1].strip() == "then #1 was restored"
    assert [line.split()[0] for line in nexusctl("checkpoint", "list", "--no-header").lines] == ["2", "1"]
    assert nexusctl("checkpoint", "delete", "1", "2", "--yes").code == 0
