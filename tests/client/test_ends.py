"""What a client does when a stream has ended, when nobody knows who it is, and with what cannot be sent."""

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


def test_a_stream_that_has_ended_takes_no_more_input(toy: ToyServer) -> None:
    with BlockingClient(toy.path) as client, client.stream(Echo()) as echo:
        echo.send(eof=True)
        assert list(echo) == []
        with pytest.raises(RuntimeError, match="has ended"):
            echo.send(b"more")
        with pytest.raises(RuntimeError, match="has ended"):
            echo.send(eof=True)


def test_a_stream_may_end_while_its_input_waits_for_credit(toy: ToyServer) -> None:
    with BlockingClient(toy.path) as client, client.stream(Deaf()) as deaf:
        toy.release()
        with pytest.raises(RuntimeError, match="has ended"):
            deaf.send(bytes(8 << 20))


def test_so_it_is_with_asyncio(toy: ToyServer) -> None:
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


def test_who_is_not_taken_for_who_it_says_makes_no_request(daemon: DaemonProcess) -> None:
    client = BlockingClient(daemon.socket_path)
    client.actor = "x" * 500  # as a client of another version might allow
    client.connect()
    for _ in range(2):
        with pytest.raises(InvalidArgument):
            client.call(Ping())
    client.connect()
    with pytest.raises(InvalidArgument), client.stream(WatchEvents(follow=False)) as events:
        list(events)
    client.close()


@pytest.mark.parametrize("actor", ["", "x" * 129, "a\nb", "\x1b[31m"])
def test_an_actor_that_the_journal_would_not_take_is_refused_at_once(actor: str) -> None:
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
def test_what_messagepack_cannot_hold_is_refused_in_words(daemon: DaemonProcess, command: Command[object]) -> None:
    with BlockingClient(daemon.socket_path) as client:
        with pytest.raises(InvalidArgument, match="cannot send"):
            client.call(command)
        assert client.call(Ping(b"on")).payload == b"on"
