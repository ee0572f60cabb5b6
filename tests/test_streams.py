"""Following a source and sending progress, by handlers of the toy server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from nexus_protocol import Cancelled, Command, Internal, Unavailable
from support.raw import RawClient, wait_until
from support.toy import Count, Data, Feed, Tail, ToyServer, Work

KIB = 1024


def _append(toy: ToyServer, *items: bytes) -> None:
    def append() -> None:
        toy.log += items
        for notify in toy.changed:
            notify()

    toy.call(append)


def _put(toy: ToyServer, *items: bytes | BaseException | None) -> None:
    for item in items:
        toy.call(toy.source.put_nowait, item)


def _add(toy: ToyServer, command: Command[object], *items: bytes) -> None:
    """Give the source of either command more items."""
    if isinstance(command, Tail):
        _append(toy, *items)
    else:
        _put(toy, *items)


def _end(toy: ToyServer, command: Command[object]) -> None:
    """End the source of either command."""
    if isinstance(command, Tail):
        _append(toy, b"")
    else:
        _put(toy, None)


BOTH = pytest.mark.parametrize("command", [Feed(), Tail()], ids=["items", "notified"])


# Following


@BOTH
def test_following_sends_items_as_they_come_until_the_source_ends(toy: ToyServer, command: Command[object]) -> None:
    client = toy.connect()
    _add(toy, command, b"before")
    stream = client.begin(command)
    items = client.items(stream)
    assert next(items)["data"] == b"before"
    for number in range(5):
        _add(toy, command, b"%d" % number)
        assert next(items)["data"] == b"%d" % number
    _end(toy, command)
    assert list(items) == []
    assert client.result(stream) == {"size_bytes": 11}
    assert toy.ended == [type(command).__name__]


@BOTH
def test_following_ends_at_the_clients_cancel_and_closes_the_source(toy: ToyServer, command: Command[object]) -> None:
    client = toy.connect()
    stream = client.begin(command)
    _add(toy, command, b"x")
    next(client.items(stream))
    client.cancel(stream)
    assert isinstance(client.error(stream), Cancelled)
    assert toy.ended == [type(command).__name__]


@BOTH
def test_following_ends_when_the_connection_is_lost(toy: ToyServer, command: Command[object]) -> None:
    client = toy.connect()
    stream = client.begin(command)
    _add(toy, command, b"x")
    next(client.items(stream))
    client.close()
    wait_until(lambda: toy.ended, "the end of the source")
    assert toy.ended == [type(command).__name__]


@BOTH
def test_following_waiting_at_drain_ends_at_once_with_the_error_of_the_handler(
    toy: ToyServer, command: Command[object]
) -> None:
    client = toy.connect()
    stream = client.begin(command)
    items = client.items(stream)
    _add(toy, command, b"x")
    next(items)
    toy.run(toy.server.drain(30))
    assert list(items) == []
    error = client.error(stream)
    assert isinstance(error, Unavailable)
    assert (error.message, error.hint, error.details) == ("the daemon is stopping", "Go on.", {"sent": 1})
    assert toy.ended == [type(command).__name__]


def test_following_notified_in_the_turn_of_the_drain_still_sends_what_is_new(toy: ToyServer) -> None:
    client = toy.connect()
    stream = client.begin(Tail())
    wait_until(lambda: toy.changed, "the open stream")

    async def append_and_drain() -> None:
        toy.log += [b"one", b"two"]
        await toy.server.drain(30)

    toy.run(append_and_drain())
    assert [item["data"] for item in client.items(stream)] == [b"one", b"two"]
    assert client.error(stream).details == {"sent": 2}


@BOTH
@pytest.mark.parametrize("finite", [True, False], ids=["finite", "endless"])
def test_following_opened_in_the_turn_of_the_drain_sends_what_there_is_and_ends(
    toy: ToyServer, command: Command[object], finite: bool
) -> None:
    client = toy.connect()
    assert client.call(Count()).size_bytes == 1
    _add(toy, command, b"one", b"two")
    if finite:
        _end(toy, command)

    async def open_and_drain() -> int:
        sequence = client.begin(command)  # in the loop, so that the session reads it when it begins to drain
        await toy.server.drain(30)
        return sequence

    stream = toy.run(open_and_drain())
    assert [item["data"] for item in client.items(stream)] == [b"one", b"two"]
    if finite:
        assert client.result(stream) == {"size_bytes": 6}
    else:
        assert isinstance(client.error(stream), Unavailable)
    assert toy.ended == [type(command).__name__]


def test_following_takes_no_item_while_the_client_does_not_read(make_toy: Callable[..., ToyServer]) -> None:
    toy = make_toy(send_buffer_bytes=64 * KIB)
    client = toy.connect()
    stream = client.begin(Feed())
    _put(toy, *[bytes(60 * KIB)] * 100, None)
    with RawClient(toy.path) as other:
        for _ in range(50):
            other.call(Count())
    assert toy.source.qsize() > 80
    assert len(list(client.items(stream))) == 100
    assert client.result(stream) == {"size_bytes": 100 * 60 * KIB}


def test_following_a_source_that_raises_timeout_error_is_a_bug_of_the_source(
    toy: ToyServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = toy.connect()
    stream = client.begin(Feed())
    _put(toy, TimeoutError("its own"))
    assert isinstance(client.error(stream), Internal)
    assert "its own" in str(caplog.records[-1].exc_info)
    assert toy.ended == ["Feed"]


# Progress


def _report(toy: ToyServer, *items: bytes) -> None:
    def report() -> None:
        for item in items:
            toy.reports[0](Data(item))

    toy.call(report)


def test_progress_is_sent_as_it_is_reported_and_the_result_follows(toy: ToyServer) -> None:
    client = toy.connect()
    stream = client.begin(Work())
    items = client.items(stream)
    wait_until(lambda: toy.reports, "the work")
    for number in range(3):
        _report(toy, b"%d" % number)
        assert next(items)["data"] == b"%d" % number
    toy.release()
    assert list(items) == []
    assert client.result(stream) == {"size_bytes": 7}


def test_progress_of_one_turn_is_sent_as_its_newest_item_also_when_the_work_ends_in_it(toy: ToyServer) -> None:
    client = toy.connect()
    stream = client.begin(Work())
    wait_until(lambda: toy.reports, "the work")

    def report_and_end() -> None:
        for number in range(3):
            toy.reports[0](Data(b"%d" % number))
        toy.may_answer.set()

    toy.call(report_and_end)
    assert [item["data"] for item in client.items(stream)] == [b"2"]
    assert client.result(stream) == {"size_bytes": 7}


def test_progress_keeps_only_the_newest_item_while_the_client_does_not_read(
    make_toy: Callable[..., ToyServer],
) -> None:
    toy = make_toy(send_buffer_bytes=64 * KIB)
    client = toy.connect()
    stream = client.begin(Work())
    wait_until(lambda: toy.reports, "the work")
    for number in range(200):
        _report(toy, b"%03d" % number + bytes(60 * KIB))
    toy.release()
    numbers = [int(item["data"][:3]) for item in client.items(stream)]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 199
    assert len(numbers) < 100
    assert client.result(stream) == {"size_bytes": 7}


def test_progress_of_a_cancelled_request_cancels_its_work_and_waits_for_it(toy: ToyServer) -> None:
    client = toy.connect()
    stream = client.begin(Work())
    wait_until(lambda: toy.reports, "the work")
    client.cancel(stream)
    assert isinstance(client.error(stream), Cancelled)
    assert toy.ended == ["Work"]
    assert toy.reports == []


def test_progress_of_work_that_fails_ends_with_its_error(toy: ToyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail() -> None:
        raise Unavailable("cannot go on")

    client = toy.connect()
    monkeypatch.setattr(toy, "may_answer", type("Failing", (asyncio.Event,), {"wait": lambda _self: fail()})())
    assert client.call_error(Work()).message == "cannot go on"
