"""The measures of the code index: this repository, indexed for the first time and again, and a Ping beside it."""

from __future__ import annotations

import functools
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.measures import Measure, Sample, paced_pings
from bench.world import World
from support.daemon import DaemonProcess

from nexus.client import BlockingClient
from nexus.memory.chunks.commands import DeleteChunks

__all__ = ["CHUNK_MEASURES"]

_ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def _daemon(world: World) -> DaemonProcess:
    return world.new_daemon().start()


def _command() -> list[str]:
    return [sys.executable, "-m", "nexus.cli.main", "chunk", "index", "--root", str(_ROOT), "-o", "json"]


def _index(daemon: DaemonProcess) -> float:
    begin = time.perf_counter()
    subprocess.run(_command(), env=daemon.environment, check=True, capture_output=True)
    return time.perf_counter() - begin


def _empty(daemon: DaemonProcess) -> None:
    with BlockingClient(daemon.socket_path) as client:
        while client.call(DeleteChunks(limit=1000)).more:
            pass


def _first(world: World) -> Sample:
    daemon = _daemon(world)
    _empty(daemon)
    with world.all_cores(daemon):
        return Sample(_index(daemon))


def _second(world: World) -> Sample:
    daemon = _daemon(world)
    with world.all_cores(daemon):
        _index(daemon)
        return Sample(_index(daemon))


def _pings(world: World) -> Sample:
    """The 99th percentile of the latencies of another client while the repository is indexed for the first time."""
    daemon = _daemon(world)
    _empty(daemon)
    with world.all_cores(daemon), BlockingClient(daemon.socket_path) as client:
        process = subprocess.Popen(
            _command(), env=daemon.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        latencies: list[float] = []
        while process.poll() is None:
            latencies += paced_pings(client, 40)
        assert process.returncode == os.EX_OK
        return Sample(1000 * statistics.quantiles(latencies, n=100)[98])


CHUNK_MEASURES = (
    Measure("chunk-first", "first index of this repository", "s", 8, False, _first),
    Measure("chunk-second", "the same again, without changes", "s", 5, False, _second),
    Measure("chunk-ping", "Ping beside a first index, p99", "ms", 20, False, _pings),
)
"""In the order of the table."""
