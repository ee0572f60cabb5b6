"""TCP ports of this machine: who listens on one, which are free, and whether somebody answers.

It reads /proc and tries sockets; it keeps no list of what was given to whom. The plain functions block (a look at the
descriptors of all processes takes some ten milliseconds on a large machine): a loop calls those that end in
``_in_thread``. Where descriptors run out they raise ResourceExhausted.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import random
import socket
import struct
import sys
from collections.abc import Container, Iterable, Iterator
from typing import NamedTuple

from nexus_protocol import ResourceExhausted

__all__ = [
    "PortHolder",
    "accepts",
    "describe_holder",
    "find_free",
    "find_free_in_thread",
    "holder",
    "holder_in_thread",
    "listeners_of",
    "listeners_of_in_thread",
    "wait_until_free",
]

LISTEN = b" 0A "
FIRST_PORT = 20_000
LAST_PORT = 65_535
RETRY_S = 0.02
EPHEMERAL_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"


class PortHolder(NamedTuple):
    """Who listens on a port. ``pid`` and ``command`` are None where the process cannot be seen from here."""

    pid: int | None
    command: str | None
    address: str


class _Listener(NamedTuple):
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int
    inode: int


def holder(port: int) -> PortHolder | None:
    """Who listens on ``port`` where a service on loopback, or on any address, would clash with it; None: nobody.

    A listener on one address of another network leaves loopback free, and is none. Where several processes share the
    socket, the one with the lowest pid is named. Blocks.
    """
    found = [listener for listener in _listeners() if listener.port == port and _clashes(listener.address)]
    if not found:
        return None
    listener = found[0]
    pid = _pid_of_socket(listener.inode)
    return PortHolder(pid, None if pid is None else _command(pid), str(listener.address))


async def holder_in_thread(port: int) -> PortHolder | None:
    """``holder`` for the event loop, which it does not block."""
    return await asyncio.to_thread(holder, port)


def describe_holder(holder: PortHolder) -> str:
    """Words for a message: ``postgres (pid 812)``, or that the process cannot be seen from here."""
    if holder.pid is None:
        return "a process that cannot be seen from here"
    return f"{holder.command or 'a process'} (pid {holder.pid})"


def find_free(taken: Container[int], preferred: int | None = None) -> int:
    """A port that nobody listens on, that can be bound on loopback and on any address, and that is not in ``taken``.

    ``preferred`` if it is such a port. Else it lies outside of the range from which the kernel takes the ports of
    outgoing connections, from 20000 on where there is room, and is chosen at random. Nothing is kept: who uses the port
    must be quick, or know which it gave away (``taken``). Sockets in TIME_WAIT are no obstacle, since services set
    SO_REUSEADDR. Blocks.

    Raises:
        ResourceExhausted: there is none.
    """
    listening = {listener.port for listener in _listeners()}
    for port in _candidates(preferred):
        if port not in taken and port not in listening and _binds(port):
            return port
    raise ResourceExhausted(
        "cannot find a free port", hint="Stop something that listens, or give the service a port of its own."
    )


async def find_free_in_thread(taken: Container[int], preferred: int | None = None) -> int:
    """``find_free`` for the event loop, which it does not block; ``taken`` must not change meanwhile."""
    return await asyncio.to_thread(find_free, taken, preferred)


async def wait_until_free(port: int, timeout_s: float) -> bool:
    """Wait until nobody listens on ``port`` any more, as ``holder`` counts; False when somebody still does then."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    pause_s = RETRY_S
    while await asyncio.to_thread(_is_held, port):
        left_s = deadline - loop.time()
        if left_s <= 0:
            return False
        await asyncio.sleep(min(pause_s, left_s))
        pause_s = min(2 * pause_s, 0.25)
    return True


def listeners_of(pids: Iterable[int]) -> set[int]:
    """The TCP ports on which these processes listen, on whatever address. A process that is gone has none. Blocks."""
    inodes = {inode for pid in pids for inode in _sockets_of(pid)}
    return {listener.port for listener in _listeners() if listener.inode in inodes}


async def listeners_of_in_thread(pids: Iterable[int]) -> set[int]:
    """``listeners_of`` for the event loop, which it does not block."""
    return await asyncio.to_thread(listeners_of, list(pids))


async def accepts(host: str, port: int, timeout_s: float) -> bool:
    """Whether somebody accepts a TCP connection there within ``timeout_s``; nothing is sent.

    ``host`` is an address, or a name, all of whose addresses are tried.

    Raises:
        ResourceExhausted: there is no descriptor left to try it.
    """
    with contextlib.suppress(TimeoutError, socket.gaierror):
        async with asyncio.timeout(timeout_s):
            for family, address in await _resolve(host):
                sock = _socket(family)
                if sock is not None:
                    with sock, contextlib.suppress(OSError):
                        if await _reaches(sock, (address, port)):
                            return True
    return False


