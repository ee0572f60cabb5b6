"""The tunnel: byte for byte, both ways, whatever happens to the target; the native program and its stand-in alike."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.raw import WAIT_S, wait_until

from nexus.runtime import tunnel as tunnel_module
from nexus.runtime.tunnel import find_tunnel_command

SOURCE = Path(tunnel_module.__file__).parent / "native" / "nexus-tunnel.c"
KIB = 1024
MIB = 1024 * 1024
BLOCK = os.urandom(MIB)
RESET = struct.pack("ii", 1, 0)

Handler = Callable[[socket.socket], None]


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The native program, compiled from what is here now."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    path = tmp_path_factory.mktemp("native") / "nexus-tunnel"
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", path, SOURCE], check=True)
    return [str(path)]


@pytest.fixture(scope="module", params=["native", "python"])
def program(request: pytest.FixtureRequest) -> list[str]:
    """The words that start each of the two."""
    if request.param == "python":
        return [sys.executable, "-I", "-S", tunnel_module.__file__]
    native: list[str] = request.getfixturevalue("native")
    return native


class Tunnel:
    """A tunnel on a port of its own choice, and its target file."""

    def __init__(self, program: list[str], folder: Path, host: str = "127.0.0.1") -> None:
        self.program = program
        self.host = host
        self.file = folder / "target"
        self.errors = folder / "errors"
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, hold_ms: int | None = 30_000, descriptors: int | None = None) -> Tunnel:
        words = [*self.program, self.host, str(self.port), str(self.file)]
        words += [] if hold_ms is None else [str(hold_ms)]
        limit = None if descriptors is None else (resource.RLIMIT_NOFILE, (descriptors, descriptors))
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                words,
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

    def ask(self, question: bytes) -> bytes:
        """One connection: a question, the end of it, and the whole answer."""
        with self.connect() as client:
            client.sendall(question)
            client.shutdown(socket.SHUT_WR)
            return read_all(client)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208

    def is_idle(self) -> bool:
        """Asleep each time that one looks, and without having worked meanwhile; a busy loop never is."""

        def look() -> tuple[str, ...]:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            return fields[0], fields[11], fields[12]

        seen = {look()}
        looks = iter(range(25))

        def next_look() -> bool:
            seen.add(look())
            return next(looks, None) is None

        wait_until(next_look, "25 looks")
        return len(seen) == 1 and seen.pop()[0] == "S"

    def stop(self) -> int:
        """SIGTERM; gives the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.end()

    def end(self) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        code = self.process.wait(WAIT_S)
        assert self.process.stdout.read() == b"", "it says nothing more than that it listens"
        self.process.stdout.close()
        self.process = None
        return code

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.end()


class Target:
    """A server with a thread for each connection."""

    def __init__(self, handler: Handler, port: int = 0) -> None:
        self.handler = handler
        self.listener = socket.create_server(("127.0.0.1", port), backlog=512)
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
        """Stop listening; wait until the last connection has been served, but not after a failure."""
        self.failed = kind is not None
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for sock in self.sockets if self.failed else ():
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()


@pytest.fixture
def tunnel(program: list[str], tmp_path: Path) -> Iterator[Tunnel]:
    """A tunnel that is not started yet."""
    tunnel = Tunnel(program, tmp_path)
    yield tunnel
    tunnel.close()


