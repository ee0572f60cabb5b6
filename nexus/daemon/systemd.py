"""The interface between a service manager and its service: passed sockets, readiness, the watchdog.

The formats are those of sd_listen_fds(3), sd_notify(3) and sd-daemon(3).
"""

from __future__ import annotations

import contextlib
import os
import socket

__all__ = ["Notifier", "passed_socket", "under_journald", "watchdog_interval_s"]

_FIRST_FD = 3


def passed_socket() -> socket.socket | None:
    """Return the listening Unix socket that a service manager passed to this process, or None.

    Its variables are removed from the environment, so that no child process takes them as its own.

    Raises:
        ValueError: something else than exactly one listening Unix stream socket was passed.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit() or count == "0":
        return None
    if count != "1":
        raise ValueError(f"the service manager passed {count} sockets, one was expected")
    try:
        os.set_inheritable(_FIRST_FD, False)
        passed = socket.socket(fileno=_FIRST_FD)
    except OSError as error:
        raise ValueError(f"descriptor {_FIRST_FD}: {error.strerror}") from error
    if (
        passed.family != socket.AF_UNIX
        or passed.type != socket.SOCK_STREAM
        or not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        passed.detach()
        raise ValueError("the service manager passed something that is not a listening Unix stream socket")
    return passed


class Notifier:
    """Sends the daemon's state to the service manager; without one it does nothing."""

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        if address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            try:
                self._socket.connect("\0" + address[1:] if address[0] == "@" else address)
            except OSError:
                self._socket.close()
                self._socket = None

    def close(self) -> None:
        """Close the socket; later calls of ``send`` do nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def send(self, *assignments: str) -> None:
        """Send assignments such as ``READY=1`` and ``STATUS=…`` in one datagram."""
        if self._socket is not None:
            # A service manager that does not read must not block the daemon.
            with contextlib.suppress(OSError):
                self._socket.send("\n".join(assignments).encode())


def watchdog_interval_s() -> float | None:
    """How often to send ``WATCHDOG=1``: half of the time that the service manager allows; None without a watchdog."""
    usec, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
    if not usec.isdigit() or int(usec) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 2_000_000


def under_journald() -> bool:
    """Whether standard error goes directly to journald, which takes a log level before each line."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))
