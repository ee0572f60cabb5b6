"""Finds and kills every process of a run, or of a short-lived child, whose shim was killed and cannot do it.

A process is known by its session, an open pipe or its environment, and so are the processes that it started. It knows
no file of a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import re
import signal
import time
from collections.abc import Callable

from nexus.runtime.status import Reachable, RunRecord, boot_id, is_exhaustion, process_start
from nexus.runtime.tree import all_processes, parent_of, stat_fields

__all__ = [
    "RUN_ID",
    "Belongs",
    "end_left_behind",
    "end_members",
    "end_run",
    "end_when_possible",
    "has_run_id",
    "own_ancestry",
    "pid_namespace",
    "strings_of",
]

Belongs = Callable[[int, list[bytes]], bool]
"""Whether a process, given its pid and the fields of its ``stat`` from the third on, belongs to what is ended."""

_log = logging.getLogger("nexus.runtime")

RUN_ID = b"NEXUS_RUN_ID="

_LONGEST_S = 5.0
_PAUSE_S = 0.005
_AGAIN_S = 0.2
_EMPTY_SCANS = 2
"""One scan may miss a process that forks and ends meanwhile."""
_TERMINALS = "/dev/pts/"
_LEFT_BEHIND = re.compile(rb"NEXUS_RUN_ID=(?:.*\.)?child-(\d+)-(\d+)-(\d+)-\d+")


def strings_of(pid: int, file: str) -> list[bytes]:
    """The NUL-separated strings in a process's ``environ`` or ``cmdline``; none of one that has ended or is not ours.

    Raises:
        OSError: this process lacks descriptors or memory to look at it; so do the other functions here.
    """
    with Reachable(), open(f"/proc/{pid}/{file}", "rb") as strings:
        return strings.read().split(b"\0")
    return []


def own_ancestry() -> set[int]:
    """This process and its ancestors, which are never ended: a service may have started the daemon again."""
    pids = {os.getpid()}
    pid = os.getppid()
    while pid > 0:
        pids.add(pid)
        pid = parent_of(pid)
    return pids


def has_run_id(run_id: str) -> Belongs:
    """The processes whose environment has this run id."""
    variable = RUN_ID + run_id.encode()
    return lambda pid, _fields: variable in strings_of(pid, "environ")


async def end_when_possible(end: Callable[[], bool], what: str) -> bool:
    """Call ``end`` in a thread, and again as long as this process lacks the descriptors or the memory to look.

    ``what`` names what is to be ended, in the log.
    """
    told = False
    while True:
        try:
            return await asyncio.to_thread(end)
        except OSError as error:
            if not is_exhaustion(error):
                raise
            if not told:
                _log.error("%s: cannot look at its processes, trying again: %s", what, error)
                told = True
        await asyncio.sleep(_AGAIN_S)


def end_run(record: RunRecord, run_id: str, *, watched: bool) -> bool:
    """Kill what is left of a run whose shim was killed; blocks. Returns whether nothing is left.

    ``watched`` says that the shim's end was observed as it happened, so that the session id cannot have been reused.
    Otherwise the session alone proves nothing.
    """
    if record.boot != boot_id():
        return True
    has_id = has_run_id(run_id)

    def belongs(pid: int, fields: list[bytes]) -> bool:
        return (watched and int(fields[3]) == record.pid) or has_id(pid, fields) or _has_output(pid, record)

    if watched:
        # A chain of forks may be faster than every scan, but not faster than a signal to its whole group.
        _kill_group(record.pid, {_group(pid) for pid in own_ancestry()})
    return end_members(belongs, since=record.pid_start)


def end_left_behind() -> bool:
    """Kill the short-lived children of daemons of this user that have ended, where their shims did not; blocks."""
    own_namespace = pid_namespace()

    def belongs(pid: int, _fields: list[bytes]) -> bool:
        # A shim that was suspended has seen neither the end of the daemon nor that of its child.
        words = strings_of(pid, "cmdline")
        marks = [RUN_ID + mark for option, mark in itertools.pairwise(words) if option == b"--command"]
        for text in (*strings_of(pid, "environ"), *marks):
            match = _LEFT_BEHIND.fullmatch(text)
            if match is not None:
                namespace, daemon, start = map(int, match.groups())
                return namespace == own_namespace and process_start(daemon) != start
        return False

    return end_members(belongs)


def pid_namespace() -> int:
    """The inode of this process's pid namespace; 0 where the kernel has none."""
    with contextlib.suppress(OSError):
        return os.stat("/proc/self/ns/pid").st_ino
    return 0