def read_all(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(256 * KIB):
        parts.append(part)
    return b"".join(parts)


def is_cut(sock: socket.socket) -> bool:
    """Read to the end; True when that was a reset."""
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
    """Reads to the end and then answers with the word and what was read."""

    def handler(sock: socket.socket) -> None:
        sock.sendall(word + read_all(sock))

    return handler


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


# What passes


def test_it_carries_every_byte_both_ways_at_once(tunnel: Tunnel) -> None:
    with Target(echo) as target:
        tunnel.point(target)
        tunnel.start()
        sent, received = hashlib.sha256(), hashlib.sha256()
        with tunnel.connect() as client:

            def send() -> None:
                for number in range(50):
                    block = number.to_bytes(4, "big") + BLOCK
                    sent.update(block)
                    client.sendall(block)
                client.shutdown(socket.SHUT_WR)

            sender = threading.Thread(target=send)
            sender.start()
            while data := client.recv(256 * KIB):
                received.update(data)
            sender.join()
        assert received.digest() == sent.digest()
    assert tunnel.errors.read_text() == ""


def test_who_stopped_writing_still_reads_the_answer(tunnel: Tunnel) -> None:
    with Target(answer(b"got ")) as target:
        tunnel.point(target)
        tunnel.start()
        assert tunnel.ask(BLOCK) == b"got " + BLOCK


def test_a_target_that_stopped_writing_still_reads(tunnel: Tunnel) -> None:
    read = []

    def handler(sock: socket.socket) -> None:
        sock.shutdown(socket.SHUT_WR)
        read.append(read_all(sock))

    with Target(handler) as target:
        tunnel.point(target)
        tunnel.start()
        with tunnel.connect() as client:
            assert read_all(client) == b""
            client.sendall(BLOCK)
    assert read == [BLOCK]


def test_a_target_may_speak_first(tunnel: Tunnel) -> None:
    with Target(lambda sock: sock.sendall(b"hello")) as target:
        tunnel.point(target)
        tunnel.start()
        with tunnel.connect() as client:
            assert read_all(client) == b"hello"


def test_an_urgent_byte_stays_in_its_place(tunnel: Tunnel) -> None:
    with Target(answer(b"")) as target:
        tunnel.point(target)
        tunnel.start()
        with tunnel.connect() as client:
            client.sendall(b"ab")
            client.send(b"c", socket.MSG_OOB)
            client.sendall(b"de")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"abcde"


def test_it_listens_on_the_other_loopback(program: list[str], tmp_path: Path) -> None:
    if not has_ipv6():
        pytest.skip("there is no IPv6 here")
    tunnel = Tunnel(program, tmp_path, "::1")
    try:
        with Target(echo) as target:
            tunnel.point(target)
            tunnel.start()
            assert tunnel.ask(b"over six to four") == b"over six to four"
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
        with listener:
            tunnel.point(None, f"::1 {listener.getsockname()[1]}")
            with tunnel.connect():
                listener.settimeout(WAIT_S)
                listener.accept()[0].close()
    finally:
        tunnel.close()


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_two_hundred_connections_at_once_do_not_mix(tunnel: Tunnel) -> None:
    with Target(echo) as target:
        tunnel.point(target)
        tunnel.start()
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(tunnel.connect()) for _ in range(200)]
            for number, client in enumerate(clients):
                client.sendall(number.to_bytes(4, "big") + BLOCK[: 16 * KIB])
            for client in clients:
                client.shutdown(socket.SHUT_WR)
            for number, client in enumerate(clients):
                assert read_all(client) == number.to_bytes(4, "big") + BLOCK[: 16 * KIB]
        assert target.accepted == 200
    wait_until(lambda: tunnel.descriptors() < 10, "the ends of all connections")


# Who is slow


def test_a_reader_that_does_not_read_holds_up_its_sender_and_nobody_else(tunnel: Tunnel) -> None:
    sent = 0

    def handler(sock: socket.socket) -> None:
        nonlocal sent
        if sock.recv(1) == b"e":
            return echo(sock)
        for number in range(100):
            sock.sendall(number.to_bytes(4, "big") + BLOCK)
            sent += 1
        return None

    with Target(handler) as target:
        tunnel.point(target)
        tunnel.start()
        with tunnel.connect() as slow:
            slow.sendall(b"s")
            wait_until(lambda: sent and tunnel.is_idle(), "a sender that is held up")
            assert sent < 100
            assert tunnel.ask(b"e" + BLOCK) == BLOCK
            received = hashlib.sha256()
            while data := slow.recv(256 * KIB):
                received.update(data)
    expected = hashlib.sha256()
    for number in range(100):
        expected.update(number.to_bytes(4, "big") + BLOCK)
    assert received.digest() == expected.digest()


