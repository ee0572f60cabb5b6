"""Ports, with real sockets: which process listens, which ports are free, and whether connections are accepted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from nexus_protocol import ResourceExhausted
from support.raw import WAIT_S, wait_until
from support.tunnels import run_in_namespace

from nexus.runtime import ports
from nexus.runtime.ports import (
    PortHolder,
    accepts,
    describe_holder,
    find_free,
    find_free_in_thread,
    holder,
    holder_in_thread,
    listeners_of,
    listeners_of_in_thread,
    wait_until_free,
)

LISTENER = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
if sys.argv[3:]:
    open("/proc/self/comm", "wb").write(bytes.fromhex(sys.argv[3]))
with socket.create_server((sys.argv[1], int(sys.argv[2])), family=family) as server:
    print(server.getsockname()[1], flush=True)
    sys.stdin.read()
"""


class Listener:
    """Another process that listens until the end of the block."""

    def __init__(self, address: str = "127.0.0.1", name: bytes = b"") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", LISTENER, address, "0", *([name.hex()] if name else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate(timeout=WAIT_S)


@contextlib.contextmanager
def listening(address: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Listen in this process; yields the port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, port), family=family) as server:
        yield server.getsockname()[1]


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def ephemeral_range() -> range:
    first, last = Path(ports.EPHEMERAL_RANGE).read_text().split()
    return range(int(first), int(last) + 1)


def has_ipv6() -> bool:
    try:
        with listening("::1"):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="IPv6 is not available")


# The process that listens on a port


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "0.0.0.0",
        "127.0.0.2",
        *(pytest.param(address, marks=needs_ipv6) for address in ("::1", "::")),
    ],
)
def test_holder_returns_the_listening_process(address: str) -> None:
    with Listener(address) as listener:
        pid = listener.process.pid
        assert holder(listener.port) == PortHolder(pid, command_of(pid), address)
        assert asyncio.run(holder_in_thread(listener.port)) == holder(listener.port)
    assert holder(listener.port) is None


