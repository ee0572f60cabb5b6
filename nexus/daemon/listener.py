"""The listening socket that the daemon makes, locks and later removes itself, where no service manager passes one."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

from nexus_protocol.errors import ReportedError

from nexus.hints import command_line
from nexus.locks import FileLock, LockHeld
from nexus.paths import PathError, check_socket_path
from nexus.runtime import procfs

__all__ = ["OwnListener", "StartError", "socket_listens"]

_BACKLOG = 512


class StartError(ReportedError):
    """The daemon cannot start. ``hint`` says what to do."""


class OwnListener:
    """A listening socket at ``path`` that this daemon made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket: socket.socket | None = None
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        self._inode: tuple[int, int] | None = None

    def open(self) -> socket.socket:
        """Take the lock, replace a stale socket file, and listen.

        Raises:
            StartError: another daemon or the service manager listens there, or the path cannot be used.
        """
        try:
            check_socket_path(self.path)
        except PathError as error:
            raise StartError(error.message, error.hint) from error
        self._make_directory()
        self._socket_exists()  # refuses before a lock file is made beside a file that is not the daemon's
        try:
            self._lock.acquire()
        except LockHeld as held:
            raise StartError(
                f"cannot listen on {self.path}: a daemon runs already (pid {held.pid or 'unknown'})",
                f"See it: {command_line('nexusctl', '--socket', self.path, 'daemon', 'status')}",
            ) from held
        except OSError as error:
            raise StartError(
                f"cannot lock {self._lock.path}: {error.strerror}", "Look at the permissions of its folder."
            ) from error
        try:
            return self._bind()
        except BaseException:
            self._lock.release()
            raise

    def _make_directory(self) -> None:
        directory = self.path.parent
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            status = directory.stat()
        except OSError as error:
            raise StartError(
                f"cannot make directory {directory}: {error.strerror}",
                "Look at the permissions of the folder above it, or give another socket: nexusd --socket PATH",
            ) from error
        if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (os.geteuid(), 0):
            raise StartError(
                f"cannot use directory {directory}: it belongs to user {status.st_uid}",
                "Give a socket in a directory of your own: nexusd --socket PATH",
            )
        if status.st_uid == os.geteuid() and directory.name == "nexus":
            directory.chmod(0o700)

    def _bind(self) -> socket.socket:
        self._remove_stale()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        old_mask = os.umask(0o177)
        try:
            listener.bind(os.fspath(self.path))
        except OSError as error:
            listener.close()
            raise StartError(
                f"cannot listen on {self.path}: {error.strerror}", "Give another socket: nexusd --socket PATH"
            ) from error
        finally:
            os.umask(old_mask)
        listener.listen(_BACKLOG)
        status = self.path.stat()
        self._inode = (status.st_dev, status.st_ino)
        self.socket = listener
        return listener

    def _socket_exists(self) -> bool:
        """Whether a socket file is at the path. Raises StartError if any other file is."""
        try:
            status = self.path.lstat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StartError(f"cannot look at {self.path}: {error.strerror}") from error
        if not stat.S_ISSOCK(status.st_mode):
            raise StartError(
                f"cannot listen on {self.path}: something that is not a socket is there",
                "Move it away, or give another socket: nexusd --socket PATH",
            )
        return True

    def _remove_stale(self) -> None:
        if not self._socket_exists():
            return
        if socket_listens(self.path):
            raise StartError(
                f"cannot listen on {self.path}: the service manager listens there",
                "Let it start the daemon: systemctl --user start nexus.service",
            )
        self.path.unlink()

    def close(self) -> None:
        """Stop listening and remove the socket file, unless another one has replaced it."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None
            with contextlib.suppress(OSError):
                status = self.path.lstat()
                if (status.st_dev, status.st_ino) == self._inode:
                    self.path.unlink()
        self._lock.release()


def socket_listens(path: Path) -> bool:
    """Whether some process listens on this socket file.

    The kernel's table is read first, because a connection would make the service manager start a daemon.
    """
    if procfs.socket_is_listening(path):
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except BlockingIOError:
            return True  # its queue of connections is full
        except OSError:
            return False
        return True
