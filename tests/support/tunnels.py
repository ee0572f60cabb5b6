"""Helpers for tests of the tunnel: a tunnel process, a target server, and reads until the end of a connection."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from support.raw import WAIT_S, wait_until

__all__ = [
    "BLOCK",
    "KIB",
    "MIB",
    "Handler",
    "Target",
    "Tunnel",
    "answer",
    "echo",
    "has_ipv6",
    "is_reset",
    "read_all",
    "reset",
    "run_in_namespace",
]

KIB = 1024
MIB = 1024 * 1024
BLOCK = os.urandom(MIB)
RESET = struct.pack("ii", 1, 0)

Handler = Callable[[socket.socket], None]


class Tunnel:
    """A tunnel process on a free port, and its target file."""

    def __init__(self, command: list[str], folder: Path, host: str = "127.0.0.1") -> None:
        self.command = command
        self.host = host
        self.file = folder / "target"
        self.errors = folder / "errors"
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, hold_ms: int | None = 30_000, descriptors: int | None = None) -> Tunnel:
        """Start the process and wait until it listens; ``descriptors`` is its limit of open files."""
        argv = [*self.command, self.host, str(self.port), str(self.file)]
        argv += [] if hold_ms is None else [str(hold_ms)]
        limit = None if descriptors is None else (resource.RLIMIT_NOFILE, (descriptors, descriptors))
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                argv,
                stdout=subprocess.PIPE,
                stderr=errors,
                preexec_fn=None if limit is None else lambda: resource.setrlimit(*limit),
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        host = f"[{self.host}]" if ":" in self.host else self.host
        assert line.startswith(f"listening {host}:"), line + self.errors.read_text()
        self.port = int(line.rpartition(":")[2])
        return self

    def point(self, target: Target | None, text: str | None = None) -> None:
        """Replace the target file as the daemon does."""
        if text is None:
            text = "" if target is None else f"127.0.0.1 {target.port}\n"
        new = self.file.with_suffix(".new")
        new.write_bytes(text.encode("latin-1"))
        new.rename(self.file)

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), WAIT_S)

    def exchange(self, request: bytes) -> bytes:
        """Make one connection: send a request, shut down writing, and return the whole answer."""
        with self.connect() as client:
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            return read_all(client)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208

    def is_idle(self) -> bool:
        """Whether 25 samples all find the process asleep, with no CPU time used between them; never for a busy loop."""

        def sample() -> tuple[str, ...]:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            return fields[0], fields[11], fields[12]

        seen = {sample()}
        samples = iter(range(25))

        def take_sample() -> bool:
            seen.add(sample())
            return next(samples, None) is None

        wait_until(take_sample, "25 samples")
        return len(seen) == 1 and seen.pop()[0] == "S"

    def stop(self) -> int:
        """Send SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        code = self.process.wait(WAIT_S)
        assert self.process.stdout.read() == b"", "it prints nothing but the listening line"
        self.process.stdout.close()
        self.process = None
        return code

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.wait()


class Target:
    """A server with a thread for each connection."""

    def __init__(self, handler: Handler, port: int = 0, host: str = "127.0.0.1") -> None:
        self.handler = handler
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.create_server((host, port), family=family, backlog=512)
        self.port: int = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=self._accept)]
        self.accepted = 0
        self.sockets: list[socket.socket] = []
        self.failed = False
        self.threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                self.sockets.append(sock)
                self.accepted += 1
                thread = threading.Thread(target=self._serve, args=(sock,))
                self.threads.append(thread)
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(WAIT_S)
        with sock:
            try:
                self.handler(sock)
            except ConnectionError:
                pass
            except AssertionError:
                if not self.failed:
                    raise

    def __enter__(self) -> Target:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop listening and wait until all connections have been served; after a failure, shut them down instead."""
        self.failed = kind is not None
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for sock in self.sockets if self.failed else ():
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()


def read_all(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(256 * KIB):
        parts.append(part)
    return b"".join(parts)


def is_reset(sock: socket.socket) -> bool:
    """Read to the end of the connection; returns whether it ended with a reset."""
    try:
        read_all(sock)
    except ConnectionResetError:
        return True
    return False


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def echo(sock: socket.socket) -> None:
    while data := sock.recv(256 * KIB):
        sock.sendall(data)


def answer(word: bytes) -> Handler:
    """A handler that reads to the end and then sends the word and what it has read."""

    def handler(sock: socket.socket) -> None:
        sock.sendall(word + read_all(sock))

    return handler


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


NAMESPACE_SETUP = """
import fcntl, os, socket, struct, subprocess, sys, time
with socket.socket() as sock:
    fcntl.ioctl(sock, 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # SIOCSIFFLAGS: up and running
open("/proc/sys/net/ipv4/ip_local_port_range", "w").write("40000 40001")
with socket.socket() as sock:
    sock.connect(("127.0.0.1", 40000))
    assert sock.getsockname() == sock.getpeername()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
"""
"""Sets up a network namespace in which a connection to port 40000 can only have local port 40000 or 40001."""


def run_in_namespace(script: str, *arguments: str) -> str:
    """Run a script in a network namespace of its own; returns its output."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rn", "true"], capture_output=True).returncode:
        pytest.skip("a network namespace cannot be created here")
    result = subprocess.run(
        [unshare, "-rn", sys.executable, "-c", NAMESPACE_SETUP + script, *arguments],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
