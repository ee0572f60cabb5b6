"""Hostile clients against a real daemon: it serves other clients, its memory stays flat, its log has no traceback."""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import time
from collections.abc import Iterator

import msgpack
import pytest
from nexus_protocol import (
    BadFrame,
    Conflict,
    DeadlineExceeded,
    FrameTooLarge,
    InvalidArgument,
    NexusError,
    ResourceExhausted,
    UnsupportedVersion,
    encode_frame,
)
from nexus_protocol.frame import HEADER, MAGIC, VERSION
from support.daemon import DaemonProcess, short_directory
from support.raw import WAIT_S, RawClient, frame, wait_until

from nexus.journal.commands import WatchEvents
from nexus.system.commands import Describe, GetSystemStatus, Hello, Ping
from nexus.vms.commands import CreateVm, ListVms

KIB, MIB = 1024, 1024 * 1024
GROWTH = 40 * MIB
FRAME_TIMEOUT_S = 2
IMPATIENT = f"""
[limits]
frame_timeout_s = {FRAME_TIMEOUT_S}
send_timeout_s = 2
streams_per_connection = 4
requests_per_connection = 8
"""


@pytest.fixture(scope="module")
def impatient() -> Iterator[DaemonProcess]:
    """A daemon with short timeouts and enough VMs for pages of 1 MiB."""
    root = short_directory()
    daemon = DaemonProcess(root, config=IMPATIENT)
    try:
        daemon.start()
        with RawClient(daemon.socket_path) as client:
            for sequence in client.begin_many(CreateVm(name=f"filler-{number:05}") for number in range(5000)):
                client.payload(sequence)
        yield daemon
        assert daemon.stop() == 0
        for word in ("Traceback", " error ", " critical "):
            assert word not in daemon.log()
    finally:
        daemon.close()
        shutil.rmtree(root)


@pytest.fixture
def client(impatient: DaemonProcess) -> Iterator[RawClient]:
    """A connection to ``impatient``."""
    with RawClient(impatient.socket_path) as client:
        yield client


@contextlib.contextmanager
def unharmed(daemon: DaemonProcess) -> Iterator[RawClient]:
    """Check that another client is served before and after the block, and that the daemon's memory does not grow."""
    with RawClient(daemon.socket_path) as neighbour:
        neighbour.call(Ping(b"before"))
        before = daemon.rss_bytes()
        yield neighbour
        assert neighbour.call(Ping(b"after")).payload == b"after"
        assert daemon.rss_bytes() - before < GROWTH


def _header(command: int, size: int, sequence: int = 1, *, version: int = VERSION, flags: int = 0) -> bytes:
    return HEADER.pack(MAGIC, version, command, size, sequence, flags)


@pytest.mark.parametrize("command", [42, 0x0100, 51, 0x7777, 0xFF00, 0xFFE0, 0xFFE1])
def test_payload_length_of_4_gib_is_refused_at_the_header(
    impatient: DaemonProcess, client: RawClient, command: int
) -> None:
    client.engine.send_request(42)
    with unharmed(impatient):
        client.send_bytes(_header(command, 0xFFFF_FFFF))
        error = client.error(1)
        assert isinstance(error, FrameTooLarge)
        assert 0 < error.details["limit"] <= 16 * MIB
        client.read_to_end()


def test_payload_limit_is_exactly_64_kib(impatient: DaemonProcess, client: RawClient) -> None:
    fits = b"\x81\xa7payload\xc5" + (65_000).to_bytes(2, "big") + bytes(65_000)
    client.send_bytes(_header(42, len(fits), client.engine.send_request(42)[0]) + fits)
    assert len(client.result(1)["payload"]) == 65_000
    sequence, _ = client.engine.send_request(42)
    client.send_bytes(_header(42, 64 * KIB, sequence) + b"\xc1" * 64 * KIB)
    assert isinstance(client.error(sequence), InvalidArgument)
    sequence, _ = client.engine.send_request(42)
    client.send_bytes(_header(42, 64 * KIB + 1, sequence))
    error = client.error(sequence)
    assert isinstance(error, FrameTooLarge)
    assert error.details["limit"] == 64 * KIB
    client.read_to_end()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", BadFrame),
        (b"\x00", BadFrame),
        (_header(42, 0, version=2), UnsupportedVersion),
        (_header(42, 0, flags=1), BadFrame),
        (_header(42, 0, flags=0x8000), BadFrame),
        (_header(42, 0, sequence=0), BadFrame),
    ],
    ids=["http", "zero", "version", "flag", "high flag", "sequence 0"],
)
def test_invalid_frame_is_answered_before_the_connection_is_closed(
    impatient: DaemonProcess, client: RawClient, data: bytes, expected: type[NexusError]
) -> None:
    client.engine.send_request(42)
    # The daemon does not read the bytes that follow. The answer must be readable nevertheless, before an end or reset.
    with contextlib.suppress(BrokenPipeError):
        client.send_bytes(data + bytes(300_000))
    client.read_to_end()
    error = client.connection_error or client.error(1)
    assert isinstance(error, expected)
    if expected is UnsupportedVersion:
        assert error.details["supported"] == [1]


