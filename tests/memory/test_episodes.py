"""Episodes: what they have, how their accesses are counted, that they are found, and which are pruned."""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Callable
from typing import Any

import pytest
from nexus_protocol import InvalidArgument
from support.daemon import DaemonProcess
from support.memory import Desk
from support.raw import wait_until
from support.stores import look_at

from nexus.client import BlockingClient
from nexus.journal.commands import GetOperation
from nexus.ledger.agents.errors import AgentNotFound
from nexus.ledger.tasks.commands import DeleteTask
from nexus.ledger.tasks.errors import TaskNotFound
from nexus.memory.episodes.commands import (
    CreateEpisode,
    DeleteEpisode,
    GetEpisode,
    ListEpisodes,
    PruneEpisodes,
    UpdateEpisode,
)
from nexus.memory.episodes.errors import EpisodeChanged, EpisodeIdTaken, EpisodeInvalid, EpisodeNotFound
from nexus.memory.episodes.states import EpisodeType
from nexus.memory.vectors.errors import VectorInvalid
from nexus.projects.commands import DeleteProject
from nexus.search.commands import Search
from nexus.store.connection import connect

ID = "6f1c0f7e-2f0c-4b60-9a63-3f1d5e0c1a78"
FIX, DECISION = EpisodeType.ERROR_FIX, EpisodeType.DECISION


def listed(desk: Desk, **filters: Any) -> list[int]:
    """The numbers of episodes, as they are listed."""
    return [episode.number for episode in desk.call(ListEpisodes(**filters)).episodes]


def rows(daemon: DaemonProcess, sql: str, *parameters: object) -> list[Any]:
    """What a statement finds in the database of a daemon."""
    with look_at(daemon.database) as database:
        return database.execute(sql, parameters).fetchall()


def test_episode_has_what_it_was_created_with(desk: Desk) -> None:
    task = desk.task()
    command = CreateEpisode(
        FIX,
        "The pool was exhausted: a cursor was open.",
        summary="Close cursors.",
        episode_context={"files": ["pool.py"], "tries": 3},
        task=task,
        agent=desk.agent,
        importance=2.5,
        tags=["pool", "db", "pool"],
        embedding=[0.5, -1.0, 0.25],
        id=ID.replace("78", "01"),
    )
    made = desk.call(command)
    assert (made.number, made.type, made.content, made.summary) == (1, FIX, command.content, command.summary)
    assert (made.context, made.importance, made.tags) == ({"files": ["pool.py"], "tries": 3}, 2.5, ["pool", "db"])
    assert (made.task_number, made.agent_id, made.agent) == (1, desk.agent_id, desk.agent)
    assert (made.dimension, made.embedding, made.access_count) == (3, None, 0)
    assert desk.call(command) == made
    with pytest.raises(EpisodeIdTaken):
        desk.call(CreateEpisode(FIX, command.content, id=command.id))
    plain = desk.call(CreateEpisode(DECISION, "We use one pool."))
    assert (plain.importance, plain.context, plain.tags, plain.dimension, plain.task_id) == (1.0, {}, [], None, None)
    (event, _other) = desk.events("episode.created")
    assert event.detail == {"type": "error_fix", "task_id": made.task_id, "agent_id": desk.agent_id}