@needs_ipv6
def test_holder_returns_an_ipv4_mapped_address_as_ipv4() -> None:
    with socket.socket(socket.AF_INET6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::ffff:127.0.0.1", 0))
        sock.listen()
        assert holder(sock.getsockname()[1]) == PortHolder(os.getpid(), command_of(os.getpid()), "127.0.0.1")


def test_holder_ignores_a_listener_on_another_network() -> None:
    address = own_address()
    with listening(address) as port:
        assert holder(port) is None
        with listening("127.0.0.1", port):
            found = holder(port)
            assert found is not None
            assert found.address == "127.0.0.1"


def own_address() -> str:
    """A non-loopback address of this machine; connecting a UDP socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("there is no network except loopback")
        address: str = sock.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("there is no network except loopback")
    return address


def test_holder_ignores_bound_and_connected_sockets() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert holder(bound.getsockname()[1]) is None
        with listening() as port, socket.create_connection(("127.0.0.1", port)) as client:
            assert holder(client.getsockname()[1]) is None


def test_holder_of_a_shared_socket_is_the_lowest_pid() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        descriptor = server.fileno()
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[descriptor]) as worker:
            both = {worker.pid, os.getpid()}
            found = holder(server.getsockname()[1])
            assert found is not None
            assert found.pid == min(both)
            os.close(server.detach())
            found = holder(next(iter(listeners_of([worker.pid]))))
            assert found is not None
            assert found.pid == worker.pid
            worker.communicate()


def test_holder_of_another_user_has_no_pid_and_no_command() -> None:
    if os.geteuid():
        pytest.skip("only root can become another user")
    # The modules are imported first, since the other user may not be able to read them.
    script = """
import os, sys
from nexus.runtime.ports import *
os.setgroups([])
os.setresgid(65533, 65533, 65533)
os.setresuid(65533, 65533, 65533)
port, pid = map(int, sys.argv[1:])
print(*holder(port), describe_holder(holder(port)), listeners_of([pid]), sep="|")
"""
    with Listener() as listener:
        output = run_script(script, str(listener.port), str(listener.process.pid))
    assert output == "None|None|127.0.0.1|a process that cannot be identified|set()\n"


def run_script(script: str, *arguments: str) -> str:
    """Run a script in a process of its own; returns its output."""
    start = f"import sys\nsys.path[:] = {sys.path!r}\nfrom nexus_protocol import ResourceExhausted\n"
    result = subprocess.run(
        [sys.executable, "-c", start + script, *arguments], capture_output=True, text=True, timeout=WAIT_S
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (PortHolder(812, "postgres", "127.0.0.1"), "postgres (pid 812)"),
        (PortHolder(812, None, "127.0.0.1"), "a process (pid 812)"),
        (PortHolder(None, None, "127.0.0.1"), "a process that cannot be identified"),
    ],
)
def test_describe_holder(found: PortHolder, text: str) -> None:
    assert describe_holder(found) == text


def test_holder_command_has_no_control_characters() -> None:
    with Listener(name=b"a\x1b[2J\n)\xff") as listener:
        found = holder(listener.port)
    assert found is not None
    assert found.command == "a?[2J?)\N{REPLACEMENT CHARACTER}"


def test_listeners_of_returns_the_ports_of_the_processes() -> None:
    with Listener("127.0.0.1") as one, Listener("0.0.0.0") as other, Listener() as third:
        pids = [one.process.pid, other.process.pid]
        assert listeners_of(pids) == {one.port, other.port}
        assert asyncio.run(listeners_of_in_thread(iter(pids))) == {one.port, other.port}
        assert listeners_of([]) == set()
        gone = third.process
    assert listeners_of([gone.pid]) == set()


# Free ports


def test_free_port_is_outside_of_the_ephemeral_range() -> None:
    chosen = {find_free(()) for _ in range(50)}
    outside = set(range(20_000, 65_536)) - set(ephemeral_range())
    assert not outside or chosen <= outside
    assert len(chosen) > 1, "two daemons should not choose the same port"
    for port in chosen:
        for address in ("127.0.0.1", "0.0.0.0"):
            with listening(address, port):
                pass


def test_find_free_skips_taken_ports() -> None:
    free = find_free(())
    assert find_free((), preferred=free) == free
    assert find_free({free}, preferred=free) != free
    everything_but = set(range(65_536)) - {free}
    assert find_free(everything_but) == free
    assert asyncio.run(find_free_in_thread(everything_but)) == free


def test_find_free_returns_the_preferred_port_if_it_is_free() -> None:
    with listening() as port:
        pass
    assert find_free((), preferred=port) == port


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.0.0.2",
        "0.0.0.0",
        *(pytest.param(address, marks=needs_ipv6) for address in ("::1", "::")),
    ],
)
def test_port_with_a_listener_is_not_free(address: str) -> None:
    with listening(address) as port:
        assert find_free((), preferred=port) != port


def test_port_bound_exclusively_is_not_free() -> None:
    """A socket bound without SO_REUSEADDR is not in /proc/net/tcp; only bind() shows the conflict."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        assert find_free((), preferred=port) != port


def test_port_with_a_reuseport_listener_is_not_free() -> None:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        assert find_free((), preferred=port) != port


def test_port_in_time_wait_is_free() -> None:
    with listening() as port, socket.socket() as client:
        pass
    with socket.create_server(("127.0.0.1", port)) as server:
        client = socket.create_connection(("127.0.0.1", port))
        accepted = server.accept()[0]
        accepted.close()  # the side that closes first is in TIME_WAIT
        assert client.recv(1) == b""
        client.close()
    wait_until(lambda: states_of(port) == ["06"], "TIME_WAIT")
    assert holder(port) is None
    assert find_free((), preferred=port) == port
    assert asyncio.run(wait_until_free(port, 0))


def states_of(port: int) -> list[str]:
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return [line.split()[3] for line in lines if line.split()[1].endswith(f":{port:04X}")]


def test_find_free_without_a_free_port_raises_with_a_hint() -> None:
    with pytest.raises(ResourceExhausted, match="cannot find a free port") as caught:
        find_free(range(65_536))
    assert caught.value.hint


def test_find_free_copes_with_any_ephemeral_range(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "range"
    monkeypatch.setattr(ports, "EPHEMERAL_RANGE", str(file))
    for text, expected in [
        ("32768 60999", range(20_000, 32_768)),
        ("10000 40000", range(40_001, 65_536)),
        ("2000\t65535\n", range(1024, 2000)),
        ("1024 65535", range(20_000, 65_536)),
        ("not what it was", range(20_000, 32_768)),
    ]:
        file.write_text(text)
        assert find_free(()) in expected, text
    file.unlink()
    assert find_free(()) in range(20_000, 32_768)


def test_running_out_of_descriptors_raises_resource_exhausted() -> None:
    script = """
import asyncio, os, resource
from nexus.runtime.ports import *
asyncio.run(asyncio.sleep(0))
async def attempt():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(0), limits[1]))
    for call in (lambda: find_free(()), lambda: holder(1)):
        try:
            call()
        except ResourceExhausted as error:
            print(error.message, error.hint is not None)
    try:
        await accepts("127.0.0.1", 1, 30)
    except ResourceExhausted as error:
        print(error.message, error.hint is not None)
asyncio.run(attempt())
"""
    assert run_script(script) == "cannot check ports: too many open files True\n" * 3


# Waiting for a port and connecting to it


def test_wait_until_free_returns_when_the_listener_is_gone() -> None:
    async def scenario(listener: Listener) -> bool:
        waiting = asyncio.create_task(wait_until_free(listener.port, WAIT_S))
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done
        assert listener.process.stdin is not None
        listener.process.stdin.close()
        return await waiting

    listener = Listener()
    try:
        assert asyncio.run(scenario(listener))
        assert holder(listener.port) is None
    finally:
        assert listener.process.stdout is not None
        listener.process.stdout.close()
        listener.process.wait(WAIT_S)


def test_wait_until_free_returns_false_after_the_timeout() -> None:
    with listening() as port:
        assert not asyncio.run(wait_until_free(port, 0.05))
        assert not asyncio.run(wait_until_free(port, 0))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", pytest.param("::1", marks=needs_ipv6)])
def test_accepts_is_true_while_a_listener_exists(host: str) -> None:
    with listening("::1" if ":" in host else "127.0.0.1") as port:
        assert asyncio.run(accepts(host, port, WAIT_S))
    assert not asyncio.run(accepts(host, port, WAIT_S))


def test_accepts_is_false_for_an_unknown_name() -> None:
    assert not asyncio.run(accepts("no-such-name.invalid", 80, WAIT_S))


def test_accepts_is_false_when_the_listen_queue_is_full() -> None:
    with socket.socket() as server, contextlib.ExitStack() as stack:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        for _ in range(8):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        assert not asyncio.run(accepts("127.0.0.1", port, 0.2))


def test_accepts_is_false_for_a_connection_to_itself() -> None:
    script = """
import asyncio
from nexus.runtime.ports import accepts
print(asyncio.run(accepts("127.0.0.1", 40000, 30)))
with socket.create_server(("127.0.0.1", 40000)):  # the attempt does not hold the port
    print(asyncio.run(accepts("127.0.0.1", 40000, 30)))
"""
    assert run_in_namespace(script) == "False\nTrue\n"
