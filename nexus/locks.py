"""Locks that are held until their process ends: an flock on a file of its own, which also names the holder.

Not a pidfile: the kernel releases the lock however the process ends, and the pid in the file is only for messages. The
file is never removed, since a lock on a removed file protects nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from nexus.runtime.procfs import has_open

__all__ = ["FileLock", "LockHeld", "holder"]


class LockHeld(Exception):
    """Another process holds the lock; ``pid`` says which, where it is known."""

    def __init__(self, path: Path, pid: int | None) -> None:
        super().__init__(f"{path} is locked by process {pid or 'unknown'}")
        self.path = path
        self.pid = pid


class FileLock:
    """A lock on ``path``, which is acquired at once or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock and hold it until ``release`` or the end of the process.

        Raises:
            LockHeld: another process holds it.
            OSError: the file cannot be made.
        """
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(fd, 32, 0).strip()
            os.close(fd)
            raise LockHeld(self.path, int(pid) if pid.isdigit() else None) from None
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        # A full disk must not keep the daemon from starting: the pid is only for messages.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    def release(self) -> None:
        """Release the lock; nothing happens when it is not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def holder(path: Path) -> int | None:
    """The process that holds the lock on ``path``; None where none does, or where it cannot be seen.

    It reads the pid from the file, and checks that this process has the file open. It does not try the lock: that would
    make a process fail that acquires it at this moment.
    """
    try:
        status = path.stat()
        pid = int(path.read_bytes()[:32])
    except (OSError, ValueError):
        return None
    return pid if has_open(pid, status) else None
