"""Lists with a filter, and the daemon's status, among a hundred thousand and a million VM records."""

from __future__ import annotations

import contextlib
import functools
import itertools
import statistics
import uuid
from typing import Any

from bench.measures import Measure, Sample, duration
from bench.world import World
from nexus_protocol import Command
from support.daemon import DaemonProcess

from nexus.client import BlockingClient
from nexus.store.connection import connect
from nexus.system.commands import GetSystemStatus
from nexus.vms.commands import ListVms
from nexus.vms.states import VmRole, VmState

__all__ = ["FILTER_MEASURES"]

_INSERT = (
    "INSERT INTO vms (id, name, role, state, cid, vcpu_count, mem_size_mib, created_at, updated_at) "
    "VALUES (?, ?, ?, 'created', ?, 1, 128, ?, ?)"
)
_AT = 1_767_225_600_000


@functools.cache
def _daemon_of(world: World, count: int) -> DaemonProcess:
    """A daemon with ``count`` VMs of the roles work and portal, none of which was started."""
    daemon = world.new_daemon().start()
    daemon.stop()
    rows = (
        (str(uuid.uuid4()), f"vm-{number}", "portal" if number % 2 else "work", 3 + number, at, at)
        for number in range(count)
        for at in (_AT + number // 100,)
    )
    with contextlib.closing(connect(daemon.database, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        connection.executemany(_INSERT, rows)
        connection.execute("COMMIT")
    return daemon.start()


def _latency(world: World, count: int, command: Command[Any]) -> Sample:
    """The median duration of a command in milliseconds."""
    with BlockingClient(_daemon_of(world, count).socket_path) as client:
        client.call_raw(command)
        return Sample(
            statistics.median(duration(lambda: client.call_raw(command)) for _ in range(20 if world.quick else 100))
            * 1000
        )


_COMMANDS: dict[str, tuple[str, Command[Any], float]] = {
    "nothing": ("ListVms of a role that none has", ListVms(role=VmRole.SERVICE), 5.0),
    "first": ("ListVms of a role that half have, 100 records", ListVms(role=VmRole.WORK, limit=100), 5.0),
    "two": (
        "ListVms of a role and a state that none has, one page",
        ListVms(role=VmRole.WORK, state=VmState.FAILED),
        60.0,
    ),
    "status": ("GetSystemStatus", GetSystemStatus(), 5.0),
}

FILTER_MEASURES = tuple(
    Measure(
        f"{name}-{short}",
        f"{title}, {count:,} VMs, p50",
        "ms",
        target,
        False,
        functools.partial(_latency, count=count, command=command),
    )
    for (short, count), (name, (title, command, target)) in itertools.product(
        (("100k", 100_000), ("1m", 1_000_000)), _COMMANDS.items()
    )
)
"""In the order of the table."""
