"""Opening the store: what it creates, what it accepts, and what it refuses without changing it."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.faults import as_ordinary_user, make_read_only, on_small_disk
from support.stores import contents, files_of, look_at, make_store, schema_of

from nexus.store import DatabaseDamaged, InitError, SchemaMismatch
from nexus.store.connection import connect
from nexus.store.migrate import target_version
from nexus.store.sqlite import SqliteStore

TABLES = [
    "agents",
    "blobs",
    "checkpoints",
    "chunk_symbol",
    "code_chunks",
    "continue_points",
    "conversation_origins",
    "conversation_sources",
    "conversations",
    "episodes",
    "features",
    "fence",
    "job_after",
    "job_group",
    "jobs",
    "journal",
    "kept_embedding",
    "lease",
    "message_parts",
    "message_revision",
    "messages",
    "metrics",
    "nodes",
    "operation",
    "port_lease",
    "projects",
    "record_number",
    "request_key",
    "requirement_feature",
    "requirements",
    "schedules",
    "schema_meta",
    "secret_value",
    "service",
    "service_config",
    "service_dependency",
    "sessions",
    "settings",
    "sub_features",
    "tag",
    "task_comment",
    "task_dependency",
    "task_note",
    "tasks",
    "vector_change",
    "vector_collection",
    "vms",
]


@pytest.fixture
def store(root: Path) -> Iterator[SqliteStore]:
    """A store that is not opened yet."""
    store = make_store(root)
    yield store
    store.close_now()


def opened_once(store: SqliteStore) -> Path:
    """Create an intact database and close it; returns its path."""
    store.init()
    store.close_now()
    return store.path


def change(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def make_hot(path: Path, *statements: str) -> None:
    """Leave the database as a killed process does: with the changes in the log alone."""
    copy = path.with_name("copy")
    with contextlib.closing(connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        with connection:
            for statement in statements:
                connection.execute(statement)
        # Copies both files while no other connection writes to them.
        shutil.copy(path, copy)
        shutil.copy(f"{path}-wal", f"{copy}-wal")
    copy.rename(path)
    Path(f"{copy}-wal").rename(f"{path}-wal")
    assert Path(f"{path}-wal").stat().st_size


def refusal(store: SqliteStore, kind: type[InitError]) -> InitError:
    """Check that opening fails with exactly this class of error and changes no file; returns the error."""
    before = files_of(store.path.parent)
    with pytest.raises(InitError) as caught:
        store.init()
    assert type(caught.value) is kind
    assert caught.value.message.startswith("cannot ")
    after = files_of(store.path.parent)
    for files in (before, after):
        files.pop("nexus.db-shm", None)  # a lock table, recreated whenever a log is read
    if not after.get("nexus.db-wal"):
        after.pop("nexus.db-wal", None)  # an empty log, left by the connection of a backup
        before.pop("nexus.db-wal", None)
    assert after == before
    return caught.value


def test_new_store_has_all_tables_and_reports_them(store: SqliteStore) -> None:
    store.init()
    status = store.status()
    assert status.tables == TABLES
    assert status.table_count == len(TABLES)
    assert status.path == str(store.path)
    assert status.size_bytes == store.path.stat().st_size > 0
    assert status.schema_version == target_version()
    assert (status.journal_mode, status.foreign_keys) == ("wal", True)
    assert [(step.version, step.name) for step in status.migrations][:3] == [
        (1, "settings"),
        (2, "vms"),
        (3, "journal"),
    ]
    assert all(step.applied_at for step in status.migrations)


def test_second_init_changes_no_file(store: SqliteStore) -> None:
    path = opened_once(store)
    before = files_of(path.parent)
    store.init()
    first = store.status()
    store.close_now()
    assert files_of(path.parent) == before
    assert not store.backup_directory.exists()
    assert first.schema_version == target_version()


def test_connections_have_the_required_pragmas(store: SqliteStore) -> None:
    store.init()

    def pragma(connection: sqlite3.Connection | None, name: str) -> object:
        assert connection is not None
        return connection.execute(f"PRAGMA {name}").fetchone()[0]

    assert pragma(store._write_connection, "journal_mode") == "wal"
    assert pragma(store._write_connection, "synchronous") == 2  # FULL
    assert pragma(store._write_connection, "foreign_keys") == 1
    assert pragma(store._read_connection, "query_only") == 1


def test_files_and_new_folders_are_private_whatever_the_umask(store: SqliteStore) -> None:
    old = os.umask(0)
    try:
        store.init()
        info = store.backup_now()
        assert os.umask(0) == 0, "the umask of the process is restored"
    finally:
        os.umask(old)
    for path in (store.path, Path(f"{store.path}-wal"), Path(f"{store.path}-shm"), Path(info.path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for directory in (store.path.parent, store.backup_directory):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700, directory


def test_empty_file_becomes_a_new_store(store: SqliteStore) -> None:
    store.path.parent.mkdir()
    store.path.touch()
    store.init()
    assert store.status().table_count == len(TABLES)


def test_newer_database_is_refused_and_not_changed(store: SqliteStore) -> None:
    path = opened_once(store)
    change(path, f"UPDATE schema_meta SET value = '{target_version() + 1}' WHERE key = 'version'")
    error = refusal(store, SchemaMismatch)
    assert isinstance(error, SchemaMismatch)
    assert (error.expected, error.found) == (target_version(), target_version() + 1)
    assert sorted(files_of(path.parent)) == ["nexus.db"], "no new files beside it"


@pytest.mark.parametrize("version", ["1234567890123", "9" * 30])
def test_version_with_many_digits_counts_as_newer(store: SqliteStore, version: str) -> None:
    path = opened_once(store)
    change(path, f"UPDATE schema_meta SET value = '{version}' WHERE key = 'version'")
    refusal(store, SchemaMismatch)


def test_newer_version_in_the_log_alone_is_refused_and_the_log_kept(store: SqliteStore) -> None:
    path = opened_once(store)
    make_hot(
        path, "UPDATE schema_meta SET value = '99' WHERE key = 'version'", "INSERT INTO settings VALUES (1, 2, 'int')"
    )
    with look_at(path) as connection:
        assert connection.execute("SELECT value FROM schema_meta WHERE key = 'version'").fetchone() == ("99",)
    error = refusal(store, SchemaMismatch)
    assert error.details["found"] == 99


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE notes (text)",
        "CREATE TABLE schema_meta (version)",
        "CREATE VIEW schema_meta AS SELECT 1 AS version",
    ],
)
def test_database_of_another_program_is_refused_and_not_changed(store: SqliteStore, statement: str) -> None:
    store.path.parent.mkdir()
    change(store.path, "CREATE TABLE other (x)", statement, "INSERT INTO other VALUES (1)")
    error = refusal(store, SchemaMismatch)
    assert "not a Nexus database" in error.message
    assert error.details["found"] is None


@pytest.mark.parametrize("version", ["0", "-1", "", "two", "²", "3.0", "x" * 50])
def test_database_with_an_invalid_version_is_set_aside(
    store: SqliteStore, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = opened_once(store)
    change(path, "INSERT INTO settings VALUES ('kept', '1', 'int')")
    change(path, f"UPDATE schema_meta SET value = '{version}' WHERE key = 'version'")
    make_hot(path, "INSERT INTO settings VALUES ('in the log', '1', 'int')")
    with caplog.at_level(logging.WARNING, "nexus.store"):
        store.init()
    (aside,) = path.parent.glob("nexus.db.set-aside-*Z")
    assert "schema version mismatch" in caplog.text
    assert aside.name in caplog.text
    assert {row["key"] for row in contents(aside)["settings"]} == {"kept", "in the log"}
    assert store.status().schema_version == target_version()
    assert store.read(lambda reader: reader.all("SELECT * FROM settings")) == []


def test_write_ahead_log_without_a_database_is_kept(store: SqliteStore, caplog: pytest.LogCaptureFixture) -> None:
    path = opened_once(store)
    make_hot(path, "INSERT INTO settings VALUES ('kept', '1', 'int')")
    log = Path(f"{path}-wal").read_bytes()
    path.unlink()
    with caplog.at_level(logging.WARNING, "nexus.store"):
        store.init()
    (aside,) = path.parent.glob("nexus.db.set-aside-*-wal")
    assert aside.read_bytes() == log
    assert "its write-ahead log is not" in caplog.text


def test_directory_at_the_database_path_is_refused(store: SqliteStore) -> None:
    store.path.mkdir(parents=True)
    assert "it is a directory" in refusal(store, InitError).message


def test_fifo_at_the_database_path_is_refused(store: SqliteStore) -> None:
    store.path.parent.mkdir()
    os.mkfifo(store.path)
    assert "not a regular file" in refusal(store, InitError).message


def damaged_header(path: Path) -> None:
    path.write_bytes(b"No database at all, but as long as one.\n" * 400)


def damaged_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:-1024] = b"\xa5" * (len(data) - 4096 - 1024)
    path.write_bytes(data)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: 4096 * 3 + 100])


def truncated_within_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize("damage", [damaged_header, damaged_middle, truncated, truncated_within_the_header])
@pytest.mark.parametrize("mode", ["wal", "delete", "hot"])
def test_damaged_file_is_refused_and_not_changed(store: SqliteStore, damage: object, mode: str) -> None:
    assert callable(damage)
    path = opened_once(store)
    rows = [f"INSERT INTO settings VALUES ('k{i}', hex(zeroblob(500)), 'string')" for i in range(100)]
    change(path, *rows)
    if mode == "hot":
        # Only these pages are in the log: the others must come from the damaged file.
        make_hot(path, "INSERT INTO vms (id, name, role, state, cid) VALUES ('i', 'n', 'work', 'created', 3)")
    elif mode == "delete":
        change(path, "PRAGMA journal_mode = DELETE")
    damage(path)
    error = refusal(store, DatabaseDamaged)
    assert "it was not changed" in error.message
    assert "nexusctl db restore" in (error.hint or "")


def test_damage_found_by_the_backup_before_a_migration_raises_damaged(store: SqliteStore) -> None:
    store.init(target=1)
    store.close_now()
    change(store.path, "INSERT INTO settings VALUES ('marker', '1', 'int')")
    # The row and its index entry differ now, which quick_check does not detect and integrity_check does.
    before, _, after = store.path.read_bytes().rpartition(b"marker")
    store.path.write_bytes(before + b"market" + after)
    refusal(store, DatabaseDamaged)


def test_hot_rollback_journal_is_rolled_back_on_open(store: SqliteStore) -> None:
    path = opened_once(store)
    change(path, "PRAGMA journal_mode = DELETE")
    script = (
        "import sqlite3, os, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA cache_size = 1'); c.execute('BEGIN IMMEDIATE')\n"
        "for i in range(50): c.execute(f\"INSERT INTO settings VALUES ('{i}', hex(zeroblob(2000)), 'string')\")\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, path], check=False).returncode == -9
    assert Path(f"{path}-journal").stat().st_size
    store.init()
    assert store.read(lambda reader: reader.all("SELECT * FROM settings")) == []


def test_file_or_folder_without_permission_is_refused(root: Path) -> None:
    def scenario() -> None:
        store = make_store(root)
        path = opened_once(store)
        path.chmod(0o400)
        assert "is not writable" in refusal(store, InitError).message
        path.chmod(0o000)
        before = path.stat()
        with pytest.raises(InitError, match="is not writable"):
            store.init()
        assert path.stat() == before
        path.chmod(0o600)
        path.parent.chmod(0o500)
        assert "is not writable" in refusal(store, InitError).message
        path.parent.chmod(0o700)

    as_ordinary_user(root, scenario)


@pytest.mark.parametrize("mode", ["wal", "delete", "hot"])
def test_read_only_file_system_is_refused(root: Path, mode: str) -> None:
    def scenario(disk: Path) -> None:
        store = make_store(disk)
        path = opened_once(store)
        if mode == "hot":
            make_hot(path, "INSERT INTO settings VALUES ('a', '1', 'int')")
        elif mode == "delete":
            change(path, "PRAGMA journal_mode = DELETE")
        make_read_only(disk)
        assert "is not writable" in refusal(store, InitError).message

    on_small_disk(root / "disk", 4 * 1024, scenario)


def test_parent_directory_that_cannot_be_created_is_refused(root: Path) -> None:
    (root / "file").touch()
    store = SqliteStore(root / "file" / "nexus.db", root / "backups")
    with pytest.raises(InitError, match=r"cannot (create directory|open database)"):
        store.init()


def test_database_locked_by_another_process_is_refused(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    path = opened_once(store)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **(k | {"timeout": 0.05})))
    with contextlib.closing(connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InitError, match="another process has locked it"):
            store.init()
    store.init()


def test_symbolic_link_is_followed_and_the_log_is_beside_the_real_file(root: Path, store: SqliteStore) -> None:
    elsewhere = root / "disk" / "real.db"
    elsewhere.parent.mkdir()
    store.path.parent.mkdir()
    store.path.symlink_to(elsewhere)
    linked = SqliteStore(root / "state" / "nexus.db", root / "backups")
    linked.init()
    assert Path(f"{elsewhere}-wal").exists()
    assert linked.problem() is None
    linked.close_now()
    assert schema_of(elsewhere)