def test_under_a_lease_it_is_of_its_task_and_agent(desk: Desk) -> None:
    lease, claimed = desk.claim(desk.task())
    made = desk.call(CreateEpisode(FIX, "x"), lease)
    assert (made.task_id, made.agent_id) == (claimed.task.id, desk.agent_id)
    other = desk.task("b")
    assert desk.call(CreateEpisode(FIX, "x", task=other), lease).task_number == int(other)
    elsewhere = desk.client.call(CreateEpisode(FIX, "x"), lease=lease)  # in another project
    assert (elsewhere.task_id, elsewhere.agent_id) == (None, desk.agent_id)
    desk.client.call(DeleteEpisode(elsewhere.id))


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (CreateEpisode(FIX, ""), InvalidArgument),
        (CreateEpisode(FIX, "x" * 60_001), InvalidArgument),
        (CreateEpisode(FIX, "x", importance=-0.1), InvalidArgument),
        (CreateEpisode(FIX, "x", importance=math.nan), InvalidArgument),
        (CreateEpisode(FIX, "x", episode_context={"a": "x" * 17_000}), InvalidArgument),
        (CreateEpisode(FIX, "x", task="7"), TaskNotFound),
        (CreateEpisode(FIX, "x", agent="none"), AgentNotFound),
        (CreateEpisode(FIX, "x", embedding=[]), VectorInvalid),
        (CreateEpisode(FIX, "x", embedding=[0.0, 0.0]), VectorInvalid),
        (CreateEpisode(FIX, "x", embedding=[math.nan]), VectorInvalid),
        (CreateEpisode(FIX, "x", embedding=[math.inf]), VectorInvalid),
    ],
)
def test_what_is_no_episode_is_refused(desk: Desk, command: CreateEpisode, error: type[Exception]) -> None:
    with pytest.raises(error):
        desk.call(command)
    assert listed(desk) == []


def test_embedding_is_given_as_a_list_and_kept_as_bytes(desk: Desk, shared: DaemonProcess) -> None:
    made = desk.call(CreateEpisode(FIX, "x", embedding=[0.5, -1.0]))
    (packed,) = rows(shared, "SELECT embedding FROM episodes WHERE id = ?", made.id)
    assert packed == (struct.pack("<2f", 0.5, -1.0),)
    assert desk.call(GetEpisode("1")).embedding is None
    assert desk.call(GetEpisode("1", embedding=True)).embedding == [0.5, -1.0]
    with pytest.raises(InvalidArgument) as refused:
        desk.call(CreateEpisode(FIX, "of another model", embedding=[1.0] * 3))
    assert refused.value.type == "vectors.dimension_mismatch"
    other = desk.call(UpdateEpisode("1", embedding=[1.0, 2.0]))
    assert (other.revision, other.dimension) == (2, 2)
    assert desk.call(UpdateEpisode("1", embedding=[1.0, 2.0])).revision == 2, "it is the same"
    without = desk.call(UpdateEpisode("1", clear=["embedding"]))
    assert (without.revision, without.dimension) == (3, None)
    assert desk.call(GetEpisode("1", embedding=True)).embedding is None
    details = [event.detail for event in desk.events("episode.updated")]
    assert details == [{"embedding": {"changed": True}}] * 2


def test_embeddings_and_contents_are_in_no_history(desk: Desk, shared: DaemonProcess) -> None:
    made = desk.call(CreateEpisode(FIX, "a token: hunter2", embedding=[0.5]))
    desk.call(DeleteEpisode(made.id))
    written = rows(shared, "SELECT operation_id, before, after FROM journal WHERE row_key = ?", made.id)
    assert len(written) == 2
    for operation, *images in written:
        assert b"hunter2" not in b"".join(image or b"" for image in images)
        assert struct.pack("<f", 0.5) not in b"".join(image or b"" for image in images)
        assert "content" not in (desk.call(GetOperation(operation)).operation.args or {})


def test_update_changes_all_but_the_content(desk: Desk) -> None:
    desk.call(CreateEpisode(FIX, "x", summary="old", tags=["a"]))
    with pytest.raises(EpisodeChanged):
        desk.call(UpdateEpisode("1", summary="new", if_revision=2))
    changed = desk.call(UpdateEpisode("1", summary="new", importance=0, tags=["b"], episode_context={"a": 1}))
    assert (changed.summary, changed.importance, changed.tags, changed.context) == ("new", 0, ["b"], {"a": 1})
    assert (changed.revision, changed.content) == (2, "x")
    assert desk.call(UpdateEpisode("1", clear=["summary"])).summary is None
    for wrong in (UpdateEpisode("1", clear=["content"]), UpdateEpisode("1", summary="x", clear=["summary"])):
        with pytest.raises(EpisodeInvalid):
            desk.call(wrong)
    with pytest.raises(InvalidArgument, match="no field to change"):
        desk.call(UpdateEpisode("1"))
    assert (listed(desk, tag="a"), listed(desk, tag="b")) == ([], [1])