def test_missing_first_frame_closes_the_connection(impatient: DaemonProcess, client: RawClient) -> None:
    error = client.read_to_end()
    assert isinstance(error, DeadlineExceeded)
    assert error.details == {"frame_timeout_s": FRAME_TIMEOUT_S}


def test_unfinished_frame_closes_the_connection(impatient: DaemonProcess, client: RawClient) -> None:
    client.call(Ping())
    client.send_bytes(frame(Ping(b"x" * 100), 2)[:50])
    assert isinstance(client.read_to_end(), DeadlineExceeded)


def test_connection_idle_between_frames_stays_open(impatient: DaemonProcess, client: RawClient) -> None:
    client.call(Ping())
    with RawClient(impatient.socket_path) as slow:
        slow.read_to_end()  # takes longer than the frame timeout
    assert client.call(Ping(b"still here")).payload == b"still here"


def test_frame_that_arrives_too_slowly_closes_the_connection(impatient: DaemonProcess, client: RawClient) -> None:
    client.call(Ping())
    poll = select.poll()
    poll.register(client.sock, select.POLLIN)
    with contextlib.suppress(BrokenPipeError):
        for byte in frame(Ping(b"x" * 100), 2):
            client.sock.send(bytes([byte]))
            if poll.poll(100):
                break
    assert isinstance(client.read_to_end(), DeadlineExceeded)


def test_600_connections_give_512_served_and_88_refused(impatient: DaemonProcess) -> None:
    with contextlib.ExitStack() as stack:
        base = stack.enter_context(RawClient(impatient.socket_path))
        before = base.call(GetSystemStatus()).connections
        rss = impatient.rss_bytes()
        refused = 0
        for _ in range(600):
            client = stack.enter_context(RawClient(impatient.socket_path))
            try:  # at once, because this daemon has a short timeout for the first frame
                client.call(Ping())
            except (EOFError, BrokenPipeError):
                assert isinstance(client.read_to_end(), ResourceExhausted)
                refused += 1
        assert refused == 600 - (512 - before)
        assert impatient.rss_bytes() - rss < GROWTH
        assert base.call(GetSystemStatus()).connections == 512
    with RawClient(impatient.socket_path) as client:
        wait_until(lambda: client.call(GetSystemStatus()).connections < 50, "the end of the crowd")


def _pour(sock: socket.socket, data: bytes, seconds: float) -> int:
    """Send repeatedly without reading, until the daemon takes nothing for ``seconds``; return the bytes sent."""
    sock.setblocking(False)
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    sent, offset = 0, 0
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and poll.poll(seconds * 1000):
        try:
            count = sock.send(data[offset:])
        except BlockingIOError:
            continue
        except (BrokenPipeError, ConnectionResetError):
            return sent
        sent, offset = sent + count, (offset + count) % len(data)
    raise AssertionError("the daemon neither stopped reading nor closed the connection")


def _numbered(make: object, count: int) -> bytes:
    return b"".join(frame(make, number) for number in range(1, count))  # type: ignore[arg-type]


@pytest.mark.parametrize("request_", [ListVms(limit=10_000), Describe()], ids=["ListVms", "Describe"])
def test_clients_that_never_read_are_closed_and_memory_stays_flat(impatient: DaemonProcess, request_: object) -> None:
    with unharmed(impatient) as neighbour, contextlib.ExitStack() as stack:
        hogs = [stack.enter_context(RawClient(impatient.socket_path)) for _ in range(4)]
        data = _numbered(request_, 200)
        for hog in hogs:
            hog.sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                hog.sock.send(data)
        peak = impatient.rss_bytes()
        start = peak

        def closed() -> bool:
            nonlocal peak
            neighbour.call(Ping(b"meanwhile"))
            peak = max(peak, impatient.rss_bytes())
            return neighbour.call(GetSystemStatus()).connections <= 2

        wait_until(closed, "the end of clients that do not read")
        assert peak - start < GROWTH


def test_watchers_that_never_read_are_closed_and_memory_stays_flat(impatient: DaemonProcess) -> None:
    with unharmed(impatient) as neighbour, contextlib.ExitStack() as stack:
        for _ in range(8):
            hog = stack.enter_context(RawClient(impatient.socket_path))
            hog.begin_many([WatchEvents(after=0)] * 4)
        wait_until(lambda: neighbour.call(GetSystemStatus()).connections <= 2, "the end of the watchers")


def test_client_that_sends_without_reading_is_no_longer_read(impatient: DaemonProcess, client: RawClient) -> None:
    with unharmed(impatient):
        sent = _pour(client.sock, frame(Ping(b"x" * 60_000), 1) + _numbered(Ping(b"x" * 60_000), 100), 5)
        assert sent < 24 * MIB


