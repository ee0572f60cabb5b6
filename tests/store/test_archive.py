"""Archives: whole and verified when they are made, and restored with everything that the records refer to."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest
from support.archives import JOB, SETS, WITH_FILES, State
from support.faults import fill, on_small_disk

from nexus.store import BackupOptions, DiskFull, StoreError
from nexus.store.backup import prune_backups, timestamp
from nexus.store.backup_folder import list_backups, newest_backup
from nexus.store.maintenance import check_database, restore_database
from nexus.store.migrate import target_version
from nexus.store.sqlite import SqliteStore

SERVICE = "6d1f7c1e-0000-4000-8000-00000000000b"
DAY_MS = 24 * 60 * 60 * 1000


@pytest.fixture
def state(root: Path) -> State:
    return State(root / "state").make()


def modes(folder: Path) -> set[tuple[str, int]]:
    return {("folder" if path.is_dir() else "file", stat.S_IMODE(path.stat().st_mode)) for path in folder.rglob("*")}


# Made


def test_archive_has_the_database_the_blobs_and_the_logs_and_nothing_else(state: State, root: Path) -> None:
    state.blobs.put(b"no row names it")
    info = state.back_up(root / "copy.tar.gz")
    assert (info.with_files, info.schema_version) == (True, target_version())
    assert {name: there for name, there, *_ in info.files} == {"blobs": 5, "job-logs": 1, "service-logs": 0}
    assert info.size_bytes == (root / "copy.tar.gz").stat().st_size
    assert stat.S_IMODE((root / "copy.tar.gz").stat().st_mode) == 0o600
    with tarfile.open(root / "copy.tar.gz") as tar:
        names = tar.getnames()
        assert (names[0], names[1], names[-1]) == ("nexus-backup.json", "nexus.db", "end.json")
        assert set(names[2:-1]) == {
            *(f"blobs/{hash_[:2]}/{hash_}" for hash_ in state.hashes),
            *(f"job-logs/job-{JOB}/log/0.{end}" for end in ("log", "idx")),
        }
    assert {path.name for path in root.iterdir()} == {"state", "copy.tar.gz"}


def test_plain_backup_tells_what_it_leaves_out(state: State) -> None:
    info = state.back_up(options=BackupOptions())
    assert not info.with_files
    assert {name: (there, size) for name, there, size, *_ in info.files} == {
        "blobs": (5, 15_000),
        "job-logs": (1, 22),
        "service-logs": (0, 0),
    }


def test_what_a_row_refers_to_and_is_not_intact_is_told_and_left_out(state: State, root: Path) -> None:
    state.blobs.path(state.hashes[0]).unlink()
    state.blobs.path(state.hashes[1]).write_bytes(b"another content")
    with state.connected() as connection:
        state.add_job(connection, SERVICE, output_bytes=100)
    info = state.back_up(root / "copy.tar.gz")
    assert [counts[:2] + counts[3:] for counts in info.files if counts[0] != "service-logs"] == [
        ("job-logs", 1, 1, 0),
        ("blobs", 3, 1, 1),
    ]
    plain = state.back_up(root / "copy.db", BackupOptions())
    assert {name: missing for name, _there, _size, missing, _damaged in plain.files if missing} == {
        "blobs": 1,
        "job-logs": 1,
    }


def test_log_whose_bytes_are_still_written_is_a_consistent_prefix(state: State, root: Path) -> None:
    folder = state.log_folder(f"job-{JOB}")
    entry = struct.Struct("=QII")
    # A mark has no bytes, the last entry is longer than what is there, and half of another entry is written.
    (folder / "0.idx").write_bytes(
        entry.pack(0, 1, 0x41) + entry.pack(0, 0, 0x42) + entry.pack(1, 4, 1) + entry.pack(2, 9, 2) + b"half"
    )
    (folder / "1.idx").write_bytes(entry.pack(1, 4, 1))
    (folder / "2.idx").write_bytes(b"")
    (folder / "2.log").write_bytes(b"no entry has these")
    state.back_up(root / "copy.tar.gz")
    state.lose_files()
    restore_database(state.database, root / "copy.tar.gz", SETS)
    assert sorted(path.name for path in folder.iterdir()) == ["0.idx", "0.log", "2.idx", "2.log"]
    assert (folder / "0.log").read_bytes() == b"hello\n"
    assert entry.unpack((folder / "0.idx").read_bytes()[-16:]) == (2, 2, 2)
    assert (folder / "2.log").read_bytes() == b""


def test_files_that_vanish_and_grow_during_the_backup_do_not_break_it(state: State, root: Path) -> None:
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            folder = state.log_folder(f"job-{JOB}")
            with (folder / "0.idx").open("ab") as index, (folder / "0.log").open("ab") as data:
                index.write(struct.pack("=QII", number, 100, 1))
                index.flush()
                data.write(b"x" * 100)
            path = state.blobs.path(state.hashes[number % 5])
            path.unlink(missing_ok=True)
            state.blobs.put(bytes([number % 5]) * 1000 * (number % 5 + 1))

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for number in range(5):
            info = state.back_up(root / f"{number}.tar.gz")
            blobs = next(counts for counts in info.files if counts[0] == "blobs")
            assert blobs[1] + blobs[3] == 5
    finally:
        stop.set()
        thread.join()
    for number in range(5):
        copy = State(root / f"copy{number}")
        copy.database.parent.mkdir()
        restore_database(copy.database, root / f"{number}.tar.gz", SETS)
        folder = copy.log_folder(f"job-{JOB}")
        index = (folder / "0.idx").read_bytes()
        total = sum(length for _at, length, _stream in struct.iter_unpack("=QII", index))
        assert total == (folder / "0.log").stat().st_size


_KILLED = """
import os, signal, sys
from pathlib import Path
from nexus.capabilities import file_sets
from nexus.store import BackupOptions, archive
from nexus.store.sqlite import SqliteStore

