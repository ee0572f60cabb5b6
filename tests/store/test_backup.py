"""Backups: whole while others write, verified, never over another, pruned by age, and no debris."""

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

from nexus.store import DiskFull, QueryError, StoreConflict, StoreError, StoreUnavailable, Transaction
from nexus.store import backup as backups
from nexus.store.backup import own_backups, prune_backups, timestamp, verify_database
from nexus.store.migrate import target_version
from nexus.store.sqlite import SqliteStore

DAY_MS = 24 * 60 * 60 * 1000


def counted(key: str) -> object:
    """A write of two rows that only together make sense: the setting, and how many there are."""

    def change(tx: Transaction) -> None:
        put(key)(tx)
        tx.execute(
            "INSERT INTO schema_meta VALUES ('count', 1) ON CONFLICT DO UPDATE SET value = CAST(value AS INTEGER) + 1"
        )

    return change


def names(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()}


def test_a_backup_is_whole_while_four_writers_write(root: Path) -> None:
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
            assert counts[0] < counts[-1], "they wrote meanwhile"

    def count_of(copy: Path) -> int:
        with look_at(copy) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
            (rows,) = connection.execute("SELECT count(*) FROM settings").fetchone()
            said = connection.execute("SELECT value FROM schema_meta WHERE key = 'count'").fetchone()
            assert rows == int(said[0] if said else 0)
        assert verify_database(copy) == target_version()
        return int(rows)

    asyncio.run(scenario())
    assert names(root) == {"state", *(f"copy{number}.db" for number in range(5))}


def test_a_backup_says_where_it_is_and_what_it_holds(root: Path) -> None:
    store = make_store(root)
    store.init()
    info = store.backup_now()
    store.close_now()
    path = Path(info.path)
    assert path.parent == store.backup_directory
    assert [found for found, _at in own_backups(path.parent, "nexus")] == [path]
    assert (info.size_bytes, info.schema_version, info.pruned) == (path.stat().st_size, target_version(), 0)
    assert names(path.parent) == {path.name}


def test_a_backup_never_takes_the_place_of_a_file(root: Path) -> None:
    store = make_store(root)
    store.init()
    taken = root / "taken.db"
    taken.write_bytes(b"mine")
    (root / "dangling").symlink_to(root / "nowhere")
    for target in (taken, root / "dangling", store.path, root):
        with pytest.raises(StoreConflict, match="there already"):
            store.backup_now(target)
    assert taken.read_bytes() == b"mine"
    store.close_now()
    assert names(root) == {"state", "taken.db", "dangling"}


def test_a_file_that_appears_during_the_copy_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_of_many_backups_to_one_name_at_once_one_wins_and_is_sound(root: Path) -> None:
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
def test_a_path_that_cannot_be_written_is_a_sentence(root: Path, target: str) -> None:
    store = make_store(root)
    store.init()
    with pytest.raises(StoreError, match="cannot back up to"):
        store.backup_now(root / target)
    store.close_now()
    assert names(root) == {"state"}


def test_a_copy_that_is_not_sound_is_no_backup(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = backups._copy

    def spoil(source: Path, partial: Path) -> None:
        copy(source, partial)
        data = bytearray(partial.read_bytes())
        data[4096:8192] = os.urandom(4096)
        partial.write_bytes(data)

    monkeypatch.setattr(backups, "_copy", spoil)
    store = make_store(root)
    store.init()
    with pytest.raises(QueryError, match="the copy is not sound"):
        store.backup_now()
    store.close_now()
    assert names(store.backup_directory) == set()


def test_only_our_own_old_backups_are_pruned_and_never_the_newest(root: Path) -> None:
    now = int(time.time() * 1000)
    old, older, young = (timestamp(now - days * DAY_MS) for days in (31, 400, 29))
    kept = {
        f"nexus-{young}.db",
        f"nexus-before-v3-{older}.db",
        f"other-{older}.db",
        f"nexus-{older}.db.gz",
        "nexus-20261399T000000.000Z.db",  # no such day
        "nexus-20200101.db",
        "notes.txt",
    }
    directory = make_store(root).backup_directory
    directory.mkdir(parents=True)
    for name in (*kept, f"nexus-{old}.db", f"nexus-{older}.db"):
        (directory / name).touch()
    (directory / f"nexus-{timestamp(now - 500 * DAY_MS)}.db").mkdir()  # cannot be unlinked; nobody minds
    store = make_store(root)
    store.init()
    info = store.backup_now(keep_days=30)
    store.close_now()
    assert info.pruned == 2
    left = {entry.name for entry in directory.iterdir() if entry.is_file()}
    assert left == kept | {Path(info.path).name}


def test_the_newest_backup_stays_however_old_it_is(root: Path) -> None:
    for days in (100, 200, 300):
        (root / f"nexus-{timestamp(int(time.time() * 1000) - days * DAY_MS)}.db").touch()
    assert prune_backups(root, "nexus", 1) == 2
    assert len(names(root)) == 1


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


def test_what_a_killed_backup_left_is_cleaned_up_by_the_next(root: Path) -> None:
    store = make_store(root)
    command = [sys.executable, "-c", _KILLED, store.path, store.backup_directory]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    (partial,) = names(store.backup_directory)
    assert partial.endswith(".part")
    for end in ("-journal", "-wal", "-shm"):
        (store.backup_directory / (partial + end)).touch()
    mine = f".nexus-x.db.0.{os.getpid()}.part"  # of a copy that is being made
    (store.backup_directory / mine).touch()
    store.init()
    info = store.backup_now()
    store.close_now()
    assert names(store.backup_directory) == {Path(info.path).name, mine}


def test_a_full_disk_is_told_and_leaves_nothing_behind(root: Path) -> None:
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

    on_small_disk(root / "disk", 512, scenario)


def test_a_locked_database_is_not_waited_for_without_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_database_that_lost_its_name_can_still_be_saved(root: Path, how: str) -> None:
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
            await store.write(put("after"))
            await store.backup(root / "saved.db")

    asyncio.run(scenario())
    assert verify_database(root / "saved.db") == target_version()
    assert {row["key"] for row in contents(root / "saved.db")["settings"]} == {"before", "after"}


def test_a_database_that_was_deleted_takes_no_more_writes_but_can_be_saved(root: Path) -> None:
    """What is acknowledged must be there after a restart; what was there can still be copied and restored."""

    async def scenario() -> None:
        store = SqliteStore(root / "nexus.db", root / "backups")
        store.init()
        store.start()
        await store.write(lambda tx: tx.execute("INSERT INTO settings VALUES ('kept', '1', 'int')"))
        (root / "nexus.db").unlink()
        store._seen_in_place_at = -1.0  # as if a second had passed
        with pytest.raises(StoreUnavailable, match="deleted or replaced") as caught:
            await store.write(lambda tx: tx.execute("INSERT INTO settings VALUES ('lost', '1', 'int')"))
        assert "db backup" in (caught.value.hint or "")
        copy = await store.backup(root / "copy.db")
        await store.close()
        with contextlib.closing(sqlite3.connect(copy.path)) as connection:
            assert connection.execute("SELECT key FROM settings").fetchall() == [("kept",)]

    asyncio.run(scenario())
