"""Retention: events, secret values, operations and keys go together from the old end; no number is given twice."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from support.operations import TESTER, an_operation
from support.replay import check
from support.stores import look_at, make_store, running, write_together

from nexus.journal import keys
from nexus.journal.operation import KEY_KEPT_MS, Operation, RequestKey
from nexus.journal.retention import STEP, Pruned, prune
from nexus.records.scope import DEFAULT
from nexus.services.commands import AddService
from nexus.services.records import Service
from nexus.services.states import ServiceState
from nexus.services.store import change_state
from nexus.services.store import delete as remove_service
from nexus.services.store import insert as add_service
from nexus.services.store import update as update_service
from nexus.store import Transaction
from nexus.store.maintenance import migrate_database, restore_database
from nexus.store.sqlite import SqliteStore
from nexus.system.store import delete_setting, set_setting

DAY_MS = 24 * 60 * 60 * 1000
NOW = 1000 * DAY_MS

Change = Callable[[Transaction, Operation], object]


def on_store(root: Path, body: Callable[[SqliteStore], Awaitable[None]]) -> None:
    """Run ``body`` on a store that accepts writes; the database stays for the next call."""

    async def run() -> None:
        async with running(make_store(root)) as store:
            await body(store)

    asyncio.run(run())


async def at(store: SqliteStore, day: int, change: Change, operation: Operation | None = None) -> Operation:
    """Make a change on a day, of an operation of its own."""
    led = operation or an_operation("CreateVm")

    def write(tx: Transaction) -> None:
        tx.now = day * DAY_MS
        change(tx, led)

    await store.write(write)
    return led


def setting(key: str, value: str) -> Change:
    return lambda tx, operation: set_setting(tx, operation, key, value)


async def prune_all(store: SqliteStore, before_day: int, now: int = NOW) -> list[Pruned]:
    """Carry out all steps, as the daemon does; returns them."""
    operation, steps, after = Operation(TESTER, "retention"), [], 0
    for _ in range(1000):
        step = await store.write(
            functools.partial(prune, operation=operation, now_ms=now, before_at=before_day * DAY_MS, after=after)
        )
        steps.append(step)
        assert max(step.events, step.operations, step.keys) <= STEP
        if step.did_nothing(after):
            return steps
        after = step.after
    raise AssertionError("retention does not end")


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    with look_at(path) as database:
        return database.execute(sql).fetchall()


def problems(path: Path) -> list[str]:
    with look_at(path) as database:
        return check(database, complete=False)


def test_events_with_their_operations_secrets_and_keys_go_in_steps(root: Path) -> None:
    async def body(store: SqliteStore) -> None:
        for number in range(3 * STEP):
            led = Operation(TESTER, "SetSetting", key=RequestKey(f"k{number}", lambda _reader: b"x"))
            await at(store, 100 + number // STEP, setting("key", f"secret-{number}"), led)
        counts = [rows(store.path, f"SELECT count(*) FROM {name}")[0][0] for name in ("journal", "secret_value")]
        assert counts == [3 * STEP, 3 * STEP]

        steps = await prune_all(store, 102)
        assert sum(step.events for step in steps) == 2 * STEP
        assert sum(step.operations for step in steps) == 2 * STEP
        assert sum(step.keys for step in steps) == 3 * STEP
        assert problems(store.path) == []
        # The image of the oldest event that is kept refers to the value before it.
        kept = {row[0] for row in rows(store.path, "SELECT value FROM secret_value")}
        assert kept == {f"secret-{number}" for number in range(2 * STEP - 1, 3 * STEP)}
        assert rows(store.path, "SELECT min(seq), max(seq) FROM journal") == [(2 * STEP + 1, 3 * STEP)]

        await prune_all(store, 1000)
        for name in ("journal", "secret_value", "request_key"):
            assert rows(store.path, f"SELECT count(*) FROM {name}") == [(0,)]
        assert rows(store.path, "SELECT DISTINCT command FROM operation") == [("retention",)]
        assert rows(store.path, "SELECT value FROM settings") == [(f"secret-{3 * STEP - 1}",)]
        assert problems(store.path) == []

    on_store(root, body)


def test_kept_event_keeps_its_old_operation(root: Path) -> None:
    async def body(store: SqliteStore) -> None:
        long = await at(store, 100, setting("a", "1"))
        await at(store, 101, setting("b", "1"))
        await at(store, 200, setting("a", "2"), long)
        await prune_all(store, 150)
        assert rows(store.path, "SELECT operation_id FROM journal") == [(long.id,)]
        assert (long.id,) in rows(store.path, "SELECT id FROM operation WHERE command <> 'retention'")
        assert len(rows(store.path, "SELECT id FROM operation WHERE command <> 'retention'")) == 1
        assert problems(store.path) == []
        await prune_all(store, 300)
        assert rows(store.path, "SELECT id FROM operation WHERE command <> 'retention'") == []

    on_store(root, body)


def test_operation_of_a_present_state_and_of_a_remembered_key_stay(root: Path) -> None:
    async def body(store: SqliteStore) -> None:
        ids: list[str] = []
        await at(
            store,
            1,
            lambda tx, led: ids.append(add_service(tx, led, AddService("web", run_command="true"), DEFAULT).id),
        )
        (id_,) = ids
        up = await at(store, 2, lambda tx, led: change_state(tx, led, id_, ServiceState.STARTING, wanted=True))
        await at(store, 3, setting("a", "1"))
        keyed = Operation(TESTER, "SetSetting", key=RequestKey("fresh", lambda _reader: b"x"))
        await at(store, 4, setting("a", "2"), keyed)
        await at(store, 5, setting("a", "3"))
        left = "SELECT id FROM operation WHERE command <> 'retention' ORDER BY id"
        await prune_all(store, 100, now=5 * DAY_MS)
        assert rows(store.path, left) == [(up.id,), (keyed.id,)]
        assert problems(store.path) == []

        # The next state is of another operation, and the key is forgotten after a week.
        await at(
            store, 200, lambda tx, led: change_state(tx, led, id_, ServiceState.STOPPED), an_operation("StopService")
        )
        await prune_all(store, 201, now=4 * DAY_MS + KEY_KEPT_MS + 1)
        assert rows(store.path, "SELECT key FROM request_key") == []
        assert rows(store.path, "SELECT command FROM operation WHERE command <> 'retention'") == [("StopService",)]
        await at(store, 202, lambda tx, led: remove_service(tx, led, id_))
        await prune_all(store, 300)
        assert rows(store.path, left) == []
        assert problems(store.path) == []

    on_store(root, body)


def test_operation_of_a_long_act_stays_as_long_as_its_key(root: Path) -> None:
    async def body(store: SqliteStore) -> None:
        led = Operation(TESTER, "StartService", key=RequestKey("long", lambda _reader: b"x"))
        await at(store, 10, setting("a", "1"), led)
        await at(store, 13, lambda tx, operation: keys.finish(tx, operation, None, secret=False), led)
        ended = 13 * DAY_MS + KEY_KEPT_MS
        for now, left in ((ended, [(led.id, "long")]), (ended + 1, [])):
            await prune_all(store, 19, now=now)
            sql = "SELECT operation.id, request_key.key FROM operation JOIN request_key ON operation.id = operation_id"
            assert rows(store.path, sql) == left
            assert problems(store.path) == []
        assert rows(store.path, "SELECT key FROM request_key") == []

    on_store(root, body)


def test_clock_that_was_set_back_leaves_no_event_without_its_operation(root: Path) -> None:
    async def body(store: SqliteStore) -> None:
        days = [10, 500, 20, 30, 501, 40, *range(41, 41 + 3 * STEP)]
        for number, day in enumerate(days):
            await at(store, day, setting("a", str(number)))
        for before in (15, 25, 100, 400, 600, 5000):
            await prune_all(store, before)
            assert problems(store.path) == []
            seqs = [row[0] for row in rows(store.path, "SELECT seq FROM journal ORDER BY seq")]
            assert seqs == list(range(len(days) - len(seqs) + 1, len(days) + 1)), "the kept events have no gaps"
        assert rows(store.path, "SELECT id FROM operation WHERE command <> 'retention'") == []

    on_store(root, body)


def test_secret_is_kept_as_long_as_an_event_refers_to_it(root: Path) -> None:
    async def body(store: SqliteStore) -> None:
        services: list[Service] = []

        def add(tx: Transaction, led: Operation) -> None:
            services.append(add_service(tx, led, AddService("web", run_command="x"), DEFAULT))

        def environment(value: str) -> Change:
            changes = {"environment": {"A": value}}
            return lambda tx, led: services.append(update_service(tx, led, services[-1], changes, {}))

        await at(store, 1, add)
        for day, value in ((2, "one"), (3, "two"), (4, "one"), (5, "three")):
            await at(store, day, environment(value))
        await prune_all(store, 4)
        kept = {row[0] for row in rows(store.path, "SELECT value FROM secret_value")}
        assert kept == {'{"A":"one"}', '{"A":"two"}', '{"A":"three"}'}
        await prune_all(store, 5)
        kept = {row[0] for row in rows(store.path, "SELECT value FROM secret_value")}
        assert kept == {'{"A":"one"}', '{"A":"three"}'}
        assert problems(store.path) == []

    on_store(root, body)


def numbers_of(store: SqliteStore) -> int:
    found = store.read(lambda reader: reader.one("SELECT max(id) FROM operation"))
    return int((found or (0,))[0] or 0)


def test_no_number_of_an_operation_is_given_twice(root: Path) -> None:
    given: list[int] = []

    def note(operation: Operation) -> None:
        assert operation.id is not None
        given.append(operation.id)

    async def write_some(store: SqliteStore) -> None:
        for number in range(3):
            note(await at(store, 100, setting("a", f"{len(given)}-{number}")))

    async def prune_everything(store: SqliteStore) -> None:
        given.extend(row[0] for row in rows(store.path, "SELECT id FROM operation") if row[0] not in given)
        await prune_all(store, 2000)
        with contextlib.closing(sqlite3.connect(store.path)) as connection, connection:
            (last,) = connection.execute("SELECT max(id) FROM operation").fetchone()
            given.append(last)
        # The operation of the retention itself is not old: a later one deletes it.
        await prune_all(store, 10**9, now=10**9 * DAY_MS)

    async def body(store: SqliteStore) -> None:
        await write_some(store)
        await prune_everything(store)
        await write_some(store)

    async def fails(store: SqliteStore) -> None:
        lost = an_operation("SetSetting")

        def change(tx: Transaction) -> None:
            set_setting(tx, lost, "a", "lost")
            raise RuntimeError("undone")

        with pytest.raises(RuntimeError, match="undone"):
            await store.write(change)
        await write_some(store)
        # One that was undone is written later under its own number, after its successors.
        note(await at(store, 100, setting("a", "again"), lost))
        together = [an_operation("SetSetting") for _ in range(4)]
        changes = [
            functools.partial(lambda tx, led, key: set_setting(tx, led, key, "x"), led=led, key=f"t{number}")
            for number, led in enumerate(together)
        ]
        await write_together(store, changes)
        for operation in together:
            note(operation)

    on_store(root, body)
    on_store(root, write_some)
    on_store(root, prune_everything)
    on_store(root, write_some)
    on_store(root, fails)
    assert len(set(given)) == len(given)
    assert problems(make_store(root).path) == []


@pytest.mark.parametrize("end", ["present", "pruned", "damaged"])
def test_no_number_is_given_twice_after_a_restore(root: Path, end: str) -> None:
    highest: list[int] = []

    async def backup(store: SqliteStore) -> None:
        await at(store, 100, setting("a", "1"))
        await store.backup(root / "copy.db")
        for number in range(20):
            await at(store, 101, setting("a", f"after {number}"))
        highest.append(numbers_of(store))
        if end == "pruned":
            await prune_all(store, 10**9, now=10**9 * DAY_MS)

    on_store(root, backup)
    path = make_store(root).path
    if end == "damaged":
        path.write_bytes(b"x" * 8192)
    restore_database(path, root / "copy.db")

    async def after(store: SqliteStore) -> None:
        led = await at(store, 200, setting("a", "restored"))
        assert led.id is not None
        assert led.id > highest[0]

    on_store(root, after)
    assert problems(path) == []


def down_and_up(root: Path, version: int) -> None:
    """Migrate the database to a version without operations."""
    store = make_store(root)
    migrate_database(store.path, store.backup_directory, version)


@pytest.mark.parametrize("version", [2, 7])
def test_no_number_is_given_twice_after_a_migration_down_and_up(root: Path, version: int) -> None:
    numbers: list[int | None] = []

    async def write(store: SqliteStore) -> None:
        for _ in range(3):
            numbers.append((await at(store, 100, setting("a", f"{len(numbers)}"))).id)

    async def prune_everything(store: SqliteStore) -> None:
        await prune_all(store, 10**9, now=10**9 * DAY_MS)

    on_store(root, write)
    down_and_up(root, version)
    on_store(root, write)
    on_store(root, prune_everything)
    down_and_up(root, version)
    down_and_up(root, 1)
    on_store(root, write)
    assert len(set(numbers)) == len(numbers) == 9
    assert problems(make_store(root).path) == []


def test_no_number_is_given_twice_after_the_restore_of_an_older_schema(root: Path) -> None:
    numbers: list[int | None] = []

    async def write(store: SqliteStore) -> None:
        for _ in range(3):
            numbers.append((await at(store, 100, setting("a", f"{len(numbers)}"))).id)

    store = make_store(root)
    old = SqliteStore(root / "old" / "nexus.db", root / "unused")
    old.init(target=6)
    old.close_now()
    on_store(root, write)
    restore_database(store.path, old.path)
    on_store(root, write)
    # The older schema is in place, and another backup replaces it.
    down_and_up(root, 6)
    restore_database(store.path, old.path)
    on_store(root, write)
    assert len(set(numbers)) == len(numbers) == 9
    assert problems(store.path) == []


def test_backup_is_restored_twice_in_a_row(root: Path) -> None:
    async def backup(store: SqliteStore) -> None:
        await at(store, 100, setting("a", "1"))
        await store.backup(root / "copy.db")

    numbers: list[int | None] = []

    async def write(store: SqliteStore) -> None:
        numbers.append((await at(store, 100, setting("a", f"{len(numbers)}"))).id)

    on_store(root, backup)
    for _ in range(3):
        on_store(root, write)
        restore_database(make_store(root).path, root / "copy.db")
    on_store(root, write)
    assert len(set(numbers)) == len(numbers) == 4


def test_operation_whose_write_may_be_lost_is_known_once_it_is_found(root: Path) -> None:
    """A write that ended in doubt and is repeated finds its own row: what it causes names it."""

    async def body(store: SqliteStore) -> None:
        led = an_operation("SetSetting")
        await at(store, 100, setting("a", "1"), led)
        led.written = False  # as after an OutcomeUnknown whose commit is there
        await at(store, 100, setting("a", "2"), led)
        caused = Operation(TESTER, "process.exited", cause=led)
        await at(store, 100, setting("a", "3"), caused)
        assert rows(store.path, "SELECT cause FROM operation WHERE command = 'process.exited'") == [(led.id,)]

    on_store(root, body)


def test_key_of_a_change_is_with_its_operation(root: Path) -> None:
    async def body(store: SqliteStore) -> None:
        led = Operation(TESTER, "DeleteSetting", key=RequestKey("k", lambda _reader: b"x"))
        await at(store, 1, setting("a", "1"))

        def change(tx: Transaction) -> object:
            return keys.under_key(tx, led, lambda: delete_setting(tx, led, "a"))

        await store.write(change)
        assert rows(store.path, "SELECT operation_id, state FROM request_key") == [(led.id, "done")]
        assert problems(store.path) == []

    on_store(root, body)


def test_operation_made_of_parts_stays_as_long_as_one_of_them(root: Path) -> None:
    async def body(store: SqliteStore) -> None:
        whole = await at(store, 1, lambda tx, led: led.enter(tx), an_operation("apply"))
        daemon_cause = await at(store, 1, lambda tx, led: led.enter(tx), an_operation("process.exited"))
        for day in (1, 500):
            part = Operation(TESTER, "SetSetting", cause=whole.id)
            await at(store, day, lambda tx, led, day=day: set_setting(tx, led, f"k{day}", 1), part)  # type: ignore[misc]
        led_to = Operation(TESTER, "process.exited", cause=daemon_cause)
        await at(store, 500, lambda tx, led: set_setting(tx, led, "x", 1), led_to)

        async def pruned(before_day: int) -> list[int]:
            for _ in range(3):
                after = 0
                while True:
                    done = await store.write(
                        lambda tx: prune(tx, an_operation("retention"), NOW, before_day * DAY_MS, after)  # noqa: B023
                    )
                    if done.did_nothing(after):
                        break
                    after = done.after
            kept = await store.fetch(lambda reader: reader.all("SELECT id FROM operation ORDER BY id"))
            return [row[0] for row in kept]

        assert whole.id is not None
        kept = await pruned(400)
        assert whole.id in kept
        assert daemon_cause.id not in kept, "what the daemon led to does not keep a chain of causes for ever"
        assert led_to.id in kept

    on_store(root, body)
