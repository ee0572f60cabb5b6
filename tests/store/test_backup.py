"""Backups: consistent during writes, verified, never overwriting, pruned by age, and without leftover files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.faults import fill, on_small_disk
from support.stores import contents, look_at, make_store, put, running

from nexus.store import BackupOptions, DiskFull, QueryError, StoreConflict, StoreError, StoreUnavailable, Transaction
from nexus.store import backup as backups
from nexus.store.backup import own_backups, prune_backups, timestamp, verify_database
from nexus.store.migrate import target_version
from nexus.store.sqlite import SqliteStore

DAY_MS = 24 * 60 * 60 * 1000


def counted(key: str) -> object:
    """Make a write of two rows that must be consistent: a setting, and the number of settings."""

    def change(tx: Transaction) -> None:
        put(key)(tx)
        tx.execute(
            "INSERT INTO schema_meta VALUES ('count', 1) ON CONFLICT DO UPDATE SET value = CAST(value AS INTEGER) + 1"
        )

    return change


def names(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()}


def test_backup_is_consistent_while_four_writers_write(root: Path) -> None:
    async def scenario() -> None:
        async with running(make_store(root)) as store:
            stop = asyncio.Event()

            async def writer(name: int) -> int:
                done = 0
                while not stop.is_set():
                    await store.write(counted(f"{name}-{done}"))  # type: ignore[arg-type]
                    done += 1
                return done

            writers = [asyncio.create_task(writer(name)) for name in range(4)]
            counts = []
            for number in range(5):
                info = await store.backup(root / f"copy{number}.db")
                counts.append(count_of(Path(info.path)))
            stop.set()
            done = sum(await asyncio.gather(*writers))
            assert counts == sorted(counts)
            assert 0 < counts[-1] <= done
            assert counts[0] < counts[-1], "the writers wrote during the backups"

    def count_of(copy: Path) -> int:
        with look_at(copy) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
            (rows,) = connection.execute("SELECT count(*) FROM settings").fetchone()
            counter = connection.execute("SELECT value FROM schema_meta WHERE key = 'count'").fetchone()
            assert rows == int(counter[0] if counter else 0)
        assert verify_database(copy) == target_version()
        return int(rows)

    asyncio.run(scenario())
    assert names(root) == {"state", *(f"copy{number}.db" for number in range(5))}


def test_backup_reports_path_size_and_schema_version(root: Path) -> None:
    store = make_store(root)
    store.init()
    info = store.backup_now()
    store.close_now()
    path = Path(info.path)
    assert path.parent == store.backup_directory
    assert [found for found, _at in own_backups(path.parent, "nexus")] == [path]
    assert (info.size_bytes, info.schema_version, info.pruned) == (path.stat().st_size, target_version(), 0)
    assert names(path.parent) == {path.name}


def test_backup_never_overwrites_an_existing_path(root: Path) -> None:
    store = make_store(root)
    store.init()
    taken = root / "taken.db"
    taken.write_bytes(b"mine")
    (root / "dangling").symlink_to(root / "nowhere")
    for target in (taken, root / "dangling", store.path, root):
        with pytest.raises(StoreConflict, match="already exists"):
            store.backup_now(target)
    assert taken.read_bytes() == b"mine"
    store.close_now()
    assert names(root) == {"state", "taken.db", "dangling"}


def test_backup_does_not_overwrite_a_file_created_during_the_copy(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(root)
    store.init()
    target = root / "copy.db"

    def verify(path: Path) -> int:
        target.write_bytes(b"mine")
        return verify_database(path)

    monkeypatch.setattr(backups, "verify_database", verify)
    with pytest.raises(StoreConflict):
        store.backup_now(target)
    store.close_now()
    assert target.read_bytes() == b"mine"
    assert names(root) == {"state", "copy.db"}


def test_one_of_several_concurrent_backups_to_one_path_succeeds(root: Path) -> None:
    async def scenario() -> None:
        async with running(make_store(root)) as store:
            await store.write(put("a", "x" * 500_000))
            copies = [store.backup(root / "copy.db") for _ in range(8)]
            results = await asyncio.gather(*copies, return_exceptions=True)
            assert sorted(type(result).__name__ for result in results) == ["BackupInfo"] + ["StoreConflict"] * 7
            assert verify_database(root / "copy.db") == target_version()

    asyncio.run(scenario())
    assert names(root) == {"state", "copy.db"}


@pytest.mark.parametrize("target", ["missing/copy.db", "state/nexus.db/copy.db", "x" * 300])
def test_backup_to_an_unwritable_path_fails_with_a_store_error(root: Path, target: str) -> None:
    store = make_store(root)
    store.init()
    with pytest.raises(StoreError, match="cannot back up to"):
        store.backup_now(root / target)
    store.close_now()
    assert names(root) == {"state"}


def test_damaged_copy_is_rejected_and_deleted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = backups._copy

    def damage(source: Path, partial: Path) -> None:
        copy(source, partial)
        data = bytearray(partial.read_bytes())
        data[4096:8192] = os.urandom(4096)
        partial.write_bytes(data)

    monkeypatch.setattr(backups, "_copy", damage)
    store = make_store(root)
    store.init()
    with pytest.raises(QueryError, match="the copy is damaged"):
        store.backup_now()
    store.close_now()
    assert names(store.backup_directory) == set()


def test_prune_deletes_only_old_backups_with_generated_names(root: Path) -> None:
    now = int(time.time() * 1000)
    old, older, young, younger = (timestamp(now - days * DAY_MS) for days in (31, 400, 29, 2))
    kept = {
        f"nexus-{young}.db",
        f"nexus-{younger}.db",
        f"nexus-before-v3-{older}.db",
        f"other-{older}.db",
        f"nexus-{older}.db.gz",
        "nexus-20261399T000000.000Z.db",  # an impossible date
        "nexus-20200101.db",
        "notes.txt",
    }
    directory = make_store(root).backup_directory
    directory.mkdir(parents=True)
    for name in (*kept, f"nexus-{old}.db", f"nexus-{older}.db"):
        (directory / name).touch()
    (directory / f"nexus-{timestamp(now - 500 * DAY_MS)}.db").mkdir()  # cannot be unlinked, which is ignored
    store = make_store(root)
    store.init()
    info = store.backup_now(options=BackupOptions(keep_days=30))
    store.close_now()
    assert info.pruned == 2
    left = {entry.name for entry in directory.iterdir() if entry.is_file()}
    assert left == kept | {Path(info.path).name}


def of_ages(directory: Path, *days: int) -> None:
    """Backups with generated names of these ages; negative ones are of the future."""
    for age in days:
        (directory / f"nexus-{timestamp(int(time.time() * 1000) - age * DAY_MS)}.db").touch()


def test_prune_keeps_the_newest_three_backups_whatever_their_age(root: Path) -> None:
    of_ages(root, 100, 200, 300, 400, 500)
    assert prune_backups(root, "nexus", 1) == 2
    assert prune_backups(root, "nexus", 1) == 0
    assert len(names(root)) == 3


def test_backups_of_the_future_are_kept_and_are_none_of_the_newest(root: Path) -> None:
    of_ages(root, 100, 200, 300, 400, -3650, -3651, -3652, -3653)
    assert prune_backups(root, "nexus", 1) == 1
    assert len(names(root)) == 7


def test_backup_that_is_cancelled_is_made_and_its_caller_cancelled_afterwards(root: Path) -> None:
    made: list[str] = []

    async def scenario() -> None:
        async with running(make_store(root)) as store:

            async def work() -> None:
                made.append((await store.backup(root / "copy.db")).path)
                await asyncio.Event().wait()

            task = asyncio.create_task(work())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(scenario())
    assert made == [str(root / "copy.db")]
    assert verify_database(root / "copy.db") == target_version()


_KILLED = """
import os, signal, sys
from pathlib import Path
from nexus.store import backup
from nexus.store.sqlite import SqliteStore

