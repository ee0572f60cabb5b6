"""Reads a run's status and lock files, and checks whether a recorded pid still names the same process.

It sends no signals. The format of the status file is described at the top of ``native/nexus-shim.c``, which writes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from nexus.runtime.spec import Exit

__all__ = [
    "STATUS_BYTES",
    "Reachable",
    "RunRecord",
    "Status",
    "boot_id",
    "boot_time_s",
    "boot_clock_ms",
    "is_exhaustion",
    "is_locked",
    "now_ms",
    "open_process",
    "process_lives",
    "process_start",
    "read_status",
]

STATUS_BYTES = 512
_OUTPUT_PIPES = 2
_WITH_TERMINAL = 5
"""How many numbers say what the child's standard input and output are."""
_EXIT_AT = 256
_DONE_AT = 384
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""A FIFO or a link that was put in the place of a file must neither block the daemon nor lead elsewhere."""
_REPLACED = (errno.ELOOP, errno.ENXIO)
"""Opening fails like this where a link or a socket is in the place of a file."""


def is_exhaustion(error: OSError) -> bool:
    """Whether this process lacks descriptors or memory, so that the error says nothing about what was looked at."""
    return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Reachable:
    """Suppresses the OSError of a process that has ended or belongs to another user, but not that of exhaustion."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        return isinstance(error, OSError) and not is_exhaustion(error)


class RunRecord(NamedTuple):
    """What the shim recorded before the child executed the program.

    ``pid_start`` and ``shim_start`` are the start times from ``/proc/PID/stat``; ``started_at`` is in ms. ``pipes`` are
    the inodes of the child's pipes: output, error, and input where that is open. ``terminal`` is its terminal, where it
    has one: the device number, and the ctime in ns.
    """

    boot: str
    pid: int
    pid_start: int
    started_at: int
    shim_pid: int
    shim_start: int
    segment: int
    index_bytes: int
    data_bytes: int
    pipes: tuple[int, ...]
    terminal: tuple[int, int] | None = None

    @property
    def attachable(self) -> bool:
        """Whether the child was started with a terminal or an open standard input."""
        return self.terminal is not None or len(self.pipes) > _OUTPUT_PIPES


class Status(NamedTuple):
    """The content of a status file.

    ``failed``: the program could not be started. ``done``: all processes of the run have ended and the log is complete.
    """

    run: RunRecord | None
    exit: Exit | None
    failed: bool
    done: bool


def read_status(path: Path) -> Status | None:
    """Read the status of a run; None where the file does not exist. Fields that cannot be parsed are None or False.

    Raises:
        OSError: it cannot be looked at.
    """
    try:
        raw = _read_start(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    run = _split(raw[:_EXIT_AT])
    end = _split(raw[_EXIT_AT:_DONE_AT])
    done = _split(raw[_DONE_AT:])
    record = None
    ended = None
    with contextlib.suppress(ValueError, IndexError):
        if run[:2] == ["run", "1"]:
            pid, start, started, shim, shim_start, segment, index, data, *rest = map(int, run[3:16])
            pipes = tuple(rest[:3]) if len(rest) < _WITH_TERMINAL else ()
            terminal = (rest[3], rest[4]) if len(rest) == _WITH_TERMINAL else None
            if len(rest) >= _OUTPUT_PIPES:
                record = RunRecord(run[2], pid, start, started, shim, shim_start, segment, index, data, pipes, terminal)
    with contextlib.suppress(ValueError, IndexError):
        if end[:1] == ["exit"]:
            ended = Exit("exit", int(end[1]), False, int(end[3]))
        elif end[:1] == ["signal"]:
            ended = Exit("signal", int(end[1]), end[2] == "1", int(end[3]))
    return Status(record, ended, end[:1] == ["fail"], done[:1] == ["done"])


def _read_start(path: Path) -> bytes:
    """The bytes of a status file; none where something else than a file is in its place."""
    try:
        fd = os.open(path, _OPEN)
    except OSError as error:
        if error.errno in _REPLACED:
            return b""
        raise
    try:
        return os.read(fd, STATUS_BYTES) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)


def _split(raw: bytes) -> list[str]:
    return raw.replace(b"\0", b" ").decode("ascii", "replace").split()


def boot_id() -> str:
    """The kernel's id of this boot; ``-`` where it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "-"


def boot_clock_ms() -> int:
    """The time since the boot in ms, also while suspended (CLOCK_BOOTTIME): it never jumps, unlike the wall clock."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def boot_time_s() -> int | None:
    """When the kernel was booted, in seconds since 1970 by the clock as it goes now (proc(5), ``btime``)."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
            if line.startswith("btime "):
                return int(line.split()[1])
    return None


def is_locked(path: Path) -> bool:
    """Whether a running shim holds the lock on this file; False where something else is in its place.

    Raises:
        OSError: it cannot be looked at.
    """
    try:
        fd = os.open(path, _OPEN)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno in _REPLACED:
            return False
        raise
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def process_start(pid: int) -> int | None:
    """When a process started, in clock ticks since the boot; pid and start time together identify a process.

    None where there is no such process.

    Raises:
        OSError: it cannot be looked at; that is no proof that it is gone.
    """
    try:
        raw = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name may contain blanks and brackets; field 22 is the 20th after the last bracket.
    return int(raw[raw.rindex(b")") + 1 :].split()[19])


def open_process(pid: int, start: int) -> int | None:
    """Open a pidfd of the process with this pid and start time; None where it has ended, even if the pid was reused."""
    try:
        fd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.EINVAL):
            return None
        raise
    # Reading the start time after opening the descriptor ensures that both belong to one process.
    same = False
    try:
        same = process_start(pid) == start
    finally:
        if not same:
            os.close(fd)
    return fd if same else None


def process_lives(pid: int, start: int) -> bool:
    """Whether the process with this pid and start time has not ended.

    Raises:
        OSError: it cannot be looked at; that is no proof that it is gone.
    """
    fd = open_process(pid, start)
    if fd is None:
        return False
    try:
        return not select.select([fd], [], [], 0)[0]  # a pidfd is readable once its process has ended (pidfd_open(2))
    finally:
        os.close(fd)


def now_ms() -> int:
    """The current time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
