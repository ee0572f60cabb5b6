"""Archives: whole and verified, restored in one step that a kill cannot halve, and refused when anything is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.faults import fill, on_small_disk
from support.stores import contents, files_of

from nexus.capabilities import file_sets
from nexus.conversations.blobs import BlobFolder
from nexus.store import BackupOptions, DatabaseDamaged, DiskFull, SchemaMismatch, StoreError
from nexus.store.backup import prune_backups, timestamp
from nexus.store.backup_folder import list_backups, newest_backup
from nexus.store.base import BackupInfo
from nexus.store.maintenance import check_database, restore_database
from nexus.store.migrate import target_version
from nexus.store.sqlite import SqliteStore

JOB = "6d1f7c1e-0000-4000-8000-00000000000a"
SERVICE = "6d1f7c1e-0000-4000-8000-00000000000b"
WITH_FILES = BackupOptions(with_files=True)
DAY_MS = 24 * 60 * 60 * 1000
SETS = file_sets()


class State:
    """A database with blobs and logs beside it."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "nexus.db"
        self.backups = folder / "backups"
        self.blobs = BlobFolder(folder / "nexus.db-blobs")
        self.hashes: list[str] = []

    def make(self) -> State:
        self.database.parent.mkdir(exist_ok=True, mode=0o700)
        self.run(lambda _store: None)
        for number in range(5):
            self.put(bytes([number]) * 1000 * (number + 1))
        with self.connected() as connection:
            connection.execute("PRAGMA foreign_keys = OFF")
            self.add_job(connection, JOB, output_bytes=6)
        self.write_log(f"job-{JOB}", b"hello\n")
        return self

    @contextlib.contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.database)) as connection, connection:
            yield connection

    @staticmethod
    def add_job(connection: sqlite3.Connection, id_: str, output_bytes: int | None) -> None:
        connection.execute(
            "INSERT INTO jobs (id, number, seq, project_id, command, directory, place, status, output_bytes, "
            "created_at, updated_at, doc) SELECT ?, n, n, '00000000-0000-4000-8000-000000000000', 'x', '/', n, "
            "'completed', ?, 1, 1, n FROM (SELECT count(*) + 1 AS n FROM jobs)",
            (id_, output_bytes),
        )

    def put(self, data: bytes) -> str:
        hash_ = self.blobs.put(data)
        with self.connected() as connection:
            connection.execute("INSERT INTO blobs VALUES (?, ?, 1)", (hash_, len(data)))
        self.hashes.append(hash_)
        return hash_

    def log_folder(self, owner: str) -> Path:
        return self.database.parent / "processes" / owner / "log"

    def write_log(self, owner: str, data: bytes, claimed: int | None = None) -> None:
        folder = self.log_folder(owner)
        folder.mkdir(parents=True, mode=0o700)
        (folder / "0.idx").write_bytes(struct.pack("=QII", 1, len(data) if claimed is None else claimed, 1))
        (folder / "0.log").write_bytes(data)

    def run(self, fn: Callable[[SqliteStore], object]) -> object:
        store = SqliteStore(self.database, self.backups, files=SETS)
        store.init()
        try:
            return fn(store)
        finally:
            store.close_now()

    def back_up(self, path: Path | None = None, options: BackupOptions = WITH_FILES) -> BackupInfo:
        made = self.run(lambda store: store.backup_now(path, options))
        assert isinstance(made, BackupInfo)
        return made

    def lose_files(self) -> None:
        shutil.rmtree(self.blobs.root)
        shutil.rmtree(self.database.parent / "processes")

    def assert_whole(self) -> None:
        report = check_database(self.database, SETS, deep=True)
        assert (report.problems, report.file_problems) == ([], [])
        assert report.files["blobs"]["files"] == 5
        assert (self.log_folder(f"job-{JOB}") / "0.log").read_bytes() == b"hello\n"


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
        connection.execute("PRAGMA foreign_keys = OFF")
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
    with state.connected() as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
    state.blobs.path(state.hashes[2]).unlink()
    assert restore_database(state.database, root / "copy.db", SETS).missing == {"blobs": 1}
    report = check_database(state.database, SETS)
    assert report.problems == []
    assert report.file_problems == [f"blob {state.hashes[2]} is missing"]
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
    assert check_database(state.database, SETS, deep=True).file_problems == [f"blob {state.hashes[0]} is damaged"]


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