def test_lists_have_excerpts_and_filters(desk: Desk) -> None:
    task = desk.task()
    desk.call(CreateEpisode(FIX, "line one\nline two " + "x" * 300, task=task, tags=["pool"], embedding=[1.0]))
    desk.call(CreateEpisode(DECISION, "We use the walrus.", agent=desk.agent))
    second, first = desk.call(ListEpisodes()).episodes
    assert (first.content, second.excerpt) == (None, "We use the walrus.")
    assert first.excerpt.startswith("line one line two xxx")
    assert len(first.excerpt) == 201
    assert (first.dimension, first.embedding, first.task_number) == (1, None, 1)
    assert (listed(desk), listed(desk, type=FIX), listed(desk, task_id=task)) == ([2, 1], [1], [1])
    assert (listed(desk, agent_id=desk.agent), listed(desk, tag="pool"), listed(desk, match="walrus")) == (
        [2],
        [1],
        [2],
    )
    page = desk.call(ListEpisodes(limit=1))
    assert [one.number for one in desk.call(ListEpisodes(limit=1, cursor=page.next_cursor)).episodes] == [1]
    desk.call(DeleteTask(task))
    kept = desk.call(GetEpisode("1"))
    assert (kept.task_id, kept.task_number) == (first.task_id, None), "what was learned stays"


def test_search_finds_and_opens_episodes(desk: Desk) -> None:
    word = f"w{desk.project.id.replace('-', '')}"
    desk.call(CreateEpisode(FIX, f"before {word} after", summary="the short of it"))

    def found(query: str, **fields: Any) -> list[tuple[str, str, str | None]]:
        return [(hit.kind, hit.open, hit.title) for hit in desk.call(Search(query, **fields)).hits]

    hit = ("episode", f"nexusctl episode inspect {desk.project.name}/1", "the short of it")
    assert found(word) == found(f"{word} kind:episode") == found(word[3:20], literal=True) == [hit]
    assert found(f"{word} kind:task") == []
    desk.call(UpdateEpisode("1", summary=f"sum{word}"))
    assert [kind for kind, *_ in found(f"sum{word}")] == ["episode"]
    desk.call(DeleteEpisode("1"))
    assert found(word) == []


# Accesses


def counted(desk: Desk, episode: str) -> Callable[[], tuple[int, int | None] | None]:
    """What is written of the accesses of an episode; None while nothing is."""

    def look() -> tuple[int, int | None] | None:
        (found,) = [one for one in desk.call(ListEpisodes()).episodes if str(one.number) == episode]
        return (found.access_count, found.last_accessed_at) if found.access_count else None

    return look


def test_each_get_counts_an_access_and_nothing_else(desk: Desk) -> None:
    made = desk.call(CreateEpisode(FIX, "x"))
    first, second = (desk.call(GetEpisode("1")) for _ in range(2))
    assert (first.access_count, second.access_count) == (1, 2)
    assert first.last_accessed_at >= made.created_at
    count, at = wait_until(counted(desk, "1"), "the accesses to be written")
    assert (count, at) == (2, second.last_accessed_at)
    assert desk.call(GetEpisode("1")).access_count == 3
    assert (second.revision, second.updated_at) == (1, made.updated_at)
    assert [event.kind for event in desk.events("episode.*", "*.written")] == ["episode.created"]


def test_accesses_are_written_when_the_daemon_stops(daemon: DaemonProcess) -> None:
    with BlockingClient(daemon.socket_path) as nexus:
        nexus.call(CreateEpisode(FIX, "x"))
        for _ in range(5):
            last = nexus.call(GetEpisode("1"))
        gone = nexus.call(CreateEpisode(FIX, "y"))
        nexus.call(GetEpisode("2"))
        nexus.call(DeleteEpisode(gone.id))
    assert daemon.stop() == 0
    assert rows(daemon, "SELECT access_count, last_accessed_at FROM episodes") == [(5, last.last_accessed_at)]


# What is deleted


