"""Process trees and control groups, read from ``/proc`` and the cgroup file system: descendants, usage, their end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nexus.runtime.status import Reachable, is_exhaustion

__all__ = [
    "Usage",
    "all_processes",
    "descendants",
    "end_cgroup",
    "parent_of",
    "ran_out_of_memory",
    "stat_fields",
    "usage",
]

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """Usage of a process tree: resident bytes, CPU time since its start in ms, and the number of processes."""

    rss_bytes: int
    cpu_ms: int
    processes: int


def descendants(pid: int) -> list[int]:
    """The pids of all processes below ``pid``, parents first."""
    found: list[int] = []
    unvisited = [pid]
    while unvisited:
        children = _children(unvisited.pop())
        found += children
        unvisited += children
    return found


def _children(pid: int) -> list[int]:
    pids: list[int] = []
    with Reachable():
        for thread in os.listdir(f"/proc/{pid}/task"):
            try:
                with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                    pids += map(int, file.read().split())
            except FileNotFoundError:
                if not os.path.exists("/proc/thread-self/children") and os.path.exists("/proc/self/stat"):
                    return [each for each, fields in all_processes() if int(fields[1]) == pid]
    return pids


def stat_fields(pid: int) -> list[bytes] | None:
    """The fields of ``/proc/PID/stat`` from the third on: state, parent, group, session...; None where it has ended.

    Raises:
        OSError: this process lacks descriptors or memory to look at it; so do the other functions here.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            raw = file.read()
    except OSError as error:
        if is_exhaustion(error):
            raise
        return None
    return raw[raw.rindex(b")") + 1 :].split()


def parent_of(pid: int) -> int:
    """The pid of a process's current parent; 0 where there is none."""
    fields = stat_fields(pid)
    return 0 if fields is None else int(fields[1])


def all_processes() -> Iterator[tuple[int, list[bytes]]]:
    """The pid and the ``stat_fields`` of every process."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := stat_fields(int(name))) is not None:
            yield int(name), fields


def usage(shim_pid: int) -> Usage:
    """Measure the processes below a shim; CPU time includes the processes that the shim has reaped."""
    rss = ticks = count = 0
    own = stat_fields(shim_pid)
    if own is None:
        return Usage(0, 0, 0)
    ticks += int(own[13]) + int(own[14])
    for pid in descendants(shim_pid):
        fields = stat_fields(pid)
        if fields is None:
            continue
        ticks += sum(map(int, fields[11:15]))
        if fields[0] != b"Z":
            rss += int(fields[21]) * _PAGE
            count += 1
    return Usage(rss, round(ticks * _TICK_MS), count)


def end_cgroup(cgroup: Path) -> None:
    """Kill every process in a control group, which must contain no other run."""
    with contextlib.suppress(OSError):
        (cgroup / "cgroup.kill").write_text("1")


def ran_out_of_memory(cgroup: Path | None) -> bool:
    """Whether the kernel killed a process in a control group for its memory limit; False once the group is removed."""
    if cgroup is None:
        return False
    try:
        counts = dict(line.split() for line in (cgroup / "memory.events").read_text().splitlines())
    except (OSError, ValueError):
        return False
    return counts.get("oom_kill", "0") != "0"
