"""Migrations: up and down with data, atomic under kills and errors, and never without a verified backup."""

from __future__ import annotations

import contextlib
import json
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
from support.stores import contents, files_of, look_at, make_store, schema_of

from nexus.store import DiskFull, InitError
from nexus.store import migrate as migrations
from nexus.store import sqlite as sqlite_store
from nexus.store.connection import connect
from nexus.store.maintenance import check_database, database_lock, migrate_database, plan_migration
from nexus.store.migrate import Migration, available_migrations, split_statements, target_version
from nexus.store.sqlite import SqliteStore

FROZEN = Path(__file__).parents[1] / "data" / "schemas"
VERSIONS = range(1, target_version() + 1)


def frozen(version: int) -> dict[str, list[dict[str, object]]]:
    """Return the rows of the frozen database of a version."""
    rows: dict[str, list[dict[str, object]]] = json.loads((FROZEN / f"schema-v{version}.json").read_text("utf-8"))
    return rows


def thaw(root: Path, version: int) -> SqliteStore:
    """Make a store on a copy of the frozen database of a version; it is not opened yet."""
    store = make_store(root)
    store.path.parent.mkdir(exist_ok=True)
    shutil.copy(FROZEN / f"schema-v{version}.db", store.path)
    return store


def fresh_schema(root: Path, version: int) -> list[tuple[str, str, str]]:
    """Return the schema of a new database of a version."""
    store = SqliteStore(root / f"fresh{version}" / "nexus.db", root / "unused")
    store.init(target=version)
    store.close_now()
    return schema_of(store.path)


Rows = list[dict[str, object]]


REWRITTEN = {"start_window_ms"}
"""Columns whose values migration 6 changes; it has a test of its own."""


LINKS = {"conversation_id", "message_id", "metadata"}
"""Columns of jobs whose values migration 11 changes; it has a test of its own."""


def without_links(version: int, table: str, rows: Rows, *, down: bool = False) -> Rows:
    """Rows that migration 11 leaves as they are: without the links of jobs, and the numbers that it gives or takes."""
    if table == "jobs" and version == 10 + down:
        return [{name: value for name, value in row.items() if name not in LINKS} for row in rows]
    if table == "record_number" and version == 10 + down:
        return [row for row in rows if row["kind"] not in ("doc", "conversation", "conversation_source")]
    return rows


def narrowed(rows: Rows, like: Rows) -> Rows:
    """Rows with the columns of others alone, since a later schema may have more, and without rewritten columns."""
    return [{name: row[name] for name in like[0].keys() - REWRITTEN} for row in rows] if like else rows


def meta(path: Path) -> dict[str, str]:
    with look_at(path) as connection:
        return dict(connection.execute("SELECT key, value FROM schema_meta").fetchall())