def test_deleted_episode_is_gone_with_its_tags_and_its_vector(desk: Desk, shared: DaemonProcess) -> None:
    made = desk.call(CreateEpisode(FIX, "x", tags=["a"], embedding=[1.0]))
    with pytest.raises(EpisodeChanged):
        desk.call(DeleteEpisode("1", if_revision=7))
    assert desk.call(DeleteEpisode("1")).content == "x"
    with pytest.raises(EpisodeNotFound):
        desk.call(GetEpisode("1"))
    assert rows(shared, "SELECT 1 FROM tag WHERE record_id = ?", made.id) == []
    assert rows(shared, "SELECT 1 FROM kept_embedding WHERE episode_id = ?", made.id) == [], "no checkpoint has it"
    changes = rows(shared, "SELECT count(*) FROM vector_change WHERE record_id = ?", made.id)
    assert changes == [(2,)], "the matrix is told of both"


def test_episodes_go_with_their_project(desk: Desk, shared: DaemonProcess) -> None:
    desk.call(CreateEpisode(FIX, "x", embedding=[1.0]))
    deleted = desk.call(DeleteProject(desk.project.name, cascade=True))
    assert [record.kind for record in deleted.records] == ["episode"]
    assert rows(shared, "SELECT 1 FROM episodes WHERE project_id = ?", desk.project.id) == []


@pytest.fixture
def remembered(desk: Desk) -> Desk:
    """Five episodes, with the importance of each in tenths as its content; the second was accessed."""
    for importance in (5, 1, 3, 1, 9):
        desk.call(CreateEpisode(FIX, str(importance), importance=importance / 10))
    desk.call(GetEpisode("2"))
    wait_until(counted(desk, "2"), "the access to be written")
    return desk


def test_prune_takes_the_least_important_first_then_the_oldest(remembered: Desk) -> None:
    def told(**conditions: Any) -> tuple[list[int], int, bool]:
        found = remembered.call(PruneEpisodes(**conditions, dry_run=True))
        assert not found.pruned
        return [one.number for one in found.episodes], found.matching, found.more

    assert told(keep=2) == ([2, 4, 3], 3, False)
    assert told(keep=2, limit=2) == ([2, 4], 3, True)
    assert told(keep=0) == ([2, 4, 3, 1, 5], 5, False)
    assert told(keep=7) == ([], 0, False)
    assert told(below=0.3) == ([2, 4], 2, False)
    assert told(keep=4, below=0.3) == ([2], 1, False)
    assert told(older_days=0) == ([2, 4, 3, 1, 5], 5, False)
    assert told(older_days=1) == told(unused_days=1) == ([], 0, False)
    assert listed(remembered) == [5, 4, 3, 2, 1], "all are there"
    found = remembered.call(PruneEpisodes(below=0.3))
    assert (found.pruned, [one.excerpt for one in found.episodes]) == (True, ["1", "1"])
    assert listed(remembered) == [5, 3, 1]
    assert [event.detail for event in remembered.events("episode.pruned")] == [
        {"type": "error_fix", "importance": 0.1}
    ] * 2


def test_prune_looks_at_when_they_were_made_and_used(daemon: DaemonProcess) -> None:
    day_ms = 86_400_000
    with BlockingClient(daemon.socket_path) as nexus:
        for text in ("old and unused", "old and used", "new"):
            nexus.call(CreateEpisode(FIX, text))
    daemon.stop()
    with contextlib.closing(connect(daemon.database)) as database, database:
        database.execute("UPDATE episodes SET created_at = created_at - ? WHERE number < 3", (40 * day_ms,))
        database.execute(
            "UPDATE episodes SET access_count = 1, last_accessed_at = created_at + ? WHERE number = 2", (35 * day_ms,)
        )
    daemon.start()
    with BlockingClient(daemon.socket_path) as nexus:

        def told(**conditions: Any) -> list[int]:
            return [one.number for one in nexus.call(PruneEpisodes(**conditions, dry_run=True)).episodes]

        assert told(older_days=30) == [1, 2]
        assert told(older_days=30, unused_days=10) == [1]
        assert told(unused_days=4) == [1, 2]


def test_prune_without_a_condition_is_refused(desk: Desk) -> None:
    with pytest.raises(EpisodeInvalid, match="no condition was given"):
        desk.call(PruneEpisodes())
