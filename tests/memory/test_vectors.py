"""The search for the nearest vectors: against a reference, with both engines, and after every kind of damage."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import struct
import sys
from array import array
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.raw import wait_until
from support.soak import SOAK

from nexus.memory.vectors.engine_choice import make_engine
from nexus.memory.vectors.errors import (
    VectorDimensionMismatch,
    VectorInvalid,
    VectorsTimedOut,
    VectorsUnavailable,
    VectorsWorkerEnded,
)
from nexus.memory.vectors.index import VectorIndex, vectors_directory
from nexus.memory.vectors.matrix import Damaged, Matrix, State, build, open_matrix
from nexus.memory.vectors.validation import embedding
from nexus.store.connection import connect

ENGINES = pytest.mark.parametrize("engine", ["numpy", "python"])
PROJECT = "5b0c8f1e-0000-4000-8000-000000000001"


def packed(values: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


class Database:
    """A small database with the tables of vectors, and one writer that keeps their rules."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection = connect(path, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = WAL").fetchone()
        self.connection.executescript(
            """
            CREATE TABLE episodes (id TEXT PRIMARY KEY, project_id TEXT, embedding BLOB);
            CREATE INDEX episodes_project ON episodes (project_id);
            CREATE TABLE code_chunks (id TEXT PRIMARY KEY, project_id TEXT, embedding BLOB);
            CREATE INDEX code_chunks_project ON code_chunks (project_id);
            CREATE TABLE vector_collection (project_id TEXT, collection TEXT, dimension INTEGER, generation INTEGER,
                changed_at INTEGER, PRIMARY KEY (project_id, collection));
            CREATE TABLE vector_change (project_id TEXT, collection TEXT, generation INTEGER, record_id TEXT,
                changed_at INTEGER, PRIMARY KEY (project_id, collection, generation, record_id));
            """
        )
        self.now = 1000
        self.vectors: dict[str, bytes] = {}

    def change(self, changes: dict[str, bytes | None], *, deleted: bool = False) -> int:
        """Set embeddings of chunks in one transaction; None removes one, or its row. Gives the generation."""
        generation, self.now = self.generation + 1, self.now + 1
        dimension = max((len(data) // 4 for data in changes.values() if data), default=0)
        execute = self.connection.execute
        execute("BEGIN")
        for name, data in changes.items():
            if data is None and deleted:
                execute("DELETE FROM code_chunks WHERE id = ?", (name,))
            else:
                execute(
                    "INSERT INTO code_chunks (id, project_id, embedding) VALUES (?, ?, ?) "
                    "ON CONFLICT (id) DO UPDATE SET embedding = excluded.embedding",
                    (name, PROJECT, data),
                )
            execute("INSERT INTO vector_change VALUES (?, 'chunks', ?, ?, ?)", (PROJECT, generation, name, self.now))
            if data is None:
                self.vectors.pop(name, None)
            else:
                self.vectors[name] = data
        execute(
            "INSERT INTO vector_collection VALUES (?, 'chunks', ?, ?, ?) ON CONFLICT (project_id, collection) "
            "DO UPDATE SET generation = excluded.generation, changed_at = excluded.changed_at",
            (PROJECT, dimension, generation, self.now),
        )
        execute("COMMIT")
        return generation

    @property
    def generation(self) -> int:
        rows = self.connection.execute("SELECT generation FROM vector_collection").fetchall()
        return rows[0][0] if rows else 0

    @property
    def matrix(self) -> Path:
        return vectors_directory(self.path) / "chunks" / f"{PROJECT}.f32"


@pytest.fixture
def database(root: Path) -> Iterator[Database]:
    found = Database(root / "nexus.db")
    yield found
    found.connection.close()


@contextlib.asynccontextmanager
async def searching(database: Database, engine: str, idle_s: float = 60) -> AsyncIterator[VectorIndex]:
    index = VectorIndex(database.path, engine=engine, idle_s=lambda: idle_s)
    try:
        yield index
    finally:
        await index.close()


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def reference(vectors: dict[str, bytes], query: bytes) -> dict[str, float]:
    """The cosine of each vector, as doubles."""

    def of(a: array[float], b: array[float]) -> float:
        length = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(x * x for x in b))
        return math.fsum(x * y for x, y in zip(a, b, strict=True)) / length

    wanted = array("f", query)
    return {name: of(array("f", data), wanted) for name, data in vectors.items()}


def check(hits: list[tuple[str, float]], cosines: dict[str, float], limit: int) -> None:
    """The hits are the nearest, up to the precision of float32, the best first and of equal scores by id."""
    assert len(hits) == min(limit, len(cosines))
    assert len({name for name, _ in hits}) == len(hits)
    assert all(score == pytest.approx(cosines[name], abs=2e-6) for name, score in hits)
    assert hits == sorted(hits, key=lambda hit: (-hit[1], hit[0]))
    left_out = cosines.keys() - {name for name, _ in hits}
    assert all(cosines[name] <= hits[-1][1] + 2e-6 for name in left_out)


async def assert_right(index: VectorIndex, database: Database, limit: int = 3) -> None:
    query = packed([1.0, 2.0, -1.0])
    found = await index.nearest("chunks", PROJECT, query, limit, database.generation)
    check(found.hits, reference(database.vectors, query), limit)
    assert found.generation == database.generation


async def ended(index: VectorIndex) -> None:
    while index.pid:  # noqa: ASYNC110 - the index tells no one when its process ends
        await asyncio.sleep(0.005)


SOME: dict[str, bytes | None] = {
    f"id-{number}": packed([math.sin(number), math.cos(2 * number), number % 3 - 1]) for number in range(40)
}


# Results

FLOATS = st.one_of(
    st.integers(-3, 3).map(float), st.floats(-(2.0**100), 2.0**100, width=32), st.floats(-1, 1, width=32)
)


@st.composite
def matrices(draw: st.DrawFn) -> tuple[int, list[bytes], list[float]]:
    dimension = draw(st.integers(1, 9))
    vectors = st.lists(FLOATS, min_size=dimension, max_size=dimension).filter(any)
    rows = draw(st.lists(vectors.map(packed), max_size=30))
    return dimension, rows + rows[: draw(st.integers(0, 5))], draw(vectors)


@ENGINES
@settings(max_examples=60 * SOAK)
@given(matrices(), st.integers(1, 12), st.data())
def test_nearest_are_those_of_a_reference(
    tmp_path_factory: pytest.TempPathFactory,
    engine: str,
    made: tuple[int, list[bytes], list[float]],
    limit: int,
    data: st.DataObject,
) -> None:
    dimension, rows, query = made
    vectors = {f"{number * 7 % 50:02}": row for number, row in enumerate(rows)}
    folder = tmp_path_factory.mktemp("matrix")
    works = make_engine(engine)
    matrix, skipped = build(
        folder / "m.f32", State(dimension, 1, 1), [list(vectors.items())], lambda: None, works, lambda: None
    )
    assert skipped == 0
    matrix = open_matrix(folder / "m.f32", lambda: None)
    wanted = bytearray(packed(query))
    assert works.normalise(wanted, dimension) == []
    cosines = reference(vectors, packed(query))
    if rows:
        found = works.nearest(matrix.rows, matrix.ids, bytes(wanted), limit, None, lambda: None)
        check(found, cosines, limit)
        chosen = data.draw(st.sets(st.sampled_from(range(len(rows))), min_size=1))
        found = works.nearest(matrix.rows, matrix.ids, bytes(wanted), limit, sorted(chosen), lambda: None)
        check(found, {name: cosines[name] for name in (matrix.ids[place] for place in chosen)}, limit)


@ENGINES
def test_equal_vectors_are_in_the_order_of_their_ids(tmp_path: Path, engine: str) -> None:
    works = make_engine(engine)
    names = [f"{number * 37 % 3000:04}" for number in range(3000)]
    data = packed([0.1 * number for number in range(1, 18)])
    rows = [(name, data) for name in names]
    matrix, _ = build(tmp_path / "m.f32", State(17, 1, 1), [rows], lambda: None, works, lambda: None)
    query = bytes(matrix.rows.data[4096 : 4096 + 17 * 4])
    found = works.nearest(matrix.rows, matrix.ids, query, 5, None, lambda: None)
    assert found == [(f"{number:04}", 1.0) for number in range(5)]


STEPS = st.lists(
    st.dictionaries(
        st.integers(0, 12).map(str),
        st.none() | st.lists(st.integers(-3, 3).map(float), min_size=3, max_size=3).filter(any).map(packed),
        max_size=6,
    ),
    max_size=8,
)


@settings(max_examples=60 * SOAK)
@given(STEPS)
def test_matrix_changed_in_place_is_the_one_that_is_built(
    tmp_path_factory: pytest.TempPathFactory, steps: list[dict[str, bytes | None]]
) -> None:
    works = make_engine()
    folder = tmp_path_factory.mktemp("matrix")
    matrix, _ = build(folder / "m.f32", State(3, 0, 0), [], lambda: None, works, lambda: None)
    expected: dict[str, bytes] = {}
    for number, step in enumerate(steps, 1):
        matrix.change(step, State(3, number, number), lambda: None)
        expected.update({name: data for name, data in step.items() if data is not None})
        expected = {name: data for name, data in expected.items() if step.get(name, data) is not None}
        for each in (matrix, open_matrix(folder / "m.f32", lambda: None)):
            assert contents(each) == expected
            assert each.state == State(3, number, number)


def contents(matrix: Matrix) -> dict[str, bytes]:
    size = matrix.state.dimension * 4
    data = matrix.rows.data[4096:]
    return {name: data[place * size : (place + 1) * size] for place, name in enumerate(matrix.ids)}


@ENGINES
def test_rows_without_a_direction_or_of_another_length_are_left_out(tmp_path: Path, engine: str) -> None:
    bad = [packed([0, 0]), packed([1]), packed([math.nan, 1]), packed([math.inf, 1]), b"", packed([1, 2, 3])]
    rows = [(f"good-{number}", packed([1, number])) for number in range(5)]
    rows += [(f"bad-{number}", data) for number, data in enumerate(bad)]
    rows.sort(key=lambda row: row[0][::-1])
    matrix, skipped = build(
        tmp_path / "m.f32", State(2, 1, 1), [rows[:4], rows[4:]], lambda: None, make_engine(engine), lambda: None
    )
    assert skipped == len(bad)
    assert sorted(open_matrix(tmp_path / "m.f32", lambda: None).ids) == sorted(matrix.ids)
    assert sorted(matrix.ids) == [f"good-{number}" for number in range(5)]
    assert all(math.hypot(*struct.unpack("<2f", data)) == pytest.approx(1) for data in contents(matrix).values())


# Through the process


@ENGINES
def test_index_follows_the_rows(database: Database, engine: str) -> None:
    async def work() -> None:
        async with searching(database, engine) as index:
            assert (await index.nearest("chunks", PROJECT, [1.0], 3, 0)).hits == []
            database.change(SOME)
            await assert_right(index, database)
            database.change({"id-3": packed([1, 2, -1]), "id-4": None, "new": packed([2, 4, -2])})
            await assert_right(index, database, 50)
            database.change({"id-5": None, "id-39": None}, deleted=True)
            synced = await index.sync("chunks", PROJECT)
            assert (synced.rows, synced.rebuilt, synced.dimension) == (len(database.vectors), False, 3)
            assert synced.engine == engine
            found = await index.nearest("chunks", PROJECT, [1, 2, -1], 9, database.generation, ["new", "no", "id-3"])
            assert found.hits == [("id-3", 1.0), ("new", 1.0)]
            database.connection.execute("DELETE FROM vector_change WHERE generation < ?", (database.generation,))
            database.change({"id-1": packed([3, 2, 1])})
            database.connection.execute("DELETE FROM vector_change WHERE generation < ?", (database.generation,))
            assert (await index.sync("chunks", PROJECT)).rebuilt
            await assert_right(index, database, 50)
            assert (await index.nearest("episodes", PROJECT, [1.0], 3, 0)).hits == []

    run(work)


def test_database_of_another_history_with_the_same_generation_is_noticed(database: Database) -> None:
    async def work() -> None:
        database.change(SOME)
        kept = dict(database.vectors)
        database.change({"id-1": packed([1, 2, -1])})
        async with searching(database, "numpy") as index:
            await assert_right(index, database)
        # As after a restore: the generations begin again where they were.
        database.connection.execute("DELETE FROM vector_change WHERE generation = 2")
        database.connection.execute("UPDATE vector_collection SET generation = 1, changed_at = 1001")
        data = kept["id-1"]
        database.connection.execute("UPDATE code_chunks SET embedding = ? WHERE id = 'id-1'", (data,))
        database.vectors = kept
        database.change({"id-2": packed([1, 2, -1])})
        for _ in range(2):
            async with searching(database, "numpy") as index:
                await assert_right(index, database, 50)
            database.change({"id-9": packed([1, 2, -1.5])})

    run(work)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def set_version(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[8] += 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "deleted": lambda path: path.unlink(),
    "ids deleted": lambda path: path.with_suffix(".ids").unlink(),
    "truncated": lambda path: os.truncate(path, 4096 + 5),
    "emptied": lambda path: os.truncate(path, 0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + bytes(12)),
    "a bit of a row": lambda path: flip(path, 4096 + 12 * 7 + 3),
    "a bit of the header": lambda path: flip(path, 17),
    "a bit of the ids": lambda path: flip(path.with_suffix(".ids"), -1),
    "a bit of a checksum": lambda path: flip(path.with_suffix(".ids"), 0),
    "another version": set_version,
    "the ids of another matrix": lambda path: path.with_suffix(".ids").write_bytes(bytes(4) + b"a\nb"),
}


def test_damaged_matrix_is_built_again_while_it_is_open_and_at_the_next_start(database: Database) -> None:
    database.change(SOME)

    async def work() -> None:
        async with searching(database, "numpy") as index:
            await assert_right(index, database)
            for name, damage in DAMAGES.items():
                damage(database.matrix)
                with pytest.raises(Damaged):
                    open_matrix(database.matrix, lambda: None)
                await assert_right(index, database)
                assert sorted(open_matrix(database.matrix, lambda: None).ids) == sorted(database.vectors), name
        flip(database.matrix, 4096 + 12 * 7 + 3)
        async with searching(database, "numpy") as index:
            await assert_right(index, database)

    run(work)


@ENGINES
def test_process_killed_in_a_query_is_told_and_replaced(database: Database, engine: str) -> None:
    database.change(SOME)

    async def work() -> None:
        async with searching(database, engine) as index:
            await assert_right(index, database)
            pid = index.pid
            os.kill(pid, signal.SIGSTOP)
            asking = asyncio.create_task(index.nearest("chunks", PROJECT, [1, 2, 3], 3, 1))
            await asyncio.sleep(0)
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(VectorsWorkerEnded, match="SIGKILL") as raised:
                await asking
            assert raised.value.type == "vectors.worker_ended"
            await assert_right(index, database)
            assert index.pid not in (0, pid)
            # Killed between two requests, it is not told.
            os.kill(index.pid, signal.SIGKILL)
            await ended(index)
            await assert_right(index, database)

    run(work)


def test_matrix_that_was_being_changed_when_the_process_was_killed_is_built_again(database: Database) -> None:
    database.change(SOME)

    async def work() -> None:
        async with searching(database, "numpy") as index:
            await assert_right(index, database)
        matrix = open_matrix(database.matrix, lambda: None)

        class Killed(BaseException):
            pass

        def die() -> None:
            raise Killed

        with pytest.raises(Killed):
            matrix.change({"id-1": packed([0, 1, 0]), "id-2": None}, State(3, 2, 2), die)
        with pytest.raises(Damaged, match="changed"):
            open_matrix(database.matrix, lambda: None)
        async with searching(database, "numpy") as index:
            await assert_right(index, database, 50)

    run(work)


@ENGINES
def test_cancelled_and_late_requests_do_not_disturb_the_next(database: Database, engine: str) -> None:
    database.change(SOME)

    async def work() -> None:
        async with searching(database, engine) as index:
            await assert_right(index, database)
            pid = index.pid
            for steps in range(12):
                asking = [
                    asyncio.create_task(index.nearest("chunks", PROJECT, [3, 2, 1], 3, database.generation))
                    for _ in range(3)
                ]
                for _ in range(steps):
                    await asyncio.sleep(0)
                asking[0].cancel()
                asking[1].cancel()
                await assert_right(index, database)
                await asyncio.wait(asking)
                check(asking[2].result().hits, reference(database.vectors, packed([3, 2, 1])), 3)
                database.change({f"more-{steps}": packed([steps, 1, 1])})
            os.kill(pid, signal.SIGSTOP)
            with pytest.raises(VectorsTimedOut):
                await index.nearest("chunks", PROJECT, [1, 2, 3], 3, database.generation, timeout_s=0.05)
            os.kill(pid, signal.SIGCONT)
            await assert_right(index, database, 50)
            assert index.pid == pid

    run(work)


def test_process_that_hangs_is_killed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus.memory.vectors.child._SILENT_S", 0.1)
    database.change(SOME)

    async def work() -> None:
        async with searching(database, "python") as index:
            await assert_right(index, database)
            os.kill(index.pid, signal.SIGSTOP)
            with pytest.raises(VectorsWorkerEnded, match="hung"):
                await index.nearest("chunks", PROJECT, [1, 2, 3], 3, 1)
            await assert_right(index, database)

    run(work)


def test_process_starts_when_asked_and_ends_when_idle(database: Database) -> None:
    database.change(SOME)

    async def work() -> None:
        async with searching(database, "numpy", idle_s=0.01) as index:
            assert index.pid == 0
            await assert_right(index, database)
            await ended(index)
            await assert_right(index, database)
        assert index.pid == 0
        with pytest.raises(VectorsUnavailable, match="stops"):
            await index.sync("chunks", PROJECT)

    run(work)


ONE_PROGRAM = """
import asyncio, sys
from pathlib import Path
from nexus.memory.vectors.index import VectorIndex
async def main():
    index = VectorIndex(Path(sys.argv[1]))
    await index.nearest("chunks", sys.argv[2], [1, 2, 3], 3, 1)
    print(index.pid, flush=True)
    print("numpy" in sys.modules, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_process_ends_with_the_daemon_which_never_loads_numpy(database: Database) -> None:
    database.change(SOME)

    async def work() -> None:
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ONE_PROGRAM, str(database.path), PROJECT, stdout=asyncio.subprocess.PIPE
        )
        assert program.stdout is not None
        pid = int(await program.stdout.readline())
        assert await program.stdout.readline() == b"False\n"
        process = Path(f"/proc/{pid}")
        assert process.exists()  # noqa: ASYNC240
        program.kill()
        await program.wait()
        # The next one has the folder's lock as soon as the old process has ended.
        async with searching(database, "numpy") as index:
            await assert_right(index, database)
        wait_until(lambda: not process.exists(), "the process to end")

    run(work)


def test_unusable_files_are_told_and_forgotten_ones_removed(database: Database) -> None:
    database.change(SOME)

    async def work() -> None:
        async with searching(database, "numpy") as index:
            await assert_right(index, database)
            assert database.matrix.stat().st_mode & 0o777 == 0o600
            with pytest.raises(VectorDimensionMismatch) as raised:
                await index.nearest("chunks", PROJECT, [1, 2], 3, 1)
            assert raised.value.details == {"given": 2, "expected": 3}
            stray = database.matrix.with_name("gone.f32")
            for path in (stray, database.matrix.with_suffix(".new")):
                path.touch()
            os.kill(index.pid, signal.SIGKILL)
            await ended(index)
            await assert_right(index, database)
            assert sorted(path.suffix for path in stray.parent.iterdir()) == [".f32", ".ids"]
            assert not stray.exists()
            await index.forget(PROJECT)
            assert sorted(each.name for each in vectors_directory(database.path).rglob("*")) == ["chunks", "lock"]
            database.matrix.mkdir()
            with pytest.raises(VectorsUnavailable, match="cannot use the files"):
                await index.nearest("chunks", PROJECT, [1, 2, 3], 3, 1)
            database.matrix.rmdir()
            await assert_right(index, database)
            for wrong in (("chunks", "../x"), ("none", PROJECT)):
                with pytest.raises(ValueError, match=r"name of a file|no collection"):
                    await index.sync(*wrong)

    run(work)


# What a client gave


@pytest.mark.parametrize(
    ("given", "dimension", "error", "text"),
    [
        (b"", None, VectorInvalid, "empty"),
        ([], None, VectorInvalid, "empty"),
        (b"12345", None, VectorInvalid, "5 bytes"),
        ([1.0, math.nan], None, VectorInvalid, "value 2"),
        ([-math.inf, 1.0, math.inf], None, VectorInvalid, "value 1"),
        ([0.5, 1e39], None, VectorInvalid, "value 2"),
        (packed([1, 2, math.inf]), 3, VectorInvalid, "value 3"),
        ([0.0, -0.0], 2, VectorInvalid, "all of its values are 0"),
        ([1e-60], 1, VectorInvalid, "all of its values are 0"),
        (["1"], None, VectorInvalid, "no list of numbers"),
        ([1.0] * 8193, None, VectorInvalid, "at most 8192"),
        ([1.0, 2.0], 3, VectorDimensionMismatch, "2 values, and those of the collection have 3"),
    ],
)
def test_wrong_vector_is_refused_with_a_sentence(
    given: Any, dimension: int | None, error: type[VectorInvalid], text: str
) -> None:
    with pytest.raises(error, match=text) as raised:
        embedding(given, dimension)
    assert raised.value.message.startswith("cannot use the vector: ")


def test_right_vector_is_float32_in_little_endian() -> None:
    assert embedding([1, -2.5], 2) == packed([1, -2.5]) == embedding(packed([1, -2.5]))
    assert embedding([3.4e38] * 8192)