def test_two_ends_without_readers_cost_nothing(tunnel: Tunnel) -> None:
    """Both have stopped writing, one has not read: a socket that is through both ways reports it for ever."""
    go_on = threading.Event()
    read = []

    def handler(sock: socket.socket) -> None:
        sock.shutdown(socket.SHUT_WR)
        assert go_on.wait(WAIT_S)
        read.append(len(read_all(sock)))

    with Target(handler) as target:
        tunnel.point(target)
        tunnel.start()
        with tunnel.connect() as client:
            sent = fill(client, tunnel)
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b""
            wait_until(tunnel.is_idle, "an idle tunnel")
            go_on.set()
    assert read == [sent]


def fill(client: socket.socket, tunnel: Tunnel) -> int:
    """Send until nobody on the way takes any more; gives how many bytes that were."""
    sent = 0

    def is_full() -> bool:
        nonlocal sent
        try:
            while True:
                sent += client.send(BLOCK)
        except BlockingIOError:
            return tunnel.is_idle() and not select.select([], [client], [], 0)[1]

    client.setblocking(False)
    wait_until(is_full, "full buffers everywhere")
    client.settimeout(WAIT_S)
    return sent


def test_idle_connections_cost_nothing(tunnel: Tunnel) -> None:
    with Target(echo) as target:
        tunnel.point(target)
        tunnel.start()
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                client = stack.enter_context(tunnel.connect())
                client.sendall(b"x")
                assert client.recv(1) == b"x"
            wait_until(tunnel.is_idle, "an idle tunnel")


def test_the_native_one_stays_small(native: list[str], tmp_path: Path) -> None:
    tunnel = Tunnel(native, tmp_path)
    try:
        with Target(echo) as target, contextlib.ExitStack() as stack:
            tunnel.point(target)
            tunnel.start()
            for _ in range(200):
                client = stack.enter_context(tunnel.connect())
                client.sendall(BLOCK[:KIB])
                assert client.recv(1)
            assert private_bytes(tunnel.pid) < MIB
    finally:
        tunnel.close()


def private_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * KIB for line in lines if line.startswith("Private_"))


# The target goes and comes


def test_the_target_changes_its_port_while_the_tunnel_lives(tunnel: Tunnel) -> None:
    with Target(answer(b"one ")) as one, Target(answer(b"two ")) as two:
        tunnel.point(one)
        tunnel.start()
        assert tunnel.ask(b"?") == b"one ?"
        with tunnel.connect() as old:
            wait_until(lambda: one.accepted == 2, "the connection at the first target")
            tunnel.point(two)
            assert tunnel.ask(b"?") == b"two ?"
            old.sendall(b"still")
            old.shutdown(socket.SHUT_WR)
            assert read_all(old) == b"one still"


def test_the_target_restarts_on_its_port(tunnel: Tunnel) -> None:
    with Target(answer(b"one ")) as one:
        tunnel.point(one)
        tunnel.start()
        assert tunnel.ask(b"?") == b"one ?"
    with tunnel.connect() as held:
        held.sendall(b"?")
        held.shutdown(socket.SHUT_WR)
        with Target(answer(b"two "), one.port):
            assert read_all(held) == b"two ?"


@pytest.mark.parametrize("before", ["no file", "an empty file", "a port where nobody listens"])
def test_a_client_is_held_until_the_target_is_up(tunnel: Tunnel, before: str) -> None:
    if before != "no file":
        tunnel.point(None, "" if before == "an empty file" else f"127.0.0.1 {unused_port()}\n")
    tunnel.start()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(tunnel.connect()) for _ in range(50)]
        for number, client in enumerate(clients):
            client.sendall(b"%d" % number)
            client.shutdown(socket.SHUT_WR)
        with Target(answer(b"late ")) as target:
            tunnel.point(target)
            for number, client in enumerate(clients):
                assert read_all(client) == b"late %d" % number
    assert tunnel.errors.read_text() == ""


