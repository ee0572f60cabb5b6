"""The measures of conversations: messages a second, what others wait for long ones, pages of fifty thousand."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from bench.baselines import forked
from bench.measures import Measure, Sample, duration
from bench.world import Pipeline, World
from nexus_protocol import Command
from support.conversations import Conversations
from support.daemon import DaemonProcess

from nexus.client import BlockingClient
from nexus.conversations.commands import (
    CreateConversation,
    CreateMessage,
    DeleteConversation,
    ForkConversation,
    ListMessages,
)
from nexus.conversations.records import Conversation
from nexus.conversations.states import Role
from nexus.system.commands import SetSetting

__all__ = ["CONVERSATION_MEASURES"]

_LONG = 50_000
_DELTAS = 400
_TEXT = "The quick brown fox jumps over the lazy dog, and then it looks back at what it has done. " * 6
_MIB = 1024 * 1024


def _in_batches(client: BlockingClient, conversation: Conversation, count: int) -> None:
    for start in range(0, count, 1000):
        some = range(start, min(start + 1000, count))
        client.batch([CreateMessage(conversation.id, Role.USER, f"{number} {_TEXT[:500]}") for number in some])


class Library:
    """A daemon with one conversation of fifty thousand messages."""

    def __init__(self, world: World) -> None:
        self.daemon = world.new_daemon()
        self.daemon.start()
        world.enter(contextlib.closing(self.daemon))
        self.client = world.enter(BlockingClient(self.daemon.socket_path))
        self.pipeline = world.enter(contextlib.closing(Pipeline(self.daemon.socket_path)))
        self.long = self.client.call(CreateConversation("long"))
        self.count = _LONG if not world.quick else _LONG // 10
        _in_batches(self.client, self.long, self.count)
        self.other = self.client.call(CreateConversation("other"))

    def waits(self, count: int) -> list[float]:
        """The durations in seconds of small writes, one after another."""
        taken = []
        for number in range(count):
            taken.append(duration(functools.partial(self.client.call, SetSetting("bench.number", number))))
            time.sleep(0.002)
        return taken


@functools.cache
def _library_of(world: World) -> Library:
    return Library(world)


def _rate(world: World) -> Sample:
    """Messages a second with 64 in flight, beside settings in the same way."""
    library = _library_of(world)
    count = 400 if world.quick else 3000

    def rate(make: Callable[[], Command[object]]) -> float:
        return count / duration(lambda: library.pipeline.run(make, lambda sent: sent < count))

    ours = rate(lambda: CreateMessage(library.other.id, Role.USER, _TEXT[:500]))
    return Sample(ours, rate(lambda: SetSetting("bench.text", _TEXT[:500])))


def _page(world: World, **fields: object) -> Sample:
    library = _library_of(world)
    command = ListMessages(library.long.id, **fields)  # type: ignore[arg-type]
    taken = [duration(lambda: library.client.call(command)) for _ in range(20)]
    return Sample(statistics.median(taken) * 1000)


def _waits(world: World, work: Callable[[BlockingClient, Conversation], None]) -> Sample:
    """The longest wait of another client's write beside ``work``, in milliseconds."""
    library = _library_of(world)
    count = 100 if world.quick else 600
    with world.all_cores(library.daemon):
        begun, begin = os.pipe()

        def repeat() -> None:
            with BlockingClient(library.daemon.socket_path) as client:
                work(client, library.long)
                os.write(begin, b".")
                while True:
                    work(client, library.long)

        with forked(repeat):
            os.close(begin)
            assert os.read(begun, 1), "the child has ended"
            busy = max(library.waits(count))
        os.close(begun)
    return Sample(busy * 1000)


def _copy_and_delete(client: BlockingClient, conversation: Conversation) -> None:
    client.call(DeleteConversation(client.call(ForkConversation(conversation.id)).id))


def _add_large(client: BlockingClient, _conversation: Conversation) -> None:
    made = client.call(CreateConversation("large"))
    client.call(CreateMessage(made.id, Role.TOOL, "x" * (4 * _MIB)))
    client.call(DeleteConversation(made.id))


def _deltas(world: World) -> Sample:
    """The time in milliseconds that the daemon's writer runs for 400 pieces of one message, which come for 8 s."""
    library = _library_of(world)
    conversations = Conversations(library.daemon)
    with contextlib.closing(conversations):
        conversations.swept()  # what other measures deleted
        before = _ran_ms(library.daemon)
        appender = conversations.append(library.other)
        appender.began()
        for _ in range(_DELTAS):
            appender.data(b"some words of an answer ")
            time.sleep(0.001 if world.quick else 0.02)
        appender.end()
        return Sample(_ran_ms(library.daemon) - before)


def _ran_ms(daemon: DaemonProcess) -> float:
    """How long the threads of a daemon ran, but for its main thread: /proc/PID/task/TID/schedstat, in nanoseconds."""
    tasks = [each for each in Path(f"/proc/{daemon.pid}/task").iterdir() if each.name != str(daemon.pid)]
    return sum(int((each / "schedstat").read_text().split()[0]) for each in tasks) / 1e6


def _size(world: World) -> Sample:
    """What 10,000 messages of the seed's size take in the database, with their parts, index and history."""
    daemon = world.new_daemon()
    daemon.start()
    with contextlib.closing(daemon):
        with BlockingClient(daemon.socket_path) as client:
            empty = _database_mib(daemon)
            _in_batches(client, client.call(CreateConversation()), 10_000)
        daemon.stop()  # what is in the write-ahead log comes into the file
        return Sample(_database_mib(daemon) - empty)


def _database_mib(daemon: DaemonProcess) -> float:
    with contextlib.closing(sqlite3.connect(daemon.database)) as database:
        (size,) = database.execute("SELECT sum(pgsize) FROM dbstat").fetchone()
    return float(size) / _MIB


CONVERSATION_MEASURES = (
    Measure("messages-rate", "messages of 500 bytes, 64 in flight", "/s", 0.3, True, _rate, "settings, 64 in flight"),
    Measure("messages-first", "first page of 100 among 50,000 messages", "ms", 10, False, _page),
    Measure("messages-last", "the last page of them", "ms", 10, False, lambda world: _page(world, at_end=True)),
    Measure(
        "messages-middle",
        "one in the middle",
        "ms",
        10,
        False,
        lambda world: _page(world, after=_library_of(world).count // 2),
    ),
    Measure("messages-deltas", "the writer's time for 400 deltas", "ms", 100, False, _deltas),
    Measure(
        "messages-waits",
        "longest wait of a write beside copies and deletions of 50,000 messages",
        "ms",
        60,
        False,
        lambda world: _waits(world, _copy_and_delete),
    ),
    Measure(
        "messages-large", "the same beside messages of 4 MiB", "ms", 60, False, lambda world: _waits(world, _add_large)
    ),
    Measure("messages-size", "10,000 messages, with their index and history", "MiB", 40, False, _size),
)
"""In the order of the table."""