backup.verify_database = lambda partial: os.kill(os.getpid(), signal.SIGKILL)
store = SqliteStore(Path(sys.argv[1]), Path(sys.argv[2]))
store.init()
store.backup_now()
"""


def test_next_backup_deletes_the_partial_files_of_a_killed_one(root: Path) -> None:
    store = make_store(root)
    command = [sys.executable, "-c", _KILLED, store.path, store.backup_directory]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    (partial,) = names(store.backup_directory)
    assert partial.endswith(".part")
    for end in ("-journal", "-wal", "-shm"):
        (store.backup_directory / (partial + end)).touch()
    mine = f".nexus-x.db.0.{os.getpid()}.part"  # of a copy in progress
    (store.backup_directory / mine).touch()
    store.init()
    info = store.backup_now()
    store.close_now()
    assert names(store.backup_directory) == {Path(info.path).name, mine}


def test_backup_on_a_full_disk_fails_and_leaves_no_files(root: Path) -> None:
    def scenario(disk: Path) -> None:
        store = SqliteStore(root / "state" / "nexus.db", disk / "backups")
        store.init()
        store.backup_directory.mkdir()
        filler = fill(disk, leave_kib=16)
        for target in (None, disk / "copy.db"):
            with pytest.raises(DiskFull, match="the disk is full"):
                store.backup_now(target)
        assert names(disk) == {"backups", "filler"}
        assert names(store.backup_directory) == set()
        filler.unlink()
        store.backup_now()
        store.close_now()

    on_small_disk(root / "disk", 1536, scenario)


def test_backup_of_a_locked_database_times_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(root)
    store.init()
    store.close_now()
    connect = sqlite3.connect
    with connect(store.path, isolation_level=None) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **(k | {"timeout": 0.05})))
        with pytest.raises(QueryError, match="locked"):
            backups.backup_database(store.path, root / "copy.db")
    other.close()
    assert names(root) == {"state"}


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_deleted_or_replaced_database_can_still_be_backed_up(root: Path, how: str) -> None:
    async def scenario() -> None:
        async with running(make_store(root)) as store:
            await store.write(put("before"))
            assert store.problem() is None
            if how == "replaced":
                await store.backup(root / "other.db")
                os.replace(root / "other.db", store.path)  # noqa: PTH105
            else:
                os.unlink(store.path)  # noqa: PTH108
            problem = store.problem()
            assert problem is not None
            assert "deleted or replaced" in problem.message
            assert "nexusctl db backup" in (problem.hint or "")
            with pytest.raises(StoreUnavailable):
                await store.write(put("after"))
            await store.backup(root / "saved.db")

    asyncio.run(scenario())
    assert verify_database(root / "saved.db") == target_version()
    assert {row["key"] for row in contents(root / "saved.db")["settings"]} == {"before"}


def test_deleted_database_refuses_writes_but_can_be_backed_up(root: Path) -> None:
    """An acknowledged write must survive a restart; the data written before can still be backed up."""

    async def scenario() -> None:
        store = SqliteStore(root / "nexus.db", root / "backups")
        store.init()
        store.start()
        await store.write(lambda tx: tx.execute("INSERT INTO settings VALUES ('kept', '1', 'int')"))
        (root / "nexus.db").unlink()
        with pytest.raises(StoreUnavailable, match="deleted or replaced") as caught:
            await store.write(lambda tx: tx.execute("INSERT INTO settings VALUES ('lost', '1', 'int')"))
        assert "db backup" in (caught.value.hint or "")
        copy = await store.backup(root / "copy.db")
        await store.close()
        with contextlib.closing(sqlite3.connect(copy.path)) as connection:
            assert connection.execute("SELECT key FROM settings").fetchall() == [("kept",)]

    asyncio.run(scenario())
