"""The measures of the daemon and the client: for each line of the table, one round of it and its target."""

from __future__ import annotations

import functools
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bench.baselines import forked, select_dicts
from bench.world import IN_FLIGHT, RECORDS, Pipeline, World
from nexus_protocol import Command

from nexus.client import BlockingClient
from nexus.system.commands import Ping
from nexus.vms.commands import CreateVm, GetVm, ListVms

__all__ = ["MEASURES", "Measure", "Sample", "compare_durations", "duration", "paced_pings"]

Timed = Callable[[float], tuple[int, float]]
"""Repeats an operation for a number of seconds; returns the count and the elapsed seconds."""


class Sample(NamedTuple):
    """The figures of one round."""

    ours: float
    baseline: float | None = None


class Measure(NamedTuple):
    """One line of the table."""

    name: str
    title: str
    unit: str
    target: float
    """A ratio to the baseline; without a baseline, or where ``absolute``, an absolute figure."""
    more_is_better: bool
    sample: Callable[[World], Sample]
    baseline: str = ""
    """The name of the baseline."""
    absolute: bool = False
    """Whether the target is one of the figure itself, though there is a baseline."""


# Ways to measure


def _rate(call: Callable[[], Any]) -> Timed:
    def timed(seconds: float) -> tuple[int, float]:
        done = 0
        start = now = time.perf_counter()
        while now < start + seconds:
            call()
            done += 1
            now = time.perf_counter()
        return done, now - start

    return timed


def _pipelined_rate(pipeline: Pipeline, make: Callable[[], Command[Any]]) -> Timed:
    def timed(seconds: float) -> tuple[int, float]:
        start = time.perf_counter()
        done = pipeline.run(make, lambda _sent: time.perf_counter() < start + seconds)
        return done, time.perf_counter() - start

    return timed


def _compare_rates(world: World, ours: Timed, baseline: Timed) -> Sample:
    """Both rates per second, in short alternating slices, so that other load of the machine affects both."""
    slices = 4
    seconds = (0.1 if world.quick else 0.4) / slices
    counts, times = [0, 0], [0.0, 0.0]
    for _ in range(slices):
        for side, timed in enumerate((ours, baseline)):
            count, elapsed = timed(seconds)
            counts[side] += count
            times[side] += elapsed
    return Sample(counts[0] / times[0], counts[1] / times[1])


def compare_durations(world: World, ours: Callable[[], float], baseline: Callable[[], float]) -> Sample:
    """The medians of a few alternating durations of each, in milliseconds."""
    pairs = [(ours(), baseline()) for _ in range(1 if world.quick else 3)]
    return Sample(*(statistics.median(durations) * 1000 for durations in zip(*pairs, strict=True)))


