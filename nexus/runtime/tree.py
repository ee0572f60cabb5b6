"""Process trees read from ``/proc``: measures their usage, and kills the processes that a killed shim left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nexus.runtime.status import RunRecord, boot_id

__all__ = ["Usage", "descendants", "end_cgroup", "end_session", "parent_of", "ran_out_of_memory", "usage"]

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")
_ROUNDS = 400
_PAUSE_S = 0.005


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
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            try:
                with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                    pids += map(int, file.read().split())
            except FileNotFoundError:
                if not os.path.exists("/proc/thread-self/children") and os.path.exists("/proc/self/stat"):
                    return [each for each, fields in _all_processes() if int(fields[1]) == pid]
    return pids


def _fields(pid: int) -> list[bytes] | None:
    """The fields of ``/proc/PID/stat`` from the third on: state, parent, group, session..."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            raw = file.read()
    except OSError:
        return None
    return raw[raw.rindex(b")") + 1 :].split()


def parent_of(pid: int) -> int:
    """The pid of a process's current parent; 0 where there is none."""
    fields = _fields(pid)
    return 0 if fields is None else int(fields[1])


def _all_processes() -> Iterator[tuple[int, list[bytes]]]:
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _fields(int(name))) is not None:
            yield int(name), fields


def usage(shim_pid: int) -> Usage:
    """Measure the processes below a shim; CPU time includes the processes that the shim has reaped."""
    rss = ticks = count = 0
    own = _fields(shim_pid)
    if own is None:
        return Usage(0, 0, 0)
    ticks += int(own[13]) + int(own[14])
    for pid in descendants(shim_pid):
        fields = _fields(pid)
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


def end_session(record: RunRecord, *, watched: bool) -> None:
    """Kill the remaining processes of a child's session; blocks until none is left, or for two seconds.

    ``watched`` says that the shim's end was observed as it happened, so that the session id cannot have been reused.
    Otherwise only processes that still hold one of the run's pipes are killed: that proves that they belong to the run.
    """
    if record.boot != boot_id():
        return
    for _ in range(_ROUNDS):
        members = [pid for pid, fields in _all_processes() if int(fields[3]) == record.pid and fields[0] not in b"ZX"]
        killed = [pid for pid in members if _kill_member(pid, record, watched=watched)]
        if not killed:
            return
        time.sleep(_PAUSE_S)


def _kill_member(pid: int, record: RunRecord, *, watched: bool) -> bool:
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # Checked again: from here on the descriptor names one process, even if the pid is reused.
        fields = _fields(pid)
        if fields is None or int(fields[3]) != record.pid:
            return False
        if pid == record.pid and int(fields[19]) != record.pid_start:
            return False
        if not watched and not _has_pipe(pid, record.pipes):
            return False
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _has_pipe(pid: int, pipes: tuple[int, int]) -> bool:
    names = {f"pipe:[{inode}]" for inode in pipes}
    with contextlib.suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/{descriptor}") in names:
                    return True
    return False
