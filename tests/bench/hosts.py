"""The measures of another host: ``nexusctl --host`` over an sshd on loopback, beside ssh itself."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from bench.measures import Measure, Sample, duration
from bench.world import World
from support.hosts import RemoteHost

__all__ = ["HOST_MEASURES"]

_hosts: dict[int, RemoteHost] = {}


def _host(world: World) -> RemoteHost:
    """The host of a run, with a running daemon and the installed program."""
    if id(world) not in _hosts:
        daemon = world.new_daemon().start()
        made = world.enter(contextlib.closing(RemoteHost(daemon)))
        program = shutil.which("nexusctl", path=str(Path(sys.executable).parent))
        made.program(made.programs / "nexusctl", f'#!/bin/sh\nexec {program} "$@"\n')
        made.cli.environment |= {"NEXUS_HOST": made.url}
        made.cli.environment.pop("PYTHONWARNINGS", None)
        _hosts[id(world)] = made
    return _hosts[id(world)]


def _status(world: World) -> Sample:
    host = _host(world)
    environment = host.cli.environment
    program = str(Path(sys.executable).with_name("nexusctl"))
    ssh = [str(host.ssh), "-T", "-p", str(host.server.port), f"{host.server.user}@127.0.0.1", "true"]

    def run(command: list[str]) -> float:
        return duration(lambda: subprocess.run(command, env=environment, check=True, capture_output=True)) * 1000

    rounds = 3 if world.quick else 7
    ours, baseline = zip(*((run([program, "status"]), run(ssh)) for _ in range(rounds)), strict=True)
    return Sample(statistics.median(ours), statistics.median(baseline))


HOST_MEASURES = (
    Measure("host", "`nexusctl --host … status`, whole process", "ms", 2.0, False, _status, "`ssh … true`"),
)
"""In the order of the table."""
