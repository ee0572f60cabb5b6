"""The measures of the search: queries over 100,000 messages, and what the index costs those that write."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import statistics
import threading
import time
import uuid
from collections.abc import Callable

from bench.measures import Measure, Sample, duration
from bench.world import IN_FLIGHT, World
from support.daemon import DaemonProcess
from support.stores import look_at

from nexus.client import BlockingClient
from nexus.conversations.commands import CreateConversation, CreateMessage, DeleteConversation
from nexus.conversations.states import Role
from nexus.search.commands import RebuildSearchIndex, Search
from nexus.search.states import SearchOrder
from nexus.store.connection import connect
from nexus.vms.commands import CreateVm, UpdateVm

__all__ = ["SEARCH_MEASURES"]

_MESSAGES = 100_000
_DELETED = 50_000
_BYTES = 600
_WORDS = 20_000
_AT = 1_767_225_600_000


class Texts:
    """Texts of about 600 bytes, with words as frequent as in a language: the second half as often as the first."""

    def __init__(self) -> None:
        self._chance = random.Random(7)
        letters = "etaoinshrdlcumwfgypbvk"
        self.words = ["".join(self._chance.choices(letters, k=self._chance.randrange(2, 10))) for _ in range(_WORDS)]
        self.words[100::50] = [f"get{word.capitalize()}Name" for word in self.words[100::50]]
        self._weights = list(itertools.accumulate(1 / (rank + 3) for rank in range(_WORDS)))

    def __call__(self) -> str:
        return " ".join(self._chance.choices(self.words, cum_weights=self._weights, k=_BYTES // 7))


def _fill(daemon: DaemonProcess, count: int, *, indexed: bool) -> None:
    """Put messages of one conversation into the database of a stopped daemon."""
    texts = Texts()
    with contextlib.closing(connect(daemon.database, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.execute("BEGIN")
        if not indexed:
            for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                database.execute(f"DROP TRIGGER {name}")
            database.execute("DROP TABLE search_index")
            database.execute("CREATE TABLE search_index (name TEXT, text TEXT, parts TEXT)")
        ((conversation, first),) = database.execute(
            "SELECT conversations.id, (SELECT last FROM record_number WHERE kind = 'doc') FROM conversations"
        ).fetchall()
        rows = (
            (str(uuid.uuid4()), conversation, number, _AT + number, _AT + number, _BYTES, first + number, texts())
            for number in range(1, count + 1)
        )
        database.executemany(
            "INSERT INTO messages (id, conversation_id, number, role, created_at, updated_at, size_bytes, doc, "
            "content) VALUES (?, ?, ?, 'user', ?, ?, ?, ?, ?)",
            rows,
        )
        if indexed:
            database.execute("INSERT INTO search_index (search_index) VALUES ('rebuild')")
        database.execute("UPDATE record_number SET last = last + ? WHERE kind = 'doc'", (count,))
        database.execute("UPDATE conversations SET messages = ?, last_number = ?", (count, count))
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def _daemon(world: World, count: int, *, indexed: bool = True) -> DaemonProcess:
    daemon = world.new_daemon().start()
    with BlockingClient(daemon.socket_path) as client:
        client.call(CreateConversation("bench"))
        client.call(CreateVm("web"))
    daemon.stop()
    _fill(daemon, count, indexed=indexed)
    return daemon.start()


@functools.cache
def _full(world: World) -> DaemonProcess:
    """A daemon with 100,000 messages in its index."""
    return _daemon(world, _MESSAGES)


@functools.cache
def _without(world: World) -> DaemonProcess:
    """A daemon with 100,000 messages and no index of them."""
    return _daemon(world, _MESSAGES, indexed=False)


def _queries() -> list[Search]:
    """Words from frequent to rare, pairs, phrases, prefixes and excluded words; by rank and by time."""
    words = Texts().words
    # The first is in one of seven messages, the last in one of three thousand.
    ranks = (61, 151, 301, 601, 1001, 2001, 3001, 5001, 8001, 12_001, 19_001)
    queries = [words[rank] for rank in ranks]
    queries += [f"{words[rank]} {words[rank * 2]}" for rank in (51, 201, 901, 3001)]
    queries += [f"{words[401]} OR {words[4001]}", f"{words[501]} -{words[61]}", f"{words[701][:4]}*"]
    # A word of an identifier, and an identifier.
    queries += [words[1100][3:-4].lower(), words[250]]
    return [Search(query) for query in queries] + [Search(query, sort=SearchOrder.TIME) for query in queries[::3]]


def _latency(world: World) -> Sample:
    commands = _queries()
    with BlockingClient(_full(world).socket_path) as client:
        for command in commands:
            client.call_raw(command)
        rounds = 1 if world.quick else 5
        taken = [duration(lambda c=command: client.call_raw(c)) for _ in range(rounds) for command in commands]  # type: ignore[misc]
    return Sample(statistics.median(taken) * 1000)


def _message(texts: Callable[[], str]) -> CreateMessage:
    return CreateMessage("1", Role.USER, texts())


def _insert(world: World) -> Sample:
    """The median durations of a client's durable message, with the index and without it."""
    texts = Texts()
    with (
        BlockingClient(_full(world).socket_path) as ours,
        BlockingClient(_without(world).socket_path) as baseline,
    ):
        taken: tuple[list[float], list[float]] = ([], [])
        for _ in range(50 if world.quick else 400):
            for side, client in enumerate((ours, baseline)):
                command = _message(texts)
                taken[side].append(duration(lambda c=client, m=command: c.call(m)))  # type: ignore[misc]
    return Sample(*(statistics.median(each) * 1000 for each in taken))


