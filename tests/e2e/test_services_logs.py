"""The output of services byte for byte, by the client and ``nexusctl service logs``, and followers of it."""

from __future__ import annotations

import functools
import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.raw import WAIT_S, wait_until
from support.services import ServiceWorld

from nexus.records.processes import LogStream
from nexus.services.commands import GetServiceStdout, RestartService, StartService
from nexus.services.states import ServiceState, ServiceType

MIB = 1024 * 1024


@pytest.fixture
def world(root: Path) -> Iterator[ServiceWorld]:
    """A running daemon; it and all processes of its services are ended after the test."""
    with ServiceWorld(root) as world:
        world.daemon.start()
        yield world


def read_logs(world: ServiceWorld, *arguments: str) -> bytes:
    """The bytes that ``nexusctl service logs`` prints."""
    process = world.cli.start("service", "logs", *arguments)
    out, error = process.communicate(timeout=WAIT_S)
    assert (process.returncode, error) == (0, b"")
    return out


PAYLOADS: dict[str, bytes] = {
    "invalid UTF-8": b"\xff\xfe\x80 caf\xc3\n\xed\xa0\x80\n" + bytes(range(256)) * 8,
    "no newline at the end": b"first\nsecond without an end",
    "lines of 10 MB": (b"a" * 10_000_000 + b"\n") * 2 + b"short\n" + b"b" * 10_000_000,
    "NUL bytes": b"\0" * 4096 + b"\n\0\0\n" + b"\0",
    "only line feeds": b"\n" * 100_000,
    "carriage returns": b"10%\r20%\r100%\r\n\r\r\n",
    "random": random.Random(1).randbytes(3 * MIB),
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_output_is_kept_byte_for_byte(world: ServiceWorld, payload: bytes) -> None:
    source = world.root / "payload"
    source.write_bytes(payload)
    world.add("writer", ["cat", str(source)], type=ServiceType.ONESHOT, log_limit_mib=64)
    world.call(StartService(service="writer", wait=True))
    assert world.service("writer").state is ServiceState.STOPPED
    assert world.output("writer") == payload
    assert read_logs(world, "writer") == payload
    assert read_logs(world, "writer", "--stderr") == b""
    end = payload.removesuffix(b"\n")
    assert read_logs(world, "writer", "--lines", "1") == end[end.rfind(b"\n") + 1 :] + payload[len(end) :]


def test_stdout_and_stderr_are_separate_and_in_order(world: ServiceWorld) -> None:
    script = 'for i in 1 2 3 4 5; do printf "o$i\\n"; printf "e$i\\377" >&2; done'
    world.add("both", script, type=ServiceType.ONESHOT)
    world.call(StartService(service="both", wait=True))
    assert read_logs(world, "both", "--stdout") == b"o1\no2\no3\no4\no5\n"
    assert read_logs(world, "both", "--stderr") == b"e1\xffe2\xffe3\xffe4\xffe5\xff"
    assert sorted(read_logs(world, "both")) == sorted(b"o1\no2\no3\no4\no5\ne1\xffe2\xffe3\xffe4\xffe5\xff")
    assert {piece.stream for piece in world.pieces("both", stream=LogStream.STDERR)} == {LogStream.STDERR}


class Follower(threading.Thread):
    """A thread that reads until the last line; ``seen`` has the bytes so far."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self.seen = b""
        self._pieces = pieces

    def run(self) -> None:
        for piece in self._pieces:
            self.seen += piece
            if self.seen.endswith(b"the end\n"):
                return

    def wait_for(self, expected: bytes) -> None:
        """Wait until as many bytes have arrived, and compare them."""
        wait_until(lambda: len(self.seen) >= len(expected), f"more output after {self.seen!r}")
        assert self.seen == expected


def test_followers_continue_over_restarts_and_miss_nothing(world: ServiceWorld) -> None:
    world.puppet("talks", stop_grace_ms=1000)
    world.call(StartService(service="talks"))
    expected = b"early\n"
    world.order("talks", "say early")
    wait_until(lambda: world.output("talks") == expected, "the first line")
    with world.cli.start("service", "logs", "talks", "-f") as process, world.client() as client:
        assert process.stdout is not None
        stream = client.stream(GetServiceStdout(service="talks", follow=True))
        followers = [
            Follower(iter(functools.partial(os.read, process.stdout.fileno(), 65536), b"")),
            Follower(piece.data for piece in stream),
        ]
        try:
            for follower in followers:
                follower.start()
            for run in range(3):
                for line in range(3):
                    world.order("talks", f"say run {run} line {line}")
                    expected += b"run %d line %d\n" % (run, line)
                for follower in followers:
                    follower.wait_for(expected)
                world.call(RestartService(service="talks"))
            expected += b"the end\n"
            world.order("talks", "say the end")
            for follower in followers:
                follower.join(WAIT_S)
                assert follower.seen == expected
            process.send_signal(signal.SIGINT)
            assert process.wait(WAIT_S) == 130
            stream.close()
        finally:
            process.kill()
            client.close()
            for follower in followers:
                follower.join(WAIT_S)
    assert world.output("talks") == expected
    assert world.ran_twice() == []
