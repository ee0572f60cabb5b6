"""The cause of a cancellation: ``Context.timed_out`` and the answer agree on whether it was the deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from nexus_protocol import Cancelled, Command, DeadlineExceeded, Unavailable
from support.raw import RawClient, wait_until
from support.toy import Count, Durable, Hold, Produce, Reluctant, ToyServer

LONG_MS = 600_000


def _held(toy: ToyServer, client: RawClient, command: Command[object]) -> int:
    sequence = client.begin(command)
    wait_until(lambda: toy.holding == 1, "the request at work")
    return sequence


def test_deadline_is_the_cause_when_the_time_is_over(toy: ToyServer) -> None:
    error = toy.connect().call_error(Hold(timeout_ms=30))
    assert isinstance(error, DeadlineExceeded)
    assert toy.timed_out == [True]


def test_deadline_is_not_the_cause_of_the_clients_cancel(toy: ToyServer) -> None:
    client = toy.connect()
    sequence = _held(toy, client, Hold(timeout_ms=LONG_MS))
    client.cancel(sequence)
    assert isinstance(client.error(sequence), Cancelled)
    assert toy.timed_out == [False]


def test_deadline_is_not_the_cause_when_the_connection_is_lost(toy: ToyServer) -> None:
    client = toy.connect()
    _held(toy, client, Hold(timeout_ms=LONG_MS))
    pause = threading.Event()
    toy.loop.call_soon_threadsafe(pause.wait, 60)
    client.begin(Count())
    client.close()
    pause.set()  # the reply to Count cannot be written
    wait_until(lambda: toy.server.connections() == 0, "the end of the connection")
    wait_until(lambda: toy.timed_out, "the end of the request")
    assert toy.timed_out == [False]


def test_deadline_is_not_the_cause_when_the_daemon_drains(toy: ToyServer) -> None:
    client = toy.connect()
    sequence = _held(toy, client, Hold(timeout_ms=LONG_MS))
    toy.run(toy.server.drain(0.05))
    assert isinstance(client.error(sequence), Unavailable)
    assert toy.timed_out == [False]


def test_deadline_in_the_turn_of_a_cancel_gives_one_answer_that_agrees_with_the_context(toy: ToyServer) -> None:
    client = toy.connect()
    sequence = _held(toy, client, Hold(timeout_ms=50))
    # The loop stands still while the deadline passes and the Cancel arrives; it then sees both in one turn.
    toy.loop.call_soon_threadsafe(threading.Event().wait, 0.2)
    client.cancel(sequence)
    error = client.error(sequence)
    assert isinstance(error, (DeadlineExceeded, Cancelled))
    assert toy.timed_out == [isinstance(error, DeadlineExceeded)]
    assert client.call(Count()).size_bytes == 1


def test_deadline_about_the_time_of_a_cancel_always_agrees_with_the_context(toy: ToyServer) -> None:
    client = toy.connect()
    for number in range(40):
        seen = len(toy.timed_out)
        sequence = client.begin(Hold(timeout_ms=5))
        threading.Event().wait(0.004 + number * 0.00005)
        client.cancel(sequence)
        error = client.error(sequence)
        # On a busy machine the Cancel may arrive with the request, whose handler then never begins.
        never_began = [] if isinstance(error, Cancelled) else None
        assert toy.timed_out[seen:] in ([isinstance(error, DeadlineExceeded)], never_began)
        assert isinstance(error, (DeadlineExceeded, Cancelled))


@pytest.mark.parametrize("first", ["deadline", "cancel"])
def test_deadline_and_cancel_during_the_cleanup_after_the_other_leave_the_first_as_the_cause(
    toy: ToyServer, first: str
) -> None:
    client = toy.connect()
    sequence = _held(toy, client, Reluctant(timeout_ms=30 if first == "deadline" else 2000))
    if first == "deadline":
        wait_until(lambda: toy.timed_out, "the deadline")
    client.cancel(sequence)
    error = client.error(sequence)
    assert isinstance(error, DeadlineExceeded if first == "deadline" else Cancelled)
    assert toy.timed_out == [first == "deadline"] * 2


def test_deadline_that_a_handler_outlasts_leaves_its_result(toy: ToyServer) -> None:
    client = toy.connect()
    sequence = client.begin(Reluctant(timeout_ms=30))
    wait_until(lambda: toy.timed_out, "the deadline")
    toy.release()
    assert client.result(sequence) == {}
    assert toy.timed_out == [True]


@pytest.mark.parametrize("cause", ["deadline", "cancel"])
def test_deadline_or_cancel_that_a_durable_write_outlasts_does_not_interrupt_an_answer_that_waits_for_room(
    make_toy: Callable[..., ToyServer], cause: str
) -> None:
    toy = make_toy(send_buffer_bytes=64 * 1024)
    client = toy.connect()
    sequence = _held(toy, client, Durable(timeout_ms=30 if cause == "deadline" else LONG_MS))
    if cause == "cancel":
        client.cancel(sequence)
    wait_until(lambda: toy.timed_out, "the cancellation")
    assert toy.timed_out == [cause == "deadline"]
    client.begin_many([Produce(60_000)] * 40)
    wait_until(lambda: toy.server.budgets.unsent_bytes > 64 * 1024, "a client without room")
    toy.release()
    wait_until(lambda: toy.holding == 0, "the result")
    assert client.result(sequence) == {"data": b"done"}
