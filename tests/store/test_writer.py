"""The writer: group commit with isolated failures, cancellation, and delivery of every outcome."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from support.stores import Gate, contents, make_store, put, running, value_of, write_together

from nexus.store import QueryError, StoreConflict, StoreUnavailable, Transaction, wal, writer
from nexus.store.sqlite import SqliteStore
from nexus.store.writer import _Job


class Commits:
    """Counts the commits of a store's writer."""

    def __init__(self, store: SqliteStore) -> None:
        store.init()
        self.statements: list[str] = []
        store._write_connection.set_trace_callback(self.statements.append)

    @property
    def count(self) -> int:
        return self.statements.count("COMMIT")


@pytest.mark.parametrize(("writes", "size_bytes", "groups"), [(100, 256, 1), (300, 256, 3), (8, 512 * 1024, 4)])
def test_queued_writes_share_a_commit(root: Path, writes: int, size_bytes: int, groups: int) -> None:
    async def scenario() -> None:
        store = make_store(root)
        commits = Commits(store)
        async with running(store):
            keys = [f"key{i}" for i in range(writes)]
            results = await write_together(store, map(put, keys), size_bytes=size_bytes)
            assert results == keys
            assert commits.count == 1 + groups

    asyncio.run(scenario())


def test_failed_write_is_rolled_back_without_affecting_its_group(root: Path) -> None:
    class Refused(Exception):
        pass

    def refuse(tx: Transaction) -> None:
        tx.execute("INSERT INTO settings VALUES ('refused', '1', 'int')")
        raise Refused

    def conflict(tx: Transaction) -> None:
        tx.execute("INSERT INTO settings VALUES ('half', '1', 'int')")
        tx.execute("INSERT INTO settings VALUES ('a', 'again', 'string')")

    def broken(tx: Transaction) -> None:
        tx.execute("INSERT INTO settings VALUES ('half', '1', 'int')")
        tx.all("SELECT nothing FROM nowhere")

    async def scenario() -> None:
        store = make_store(root)
        commits = Commits(store)
        async with running(store):
            results = await write_together(store, [put("a"), refuse, conflict, put("b"), broken, put("c")])
            assert [type(result) for result in results] == [str, Refused, StoreConflict, str, QueryError, str]
            assert commits.count == 2
            for write, kind in ((refuse, Refused), (conflict, StoreConflict), (broken, QueryError)):  # each alone
                with pytest.raises(kind):
                    await store.write(write)
            assert store.problem() is None

    asyncio.run(scenario())
    assert [row["key"] for row in contents(make_store(root).path)["settings"]] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "ending",
    ["INSERT OR ROLLBACK INTO settings VALUES ('a', '2', 'int')", "ROLLBACK", "COMMIT"],
)
def test_write_that_ends_the_transaction_does_not_affect_its_group(root: Path, ending: str) -> None:
    runs = []

    def neighbour(tx: Transaction) -> str:
        runs.append("b")
        tx.execute("INSERT INTO settings VALUES ('b', '1', 'int')")
        return "b"

    def culprit(tx: Transaction) -> None:
        tx.execute(ending)

    async def scenario() -> None:
        store = make_store(root)
        async with running(store):
            await store.write(put("a"))
            results = await write_together(
                store, [culprit, put("c")] if ending == "COMMIT" else [neighbour, culprit, put("c")]
            )
            assert isinstance(results[-2], Exception)
            assert results[-1] == "c"
            assert store.problem() is None
            if ending != "COMMIT":
                assert results[0] == "b"
                assert runs == ["b", "b"], "it ran twice: in the group that was rolled back, and alone"
            assert value_of(store, "c") is not None

    asyncio.run(scenario())


def test_stop_iteration_in_a_write_does_not_hang_its_group(root: Path) -> None:
    def careless(_tx: Transaction) -> object:
        return next(iter(()))

    async def scenario() -> None:
        async with running(make_store(root)) as store, asyncio.timeout(30):
            results = await write_together(store, [put("a"), careless, put("b")])
            assert (results[0], results[2]) == ("a", "b")
            assert isinstance(results[1], RuntimeError)

    asyncio.run(scenario())


