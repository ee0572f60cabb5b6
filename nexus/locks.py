"""Locks that live as long as their process: an flock on a file of its own, which also tells who holds it.

Not a pidfile: the kernel drops the lock when the process ends, whatever way it ends, and the pid inside is only for
messages. The file itself is never removed, since a lock on a removed file protects nothing.
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
    """A lock on ``path``, taken at once or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock and hold it until ``release`` or the end of the process.

        Raises:
            LockHeld: somebody else has it.
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
        # A full disk must not keep the daemon from starting: the number is for messages alone.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back; nothing happens when it is not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def holder(path: Path) -> int | None:
    """The process that holds the lock on ``path``, as far as it can be seen; None where there is none.

    It only looks, for the pid that is written there and whether that process has the file open: to try the lock would
    make somebody fail who takes it at that moment.
    """
    try:
        status = path.stat()
        pid = int(path.read_bytes()[:32])
    except (OSError, ValueError):
        return None
    return pid if has_open(pid, status) else None