def test_a_client_whose_target_never_comes_is_reset(tunnel: Tunnel) -> None:
    tunnel.start(hold_ms=200)
    with tunnel.connect() as one, tunnel.connect() as other:
        one.sendall(b"hello?")
        assert is_cut(one)
        assert is_cut(other)
    wait_until(lambda: tunnel.descriptors() < 10, "the end of both")
    wait_until(tunnel.is_idle, "an idle tunnel")
    with Target(echo) as target:
        tunnel.point(target)
        assert tunnel.ask(b"now") == b"now"


def test_a_client_that_leaves_is_not_held(tunnel: Tunnel) -> None:
    tunnel.start()
    before = tunnel.descriptors()
    client = tunnel.connect()
    wait_until(lambda: tunnel.descriptors() > before, "the client at the tunnel")
    reset(client)
    wait_until(lambda: tunnel.descriptors() == before, "its end")


BAD = [
    "nonsense\n",
    "\n\n",
    "127.0.0.1\n",
    "127.0.0.1 0\n",
    "127.0.0.1 65536\n",
    "127.0.0.1 99999999999999999999999\n",
    "127.0.0.1 -1\n",
    "127.0.0.1 {port} \n",
    "127.0.0.1  {port}\n",
    " 127.0.0.1 {port}\n",
    "127.0.0.1 {port}\n\n",
    "127.0.0.1 {port}\0x\n",
    "127.0.0.1\t{port}\n",
    "127.0.0.1 {port}\n127.0.0.1 {port}\n",
    "127.1 {port}\n",
    "0.0.0.0 {port}\n",
    "192.0.2.1 {port}\n",
    "::2 {port}\n",
    ":: {port}\n",
    "::ffff:127.0.0.1 {port}\n",
    "example.invalid {port}\n",
    "\xff\xfe {port}\n",
    "127.0.0.1 \xb2\n",
    "x" * 10_000,
    "127.0.0.1 {own}\n",
]


def test_a_bad_target_file_is_as_good_as_none_and_said_once(tunnel: Tunnel) -> None:
    with Target(answer(b"")) as target, contextlib.ExitStack() as stack:
        tunnel.start()
        clients = []
        for text in BAD:
            tunnel.point(None, text.format(port=target.port, own=tunnel.port))
            before = tunnel.descriptors()
            clients.append(stack.enter_context(tunnel.connect()))
            wait_until(lambda before=before: tunnel.descriptors() == before + 1, "the client at the tunnel")  # type: ignore[misc]
            clients[-1].sendall(b"held")
            clients[-1].shutdown(socket.SHUT_WR)
        assert target.accepted == 0
        said = tunnel.errors.read_text()
        assert said.startswith("nexus-tunnel: cannot use the target file")
        assert said.count("\n") == 1
        tunnel.point(None, f"localhost {target.port}")
        for client in clients:
            assert read_all(client) == b"held"


def test_a_target_file_that_is_no_file_stalls_nobody(tunnel: Tunnel) -> None:
    os.mkfifo(tunnel.file)
    tunnel.start()
    with tunnel.connect() as client, Target(answer(b"")) as target:
        client.sendall(b"held")
        client.shutdown(socket.SHUT_WR)
        tunnel.point(target)
        assert read_all(client) == b"held"


# Who breaks off


def test_a_reset_of_the_target_reaches_the_client(tunnel: Tunnel) -> None:
    def handler(sock: socket.socket) -> None:
        sock.sendall(b"partly")
        assert sock.recv(1)
        reset(sock)

    with Target(handler) as target:
        tunnel.point(target)
        tunnel.start()
        with tunnel.connect() as client:
            assert client.recv(6) == b"partly"
            client.sendall(b"x")
            assert is_cut(client)


def test_a_reset_of_the_client_reaches_the_target(tunnel: Tunnel) -> None:
    cut = []
    with Target(lambda sock: cut.append(is_cut(sock))) as target:
        tunnel.point(target)
        tunnel.start()
        client = tunnel.connect()
        wait_until(lambda: target.accepted == 1, "the connection at the target")
        reset(client)
    assert cut == [True]


