"""Connected streams to the daemon's address. The only module of the clients that knows which kinds of address exist.

An address is the path of a Unix socket, or the URL of a host (``ssh://…``), which is reached by ssh. Both functions
return a connected stream socket, so that neither client depends on the kind of address: ssh, which carries the protocol
on its standard streams, has the other end of a socket pair.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator

from nexus.client.errors import ConnectError, ConnectionLost, lost_error

__all__ = ["CONNECT_TIMEOUT_S", "connect", "connect_async", "is_host", "why_lost"]

CONNECT_TIMEOUT_S = 10.0
"""How long a client waits while the daemon's queue of pending connections is full."""
_CONNECT_RETRY_S = 0.02

_TIMEVAL = struct.Struct("ll")


_HOST = "ssh://"


def is_host(address: str) -> bool:
    """Whether an address is the URL of a host."""
    return address.startswith(_HOST)


def connect(
    address: str, timeout_s: float | None = None, greeting: bytes = b"", *, may_ask: bool = True
) -> socket.socket:
    """Connect to an address and send ``greeting``, the first bytes; returns a blocking socket without a timeout.

    With the URL of a host it returns once the reply to the greeting begins; ``may_ask`` says whether ssh may ask on a
    terminal. Without ``timeout_s`` each kind of address has its own limit.

    Raises:
        ConnectError: no daemon listens there, its queue stayed full for ``timeout_s``, or the host cannot be reached.
        InvalidArgument: the URL of the host is not valid.
    """
    if is_host(address):
        from nexus.client.ssh import connect_host

        return connect_host(address, timeout_s, greeting, may_ask=may_ask)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    with _closed_on_failure(sock, address):
        # connect(2) blocks while the queue is full; SO_SNDTIMEO bounds that, and EAGAIN reports it.
        seconds, rest = divmod(CONNECT_TIMEOUT_S if timeout_s is None else timeout_s, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(seconds), int(rest * 1_000_000)))
        sock.connect(address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(0, 0))
    _send_first(sock, greeting)
    return sock


async def connect_async(
    address: str, timeout_s: float | None = None, greeting: bytes = b"", *, may_ask: bool = True
) -> socket.socket:
    """Like ``connect``; returns a non-blocking socket for an asyncio transport.

    Not by ``loop.sock_connect``: asyncio takes the EAGAIN of a full queue for a connection in progress.

    Raises:
        ConnectError, InvalidArgument: as ``connect``.
    """
    if is_host(address):
        from nexus.client.ssh import connect_host_async

        return await connect_host_async(address, timeout_s, greeting, may_ask=may_ask)
    import asyncio  # here, so that the blocking client does not pay for it

    deadline = time.monotonic() + (CONNECT_TIMEOUT_S if timeout_s is None else timeout_s)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    with _closed_on_failure(sock, address):
        while True:
            try:
                sock.connect(address)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_CONNECT_RETRY_S)
    _send_first(sock, greeting)
    return sock


def _send_first(sock: socket.socket, greeting: bytes) -> None:
    """Send the first bytes, which fit into the empty buffer of the socket."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the daemon may have sent why it closed
        sock.sendall(greeting)


def why_lost(sock: socket.socket | None) -> ConnectionLost:
    """The error for a connection that ended without an Error frame."""
    explain = getattr(sock, "why_lost", None)
    return lost_error() if explain is None else explain()


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