def test_group_shares_one_time_and_results_arrive_after_the_commit(root: Path) -> None:
    async def scenario() -> None:
        async with running(make_store(root)) as store:
            times = await write_together(store, [lambda tx: tx.now for _ in range(10)])
            assert len(set(times)) == 1
            await store.write(put("seen"))
            with contextlib.closing(sqlite3.connect(store.path)) as other:  # a separate connection
                assert other.execute("SELECT count(*) FROM settings WHERE key = 'seen'").fetchone() == (1,)

    asyncio.run(scenario())


def test_cancelled_queued_write_is_never_executed(root: Path) -> None:
    async def scenario() -> None:
        async with running(make_store(root)) as store:
            gate = Gate()
            first = asyncio.create_task(store.write(gate))
            await gate.entered()
            cancelled = asyncio.create_task(store.write(put("cancelled")))
            kept = asyncio.create_task(store.write(put("kept")))
            await asyncio.sleep(0)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            gate.open()
            await asyncio.gather(first, kept)
            assert value_of(store, "cancelled") is None
            assert value_of(store, "kept") is not None

    asyncio.run(scenario())


def test_started_write_finishes_despite_repeated_cancellation(root: Path) -> None:
    async def scenario() -> None:
        async with running(make_store(root)) as store:
            gate = Gate()

            def change(tx: Transaction) -> str:
                gate(tx)
                return put("taken")(tx)

            task = asyncio.create_task(store.write(change))
            await gate.entered()
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0)
                assert not task.done(), "its outcome is not known yet"
            gate.open()
            assert await task == "taken"
            assert task.cancelling() == 3
            assert value_of(store, "taken") is not None

    asyncio.run(scenario())


@pytest.mark.parametrize("fails", [False, True])
def test_cancellation_during_delivery_does_not_lose_the_outcome(root: Path, fails: bool) -> None:
    def change(tx: Transaction) -> str:
        if fails:
            raise KeyError("outcome")
        return str(put("outcome")(tx))

    async def scenario() -> None:
        async with running(make_store(root)) as store, asyncio.timeout(30):
            task = asyncio.create_task(store.write(change))
            await asyncio.sleep(0)  # it is queued
            # Blocks the loop until the writer has finished this job and the next, so that the delivery is pending.
            assert store._writer is not None
            done = threading.Event()
            store._writer._queue.put(_Job(lambda _tx: done.set(), asyncio.get_running_loop().create_future(), 1))
            assert done.wait(30)
            task.cancel()
            if fails:
                with pytest.raises(KeyError, match="outcome"):
                    await task
            else:
                assert await task == "outcome"

    asyncio.run(scenario())


def test_cancelled_write_returns_its_result_and_the_next_wait_is_cancelled(root: Path) -> None:
    async def scenario() -> None:
        async with running(make_store(root)) as store:
            gate = Gate()
            seen: list[object] = []

            async def work() -> None:
                await store.write(gate)
                seen.append("result")
                await asyncio.Event().wait()

            task = asyncio.create_task(work())
            await gate.entered()
            task.cancel()
            await asyncio.sleep(0)
            gate.open()
            async with asyncio.timeout(30):
                await asyncio.wait({task})
            assert task.cancelled()
            assert seen == ["result"]

    asyncio.run(scenario())


def test_deadline_that_passed_during_a_write_cancels_nothing_after_its_block(root: Path) -> None:
    async def scenario() -> None:
        async with running(make_store(root)) as store:
            gate = Gate()
            limit = asyncio.timeout(None)

            async def work() -> str:
                async with limit:
                    await store.write(gate)
                await asyncio.sleep(0.01)
                return "done"

            task = asyncio.create_task(work())
            await gate.entered()
            limit.reschedule(0)
            await asyncio.sleep(0.01)
            gate.open()
            assert await task == "done"

    asyncio.run(scenario())