def _insert_many(world: World) -> Sample:
    """Messages a second with 64 in flight."""
    texts = Texts()
    ready = [_message(texts) for _ in range(2000)]
    commands = itertools.cycle(ready)
    with contextlib.closing(world.pipeline(_full(world))) as pipeline, world.all_cores(_full(world)):
        seconds = 0.3 if world.quick else 1.5
        start = time.perf_counter()
        done = pipeline.run(lambda: next(commands), lambda _sent: time.perf_counter() < start + seconds)
        return Sample(done / (time.perf_counter() - start))


def _writes(daemon: DaemonProcess, until: Callable[[], bool]) -> float:
    """How long a client's longest writes take, one after the other: the 99.9th percentile in ms."""
    with BlockingClient(daemon.socket_path) as client:
        taken: list[float] = []
        while not until():
            taken.append(duration(lambda: client.call(UpdateVm("web", mem_size_mib=128 + len(taken) % 1000))))
    return statistics.quantiles(taken, n=1000)[-1] * 1000


def _delay(daemon: DaemonProcess, until: Callable[[], bool]) -> Sample:
    """How much longer the longest writes take than they do for as long afterwards."""
    start = time.perf_counter()
    during = _writes(daemon, until)
    ends_at = 2 * time.perf_counter() - start
    return Sample(max(during - _writes(daemon, lambda: time.perf_counter() > ends_at), 0.0))


def _delete(world: World) -> Sample:
    """The delay beside the sweep of 50,000 messages."""
    daemon = _daemon(world, _DELETED if not world.quick else _DELETED // 10)
    with BlockingClient(daemon.socket_path) as client:
        client.call(DeleteConversation("1"))
    with look_at(daemon.database) as database:
        sample = _delay(daemon, lambda: not database.execute("SELECT 1 FROM messages LIMIT 1").fetchone())
    daemon.stop()
    return sample


def _rebuild(world: World) -> Sample:
    """The delay beside a rebuild of the index of 100,000 messages."""
    daemon = _full(world)
    done = threading.Event()

    def rebuild() -> None:
        with BlockingClient(daemon.socket_path) as client:
            client.call(RebuildSearchIndex())
        done.set()

    thread = threading.Thread(target=rebuild)
    thread.start()
    sample = _delay(daemon, done.is_set)
    thread.join()
    return sample


SEARCH_MEASURES = (
    Measure("search", f"Search over {_MESSAGES:,} messages of {_BYTES} bytes, p50", "ms", 10.0, False, _latency),
    Measure(
        "search-insert",
        f"CreateMessage of {_BYTES} bytes, durable, one client",
        "ms",
        1.5,
        False,
        _insert,
        "without the index",
    ),
    Measure("search-insert-many", f"CreateMessage, {IN_FLIGHT} in flight", "/s", 4000.0, True, _insert_many),
    Measure(
        "search-delete", f"delay of UpdateVm while {_DELETED:,} messages are deleted, p99.9", "ms", 50.0, False, _delete
    ),
    Measure(
        "search-rebuild",
        f"delay of UpdateVm while the index of {_MESSAGES:,} messages is rebuilt, p99.9",
        "ms",
        50.0,
        False,
        _rebuild,
    ),
)
"""In the order of the table."""