BOMBS = {
    "arrays in arrays": b"\x81\xa5value" + b"\x91" * 60_000 + b"\xc0",
    "maps in maps": b"\x81\xa5value" + b"\x81\xa1k" * 20_000 + b"\xc0",
    "an array of four thousand million": b"\x81\xa5value\xdd\xff\xff\xff\xff",
    "a map of four thousand million": b"\x81\xa5value\xdf\xff\xff\xff\xff",
    "a text of four gibibytes": b"\x81\xa5value\xdb\xff\xff\xff\xff",
    "bytes of four gibibytes": b"\x81\xa5value\xc6\xff\xff\xff\xff",
    "an extension": b"\x81\xa5value" + msgpack.packb(msgpack.ExtType(1, bytes(1000))),
    "twelve thousand empty maps": b"\x82\xa3key\xa1k\xa5value\xdc\x2e\xe0" + b"\x80" * 12_000,
    "sixty thousand empty maps": b"\x82\xa3key\xa1k\xa5value\xdc\xea\x60" + b"\x80" * 60_000,
    "forty levels": b"\x82\xa3key\xa1k\xa5value" + b"\x91" * 40 + b"\x80",
    "a huge map at the top": b"\xdf\xff\xff\xff\xff" + b"\xa1k\x80" * 1000,
    "a deeply nested key": b"\x81" + b"\x91" * 60_000,
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("code", [47, 0x0100, 51, 45])
def test_messagepack_bomb_is_invalid_argument(
    impatient: DaemonProcess, client: RawClient, name: str, code: int
) -> None:
    with unharmed(impatient):
        # A setting may have 16 KiB: a larger payload closes the connection before it is decoded.
        payload = BOMBS[name] if code != 47 else BOMBS[name][:16_000]
        assert isinstance(client.error(client.begin_raw(code, payload)), InvalidArgument)
        assert client.call(Ping(b"stays")).payload == b"stays"


def test_last_value_of_a_duplicate_key_counts(impatient: DaemonProcess, client: RawClient) -> None:
    payload = b"\x83\xa4name\xa3one\xa4name\xa3two\xa4name\xa5three"
    assert client.result(client.begin_raw(0x0100, payload))["name"] == "three"


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"name": "x", "vcpu_count": True}, "vcpu_count"),
        ({"name": "x", "vcpu_count": 2.0}, "vcpu_count"),
        ({"name": "x", "vcpu_count": "2"}, "vcpu_count"),
        ({"name": None}, "name"),
        ({}, "name"),
        ({"name": b"x"}, "name"),
        ({"name": "x", "colour": "red"}, "colour"),
        ({"name": "x", "role": "WORK"}, "role"),
    ],
    ids=repr,
)
def test_invalid_field_error_names_the_field(
    impatient: DaemonProcess, client: RawClient, payload: dict[str, object], path: str
) -> None:
    error = client.error(client.begin_raw(0x0100, msgpack.packb(payload)))
    assert isinstance(error, InvalidArgument)
    assert error.details["path"] == path


def test_nil_for_an_optional_field_means_absent(impatient: DaemonProcess, client: RawClient) -> None:
    body = {"name": "with-nil", "id": None}
    assert client.result(client.begin_raw(0x0100, msgpack.packb(body)))["name"] == "with-nil"
    assert isinstance(client.call_error(CreateVm(name="with-nil")), Conflict)


def test_hello_reports_the_limits_in_force(impatient: DaemonProcess, client: RawClient) -> None:
    limits = client.call(Hello(client="test 1")).limits
    assert limits["frame_timeout_s"] == FRAME_TIMEOUT_S
    assert limits["streams_per_connection"] == 4
    assert limits["max_payload_bytes"] == 64 * KIB
    assert limits["max_frame_payload_bytes"] == 16 * MIB
    assert limits["connections"] == 512


def test_stream_limit_is_enforced_until_a_stream_ends(impatient: DaemonProcess, client: RawClient) -> None:
    streams = client.begin_many([WatchEvents(kinds=["none"])] * 4)
    assert isinstance(client.call_error(WatchEvents()), ResourceExhausted)
    client.cancel(streams[3])
    assert client.error(streams[3]).code == "cancelled"
    assert client.call(Ping(b"1")).payload == b"1"
    another = client.begin(WatchEvents(kinds=["none"]))
    client.cancel(another)
    assert client.error(another).code == "cancelled"


def test_connection_closed_within_a_frame_leaves_no_request_behind(impatient: DaemonProcess) -> None:
    with unharmed(impatient) as neighbour:
        for cut in range(1, 40, 3):
            with RawClient(impatient.socket_path) as client:
                client.send_bytes(_numbered(ListVms(), 10) + encode_frame(51, 77) + frame(Ping(b"x" * 30), 78)[:cut])
        with RawClient(impatient.socket_path) as last:
            last.call(Ping())  # connections are accepted in order: all others were before this one

        def settled() -> bool:
            status = neighbour.call(GetSystemStatus())
            return status.connections <= 1 and status.open_requests <= 1

        wait_until(settled, "the end of the others and of their requests")


def test_half_closed_client_gets_replies_that_wait_for_room(impatient: DaemonProcess, client: RawClient) -> None:
    # Small replies first, so that the daemon sees the end of input before it runs out of room for the large ones.
    sequences = client.begin_many([Ping()] * 100 + [Describe()] * 250)
    client.half_close()
    client.read_to_end()
    assert sorted(client.order) == sequences  # each once; requests end in any order
