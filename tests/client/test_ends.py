"""Clients with an ended stream, a rejected Hello, and values that cannot be encoded."""

from __future__ import annotations

import asyncio

import pytest
from nexus_protocol import Command, InvalidArgument
from support.daemon import DaemonProcess
from support.toy import Deaf, Echo, ToyServer

from nexus.client import BlockingClient, Client
from nexus.journal.commands import WatchEvents
from nexus.system.commands import Ping, SetSetting
from nexus.vms.commands import CreateVm


def test_ended_stream_refuses_input(toy: ToyServer) -> None:
    with BlockingClient(toy.path) as client, client.stream(Echo()) as echo:
        echo.send(eof=True)
        assert list(echo) == []
        with pytest.raises(RuntimeError, match="has ended"):
            echo.send(b"more")
        with pytest.raises(RuntimeError, match="has ended"):
            echo.send(eof=True)


def test_stream_may_end_while_its_input_waits_for_credit(toy: ToyServer) -> None:
    with BlockingClient(toy.path) as client, client.stream(Deaf()) as deaf:
        toy.release()
        with pytest.raises(RuntimeError, match="has ended"):
            deaf.send(bytes(8 << 20))


def test_async_ended_stream_refuses_input(toy: ToyServer) -> None:
    async def scenario() -> None:
        async with asyncio.timeout(30), Client(toy.path) as client:
            async with client.stream(Echo()) as echo:
                await echo.send(eof=True)
                assert [item async for item in echo] == []
                with pytest.raises(RuntimeError, match="has ended"):
                    await echo.send(b"more")
            async with client.stream(Deaf()) as deaf:
                toy.release()
                with pytest.raises(RuntimeError, match="has ended"):
                    await deaf.send(bytes(8 << 20))

    asyncio.run(scenario())


def test_rejected_hello_fails_every_request(daemon: DaemonProcess) -> None:
    client = BlockingClient(daemon.socket_path)
    client.actor = "x" * 500  # which a client of another version may not check
    client.connect()
    for _ in range(2):
        with pytest.raises(InvalidArgument):
            client.call(Ping())
    client.connect()
    with pytest.raises(InvalidArgument), client.stream(WatchEvents(follow=False)) as events:
        list(events)
    client.close()


@pytest.mark.parametrize("actor", ["", "x" * 129, "a\nb", "\x1b[31m"])
def test_invalid_actor_is_refused_by_the_constructor(actor: str) -> None:
    for kind in (BlockingClient, Client):
        with pytest.raises(InvalidArgument, match="actor"):
            kind("/nowhere", actor=actor)


@pytest.mark.parametrize(
    "command",
    [
        CreateVm("a\udcff"),
        SetSetting("k", {"a": ["\udcff"]}),
        SetSetting("k", 1 << 70),
        SetSetting("k", [[-(1 << 70)]]),
    ],
    ids=["text", "text inside", "number", "number inside"],
)
def test_values_that_messagepack_cannot_encode_are_refused(daemon: DaemonProcess, command: Command[object]) -> None:
    with BlockingClient(daemon.socket_path) as client:
        with pytest.raises(InvalidArgument, match="cannot send"):
            client.call(command)
        assert client.call(Ping(b"on")).payload == b"on"