def sequence(path: Path) -> int:
    with look_at(path) as connection:
        return int(connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'journal'").fetchone()[0])


def test_every_schema_version_has_a_frozen_database() -> None:
    assert all((FROZEN / f"schema-v{version}.db").exists() for version in VERSIONS)


def test_new_database_is_what_all_migrations_make(root: Path) -> None:
    """What ``schema.sql`` has. After a change of a migration: ``python tests/data/schemas/freeze.py``."""
    store = make_store(root)
    store.init()
    store.close_now()
    path = root / "by_steps.db"
    with contextlib.closing(connect(path, isolation_level=None)) as connection:
        migrations.migrate(connection, 0, target_version(), by_steps=True)

    def facts(path: Path) -> tuple[object, ...]:
        with look_at(path) as connection:
            numbers = connection.execute("SELECT name, seq FROM sqlite_sequence").fetchall()
            pragmas = [connection.execute(f"PRAGMA {name}").fetchone() for name in ("user_version", "application_id")]
        names = {key: json.loads(value)["name"] if ":" in key else value for key, value in meta(path).items()}
        return schema_of(path), contents(path), numbers, pragmas, names

    assert facts(store.path) == facts(path)
    assert check_database(store.path).problems == []
    times = {json.loads(value)["applied_at"] for key, value in meta(store.path).items() if ":" in key}
    assert len(times) == 1
    assert abs(times.pop() / 1000 - time.time()) < 3600


@pytest.mark.parametrize("version", VERSIONS)
def test_frozen_database_migrates_with_every_row(root: Path, version: int) -> None:
    store = thaw(root, version)
    store.init()
    assert store.status().schema_version == target_version()
    store.close_now()
    assert schema_of(store.path) == fresh_schema(root, target_version())
    rows = contents(store.path)
    barriers = [row for row in rows["journal"] if row["kind"] == "schema.migrated"]
    assert [row["detail"] for row in barriers] == (
        [] if version == target_version() else [f'{{"from": {version}, "to": {target_version()}}}']
    )
    rows["journal"] = [row for row in rows["journal"] if row not in barriers]
    for table, expected in frozen(version).items():
        like = without_links(version, table, expected)
        there = rows[table] if version > 10 else [row for row in rows[table] if row.get("kind") != "doc"]
        assert narrowed(there, like) == narrowed(like, like)
    assert check_database(store.path).problems == []
    copies = list(store.backup_directory.glob(f"nexus-before-v{target_version()}-*.db"))
    if version == target_version():
        assert not copies
    else:
        assert contents(copies[0]) == frozen(version)


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_migration_down_and_up_keeps_the_schema_and_older_rows(root: Path, version: int) -> None:
    store = thaw(root, version)
    assert migrate_database(store.path, store.backup_directory, version - 1) == (version, version - 1)
    assert schema_of(store.path) == fresh_schema(root, version - 1)
    older = contents(store.path)
    kept = {table: narrowed(rows, older[table]) for table, rows in frozen(version).items() if table in older}
    if version == 10:  # its tags go with its records
        kept["tag"] = [row for row in kept["tag"] if row["kind"] not in ("job", "schedule")]
    if version == 11:
        kept["tag"] = [row for row in kept["tag"] if row["kind"] != "conversation"]
        kept["record_number"] = without_links(version, "record_number", kept["record_number"], down=True)
    if version == 13:
        kept["tag"] = [row for row in kept["tag"] if row["kind"] not in ("feature", "task")]
    if version == 14:
        kept["tag"] = [row for row in kept["tag"] if row["kind"] != "episode"]
    # Migration 9 moves settings to projects; it has tests of its own.
    moved = [row for row in older["settings"] if str(row["key"]).startswith("apply.")]
    assert bool(moved) == (version == 9)
    there = {**older, "settings": [row for row in older["settings"] if row not in moved]}
    assert {table: narrowed(rows, rows) for table, rows in there.items()} == kept
    assert f"migration:{version:04d}" not in meta(store.path)
    assert migrate_database(store.path, store.backup_directory, version) == (version - 1, version)
    assert schema_of(store.path) == fresh_schema(root, version)
    again = contents(store.path)
    if version >= 8:
        assert again["journal"].pop()["kind"] == "schema.migrated"
    if version == 11:  # what jobs name moves to their metadata, and the numbers of the search are given again
        kept, again = (
            {table: without_links(10, table, rows) for table, rows in each.items()} for each in (kept, again)
        )
    assert {table: narrowed(again[table], rows) for table, rows in kept.items()} == kept
    assert meta(store.path)["version"] == str(version)
    back, forward = (next(store.backup_directory.glob(f"nexus-before-v{v}-*.db")) for v in (version - 1, version))
    assert contents(back) == frozen(version), "the backup holds the rows that the downgrade drops"
    assert contents(forward) == older


def test_migration_down_to_version_1_and_up_again(root: Path) -> None:
    store = thaw(root, 3)
    migrate_database(store.path, store.backup_directory, 1)
    assert contents(store.path) == {"settings": frozen(3)["settings"]}
    store.init()
    store.close_now()
    assert schema_of(store.path) == fresh_schema(root, target_version())
    assert contents(store.path)["settings"] == frozen(3)["settings"]


def test_event_numbers_continue_when_the_journal_is_recreated(root: Path) -> None:
    store = thaw(root, 3)
    last_seq = sequence(store.path)
    assert last_seq == 7
    for _ in range(2):  # twice: the second time no event was written in between
        migrate_database(store.path, store.backup_directory, 2)
        assert meta(store.path)["journal_seq"] == "7"
        assert "journal_pruned_seq" not in meta(store.path)
        migrate_database(store.path, store.backup_directory, 3)
        assert sequence(store.path) == 7
        assert meta(store.path)["journal_pruned_seq"] == "7", "a cursor into the dropped events counts as pruned"
        assert "journal_seq" not in meta(store.path)
    store.init()
    assert (
        store._write_connection.execute(
            "INSERT INTO journal (at, kind, subject_kind, subject_id, uid, pid) VALUES (1, 'a.b', 'c', 'd', 0, 1)"
        ).lastrowid
        == 9
    ), "8 tells the migration"
    store.close_now()


def test_migration_5_leases_the_ports_in_use_and_gives_up_an_idle_tunnels_port(root: Path) -> None:
    store = thaw(root, 4)
    with contextlib.closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("UPDATE service SET status = 'starting', active_port = 40002 WHERE name = 'api'")
        # Edge 3 is down and kept a port that a service has leased since; edge 2 is up.
        connection.execute("UPDATE service_dependency SET tunnel_port = 40002 WHERE id = 3")
        connection.execute("UPDATE service SET status = 'running', reason = 'lost \"db\": x' WHERE name = 'seed.job'")
        connection.execute(
            "UPDATE service SET status = 'stopping', "
            "reason = 'its files were deleted: what is left of it is being ended' WHERE name = 'db'"
        )
    store.init()
    store.close_now()
    rows = contents(store.path)
    leases = {(row["port"], row["owner_kind"], row["owner"], row["purpose"]) for row in rows["port_lease"]}
    ids = {row["name"]: row["id"] for row in rows["service"]}
    assert leases == {
        (35001, "service", ids["db"], "run"),
        (40002, "service", ids["api"], "run"),
        (40001, "dependency", "2", "tunnel"),
    }
    assert [row["tunnel_port"] for row in rows["service_dependency"]] == [40001, None]
    codes = {row["name"]: row["reason_code"] for row in rows["service"]}
    assert codes == {"db": "files_deleted", "api": None, "seed.job": "dependency_lost"}


def test_migration_6_raises_the_start_window_of_what_no_project_file_made(root: Path) -> None:
    store = thaw(root, 5)
    with contextlib.closing(sqlite3.connect(store.path)) as connection, connection:
        ids = dict(connection.execute("SELECT name, id FROM service"))
        connection.execute("UPDATE service SET start_window_ms = 700 WHERE name = 'seed.job'")
        ownership = json.dumps([f"s:{ids['api']}"])
        connection.execute("INSERT INTO settings VALUES ('apply.shop', ?, 'json')", (ownership,))
    store.init()
    store.close_now()
    windows = {row["name"]: row["start_window_ms"] for row in contents(store.path)["service"]}
    assert windows == {"db": 1000, "api": 250, "seed.job": 700}


@pytest.mark.parametrize("target", [0, -1, target_version() + 1])
def test_migration_to_an_unknown_version_is_refused(root: Path, target: int) -> None:
    store = thaw(root, 3)
    before = files_of(store.path.parent)
    with pytest.raises(InitError, match=f"the versions are 1 to {target_version()}"):
        migrate_database(store.path, store.backup_directory, target)
    assert files_of(store.path.parent) == before


def test_migration_is_refused_while_the_database_is_in_use(root: Path) -> None:
    store = thaw(root, 3)
    with database_lock(store.path):
        before = files_of(store.path.parent)
        with pytest.raises(FailedPrecondition, match=f"while the daemon runs \\(pid {os.getpid()}\\)"):
            migrate_database(store.path, store.backup_directory, 2)
        assert files_of(store.path.parent) == before
    migrate_database(store.path, store.backup_directory, 2)


def test_failed_migration_leaves_version_and_schema_unchanged(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Migration(
        4,
        "bad",
        ("CREATE TABLE extra (a)", "INSERT INTO settings VALUES ('x', '1', 'int')", "INSERT INTO none VALUES (1)"),
        (),
    )
    good = available_migrations()[:3]
    monkeypatch.setattr(migrations, "available_migrations", lambda: [*good, bad])
    monkeypatch.setattr(sqlite_store, "target_version", lambda: 4)
    store = thaw(root, 2)
    with pytest.raises(InitError, match=r"migration 4 \(bad\)"):
        store.init()
    # The migration before the bad one has its own transaction, and stays applied.
    assert meta(store.path)["version"] == "3"
    assert schema_of(store.path) == fresh_schema(root, 3)
    assert contents(store.path)["settings"] == frozen(2)["settings"]
    assert len(list(store.backup_directory.glob("nexus-before-v4-*.db"))) == 1


def test_migration_that_breaks_a_foreign_key_is_rolled_back(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Migration(4, "bad", (
        "CREATE TABLE notes (vm TEXT REFERENCES vms (id))",
        "PRAGMA defer_foreign_keys = ON",
        "INSERT INTO notes SELECT id FROM vms",
        "DELETE FROM vms WHERE name = 'web'",
    ), ())  # fmt: skip
    good = available_migrations()[:3]
    monkeypatch.setattr(migrations, "available_migrations", lambda: [*good, bad])
    monkeypatch.setattr(sqlite_store, "target_version", lambda: 4)
    store = thaw(root, 3)
    with pytest.raises(InitError, match="refer to rows that do not exist"):
        store.init()
    assert meta(store.path)["version"] == "3"
    assert contents(store.path) == frozen(3)


_KILLED = """
import os, signal, sqlite3, sys
from pathlib import Path
from nexus.store import migrate

path, current, target, fatal = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
connection = sqlite3.connect(path, isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL")
seen = []
def trace(statement):
    seen.append(statement)
    if len(seen) == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
connection.set_trace_callback(trace)
migrate.migrate(connection, current, target)
"""


@pytest.mark.parametrize(("current", "target"), [(1, 2), (2, 3), (3, 4), (4, 3), (3, 2), (2, 1)])
def test_kill_at_any_statement_leaves_the_schema_before_or_after_the_migration(
    root: Path, current: int, target: int
) -> None:
    schemas = {version: fresh_schema(root, version) for version in (current, target)}
    versions = []
    fatal = 0
    while True:
        fatal += 1
        path = root / f"killed{fatal}.db"
        shutil.copy(FROZEN / f"schema-v{current}.db", path)
        code = subprocess.run(
            [sys.executable, "-c", _KILLED, path, str(current), str(target), str(fatal)], check=False
        ).returncode
        version = int(meta(path)["version"])
        versions.append(version)
        assert schema_of(path) == schemas[version]
        assert check_database(path).problems == []
        rows = contents(path)
        assert all(rows[table] == expected for table, expected in frozen(current).items() if table in rows)
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert fatal > 4, "it was killed at several statements"
    assert versions[-1] == target
    assert sorted(versions, key=[current, target].index) == versions, "the version changes once, at the commit"


def test_kill_at_any_time_leaves_a_new_database_without_a_schema_or_whole(root: Path) -> None:
    found = []
    for fatal in (1, 2, 3, 40, 90, 130, 160, 180, 1000):
        path = root / f"killed{fatal}.db"
        command = [sys.executable, "-c", _KILLED, path, "0", str(target_version()), str(fatal)]
        code = subprocess.run(command, check=False).returncode
        assert code == (0 if fatal == 1000 else -signal.SIGKILL)
        found.append(schema_of(path))
    assert found == [[]] * 8 + [fresh_schema(root, target_version())]


def refused_migration(store: SqliteStore, match: str) -> None:
    """Check that a migration without a backup does not start and leaves the database unchanged."""
    before = store.path.read_bytes()
    with pytest.raises((InitError, DiskFull), match=match) as caught:
        store.init()
    assert caught.value.hint
    assert store.path.read_bytes() == before
    assert meta(store.path)["version"] == "2"


def test_migration_is_refused_without_a_backup_folder(root: Path) -> None:
    store = thaw(root, 2)
    store.backup_directory.write_text("a file is in its place")
    refused_migration(store, "it cannot be backed up first")


def test_migration_is_refused_without_disk_space_for_the_backup(root: Path) -> None:
    def scenario(disk: Path) -> None:
        store = thaw(root, 2)
        store = SqliteStore(store.path, disk / "backups")
        store.backup_directory.mkdir()
        filler = fill(disk, leave_kib=8)
        refused_migration(store, "it cannot be backed up first")
        assert list(store.backup_directory.iterdir()) == []
        filler.unlink()
        store.init()
        assert store.status().schema_version == target_version()
        store.close_now()

    on_small_disk(root / "disk", 512, scenario)


def test_migration_is_refused_when_the_backup_is_damaged(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nexus.store import backup

    def truncate(source: Path, partial: Path) -> None:
        partial.write_bytes(source.read_bytes()[:-4096])

    monkeypatch.setattr(backup, "_copy", truncate)
    store = thaw(root, 2)
    before = store.path.read_bytes()
    with pytest.raises(InitError, match=r"damaged|it cannot be backed up first"):
        store.init()
    assert store.path.read_bytes() == before
    assert list(store.backup_directory.iterdir()) == []


def test_split_statements_follows_sqlite_complete_statement() -> None:
    script = (
        "-- a comment; with a semicolon\n\nCREATE TABLE a (\n  b TEXT DEFAULT ';' -- not here;\n);\n"
        "CREATE TRIGGER t AFTER INSERT ON a BEGIN\n  DELETE FROM a;\n  SELECT 1;\nEND;\n"
    )
    parts = split_statements(script)
    assert len(parts) == 2
    connection = sqlite3.connect(":memory:")
    for part in parts:
        connection.execute(part)
    connection.close()
    with pytest.raises(InitError, match="not finished"):
        split_statements("CREATE TABLE a (b)")


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (("0001_a.sql", "0003_b.sql"), "number 2 is missing"),
        (("0001_a.sql", "0001_b.sql"), "1 repeats"),
        (("0002_a.sql",), "number 1 is missing"),
    ],
)
def test_missing_or_repeated_migration_numbers_are_refused(root: Path, names: tuple[str, ...], match: str) -> None:
    for name in names:
        (root / name).write_text("-- migrate: up\nSELECT 1;\n-- migrate: down\n")
    with pytest.raises(InitError, match=match):
        available_migrations(root)


@pytest.mark.parametrize("text", ["SELECT 1;\n", "-- migrate: up\nSELECT 1;\n", "-- migrate: up\n-- migrate: down\n"])
def test_migration_file_without_both_parts_is_refused(root: Path, text: str) -> None:
    (root / "0001_a.sql").write_text(text)
    with pytest.raises(InitError, match="an up part and a down part"):
        available_migrations(root)


def test_queries_that_refuse_to_revert_are_valid_on_every_later_schema() -> None:
    for migration in available_migrations():
        for version in range(migration.version, target_version() + 1):
            with look_at(FROZEN / f"schema-v{version}.db") as connection:
                for query in migration.refuse_down:
                    assert connection.execute(query).fetchall() == []


def test_refusal_of_any_step_is_found_before_the_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = available_migrations()
    refusing = steps[1]._replace(refuse_down=("SELECT 'VM ' || name || ' is there' FROM vms ORDER BY name LIMIT 2",))
    monkeypatch.setattr(migrations, "available_migrations", lambda: [steps[0], refusing, *steps[2:]])
    store = thaw(root, 3)
    before = store.path.read_bytes()
    for attempt in (plan_migration, lambda path, target: migrate_database(path, store.backup_directory, target)):
        with pytest.raises(InitError, match=r"revert migration 2 \(vms\): VM db.old is there; VM gate is there$"):
            attempt(store.path, 1)
        assert files_of(store.path.parent).keys() <= {"nexus.db", "nexus.db.lock"}
        assert store.path.read_bytes() == before
        assert not store.backup_directory.exists()
    migrate_database(store.path, store.backup_directory, 2)


def test_migration_is_recorded_with_name_and_time(root: Path) -> None:
    store = thaw(root, 2)
    old = store.path.stat().st_mtime * 1000
    store.init()
    recorded = {step.version: step for step in store.status().migrations}
    store.close_now()
    assert recorded[3].name == "journal"
    assert recorded[3].applied_at is not None
    assert recorded[3].applied_at >= int(old)


def dependency_sequence(path: Path) -> int:
    with look_at(path) as connection:
        (seq,) = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'service_dependency'").fetchone()
        return int(seq)


def test_services_of_schema_4_survive_the_way_to_the_newest_and_back(root: Path) -> None:
    store = thaw(root, 4)
    with contextlib.closing(sqlite3.connect(store.path)) as connection:
        # Two tags of one service are the same, and the last dependency was removed: its id must not be used again.
        connection.execute("""UPDATE service SET tags = '["b","a","b"]' WHERE name = 'api'""")
        connection.execute("UPDATE sqlite_sequence SET seq = 9 WHERE name = 'service_dependency'")
        connection.commit()
    before = contents(store.path)
    store.init()
    store.close_now()
    newest = contents(store.path)
    assert {(row["kind"], row["record_id"], row["tag"]) for row in newest["tag"]} == {
        ("service", row["id"], tag) for row in before["service"] for tag in json.loads(str(row["tags"]))
    }
    assert {(row["revision"], row["state_revision"]) for row in (*newest["service"], *newest["vms"])} == {(1, 0)}
    assert dependency_sequence(store.path) == 9
    assert migrate_database(store.path, store.backup_directory, 4) == (target_version(), 4)
    after = contents(store.path)
    for row in (*before["service"], *after["service"]):
        row.pop("start_window_ms")  # raised for good by migration 6
    assert after == before
    assert schema_of(store.path) == fresh_schema(root, 4)
    assert dependency_sequence(store.path) == 9


def test_migration_11_keeps_what_jobs_name_in_their_metadata(root: Path) -> None:
    store = thaw(root, 10)
    store.init()
    store.close_now()
    rows = contents(store.path)
    before = {job["id"]: job for job in frozen(10)["jobs"]}
    for job in rows["jobs"]:
        old = before[job["id"]]
        names = {name: old[name] for name in ("conversation_id", "message_id") if old[name] is not None}
        assert (job["conversation_id"], job["message_id"]) == (None, None)
        assert json.loads(str(job["metadata"])) == {**json.loads(str(old["metadata"])), **names}
    assert any("conversation_id" in str(job["metadata"]) for job in rows["jobs"])
    docs = [row["doc"] for table in ("jobs", "service", "vms") for row in rows[table]]
    assert sorted(docs) == list(range(1, len(docs) + 1)), "each number is given once over all tables"
    assert {"project_id": "", "kind": "doc", "last": len(docs)} in rows["record_number"]
