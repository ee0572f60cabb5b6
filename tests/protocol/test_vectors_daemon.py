"""The bad vectors against a real daemon: its Error, the state of the connection, and the service of other clients."""

from __future__ import annotations

import shutil
import socket
import struct
from collections.abc import Iterator

import msgpack
import pytest
from support.daemon import DaemonProcess, short_directory
from support.vectors import BadVector, bad_vectors

HEADER = struct.Struct(">4sHHIIH")
PING, SUCCESS, ERROR = 42, 0xFFF0, 0xFFFF
CANARY = 0x70000000


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The socket of one daemon for all vectors: it must survive each of them."""
    root = short_directory()
    daemon = DaemonProcess(root)
    try:
        daemon.start()
        yield str(daemon.socket_path)
        log = daemon.log()
        assert daemon.stop() == 0
        assert "Traceback" not in log
    finally:
        daemon.close()
        shutil.rmtree(root)


@pytest.fixture(scope="module")
def canary(address: str) -> Iterator[socket.socket]:
    """A client that stays connected during all vectors."""
    with connect(address) as sock:
        yield sock


def connect(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(address)
    sock.settimeout(60)
    return sock


def ping(sequence: int) -> bytes:
    return HEADER.pack(b"NEX\0", 1, PING, 0, sequence, 0)


def frames(sock: socket.socket) -> Iterator[tuple[int, int, dict[str, object]]]:
    """Iterate over the received frames until the end of the connection."""
    data = b""
    while some := sock.recv(65536):
        data += some
        while len(data) >= HEADER.size:
            _, _, code, size, sequence, _ = HEADER.unpack_from(data)
            if len(data) < HEADER.size + size:
                break
            yield code, sequence, msgpack.unpackb(data[HEADER.size : HEADER.size + size])
            data = data[HEADER.size + size :]
    assert data == b"", "the connection ended inside a frame"


def until_pong(sock: socket.socket, sequence: int) -> list[tuple[int, int, dict[str, object]]]:
    """Return the frames received before the reply to the Ping."""
    before = []
    for frame in frames(sock):
        if frame[:2] == (SUCCESS, sequence):
            return before
        before.append(frame)
    raise AssertionError(f"the connection ended after {before}")


@pytest.mark.parametrize("vector", bad_vectors(), ids=lambda v: v.name)
def test_daemon_answers_bad_vector_as_documented(address: str, canary: socket.socket, vector: BadVector) -> None:
    with connect(address) as sock:
        sock.sendall(vector.data)
        if vector.closed:
            received = list(frames(sock))
        else:
            sock.sendall(ping(CANARY))
            received = until_pong(sock, CANARY)
    errors = [(sequence, body) for code, sequence, body in received if code == ERROR and body["code"] != "cancelled"]
    if vector.error is None:
        assert received == []
    else:
        ((sequence, body),) = errors
        assert (sequence, body["code"]) == (vector.error["sequence"], vector.error["code"])
        details = body.get("details", {})
        assert isinstance(details, dict)
        assert "path" not in vector.error or details["path"] == vector.error["path"]
        assert details.items() >= vector.error.get("details", {}).items()
        assert isinstance(body["message"], str)
        assert body["message"].startswith("cannot ")
    canary.sendall(ping(CANARY))
    assert until_pong(canary, CANARY) == []


def test_daemon_answers_bad_vector_sent_byte_by_byte(address: str) -> None:
    (vector,) = [v for v in bad_vectors() if v.name == "unknown field"]
    with connect(address) as sock:
        for byte in vector.data:
            sock.sendall(bytes([byte]))
        sock.sendall(ping(CANARY))
        ((_, sequence, body),) = until_pong(sock, CANARY)
    assert (sequence, body["code"]) == (1, "invalid_argument")


def test_client_that_keeps_writing_after_a_refusal_can_read_the_error(address: str) -> None:
    with connect(address) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n")
        try:
            for _ in range(50):
                sock.sendall(bytes(100))
        except (BrokenPipeError, ConnectionResetError):
            pass
        ((_, sequence, body),) = list(frames(sock))
    assert (sequence, body["code"]) == (0, "bad_frame")
