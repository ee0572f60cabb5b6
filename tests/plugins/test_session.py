"""A hook in the way of one request: its deadline, its stream, its client's end."""

from __future__ import annotations

import asyncio

import pytest
from nexus_protocol import Command, CommandInfo, FailedPrecondition
from support.raw import wait_until
from support.toy import Count, Echo, Hold, Produce, ToyServer

from nexus.capability import Caller
from nexus.system.commands import Hello


class Hook:
    """Holds every command until it is told to go on, and then refuses those that it was told to."""

    def __init__(self, toy: ToyServer) -> None:
        self.entered: list[str] = []
        self.cancelled: list[str] = []
        self.refused: set[str] = set()
        self.go = asyncio.Event()
        self._toy = toy
        toy.server.ask_before_commands(self)

    async def __call__(self, info: CommandInfo, _command: Command[object], _caller: Caller) -> None:
        self.entered.append(info.name)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.append(info.name)
            raise
        if info.name in self.refused:
            raise FailedPrecondition("cannot: refused")

    def release(self) -> None:
        self._toy.loop.call_soon_threadsafe(self.go.set)


@pytest.fixture
def hook(toy: ToyServer) -> Hook:
    """A hook before every command of the toy."""
    return Hook(toy)


def test_the_deadline_of_a_request_counts_while_a_hook_runs(toy: ToyServer, hook: Hook) -> None:
    error = toy.connect().call_error(Hold(timeout_ms=50))
    assert error.code == "deadline_exceeded"
    assert (hook.entered, hook.cancelled, toy.cancelled) == (["Hold"], ["Hold"], 0)


def test_a_command_that_answers_at_once_waits_for_its_hook_and_no_other(toy: ToyServer, hook: Hook) -> None:
    client = toy.connect()
    sequence = client.begin(Count())
    client.call(Hello("test"))
    assert not client.last_sequences()
    hook.release()
    assert client.result(sequence) == {"size_bytes": 1}
    toy.server.ask_before_commands(None)
    assert client.call(Count()).size_bytes == 1
    assert hook.entered == ["Count"]


def test_a_cancel_reaches_a_request_in_its_hook_and_its_handler_never_runs(toy: ToyServer, hook: Hook) -> None:
    client = toy.connect()
    sequence = client.begin(Hold())
    wait_until(lambda: hook.entered, "the hook")
    client.cancel(sequence)
    assert client.error(sequence).code == "cancelled"
    assert hook.cancelled == ["Hold"]
    assert toy.holding == toy.cancelled == 0


def test_a_large_reply_is_hooked_before_anything_is_held(toy: ToyServer, hook: Hook) -> None:
    client = toy.connect()
    sequences = client.begin_many([Produce(100_000)] * 10)
    wait_until(lambda: len(hook.entered) == 10, "the hooks")
    hook.release()
    assert [len(client.result(sequence)["data"]) for sequence in sequences] == [100_000] * 10


@pytest.mark.parametrize("refused", [False, True])
def test_input_that_comes_while_a_hook_runs_is_for_the_stream(toy: ToyServer, hook: Hook, refused: bool) -> None:
    if refused:
        hook.refused.add("Echo")
    client = toy.connect()
    sequence = client.begin(Echo())
    client.send_bytes(client.engine.send_input(sequence, data=b"early"))
    client.send_bytes(client.engine.send_input(sequence, eof=True))
    wait_until(lambda: hook.entered, "the hook")
    hook.release()
    if refused:
        assert client.error(sequence).message == "cannot: refused"
    else:
        assert [item["data"] for item in client.items(sequence)] == [b"early"]
        assert client.result(sequence) == {"size_bytes": 5}


def test_a_client_that_leaves_still_has_carried_out_what_it_asked_for(toy: ToyServer, hook: Hook) -> None:
    """As without a hook: only streams end with their client."""
    client, other = toy.connect(), toy.connect()
    client.begin_many([Hold()] * 5)
    wait_until(lambda: len(hook.entered) == 5, "the hooks")
    client.half_close()
    hook.release()
    wait_until(lambda: toy.holding == 5, "the handlers")
    toy.release()
    assert other.call(Count()).size_bytes == 1
    assert hook.cancelled == []
