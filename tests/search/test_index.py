"""The index: look-ups by number, triggers, its check, its rebuild in steps, and who knows its functions."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path

import pytest
from support.stores import make_store, running

from nexus.search.index import INDEX
from nexus.search.states import SearchOrder
from nexus.search.store import Conditions
from nexus.store import QueryError, Reader, ReadTimedOut, Transaction, fulltext
from nexus.store.connection import connect
from nexus.store.fulltext import ALL, Term, Words, begin_rebuild, check_index, indexed_to, rebuild_step
from nexus.store.maintenance import check_database, reindex_database
from nexus.store.sqlite import SqliteStore
from nexus.store.writer import SqliteReader

ROOT = Path(__file__).resolve().parents[2]
COVERED = {
    *("conversations", "messages", "message_parts", "jobs", "service", "vms"),
    *("features", "tasks", "requirements"),
    *("episodes", "code_chunks"),
}
NAMELESS = {"messages", "message_parts", "requirements", "episodes"}


def insert_vm(tx: Transaction, number: int, name: str) -> None:
    """Insert a row that the index covers, with the number ``number``."""
    tx.execute(
        "INSERT INTO vms (id, project_id, name, role, state, cid, created_at, updated_at, doc) "
        "VALUES (?, (SELECT id FROM projects LIMIT 1), ?, 'work', 'created', ?, 1, 1, ?)",
        (f"id{number}", name, number + 2, number),
    )
    tx.execute(
        "INSERT INTO record_number (project_id, kind, last) VALUES ('', 'doc', ?) "
        "ON CONFLICT (project_id, kind) DO UPDATE SET last = max(last, excluded.last)",
        (number,),
    )


def found(reader: Reader, word: str) -> list[int]:
    """The numbers of what a word finds."""
    words = Words(((Term(word),),))
    hits = INDEX.query(reader, words, Conditions(), home=None, order=SearchOrder.RANK, limit=10_000)
    return sorted(hit.doc for hit in hits)


def checked(store: SqliteStore) -> str | None:
    """Why the index of a closed store is behind."""
    with contextlib.closing(connect(store.path)) as connection:
        return check_index(connection)


def with_vms(root: Path, count: int) -> SqliteStore:
    """A closed store with VMs."""
    store = make_store(root)

    async def fill() -> None:
        async with running(store):
            await store.write(lambda tx: [insert_vm(tx, n, f"vm-{n}") for n in range(1, count + 1)])

    asyncio.run(fill())
    return store


@pytest.mark.parametrize("view", ["search_row", "search_named"])
def test_look_up_by_number_searches_every_table(root: Path, view: str) -> None:
    store = with_vms(root, 1)
    with contextlib.closing(connect(store.path)) as connection:
        for condition in ("doc = ?", "doc > ? AND doc <= 7"):
            plan = connection.execute(f"EXPLAIN QUERY PLAN SELECT * FROM {view} WHERE {condition}", (5,)).fetchall()
            steps = [row[3] for row in plan]
            tables = {
                match[2]: match[1] for step in steps if (match := re.match(r"(SEARCH|SCAN) (\w+)", step)) is not None
            }
            tables.pop(view, None)  # the result of all arms
            of_view = COVERED if view == "search_row" else COVERED - NAMELESS
            assert tables == dict.fromkeys(of_view, "SEARCH"), steps


def test_every_connection_of_the_program_knows_the_functions() -> None:
    opened = {
        path.name: text.count("sqlite3.connect(")
        for path in (ROOT / "nexus").rglob("*.py")
        if (text := path.read_text("utf-8")).count("sqlite3.connect(")
    }
    # opencode_store.py opens the database of another program.
    assert opened == {"connection.py": 1, "opencode_store.py": 2}


def test_triggers_never_replace_rows() -> None:
    sql = (ROOT / "nexus" / "store" / "migrations" / "0011_conversations.sql").read_text("utf-8")
    assert "INSERT OR REPLACE" not in sql


def test_index_is_rebuilt_in_steps_beside_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fulltext, "_STEP_ROWS", 3)
    store = with_vms(root, 20)

    async def scenario() -> None:
        async with running(store):
            await store.write(begin_rebuild)
            assert store.read(lambda reader: found(reader, "vm")) == []
            assert store.read(INDEX.check) == "it was not rebuilt to its end"
            assert not await store.write(rebuild_step)
            assert store.read(indexed_to) == 3

            def change(tx: Transaction) -> None:
                # Of what is indexed already, and of what is not.
                for number in (2, 15):
                    tx.execute("UPDATE vms SET name = ? WHERE doc = ?", (f"other-{number}", number))
                for number in (3, 16):
                    tx.execute("DELETE FROM vms WHERE doc = ?", (number,))
                insert_vm(tx, 21, "late")

            await store.write(change)
            steps = 1
            while not await store.write(rebuild_step):
                steps += 1
            assert steps > 4
            assert store.read(indexed_to) == ALL
            assert store.read(lambda reader: found(reader, "other")) == [2, 15]
            assert store.read(lambda reader: found(reader, "late")) == [21]
            assert len(store.read(lambda reader: found(reader, "vm"))) == 16
            assert await INDEX.rebuild(store) == 19

    asyncio.run(scenario())
    assert checked(store) is None
    assert check_database(store.path).behind is None


def test_rows_are_removed_and_added_by_their_numbers(root: Path) -> None:
    store = with_vms(root, 3)

    async def scenario() -> None:
        async with running(store):
            await store.write(lambda tx: INDEX.remove(tx, [2]))
            assert store.read(lambda reader: found(reader, "vm")) == [1, 3]
            await store.write(lambda tx: INDEX.index(tx, [2]))
            assert store.read(lambda reader: found(reader, "vm")) == [1, 2, 3]

    asyncio.run(scenario())
    assert checked(store) is None


def damage(path: Path, *statements: str) -> None:
    """Change a database without its triggers' knowledge."""
    with contextlib.closing(connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


DESYNCS = {
    "a text is missing": ("INSERT INTO search_index (search_index) VALUES ('delete-all')",),
    "a name is missing": ("INSERT INTO search_name (search_name) VALUES ('delete-all')",),
    "a text too many": ("INSERT INTO search_index (rowid, name, text, parts) VALUES (99, 'gone', '', '')",),
    "another text": (
        "DROP TRIGGER search_vms_update",
        "DROP TRIGGER search_vms_rename",
        "UPDATE vms SET name = 'renamed' WHERE doc = 1",
    ),
}


@pytest.mark.parametrize("kind", list(DESYNCS))
def test_desync_is_found_without_a_change_and_mended(root: Path, kind: str) -> None:
    store = with_vms(root, 5)
    damage(store.path, *DESYNCS[kind])
    before = store.path.read_bytes()
    report = check_database(store.path)
    assert (report.problems, report.behind) == ([], "it does not hold what the tables hold")
    assert store.path.read_bytes() == before
    assert reindex_database(store.path) == 5
    assert check_database(store.path).behind is None


def test_check_of_an_index_does_not_hold_up_the_writer(root: Path) -> None:
    store = with_vms(root, 5)

    async def scenario() -> None:
        async with running(store):
            with contextlib.closing(connect(store.path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")  # the check needs no lock that a writer has
                assert check_database(store.path).behind is None
                other.execute("ROLLBACK")

    asyncio.run(scenario())


def test_index_of_another_splitting_is_behind_until_it_is_rebuilt(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = with_vms(root, 2)
    monkeypatch.setattr(fulltext, "SPLITTING", fulltext.SPLITTING + 1)
    assert check_database(store.path).behind == "another version of this program split words differently"
    reindex_database(store.path)
    assert check_database(store.path).behind is None


def test_tables_of_the_index_are_not_counted(root: Path) -> None:
    store = with_vms(root, 1)
    assert not [table for table in check_database(store.path).tables if "search" in table]
    store = make_store(root)
    store.init()
    status = store.status()
    store.close_now()
    assert not [table for table in status.tables if "search" in table]
    assert status.table_count == len(status.tables)


def test_long_read_ends_at_its_limit_and_holds_up_nothing(root: Path) -> None:
    store = make_store(root)
    endless = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"

    async def scenario() -> None:
        async with running(store):
            scans = [asyncio.create_task(store.scan(lambda reader: reader.all(endless), limit_s=0.2)) for _ in range(3)]
            await asyncio.sleep(0)
            await store.write(lambda tx: insert_vm(tx, 1, "meanwhile"))  # before any of them ends
            assert not any(scan.done() for scan in scans)
            for scan in scans:
                with pytest.raises(ReadTimedOut, match="cannot read all of it within"):
                    await scan
            assert await store.scan(lambda reader: found(reader, "meanwhile"), limit_s=60) == [1]

    asyncio.run(scenario())


def test_cancelled_read_is_ended(root: Path) -> None:
    store = make_store(root)
    endless = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"

    async def scenario() -> None:
        async with running(store):
            scan = asyncio.create_task(store.scan(lambda reader: reader.all(endless), limit_s=3600))
            await asyncio.sleep(0)
            scan.cancel()
            with pytest.raises(asyncio.CancelledError):
                await scan
            assert await store.scan(lambda reader: reader.one("SELECT 1"), limit_s=60) == (1,)

    asyncio.run(scenario())


def test_reads_end_with_the_store(root: Path) -> None:
    store = make_store(root)
    endless = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"

    async def scenario() -> None:
        async with running(store):
            scan = asyncio.create_task(store.scan(lambda reader: reader.all(endless), limit_s=3600))
            await asyncio.sleep(0)
        with pytest.raises(ReadTimedOut):
            await scan

    asyncio.run(scenario())


def test_damaged_index_is_told_with_the_way_out(root: Path) -> None:
    store = with_vms(root, 300)
    damage(store.path, "UPDATE search_index_data SET block = x'00' WHERE id > 10")

    async def insert_until_it_is_read() -> None:
        for number in range(301, 401):  # a merge reads what is damaged
            await store.write(lambda tx, n=number: insert_vm(tx, n, f"vm-{n}"))  # type: ignore[misc]

    async def scenario() -> None:
        async with running(store):
            with pytest.raises(QueryError, match="the search index is damaged") as caught:
                await insert_until_it_is_read()
            assert caught.value.hint is not None
            assert "nexusctl db reindex" in caught.value.hint
            kept = store.read(lambda reader: reader.one("SELECT count(*) FROM vms"))
            assert await INDEX.rebuild(store) == kept[0]
            assert len(store.read(lambda reader: found(reader, "vm"))) == kept[0]

    assert check_database(store.path).behind == "it does not hold what the tables hold"
    asyncio.run(scenario())
    assert check_database(store.path).behind is None


def test_schema_without_an_index_has_none_to_rebuild(root: Path) -> None:
    store = SqliteStore(root / "nexus.db", root / "backups")
    store.init(target=10)
    store.close_now()
    assert check_database(store.path).behind is None
    with pytest.raises(Exception, match="its schema has none"):
        reindex_database(store.path)


def test_reader_of_a_connection_sees_the_state_of_the_index(root: Path) -> None:
    store = with_vms(root, 1)
    with contextlib.closing(connect(store.path)) as connection:
        assert fulltext.stale_reason(SqliteReader(connection)) is None
        assert fulltext.count_docs(SqliteReader(connection)) == 1
