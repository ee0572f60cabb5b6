"""Input that arrives before its stream is opened: its credit is valid from the request on, so none may be lost."""

from __future__ import annotations

from collections.abc import Callable

from nexus_protocol import Cancelled, ResourceExhausted
from support.raw import RawClient
from support.toy import Count, Echo, Hold, ToyServer


def _echo_and_input(client: RawClient, *, eof: bool = True) -> tuple[int, bytes]:
    sequence, data = client.engine.send_request(Echo.info.code, takes_input=True)
    data += client.engine.send_input(sequence, b"first")
    if eof:
        data += client.engine.send_input(sequence, eof=True)
    return sequence, data


def test_input_sent_together_with_the_request_arrives(toy: ToyServer) -> None:
    client = toy.connect()
    sequence, data = _echo_and_input(client)
    client.send_bytes(data)
    assert client.result(sequence) == {"size_bytes": 5}


def test_input_for_a_stream_that_waits_its_turn_is_kept_for_it(make_toy: Callable[..., ToyServer]) -> None:
    toy = make_toy(requests_per_connection=1)
    client = toy.connect()
    held = client.begin(Hold())
    sequence, data = _echo_and_input(client)
    client.send_bytes(data)
    toy.release()
    assert client.result(held) == {}
    assert client.result(sequence) == {"size_bytes": 5}


def test_input_of_a_stream_that_is_cancelled_while_it_waits_is_dropped(make_toy: Callable[..., ToyServer]) -> None:
    toy = make_toy(requests_per_connection=1)
    client = toy.connect()
    held = client.begin(Hold())
    sequence, data = _echo_and_input(client, eof=False)
    client.send_bytes(data)
    client.cancel(sequence)
    assert isinstance(client.error(sequence), Cancelled)
    toy.release()
    assert client.result(held) == {}
    assert client.call(Count()).size_bytes == 1


def test_too_many_inputs_for_a_stream_that_waits_end_it_when_it_opens(make_toy: Callable[..., ToyServer]) -> None:
    toy = make_toy(requests_per_connection=1)
    client = toy.connect()
    held = client.begin(Hold())
    sequence, data = client.engine.send_request(Echo.info.code, takes_input=True)
    data += b"".join(client.engine.send_input(sequence, b"") for _ in range(3000))
    client.send_bytes(data)
    toy.release()
    assert client.result(held) == {}
    assert isinstance(client.error(sequence), ResourceExhausted)
