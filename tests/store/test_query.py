"""``query``: statements that read are answered from a database in use, all others are refused and change nothing."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nexus_protocol.errors import DeadlineExceeded, InvalidArgument
from support.stores import files_of, make_store

from nexus.daemon.dispatch import load_capabilities
from nexus.journal.rows import journaled_tables
from nexus.store import DatabaseDamaged, InitError
from nexus.store.query import SECRET_COLUMNS, Answer, QueryRefused, query
from nexus.store.sqlite import SqliteStore

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"

SHOWN = {
    ("conversation_sources", "skipped"),
    ("conversation_sources", "state"),
    ("episodes", "content"),
    ("episodes", "context"),
    ("episodes", "embedding"),
    ("jobs", "argv"),
    ("jobs", "command"),
    ("jobs", "metadata"),
    ("schedules", "argv"),
    ("schedules", "command"),
    ("service", "health_exec"),
    ("service_config", "run_command"),
    ("sessions", "data"),
    ("settings", "value"),
}
"""Columns that the journal does not record, since people may write a secret into them, and that records show."""


@pytest.fixture
def store(root: Path) -> SqliteStore:
    """An open store with three settings."""
    store = make_store(root)
    store.init()
    for number in range(3):
        store._write_connection.execute("INSERT INTO settings VALUES (?, ?, 'int')", (f"k{number}", str(number)))
    return store


def ask(store: SqliteStore, statement: str, limit: int = 100, timeout_s: float = 30) -> Answer:
    return query(store.path, statement, limit=limit, timeout_s=timeout_s)


def test_query_reads_what_is_in_the_log_of_a_running_writer(store: SqliteStore) -> None:
    answer = ask(store, "SELECT key, CAST(value AS INTEGER) AS value, value FROM settings ORDER BY key;")
    assert answer == Answer(
        ["key", "value", "value_2"], [("k0", 0, "0"), ("k1", 1, "1"), ("k2", 2, "2")], more=False, secret=[]
    )
    assert ask(store, "SELECT key FROM settings ORDER BY key", limit=2) == Answer(["key"], [("k0",), ("k1",)], True, [])
    assert ask(store, "EXPLAIN QUERY PLAN SELECT * FROM settings").rows
    assert ask(store, "PRAGMA table_info(settings)").rows[0][1] == "key"
    assert ask(store, "SELECT name FROM pragma_table_info('settings')").rows[0] == ("key",)
    assert ask(store, "SELECT value FROM json_each('[7]')").rows == [(7,)]
    assert ask(store, "VALUES (1, NULL)").rows == [(1, None)]
    store.close_now()
    assert ask(store, "SELECT count(*) FROM settings").rows == [(3,)]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO settings VALUES ('x', '1', 'int')",
        "UPDATE settings SET value = '2'",
        "DELETE FROM settings RETURNING key",
        "WITH x AS (SELECT 1) DELETE FROM settings",
        "REPLACE INTO settings VALUES ('x', '1', 'int')",
        "CREATE TABLE t (a)",
        "CREATE TEMP TABLE t (a)",
        "CREATE TEMP VIEW v AS SELECT 1",
        "DROP TABLE settings",
        "UPDATE sqlite_master SET sql = ''",
        "DELETE FROM sqlite_master",
        "ALTER TABLE settings ADD COLUMN x",
        "ATTACH 'other.db' AS other",
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "VACUUM",
        "VACUUM INTO 'copy.db'",
        "REINDEX",
        "ANALYZE",
        "BEGIN",
        "BEGIN IMMEDIATE",
        "COMMIT",
        "SAVEPOINT x",
        "PRAGMA query_only = OFF",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA journal_mode(DELETE)",
        "PRAGMA user_version = 7",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "PRAGMA optimize",
        "PRAGMA temp_store_directory = '/tmp'",
        "PRAGMA writable_schema = ON",
        "SELECT load_extension('/tmp/x.so')",
        "SELECT * FROM sqlite_dbpage",
        "EXPLAIN DELETE FROM settings",
    ],
)
def test_statement_that_does_more_than_read_is_refused_and_changes_nothing(
    store: SqliteStore, root: Path, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(QueryRefused, match=r"^cannot run the statement: ") as refused:
        ask(store, statement)
    assert isinstance(refused.value, InvalidArgument)
    assert [path.name for path in root.iterdir()] == ["state"]
    assert len(ask(store, "SELECT * FROM settings").rows) == 3
    store.close_now()


@pytest.mark.parametrize("statement", ["", "  ", "-- nothing", "SELECT", "SELECT 1; SELECT 2", "x\0y", "SELECT ?"])
def test_statement_that_is_none_is_refused_with_a_sentence(store: SqliteStore, statement: str) -> None:
    with pytest.raises(QueryRefused, match=r"^cannot run the statement: "):
        ask(store, statement)
    store.close_now()


def test_secret_columns_read_as_null_however_they_are_asked_for(store: SqliteStore) -> None:
    store._write_connection.execute("INSERT INTO secret_value VALUES (x'01', 'hunter2', 1)")
    for statement in (
        "SELECT value FROM secret_value",
        "SELECT secret_value.value FROM secret_value",
        'SELECT "VALUE" FROM Secret_Value AS s',
        "SELECT hex(value) || 'x' FROM secret_value",
        "SELECT (SELECT value FROM secret_value)",
        "SELECT v FROM (SELECT value AS v FROM secret_value)",
        "WITH s AS (SELECT * FROM secret_value) SELECT value FROM s",
        "SELECT max(value) FROM secret_value",
        "SELECT group_concat(value) FROM secret_value",
        "SELECT json_object('v', value) FROM secret_value",
    ):
        answer = ask(store, statement)
        assert "hunter2" not in repr(answer), statement
        assert answer.secret in (["secret_value.value"], ["Secret_Value.VALUE"]), statement
        assert b"hunter2".hex() not in repr(answer).lower()
    assert ask(store, "SELECT 1 FROM secret_value WHERE value LIKE 'h%'").rows == []
    assert ask(store, "SELECT * FROM secret_value").rows == [(b"\x01", None, 1)]
    store.close_now()


def test_secret_columns_are_those_that_the_records_declare(store: SqliteStore) -> None:
    load_capabilities()
    declared = set()
    for name, rows in journaled_tables().items():
        for column in rows.secret:
            table, _dot, plain = column.rpartition(".")
            declared.add((table or name, plain))
    assert declared - SHOWN == SECRET_COLUMNS - {("secret_value", "value")}
    assert declared >= SHOWN
    for table, column in SECRET_COLUMNS:
        assert column in {row[1] for row in ask(store, f"PRAGMA table_info({table})").rows}
    store.close_now()


def test_endless_statement_ends_at_its_time_limit(store: SqliteStore) -> None:
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"within 0\.2 s"):
        ask(store, ENDLESS, timeout_s=0.2)
    assert time.monotonic() - began < 20
    store.close_now()


def test_interrupt_ends_an_endless_statement(store: SqliteStore) -> None:
    script = (
        "import os, signal, sys, threading\nfrom pathlib import Path\nfrom nexus.store.query import query\n"
        "threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        f"query(Path(sys.argv[1]), {ENDLESS!r}, limit=1, timeout_s=60)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, store.path], capture_output=True, text=True, timeout=50)
    assert done.returncode != 0
    assert "Cancelled: cannot run the statement: it was interrupted" in done.stderr
    store.close_now()


def test_query_leaves_no_trace_beside_a_database_that_is_not_in_use(store: SqliteStore) -> None:
    store.close_now()
    before = files_of(store.path.parent)
    ask(store, "SELECT count(*) FROM settings")
    after = {name: data for name, data in files_of(store.path.parent).items() if not name.endswith(("-shm", "-wal"))}
    assert after == before


def test_query_of_what_is_no_database_is_refused(root: Path) -> None:
    with pytest.raises(InitError, match="there is no such file"):
        query(root / "none.db", "SELECT 1", limit=1, timeout_s=1)
    (root / "bad.db").write_bytes(b"no database " * 1000)
    with pytest.raises(DatabaseDamaged, match="cannot read"):
        query(root / "bad.db", "SELECT 1", limit=1, timeout_s=1)


def test_value_that_is_no_text_is_shown_all_the_same(store: SqliteStore) -> None:
    assert ask(store, "SELECT CAST(x'ff61' AS TEXT)").rows == [("\ufffda",)]
    with pytest.raises(sqlite3.Error):
        sqlite3.connect(":memory:").execute("SELECT CAST(x'ff61' AS TEXT)").fetchone()
    store.close_now()
