"""Vectors through a daemon: the nearest are those of a reference, and stay so whatever becomes of process and file."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from nexus_protocol import InvalidArgument, NexusError
from support.daemon import DaemonProcess
from support.raw import wait_until
from support.remembered import Memory, cosines

from nexus.client import BlockingClient
from nexus.journal.commands import WatchEvents
from nexus.ledger.tasks.commands import CreateTask, DeleteTask
from nexus.memory.vectors.commands import ListVectorCollections, ResetVectors, SearchVectors
from nexus.memory.vectors.errors import (
    VectorDimensionMismatch,
    VectorFilterInvalid,
    VectorInvalid,
    VectorsWorkerEnded,
    VectorTaskNotFound,
)
from nexus.memory.vectors.index import vectors_directory
from nexus.memory.vectors.states import Collection, MatrixState
from nexus.memory.vectors.store import prune_changes, write
from nexus.memory.vectors.validation import embedding
from nexus.projects.commands import CreateProject, DeleteProject, GetProjectHoldings
from nexus.system.commands import DeleteSetting, GetSystemStatus, SetSetting, SettingInvalid

CHUNKS, EPISODES = Collection.CHUNKS, Collection.EPISODES
QUERY = [0.5, -1.0, 0.25, 2.0]


@pytest.fixture(params=["numpy", "python"])
def engine(request: pytest.FixtureRequest, client: BlockingClient) -> Iterator[str]:
    """What the process computes with."""
    client.call(SetSetting("vectors.engine", "auto" if request.param == "numpy" else "python"))
    yield request.param
    client.call(DeleteSetting("vectors.engine"))


def random_vector(chance: random.Random, dimension: int = 4) -> list[float]:
    return [chance.gauss(0, 1) for _ in range(dimension)]


def fill(memory: Memory, count: int = 30) -> None:
    """Add chunks with random embeddings, in one transaction."""
    chance = random.Random(count)
    with memory.together():
        for number in range(count):
            memory.chunk(f"src/{number}.py", f"def f{number}(): ...", random_vector(chance))


def assert_right(
    client: BlockingClient,
    memory: Memory,
    collection: Collection = CHUNKS,
    query: Sequence[float] = QUERY,
    among: Callable[[str], bool] = lambda _id: True,
    limit: int = 7,
    **filters: str,
) -> str | None:
    """A search finds the nearest of a reference, in their order; gives the engine."""
    found = client.call(SearchVectors(collection, list(query), limit, **filters))
    expected = {id_: score for id_, score in cosines(memory.vectors[collection], query).items() if among(id_)}
    assert len(found.hits) == min(limit, len(expected))
    assert all(hit.score == pytest.approx(expected[hit.id], abs=2e-6) for hit in found.hits)
    assert [(hit.score, hit.id) for hit in found.hits] == sorted(
        ((hit.score, hit.id) for hit in found.hits), key=lambda hit: (-hit[0], hit[1])
    )
    left_out = expected.keys() - {hit.id for hit in found.hits}
    assert all(expected[id_] <= found.hits[-1].score + 2e-6 for id_ in left_out)
    return found.engine


def worker_of(daemon: DaemonProcess) -> int:
    """The id of the process that searches; 0 without one."""
    wanted = [b"nexus.memory.vectors.worker", os.fsencode(daemon.database)]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if all(word in words for word in wanted) and words[0].endswith((b"python", b"python3", b"python3.11")):
            return int(folder.name)
    return 0


def matrix_of(daemon: DaemonProcess, memory: Memory, collection: Collection = CHUNKS) -> Path:
    return vectors_directory(daemon.database) / collection / f"{memory.project_id}.f32"


# Results


def test_nearest_are_those_of_a_reference_while_embeddings_change(
    client: BlockingClient, memory: Memory, engine: str
) -> None:
    chance = random.Random(5)
    for _round in range(4):
        with memory.together():
            for _ in range(40):
                memory.episode("what was decided", random_vector(chance))
        some = chance.sample(sorted(memory.vectors["episodes"]), 12)
        memory.embed("episodes", some[0], random_vector(chance))
        with memory.together():
            for id_ in some[1:4]:
                memory.embed("episodes", id_, None)
            memory.delete("episodes", some[4:])
        for limit in (1, 7, 1000):
            query = random_vector(chance)
            assert assert_right(client, memory, EPISODES, query, limit=limit) == engine
    first = client.call(SearchVectors(EPISODES, QUERY, 1)).hits[0]
    assert (first.type, first.text, first.symbols) == ("decision", "what was decided", None)
    assert int(first.name) > 0


def test_filters_choose_what_is_compared(client: BlockingClient, memory: Memory) -> None:
    chance = random.Random(8)
    task = client.call(CreateTask("Log in"))
    files: dict[str, tuple[str, str, str]] = {}
    with memory.together():
        for number in range(60):
            file = f"{chance.choice(['src', 'src_', 'tests'])}/{number}.x"
            language, type_ = chance.choice(["python", "go"]), chance.choice(["function", "class"])
            id_ = memory.chunk(file, "text", random_vector(chance), type=type_, language=language)
            files[id_] = (file, language, type_)
        of_task = {
            memory.episode("x", random_vector(chance), task_id=chance.choice([None, task.id])) for _ in range(20)
        }
        of_task = {
            id_ for id_ in of_task if look_up(memory, "SELECT task_id FROM episodes WHERE id = ?", id_) == task.id
        }
    assert_right(client, memory, among=lambda id_: files[id_][0].startswith("src/"), file="src/")
    assert_right(client, memory, among=lambda id_: files[id_][1:] == ("go", "class"), language="go", type="class")
    assert_right(client, memory, EPISODES, among=lambda id_: id_ in of_task, task=str(task.number))
    assert client.call(SearchVectors(CHUNKS, QUERY, language="cobol")).hits == []
    with pytest.raises(VectorFilterInvalid, match="episodes have no file; their filters are type and task"):
        client.call(SearchVectors(EPISODES, QUERY, file="src/"))
    with pytest.raises(VectorFilterInvalid, match='"klass" is no type of chunks; these are function, class,'):
        client.call(SearchVectors(CHUNKS, QUERY, type="klass"))
    with pytest.raises(VectorTaskNotFound, match='task "999" not found'):
        client.call(SearchVectors(EPISODES, QUERY, task="999"))
    client.call(DeleteTask(task.id))


def look_up(memory: Memory, sql: str, *parameters: object) -> object:
    with memory.together() as tx:
        row = tx.one(sql, parameters)
        return None if row is None else row[0]


def test_projects_do_not_see_each_other(shared: DaemonProcess, client: BlockingClient, memory: Memory) -> None:
    memory.chunk("a.py", "a", [1.0, 0.0])
    with BlockingClient(shared.socket_path) as elsewhere:
        assert elsewhere.call(SearchVectors(CHUNKS, [1.0, 0.0])).hits == []
        assert [each.project for each in elsewhere.call(ListVectorCollections()).collections] == []
    (found,) = client.call(SearchVectors(CHUNKS, [1.0, 0.0])).hits
    assert (found.name, found.text, found.score) == ("a.py:3-9", "a", 1.0)


# What is refused


@pytest.mark.parametrize(
    ("query", "error", "sentence"),
    [
        ([1.0, float("nan")], VectorInvalid, "value 2 is not a finite float32 number"),
        ([float("-inf"), 1.0, 0.0, 0.0], VectorInvalid, "value 1 is not a finite float32 number"),
        ([1e39, 1.0, 0.0, 0.0], VectorInvalid, "value 1 is not a finite float32 number"),
        ([0.0] * 4, VectorInvalid, "all of its values are 0, so it has no direction"),
        ([], VectorInvalid, "it is empty"),
        ([1.0] * 8193, VectorInvalid, "it has 8193 values, and at most 8192 are allowed"),
        ([1.0] * 100_000, VectorInvalid, "it has 100000 values, and at most 8192 are allowed"),
        ([1.0] * 5, VectorDimensionMismatch, "the query has 5 values, and those of the collection have 4"),
    ],
)  # fmt: skip
def test_wrong_query_is_refused_with_a_sentence(
    client: BlockingClient, memory: Memory, query: list[float], error: type[NexusError], sentence: str
) -> None:
    fill(memory, 3)
    with pytest.raises(NexusError, match=sentence) as caught:
        client.call(SearchVectors(CHUNKS, query))
    assert isinstance(caught.value, error)
    assert_right(client, memory)


def test_first_embedding_fixes_the_dimension_of_the_others(client: BlockingClient, memory: Memory) -> None:
    alone = memory.chunk("a.py", "a", [1.0, 2.0])
    memory.embed("chunks", alone, [1.0, 2.0, 3.0])  # it was the only one
    assert_right(client, memory, query=[1.0, 2.0, 3.0])
    with pytest.raises(VectorDimensionMismatch, match="it has 2 values, and those of the collection have 3"):
        memory.chunk("b.py", "b", [1.0, 2.0])
    memory.episode("of another model", [1.0] * 8192)
    assert_right(client, memory, EPISODES, [1.0] * 8191 + [0.5])
    memory.delete("chunks", [alone])
    assert client.call(SearchVectors(CHUNKS, [1.0])).engine is None
    memory.chunk("b.py", "b", [1.0, 2.0])
    assert_right(client, memory, query=[1.0, 2.0])


def test_embeddings_of_a_new_dimension_may_be_written_before_they_are_noted(
    client: BlockingClient, memory: Memory
) -> None:
    fill(memory, 3)
    assert_right(client, memory)
    client.call(ResetVectors(CHUNKS))
    ids = sorted(memory.vectors["chunks"])
    memory.vectors["chunks"] = {id_: [1.0, float(at)] for at, id_ in enumerate(ids)}
    with memory.together() as tx:
        for id_, vector in memory.vectors["chunks"].items():
            tx.execute("UPDATE code_chunks SET embedding = ? WHERE id = ?", (embedding(vector), id_))
        for id_, vector in memory.vectors["chunks"].items():
            write(tx, memory.project_id, "chunks", id_, embedding(vector))
    assert_right(client, memory, query=[0.5, 1.0])


# The process and the files


@pytest.mark.parametrize("how", ["deleted", "emptied", "cut", "changed", "header", "ids", "folder"])
def test_matrix_that_is_gone_or_damaged_is_built_again(
    shared: DaemonProcess, client: BlockingClient, memory: Memory, how: str
) -> None:
    fill(memory)
    assert_right(client, memory)
    path = matrix_of(shared, memory)
    if how == "deleted":
        path.unlink()
    elif how == "folder":
        for each in path.parent.iterdir():
            each.unlink()
        path.parent.rmdir()
    elif how == "ids":
        path.with_suffix(".ids").write_bytes(b"x")
    else:
        data = bytearray(path.read_bytes())
        if how == "changed":
            data[4200] ^= 0xFF
        elif how == "header":
            data[20] ^= 0xFF
        path.write_bytes({"emptied": b"", "cut": data[:-1]}.get(how, data))
    assert_right(client, memory)
    assert_right(client, memory, query=[-1.0, 0.0, 0.0, 1.0])


def test_killed_process_is_told_and_the_next_search_is_right(
    shared: DaemonProcess, client: BlockingClient, memory: Memory, engine: str
) -> None:
    fill(memory)
    assert assert_right(client, memory) == engine
    os.kill(worker_of(shared), signal.SIGKILL)
    with contextlib.suppress(VectorsWorkerEnded):  # the daemon may not know yet
        assert_right(client, memory)
    assert_right(client, memory)
    told: list[NexusError] = []

    def search() -> None:
        with BlockingClient(shared.socket_path, project=client.project) as other:
            try:
                assert_right(other, memory)
            except NexusError as error:
                told.append(error)

    for _attempt in range(50):  # until the process is killed after it was asked, and not before
        worker = worker_of(shared)
        os.kill(worker, signal.SIGSTOP)
        thread = threading.Thread(target=search)
        thread.start()
        wait_until(lambda: client.call(GetSystemStatus()).open_requests > 1, "the request")
        os.kill(worker, signal.SIGKILL)
        thread.join()
        assert assert_right(client, memory) == engine
        if told:
            break
    assert [type(error) for error in told] == [VectorsWorkerEnded]
    assert "cannot search vectors: the process ended: it was ended by SIGKILL" in str(told[0])


def test_process_ends_when_it_is_idle_and_comes_back(
    shared: DaemonProcess, client: BlockingClient, memory: Memory
) -> None:
    fill(memory)
    client.call(SetSetting("vectors.idle_seconds", 1))
    assert_right(client, memory)
    wait_until(lambda: not worker_of(shared), "the end of an idle process")
    client.call(DeleteSetting("vectors.idle_seconds"))
    assert_right(client, memory)
    assert worker_of(shared)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_process_ends_with_the_daemon(daemon: DaemonProcess, how: str) -> None:
    memory = Memory(daemon.database)
    fill(memory, 3)
    with BlockingClient(daemon.socket_path) as client:
        assert_right(client, memory)
    assert worker_of(daemon)
    getattr(daemon, how)()
    wait_until(lambda: not worker_of(daemon), "the end of the process")
    daemon.start()
    with BlockingClient(daemon.socket_path) as client:
        assert_right(client, memory)
    memory.close()


def test_concurrent_searches_are_all_right(shared: DaemonProcess, client: BlockingClient, memory: Memory) -> None:
    fill(memory, 200)
    chance = random.Random(3)
    with memory.together():
        for _ in range(50):
            memory.episode("x", random_vector(chance, 7))
    failures: list[BaseException] = []

    def search(number: int) -> None:
        mine = random.Random(number)
        try:
            with BlockingClient(shared.socket_path, project=client.project) as other:
                for _ in range(10):
                    assert_right(other, memory, query=random_vector(mine))
                    assert_right(other, memory, EPISODES, random_vector(mine, 7))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=search, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# Collections


def test_collections_are_listed_with_what_they_have(
    shared: DaemonProcess, client: BlockingClient, memory: Memory
) -> None:
    assert client.call(ListVectorCollections()).collections == []
    fill(memory, 5)
    memory.episode("none")
    listed = client.call(ListVectorCollections())
    assert [
        (each.collection, each.dimension, each.generation, each.embedded, each.without, each.matrix)
        for each in listed.collections
    ] == [(CHUNKS, 4, 1, 5, 0, MatrixState.MISSING), (EPISODES, None, 0, 0, 1, MatrixState.MISSING)]
    assert listed.engine == "numpy"
    assert_right(client, memory)
    assert client.call(ListVectorCollections()).collections[0].matrix is MatrixState.CURRENT
    fill(memory, 2)
    assert client.call(ListVectorCollections()).collections[0].matrix is MatrixState.BEHIND


def test_reset_removes_the_embeddings_for_another_model(client: BlockingClient, memory: Memory) -> None:
    fill(memory, 600)
    chance = random.Random(4)
    episodes = [memory.episode("x", random_vector(chance)) for _ in range(3)]
    assert_right(client, memory)
    reset = client.call(ResetVectors(CHUNKS))
    assert (reset.collection, reset.removed) == (CHUNKS, 600)
    assert client.call(SearchVectors(CHUNKS, QUERY)).hits == []
    assert client.call(SearchVectors(CHUNKS, [1.0, 2.0])).engine is None
    assert client.call(ResetVectors(CHUNKS)).removed == 0
    chunks = client.call(ListVectorCollections()).collections[0]
    assert (chunks.dimension, chunks.embedded, chunks.without) == (None, 0, 600)
    memory.vectors["chunks"].clear()
    new = memory.chunk("new.py", "new", [1.0, 2.0])
    assert_right(client, memory, query=[1.0, 2.0])
    assert [hit.id for hit in client.call(SearchVectors(CHUNKS, [2.0, 1.0])).hits] == [new]
    assert_right(client, memory, EPISODES)  # the other collection is as it was
    assert client.call(ResetVectors(EPISODES)).removed == len(episodes)
    assert look_up(memory, "SELECT count(*) FROM episodes WHERE embedding IS NOT NULL AND project_id = ?",
                   memory.project_id) == 0  # fmt: skip
    kinds = [
        event.detail
        for event in client.stream(WatchEvents(follow=False, kinds=["vectors.reset"]))
        if event.project_id == memory.project_id
    ]
    assert kinds == [{"collection": "chunks", "embeddings": 600}, {"collection": "episodes", "embeddings": 3}]


def test_deleted_project_leaves_no_vectors(shared: DaemonProcess) -> None:
    with BlockingClient(shared.socket_path) as outside:
        made = outside.call(CreateProject("short-lived"))
        memory = Memory(shared.database, made.id)
        with BlockingClient(shared.socket_path, project=made.id) as client:
            fill(memory)
            assert_right(client, memory)
            assert client.call(GetProjectHoldings(made.id)).counts["vectors"] == {"kept": 1}
            path = matrix_of(shared, memory)
            assert path.exists()
            outside.call(DeleteProject(made.id, cascade=True))
            wait_until(lambda: not path.exists(), "the removal of the files")
            assert not path.with_suffix(".ids").exists()
        for table in ("vector_collection", "vector_change"):
            assert look_up(memory, f"SELECT count(*) FROM {table} WHERE project_id = ?", made.id) == 0
        with memory.together() as tx:
            tx.execute("DELETE FROM code_chunks WHERE project_id = ?", (made.id,))
        memory.close()


def test_generation_rises_once_for_a_transaction(memory: Memory) -> None:
    fill(memory, 4)
    generations = "SELECT generation FROM vector_collection WHERE project_id = ?"
    changes = "SELECT count(*) FROM vector_change WHERE generation = 1 AND project_id = ?"
    assert look_up(memory, generations, memory.project_id) == 1
    assert look_up(memory, changes, memory.project_id) == 4
    fill(memory, 2)
    assert look_up(memory, generations, memory.project_id) == 2


def test_changes_are_deleted_by_whole_generations_and_the_last_ones_stay(
    client: BlockingClient, memory: Memory
) -> None:
    for count in (3, 1, 4, 2, 2):
        fill(memory, count)
    listed = "SELECT generation, count(*) FROM vector_change WHERE project_id = ? GROUP BY generation"

    def left() -> dict[int, int]:
        with memory.together() as tx:
            return dict(tx.all(listed, (memory.project_id,)))  # type: ignore[arg-type]

    with memory.together() as tx:
        assert prune_changes(tx, memory.project_id, "chunks", 12, 1) == 0
        assert prune_changes(tx, memory.project_id, "chunks", 3, 1) == 3
    assert left() == {2: 1, 3: 4, 4: 2, 5: 2}
    with memory.together() as tx:
        assert prune_changes(tx, memory.project_id, "chunks", 3, 2) == 5
        assert prune_changes(tx, memory.project_id, "chunks", 3, 2) == 0
    assert left() == {4: 2, 5: 2}
    assert_right(client, memory)


def test_daemon_deletes_old_changes_and_what_gone_projects_left(daemon: DaemonProcess) -> None:
    gone = "5b0c8f1e-0000-4000-8000-000000000001"
    matrix = vectors_directory(daemon.database) / CHUNKS / f"{gone}.f32"
    memory = Memory(daemon.database)
    fill(memory, 20)
    with BlockingClient(daemon.socket_path) as client:
        assert_right(client, memory)
    daemon.stop()
    matrix.write_bytes(b"left over")
    with memory.together() as tx:
        for number in range(10_600):
            tx.execute(
                "INSERT INTO vector_change (project_id, collection, generation, record_id, changed_at) "
                "VALUES (?, 'chunks', ?, ?, 1)",
                (memory.project_id, 2 + number // 10, f"id-{number}"),
            )
        tx.execute("UPDATE vector_collection SET generation = 1061")
        tx.execute("INSERT INTO vector_collection VALUES (?, 'chunks', 2, 7, 1)", (gone,))
        tx.execute("INSERT INTO vector_change VALUES (?, 'chunks', 7, 'x', 1)", (gone,))
    daemon.start()
    counted = "SELECT count(*) FROM vector_change WHERE project_id = ?"
    wait_until(lambda: look_up(memory, counted, memory.project_id) == 10_000, "the end of old changes")
    assert look_up(memory, "SELECT min(generation) FROM vector_change") == 62
    assert look_up(memory, counted, gone) == 0
    assert look_up(memory, "SELECT count(*) FROM vector_collection") == 1
    assert not matrix.exists()
    with BlockingClient(daemon.socket_path) as client:
        assert_right(client, memory)
    memory.close()


@pytest.mark.parametrize("limit", [0, -1, 1001, 2**63])
def test_limit_is_bounded(client: BlockingClient, limit: int) -> None:
    with pytest.raises(InvalidArgument, match="limit"):
        client.call(SearchVectors(CHUNKS, QUERY, limit))


def test_setting_takes_its_words(client: BlockingClient) -> None:
    with pytest.raises(SettingInvalid, match=r"cannot set vectors\.engine to 'cuda': it takes auto or python"):
        client.call(SetSetting("vectors.engine", "cuda"))
