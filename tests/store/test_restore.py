"""Restore and check: only without a daemon, atomic, and with event numbers that are never reused."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nexus_protocol.errors import FailedPrecondition
from support.faults import fill, on_small_disk
from support.stores import contents, files_of, make_store

from nexus.store import DatabaseDamaged, DiskFull, InitError, SchemaMismatch, StoreError
from nexus.store.maintenance import check_database, database_lock, migrate_database, restore_database
from nexus.store.migrate import target_version
from nexus.store.sqlite import SqliteStore

EVENT = "INSERT INTO journal (at, kind, subject_kind, subject_id, uid, pid) VALUES (1, 'vm.created', 'vm', ?, 0, 1)"


def add_events(path: Path, *subjects: str) -> int:
    """Insert events; returns the number of the last one."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for subject in subjects:
            last = connection.execute(EVENT, (subject,)).lastrowid
    return int(last or 0)


def make_hot(path: Path, *subjects: str) -> None:
    """Insert events in a process that is killed, so that they are in the log alone."""
    script = (
        "import sqlite3, os, sys\nc = sqlite3.connect(sys.argv[1])\nc.execute('PRAGMA journal_mode = WAL')\n"
        f"for s in sys.argv[2:]: c.execute({EVENT!r}, (s,))\nc.commit()\nos.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script, path, *subjects], check=False).returncode == -9
    assert Path(f"{path}-wal").stat().st_size


@pytest.fixture
def store(root: Path) -> SqliteStore:
    """A closed store with the events 1 to 3."""
    store = make_store(root)
    store.init()
    store.close_now()
    add_events(store.path, "a", "b", "c")
    return store


@pytest.fixture
def copy(root: Path, store: SqliteStore) -> Path:
    """A backup of the store."""
    path = root / "copy.db"
    store.init()
    store.backup_now(path)
    store.close_now()
    return path


def events(path: Path) -> list[tuple[int, str]]:
    return [(row["seq"], row["kind"]) for row in contents(path)["journal"]]


def next_event(store: SqliteStore) -> int:
    """Open the store as the daemon does, insert an event and return its number."""
    store.init()
    store.close_now()
    return add_events(store.path, "next")


def test_restore_sets_the_old_database_aside_and_continues_its_event_numbers(store: SqliteStore, copy: Path) -> None:
    assert add_events(store.path, "d", "e") == 5
    done = restore_database(store.path, copy)
    assert (done.path, done.schema_version, done.next_seq) == (str(store.path), target_version(), 6)
    assert done.set_aside is not None
    assert [seq for seq, _ in events(Path(done.set_aside))] == [1, 2, 3, 4, 5]
    assert events(store.path)[3:] == [(6, "database.restored")]
    assert contents(store.path)["journal"][-1]["uid"] == os.getuid()
    assert store.path.stat().st_mode & 0o777 == 0o600
    assert next_event(store) == 7
    assert copy.exists()


def test_restore_can_be_repeated(store: SqliteStore, copy: Path) -> None:
    assert [restore_database(store.path, copy).next_seq for _ in range(3)] == [4, 5, 6]
    assert len(list(store.path.parent.glob("nexus.db.set-aside-*"))) == 3


def test_log_of_a_killed_daemon_is_not_replayed_over_the_restored_database(store: SqliteStore, copy: Path) -> None:
    make_hot(store.path, "in the log", "and this")
    done = restore_database(store.path, copy)
    assert done.next_seq == 6, "the events in the log count"
    assert done.set_aside is not None
    assert [row["subject_id"] for row in contents(Path(done.set_aside))["journal"]][3:] == ["in the log", "and this"]
    assert [seq for seq, _ in events(store.path)] == [1, 2, 3, 6]
    assert check_database(store.path).problems == []


def test_log_without_a_database_is_not_replayed_over_the_restored_database(store: SqliteStore, copy: Path) -> None:
    make_hot(store.path, "in the log")
    store.path.unlink()
    done = restore_database(store.path, copy)
    assert done.set_aside is not None
    assert Path(f"{done.set_aside}-wal").stat().st_size
    assert [row["subject_id"] for row in contents(store.path)["journal"]][:3] == ["a", "b", "c"]
    assert check_database(store.path).problems == []


def test_restore_to_a_new_path(root: Path, copy: Path) -> None:
    done = restore_database(root / "new" / "nexus.db", copy)
    assert done.set_aside is None
    assert done.next_seq == 4


@pytest.mark.parametrize("damage", ["header", "middle"])
def test_restore_over_a_damaged_database_continues_from_the_time(store: SqliteStore, copy: Path, damage: str) -> None:
    add_events(store.path, *"defgh")
    data = bytearray(store.path.read_bytes())
    start = 0 if damage == "header" else 4096
    data[start:] = b"\xa5" * (len(data) - start)
    store.path.write_bytes(data)
    done = restore_database(store.path, copy)
    assert done.next_seq > 1_700_000_000_000, "the last number is unknown, so the time is used"
    assert done.next_seq <= time.time() * 1000 + 1
    assert done.set_aside is not None
    assert Path(done.set_aside).read_bytes() == data
    assert next_event(store) == done.next_seq + 1


def test_restore_of_a_backup_without_a_journal_continues_event_numbers(store: SqliteStore, copy: Path) -> None:
    migrate_database(copy, copy.parent / "unused", 2)
    add_events(store.path, "d", "e")
    done = restore_database(store.path, copy)
    assert (done.schema_version, done.next_seq) == (2, 6)
    assert next_event(store) == 7, "6 tells the migration"


def test_restore_over_a_database_without_a_journal_continues_numbers(
    root: Path, store: SqliteStore, copy: Path
) -> None:
    add_events(store.path, "d", "e")
    migrate_database(store.path, store.backup_directory, 1)
    assert restore_database(store.path, copy).next_seq == 6
    # A database that never had a journal has assigned no numbers.
    early = SqliteStore(root / "early" / "nexus.db", root / "unused")
    early.init(target=1)
    early.close_now()
    assert restore_database(early.path, copy).next_seq == 4


def test_restore_of_a_backup_with_higher_numbers_keeps_them(store: SqliteStore, copy: Path) -> None:
    add_events(copy, "x", "y")
    assert restore_database(store.path, copy).next_seq == 6


def test_restore_is_refused_while_the_database_is_in_use(store: SqliteStore, copy: Path) -> None:
    with database_lock(store.path):
        before = files_of(store.path.parent)
        with pytest.raises(FailedPrecondition, match=rf"while the daemon runs \(pid {os.getpid()}\)"):
            restore_database(store.path, copy)
        assert files_of(store.path.parent) == before
    restore_database(store.path, copy)
    database_lock(store.path).acquire()  # the lock was released; this one is released with its object


def test_lock_is_the_same_through_a_symbolic_link(root: Path, store: SqliteStore, copy: Path) -> None:
    (root / "link.db").symlink_to(store.path)
    with database_lock(root / "link.db"), pytest.raises(FailedPrecondition):
        restore_database(store.path, copy)


def make_garbage(copy: Path) -> None:
    copy.write_bytes(b"no database " * 1000)


def make_damaged(copy: Path) -> None:
    data = bytearray(copy.read_bytes())
    data[8192:12288] = b"\xa5" * 4096
    copy.write_bytes(data)


def make_short(copy: Path) -> None:
    copy.write_bytes(copy.read_bytes()[:-5000])


def make_empty(copy: Path) -> None:
    copy.write_bytes(b"")


def make_foreign(copy: Path) -> None:
    copy.unlink()
    with contextlib.closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute("CREATE TABLE notes (text)")


def make_newer(copy: Path) -> None:
    with contextlib.closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute("UPDATE schema_meta SET value = '99' WHERE key = 'version'")


def make_missing(copy: Path) -> None:
    copy.unlink()


def make_directory(copy: Path) -> None:
    copy.unlink()
    copy.mkdir()


@pytest.mark.parametrize(
    ("make_unusable", "kind"),
    [
        (make_garbage, DatabaseDamaged),
        (make_damaged, DatabaseDamaged),
        (make_short, DatabaseDamaged),
        (make_empty, SchemaMismatch),
        (make_foreign, SchemaMismatch),
        (make_newer, SchemaMismatch),
        (make_missing, InitError),
        (make_directory, InitError),
    ],
)
def test_unusable_backup_is_refused_and_nothing_is_changed(
    store: SqliteStore, copy: Path, make_unusable: object, kind: type[StoreError]
) -> None:
    assert callable(make_unusable)
    make_unusable(copy)
    before = files_of(store.path.parent)
    with pytest.raises(kind, match=r"^cannot "):
        restore_database(store.path, copy)
    after = files_of(store.path.parent)
    assert after.pop("nexus.db.lock", b"") is not None
    before.pop("nexus.db.lock", None)
    assert after == before


def test_restore_from_the_database_itself_is_refused(root: Path, store: SqliteStore) -> None:
    (root / "link.db").symlink_to(store.path)
    for source in (store.path, root / "link.db"):
        with pytest.raises(InitError, match="it is the database itself"):
            restore_database(store.path, source)


def test_restore_to_a_directory_is_refused(root: Path, copy: Path) -> None:
    (root / "folder").mkdir()
    with pytest.raises(InitError, match="it is a directory"):
        restore_database(root / "folder", copy)
    assert (root / "folder").is_dir()


def test_restore_on_a_full_disk_changes_nothing(root: Path, store: SqliteStore, copy: Path) -> None:
    def scenario(disk: Path) -> None:
        path = disk / "nexus.db"
        shutil.copy(store.path, path)
        filler = fill(disk, leave_kib=12)
        before = path.read_bytes()
        with pytest.raises(DiskFull, match="the disk is full"):
            restore_database(path, copy)
        assert path.read_bytes() == before
        assert {entry.name for entry in disk.iterdir()} <= {"nexus.db", "nexus.db.lock", "filler"}
        filler.unlink()
        restore_database(path, copy)

    on_small_disk(root / "disk", 3 * 1024, scenario)


_KILLED = """
import os, signal, sys
from pathlib import Path
from nexus.store.maintenance import restore_database

fatal, seen = int(sys.argv[3]), 0
def watch(event, arguments):
    global seen
    if event in ("os.rename", "os.link", "os.remove", "sqlite3.connect", "open"):
        seen += 1
        if seen == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
restore_database(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_kill_at_any_step_of_a_restore_leaves_the_old_or_the_new_database(store: SqliteStore, copy: Path) -> None:
    with contextlib.closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute("INSERT INTO settings VALUES ('restored', '1', 'int')")
    original = store.path.read_bytes()
    seen = []
    for fatal in range(1, 100):
        store.path.write_bytes(original)
        make_hot(store.path, "in the log")
        command = [sys.executable, "-c", _KILLED, store.path, copy, str(fatal)]
        code = subprocess.run(command, check=False).returncode
        assert store.path.exists(), "a database exists under the name at every moment"
        restored = bool(contents(store.path)["settings"])
        seen.append(restored)
        if restored:
            assert events(store.path)[-1] == (5, "database.restored")
        else:
            assert [seq for seq, _ in events(store.path)] == [1, 2, 3, 4]
        assert check_database(store.path).problems == []
        for suffix in ("-wal", "-shm"):
            Path(f"{store.path}{suffix}").unlink(missing_ok=True)
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert seen == sorted(seen)
    assert seen[-1]
    assert seen.count(False) > 5
    restore_database(store.path, copy)
    assert not [name for name in files_of(store.path.parent) if ".part" in name], "partial files are deleted"


def test_check_of_an_intact_database_counts_rows_and_reports_no_problems(store: SqliteStore) -> None:
    report = check_database(store.path)
    assert (report.path, report.schema_version, report.problems) == (str(store.path), target_version(), [])
    assert report.tables["journal"] == 3
    assert set(report.tables) >= {"journal", "schema_meta", "settings", "vms"}


def test_check_of_a_database_in_use_reads_the_log_and_changes_nothing(store: SqliteStore) -> None:
    store.init()
    before = store.path.stat()
    assert check_database(store.path).tables["journal"] == 3
    assert store.path.stat() == before
    assert store.problem() is None
    store.close_now()


def test_check_reports_damage(root: Path, store: SqliteStore) -> None:
    good = store.path.read_bytes()
    with contextlib.closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("UPDATE sqlite_sequence SET seq = 1 WHERE name = 'journal'")
    assert "lower numbers" in check_database(store.path).problems[0]
    with contextlib.closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("UPDATE schema_meta SET value = '99' WHERE key = 'version'")
        connection.execute("CREATE TABLE notes (vm TEXT REFERENCES vms (id))")
        connection.execute("INSERT INTO notes VALUES ('nobody')")
    problems = "\n".join(check_database(store.path).problems)
    assert "table notes: row 1 refers to a row of vms that does not exist" in problems
    assert "schema version is 99" in problems

    other = root / "other.db"
    other.write_bytes(good.replace(b"vm.created", b"vm.cre\xffted", 1)[:-4096])
    with contextlib.suppress(DatabaseDamaged):
        assert check_database(other).problems
    other.write_bytes(b"no database at all" * 500)
    with pytest.raises(DatabaseDamaged, match="cannot check"):
        check_database(other)
    with pytest.raises(InitError, match="no such file"):
        check_database(root / "nowhere.db")
    other.write_bytes(b"")
    assert "not a Nexus database" in check_database(other).problems[0]
