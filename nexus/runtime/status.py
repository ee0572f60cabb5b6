"""Who is who: the files of a run, and whether a pid in them still means the process that it meant. It signals nobody.

The format of the status file is described at the top of ``native/nexus-shim.c``, which writes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path
from typing import NamedTuple

from nexus.runtime.spec import Exit

__all__ = [
    "STATUS_BYTES",
    "RunRecord",
    "Status",
    "boot_id",
    "boot_time_s",
    "is_locked",
    "now_ms",
    "open_process",
    "process_start",
    "read_status",
]

STATUS_BYTES = 512
_EXIT_AT = 256
_DONE_AT = 384


class RunRecord(NamedTuple):
    """What the shim wrote before the child became the program; the starts are those of ``/proc/PID/stat``."""

    boot: str
    pid: int
    pid_start: int
    started_at: int
    shim_pid: int
    shim_start: int
    segment: int
    index_bytes: int
    data_bytes: int
    pipes: tuple[int, int]


class Status(NamedTuple):
    """What the status file says: who runs, how it ended, whether it never started, whether all is over."""

    run: RunRecord | None
    exit: Exit | None
    failed: bool
    done: bool


def read_status(path: Path) -> Status | None:
    """The status of a run; None where there is no trace of it."""
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    run = _words(raw[:_EXIT_AT])
    end = _words(raw[_EXIT_AT:_DONE_AT])
    done = _words(raw[_DONE_AT:])
    record = None
    ended = None
    with contextlib.suppress(ValueError, IndexError):
        if run[:2] == ["run", "1"]:
            pid, start, started, shim, shim_start, segment, index, data, out, err = map(int, run[3:13])
            record = RunRecord(run[2], pid, start, started, shim, shim_start, segment, index, data, (out, err))
    with contextlib.suppress(ValueError, IndexError):
        if end[:1] == ["exit"]:
            ended = Exit("exit", int(end[1]), False, int(end[3]))
        elif end[:1] == ["signal"]:
            ended = Exit("signal", int(end[1]), end[2] == "1", int(end[3]))
    return Status(record, ended, end[:1] == ["fail"], done[:1] == ["done"])


def _words(raw: bytes) -> list[str]:
    return raw.replace(b"\0", b" ").decode("ascii", "replace").split()


def boot_id() -> str:
    """What the kernel calls this boot; ``-`` where it has no name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "-"


def boot_time_s() -> int | None:
    """When the kernel was booted, in seconds since 1970 by the clock as it goes now (proc(5), ``btime``)."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
            if line.startswith("btime "):
                return int(line.split()[1])
    return None


def is_locked(path: Path) -> bool:
    """Whether a shim lives: it holds the lock on this file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def process_start(pid: int) -> int | None:
    """When a process started, in ticks since the boot; with its pid it names a process. None where there is none."""
    try:
        raw = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name may hold blanks and brackets; field 22 is the 20th behind its last bracket.
    return int(raw[raw.rindex(b")") + 1 :].split()[19])


def open_process(pid: int, start: int) -> int | None:
    """A pidfd of exactly that process; None where it is gone, whoever has its pid now."""
    try:
        fd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.EINVAL):
            return None
        raise
    # The start is read when the descriptor is there already: both are of one process.
    if process_start(pid) == start:
        return fd
    os.close(fd)
    return None


def now_ms() -> int:
    """The time, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
