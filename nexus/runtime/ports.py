"""TCP ports of this machine: which process listens on a port, which ports are free, and whether a port accepts.

It reads /proc and tries sockets; it keeps no record of allocated ports. The plain functions block (reading the
descriptors of all processes takes some ten milliseconds on a large machine): an event loop calls those that end in
``_in_thread``. They raise ResourceExhausted when this process has no file descriptors left.
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

from nexus.runtime.loopback import HOSTS

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
    """The process that listens on a port; ``pid`` and ``command`` are None where it cannot be identified."""

    pid: int | None
    command: str | None
    address: str


class _Listener(NamedTuple):
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int
    inode: int


def holder(port: int) -> PortHolder | None:
    """The process whose listener on ``port`` would conflict with a service on loopback or any address; None if none.

    A listener on a specific non-loopback address leaves loopback free and does not count. Where several processes share
    the socket, the one with the lowest pid is returned. Blocks.
    """
    found = [listener for listener in _listeners() if listener.port == port and _conflicts(listener.address)]
    if not found:
        return None
    listener = found[0]
    pid = _pid_of_socket(listener.inode)
    return PortHolder(pid, None if pid is None else _command(pid), str(listener.address))


async def holder_in_thread(port: int) -> PortHolder | None:
    """``holder`` in a thread, so that the event loop is not blocked."""
    return await asyncio.to_thread(holder, port)


def describe_holder(holder: PortHolder) -> str:
    """Text for a message: ``postgres (pid 812)``, or that the process cannot be identified."""
    if holder.pid is None:
        return "a process that cannot be identified"
    return f"{holder.command or 'a process'} (pid {holder.pid})"


def find_free(taken: Container[int], preferred: int | None = None) -> int:
    """Find a port without a listener that can be bound on loopback and on any address, and that is not in ``taken``.

    Returns ``preferred`` if it is such a port. Otherwise the port is chosen at random outside of the kernel's ephemeral
    range, from 20000 on where possible. The port is not reserved: the caller must bind it soon, or pass the ports that
    it has already allocated (``taken``). Sockets in TIME_WAIT do not count, since services set SO_REUSEADDR. Blocks.

    Raises:
        ResourceExhausted: no port is free.
    """
    listening = {listener.port for listener in _listeners()}
    for port in _candidates(preferred):
        if port not in taken and port not in listening and _binds(port):
            return port
    raise ResourceExhausted(
        "cannot find a free port", hint="Stop a process that listens, or give the service a fixed port."
    )


async def find_free_in_thread(taken: Container[int], preferred: int | None = None) -> int:
    """``find_free`` in a thread, so that the event loop is not blocked; ``taken`` must not change meanwhile."""
    return await asyncio.to_thread(find_free, taken, preferred)


async def wait_until_free(port: int, timeout_s: float) -> bool:
    """Wait until ``port`` has no listener that ``holder`` would return; False if it still has one after the timeout."""
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
    """The TCP ports on which these processes listen, on any address. A process that has ended has none. Blocks."""
    inodes = {inode for pid in pids for inode in _sockets_of(pid)}
    return {listener.port for listener in _listeners() if listener.inode in inodes}


async def listeners_of_in_thread(pids: Iterable[int]) -> set[int]:
    """``listeners_of`` in a thread, so that the event loop is not blocked."""
    return await asyncio.to_thread(listeners_of, list(pids))


async def accepts(host: str, port: int, timeout_s: float) -> bool:
    """Whether a TCP connection to ``host`` and ``port`` is accepted within ``timeout_s``; no data is sent.

    ``host`` is an address or a name; all addresses of a name are tried.

    Raises:
        ResourceExhausted: this process has no file descriptors left.
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
    """Connect and return whether the peer is another socket.

    On a port of the ephemeral range without a listener, a socket can connect to itself (TCP simultaneous open).
    """
    sock.setblocking(False)
    # A self-connected socket must not keep the service from its port, neither now nor in TIME_WAIT.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    await asyncio.get_running_loop().sock_connect(sock, address)
    if sock.getpeername() != sock.getsockname():
        return True
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def _is_held(port: int) -> bool:
    return any(listener.port == port and _conflicts(listener.address) for listener in _listeners())


def _conflicts(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return address.is_unspecified or address.is_loopback


def _listeners() -> Iterator[_Listener]:
    """All listening sockets of this network namespace, from /proc/net/tcp and tcp6 (proc(5))."""
    for name in ("tcp", "tcp6"):
        # The file is absent where the kernel does not support the protocol.
        with (
            contextlib.suppress(FileNotFoundError),
            _explain_descriptor_exhaustion(),
            open(f"/proc/self/net/{name}", "rb") as table,
        ):
            next(table, None)
            for line in table:
                if LISTEN not in line:
                    continue  # most lines of a large table are connections, and splitting lines dominates the cost
                fields = line.split(None, 10)
                if fields[3] == LISTEN.strip():
                    address, _, port = fields[1].partition(b":")
                    yield _Listener(_address(address), int(port, 16), int(fields[9]))


def _address(text: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Parse an address of 32-bit words in host byte order; an IPv4-mapped IPv6 address is returned as IPv4."""
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
    """The inodes of a process's sockets, as far as permissions allow. Avoids Path objects: there are thousands."""
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:  # the process has ended or belongs to another user
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
    # Where the ephemeral range covers all ports, one inside it is better than none.
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
    """Whether a service could bind the port on each address; that one is free does not imply that the others are."""
    return all(
        _binds_on(family, address, port)
        for family, address in (
            *zip((socket.AF_INET, socket.AF_INET6), HOSTS, strict=True),
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
    """A TCP socket; None where the kernel does not support the address family."""
    try:
        with _explain_descriptor_exhaustion():
            return socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return None
        raise


@contextlib.contextmanager
def _explain_descriptor_exhaustion() -> Iterator[None]:
    """Turn EMFILE and ENFILE into ResourceExhausted."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        raise ResourceExhausted(
            "cannot check ports: too many open files",
            hint="Stop some services.\n"
            "Or raise the limit of open files in the shell that starts the daemon: ulimit -n NUMBER",
        ) from error
