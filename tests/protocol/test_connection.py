"""The sans-IO engine: two engines talk without a socket, and no received bytes make either raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_protocol import (
    CONTEXT,
    CONTEXT_BYTES,
    DEFAULT_MAX_PAYLOAD,
    HEADER_SIZE,
    INPUT_CREDIT,
    MAX_PAYLOAD,
    AckReceived,
    BadFrame,
    CancelReceived,
    ClientConnection,
    ConnectionFailed,
    ErrorReceived,
    FrameTooLarge,
    InputReceived,
    ItemReceived,
    NotFound,
    RequestReceived,
    ResourceExhausted,
    ServerConnection,
    SuccessReceived,
    decode_map,
    encode_frame,
)
from nexus_protocol.frame import CANCEL, ERROR, HEADER, INPUT, ITEM, SUCCESS
from support.strategies import bounded, cut, cuts

PLAIN, STREAM = 42, 0xE000
"""The code of a command, and of one whose stream takes Input."""

codes = st.sampled_from([0, 1, PLAIN, STREAM, 0xEFFF, 0xF000, 0xFF00, INPUT, CANCEL, SUCCESS, ITEM, ERROR])
sequences = st.sampled_from([0, 1, 2, 3, 0xFFFFFFFF])
payloads = st.binary(max_size=20) | st.sampled_from([b"\x80", msgpack.packb({"ack": 5}), msgpack.packb({"ack": -5})])
good_frames = st.builds(encode_frame, codes, sequences, payloads) | st.builds(
    encode_frame, codes, sequences, payloads, st.sampled_from([CONTEXT] * 6 + [2, 3])
)
odd_headers = st.builds(
    HEADER.pack,
    st.sampled_from([b"NEX\0"] * 6 + [b"NEXT"]),
    st.sampled_from([1] * 6 + [2]),
    codes,
    st.sampled_from([0, 3, 70_000, 0xFFFFFFFF]),
    sequences,
    st.sampled_from([0] * 6 + [1]),
)
traffic = st.lists(good_frames | odd_headers | st.binary(max_size=4), max_size=12).map(b"".join)


def server() -> ServerConnection:
    return ServerConnection(input_commands={STREAM})


def client_with_open_requests() -> ClientConnection:
    client = ClientConnection()
    client.send_request(PLAIN)
    client.send_request(STREAM, takes_input=True)
    return client


def without_text(events: list[Any]) -> list[Any]:
    # The text of a violation shows the wrong bytes received so far, so it depends on the split.
    return [
        (type(event.error), event.error.sequence, event.error.details) if isinstance(event, ConnectionFailed) else event
        for event in events
    ]


@pytest.mark.parametrize("make", [server, client_with_open_requests])
@bounded(300)
@given(data=traffic, places=cuts())
def test_events_do_not_depend_on_how_the_bytes_are_split(
    make: Callable[[], Any], data: bytes, places: list[float]
) -> None:
    whole, pieces = make(), make()
    expected = whole.receive_data(data)
    received = [event for piece in cut(data, places) for event in pieces.receive_data(piece)]
    assert without_text(received) == without_text(expected)
    assert pieces.open_requests == whole.open_requests


@pytest.mark.parametrize("make", [server, client_with_open_requests])
def test_data_after_a_violation_is_ignored(make: Callable[[], Any]) -> None:
    engine = make()
    (event,) = engine.receive_data(b"GET / HTTP/1.1")
    assert isinstance(event, ConnectionFailed)
    assert engine.receive_data(encode_frame(PLAIN, 9)) == []
    assert engine.receive_data(encode_frame(SUCCESS, 1)) == []


@bounded(100)
@given(
    st.lists(st.tuples(st.integers(1, 0xEFFF), st.binary(max_size=30), st.binary(max_size=30)), min_size=1, max_size=8),
    st.data(),
)
def test_two_engines_exchange_requests_and_replies_in_any_order(
    requests: list[tuple[int, bytes, bytes]], data: st.DataObject
) -> None:
    client, daemon = ClientConnection(), server()
    sent = [client.send_request(code, payload, context=context) for code, payload, context in requests]
    stream = b"".join(frame for _, frame in sent)
    events = [event for piece in cut(stream, data.draw(cuts())) for event in daemon.receive_data(piece)]
    assert events == [
        RequestReceived(code, sequence, context + (payload or b"\x80"), CONTEXT)
        if context
        else RequestReceived(code, sequence, payload)
        for (code, payload, context), (sequence, _) in zip(requests, sent, strict=True)
    ]
    order = data.draw(st.permutations([sequence for sequence, _ in sent]))
    replies = b""
    expected: list[Any] = []
    for sequence in order:
        replies += daemon.send_item(sequence, b"\x80")
        expected.append(ItemReceived(sequence, b"\x80"))
        if sequence % 2:
            replies += daemon.send_success(sequence, b"")
            expected.append(SuccessReceived(sequence, b""))
        else:
            error = NotFound("cannot find it")
            replies += daemon.send_error(sequence, error)
            expected.append(ErrorReceived(sequence, msgpack.packb(error.payload())))
    assert [e for piece in cut(replies, data.draw(cuts())) for e in client.receive_data(piece)] == expected
    assert client.open_requests == daemon.open_requests == frozenset()


def test_request_with_a_context_may_be_cut_at_every_byte() -> None:
    _, request = ClientConnection().send_request(PLAIN, b"\x81\xa1a\x01", context=b"\x81\xa3why\xa1w")
    data = request + encode_frame(PLAIN, 2)
    whole = [
        RequestReceived(PLAIN, 1, b"\x81\xa3why\xa1w\x81\xa1a\x01", CONTEXT),
        RequestReceived(PLAIN, 2, b""),
    ]
    for place in range(len(data) + 1):
        daemon = server()
        assert daemon.receive_data(data[:place]) + daemon.receive_data(data[place:]) == whole
    daemon = server()
    assert [event for byte in data for event in daemon.receive_data(bytes([byte]))] == whole


def test_context_is_kept_beside_the_limit_of_the_command() -> None:
    size = DEFAULT_MAX_PAYLOAD + CONTEXT_BYTES
    daemon = server()
    assert daemon.receive_data(HEADER.pack(b"NEX\0", 1, PLAIN, size, 1, CONTEXT)) == []
    assert daemon.buffered == HEADER_SIZE
    (event,) = server().receive_data(HEADER.pack(b"NEX\0", 1, PLAIN, size + 1, 1, CONTEXT))
    assert isinstance(event, ConnectionFailed)
    assert isinstance(event.error, FrameTooLarge)


@pytest.mark.parametrize(("code", "flags"), [(INPUT, 1), (CANCEL, 1), (SUCCESS, 1), (PLAIN, 2), (PLAIN, 3), (0, 1)])
def test_other_flags_from_a_client_fail_the_connection(code: int, flags: int) -> None:
    daemon = server()
    daemon.receive_data(encode_frame(STREAM, 1))
    (event,) = daemon.receive_data(encode_frame(code, 1, b"", flags))
    assert isinstance(event, ConnectionFailed)
    assert isinstance(event.error, BadFrame)
    assert event.error.sequence == 1


@pytest.mark.parametrize("code", [SUCCESS, ITEM, ERROR])
def test_flag_from_a_daemon_fails_the_connection(code: int) -> None:
    (event,) = client_with_open_requests().receive_data(encode_frame(code, 1, b"\x80\x80", CONTEXT))
    assert isinstance(event, ConnectionFailed)
    client = client_with_open_requests()
    assert client.receive_reply(1, encode_frame(SUCCESS, 1, b"\x80\x80", CONTEXT)) is None
    assert client.open_requests == {1, 2}


@pytest.mark.parametrize("code", [0, 0xF000, 0xFF01, SUCCESS, ITEM, ERROR])
def test_other_codes_from_a_client_fail_the_connection(code: int) -> None:
    (event,) = server().receive_data(encode_frame(code, 1))
    assert isinstance(event, ConnectionFailed)
    assert isinstance(event.error, BadFrame)
    assert event.error.sequence == 0


@pytest.mark.parametrize("code", [0, PLAIN, INPUT, CANCEL, 0xF000, 0xFF00])
def test_other_codes_from_a_daemon_fail_the_connection(code: int) -> None:
    (event,) = client_with_open_requests().receive_data(encode_frame(code, 1))
    assert isinstance(event, ConnectionFailed)


def test_sequence_can_be_reused_only_after_its_last_frame() -> None:
    daemon = server()
    request = encode_frame(PLAIN, 5)
    daemon.receive_data(request)
    daemon.send_item(5, b"")
    assert daemon.open_requests == {5}
    daemon.send_success(5, b"")
    assert daemon.receive_data(request) == [RequestReceived(PLAIN, 5, b"")]
    (event,) = daemon.receive_data(request)
    assert isinstance(event, ConnectionFailed)
    assert event.error.sequence == 0


def test_request_with_sequence_0_is_refused() -> None:
    (event,) = server().receive_data(encode_frame(PLAIN, 0))
    assert isinstance(event, ConnectionFailed)


def test_sequences_wrap_and_skip_0_and_open_ones() -> None:
    client = ClientConnection()
    first, _ = client.send_request(PLAIN)
    client._last = 0xFFFFFFFE  # as after four billion requests
    assert [client.send_request(PLAIN)[0] for _ in range(3)] == [0xFFFFFFFF, 2, 3]
    assert first == 1


def test_cancel_is_ignored_for_requests_that_are_not_open() -> None:
    client, daemon = ClientConnection(), server()
    sequence, request = client.send_request(PLAIN)
    daemon.receive_data(request)
    assert daemon.receive_data(client.send_cancel(sequence)) == [CancelReceived(sequence)]
    assert daemon.receive_data(encode_frame(CANCEL, 99) + encode_frame(CANCEL, 0)) == []
    client.receive_data(daemon.send_success(sequence, b""))
    assert client.send_cancel(sequence) == b""
    assert daemon.receive_data(encode_frame(CANCEL, sequence)) == []


def test_client_ignores_frames_of_requests_that_are_not_open() -> None:
    client = client_with_open_requests()
    stray = b"".join(encode_frame(code, 77) for code in (SUCCESS, ITEM, ERROR))
    assert client.receive_data(stray) == []
    assert client.receive_data(encode_frame(ERROR, 0, b"\x80")) == [ErrorReceived(0, b"\x80")]
    assert client.receive_data(encode_frame(SUCCESS, 0) + encode_frame(ITEM, 0)) == []


def test_receive_reply_ends_the_request() -> None:
    client = client_with_open_requests()
    twice = encode_frame(SUCCESS, 1) + encode_frame(ERROR, 1)
    assert client.receive_data(twice) == [SuccessReceived(1, b"")]


# Input


def open_stream() -> tuple[ClientConnection, ServerConnection, int]:
    client, daemon = ClientConnection(), server()
    sequence, request = client.send_request(STREAM, takes_input=True)
    daemon.receive_data(request)
    return client, daemon, sequence


def test_input_may_arrive_together_with_its_request() -> None:
    client, daemon = ClientConnection(), server()
    sequence, request = client.send_request(STREAM, takes_input=True)
    body = client.send_input(sequence, b"hello")
    assert daemon.receive_data(request + body) == [
        RequestReceived(STREAM, sequence, b""),
        InputReceived(sequence, msgpack.packb({"data": b"hello"})),
    ]


def test_input_for_a_request_without_input_is_ignored() -> None:
    daemon = server()
    daemon.receive_data(encode_frame(PLAIN, 1))
    assert daemon.receive_data(encode_frame(INPUT, 1, msgpack.packb({"eof": True}))) == []


def test_data_uses_credit_and_acks_return_it() -> None:
    client, daemon, sequence = open_stream()
    assert client.credit(sequence) == INPUT_CREDIT
    client.send_input(sequence, bytes(INPUT_CREDIT - 1))
    daemon.take_input(sequence, INPUT_CREDIT - 1)
    with pytest.raises(ValueError, match="credit"):
        client.send_input(sequence, b"ab")
    assert client.credit(sequence) == 1
    client.send_input(sequence, eof=True)
    client.send_input(sequence, control={"rows": 24})
    assert client.credit(sequence) == 1
    assert client.receive_data(daemon.send_ack(sequence, 1000)) == [AckReceived(sequence, 1000)]
    assert client.credit(sequence) == 1001


def test_input_beyond_the_credit_is_refused() -> None:
    _, daemon, sequence = open_stream()
    daemon.take_input(sequence, INPUT_CREDIT)
    with pytest.raises(ResourceExhausted) as caught:
        daemon.take_input(sequence, 1)
    assert caught.value.details == {"credit": INPUT_CREDIT}
    daemon.send_ack(sequence, 1)
    daemon.take_input(sequence, 1)


@pytest.mark.parametrize("given_", [{}, {"data": b"x", "eof": True}, {"eof": True, "control": {}}])
def test_input_needs_exactly_one_of_data_eof_and_control(given_: dict[str, Any]) -> None:
    client, _, sequence = open_stream()
    with pytest.raises(ValueError, match="exactly one"):
        client.send_input(sequence, **given_)


def test_no_bytes_are_sent_to_an_ended_stream() -> None:
    client, daemon, sequence = open_stream()
    client.receive_data(daemon.send_success(sequence, b""))
    assert client.credit(sequence) == 0
    assert client.send_input(sequence, b"late") == client.send_input(sequence, eof=True) == b""
    assert daemon.send_ack(sequence, 4) == b""


@pytest.mark.parametrize("body", [{"ack": 5, "more": 1}, {"acks": 5}, {}])
def test_only_an_item_with_ack_alone_counts_as_acknowledgement(body: dict[str, Any]) -> None:
    client, _, sequence = open_stream()
    payload = msgpack.packb(body)
    assert client.receive_data(encode_frame(ITEM, sequence, payload)) == [ItemReceived(sequence, payload)]
    assert client.credit(sequence) == INPUT_CREDIT


def test_ack_is_an_ordinary_item_for_streams_without_input() -> None:
    client = ClientConnection()
    sequence, _ = client.send_request(PLAIN)
    payload = msgpack.packb({"ack": 5})
    assert client.receive_data(encode_frame(ITEM, sequence, payload)) == [ItemReceived(sequence, payload)]


@pytest.mark.parametrize(
    "payload", [b"\xc1", b"\x91", b"\x90", *(msgpack.packb({"ack": bad}) for bad in (-1, True, 1.5, "5", None))]
)
def test_invalid_acknowledgement_fails_the_connection(payload: bytes) -> None:
    client, _, sequence = open_stream()
    (event,) = client.receive_data(encode_frame(ITEM, sequence, payload))
    assert isinstance(event, ConnectionFailed)


def test_input_and_cancel_have_their_own_payload_limits() -> None:
    for code, limit in ((INPUT, INPUT_CREDIT + 1024), (CANCEL, 1024)):
        assert server().receive_data(encode_frame(code, 1, bytes(limit))) == []
        (event,) = server().receive_data(HEADER.pack(b"NEX\0", 1, code, limit + 1, 1, 0))
        assert isinstance(event, ConnectionFailed)
        assert isinstance(event.error, FrameTooLarge)
        assert event.error.details["limit"] == limit


def test_full_credit_fits_one_input() -> None:
    client, daemon, sequence = open_stream()
    (event,) = daemon.receive_data(client.send_input(sequence, bytes(INPUT_CREDIT)))
    assert isinstance(event, InputReceived)


def test_requests_have_the_limit_of_their_command_and_replies_that_of_frames() -> None:
    daemon = ServerConnection(lambda command: 100 if command == PLAIN else 10)
    assert len(daemon.receive_data(encode_frame(PLAIN, 1, bytes(100)))) == 1
    (event,) = daemon.receive_data(encode_frame(1, 2, bytes(11)))
    assert isinstance(event, ConnectionFailed)
    client = client_with_open_requests()
    assert client.receive_data(HEADER.pack(b"NEX\0", 1, SUCCESS, MAX_PAYLOAD, 1, 0)) == []
    (event,) = client_with_open_requests().receive_data(HEADER.pack(b"NEX\0", 1, SUCCESS, MAX_PAYLOAD + 1, 1, 0))
    assert isinstance(event, ConnectionFailed)


def test_error_on_sequence_0_leaves_open_requests_open() -> None:
    daemon = server()
    daemon.receive_data(encode_frame(PLAIN, 1))
    data = daemon.send_error(0, BadFrame("cannot read it"))
    assert daemon.open_requests == {1}
    assert decode_map(data[18:])["code"] == "bad_frame"
