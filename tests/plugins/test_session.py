"""A hook before a request: deadline, cancellation, streams, and clients that disconnect."""

from __future__ import annotations

import asyncio

import pytest
from nexus_protocol import Command, CommandInfo, FailedPrecondition
from support.raw import wait_until
from support.toy import Count, Echo, Hold, Produce, ToyServer

from nexus.caller import Caller
from nexus.system.commands import Hello


class Hook:
    """Blocks every command until ``release``, then refuses the commands named in ``refused``."""

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
    """A hook before every command of the toy server."""
    return Hook(toy)


def test_request_deadline_includes_the_time_in_a_hook(toy: ToyServer, hook: Hook) -> None:
    error = toy.connect().call_error(Hold(timeout_ms=50))
    assert error.code == "deadline_exceeded"
    assert (hook.entered, hook.cancelled, toy.cancelled) == (["Hold"], ["Hold"], 0)


def test_synchronous_command_waits_only_for_its_own_hook(toy: ToyServer, hook: Hook) -> None:
    client = toy.connect()
    sequence = client.begin(Count())
    client.call(Hello("test"))
    assert not client.last_sequences()
    hook.release()
    assert client.result(sequence) == {"size_bytes": 1}
    toy.server.ask_before_commands(None)
    assert client.call(Count()).size_bytes == 1
    assert hook.entered == ["Count"]


def test_cancel_ends_the_hook_and_the_handler_never_runs(toy: ToyServer, hook: Hook) -> None:
    client = toy.connect()
    sequence = client.begin(Hold())
    wait_until(lambda: hook.entered, "the hook")
    client.cancel(sequence)
    assert client.error(sequence).code == "cancelled"
    assert hook.cancelled == ["Hold"]
    assert toy.holding == toy.cancelled == 0


def test_hook_runs_before_reply_memory_is_reserved(toy: ToyServer, hook: Hook) -> None:
    client = toy.connect()
    sequences = client.begin_many([Produce(100_000)] * 10)
    wait_until(lambda: len(hook.entered) == 10, "the hooks")
    hook.release()
    assert [len(client.result(sequence)["data"]) for sequence in sequences] == [100_000] * 10


@pytest.mark.parametrize("refused", [False, True])
def test_stream_input_received_during_a_hook_reaches_the_handler(toy: ToyServer, hook: Hook, refused: bool) -> None:
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


def test_requests_are_carried_out_after_their_client_half_closes(toy: ToyServer, hook: Hook) -> None:
    """The same as without a hook: only streams end with their client."""
    client, other = toy.connect(), toy.connect()
    client.begin_many([Hold()] * 5)
    wait_until(lambda: len(hook.entered) == 5, "the hooks")
    client.half_close()
    hook.release()
    wait_until(lambda: toy.holding == 5, "the handlers")
    toy.release()
    assert other.call(Count()).size_bytes == 1
    assert hook.cancelled == []
