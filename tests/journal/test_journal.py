"""The journal on a real store: slices, pruning, and a watcher whose filter matches nothing."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nexus_protocol.events import event
from support.declared import declared
from support.operations import TESTER, an_operation
from support.stores import make_store, running

from nexus.capability import Context
from nexus.journal import handlers
from nexus.journal.commands import Event, JournalAhead, JournalPruned, WatchEvents
from nexus.journal.retention import STEP, prune
from nexus.journal.rows import Subject, record
from nexus.journal.store import Watched, bounds, read_slice
from nexus.store import Transaction
from nexus.store.sqlite import SqliteStore

DAY_MS = 24 * 60 * 60 * 1000


def _declare() -> None:
    for kind in ("thing.done", "a.x", "b.x", "wanted.x"):
        event(kind, "An event of this test.", n="its time")


@pytest.fixture(scope="module", autouse=True)
def events() -> Iterator[None]:
    """The events of this test are declared."""
    with declared(_declare):
        yield


def on_store(root: Path, body: Callable[[SqliteStore], Awaitable[None]]) -> None:
    """Run ``body`` on a new store that accepts writes."""

    async def run() -> None:
        async with running(make_store(root)) as store:
            await body(store)

    asyncio.run(run())


def _write(*at: int, kind: str = "thing.done") -> Callable[[Transaction], None]:
    """Make a change that records events with these times."""

    def change(tx: Transaction) -> None:
        operation = an_operation()
        for moment in at:
            tx.now = moment
            record(tx, operation, kind, Subject("thing", "id", "name", None), {"n": moment})

    return change


def test_event_of_a_rolled_back_change_is_not_recorded(root: Path) -> None:
    async def body(store: SqliteStore) -> None:
        def fails(tx: Transaction) -> None:
            _write(1)(tx)
            raise RuntimeError("undone")

        with pytest.raises(RuntimeError, match="undone"):
            await store.write(fails)
        assert store.read(bounds) == (0, 0)
        await store.write(_write(1))
        (found,) = store.read(lambda reader: read_slice(reader, 0, Watched()), snapshot=True).events
        assert found == Event(1, 1, "thing.done", "thing", "id", "name", "agent", 1000, 42, {"n": 1}, found.operation)

    on_store(root, body)


def test_slices_return_every_event_once_in_order_within_limits(root: Path) -> None:
    async def body(store: SqliteStore) -> None:
        for kind, count in (("a.x", 4500), ("b.x", 3), ("a.x", 4500)):
            await store.write(_write(*range(count), kind=kind))
        for kinds, expected in ((None, range(1, 9004)), (["b.*"], range(4501, 4504))):
            after, seen, rounds = 0, [], 0
            while after < 9003:
                read = functools.partial(read_slice, after=after, watched=Watched(kinds))
                part = store.read(read, snapshot=True)
                assert len(part.events) <= 500
                assert after < part.seq <= after + 5000
                seen += [event.seq for event in part.events]
                after, rounds = part.seq, rounds + 1
            assert seen == list(expected)
            assert rounds < 200

    on_store(root, body)


async def prune_all(store: SqliteStore, before_at: int) -> int:
    """Carry out steps until one does nothing; returns how many events went."""
    operation, events, after = an_operation("retention"), 0, 0
    while True:
        step = await store.write(functools.partial(
            prune, operation=operation, now_ms=before_at, before_at=before_at, after=after
        ))  # fmt: skip
        assert step.events <= STEP
        events += step.events
        if step.did_nothing(after):
            return events
        after = step.after


def test_prune_stops_at_the_first_recent_event_even_if_the_clock_was_set_back(root: Path) -> None:
    async def body(store: SqliteStore) -> None:
        # The third event was written after the clock had been set back.
        await store.write(_write(10, 500, 20, 30))
        assert await prune_all(store, 100) == 1
        assert await prune_all(store, 100) == 0
        assert store.read(bounds) == (1, 4)
        assert await prune_all(store, 1000) == 3
        assert await prune_all(store, 1000) == 0
        assert store.read(bounds) == (4, 4)
        with pytest.raises(JournalPruned) as pruned:
            store.read(lambda reader: read_slice(reader, 3, Watched()), snapshot=True)
        assert pruned.value.details["oldest_seq"] == 5
        with pytest.raises(JournalAhead):
            store.read(lambda reader: read_slice(reader, 5, Watched()), snapshot=True)
        assert store.read(lambda reader: read_slice(reader, None, Watched()), snapshot=True).seq == 4

    on_store(root, body)


class _Recorder:
    """Stands for the daemon's end of a stream; it only keeps the items."""

    draining = False

    def __init__(self) -> None:
        self.sent: asyncio.Queue[Event] = asyncio.Queue()

    async def send(self, item: Event) -> None:
        self.sent.put_nowait(item)

    async def ready(self) -> None:
        pass

    def on_draining(self, wake: Callable[[], None]) -> None:
        pass


def test_idle_watcher_receives_progress_only_after_new_events(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "_PROGRESS_INTERVAL_S", 0.05)

    async def body(store: SqliteStore) -> None:
        context: Any = Context(store, None, TESTER)  # type: ignore[arg-type]
        stream = _Recorder()
        command = WatchEvents(kinds=["wanted.*"])
        watching = asyncio.create_task(handlers.watch_events(context, command, stream))  # type: ignore[arg-type]
        async with asyncio.timeout(30):
            await store.write(_write(1, 2, 3))
            assert await stream.sent.get() == Event(3)
            await store.write(_write(4, kind="wanted.x"))
            assert (await stream.sent.get()).seq == 4
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await stream.sent.get()
            await store.write(_write(5))
            assert await stream.sent.get() == Event(5)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    on_store(root, body)
