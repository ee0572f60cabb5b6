"""The measures of jobs: how many short ones a second, beside task-spooler and make; a queue of twenty thousand."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sqlite3
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator

from bench.measures import Measure, Sample, duration
from bench.world import Pipeline, World
from nexus_protocol import Command

from nexus.client import BlockingClient
from nexus.jobs.commands import (
    CreateJob,
    CreateJobGroup,
    ListJobs,
    PauseJobGroup,
    PruneJobs,
    UpdateJobGroup,
    WaitJobs,
)
from nexus.jobs.states import JobStatus
from nexus.system.commands import GetSystemStatus

__all__ = ["JOB_MEASURES"]

_QUEUED = 20_000
_SHORT = 300
_SLOTS = 2
_MIB = 1024 * 1024
_ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/", "LANG": "C.UTF-8"}


class Yard:
    """A daemon for jobs, and a group with a slot for each of two cores."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.daemon = world.new_daemon()
        self.daemon.start()
        world.enter(contextlib.closing(self.daemon))
        self.client = world.enter(BlockingClient(self.daemon.socket_path))
        self.client.call(CreateJobGroup("short", slots=_SLOTS))

    def each(self, commands: Iterable[Command[object]], count: int) -> None:
        """Send many commands in a pipeline."""
        pending = iter(commands)
        with contextlib.closing(Pipeline(self.daemon.socket_path)) as pipeline:
            assert pipeline.run(lambda: next(pending), lambda sent: sent < count) == count

    def run_short(self) -> float:
        """Submit short jobs and wait for all; returns how many a second."""
        count = _SHORT if not self.world.quick else _SHORT // 3
        start = time.perf_counter()
        self.each((CreateJob(["/bin/true"], environment=_ENVIRONMENT, group="short") for _ in range(count)), count)
        self.client.call(WaitJobs(group="short"))
        rate = count / (time.perf_counter() - start)
        while self.client.call(PruneJobs()).more:
            pass
        return rate


@functools.cache
def _yard_of(world: World) -> Yard:
    return Yard(world)


def _beside(world: World, baseline: Callable[[World], float]) -> Sample:
    yard = _yard_of(world)
    with world.all_cores(yard.daemon):
        return Sample(yard.run_short(), baseline(world))


def _rate(world: World) -> Sample:
    yard = _yard_of(world)
    with world.all_cores(yard.daemon):
        return Sample(yard.run_short())


@contextlib.contextmanager
def _spooler(world: World) -> Iterator[dict[str, str]]:
    environment = {**os.environ, "TS_SOCKET": str(world.new_root() / "tsp")}
    subprocess.run(["tsp", "-S", str(_SLOTS)], env=environment, check=True)
    try:
        yield environment
    finally:
        subprocess.run(["tsp", "-K"], env=environment, check=False)


def _task_spooler(world: World) -> float:
    """Short jobs a second by task-spooler, a process for each submission, as its users have it."""
    if shutil.which("tsp") is None:
        raise RuntimeError("task-spooler is not installed: apt install task-spooler")
    count = _SHORT if not world.quick else _SHORT // 3
    with _spooler(world) as environment:
        start = time.perf_counter()
        for _ in range(count):
            subprocess.run(["tsp", "-n", "/bin/true"], env=environment, stdout=subprocess.DEVNULL, check=True)
        subprocess.run(["tsp", "-w"], env=environment, check=False)
        return count / (time.perf_counter() - start)


def _make(world: World) -> float:
    """Short commands a second by ``make -j2``."""
    count = _SHORT if not world.quick else _SHORT // 3
    root = world.new_root()
    targets = [f"t{number}" for number in range(count)]
    rules = "".join(f"{target}:\n\t@/bin/true\n" for target in targets)
    (root / "Makefile").write_text(f"all: {' '.join(targets)}\n{rules}")
    taken = duration(lambda: subprocess.run(["make", "-s", f"-j{_SLOTS}"], cwd=root, check=True))
    return count / taken


class Queue:
    """A daemon with twenty thousand queued jobs, none of which begins."""

    def __init__(self, world: World) -> None:
        yard = Yard(world)
        self.client = yard.client
        self.client.call(PauseJobGroup("short"))
        before = self._memory()
        jobs = (CreateJob(["/bin/true"], environment=_ENVIRONMENT, group="short") for _ in range(_QUEUED))
        yard.each(jobs, _QUEUED)
        self.growth_mib = (self._memory() - before) / _MIB

    def _memory(self) -> int:
        return self.client.call(GetSystemStatus()).memory_rss_bytes


@functools.cache
def _queue_of(world: World) -> Queue:
    return Queue(world)


def _memory(world: World) -> Sample:
    return Sample(_queue_of(world).growth_mib)


def _first_page(world: World, status: JobStatus | None) -> Sample:
    client = _queue_of(world).client
    taken = [duration(lambda: client.call(ListJobs(status=status, limit=100))) * 1000 for _ in range(20)]
    return Sample(statistics.median(taken))


def _size(world: World, tables: str) -> Sample:
    """What 5,000 ended jobs of about 1 KB each take in the database, from a thousand."""
    yard = Yard(world)
    yard.client.call(UpdateJobGroup("short", slots=8))
    line = "printf '%0500d\\n' 1; printf '%0250d\\n' 2 >&2"
    jobs = (CreateJob(line, environment=_ENVIRONMENT, group="short") for _ in range(1000))
    with world.all_cores(yard.daemon):
        yard.each(jobs, 1000)
        yard.client.call(WaitJobs(group="short"))
    yard.daemon.stop()  # what is in the write-ahead log comes into the file
    with contextlib.closing(sqlite3.connect(yard.daemon.database)) as database:
        (size,) = database.execute(f"SELECT sum(pgsize) FROM dbstat WHERE {tables}").fetchone()
    return Sample(size * 5 / _MIB)


_OF_JOBS = "name GLOB '*jobs*' OR name GLOB '*job_after*'"
_OF_HISTORY = "name GLOB '*journal*' OR name GLOB '*operation*'"

JOB_MEASURES = (
    Measure("jobs-rate", "short jobs, two slots", "/s", 100, True, _rate),
    Measure(
        "jobs-tsp",
        "the same beside task-spooler",
        "/s",
        0.25,
        True,
        lambda world: _beside(world, _task_spooler),
        "tsp -S 2",
    ),
    Measure("jobs-make", "the same beside make", "/s", 0.08, True, lambda world: _beside(world, _make), "make -j2"),
    Measure("jobs-memory", "memory for 20,000 queued jobs", "MiB", 20, False, _memory),
    Measure(
        "jobs-list", "first page of 100 among 20,000 jobs", "ms", 10, False, lambda world: _first_page(world, None)
    ),
    Measure(
        "jobs-list-none",
        "the same for a status that none has",
        "ms",
        5,
        False,
        lambda world: _first_page(world, JobStatus.UNKNOWN),
    ),
    Measure("jobs-size", "5,000 ended jobs and their indexes", "MiB", 15, False, lambda world: _size(world, _OF_JOBS)),
    Measure("jobs-history", "their history", "MiB", 10, False, lambda world: _size(world, _OF_HISTORY)),
)
"""In the order of the table."""
