"""Processes and what they started, read off ``/proc``: for figures, and to end what a killed shim left behind."""

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
    """What a tree of processes takes: resident bytes, CPU time since its start in ms, and how many processes it has."""

    rss_bytes: int
    cpu_ms: int
    processes: int


def descendants(pid: int) -> list[int]:
    """Every process below ``pid``, parents first."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = _children(waiting.pop())
        found += children
        waiting += children
    return found


def _children(pid: int) -> list[int]:
    numbers: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            try:
                with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                    numbers += map(int, file.read().split())
            except FileNotFoundError:
                if not os.path.exists("/proc/thread-self/children") and os.path.exists("/proc/self/stat"):
                    return [each for each, fields in _all_processes() if int(fields[1]) == pid]
    return numbers


def _fields(pid: int) -> list[bytes] | None:
    """``/proc/PID/stat`` from its third field on: state, parent, group, session..."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            raw = file.read()
    except OSError:
        return None
    return raw[raw.rindex(b")") + 1 :].split()


def parent_of(pid: int) -> int:
    """The process above one, as the kernel has it now; 0 where there is none."""
    fields = _fields(pid)
    return 0 if fields is None else int(fields[1])


def _all_processes() -> Iterator[tuple[int, list[bytes]]]:
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _fields(int(name))) is not None:
            yield int(name), fields


def usage(shim: int) -> Usage:
    """What the processes below a shim take now; the time of those that it has reaped counts too."""
    rss = ticks = count = 0
    own = _fields(shim)
    if own is None:
        return Usage(0, 0, 0)
    ticks += int(own[13]) + int(own[14])
    for pid in descendants(shim):
        fields = _fields(pid)
        if fields is None:
            continue
        ticks += sum(map(int, fields[11:15]))
        if fields[0] != b"Z":
            rss += int(fields[21]) * _PAGE
            count += 1
    return Usage(rss, round(ticks * _TICK_MS), count)


def end_cgroup(cgroup: Path) -> None:
    """Kill whatever is in a control group, which is ours alone."""
    with contextlib.suppress(OSError):
        (cgroup / "cgroup.kill").write_text("1")


def ran_out_of_memory(cgroup: Path | None) -> bool:
    """Whether the kernel has killed something in a control group because of its limit; False once the group is gone."""
    if cgroup is None:
        return False
    try:
        counts = dict(line.split() for line in (cgroup / "memory.events").read_text().splitlines())
    except (OSError, ValueError):
        return False
    return counts.get("oom_kill", "0") != "0"


def end_session(record: RunRecord, *, watched: bool) -> None:
    """Kill what is left of a child's session; blocks until nothing is, or for two seconds.

    ``watched`` says that the shim's end was seen as it happened, so that the number of the session cannot belong to
    somebody else by now. Otherwise only those are ended that still have a pipe to the shim, which proves it.
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
        # Looked at again, now that the descriptor names one process for good.
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
