"""Connected streams to the daemon's address. The only module of the clients that knows which kinds of address exist.

An address is the path of a Unix socket. Both functions return a connected stream socket, so that neither client depends
on the kind of address: a program that carries the protocol on its standard streams fits in as one end of a socket pair.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator

from nexus.client.errors import ConnectError

__all__ = ["CONNECT_TIMEOUT_S", "connect", "connect_async"]

CONNECT_TIMEOUT_S = 10.0
"""How long a client waits while the daemon's queue of pending connections is full."""
_CONNECT_RETRY_S = 0.02

_TIMEVAL = struct.Struct("ll")


def connect(address: str, timeout_s: float) -> socket.socket:
    """Connect to an address; returns a blocking socket without a timeout.

    Raises:
        ConnectError: no daemon listens there, or its queue stayed full for ``timeout_s``.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    with _closed_on_failure(sock, address):
        # connect(2) blocks while the queue is full; SO_SNDTIMEO bounds that, and EAGAIN reports it.
        seconds, rest = divmod(timeout_s, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(seconds), int(rest * 1_000_000)))
        sock.connect(address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(0, 0))
    return sock


async def connect_async(address: str, timeout_s: float) -> socket.socket:
    """Connect to an address; returns a non-blocking socket for an asyncio transport.

    Not by ``loop.sock_connect``: asyncio takes the EAGAIN of a full queue for a connection in progress.

    Raises:
        ConnectError: no daemon listens there, or its queue stayed full for ``timeout_s``.
    """
    import asyncio  # here, so that the blocking client does not pay for it

    deadline = time.monotonic() + timeout_s
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    with _closed_on_failure(sock, address):
        while True:
            try:
                sock.connect(address)
                return sock
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_CONNECT_RETRY_S)


@contextlib.contextmanager
def _closed_on_failure(sock: socket.socket, address: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        sock.close()
        raise _connect_error(address, error) from None
    except BaseException:
        sock.close()
        raise


def _connect_error(path: str, error: OSError) -> ConnectError:
    """The error for a failed connect to a Unix socket."""
    sentence = f"cannot connect to Nexus daemon at {path}"
    if isinstance(error, BlockingIOError):
        return ConnectError(
            f"{sentence}: too many clients are waiting to be accepted",
            "The daemon may hang. See: nexusctl daemon status",
        )
    if isinstance(error, PermissionError):
        from pathlib import Path

        from nexus.hints import command_line

        look = command_line("ls", "-ld", Path(path).parent, path)
        return ConnectError(
            f"{sentence}: {error.strerror}", f"The socket or its directory belongs to another user: {look}"
        )
    if error.errno is None:  # Python refuses a path that does not fit in sockaddr_un, without asking the kernel
        return ConnectError(
            f"{sentence}: the path is too long for a Unix socket",
            "Choose a shorter one: --socket PATH, or NEXUS_SOCKET.",
        )
    return ConnectError(sentence, "The daemon does not appear to be running.", not_running=True)
