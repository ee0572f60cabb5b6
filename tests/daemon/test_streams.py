"""Streams that take Input: order, credit, limits, and invalid Input."""

from __future__ import annotations

import msgpack
import pytest
from nexus_protocol import INPUT_CREDIT, FrameTooLarge, InvalidArgument, ResourceExhausted, encode_frame
from nexus_protocol.frame import INPUT
from support.raw import RawClient, pack
from support.toy import Count, Deaf, Echo, Hold, ToyServer

SCRAP = 32 * 1024


def test_input_arrives_in_order_and_eof_ends_the_stream(toy: ToyServer) -> None:
    client = toy.connect()
    stream = client.begin(Echo())
    for number in range(10):
        client.send_bytes(client.engine.send_input(stream, b"%d" % number))
    client.send_bytes(client.engine.send_input(stream, control={"resize": [80, 24]}))
    client.send_bytes(client.engine.send_input(stream, eof=True))
    items = list(client.items(stream))
    assert [item["data"] for item in items[:-1]] == [b"%d" % number for number in range(10)]
    assert items[-1] == {"control": {"resize": [80, 24]}}
    assert client.result(stream) == {"size_bytes": 10}


def test_acknowledged_input_renews_the_credit_again_and_again(toy: ToyServer) -> None:
    client = toy.connect()
    stream = client.begin(Echo())
    echoed = 0
    items = client.items(stream)
    for _ in range(4 * INPUT_CREDIT // SCRAP):
        while client.engine.credit(stream) < SCRAP:
            client.receive_some()
        client.send_bytes(client.engine.send_input(stream, bytes(SCRAP)))
    client.send_bytes(client.engine.send_input(stream, eof=True))
    for item in items:
        echoed += len(item["data"])
    assert echoed == client.acknowledged[stream] == 4 * INPUT_CREDIT
    assert client.result(stream) == {"size_bytes": 4 * INPUT_CREDIT}


def _raw_input(sequence: int, body: object) -> bytes:
    return encode_frame(INPUT, sequence, pack(body))


def test_input_of_exactly_the_credit_is_taken_and_one_byte_more_ends_the_stream(toy: ToyServer) -> None:
    client = toy.connect()
    stream = client.begin(Deaf())
    client.send_bytes(_raw_input(stream, {"data": bytes(INPUT_CREDIT)}))
    assert client.call(Count()).size_bytes == 1
    assert not client.last_sequences(), "the stream is still open"
    client.send_bytes(_raw_input(stream, {"data": b"x"}))
    error = client.error(stream)
    assert isinstance(error, ResourceExhausted)
    assert error.details == {"credit": INPUT_CREDIT}
    assert client.call(Count()).size_bytes == 1


def test_stream_that_reads_no_input_does_not_block_others_on_its_connection(toy: ToyServer) -> None:
    client = toy.connect()
    deaf = client.begin(Deaf())
    client.send_bytes(client.engine.send_input(deaf, bytes(INPUT_CREDIT)))
    echo = client.begin(Echo())
    client.send_bytes(client.engine.send_input(echo, b"through") + client.engine.send_input(echo, eof=True))
    assert [item["data"] for item in client.items(echo)] == [b"through"]
    toy.release()
    assert client.result(deaf) == {"size_bytes": 0}


def test_unread_input_without_data_is_limited_by_count(toy: ToyServer) -> None:
    client = toy.connect()
    stream = client.begin(Deaf())
    client.send_bytes(_raw_input(stream, {"data": b""}) * 1100)
    assert isinstance(client.error(stream), ResourceExhausted)
    assert client.call(Count()).size_bytes == 1


def test_unread_control_input_is_limited_by_size(toy: ToyServer) -> None:
    client = toy.connect()
    stream = client.begin(Deaf())
    client.send_bytes(_raw_input(stream, {"control": {"text": "x" * 200_000}}) * 40)
    assert isinstance(client.error(stream), ResourceExhausted)


def _nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = {"k": value}
    return value


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        pack({}),
        pack({"data": b"x", "eof": True}),
        pack({"eof": False}),
        pack({"eof": 1}),
        pack({"data": "text"}),
        pack({"other": 1}),
        pack([b"x"]),
        pack({"data": b"x"})[:-1],
        pack({"data": b"x"}) + b"\x00",
        b"\x81\xa7control\x81\xa1a\xa1\xff",
        pack({"control": {"ext": msgpack.ExtType(5, b"x")}}),
        pack({"control": {"time": msgpack.Timestamp(0)}}),
        pack({"control": {1: 2}}),
        pack({"control": _nested(64)}),
        b"\x81\xa7control" + b"\x81\xa1k" * 50_000 + b"\x01",
        b"\x81\xa4data\xc6\xff\xff\xff\xff",
    ],
    ids=lambda payload: payload[:16].hex(),
)
def test_input_that_is_not_one_of_data_eof_and_control_ends_the_stream(
    toy: ToyServer, payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    client = toy.connect()
    stream = client.begin(Echo())
    client.send_bytes(encode_frame(INPUT, stream, payload))
    assert isinstance(client.error(stream), InvalidArgument)
    assert client.call(Count()).size_bytes == 1
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


def test_input_for_a_request_that_is_not_open_or_takes_none_is_ignored(toy: ToyServer) -> None:
    client = toy.connect()
    held = client.begin(Hold())
    client.send_bytes(_raw_input(held, {"data": b"x"}) + _raw_input(77, {"data": b"x"}) + _raw_input(0, {"eof": True}))
    assert client.call(Count()).size_bytes == 1
    toy.release()
    assert client.result(held) == {}


def test_input_frame_larger_than_the_credit_is_refused_at_its_header(toy: ToyServer) -> None:
    client = toy.connect()
    stream = client.begin(Echo())
    head = encode_frame(INPUT, stream)
    client.send_bytes(head[:8] + (INPUT_CREDIT + 2000).to_bytes(4, "big") + head[12:])
    assert isinstance(client.error(stream), FrameTooLarge)
    client.read_to_end()


def test_cancel_ends_a_stream_with_cancelled(toy: ToyServer) -> None:
    client = toy.connect()
    stream = client.begin(Echo())
    client.send_bytes(client.engine.send_input(stream, b"one"))
    next(client.items(stream))
    client.cancel(stream)
    assert client.error(stream).code == "cancelled"


def test_half_close_cancels_streams_and_lets_requests_finish(toy: ToyServer) -> None:
    client = toy.connect()
    stream = client.begin(Echo())
    held = client.begin(Hold())
    client.half_close()
    assert client.error(stream).code == "cancelled"
    toy.release()
    assert client.result(held) == {}
    client.read_to_end()


def test_stream_above_the_limit_is_refused_until_another_one_ends(toy: ToyServer) -> None:
    client = toy.connect()
    streams = client.begin_many([Echo()] * 16)
    refused = client.call_error(Echo())
    assert isinstance(refused, ResourceExhausted)
    assert refused.details == {"limit": 16}
    client.cancel(streams[0])
    assert client.error(streams[0]).code == "cancelled"
    with RawClient(toy.path) as other:
        more = other.begin(Echo())
        other.send_bytes(other.engine.send_input(more, eof=True))
        assert other.result(more) == {"size_bytes": 0}
    again = client.begin(Echo())
    client.send_bytes(client.engine.send_input(again, eof=True))
    assert client.result(again) == {"size_bytes": 0}