def test_timeout_around_a_started_write_returns_its_result(root: Path) -> None:
    async def scenario() -> None:
        async with running(make_store(root)) as store:
            gate = Gate()
            limit = asyncio.timeout(None)

            async def impatient() -> None:
                async with limit:
                    await store.write(gate)

            task = asyncio.create_task(impatient())
            await gate.entered()
            limit.reschedule(asyncio.get_running_loop().time())
            await asyncio.sleep(0)
            assert limit.expired()
            await asyncio.sleep(0)  # the cancellation reaches the write
            assert not task.done()
            gate.open()
            await task

    asyncio.run(scenario())


def test_close_commits_queued_writes_and_refuses_later_ones(root: Path) -> None:
    async def scenario() -> None:
        store = make_store(root)
        async with running(store), asyncio.timeout(30):
            gate = Gate()
            tasks = [asyncio.create_task(store.write(gate))]
            await gate.entered()
            tasks += [asyncio.create_task(store.write(put(f"key{i}"))) for i in range(300)]
            await asyncio.sleep(0)
            closing = asyncio.create_task(store.close())
            await asyncio.sleep(0)
            with pytest.raises(StoreUnavailable, match="closed"):
                await store.write(put("late"))
            gate.open()
            await closing
            results = await asyncio.gather(*tasks)
            assert results[1:] == [f"key{i}" for i in range(300)]
        for refused in (store.write(put("late")), store.backup()):
            with pytest.raises(StoreUnavailable, match="closed"):
                await refused
        with pytest.raises(StoreUnavailable, match="closed"):
            value_of(store, "key0")
        await store.close()

    asyncio.run(scenario())
    store = make_store(root)
    assert not Path(f"{store.path}-wal").exists()
    assert len(contents(store.path)["settings"]) == 300


_HOLDER = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


def test_writes_are_unavailable_while_another_process_holds_the_lock(root: Path) -> None:
    async def scenario() -> None:
        store = make_store(root)
        store.init()
        store._write_connection.execute("PRAGMA busy_timeout = 20")
        async with running(store):
            await store.write(put("before"))
            holder = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _HOLDER, store.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert holder.stdout is not None
            assert await holder.stdout.readline() == b"locked\n"
            results = await asyncio.gather(store.write(put("a")), store.write(put("b")), return_exceptions=True)
            for result in results:
                assert isinstance(result, StoreUnavailable)
                assert "another process" in result.message
            assert value_of(store, "before") is not None, "reads still work"
            await holder.communicate(b"")
            assert store.problem() is None
            await store.write(put("after"))
            assert value_of(store, "a") is None

    asyncio.run(scenario())


def test_read_after_a_durable_write_always_finds_it(root: Path) -> None:
    async def writer(store: SqliteStore, name: int) -> None:
        for i in range(100):
            key = await store.write(put(f"{name}-{i}"))
            assert value_of(store, key) is not None

    async def scenario() -> None:
        async with running(make_store(root)) as store:
            stop = asyncio.Event()

            async def reader() -> None:
                while not stop.is_set():  # these reads and snapshots must not pin an old view
                    store.read(lambda tx: tx.all("SELECT * FROM settings LIMIT 5"))
                    store.read(lambda tx: (tx.one("SELECT 1"), tx.all("SELECT * FROM settings")), snapshot=True)
                    with pytest.raises(QueryError):
                        store.read(lambda tx: tx.all("SELECT * FROM nowhere"), snapshot=True)
                    await asyncio.sleep(0)

            reading = asyncio.create_task(reader())
            await asyncio.gather(*(writer(store, name) for name in range(4)))
            stop.set()
            await reading

    asyncio.run(scenario())


def test_read_does_not_wait_for_an_open_write(root: Path) -> None:
    async def scenario() -> None:
        async with running(make_store(root)) as store:
            await store.write(put("old"))
            gate = Gate()

            def change(tx: Transaction) -> None:
                put("new")(tx)
                gate(tx)

            task = asyncio.create_task(store.write(change))
            await gate.entered()
            # A read that waited for the write would never return: the gate is opened only afterwards.
            assert value_of(store, "old") is not None
            assert value_of(store, "new") is None
            assert store.status().table_count == 47
            gate.open()
            await task
            assert value_of(store, "new") is not None

    asyncio.run(scenario())


