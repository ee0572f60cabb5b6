"""Tunnel: the target moves, restarts, is not up or breaks a connection; with the native and the Python program."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest
from support.raw import wait_until
from support.tunnels import BLOCK, KIB, MIB, Target, Tunnel, answer, echo, has_ipv6, is_reset, read_all, reset


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


# The target listens on either loopback address


@pytest.mark.parametrize("named", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("listens", ["127.0.0.1", "::1"])
def test_target_is_reached_on_either_loopback_address(tunnel: Tunnel, named: str, listens: str) -> None:
    if "::1" in (named, listens) and not has_ipv6():
        named = listens = "127.0.0.1"
    with Target(answer(b"it "), host=listens) as target:
        tunnel.point(None, f"{named} {target.port}\n")
        tunnel.start()
        for _ in range(3):
            assert tunnel.exchange(b"?") == b"it ?"


def test_target_that_moves_to_the_other_loopback_address_is_found_again(tunnel: Tunnel) -> None:
    hosts = ("127.0.0.1", "::1") if has_ipv6() else ("127.0.0.1", "127.0.0.1")
    with Target(answer(b"one "), host=hosts[1]) as one:
        tunnel.point(one)
        tunnel.start()
        assert tunnel.exchange(b"?") == b"one ?"
    for number in range(4):
        with Target(answer(b"again "), one.port, host=hosts[number % 2]):
            assert tunnel.exchange(b"?") == b"again ?"


def test_only_the_loopback_address_itself_stands_for_both(tunnel: Tunnel) -> None:
    with Target(answer(b"it "), host="::1" if has_ipv6() else "127.0.0.1") as target:
        tunnel.point(None, f"127.0.0.2 {target.port}\n")
        tunnel.start(hold_ms=300)
        with tunnel.connect() as client:
            assert is_reset(client)


# The target moves, restarts or is not up


def test_changed_target_applies_to_new_connections_only(tunnel: Tunnel) -> None:
    with Target(answer(b"one ")) as one, Target(answer(b"two ")) as two:
        tunnel.point(one)
        tunnel.start()
        assert tunnel.exchange(b"?") == b"one ?"
        with tunnel.connect() as old:
            wait_until(lambda: one.accepted == 2, "the connection at the first target")
            tunnel.point(two)
            assert tunnel.exchange(b"?") == b"two ?"
            old.sendall(b"still")
            old.shutdown(socket.SHUT_WR)
            assert read_all(old) == b"one still"


def test_client_is_held_while_the_target_restarts_on_its_port(tunnel: Tunnel) -> None:
    with Target(answer(b"one ")) as one:
        tunnel.point(one)
        tunnel.start()
        assert tunnel.exchange(b"?") == b"one ?"
    with tunnel.connect() as held:
        held.sendall(b"?")
        held.shutdown(socket.SHUT_WR)
        with Target(answer(b"two "), one.port):
            assert read_all(held) == b"two ?"


@pytest.mark.parametrize("before", ["no file", "an empty file", "a port without a listener"])
def test_client_is_held_until_the_target_is_up(tunnel: Tunnel, before: str) -> None:
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


def test_client_is_reset_when_the_target_does_not_come_up_in_time(tunnel: Tunnel) -> None:
    tunnel.start(hold_ms=200)
    with tunnel.connect() as one, tunnel.connect() as other:
        one.sendall(b"hello?")
        assert is_reset(one)
        assert is_reset(other)
    wait_until(lambda: tunnel.descriptors() < 10, "both connections to be closed")
    wait_until(tunnel.is_idle, "the tunnel to be idle")
    with Target(echo) as target:
        tunnel.point(target)
        assert tunnel.exchange(b"now") == b"now"


def test_held_client_that_disconnects_is_released(tunnel: Tunnel) -> None:
    tunnel.start()
    before = tunnel.descriptors()
    client = tunnel.connect()
    wait_until(lambda: tunnel.descriptors() > before, "the client at the tunnel")
    reset(client)
    wait_until(lambda: tunnel.descriptors() == before, "the client's connection to be closed")


INVALID_TARGETS = [
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


def test_invalid_target_file_counts_as_missing_and_is_reported_once(tunnel: Tunnel) -> None:
    with Target(answer(b"")) as target, contextlib.ExitStack() as stack:
        tunnel.start()
        clients = []
        for text in INVALID_TARGETS:
            tunnel.point(None, text.format(port=target.port, own=tunnel.port))
            before = tunnel.descriptors()
            clients.append(stack.enter_context(tunnel.connect()))
            wait_until(lambda before=before: tunnel.descriptors() == before + 1, "the client at the tunnel")  # type: ignore[misc]
            clients[-1].sendall(b"held")
            clients[-1].shutdown(socket.SHUT_WR)
        assert target.accepted == 0
        errors = tunnel.errors.read_text()
        assert errors.startswith("nexus-tunnel: cannot use the target file")
        assert errors.count("\n") == 1
        tunnel.point(None, f"localhost {target.port}")
        for client in clients:
            assert read_all(client) == b"held"


def test_fifo_as_target_file_does_not_block_the_tunnel(tunnel: Tunnel) -> None:
    os.mkfifo(tunnel.file)
    tunnel.start()
    with tunnel.connect() as client, Target(answer(b"")) as target:
        client.sendall(b"held")
        client.shutdown(socket.SHUT_WR)
        tunnel.point(target)
        assert read_all(client) == b"held"


# A peer breaks the connection


def test_reset_by_the_target_reaches_the_client(tunnel: Tunnel) -> None:
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
            assert is_reset(client)


def test_reset_by_the_client_reaches_the_target(tunnel: Tunnel) -> None:
    cut = []
    with Target(lambda sock: cut.append(is_reset(sock))) as target:
        tunnel.point(target)
        tunnel.start()
        client = tunnel.connect()
        wait_until(lambda: target.accepted == 1, "the connection at the target")
        reset(client)
    assert cut == [True]


def test_data_sent_before_a_reset_is_delivered(tunnel: Tunnel) -> None:
    """A web server that refuses a large upload does this: it answers and closes without reading all input."""

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
            assert is_reset(client)


def test_closed_target_is_detected_when_the_client_writes(tunnel: Tunnel) -> None:
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

            wait_until(breaks, "an error from a write to the closed connection")
            wait_until(lambda: tunnel.descriptors() == before, "both connections to be closed")