def end_members(belongs: Belongs, *, since: int = 0) -> bool:
    """Kill the processes that belong, and all that these started, until none is left; returns whether that was reached.

    Processes that started before ``since`` (in clock ticks since the boot) are left alone, and so are this process and
    its ancestors. Blocks, for five seconds at most.
    """
    until = time.monotonic() + _LONGEST_S
    empty = 0
    killed: set[tuple[int, int]] = set()
    while empty < _EMPTY_SCANS and time.monotonic() < until:
        empty = 0 if _kill_found(belongs, since, killed) else empty + 1
        time.sleep(_PAUSE_S)
    return empty == _EMPTY_SCANS


def _kill_found(belongs: Belongs, since: int, killed: set[tuple[int, int]]) -> bool:
    """Look at every process once; returns whether any was killed, or is dying.

    ``killed`` has the pids and start times of those that were: one that is dying has neither its environment nor its
    pipes any more, and is there until its parent can be told.
    """
    own = own_ancestry()
    seen = {
        pid: fields
        for pid, fields in all_processes()
        if pid not in own and fields[0] not in b"ZX" and int(fields[19]) >= since
    }
    children: dict[int, list[int]] = {}
    for pid, fields in seen.items():
        children.setdefault(int(fields[1]), []).append(pid)
    protected = {_group(pid) for pid in own}
    done: set[int] = set()
    found_any = any((pid, int(fields[19])) in killed for pid, fields in seen.items())
    # The newest first: a process that forks and ends has the next pid by the time that the scan comes to it.
    for pid in sorted(seen, reverse=True):
        if pid in done or not belongs(pid, seen[pid]):
            continue
        found = [pid]
        while found:
            member = found.pop()
            if member not in done:
                done.add(member)
                start = int(seen[member][19])
                if _kill(member, start, protected):
                    found_any = True
                    killed.add((member, start))
                found += children.get(member, ())
    return found_any


def _group(pid: int) -> int:
    with contextlib.suppress(OSError):
        return os.getpgid(pid)
    return 0


def _kill(pid: int, start: int, protected: set[int]) -> bool:
    """Kill a process and its group. A group dies at once, with those of its processes that are forking.

    All processes of a group are in one session, which a process of the run has begun.
    """
    try:
        fd = os.pidfd_open(pid)
    except OSError as error:
        if is_exhaustion(error):
            raise
        return False
    try:
        # Checked again: from here on the descriptor names one process, even if the pid is reused.
        fields = stat_fields(pid)
        if fields is None or int(fields[19]) != start:
            return False
        group = int(fields[2])
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        _kill_group(group, protected)
    except OSError as error:
        if is_exhaustion(error):
            raise
        return False
    finally:
        os.close(fd)
    return True


def _kill_group(group: int, protected: set[int]) -> None:
    if group > 1 and group not in protected:
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)


def _has_output(pid: int, record: RunRecord) -> bool:
    """Whether a process has one of the run's pipes or its terminal open."""
    with Reachable():
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with Reachable():
                path = f"/proc/{pid}/fd/{descriptor}"
                name = os.readlink(path)
                if any(name == f"pipe:[{inode}]" for inode in record.pipes):
                    return True
                if record.terminal is not None and name.startswith(_TERMINALS):
                    file = os.stat(path)  # the kernel gives a terminal's number again; the ctime tells them apart
                    if (file.st_rdev, file.st_ctime_ns) == record.terminal:
                        return True
    return False
