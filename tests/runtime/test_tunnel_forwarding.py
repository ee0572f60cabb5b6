"""Tunnel: every byte is forwarded both ways, with back-pressure; with the native and the Python program."""

from __future__ import annotations

import contextlib
import hashlib
import select
import socket
import threading
from pathlib import Path

import pytest
from support.raw import WAIT_S, wait_until
from support.tunnels import BLOCK, KIB, MIB, Target, Tunnel, answer, echo, has_ipv6, read_all


def test_tunnel_forwards_every_byte_both_ways_at_once(tunnel: Tunnel) -> None:
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


def test_client_that_shut_down_writing_still_reads_the_answer(tunnel: Tunnel) -> None:
    with Target(answer(b"got ")) as target:
        tunnel.point(target)
        tunnel.start()
        assert tunnel.exchange(BLOCK) == b"got " + BLOCK


def test_target_that_shut_down_writing_still_reads(tunnel: Tunnel) -> None:
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


def test_target_may_send_first(tunnel: Tunnel) -> None:
    with Target(lambda sock: sock.sendall(b"hello")) as target:
        tunnel.point(target)
        tunnel.start()
        with tunnel.connect() as client:
            assert read_all(client) == b"hello"


def test_urgent_byte_keeps_its_position_in_the_stream(tunnel: Tunnel) -> None:
    with Target(answer(b"")) as target:
        tunnel.point(target)
        tunnel.start()
        with tunnel.connect() as client:
            client.sendall(b"ab")
            client.send(b"c", socket.MSG_OOB)
            client.sendall(b"de")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"abcde"


def test_tunnel_listens_and_connects_on_ipv6_loopback(tunnel_command: list[str], tmp_path: Path) -> None:
    if not has_ipv6():
        pytest.skip("IPv6 is not available")
    tunnel = Tunnel(tunnel_command, tmp_path, "::1")
    try:
        with Target(echo) as target:
            tunnel.point(target)
            tunnel.start()
            assert tunnel.exchange(b"over six to four") == b"over six to four"
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
        with listener:
            tunnel.point(None, f"::1 {listener.getsockname()[1]}")
            with tunnel.connect():
                listener.settimeout(WAIT_S)
                listener.accept()[0].close()
    finally:
        tunnel.close()


def test_two_hundred_concurrent_connections_do_not_mix(tunnel: Tunnel) -> None:
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
    wait_until(lambda: tunnel.descriptors() < 10, "all connections to be closed")


# Slow readers and idle connections


def test_slow_reader_blocks_its_own_sender_only(tunnel: Tunnel) -> None:
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
            wait_until(lambda: sent and tunnel.is_idle(), "the sender to be blocked")
            assert sent < 100
            assert tunnel.exchange(b"e" + BLOCK) == BLOCK
            received = hashlib.sha256()
            while data := slow.recv(256 * KIB):
                received.update(data)
    expected = hashlib.sha256()
    for number in range(100):
        expected.update(number.to_bytes(4, "big") + BLOCK)
    assert received.digest() == expected.digest()


def test_tunnel_is_idle_while_both_sides_have_shut_down_and_data_is_unread(tunnel: Tunnel) -> None:
    """A socket that is shut down both ways would be reported continuously by a level-triggered poll."""
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
            wait_until(tunnel.is_idle, "the tunnel to be idle")
            go_on.set()
    assert read == [sent]


def fill(client: socket.socket, tunnel: Tunnel) -> int:
    """Send until all buffers on the way are full; returns the number of bytes."""
    sent = 0

    def is_full() -> bool:
        nonlocal sent
        try:
            while True:
                sent += client.send(BLOCK)
        except BlockingIOError:
            return tunnel.is_idle() and not select.select([], [client], [], 0)[1]

    client.setblocking(False)
    wait_until(is_full, "all buffers to be full")
    client.settimeout(WAIT_S)
    return sent


def test_tunnel_is_idle_while_its_connections_are(tunnel: Tunnel) -> None:
    with Target(echo) as target:
        tunnel.point(target)
        tunnel.start()
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                client = stack.enter_context(tunnel.connect())
                client.sendall(b"x")
                assert client.recv(1) == b"x"
            wait_until(tunnel.is_idle, "the tunnel to be idle")


def test_native_tunnel_with_many_connections_uses_little_memory(native_tunnel: list[str], tmp_path: Path) -> None:
    tunnel = Tunnel(native_tunnel, tmp_path)
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