# Hostile archives


def parts_of(path: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(path) as tar:
        return [(info, tar.extractfile(info).read()) for info in tar.getmembers()]  # type: ignore[union-attr]


def write(path: Path, parts: list[tuple[tarfile.TarInfo, bytes]], *, end: bool = True) -> None:
    """Write an archive with any members, and an end that fits them."""
    blocks = io.BytesIO()
    for info, data in parts:
        if info.name == "end.json":
            continue
        blocks.write(info.tobuf(tarfile.GNU_FORMAT))
        blocks.write(data + bytes(-len(data) % 512))
    whole = blocks.getvalue()
    if end:
        info, data = tarfile.TarInfo("end.json"), json.dumps({"sha256": hashlib.sha256(whole).hexdigest()}).encode()
        info.size = len(data)
        whole += info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512) + bytes(1024)
    path.write_bytes(gzip.compress(whole, 1))


def added(name: str, data: bytes = b"x", **fields: object) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]:
    def add(parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        for field, value in fields.items():
            setattr(info, field, value)
        parts.insert(-1, (info, data))

    return add


def twice(parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    parts.insert(-1, next(part for part in parts if part[0].name.startswith("blobs/")))


def other_blob(parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    at = next(number for number, part in enumerate(parts) if part[0].name.startswith("blobs/"))
    parts[at] = (parts[at][0], b"\xff" * len(parts[at][1]))


def longer_blob(parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    at = next(number for number, part in enumerate(parts) if part[0].name.startswith("blobs/"))
    parts[at][0].size += 1
    parts[at] = (parts[at][0], parts[at][1] + b"x")


def no_database(parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    del parts[1:-1]


def other_first(parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    parts[0], parts[1] = parts[1], parts[0]


def damaged_database(parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    data = bytearray(parts[1][1])
    data[8192:12288] = b"\xa5" * 4096
    parts[1] = (parts[1][0], bytes(data))


def newer_format(parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    data = json.dumps({"format": 2}).encode()
    parts[0][0].size = len(data)
    parts[0] = (parts[0][0], data)


def other_head(parts: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    data = b"[" * 60_000
    parts[0][0].size = len(data)
    parts[0] = (parts[0][0], data)


HOSTILE: dict[str, tuple[Callable[[list[tuple[tarfile.TarInfo, bytes]]], None], type[StoreError]]] = {
    "an absolute path": (added("/etc/cron.d/x"), DatabaseDamaged),
    "a path that leads up": (added("blobs/../../x"), DatabaseDamaged),
    "a path that leads up within": (added(f"blobs/aa/../bb/{'b' * 64}"), DatabaseDamaged),
    "a path with a point": (added(f"blobs/./aa/{'a' * 64}"), DatabaseDamaged),
    "a blob of no row": (added(f"blobs/aa/{'a' * 64}"), DatabaseDamaged),
    "a log of no row": (added("job-logs/job-00000000-0000-4000-8000-000000000000/log/0.log"), DatabaseDamaged),
    "a file of a log that is none": (added(f"job-logs/job-{JOB}/log/lock"), DatabaseDamaged),
    "a file of a run": (added(f"job-logs/job-{JOB}/run/control"), DatabaseDamaged),
    "an unknown kind": (added("etc/passwd"), DatabaseDamaged),
    "a symbolic link": (added("blobs/aa", b"", type=tarfile.SYMTYPE, linkname="/etc"), DatabaseDamaged),
    "a hard link": (added("blobs/x", b"", type=tarfile.LNKTYPE, linkname="nexus.db"), DatabaseDamaged),
    "a device": (added("blobs/x", b"", type=tarfile.BLKTYPE, devmajor=8), DatabaseDamaged),
    "a FIFO": (added("blobs/x", b"", type=tarfile.FIFOTYPE), DatabaseDamaged),
    "a folder": (added("blobs", b"", type=tarfile.DIRTYPE), DatabaseDamaged),
    "an extended header": (added("pax", b"30 path=../../x\n", type=tarfile.XHDTYPE), DatabaseDamaged),
    "a long name": (added("x", b"../../x", type=tarfile.GNUTYPE_LONGNAME), DatabaseDamaged),
    "a sparse file": (added("x", b"", type=tarfile.GNUTYPE_SPARSE), DatabaseDamaged),
    "a file twice": (twice, DatabaseDamaged),
    "a blob with another content": (other_blob, DatabaseDamaged),
    "a blob of another size": (longer_blob, DatabaseDamaged),
    "no database": (no_database, DatabaseDamaged),
    "the database first": (other_first, DatabaseDamaged),
    "a damaged database": (damaged_database, DatabaseDamaged),
    "a newer format": (newer_format, SchemaMismatch),
    "a head that is no map": (other_head, DatabaseDamaged),
}


@pytest.mark.parametrize("hostile", HOSTILE, ids=list(HOSTILE))
def test_hostile_archive_is_refused_and_nothing_is_changed(state: State, root: Path, hostile: str) -> None:
    state.back_up(root / "good.tar.gz")
    state.lose_files()
    change, kind = HOSTILE[hostile]
    parts = parts_of(root / "good.tar.gz")
    change(parts)
    write(root / "bad.tar.gz", parts)
    assert_refused(state, root / "bad.tar.gz", kind)


def assert_refused(state: State, archive: Path, kind: type[StoreError]) -> None:
    Path(f"{state.database}.lock").touch()
    before = files_of(state.database.parent)
    with pytest.raises(kind, match=r"^cannot ") as refused:
        restore_database(state.database, archive, SETS)
    assert "Traceback" not in refused.value.message
    before.pop("nexus.db.lock")
    after = files_of(state.database.parent)
    after.pop("nexus.db.lock")
    assert after == before


def test_archive_that_is_written_again_is_still_good(state: State, root: Path) -> None:
    state.back_up(root / "good.tar.gz")
    state.lose_files()
    write(root / "again.tar.gz", parts_of(root / "good.tar.gz"))
    restore_database(state.database, root / "again.tar.gz", SETS)
    state.assert_whole()


def test_archive_cut_or_changed_anywhere_is_refused(state: State, root: Path) -> None:
    state.back_up(root / "good.tar.gz")
    state.lose_files()
    data = (root / "good.tar.gz").read_bytes()
    bad = root / "bad.tar.gz"
    for size in (2, 10, 100, len(data) // 2, len(data) - 9, len(data) - 4, len(data) - 1):
        bad.write_bytes(data[:size])
        assert_refused(state, bad, DatabaseDamaged)
    for at in range(20, len(data), len(data) // 20):
        bad.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        assert_refused(state, bad, DatabaseDamaged)
    bad.write_bytes(data + gzip.compress(b"more"))
    assert_refused(state, bad, DatabaseDamaged)
    write(bad, parts_of(root / "good.tar.gz"), end=False)
    assert_refused(state, bad, DatabaseDamaged)


def test_archive_that_claims_more_than_the_disk_holds_is_refused_before_it_fills_it(state: State, root: Path) -> None:
    state.back_up(root / "good.tar.gz")
    parts = parts_of(root / "good.tar.gz")
    parts[1][0].size = 2**62
    bad = root / "bad.tar.gz"
    write(bad, parts)
    assert_refused(state, bad, DiskFull)
    parts[1][0].size = len(parts[1][1])
    parts[2][0].size = 2**40
    write(bad, parts)
    assert_refused(state, bad, StoreError)


# Kills


_KILLED_RESTORE = """
import os, signal, sys
from pathlib import Path
from nexus.capabilities import file_sets
from nexus.store.maintenance import restore_database

sets = file_sets()
fatal, seen = int(sys.argv[3]), 0
def watch(event, arguments):
    global seen
    if event in ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "sqlite3.connect", "open"):
        seen += 1
        if seen == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
restore_database(Path(sys.argv[1]), Path(sys.argv[2]), sets)
"""


@pytest.mark.slow
def test_kill_at_any_step_of_a_restore_leaves_the_old_state_or_all_of_the_new_one(state: State, root: Path) -> None:
    archive = root / "copy.tar.gz"
    state.back_up(archive)
    with state.connected() as connection:
        connection.execute("INSERT INTO settings VALUES ('later', '1', 'int')")
    original = state.database.read_bytes()
    seen = []
    fatal = 1
    while True:
        shutil.rmtree(state.database.parent)
        state.database.parent.mkdir(mode=0o700)
        state.database.write_bytes(original)
        command = [sys.executable, "-c", _KILLED_RESTORE, state.database, archive, str(fatal)]
        code = subprocess.run(command, check=False).returncode
        assert state.database.exists(), "a database exists under the name at every moment"
        restored = not contents(state.database)["settings"]
        seen.append(restored)
        assert check_database(state.database).problems == []
        if restored:
            state.assert_whole()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        fatal += 1 if fatal < 20 or restored else 3
    assert seen == sorted(seen)
    assert seen[-1]
    assert seen.count(False) > 20
    restore_database(state.database, archive, SETS)
    assert not [path for path in state.database.parent.iterdir() if ".part" in path.name]


def test_restore_of_an_archive_on_a_full_disk_changes_nothing(state: State, root: Path) -> None:
    state.back_up(root / "copy.tar.gz")

    def scenario(disk: Path) -> None:
        path = disk / "nexus.db"
        shutil.copy(state.database, path)
        filler = fill(disk, leave_kib=16 * 1024 + 700)
        before = path.read_bytes()
        for _ in range(2):
            with pytest.raises(DiskFull):
                restore_database(path, root / "copy.tar.gz", SETS)
        assert path.read_bytes() == before
        assert {entry.name for entry in disk.iterdir()} <= {"nexus.db", "nexus.db.lock", "filler"}
        filler.unlink()
        restore_database(path, root / "copy.tar.gz", SETS)

    state.put(b"\0" * 400_000)
    state.back_up(root / "larger.tar.gz")
    shutil.move(root / "larger.tar.gz", root / "copy.tar.gz")
    on_small_disk(root / "disk", 20 * 1024, scenario)


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


def test_failing_sync_keeps_an_archive_from_its_name_and_a_restore_from_its_last_step(
    state: State, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.back_up(root / "good.tar.gz")
    state.lose_files()
    sync, failing = os.fsync, [0]

    def fail(descriptor: int) -> None:
        failing[0] -= 1
        if not failing[0]:
            raise OSError(errno.EIO, "Input/output error")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    for number in range(1, 100):
        failing[0] = number
        try:
            state.back_up(root / "bad.tar.gz")
        except StoreError:
            # The sync of the folder is the last one: the archive is whole, and may be lost with the machine.
            (root / "bad.tar.gz").unlink(missing_ok=True)
        else:
            break
    assert number > 2
    database, sentences = state.database.read_bytes(), set()
    for number in range(1, 200):
        failing[0] = number
        try:
            restore_database(state.database, root / "good.tar.gz", SETS)
        except StoreError as error:
            sentences.add(error.message[:15])
            if state.database.read_bytes() != database:
                break  # the sync of the folder after the last step
        else:
            break
        assert check_database(state.database).problems == []
    assert number > 10
    assert sentences == {"cannot restore "}
    state.assert_whole()
