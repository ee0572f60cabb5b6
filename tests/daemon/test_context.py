"""The context of a request in a session: where it reaches a handler, what waits with it, and what it counts for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from nexus_protocol import CONTEXT, HEADER_SIZE, Cancelled, FrameTooLarge, InvalidArgument, encode_command, encode_frame
from nexus_protocol.context import NO_CONTEXT, RequestContext, encode_context
from support.daemon import DaemonProcess
from support.raw import RawClient, wait_until
from support.toy import Count, Echo, Hold, Produce, Swallow, ToyServer

from nexus.journal.commands import WatchEvents
from nexus.system.commands import Batch, Hello, Ping, SetSetting
from nexus.vms.commands import CreateVm, GetVm

KEY = encode_context(key="k")
WHY = encode_context(why="w")
BOTH = encode_context(key="k", why="w")


def count(client: RawClient, context: bytes = b"") -> None:
    assert client.result(client.begin(Count(), context)) == {"size_bytes": 1}


def test_context_reaches_the_handler(toy: ToyServer) -> None:
    client = toy.connect()
    toy.release()
    for command in (Hold(), Count()):
        for context in (BOTH, KEY, b"\x80", b""):
            client.payload(client.begin(command, context))
    wanted = [RequestContext(key="k", why="w"), RequestContext(key="k"), NO_CONTEXT, NO_CONTEXT]
    assert toy.contexts == wanted + wanted


def test_why_of_hello_holds_for_the_connection_until_the_next_hello(toy: ToyServer) -> None:
    client, other = toy.connect(), toy.connect()
    assert client.call(Hello("test", why="for all")).features == ["context"]
    count(client)
    count(client, encode_context(why="own"))
    count(client, KEY)
    count(client)
    count(other)
    client.call(Hello("test"))
    count(client)
    count(client, WHY)
    assert [context.why for context in toy.contexts] == ["for all", "own", "for all", "for all", None, None, "w"]
    assert [context.key for context in toy.contexts] == [None, None, "k", None, None, None, None]


def test_hello_with_a_context_sets_the_connection_not_the_request(toy: ToyServer) -> None:
    client = toy.connect()
    client.result(client.begin(Hello("test", actor="agent", why="for all"), WHY))
    count(client)
    assert [context.why for context in toy.contexts] == ["for all"]


@pytest.mark.parametrize("why", ["", "w" * 501, "é" * 251, "a\nb", "a\x9b"])
def test_hello_refuses_an_invalid_why_and_changes_nothing(toy: ToyServer, why: str) -> None:
    client = toy.connect()
    client.call(Hello("test", why="é" * 250))
    error = client.call_error(Hello("test", why=why))
    assert isinstance(error, InvalidArgument)
    assert error.details == {"path": "why"}
    count(client)
    assert [context.why for context in toy.contexts] == ["é" * 250]


def test_waiting_request_keeps_the_why_under_which_it_was_sent(make_toy: Callable[..., ToyServer]) -> None:
    toy = make_toy(requests_per_connection=1)
    client = toy.connect()
    client.call(Hello("test", why="first"))
    client.begin_many([Hold(), Hold(), Count()])
    client.begin(Hold(), WHY)
    client.begin(Hello("test", why="second"))
    last = client.begin(Count())
    toy.release()
    client.result(last)
    assert [context.why for context in toy.contexts] == ["first", "first", "first", "w", "second"]


def test_why_stays_with_a_request_whose_hook_outlasts_a_later_hello(toy: ToyServer) -> None:
    client = toy.connect()
    client.call(Hello("test", why="first"))
    entered: list[str] = []

    async def hook(info: object, _command: object, _caller: object) -> None:
        entered.append(getattr(info, "name", ""))
        await toy.may_answer.wait()

    toy.call(toy.server.ask_before_commands, hook)
    sequences = [client.begin(Count()), client.begin(Count(), BOTH)]
    wait_until(lambda: len(entered) == 2, "the hooks")
    client.call(Hello("test", why="second"))
    toy.release()
    for sequence in sequences:
        client.result(sequence)
    assert toy.contexts == [RequestContext(why="first"), RequestContext(key="k", why="w")]


def test_refused_context_comes_before_the_hook(toy: ToyServer) -> None:
    client = toy.connect()
    entered: list[object] = []

    async def hook(info: object, _command: object, _caller: object) -> None:
        entered.append(info)

    toy.call(toy.server.ask_before_commands, hook)
    assert client.error(client.begin_raw(Count.info.code, b"", b"\x81\xa5space\xa1a")).details == {
        "path": "context.space"
    }
    assert isinstance(client.error(client.begin(Echo(), KEY)), InvalidArgument)
    assert entered == toy.contexts == []


def test_waiting_request_with_a_context_is_cancelled_before_it_begins(make_toy: Callable[..., ToyServer]) -> None:
    toy = make_toy(requests_per_connection=1)
    client = toy.connect()
    held, waits = client.begin(Hold(), BOTH), client.begin(Count(), BOTH)
    client.cancel(waits)
    assert isinstance(client.error(waits), Cancelled)
    client.cancel(held)
    assert isinstance(client.error(held), Cancelled)
    count(client)
    assert toy.contexts == [RequestContext(key="k", why="w"), NO_CONTEXT]


def test_request_with_a_context_sent_byte_by_byte_is_carried_out(toy: ToyServer) -> None:
    client = toy.connect()
    sequence, data = client.engine.send_request(Count.info.code, context=BOTH)
    for byte in data:
        client.send_bytes(bytes([byte]))
    assert client.result(sequence) == {"size_bytes": 1}
    assert toy.contexts == [RequestContext(key="k", why="w")]


def test_waiting_bytes_count_the_context(make_toy: Callable[..., ToyServer]) -> None:
    toy = make_toy(requests_per_connection=1)
    client = toy.connect()
    held = client.begin(Hold(), BOTH)
    wait_until(lambda: toy.holding, "the first request")
    waits = client.begin_many([Produce(3)] * 4, BOTH)
    client.cancel(waits[1])
    assert isinstance(client.error(waits[1]), Cancelled)
    (session,) = toy.call(lambda: list(toy.server._sessions))
    payload = len(BOTH) + len(encode_command(Produce(3)))
    assert session._waiting_bytes == 3 * (payload + 256)
    assert session._budgets.received_bytes == session._waiting_bytes
    toy.release()
    for sequence in (held, waits[0], waits[2], waits[3]):
        client.result(sequence)
    assert session._waiting_bytes == session._budgets.received_bytes == 0


def test_large_body_beside_a_context_is_carried_out(toy: ToyServer) -> None:
    client = toy.connect()
    size = 16 * 1024 * 1024 - 11
    body = b"\x81\xa4data\xc6" + size.to_bytes(4, "big") + bytes(size)
    assert len(body) == Swallow.info.max_payload
    assert client.result(client.begin_raw(Swallow.info.code, body, BOTH)) == {"size_bytes": size}


def test_sizes_of_context_and_body_are_exact(toy: ToyServer) -> None:
    client = toy.connect()
    error = client.error(client.begin_raw(Count.info.code, b"\x80", b"\x81\xa3why\xda\x0f\xfa" + b"w" * 4090))
    assert error.details == {"path": "context", "limit": 4096}
    error = client.error(client.begin_raw(Count.info.code, b"\x81\xa1x\xc5\xff\xfb" + bytes(65531), BOTH))
    assert error.details == {"path": "", "limit": 65536}
    count(client)
    client.send_bytes(encode_frame(Count.info.code, 99, bytes(65536 + 4097), CONTEXT)[:HEADER_SIZE])
    client.engine._open.add(99)
    assert isinstance(client.error(99), FrameTooLarge)


def test_limit_of_a_body_beside_a_context_is_the_one_in_force(make_toy: Callable[..., ToyServer]) -> None:
    client = make_toy(max_payload_bytes=20).connect()
    error = client.error(client.begin_raw(Count.info.code, b"\x81\xb3" + b"x" * 19 + b"\xc0", WHY))
    assert error.details == {"path": "", "limit": 20}


@pytest.mark.parametrize("command", [GetVm("web"), Ping(), Hello("test"), WatchEvents()])
def test_key_is_refused_where_it_would_have_no_effect(shared: DaemonProcess, command: object) -> None:
    with RawClient(shared.socket_path) as client:
        error = client.error(client.begin(command, KEY))  # type: ignore[arg-type]
        assert isinstance(error, InvalidArgument)
        assert error.details == {"path": "context.key"}
        assert "takes no key, because" in error.message
        assert client.call(Ping(b"on")).payload == b"on"


def test_commands_of_every_effect_take_a_context(shared: DaemonProcess) -> None:
    with RawClient(shared.socket_path) as client:
        assert client.result(client.begin(Ping(b"x"), WHY)) == {"payload": b"x"}
        assert client.result(client.begin(CreateVm(name="told"), BOTH))["name"] == "told"
        assert client.result(client.begin(GetVm("told"), WHY))["name"] == "told"
        batch = Batch.of([SetSetting("told", 1)])
        assert len(client.result(client.begin(batch, encode_context(key="b")))["results"]) == 1
        stream = client.begin(WatchEvents(follow=False), WHY)
        assert any(event.get("subject_name") == "told" for event in client.items(stream))