def test_snapshot_shows_the_same_state_to_all_statements(root: Path) -> None:
    async def scenario() -> None:
        async with running(make_store(root)) as store:

            def look(reader: Any) -> tuple[Any, Any]:
                first = reader.all("SELECT key FROM settings")
                with contextlib.closing(sqlite3.connect(store.path)) as other, other:
                    other.execute("INSERT INTO settings VALUES ('between', '1', 'int')")
                return first, reader.all("SELECT key FROM settings")

            first, second = store.read(look, snapshot=True)
            assert first == second == []
            assert value_of(store, "between") is not None

    asyncio.run(scenario())


def test_read_cannot_change_data(root: Path) -> None:
    async def scenario() -> None:
        async with running(make_store(root)) as store:
            with pytest.raises(QueryError, match="readonly"):
                store.read(lambda reader: reader.all("INSERT INTO settings VALUES ('a', '1', 'int')"))
            await store.write(put("a"))

    asyncio.run(scenario())


def test_listeners_are_called_only_for_committed_journal_rows(root: Path) -> None:
    def journaled(tx: Transaction) -> None:
        tx.execute("INSERT INTO journal (at, kind, subject_kind, subject_id, uid, pid) VALUES (1, 'a', 'b', 'c', 0, 1)")
        tx.mark_journal()

    def undone(tx: Transaction) -> None:
        journaled(tx)
        raise KeyError("undone")

    async def scenario() -> None:
        async with running(make_store(root)) as store:
            calls: list[int] = []

            def listen() -> None:
                calls.append(store.read(lambda reader: reader.all("SELECT count(*) FROM journal"))[0][0])

            stop = store.on_journal(listen)
            await store.write(put("plain"))
            with pytest.raises(KeyError):
                await store.write(undone)
            assert calls == []
            await write_together(store, [journaled, undone, journaled, put("b")])
            assert calls == [2], "once for the group, after its commit"
            stop()
            await store.write(journaled)
            assert calls == [2]

    asyncio.run(scenario())


def test_write_ahead_log_is_written_from_its_start_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "CHECKPOINT_FRAMES", 50)
    monkeypatch.setattr(writer, "LOG_LOOK_GROUPS", 1)

    async def scenario() -> None:
        store = make_store(root)
        store.init()
        async with running(store):
            for i in range(200):  # some 11 pages each
                await store.write(put(f"key{i}", "x" * 40_000))
                assert store.problem() is None, "a checkpoint under way is no change by another program"
            assert os.stat(f"{store.path}-wal").st_size < 500_000  # noqa: PTH116
            assert value_of(store, "key0") is not None

    asyncio.run(scenario())


def test_checkpoint_under_way_is_no_change_by_another_program(root: Path) -> None:
    async def scenario() -> None:
        store = make_store(root)
        store.init()
        async with running(store):
            await store.write(put("key", "x" * 40_000))
            with store._placement.checkpoint():
                store._write_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                assert store.problem() is None
            assert store.problem() is None
            await store.write(put("next"))

    asyncio.run(scenario())


def test_write_ahead_log_that_a_reader_held_is_truncated(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "CHECKPOINT_FRAMES", 50)
    monkeypatch.setattr(writer, "LOG_LOOK_GROUPS", 1)
    monkeypatch.setattr(writer, "WAL_LIMIT_BYTES", 200_000)

    async def scenario() -> None:
        store = make_store(root)
        store.init()
        async with running(store):
            assert store._writer is not None
            reader = sqlite3.connect(store.path, isolation_level=None)
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM settings").fetchall()
            for i in range(20):
                await store.write(put(f"key{i}", "x" * 40_000))
            assert os.stat(f"{store.path}-wal").st_size > 800_000  # noqa: PTH116
            reader.close()
            for i in range(10):
                store._writer._last_truncation = 0.0
                await store.write(put(f"more{i}", "x" * 40_000))
            # The last reply may come before the writer's checkpoint; what follows is behind it.
            await store.write(put("last"))
            assert os.stat(f"{store.path}-wal").st_size < 300_000  # noqa: PTH116
            assert value_of(store, "key0") is not None

    asyncio.run(scenario())