def duration(work: Callable[[], Any]) -> float:
    """The duration of ``work`` in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# Requests


def _ping(world: World) -> Sample:
    client, command = world.full_client, Ping()
    return _compare_rates(world, _rate(lambda: client.call(command)), _rate(world.exchange))


def _get(world: World) -> Sample:
    client = world.full_client
    commands = itertools.cycle([GetVm(f"vm-{number}") for number in range(0, RECORDS, 7)])
    return _compare_rates(world, _rate(lambda: client.call(next(commands))), _rate(world.exchange))


def _ping_many(world: World) -> Sample:
    client, command = world.full_client, Ping()
    many = _pipelined_rate(world.full_pipeline, lambda: command)
    return _compare_rates(world, many, _rate(lambda: client.call(command)))


def _create(world: World) -> Sample:
    client = world.growing_client
    return _compare_rates(world, _rate(lambda: client.call(world.new_vm())), _rate(world.inserts))


def _create_many(world: World) -> Sample:
    client = world.crowded_client
    many = _pipelined_rate(world.crowded_pipeline, world.new_vm)
    return _compare_rates(world, many, _rate(lambda: client.call(world.new_vm())))


def _batch(world: World) -> Sample:
    """The duration of one batch of new VMs, and of as many requests one after the other."""
    client = world.crowded_client

    def create_each() -> None:
        for _ in range(_BATCH):
            client.call(world.new_vm())

    return compare_durations(
        world,
        lambda: duration(lambda: client.batch([world.new_vm() for _ in range(_BATCH)])),
        lambda: duration(create_each),
    )


def _batch_latency(world: World) -> Sample:
    daemon = world.crowded
    with world.all_cores(daemon), BlockingClient(daemon.socket_path) as pinging:

        def batches() -> None:
            with BlockingClient(daemon.socket_path) as client:
                for number in itertools.count():
                    client.batch([CreateVm(f"batched-{os.getpid()}-{number}-{each}") for each in range(_BATCH)])

        with forked(batches):
            time.sleep(0.05)
            latencies = paced_pings(pinging, 100 if world.quick else 400)
    return Sample(statistics.quantiles(latencies, n=100)[98] * 1000)


# Lists


def _list_all(client: BlockingClient) -> None:
    count = 0
    cursor = None
    while True:
        page = client.call_raw(ListVms(limit=10_000, cursor=cursor))
        count += len(page["vms"])
        cursor = page.get("next_cursor")
        if cursor is None:
            break
    assert count == RECORDS, f"{count} of {RECORDS} records were listed"


def _list(world: World) -> Sample:
    client, table = world.full_client, world.table
    return compare_durations(
        world, lambda: duration(lambda: _list_all(client)), lambda: duration(lambda: select_dicts(table))
    )


def paced_pings(client: BlockingClient, count: int) -> list[float]:
    """The latencies in seconds of Pings that are due at fixed times: a delayed one also delays the next, which counts.

    A Ping sent only after the previous reply would hide slow replies (coordinated omission).
    """
    command = Ping()
    latencies = []
    due = time.perf_counter()
    for _ in range(count):
        due += 0.0025
        while (left := due - time.perf_counter()) > 0:
            time.sleep(left)
        start = due if left < -0.0005 else time.perf_counter()
        client.call(command)
        latencies.append(time.perf_counter() - start)
    return latencies


def _latency(world: World, percent: int) -> Sample:
    with world.all_cores(world.full):
        path, client = world.full.socket_path, world.client(world.full)
        read_end, write_end = os.pipe()

        def lists() -> None:
            with BlockingClient(path) as other:
                while True:
                    _list_all(other)
                    os.write(write_end, b".")

        with forked(lists):
            os.read(read_end, 1)
            latencies = paced_pings(client, 100 if world.quick else 400)
            os.close(write_end)
            assert os.read(read_end, 1), "no list was finished while the pings were measured"
        os.close(read_end)
    return Sample(statistics.quantiles(latencies, n=100)[percent - 1] * 1000)


# Processes


def _process(world: World, *command: str | Path) -> float:
    def run() -> None:
        subprocess.run(
            command, env=world.few.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True
        )

    return duration(run)


def _cli(world: World) -> Sample:
    nexusctl = Path(sys.executable).with_name("nexusctl")
    return compare_durations(
        world,
        lambda: _process(world, nexusctl, "vm", "list"),
        lambda: _process(world, sys.executable, "-c", "import click"),
    )


def _start(world: World) -> Sample:
    daemon = world.stopped

    def start() -> float:
        duration_s = duration(daemon.start)
        daemon.stop()
        return duration_s

    return compare_durations(
        world, start, lambda: _process(world, sys.executable, "-c", "import asyncio, sqlite3, msgspec")
    )


def _memory(world: World) -> Sample:
    return Sample(world.idle.rss_bytes() / 1024 / 1024)


_BATCH = 1000
_PING_PONG = "Python ping-pong of 400 bytes"

MEASURES = (
    Measure("ping", "Ping, one blocking client", "/s", 0.50, True, _ping, _PING_PONG),
    Measure("get", f"GetVm of {RECORDS:,}, one blocking client", "/s", 0.28, True, _get, _PING_PONG),
    Measure(
        "ping-many", f"Ping, {IN_FLIGHT} in flight on one connection", "/s", 3.0, True, _ping_many, "one at a time"
    ),
    Measure(
        "create", "CreateVm, durable and journaled, one client", "/s", 0.55, True, _create, "SQLite alone, same rows"
    ),
    Measure("create-many", f"CreateVm, {IN_FLIGHT} in flight", "/s", 5.0, True, _create_many, "one at a time"),
    Measure("batch", f"a Batch of {_BATCH} CreateVm", "ms", 0.2, False, _batch, "one after another"),
    Measure("batch-p99", "Ping during such batches, p99", "ms", 20.0, False, _batch_latency),
    Measure("list", f"ListVms of {RECORDS:,}, to dicts", "ms", 1.5, False, _list, "SELECT to dicts, in process"),
    Measure("latency-p50", "Ping during lists, p50", "ms", 1.0, False, functools.partial(_latency, percent=50)),
    Measure("latency-p99", "Ping during lists, p99", "ms", 10.0, False, functools.partial(_latency, percent=99)),
    Measure("cli", "`nexusctl vm list`, whole process", "ms", 1.6, False, _cli, "`import click`"),
    Measure("start", "`nexusd`, start to ready", "ms", 2.5, False, _start, "`import asyncio, sqlite3, msgspec`"),
    Measure("memory", f"`nexusd`, idle with {RECORDS:,} VMs, resident", "MiB", 40.0, False, _memory),
)
"""In the order of the table."""
