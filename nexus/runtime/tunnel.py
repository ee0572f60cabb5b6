"""The tunnel in Python, used where no compiler was available, and the choice between it and the native program.

Executed as a file (``python -I -S tunnel.py LISTEN_HOST LISTEN_PORT TARGET_FILE [HOLD_MS]``) it forwards every
connection on a loopback address to the loopback address that the file names at that moment. It imports nothing of the
project and little else, since one runs for each tunnelled dependency. ``native/nexus-tunnel.c`` describes what it does
and why; every change must be made in both.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
import sys
import time

__all__ = ["find_tunnel_command"]

_RETRY_S = 0.1
_CHUNKS_PER_TURN = 16
_RESERVED_DESCRIPTORS = 16
_EXIT_USAGE = 2
_EXIT_PORT_IN_USE = 98

_LINGER_DISCARD = struct.pack("ii", 1, 0)
_NO_ADDRESS = ("", 0)

Address = tuple[str, int]


def find_tunnel_command() -> list[str]:
    """The command that starts a tunnel, to be followed by LISTEN_HOST, LISTEN_PORT, TARGET_FILE and optionally HOLD_MS.

    It is the native program if that was compiled at installation, else this file. ``NEXUS_RUNTIME_SHIM`` (``native`` or
    ``python``) overrides the choice.

    Raises:
        FileNotFoundError: ``native`` is set and the program does not exist.
    """
    folder = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    native = os.path.join(folder, "native", "nexus-tunnel")  # noqa: PTH118
    choice = os.environ.get("NEXUS_RUNTIME_SHIM")
    if choice != "python" and os.access(native, os.X_OK):
        return [native]
    if choice == "native":
        raise FileNotFoundError(errno.ENOENT, "cannot run the native tunnel: it was not compiled", native)
    return [sys.executable, "-I", "-S", os.path.join(folder, "tunnel.py")]  # noqa: PTH118


def _print_error(message: str) -> None:
    os.write(2, f"nexus-tunnel: {message}\n".encode(errors="replace"))


def _read_number(text: str, minimum: int, maximum: int) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        return None
    number = int(text)
    return number if minimum <= number <= maximum else None


def _read_loopback(host: str, port: str, min_port: int) -> Address | None:
    number = _read_number(port, min_port, 65535)
    if number is None:
        return None
    if host == "localhost":
        host = "127.0.0.1"
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            packed = socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        if packed[0] == 127 if family == socket.AF_INET else packed == bytes(15) + b"\x01":
            return socket.inet_ntop(family, packed), number
    return None


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def _other_family(address: Address) -> Address:
    """``127.0.0.1`` for ``::1`` and the other way round; another address of the loopback stays as it is."""
    return {"127.0.0.1": "::1", "::1": "127.0.0.1"}.get(address[0], address[0]), address[1]


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_DISCARD)
    sock.close()


class _Endpoint:
    """One socket of a pair; ``ended``: end of file was read here, and the other side was shut down for writing."""

    __slots__ = ("ended", "pair", "sock")

    def __init__(self, pair: _Pair, sock: socket.socket | None) -> None:
        self.pair = pair
        self.sock = sock
        self.ended = False


class _Pair:
    """A client and its target. A pair is held (no target socket), connecting, open, or dead."""

    __slots__ = ("as_named", "broken", "client", "deadline", "retry", "state", "target", "turned")

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.client = _Endpoint(self, sock)
        self.target = _Endpoint(self, None)
        self.state = "held"
        self.deadline = deadline
        self.retry = 0.0
        self.broken = False
        self.as_named = True
        """The last attempt used the family that the target file names."""
        self.turned = False
        """The last attempt was the second of two, with the other family."""


class _Tunnel:
    """The state that the C program has in its static variables, and the same functions."""

    def __init__(self, target_file: str, hold_s: float, max_pairs: int) -> None:
        self.target_file = target_file
        self.hold_s = hold_s
        self.max_pairs = max_pairs
        self.epoll = select.epoll()
        self.own = _NO_ADDRESS
        self.ends: dict[int, _Endpoint] = {}
        self.pairs = 0
        self.waiting: dict[_Pair, None] = {}
        self.ready: dict[_Pair, None] = {}
        self.accept_again: float | None = None
        self.now = time.monotonic()
        self.warned = False
        self.other_family = False
        """The last target that answered had the other family than the file names."""
        self.chunk = bytearray(64 * 1024)
        self.view = memoryview(self.chunk)

    def start_listening(self, address: Address) -> None:
        self.listener = socket.socket(_family(address), socket.SOCK_STREAM)
        self.listener.setblocking(False)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(address)
        self.listener.listen(socket.SOMAXCONN)
        self.epoll.register(self.listener, select.EPOLLIN | select.EPOLLET)
        self.own = self.listener.getsockname()[:2]

    def read_target(self) -> Address | None:
        """Read the target's present address; None: not up. Warns of a bad file once, until it was valid again."""
        try:
            fd = os.open(self.target_file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            text = os.read(fd, 127).decode("latin-1")
        except OSError:
            return None
        finally:
            os.close(fd)
        text = text.removesuffix("\n")
        if not text:
            return None
        host, _, port = text.partition(" ")
        target = _read_loopback(host, port, 1)
        if target is None or target == self.own:
            if not self.warned:
                _print_error(
                    "cannot use the target file: it must hold one line, HOST PORT, of another loopback address"
                )
            self.warned = True
            return None
        self.warned = False
        return target

    def watch(self, end: _Endpoint) -> None:
        assert end.sock is not None
        end.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self.ends[end.sock.fileno()] = end
        self.epoll.register(end.sock, select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET)

    def close(self, end: _Endpoint, clean: bool) -> None:
        if end.sock is not None:
            self.ends.pop(end.sock.fileno(), None)
            if clean:
                end.sock.close()
            else:
                _reset(end.sock)
            end.sock = None

    def close_pair(self, pair: _Pair) -> None:
        clean = pair.client.ended and pair.target.ended and not pair.broken
        self.waiting.pop(pair, None)
        self.close(pair.client, clean)
        self.close(pair.target, clean)
        pair.state = "dead"
        self.pairs -= 1
        self.accept_again = self.now

    def hold(self, pair: _Pair) -> None:
        self.close(pair.target, False)
        pair.state = "held"
        pair.retry = self.now + _RETRY_S

    def connect_target(self, pair: _Pair) -> None:
        self.hold(pair)
        named = self.read_target()
        if named is None:
            return
        target = _other_family(named) if self.other_family else named
        if target == self.own:
            target = named
        pair.as_named = target == named
        try:
            pair.target.sock = sock = socket.socket(_family(target), socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            pair.state = "connecting"
            if sock.connect_ex(target) not in (0, errno.EINPROGRESS):
                self.refused(pair)
                return
            self.watch(pair.target)
        except OSError:
            self.refused(pair)

    def refused(self, pair: _Pair) -> None:
        """The target did not answer: try the other family, at once for the first time."""
        self.hold(pair)
        self.other_family = pair.as_named
        if not pair.turned:
            pair.retry = self.now
        pair.turned = not pair.turned

    def finish_connect(self, pair: _Pair) -> None:
        sock = pair.target.sock
        assert sock is not None
        try:
            failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or sock.getpeername() == sock.getsockname()
        except OSError:
            failed = True
        if failed:
            self.refused(pair)
            return
        self.waiting.pop(pair)
        pair.state = "open"
        self.ready[pair] = None

    def pump(self, source: _Endpoint, sink: _Endpoint) -> bool:
        """Move available data from one end to the other; True: there may be more.

        Raises:
            OSError: one of the two connections is broken.
        """
        assert source.sock is not None
        assert sink.sock is not None
        try:
            for _ in range(_CHUNKS_PER_TURN):
                if source.ended:
                    return False
                size = source.sock.recv_into(self.chunk, 0, socket.MSG_PEEK)
                if not size:
                    source.ended = True
                    try:
                        sink.sock.shutdown(socket.SHUT_WR)
                    except OSError:
                        pass  # its own event reports the error
                    return False
                sent = sink.sock.send(self.view[:size])
                if source.sock.recv_into(self.chunk, sent, socket.MSG_TRUNC) != sent:
                    raise ConnectionError
        except BlockingIOError:
            return False
        return True

    def forward(self, pair: _Pair) -> None:
        more = []
        for source, sink in ((pair.client, pair.target), (pair.target, pair.client)):
            try:
                if self.pump(source, sink):
                    more.append((source, sink))
            except OSError:
                pair.broken = True
        if pair.broken:
            for source, sink in more:
                try:
                    while self.pump(source, sink):
                        pass
                except OSError:
                    pass
            self.close_pair(pair)
        elif pair.client.ended and pair.target.ended:
            self.close_pair(pair)
        elif more:
            self.ready[pair] = None

    def handle_event(self, end: _Endpoint, events: int) -> None:
        pair = end.pair
        gone = events & (select.EPOLLERR | select.EPOLLHUP)
        if pair.state == "open":
            pair.broken |= bool(events & select.EPOLLERR)
            self.ready[pair] = None
        elif end is pair.client and gone:
            self.close_pair(pair)
        elif pair.state == "connecting" and end is pair.target and (gone or events & select.EPOLLOUT):
            self.finish_connect(pair)

    def accept_clients(self) -> None:
        self.accept_again = None
        while self.pairs < self.max_pairs:
            try:
                sock, _ = self.listener.accept()
            except BlockingIOError:
                return
            except (ConnectionAbortedError, InterruptedError):
                continue
            except OSError:  # no descriptor or memory: no event will report when there is
                self.accept_again = self.now + _RETRY_S
                return
            sock.setblocking(False)
            pair = _Pair(sock, self.now + self.hold_s)
            self.pairs += 1
            self.waiting[pair] = None
            try:
                self.watch(pair.client)
            except OSError:
                self.close_pair(pair)
            else:
                self.connect_target(pair)

    def next_timeout(self) -> float | None:
        if self.ready:
            return 0.0
        times = [self.accept_again] if self.accept_again is not None else []
        for pair in self.waiting:
            times.append(min(pair.deadline, pair.retry) if pair.state == "held" else pair.deadline)
        return max(0.0, min(times) - self.now) if times else None

    def run_once(self) -> None:
        events = self.epoll.poll(self.next_timeout(), 64)
        self.now = time.monotonic()
        for fd, mask in events:
            if fd == self.listener.fileno():
                self.accept_again = self.now
            elif fd in self.ends:
                self.handle_event(self.ends[fd], mask)
        ready, self.ready = self.ready, {}
        for pair in ready:
            if pair.state == "open":
                self.forward(pair)
        for pair in list(self.waiting):
            if pair.deadline <= self.now:
                self.close_pair(pair)
            elif pair.state == "held" and pair.retry <= self.now:
                self.connect_target(pair)
        if self.accept_again is not None and self.accept_again <= self.now:
            self.accept_clients()


def _max_pairs() -> int:
    """Raise the soft limit of descriptors to the hard limit; returns how many pairs fit in it."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else max(1, (soft - _RESERVED_DESCRIPTORS) // 2)


def _main(arguments: list[str]) -> int:
    hold_ms = _read_number(arguments[3], 0, 2**31 - 1) if len(arguments) == 4 else 10_000
    if len(arguments) not in (3, 4) or hold_ms is None:
        _print_error("cannot start: usage: nexus-tunnel LISTEN_HOST LISTEN_PORT TARGET_FILE [HOLD_MS]")
        return _EXIT_USAGE
    host, port, target_file = arguments[:3]
    address = _read_loopback(host, port, 0)
    if address is None:
        _print_error(f"cannot listen on {host} port {port}: that is not a loopback address and a port")
        return _EXIT_USAGE
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    tunnel = _Tunnel(target_file, hold_ms / 1000, _max_pairs())
    try:
        tunnel.start_listening(address)
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        reason = "the port is in use by another process" if in_use else os.strerror(error.errno or 0)
        _print_error(f"cannot listen on {host} port {port}: {reason}")
        return _EXIT_PORT_IN_USE if in_use else 1
    shown = f"[{host}]" if _family(address) == socket.AF_INET6 else host
    os.write(1, f"listening {shown}:{tunnel.own[1]}\n".encode())
    while True:
        tunnel.run_once()


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