def test_an_answer_before_a_reset_is_still_read(tunnel: Tunnel) -> None:
    """As of a web server that refuses a large upload: it answers and closes, with input that it never read."""

    def handler(sock: socket.socket) -> None:
        assert sock.recv(1)
        wait_until(lambda: sock.recv(MIB, socket.MSG_PEEK), "more input")
        sock.sendall(b"too large" * 1000)

    with Target(handler) as target:
        tunnel.point(target)
        tunnel.start()
        with tunnel.connect() as client:
            client.sendall(BLOCK[: 64 * KIB])
            received = b""
            while len(received) < 9000:
                received += client.recv(9000 - len(received))
            assert received == b"too large" * 1000
            assert is_cut(client)


def test_a_target_that_is_through_and_gone_is_noticed_when_the_client_writes(tunnel: Tunnel) -> None:
    with Target(lambda sock: sock.sendall(b"bye")) as target:
        tunnel.point(target)
        tunnel.start()
        before = tunnel.descriptors()
        with tunnel.connect() as client:
            assert read_all(client) == b"bye"

            def breaks() -> bool:
                try:
                    client.sendall(b"anybody?")
                except ConnectionError:
                    return True
                return False

            wait_until(breaks, "the end of a connection that nobody reads")
            wait_until(lambda: tunnel.descriptors() == before, "the end of both connections")


# The process itself


