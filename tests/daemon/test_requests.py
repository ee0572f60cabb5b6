"""Requests of one connection: limits, Cancel, unexpected exceptions, deadlines and draining."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from nexus_protocol import (
    BadFrame,
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    UnknownCommand,
    encode_frame,
)
from nexus_protocol.frame import CANCEL, ITEM, SUCCESS
from support.daemon import DaemonProcess
from support.raw import RawClient, frame, wait_until
from support.toy import Break, BreakByTimeout, Count, Hold, Produce, Swallow, ToyServer

from nexus.system.commands import Ping

MIB = 1024 * 1024


def test_request_above_the_limit_waits_its_turn_and_cancel_overtakes_it(toy: ToyServer) -> None:
    client = toy.connect()
    held = client.begin_many([Hold()] * 64)
    waits = client.begin(Count())
    wait_until(lambda: toy.holding == 64, "64 requests at work")
    with RawClient(toy.path) as other:
        assert other.call(Count()).size_bytes == 1
    assert not client.last_sequences()
    client.cancel(held[10])
    assert isinstance(client.error(held[10]), Cancelled)
    assert client.result(waits) == {"size_bytes": 1}
    toy.release()
    for sequence in held[:10] + held[11:]:
        assert client.result(sequence) == {}


def test_cancel_works_while_a_request_waits_and_runs_and_is_ignored_after_its_end(
    make_toy: Callable[..., ToyServer],
) -> None:
    toy = make_toy(requests_per_connection=1)
    client = toy.connect()
    running, queued, last = client.begin_many([Hold(), Hold(), Count()])
    client.cancel(queued)
    assert isinstance(client.error(queued), Cancelled)
    assert toy.cancelled == 0, "a waiting request was never begun"
    client.cancel(running)
    assert isinstance(client.error(running), Cancelled)
    assert toy.cancelled == 1
    assert client.result(last) == {"size_bytes": 1}
    client.send_bytes(encode_frame(CANCEL, last) + encode_frame(CANCEL, 4711) + encode_frame(CANCEL, 0))
    assert client.call(Count()).size_bytes == 1
    assert client.connection_error is None


def test_request_sent_together_with_its_cancel_is_answered_once(toy: ToyServer) -> None:
    client = toy.connect()
    sequence, data = client.engine.send_request(Hold.info.code)
    client.send_bytes(data + client.engine.send_cancel(sequence))
    assert isinstance(client.error(sequence), Cancelled)
    assert client.call(Count()).size_bytes == 1


def test_cancel_of_30000_waiting_requests_does_not_delay_other_clients(make_toy: Callable[..., ToyServer]) -> None:
    toy = make_toy(requests_per_connection=1)
    client = toy.connect()
    client.begin(Hold())
    count = 30_000
    sequences = client.begin_many([Count()] * count)
    client.send_bytes(b"".join(client.engine.send_cancel(sequence) for sequence in reversed(sequences)))
    with RawClient(toy.path) as other:
        assert other.call(Count()).size_bytes == 1
    assert all(isinstance(client.error(sequence), Cancelled) for sequence in sequences)


def test_replies_come_in_the_order_in_which_they_are_ready(toy: ToyServer) -> None:
    client = toy.connect()
    slow, quick = client.begin_many([Hold(), Count()])
    assert client.result(quick) == {"size_bytes": 1}
    toy.release()
    assert client.result(slow) == {}
    assert client.order == [quick, slow]


def test_sequence_may_be_reused_after_its_answer(toy: ToyServer) -> None:
    client = toy.connect()
    for _ in range(3):
        client.engine._last = 6
        assert client.begin(Count()) == 7
        assert client.result(7) == {"size_bytes": 1}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (b"", frame(Count(), 0)),
        (frame(Hold(), 5), frame(Count(), 5)),
        (b"", encode_frame(0, 1)),
        (b"", encode_frame(SUCCESS, 1)),
        (b"", encode_frame(ITEM, 1)),
        (b"", encode_frame(0xF000, 1)),
        (b"", encode_frame(0xFF01, 1)),
    ],
    ids=["sequence 0", "open sequence", "command 0", "Success", "Item", "0xF000", "0xFF01"],
)
def test_misused_code_or_sequence_is_bad_frame_on_sequence_0_and_closes_the_connection(
    toy: ToyServer, first: bytes, second: bytes
) -> None:
    client = toy.connect()
    client.send_bytes(first + second)
    assert isinstance(client.read_to_end(), BadFrame)
    with RawClient(toy.path) as other:
        assert other.call(Count()).size_bytes == 1


def test_bad_frame_right_after_requests_cancels_them_and_closes_the_connection(toy: ToyServer) -> None:
    client = toy.connect()
    client.send_bytes(frame(Hold(), 1) + frame(Hold(), 2) + b"no frame at all, ever")
    assert isinstance(client.read_to_end(), BadFrame)
    wait_until(lambda: toy.holding == 0, "the end of the requests")
    wait_until(lambda: toy.server.connections() == 0, "the end of the connection")


def test_unexpected_exception_is_internal_and_its_text_is_only_in_the_log(
    toy: ToyServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = toy.connect()
    error = client.call_error(Break())
    assert isinstance(error, Internal)
    assert error.type == "internal"
    assert "ValueError" in error.message
    assert "words" not in error.message + str(error.hint) + str(error.details)
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info is not None
    assert "words for the log alone" in str(record.exc_info[1])
    assert client.call(Count()).size_bytes == 1


def test_deadline_ends_a_request_and_cancels_its_handler(toy: ToyServer) -> None:
    client = toy.connect()
    error = client.call_error(Hold(timeout_ms=30))
    assert isinstance(error, DeadlineExceeded)
    assert "30 ms" in error.message
    assert toy.cancelled == 1
    assert client.call(Count()).size_bytes == 1


def test_timeout_error_of_a_handler_is_internal_and_not_deadline_exceeded(
    toy: ToyServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = toy.connect()
    assert isinstance(client.call_error(BreakByTimeout()), Internal)
    assert caplog.records


def test_result_larger_than_a_frame_is_resource_exhausted(toy: ToyServer) -> None:
    client = toy.connect()
    error = client.call_error(Produce(17 * MIB))
    assert isinstance(error, ResourceExhausted)
    assert error.details == {"limit": 16 * MIB}
    assert len(client.call(Produce(15 * MIB)).data) == 15 * MIB


def test_command_has_the_payload_limit_that_it_declares(toy: ToyServer) -> None:
    client = toy.connect()
    assert client.call(Swallow(bytes(15 * MIB))).size_bytes == 15 * MIB


@pytest.mark.parametrize(
    "payload", [b"\xc1", b"\x90", b"\x81", b"\x80\x80", b"\x81\xa1x\x01", b"\x81\x01\x02", b"\xc0"]
)
def test_undecodable_payload_is_invalid_argument_and_leaves_the_connection_open(toy: ToyServer, payload: bytes) -> None:
    client = toy.connect()
    assert isinstance(client.error(client.begin_raw(Count.info.code, payload)), InvalidArgument)
    assert isinstance(client.error(client.begin_raw(0xEFFF, payload)), UnknownCommand)
    assert client.call(Count()).size_bytes == 1


def test_half_closed_client_gets_every_reply_that_it_asked_for(toy: ToyServer) -> None:
    client = toy.connect()
    # Small replies first, so that the daemon sees the end of input while it has room; then more than it has room for.
    sequences = client.begin_many([Count()] * 200 + [Produce(100_000)] * 60 + [Count()] * 200)
    client.half_close()
    client.read_to_end()
    assert sorted(client.order) == sequences
    assert client.connection_error is None


def test_closed_client_ends_its_session(toy: ToyServer) -> None:
    client = toy.connect()
    client.begin(Hold())
    wait_until(lambda: toy.holding == 1, "the request at work")
    client.sock.close()
    # A closed socket looks like a half-closed one until something is sent to it.
    toy.release()
    wait_until(lambda: toy.server.connections() == 0, "the end of the connection")


def test_drain_refuses_new_requests_lets_running_ones_finish_and_closes(toy: ToyServer) -> None:
    client, idle = toy.connect(), toy.connect()
    assert idle.call(Count()).size_bytes == 1
    held = client.begin(Hold())
    wait_until(lambda: toy.holding == 1, "the request at work")
    toy.loop.call_soon_threadsafe(lambda: toy.loop.create_task(toy.server.drain(30)))
    assert idle.read_to_end() is None
    assert isinstance(client.call_error(Count()), Unavailable)
    toy.release()
    assert client.result(held) == {}
    assert client.read_to_end() is None


def test_drain_answers_waiting_requests_and_those_that_do_not_finish_in_time(
    make_toy: Callable[..., ToyServer],
) -> None:
    toy = make_toy(requests_per_connection=1)
    client = toy.connect()
    held, waits = client.begin_many([Hold(), Hold()])
    wait_until(lambda: toy.holding == 1, "the request at work")
    toy.run(toy.server.drain(0.1))
    assert isinstance(client.error(waits), Unavailable)
    assert isinstance(client.error(held), Unavailable)
    assert client.read_to_end() is None


def test_client_of_another_user_is_refused(toy: ToyServer) -> None:
    toy.server._trusted_uids.clear()
    client = toy.connect()
    assert isinstance(client.read_to_end(), PermissionDenied)


def test_ignored_frames_reset_the_frame_timeout_like_others(make_daemon: Callable[..., DaemonProcess]) -> None:
    """Cancels for a request that is not open, each read ending within one, for longer than a frame may take."""
    daemon = make_daemon(config="[limits]\nframe_timeout_s = 2\n").start()
    cancel = encode_frame(CANCEL, 4711)
    with RawClient(daemon.socket_path) as client, RawClient(daemon.socket_path) as other:
        client.call(Ping())
        client.send_bytes(cancel[:9])
        ends_at = time.monotonic() + 2.5
        while time.monotonic() < ends_at:
            client.send_bytes(cancel[9:] + cancel[:9])
            other.call(Ping())
        client.send_bytes(cancel[9:])
        assert client.call(Ping(b"here")).payload == b"here"