archive._Writer.end = lambda self, counts: os.kill(os.getpid(), signal.SIGKILL)
store = SqliteStore(Path(sys.argv[1]), Path(sys.argv[2]), files=file_sets())
store.init()
store.backup_now(None, BackupOptions(with_files=True))
"""


def test_killed_backup_has_no_name_and_the_next_one_deletes_its_files(state: State) -> None:
    command = [sys.executable, "-c", _KILLED, state.database, state.backups]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert all(path.name.endswith(".part") for path in state.backups.iterdir())
    info = state.back_up()
    assert [str(path) for path in state.backups.iterdir()] == [info.path]


def test_archive_on_a_full_disk_fails_and_leaves_no_files(state: State, root: Path) -> None:
    state.put(os.urandom(600_000))

    def scenario(disk: Path) -> None:
        fill(disk, leave_kib=900)
        with pytest.raises(DiskFull, match="the disk is full"):
            state.back_up(disk / "copy.tar.gz")
        assert [path.name for path in disk.iterdir()] == ["filler"]

    on_small_disk(root / "disk", 2048, scenario)


def test_archive_that_cannot_be_read_back_gets_no_name(
    state: State, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nexus.store import archive

    flush = archive._Writer.end

    def damage(self: archive._Writer, counts: object) -> None:
        self._digest.update(b"something else was written")
        flush(self, counts)  # type: ignore[arg-type]

    monkeypatch.setattr(archive._Writer, "end", damage)
    with pytest.raises(StoreError, match="the copy is damaged"):
        state.back_up(root / "copy.tar.gz")
    assert {path.name for path in root.iterdir()} == {"state"}


def test_list_has_all_backups_newest_first(state: State) -> None:
    plain, archive = state.back_up(options=BackupOptions(dated_ms=1_000)), state.back_up()
    (state.backups / f"nexus-before-v{target_version()}-{timestamp(2_000)}.db").write_bytes(b"damaged")
    (state.backups / f"other-{timestamp(1)}.db").touch()
    (state.backups / "notes.txt").touch()
    version = target_version()
    assert [(each.path, each.with_files, each.schema_version, each.before_version) for each in listed(state)] == [
        (archive.path, True, version, None),
        (str(state.backups / f"nexus-before-v{version}-{timestamp(2_000)}.db"), False, None, version),
        (plain.path, False, version, None),
    ]
    newest = newest_backup(state.backups, "nexus", int(time.time() * 1000))
    assert newest is not None
    assert (str(newest.path), newest.last_event) == (archive.path, 0)
    assert newest_backup(state.backups, "nexus", 999) is None


def listed(state: State) -> list[object]:
    return list(list_backups(state.backups, "nexus"))


def test_prune_keeps_the_newest_three_of_each_kind(root: Path) -> None:
    now = int(time.time() * 1000)
    for days in (100, 200, 300, 400):
        for end in ("db", "tar.gz"):
            (root / f"nexus-{timestamp(now - days * DAY_MS)}.{end}").touch()
    assert prune_backups(root, "nexus", 30) == 2
    assert sorted(path.suffix for path in root.iterdir()) == [".db"] * 3 + [".gz"] * 3


# Restored


def test_restore_of_an_archive_brings_everything_back(state: State, root: Path) -> None:
    state.back_up(root / "copy.tar.gz")
    other = State(root / "other")
    other.database.parent.mkdir()
    done = restore_database(other.database, root / "copy.tar.gz", SETS)
    assert (done.with_files, done.missing, done.set_aside) == (True, {}, None)
    other.assert_whole()
    assert modes(other.blobs.root) | modes(other.database.parent / "processes") == {("folder", 0o700), ("file", 0o600)}
    other.run(lambda store: None)


def test_restore_keeps_what_the_replaced_database_refers_to(state: State, root: Path) -> None:
    state.back_up(root / "copy.tar.gz")
    later = state.put(b"put later")
    done = restore_database(state.database, root / "copy.tar.gz", SETS)
    state.assert_whole()
    assert done.set_aside is not None
    aside = Path(done.set_aside)
    assert (aside.with_name(f"{aside.name}-blobs") / later[:2] / later).read_bytes() == b"put later"
    state.blobs.path(later).unlink()  # swept since
    again = restore_database(state.database, aside, SETS)
    assert again.missing == {}
    assert state.blobs.get(later) == b"put later"


def test_restore_of_a_plain_backup_tells_the_blobs_that_are_missing(state: State, root: Path) -> None:
    state.back_up(root / "copy.db", BackupOptions())
    state.blobs.path(state.hashes[2]).unlink()
    assert restore_database(state.database, root / "copy.db", SETS).missing == {"blobs": 1}
    report = check_database(state.database, SETS)
    assert report.problems == []
    assert report.file_problems == [f"blob {state.hashes[2]} is missing: 1 part of messages refers to it"]
    assert report.files["blobs"] == {"files": 5, "size_bytes": 15_000, "missing": 1, "damaged": 0}


def test_restore_leaves_a_log_that_is_there_as_it_is(state: State, root: Path) -> None:
    state.back_up(root / "copy.tar.gz")
    (state.log_folder(f"job-{JOB}") / "0.log").write_bytes(b"more\nmore\n")
    restore_database(state.database, root / "copy.tar.gz", SETS)
    assert (state.log_folder(f"job-{JOB}") / "0.log").read_bytes() == b"more\nmore\n"


def test_restore_replaces_a_damaged_blob(state: State, root: Path) -> None:
    state.back_up(root / "copy.tar.gz")
    state.blobs.path(state.hashes[1]).write_bytes(b"damaged")
    assert check_database(state.database, SETS).files["blobs"]["damaged"] == 1
    restore_database(state.database, root / "copy.tar.gz", SETS)
    state.assert_whole()


def test_check_reads_the_content_of_blobs_only_when_deep(state: State) -> None:
    path = state.blobs.path(state.hashes[0])
    path.write_bytes(bytes(reversed(range(250))) * 4)
    assert check_database(state.database, SETS).file_problems == []
    assert check_database(state.database, SETS, deep=True).file_problems == [
        f"blob {state.hashes[0]} is damaged: 1 part of messages refers to it"
    ]


def test_missing_blob_that_no_message_names_is_no_problem(state: State, root: Path) -> None:
    state.blobs.path(state.put(b"unnamed", named=False)).unlink()
    assert check_database(state.database, SETS, deep=True).file_problems == []
    revised = state.put(b"in a revision", named=False)
    with state.connected() as connection:
        connection.execute(
            "INSERT INTO message_revision (message_id, revision, conversation_id, number, role, content, parts, "
            "change, size_bytes, changed_at) VALUES ('m', 1, 'c', 1, 'user', '', ?, 'edited', 1, 1)",
            (f'[{{"kind":"image","blob":"{revised}"}}]',),
        )
    state.blobs.path(revised).unlink()
    assert check_database(state.database, SETS).file_problems == [
        f"blob {revised} is missing: an earlier state of a message refers to it"
    ]
    info = state.back_up(root / "copy.tar.gz")
    assert next(missing for name, _there, _size, missing, _damaged in info.files if name == "blobs") == 1


def test_check_names_some_of_many_missing_blobs(state: State) -> None:
    for number in range(30):
        state.put(f"blob {number}".encode())
    shutil.rmtree(state.blobs.root)
    sentences = check_database(state.database, SETS).file_problems
    assert len(sentences) == 21
    assert sentences[-1] == "15 more blobs are missing or damaged"


def test_database_of_an_older_schema_is_checked_and_restored_without_files(state: State, root: Path) -> None:
    old = SqliteStore(root / "old" / "nexus.db", root / "unused")
    old.init(target=3)
    old.close_now()
    assert check_database(old.path, SETS).file_problems == []
    assert restore_database(state.database, old.path, SETS).missing == {}


def test_backups_of_one_store_at_once_are_all_whole(state: State, root: Path) -> None:
    async def scenario() -> None:
        store = SqliteStore(state.database, state.backups, files=SETS)
        store.init()
        store.start()
        options = [WITH_FILES, BackupOptions(), WITH_FILES]
        made = await asyncio.gather(
            *(store.backup(root / f"{number}.copy", each) for number, each in enumerate(options))
        )
        assert [info.with_files for info in made] == [True, False, True]
        await store.close()

    asyncio.run(scenario())
    assert (root / "0.copy").stat().st_size == pytest.approx((root / "2.copy").stat().st_size, abs=64)
