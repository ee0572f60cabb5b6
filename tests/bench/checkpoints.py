"""Checkpoints of 10,000 tasks: how long one takes, its restore where every task has changed, and the wait of others."""

from __future__ import annotations

import contextlib
import functools
import json
import sqlite3
import threading
import time
import zlib

from bench.measures import Measure, Sample, duration
from bench.world import World
from support.daemon import DaemonProcess

from nexus.checkpoints.commands import CreateCheckpoint, RestoreCheckpoint
from nexus.client import BlockingClient
from nexus.ledger.tasks.commands import CreateTask, QueueTask
from nexus.vms.commands import CreateVm, DeleteVm

__all__ = ["CHECKPOINT_MEASURES"]

TASKS = 10_000
_AT_ONCE = 500


def _numbers(world: World) -> range:
    return range(1, (TASKS // 10 if world.quick else TASKS) + 1)


@functools.cache
def _daemon(world: World) -> DaemonProcess:
    """A daemon with tasks, and a checkpoint of them."""
    daemon = world.new_daemon().start()
    numbers = _numbers(world)
    with BlockingClient(daemon.socket_path) as client:
        for start in range(0, len(numbers), _AT_ONCE):
            some = numbers[start : start + _AT_ONCE]
            client.batch([CreateTask(f"task {each}", description="what is to be done " * 10) for each in some])
        client.call(CreateCheckpoint())
    return daemon


def _by_hand(daemon: DaemonProcess) -> None:
    """What a script does: read the rows, and keep them as compressed JSON."""
    with contextlib.closing(sqlite3.connect(daemon.database)) as database:
        zlib.compress(json.dumps(database.execute("SELECT * FROM tasks").fetchall()).encode())


def _changed_by_hand(daemon: DaemonProcess) -> None:
    """What SQLite alone needs to change every row of a copy of the tasks, and to note each in a table."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
        with contextlib.closing(sqlite3.connect(daemon.database)) as database:
            database.backup(copy)
        copy.create_function("search_text", 1, str)
        copy.create_function("search_parts", 1, str)
        ids = [row[0] for row in copy.execute("SELECT id FROM tasks")]
        start = time.perf_counter()
        copy.execute("BEGIN")
        for id_ in ids:
            copy.execute("UPDATE tasks SET status = 'blocked' WHERE id = ?", (id_,))
            copy.execute(
                "INSERT INTO journal (at, kind, subject_kind, subject_id, uid, pid) VALUES (0, 'x', 'task', ?, 0, 0)",
                (id_,),
            )
        copy.execute("COMMIT")
        _durations.append(time.perf_counter() - start)


_durations: list[float] = []


def _create(world: World) -> Sample:
    daemon = _daemon(world)
    with BlockingClient(daemon.socket_path) as client:
        ours = duration(lambda: client.call(CreateCheckpoint()))
    return Sample(ours * 1000, duration(lambda: _by_hand(daemon)) * 1000)


def _restored(world: World) -> tuple[float, float]:
    """How long a restore of changed tasks takes, and the longest write of another client meanwhile, in seconds."""
    daemon = _daemon(world)
    numbers = _numbers(world)
    longest = 0.0
    over = threading.Event()

    def write() -> None:
        nonlocal longest
        with BlockingClient(daemon.socket_path) as other:
            while not over.is_set():
                longest = max(longest, duration(lambda: other.call(CreateVm("other"))))
                other.call(DeleteVm("other"))

    with BlockingClient(daemon.socket_path) as client:
        for start in range(0, len(numbers), _AT_ONCE):
            client.batch([QueueTask(str(each)) for each in numbers[start : start + _AT_ONCE]])
        with world.all_cores(daemon):
            writer = threading.Thread(target=write)
            writer.start()
            try:
                ours = duration(lambda: client.call(RestoreCheckpoint("1")))
            finally:
                over.set()
                writer.join()
    return ours, longest


def _restore(world: World, which: int) -> Sample:
    found = _restored(world)
    _changed_by_hand(_daemon(world))
    return Sample(found[which] * 1000, _durations[-1] * 1000)


CHECKPOINT_MEASURES = (
    Measure(
        "checkpoint-create",
        f"CreateCheckpoint of {TASKS:,} tasks",
        "ms",
        5,
        False,
        _create,
        "SELECT, JSON and zlib",
    ),
    Measure(
        "checkpoint-restore",
        f"RestoreCheckpoint, {TASKS:,} tasks changed",
        "ms",
        2000,
        False,
        functools.partial(_restore, which=0),
        "UPDATE by SQLite alone",
        absolute=True,
    ),
    Measure(
        "checkpoint-restore-wait",
        f"Longest write of another client during RestoreCheckpoint, {TASKS:,} tasks changed",
        "ms",
        500,
        False,
        functools.partial(_restore, which=1),
        "UPDATE by SQLite alone",
        absolute=True,
    ),
)
"""In the order of the table."""
