"""What the history of changes costs: bytes for each change, and how long the deletion of old events delays a write."""

from __future__ import annotations

import contextlib
import sqlite3
import statistics
import time

from bench.measures import Measure, Sample, duration
from bench.world import World

from nexus.client import BlockingClient
from nexus.services.commands import AddService, UpdateService
from nexus.system.commands import SetSetting
from nexus.vms.commands import CreateVm, DeleteVm, UpdateVm

__all__ = ["HISTORY_MEASURES"]

_CHANGES = 10_000
_OLD_EVENTS = 100_000
_DURING_S = 1.5
_HISTORY = ("journal", "operation", "secret_value", "request_key")


def _bytes(world: World) -> Sample:
    """MiB of the tables of the history and their indexes after 10,000 changes of every kind of record."""
    daemon = world.new_daemon().start()
    count = 1000 if world.quick else _CHANGES
    with BlockingClient(daemon.socket_path, actor="agent-7", why="the tests need room") as client:
        client.call(AddService("api", run_command="exec api --port 1", environment={"TOKEN": "x" * 40}))
        client.call(CreateVm("web"))
        made = 2
        number = 0
        while made < count:
            number += 1
            client.call(CreateVm(f"vm-{number}"))
            for size in (256, 512, 1024):
                client.call(UpdateVm("web", mem_size_mib=size + number))
            client.call(SetSetting("colour", number))
            client.call(UpdateService("api", port=number % 60_000, tags=[f"build-{number}"]))
            client.call(UpdateService("api", set_environment={"BUILD": str(number)}))
            client.call(DeleteVm(f"vm-{number}"))
            made += 8
    daemon.stop()
    with contextlib.closing(sqlite3.connect(daemon.database)) as connection:
        page = connection.execute("PRAGMA page_size").fetchone()[0]
        names = [
            name
            for table in _HISTORY
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE tbl_name = ?", (table,))
        ]
        pages = _pages(connection, names)
    return Sample(pages * page / 1024 / 1024 * _CHANGES / made)


def _pages(connection: sqlite3.Connection, names: list[str]) -> int:
    try:
        rows = connection.execute("SELECT name, count(*) FROM dbstat GROUP BY name").fetchall()
    except sqlite3.OperationalError:  # SQLite was built without dbstat: all pages count
        return int(connection.execute("PRAGMA page_count").fetchone()[0])
    return sum(count for name, count in rows if name in names)


def _delay(world: World) -> Sample:
    """How much longer the longest writes take while 100,000 old events are deleted, in ms."""
    daemon = world.new_daemon().start()
    with BlockingClient(daemon.socket_path) as client:
        client.call(CreateVm("web"))
    daemon.stop()
    with contextlib.closing(sqlite3.connect(daemon.database, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        columns = [row[1] for row in connection.execute("PRAGMA table_info(journal)") if row[1] != "seq"]
        names = ", ".join(columns)
        (row,) = connection.execute(f"SELECT {names} FROM journal LIMIT 1").fetchall()
        old = dict(zip(columns, row, strict=True)) | {"at": 1}
        marks = ", ".join("?" * len(columns))
        first = 1_000_000
        connection.execute("DELETE FROM journal")
        connection.execute("UPDATE operation SET id = ?", (first - 1,))
        for number in range(first, first + _OLD_EVENTS):
            connection.execute(
                "INSERT INTO operation (id, at, command, uid, pid) VALUES (?, 1, 'UpdateVm', 0, 1)", (number,)
            )
            values = (*(old | {"operation_id": number}).values(),)
            connection.execute(f"INSERT INTO journal ({names}) VALUES ({marks})", values)
        connection.execute("COMMIT")
    daemon.start()
    with BlockingClient(daemon.socket_path) as client:
        with contextlib.closing(sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True)) as looking:
            during = _writes(client, _DURING_S)
            (left,) = looking.execute("SELECT count(*) FROM journal WHERE at = 1").fetchone()
            assert left, "the deletion ended before the measurement"
            while looking.execute("SELECT 1 FROM journal WHERE at = 1 LIMIT 1").fetchone():
                _writes(client, 0.1)
        time.sleep(0.5)
        without = _writes(client, _DURING_S)
    return Sample(max(_longest(during) - _longest(without), 0.0))


def _writes(client: BlockingClient, seconds: float) -> list[float]:
    """The durations of writes, one after the other."""
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        taken.append(duration(lambda: client.call(UpdateVm("web", mem_size_mib=128 + len(taken) % 1000))))
    return taken


def _longest(taken: list[float]) -> float:
    """The 99.9th percentile in ms: a single write may meet another program of the machine."""
    return statistics.quantiles(taken, n=1000)[-1] * 1000


HISTORY_MEASURES = (
    Measure("history-bytes", f"events, operations and secrets of {_CHANGES:,} changes", "MiB", 8.0, False, _bytes),
    Measure(
        "retention",
        f"delay of UpdateVm while {_OLD_EVENTS:,} old events are deleted, p99.9",
        "ms",
        20.0,
        False,
        _delay,
    ),
)
"""In the order of the table."""