async def _resolve(host: str) -> list[tuple[socket.AddressFamily, str]]:
    try:
        return [(socket.AF_INET if ipaddress.ip_address(host).version == 4 else socket.AF_INET6, host)]
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return [(family, str(address[0])) for family, _, _, _, address in found]


async def _reaches(sock: socket.socket, address: tuple[str, int]) -> bool:
    """Connect, unless it is to itself: where nobody listens on a port of the ephemeral range, a socket can do that."""
    sock.setblocking(False)
    # Such a socket must not be what keeps the service from its port, neither now nor as TIME_WAIT.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    await asyncio.get_running_loop().sock_connect(sock, address)
    if sock.getpeername() != sock.getsockname():
        return True
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def _is_held(port: int) -> bool:
    return any(listener.port == port and _clashes(listener.address) for listener in _listeners())


def _clashes(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return address.is_unspecified or address.is_loopback


def _listeners() -> Iterator[_Listener]:
    """All listening sockets of this network namespace, as proc(5) describes /proc/net/tcp."""
    for name in ("tcp", "tcp6"):
        # The file is absent where the kernel has no such protocol.
        with contextlib.suppress(FileNotFoundError), _descriptors(), open(f"/proc/self/net/{name}", "rb") as table:
            next(table, None)
            for line in table:
                if LISTEN not in line:
                    continue  # most lines of a large table are connections, and splitting them costs most
                fields = line.split(None, 10)
                if fields[3] == LISTEN.strip():
                    address, _, port = fields[1].partition(b":")
                    yield _Listener(_address(address), int(port, 16), int(fields[9]))


def _address(text: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Words of 32 bits in the machine's own order; an IPv4 address in IPv6 clothes is given as IPv4."""
    words = [int(text[start : start + 8], 16).to_bytes(4, sys.byteorder) for start in range(0, len(text), 8)]
    if len(words) == 1:
        return ipaddress.IPv4Address(words[0])
    address = ipaddress.IPv6Address(b"".join(words))
    return address.ipv4_mapped or address


def _pid_of_socket(inode: int) -> int | None:
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):  # noqa: PTH208
        if inode in _sockets_of(pid):
            return pid
    return None


def _sockets_of(pid: int) -> Iterator[int]:
    """The inodes of a process's sockets, as far as we may see them. No paths as objects: there are thousands."""
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:  # gone, or another user's
        return
    for name in names:
        with contextlib.suppress(OSError):
            target = os.readlink(f"{folder}/{name}")  # noqa: PTH115
            if target.startswith("socket:["):
                yield int(target[8:-1])


def _command(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            name = file.read().removesuffix("\n")
    except OSError:
        return None
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def _candidates(preferred: int | None) -> Iterator[int]:
    if preferred is not None:
        yield preferred
    first, last = _ephemeral_range()
    lower = range(FIRST_PORT, min(first, LAST_PORT + 1))
    upper = range(max(last + 1, FIRST_PORT), LAST_PORT + 1)
    below = range(1024, min(first, FIRST_PORT))
    # Where the kernel has taken all of them for connections, a port that it may use as well is better than none.
    for ports in (lower, upper, below, range(FIRST_PORT, LAST_PORT + 1)):
        if ports:
            start = random.randrange(len(ports))
            yield from ports[start:]
            yield from ports[:start]


def _ephemeral_range() -> tuple[int, int]:
    try:
        with open(EPHEMERAL_RANGE, encoding="ascii") as file:
            first, last = file.read().split()
        return int(first), int(last)
    except (OSError, ValueError):
        return 32_768, 60_999


def _binds(port: int) -> bool:
    """Whether a service could listen there: on each address, since one that is free says nothing of the others."""
    return all(
        _binds_on(family, address, port)
        for family, address in (
            (socket.AF_INET, "127.0.0.1"),
            (socket.AF_INET6, "::1"),
            (socket.AF_INET, "0.0.0.0"),
        )
    )


def _binds_on(family: socket.AddressFamily, address: str, port: int) -> bool:
    sock = _socket(family)
    if sock is None:
        return family == socket.AF_INET6
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address, port))
        except OSError as error:
            return family == socket.AF_INET6 and error.errno == errno.EADDRNOTAVAIL
    return True


def _socket(family: socket.AddressFamily) -> socket.socket | None:
    """A TCP socket; None where the kernel does not know the family."""
    try:
        with _descriptors():
            return socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return None
        raise


@contextlib.contextmanager
def _descriptors() -> Iterator[None]:
    """Say in words when there are no descriptors left."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        raise ResourceExhausted(
            "cannot look at ports: there are too many open files",
            hint="Stop something, or raise the limit of open files (ulimit -n).",
        ) from error
