"""Archives that are hostile, cut or changed are refused, and a restore survives kills and failing disks."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from support.archives import JOB, SETS, Parts, State, parts_of, write
from support.faults import fill, on_small_disk
from support.stores import contents, files_of

from nexus.store import DatabaseDamaged, DiskFull, SchemaMismatch, StoreError
from nexus.store.maintenance import check_database, restore_database


@pytest.fixture
def state(root: Path) -> State:
    return State(root / "state").make()


# Hostile archives


def added(name: str, data: bytes = b"x", **fields: object) -> Callable[[Parts], None]:
    def add(parts: Parts) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        for field, value in fields.items():
            setattr(info, field, value)
        parts.insert(-1, (info, data))

    return add


def twice(parts: Parts) -> None:
    parts.insert(-1, next(part for part in parts if part[0].name.startswith("blobs/")))


def other_blob(parts: Parts) -> None:
    at = next(number for number, part in enumerate(parts) if part[0].name.startswith("blobs/"))
    parts[at] = (parts[at][0], b"\xff" * len(parts[at][1]))


def longer_blob(parts: Parts) -> None:
    at = next(number for number, part in enumerate(parts) if part[0].name.startswith("blobs/"))
    parts[at][0].size += 1
    parts[at] = (parts[at][0], parts[at][1] + b"x")


def no_database(parts: Parts) -> None:
    del parts[1:-1]


def other_first(parts: Parts) -> None:
    parts[0], parts[1] = parts[1], parts[0]


def damaged_database(parts: Parts) -> None:
    data = bytearray(parts[1][1])
    data[8192:12288] = b"\xa5" * 4096
    parts[1] = (parts[1][0], bytes(data))


def newer_format(parts: Parts) -> None:
    data = json.dumps({"format": 2}).encode()
    parts[0][0].size = len(data)
    parts[0] = (parts[0][0], data)


def other_head(parts: Parts) -> None:
    data = b"[" * 60_000
    parts[0][0].size = len(data)
    parts[0] = (parts[0][0], data)


HOSTILE: dict[str, tuple[Callable[[Parts], None], type[StoreError]]] = {
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


def is_same(archive: Path, other: Path) -> bool:
    """Whether two archives have the same content once they are decompressed."""
    try:
        return gzip.decompress(archive.read_bytes()) == gzip.decompress(other.read_bytes())
    except (OSError, EOFError, zlib.error):
        return False


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
        if is_same(bad, root / "good.tar.gz"):  # another way to compress it
            continue
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