def test_a_taken_port_is_said_with_a_code_of_its_own(program: list[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = subprocess.run(
            [*program, "127.0.0.1", str(port), tmp_path / "target"], capture_output=True, text=True, timeout=WAIT_S
        )
    assert result.returncode == 98
    assert result.stdout == ""
    assert (
        result.stderr
        == f"nexus-tunnel: cannot listen on 127.0.0.1 port {port}: the port is in use by another process\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["127.0.0.1", "0"],
        ["127.0.0.1", "0", "file", "1", "2"],
        ["127.0.0.1", "0", "file", "soon"],
        ["127.0.0.1", "0", "file", "-1"],
        ["0.0.0.0", "0", "file"],
        ["192.0.2.1", "0", "file"],
        ["::", "0", "file"],
        ["nowhere", "0", "file"],
        ["127.0.0.1", "65536", "file"],
        ["127.0.0.1", "", "file"],
        ["127.0.0.1", "http", "file"],
    ],
)
def test_wrong_arguments_are_a_sentence(program: list[str], words: list[str]) -> None:
    result = subprocess.run([*program, *words], capture_output=True, text=True, timeout=WAIT_S)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("nexus-tunnel: cannot ")
    assert result.stderr.count("\n") == 1


def test_sigterm_ends_it_at_once_and_its_port_is_free_again(tunnel: Tunnel) -> None:
    with Target(echo) as target:
        tunnel.point(target)
        tunnel.start()
        with tunnel.connect() as client, tunnel.connect():
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            assert tunnel.stop() == -signal.SIGTERM
            tunnel.start()
            assert tunnel.ask(b"again") == b"again"


def test_more_clients_than_descriptors_wait_their_turn(tunnel: Tunnel) -> None:
    with Target(echo) as target, contextlib.ExitStack() as stack:
        tunnel.point(target)
        tunnel.start(descriptors=32)
        clients = [tunnel.connect() for _ in range(30)]
        for client in clients:
            stack.enter_context(client)
            client.sendall(b"x")
        wait_until(lambda: target.accepted == 8, "as many as there are descriptors for")
        wait_until(tunnel.is_idle, "an idle tunnel")
        assert target.accepted == 8
        for client in clients:
            assert client.recv(1) == b"x"
            client.close()
        assert tunnel.ask(b"y") == b"y"


def test_a_lack_of_descriptors_is_no_busy_loop(tunnel: Tunnel) -> None:
    with Target(echo) as target, tunnel.start().connect() as first:
        tunnel.point(target)
        first.sendall(b"x")
        assert first.recv(1) == b"x"
        before = tunnel.descriptors()
        limits = resource.prlimit(tunnel.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(tunnel.pid, resource.RLIMIT_NOFILE, (before + 1, limits[1]))
        # One of them is accepted and has no descriptor for its target; the other is not even accepted.
        with tunnel.connect() as second, tunnel.connect() as third:
            second.sendall(b"y")
            third.sendall(b"z")
            wait_until(lambda: tunnel.descriptors() == before + 1, "all descriptors in use")
            assert times_awake(tunnel.pid, 40) < 20
            first.sendall(b"still")
            assert first.recv(5) == b"still"
            resource.prlimit(tunnel.pid, resource.RLIMIT_NOFILE, limits)
            assert second.recv(1) == b"y"
            assert third.recv(1) == b"z"


def times_awake(pid: int, looks: int) -> int:
    """In how many of so many looks a process is at work; a busy loop is in all."""
    seen = []

    def look() -> bool:
        seen.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
        return len(seen) == looks

    wait_until(look, "looks")
    return sum(state != "S" for state in seen)


ALONE = """
import fcntl, os, socket, struct, subprocess, sys, time
with socket.socket() as sock:
    fcntl.ioctl(sock, 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # SIOCSIFFLAGS: up and running
open("/proc/sys/net/ipv4/ip_local_port_range", "w").write("40000 40001")
with socket.socket() as sock:
    sock.connect(("127.0.0.1", 40000))
    assert sock.getsockname() == sock.getpeername()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
"""
"""A network of its own, where the kernel can give a connection to port 40000 no other port than that or the next."""


def alone(script: str, *words: str) -> str:
    """Run a script in such a network; gives what it says."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rn", "true"], capture_output=True).returncode:
        pytest.skip("a network namespace cannot be made here")
    result = subprocess.run(
        [unshare, "-rn", sys.executable, "-c", ALONE + script, *words], capture_output=True, text=True, timeout=WAIT_S
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_tunnel_never_connects_to_itself(program: list[str], tmp_path: Path) -> None:
    """A held client would otherwise be served its own words."""
    (tmp_path / "target").write_text("127.0.0.1 40000\n")
    said = alone(
        """
tunnel = subprocess.Popen([*sys.argv[1:], "300"], stdout=subprocess.PIPE)
port = int(tunnel.stdout.readline().rpartition(b":")[2])
try:
    with socket.create_connection(("127.0.0.1", port), 30) as client:
        client.sendall(b"mine")
        try:
            print("heard", client.recv(100))
        except ConnectionResetError:
            print("reset")
    socket.create_server(("127.0.0.1", 40000)).close()  # nor does it keep the port
finally:
    tunnel.kill()
    tunnel.wait()
""",
        *program,
        "127.0.0.1",
        "30000",
        str(tmp_path / "target"),
    )
    assert said == "reset\n"


# Which of the two


def test_the_choice_is_the_environments_else_what_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tunnel_module, "__file__", str(tmp_path / "tunnel.py"))
    fallback = [sys.executable, "-I", "-S", str(tmp_path / "tunnel.py")]
    native = tmp_path / "native" / "nexus-tunnel"
    monkeypatch.delenv("NEXUS_RUNTIME_SHIM", raising=False)
    assert find_tunnel_command() == fallback
    monkeypatch.setenv("NEXUS_RUNTIME_SHIM", "native")
    with pytest.raises(FileNotFoundError, match="cannot run the native tunnel"):
        find_tunnel_command()
    native.parent.mkdir()
    native.touch(0o755)
    assert find_tunnel_command() == [str(native)]
    monkeypatch.setenv("NEXUS_RUNTIME_SHIM", "python")
    assert find_tunnel_command() == fallback
    monkeypatch.delenv("NEXUS_RUNTIME_SHIM")
    assert find_tunnel_command() == [str(native)]


def test_the_command_that_is_found_runs(tmp_path: Path) -> None:
    tunnel = Tunnel(find_tunnel_command(), tmp_path)
    try:
        with Target(echo) as target:
            tunnel.point(target)
            assert tunnel.start(hold_ms=None).ask(b"it works") == b"it works"
        assert tunnel.stop() == -signal.SIGTERM
    finally:
        tunnel.close()
