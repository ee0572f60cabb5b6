"""``nexusctl dial-stdio``: the bridge between the standard streams and the daemon, and how it ends."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from nexus_protocol import ClientConnection, SuccessReceived
from support.cli import Cli
from support.daemon import DaemonProcess
from support.raw import WAIT_S, frame, wait_until

from nexus.cli.dial import carry
from nexus.system.commands import Describe, Ping

MIB = 1024 * 1024


def dialled(cli: Cli, data: bytes, *arguments: str) -> tuple[int, bytes, str]:
    """Run dial-stdio with bytes for its standard input, which then ends."""
    command = ["nexusctl", *arguments, "dial-stdio"]
    done = subprocess.run(command, env=cli.environment, input=data, capture_output=True, check=False, timeout=WAIT_S)
    return done.returncode, done.stdout, done.stderr.decode()


# The program


def test_requests_before_the_end_of_the_input_are_answered(cli: Cli) -> None:
    engine = ClientConnection()
    sent = b"".join(engine.send_request(command.info.code)[1] for command in [Describe()] * 20 + [Ping()] * 20)
    code, out, err = dialled(cli, sent)
    assert (code, err) == (0, "")
    events = engine.receive_data(out)
    assert [type(event) for event in events] == [SuccessReceived] * 40


def test_end_without_a_request_ends_it(cli: Cli) -> None:
    assert dialled(cli, b"") == (0, b"", "")


def test_exit_code_tells_no_daemon_from_another_refusal(root: Path, lonely: Cli) -> None:
    code, out, err = dialled(lonely, frame(Ping(), 1))
    assert (code, out) == (3, b"")
    assert err == f"cannot connect to Nexus daemon at {root}/run/nexus/nexus.sock\n"
    code, out, err = dialled(lonely, b"", "--socket", "/" + "x" * 200)
    assert (code, out) == (1, b"")
    assert "too long" in err


def test_it_ends_once_nothing_reads_its_output(cli: Cli, daemon: DaemonProcess) -> None:
    with subprocess.Popen(
        ["nexusctl", "dial-stdio"], env=cli.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(frame(Ping(), 1))
        process.stdin.flush()
        assert process.stdout.read(4) == b"NEX\0"
        process.stdout.close()
        assert process.wait(WAIT_S) == 0


def test_it_ends_with_the_daemon(cli: Cli, daemon: DaemonProcess) -> None:
    with subprocess.Popen(
        ["nexusctl", "dial-stdio"], env=cli.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(frame(Ping(), 1))
        process.stdin.flush()
        assert process.stdout.read(4) == b"NEX\0"
        daemon.kill()
        assert process.wait(WAIT_S) == 0


# The bridge


class Bridge:
    """A bridge in a thread, between a socket as standard streams, as sshd gives them, and one as the daemon's."""

    def __init__(self) -> None:
        self.client, self.streams = socket.socketpair()
        self.daemon, self.inner = socket.socketpair()
        self.other = os.dup(self.streams.fileno())
        self._thread = threading.Thread(target=self._carry)
        self._thread.start()

    def _carry(self) -> None:
        carry(self.inner, self.streams.fileno(), self.other)
        for one in (self.inner, self.streams):
            one.close()
        os.close(self.other)

    def has_ended(self) -> bool:
        self._thread.join(0.01)
        return not self._thread.is_alive()

    def close(self) -> None:
        self.client.close()
        self.daemon.close()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    with closing(Bridge()) as made:
        yield made


def test_bytes_pass_both_ways_at_once_and_ends_are_passed_on(bridge: Bridge) -> None:
    up, down = os.urandom(30 * MIB), os.urandom(30 * MIB)

    def send(sock: socket.socket, data: bytes) -> None:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    senders = [
        threading.Thread(target=send, args=(bridge.client, up)),
        threading.Thread(target=send, args=(bridge.daemon, down)),
    ]
    received: dict[str, bytes] = {}

    def receive(name: str, sock: socket.socket) -> None:
        with sock.makefile("rb") as file:
            received[name] = file.read(30 * MIB)

    receivers = [
        threading.Thread(target=receive, args=("up", bridge.daemon)),
        threading.Thread(target=receive, args=("down", bridge.client)),
    ]
    # The end of the daemon's bytes ends the bridge, so the client's have to be there before.
    senders[0].start()
    receivers[0].start()
    receivers[0].join(WAIT_S)
    senders[1].start()
    receivers[1].start()
    for thread in (*senders, *receivers):
        thread.join(WAIT_S)
    assert received == {"up": up, "down": down}
    assert bridge.daemon.recv(1) == b""
    assert bridge.client.recv(1) == b""


@pytest.mark.parametrize("side", ["client", "daemon"])
def test_side_that_does_not_read_is_sent_no_more_than_the_buffers_hold(bridge: Bridge, side: str) -> None:
    writer, reader = (bridge.client, bridge.daemon) if side == "daemon" else (bridge.daemon, bridge.client)
    writer.settimeout(0.3)
    sent = 0
    with suppress(TimeoutError):
        while sent < 3 * MIB:
            sent += writer.send(bytes(64 * 1024))
    assert sent < 3 * MIB
    reader.sendall(b"the other way is open")
    assert writer.recv(100) == b"the other way is open"
    received = 0
    while received < sent:
        received += len(reader.recv(MIB))


def test_half_closed_client_still_gets_what_the_daemon_sends(bridge: Bridge) -> None:
    bridge.client.sendall(b"question")
    bridge.client.shutdown(socket.SHUT_WR)
    with bridge.daemon.makefile("rb") as file:
        assert file.read() == b"question"
    assert not bridge.has_ended()
    bridge.daemon.sendall(b"answer")
    assert bridge.client.recv(100) == b"answer"
    bridge.daemon.close()
    assert bridge.client.recv(1) == b""
    wait_until(bridge.has_ended, "the end of the bridge")


def test_client_that_is_gone_ends_the_bridge_while_the_daemon_says_nothing(bridge: Bridge) -> None:
    bridge.client.close()
    wait_until(bridge.has_ended, "the end of the bridge")
    assert bridge.daemon.recv(1) == b""


def test_daemon_that_is_gone_ends_the_bridge_after_its_last_bytes(bridge: Bridge) -> None:
    bridge.daemon.sendall(b"x" * 100_000)
    bridge.daemon.close()
    with bridge.client.makefile("rb") as file:
        assert file.read() == b"x" * 100_000
    wait_until(bridge.has_ended, "the end of the bridge")


def test_streams_block_again_afterwards() -> None:
    client, streams = socket.socketpair()
    daemon, inner = socket.socketpair()
    with client, streams, daemon, inner:
        daemon.close()
        carry(inner, streams.fileno(), streams.fileno())
        assert os.get_blocking(streams.fileno())
