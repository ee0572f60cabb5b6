"""The byte budgets over all connections: half frames and unread replies of some clients do not starve the others."""

from __future__ import annotations

import concurrent.futures
import socket
import threading
from collections.abc import Callable

from nexus_protocol import Cancelled, DeadlineExceeded, ResourceExhausted, encode_frame
from nexus_protocol.frame import HEADER, MAGIC, VERSION
from support.raw import RawClient, frame, wait_until
from support.toy import Count, Deaf, Echo, Produce, Swallow, ToyServer

MIB = 1024 * 1024
KIB = 1024


def _half_a_frame(size: int) -> bytes:
    return HEADER.pack(MAGIC, VERSION, Swallow.info.code, 15 * MIB, 1, 0) + bytes(size)


def _send_what_goes(client: RawClient, data: bytes) -> int:
    """Send until the socket takes no more; return the number of bytes sent."""
    view = memoryview(data)
    timeout = client.sock.gettimeout()
    client.sock.setblocking(False)
    try:
        while view:
            view = view[client.sock.send(view) :]
    except BlockingIOError:
        pass
    client.sock.settimeout(timeout)
    return len(data) - len(view)


def test_receive_budget_spent_by_half_frames_lets_small_requests_through_and_is_freed_in_time(
    make_toy: Callable[..., ToyServer],
) -> None:
    toy = make_toy(receive_budget_bytes=MIB, frame_timeout_s=2)
    hogs = [toy.connect() for _ in range(8)]
    for hog in hogs:
        _send_what_goes(hog, _half_a_frame(900 * KIB))
    wait_until(toy.server.budgets.receive_budget_spent, "a spent budget")
    # The budget, the one exempt frame, and for each connection its free bytes and one more read.
    assert toy.server.budgets.received_bytes < MIB + 900 * KIB + 8 * 2 * 64 * KIB
    with RawClient(toy.path) as small:
        for _ in range(20):
            assert small.call(Swallow(bytes(60 * KIB))).size_bytes == 60 * KIB
    for hog in hogs:
        assert isinstance(hog.read_to_end(), DeadlineExceeded)
    with RawClient(toy.path) as large:
        assert large.call(Swallow(bytes(10 * MIB))).size_bytes == 10 * MIB
    wait_until(lambda: toy.server.budgets.received_bytes == 0, "an empty account")


def test_unread_input_counts_in_the_receive_budget_and_ends_streams_that_exceed_it(
    make_toy: Callable[..., ToyServer],
) -> None:
    toy = make_toy(receive_budget_bytes=MIB)
    hogs = [toy.connect() for _ in range(6)]
    refused = []
    for hog in hogs:
        stream = hog.begin(Deaf())
        for _ in range(4):
            hog.send_bytes(hog.engine.send_input(stream, bytes(60 * KIB)))
        hog.call(Count())  # a connection that holds much is still read, and may cancel
        if stream in hog.last_sequences():
            error = hog.error(stream)
            assert isinstance(error, ResourceExhausted)
            assert error.details == {"limit": MIB}
            refused.append(hog)
    assert refused == hogs[4:]
    assert toy.server.budgets.received_bytes <= MIB + 64 * KIB
    with RawClient(toy.path) as small:
        stream = small.begin(Echo())
        small.send_bytes(small.engine.send_input(stream, bytes(50 * KIB)) + small.engine.send_input(stream, eof=True))
        assert small.result(stream) == {"size_bytes": 50 * KIB}
    with RawClient(toy.path) as large:
        assert large.call(Swallow(bytes(3 * MIB))).size_bytes == 3 * MIB
    hogs[0].close()
    for hog in hogs[1:4]:
        (stream,) = hog.engine._open
        hog.cancel(stream)
        assert isinstance(hog.error(stream), Cancelled)
    wait_until(lambda: toy.server.budgets.received_bytes == toy.server.budgets.input_bytes == 0, "an empty account")


def test_input_of_a_stream_that_never_began_is_no_longer_counted(toy: ToyServer) -> None:
    client = toy.connect()
    client.call(Count())
    pause = threading.Event()
    toy.loop.call_soon_threadsafe(pause.wait, 60)
    stream, data = client.engine.send_request(Deaf.info.code, takes_input=True)
    # A reply that cannot be sent ends the connection in the same turn of the loop in which the stream is opened.
    client.sock.sendall(frame(Count(), stream + 1) + data + client.engine.send_input(stream, bytes(20 * KIB)))
    client.close()
    pause.set()
    wait_until(lambda: toy.server.connections() == 0, "the end of the connection")
    assert toy.server.budgets.received_bytes == toy.server.budgets.input_bytes == 0


def test_unread_replies_of_many_connections_stay_within_the_send_budget(make_toy: Callable[..., ToyServer]) -> None:
    toy = make_toy(send_budget_bytes=2 * MIB, send_timeout_s=2)
    hogs = [toy.connect() for _ in range(24)]
    for hog in hogs:
        _send_what_goes(hog, b"".join(frame(Produce(60 * KIB), number) for number in range(1, 200)))
    wait_until(toy.server.budgets.send_budget_spent, "a spent budget")
    with RawClient(toy.path) as reader:
        for _ in range(50):
            assert len(reader.call(Produce(60 * KIB)).data) == 60 * KIB
    # The budget, and one more reply for each connection.
    assert toy.server.budgets.unsent_bytes < 2 * MIB + 26 * 64 * KIB
    wait_until(
        lambda: not toy.server.budgets.send_budget_spent() and 1 <= toy.server.connections() < 24,
        "the end of clients that do not read",
    )


def test_a_client_that_reads_slowly_is_served_to_the_end(make_toy: Callable[..., ToyServer]) -> None:
    toy = make_toy(send_timeout_s=1, send_buffer_bytes=64 * KIB)
    client = toy.connect()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sequences = client.begin_many([Produce(50 * KIB)] * 64)
    for sequence in sequences:
        assert len(client.payload(sequence)) > 50 * KIB


def test_connection_above_the_limit_is_refused_until_another_one_closes(make_toy: Callable[..., ToyServer]) -> None:
    toy = make_toy(connections=3)
    clients = [toy.connect() for _ in range(3)]
    for client in clients:
        assert client.call(Count()).size_bytes == 1
    refused = toy.connect().read_to_end()
    assert isinstance(refused, ResourceExhausted)
    assert refused.details == {"limit": 3}
    clients[0].close()
    wait_until(lambda: toy.server.connections() == 2, "room for one more")
    assert toy.connect().call(Count()).size_bytes == 1


def test_frame_sent_byte_by_byte_is_assembled(toy: ToyServer) -> None:
    client = toy.connect()
    client.engine.send_request(Count.info.code)
    for byte in encode_frame(Count.info.code, 1, b"\x80"):
        client.send_bytes(bytes([byte]))
    assert client.result(1) == {"size_bytes": 1}


def test_large_frames_that_together_exceed_the_receive_budget_all_arrive(make_toy: Callable[..., ToyServer]) -> None:
    toy = make_toy(receive_budget_bytes=MIB)
    clients = [toy.connect() for _ in range(8)]
    whole = frame(Swallow(bytes(2 * MIB)), 1)
    for client in clients:
        client.engine.send_request(Swallow.info.code)
    sent = {client: _send_what_goes(client, whole[: MIB // 2]) for client in clients}
    wait_until(toy.server.budgets.receive_budget_spent, "a spent budget")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:

        def finish(client: RawClient) -> int:
            client.send_bytes(whole[sent[client] :])
            return int(client.result(1)["size_bytes"])

        assert list(pool.map(finish, clients)) == [2 * MIB] * 8
