"""The store on a full disk: writes that do not fit are refused as a whole, and everything else works."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from nexus_protocol.errors import ResourceExhausted
from support.faults import fill, on_small_disk
from support.raw import wait_until
from support.stores import contents, make_store, put, running, value_of, write_together

from nexus.store import DiskFull, Transaction
from nexus.store.maintenance import check_database
from nexus.store.sqlite import SqliteStore


def keys(store: SqliteStore) -> set[str]:
    return {row["key"] for row in contents(store.path)["settings"]}


@pytest.mark.parametrize("cache", ["PRAGMA cache_size = -20000", "PRAGMA cache_size = 8"], ids=["commit", "spilled"])
def test_full_disk_commits_small_writes_and_refuses_large_ones_atomically(root: Path, cache: str) -> None:
    def scenario(disk: Path) -> None:
        asyncio.run(use(disk))
        store = make_store(disk)
        assert keys(store) == {"before", "small 1", "small 2", "big later", "after"}
        assert check_database(store.path).problems == []

    async def use(disk: Path) -> None:
        store = make_store(disk)
        store.init()
        store._write_connection.execute(cache)
        async with running(store):
            await store.write(put("before"))
            filler = fill(disk, leave_kib=300)
            big = "x" * 1_000_000
            results = await write_together(store, [put("small 1"), put("big", big), put("small 2")])
            assert (results[0], results[2]) == ("small 1", "small 2")
            assert isinstance(results[1], DiskFull)
            assert isinstance(results[1], ResourceExhausted)
            assert store.problem() is None, "small changes can be made"
            assert value_of(store, "big") is None
            filler.unlink()
            await store.write(put("big later", big))
            await store.write(put("after"))

    on_small_disk(root / "disk", 8 * 1024, scenario)


def test_full_disk_refuses_writes_serves_reads_and_recovers_by_itself(root: Path) -> None:
    def scenario(disk: Path) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.run(use(disk))
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
        # The child ends by SIGKILL: refused writes must not reappear when the log is replayed.
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        store = make_store(disk)
        store.init()
        store.close_now()
        assert keys(store) == {"before", "after"}
        assert check_database(store.path).problems == []

    async def use(disk: Path) -> None:
        async with running(make_store(disk)) as store:
            await store.write(put("before"))
            # Truncates the log, so that it has no free pages either.
            store._write_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            filler = fill(disk)
            for key in ("refused 1", "refused 2"):
                with pytest.raises(DiskFull, match="the disk is full"):
                    await store.write(put(key))
                assert isinstance(store.problem(), DiskFull)
                assert value_of(store, "before") is not None
                assert value_of(store, key) is None
            results = await write_together(store, [put("refused 3"), put("refused 4")])
            assert [type(result) for result in results] == [DiskFull, DiskFull]
            with pytest.raises(DiskFull):
                await store.backup()
            assert list(store.backup_directory.iterdir()) == []
            filler.unlink()
            # The store detects free space by itself, without a write.
            await asyncio.to_thread(wait_until, lambda: store.problem() is None, "the store to recover")
            await store.write(put("after"))
            assert {row[0] for row in store.read(lambda reader: reader.all("SELECT key FROM settings"))} == {
                "before",
                "after",
            }
            os.kill(os.getpid(), signal.SIGKILL)

    on_small_disk(root / "disk", 4 * 1024, scenario)


def test_opening_on_a_full_disk_raises_disk_full_and_works_once_space_is_free(root: Path) -> None:
    def scenario(disk: Path) -> None:
        store = make_store(disk)
        store.init()
        store.close_now()
        filler = fill(disk)
        with pytest.raises(DiskFull, match="the disk is full"):
            store.init()
        filler.unlink()
        store.init()
        store.close_now()

    on_small_disk(root / "disk", 4 * 1024, scenario)


def test_max_page_count_is_reported_as_disk_full(root: Path) -> None:
    """The same error of SQLite, also on machines where no small disk can be mounted."""

    def large(tx: Transaction) -> Any:
        return put("large", "x" * 200_000)(tx)

    async def scenario() -> None:
        store = make_store(root)
        store.init()
        pages = store._write_connection.execute("PRAGMA page_count").fetchone()[0]
        store._write_connection.execute(f"PRAGMA max_page_count = {pages + 10}")
        async with running(store):
            with pytest.raises(DiskFull):
                await store.write(large)
            assert store.problem() is None
            results = await write_together(store, [put("a"), large, put("b")])
            assert isinstance(results[1], DiskFull)
            assert (results[0], results[2]) == ("a", "b")
            assert store.problem() is None

    asyncio.run(scenario())
    assert keys(make_store(root)) == {"a", "b"}
