"""``Client``: concurrent requests, streams, cancellation on the wire, and lost connections."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from nexus_protocol import (
    Conflict,
    FrameTooLarge,
    Internal,
    InvalidArgument,
    NexusError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from support.daemon import DaemonProcess
from support.raw import wait_until
from support.toy import Break, Deaf, Echo, Hold, Produce, Swallow, ToyServer

from nexus.client import Client, ConnectError, ConnectionFailure, ConnectionLost
from nexus.journal.commands import JournalAhead, WatchEvents
from nexus.system.commands import GetSystemStatus, Ping, SetSetting, SettingInvalid
from nexus.vms.commands import CreateVm, GetVm, ListVms, Vm, VmNameTaken, VmNotFound

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a test's coroutine with a timeout."""

    async def bounded() -> T:
        async with asyncio.timeout(60):
            return await work

    return asyncio.run(bounded())


async def until(condition: Callable[[], object]) -> None:
    """Yield to the event loop until the condition holds."""
    while True:
        if condition():
            return
        await asyncio.sleep(0.005)


def test_call_returns_the_record(daemon: DaemonProcess) -> None:
    async def main() -> None:
        async with Client(daemon.socket_path) as client:
            assert client.welcome is not None
            assert client.welcome.protocol_versions == [1]
            vm = await client.call(CreateVm(name="web"))
            assert isinstance(vm, Vm)
            assert await client.call(GetVm("web")) == vm
            assert (await client.call(ListVms())).vms == [vm]

    run(main())


def test_errors_are_raised_as_their_own_class(daemon: DaemonProcess) -> None:
    async def main() -> None:
        async with Client(daemon.socket_path) as client:
            await client.call(CreateVm(name="taken"))
            cases: list[tuple[Any, type[NexusError], type[NexusError]]] = [
                (GetVm("none"), VmNotFound, NotFound),
                (CreateVm(name="taken"), VmNameTaken, Conflict),
                (SetSetting("journal.keep_days", 0), SettingInvalid, InvalidArgument),
                (CreateVm(name="not a name"), InvalidArgument, InvalidArgument),
            ]
            for command, kind, base in cases:
                with pytest.raises(kind) as caught:
                    await client.call(command)
                assert isinstance(caught.value, base)
                assert caught.value.code == base.code
            assert (await client.call(Ping(b"on"))).payload == b"on"

    run(main())


def test_many_tasks_share_one_client(daemon: DaemonProcess) -> None:
    async def main() -> None:
        async with Client(daemon.socket_path) as client:

            async def work(number: int) -> None:
                payload = os.urandom(number % 1000)
                assert (await client.call(Ping(payload))).payload == payload
                assert (await client.call(CreateVm(name=f"vm-{number}"))).name == f"vm-{number}"

            await asyncio.gather(*(work(number) for number in range(300)))
            assert len((await client.call(ListVms())).vms) == 300

    run(main())


def test_slow_request_does_not_block_others(toy: ToyServer) -> None:
    async def main() -> None:
        async with Client(toy.path) as client:
            slow = asyncio.create_task(client.call(Hold()))
            await until(lambda: toy.holding)
            assert (await client.call(Produce(3))).data == bytes(3)
            assert not slow.done()
            toy.release()
            await slow

    run(main())


def test_cancelling_a_call_cancels_it_in_the_daemon(toy: ToyServer) -> None:
    async def main() -> None:
        async with Client(toy.path) as client:
            waiting = [asyncio.create_task(client.call(Hold())) for _ in range(5)]
            await until(lambda: toy.holding == 5)
            for task in waiting[:4]:
                task.cancel()
            await until(lambda: toy.cancelled == 4)
            assert toy.holding == 1
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await waiting[4]
            await until(lambda: toy.cancelled == 5)
            assert (await client.call(Produce(1))).data == bytes(1)

    run(main())


def test_closing_a_stream_cancels_it_in_the_daemon(daemon: DaemonProcess) -> None:
    async def main() -> None:
        async with Client(daemon.socket_path) as client:
            before = (await client.call(GetSystemStatus())).open_requests
            async with client.stream(WatchEvents()), client.stream(WatchEvents()):
                assert (await client.call(GetSystemStatus())).open_requests == before + 2
            # Closing sends a Cancel frame, and does not wait for the daemon.
            while (await client.call(GetSystemStatus())).open_requests != before:
                pass

    run(main())


def test_stream_yields_items_and_then_its_result(daemon: DaemonProcess) -> None:
    async def main() -> None:
        async with Client(daemon.socket_path, actor="agent-7") as client:
            for name in ("a", "b"):
                await client.call(CreateVm(name=name))
            async with client.stream(WatchEvents(follow=False)) as events:
                with pytest.raises(RuntimeError, match="has not ended"):
                    _ = events.result
                seen = [(event.subject_name, event.actor) async for event in events if event.kind]
                assert seen == [("a", "agent-7"), ("b", "agent-7")]
                assert events.result.seq == 2
            async with client.stream(WatchEvents(after=99)) as events:
                with pytest.raises(JournalAhead):
                    async for _ in events:
                        pass
            with pytest.raises(TypeError, match="use stream"):
                await client.call(WatchEvents())
            with pytest.raises(TypeError, match="use call"):
                client.stream(Ping())  # type: ignore[arg-type]

    run(main())


def test_slow_stream_reader_loses_no_items(daemon: DaemonProcess) -> None:
    number = 3000  # more than the queue after which the connection is no longer read

    async def main() -> None:
        async with Client(daemon.socket_path) as slow, Client(daemon.socket_path) as writer:
            async with slow.stream(WatchEvents()) as events:
                seen = aiter(events)
                await writer.call(CreateVm(name="vm-0"))
                assert (await anext(seen)).subject_name == "vm-0"
                for start in range(1, number, 60):
                    names = [f"vm-{n}" for n in range(start, min(start + 60, number))]
                    await asyncio.gather(*(writer.call(CreateVm(name=name)) for name in names))
                names = {(await anext(seen)).subject_name for _ in range(number - 1)}
                assert names == {f"vm-{n}" for n in range(1, number)}
            assert (await slow.call(Ping(b"on"))).payload == b"on"

    run(main())


def test_stream_input_is_echoed(toy: ToyServer) -> None:
    data = os.urandom(1 << 20)

    async def main() -> None:
        async with Client(toy.path) as client, client.stream(Echo()) as echo:

            async def give() -> None:
                await echo.send(data)
                await echo.send(control={"rows": 24}, eof=False)
                await echo.send(eof=True)

            giving = asyncio.create_task(give())
            items = [item async for item in echo]
            await giving
            assert b"".join(item.data for item in items if item.data is not None) == data
            assert [item.control for item in items if item.control] == [{"rows": 24}]
            assert echo.result.size_bytes == len(data)

    run(main())


def test_send_waiting_for_credit_can_be_cancelled(toy: ToyServer) -> None:
    async def main() -> None:
        async with Client(toy.path) as client:
            async with client.stream(Deaf()) as deaf:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await deaf.send(bytes(8 << 20))
            assert (await client.call(Produce(1))).data == bytes(1)

    run(main())


def test_large_requests_and_replies_fit(toy: ToyServer) -> None:
    async def main() -> None:
        async with Client(toy.path) as client:
            sizes = await asyncio.gather(*(client.call(Swallow(bytes(2 << 20))) for _ in range(4)))
            assert {size.size_bytes for size in sizes} == {2 << 20}
            assert len((await client.call(Produce(8 << 20))).data) == 8 << 20
            with pytest.raises(Internal):
                await client.call(Break())

    run(main())


def test_missing_daemon_raises_connect_error(root: Path) -> None:
    async def main() -> None:
        client = Client(root / "none.sock")
        with pytest.raises(ConnectError, match="cannot connect to Nexus daemon at"):
            await client.connect()
        with pytest.raises(ConnectError, match="not connected"):
            await client.call(Ping())
        with pytest.raises(ConnectError, match="too long"):
            await Client("/" + "x" * 200).connect()

    run(main())


def test_killed_daemon_fails_every_call_and_stream(daemon: DaemonProcess) -> None:
    async def main() -> None:
        client = Client(daemon.socket_path)
        await client.connect()
        stream = client.stream(WatchEvents())
        seen = asyncio.ensure_future(anext(aiter(stream)))
        await client.call(Ping())
        daemon.signal(signal.SIGSTOP)
        calls = [asyncio.create_task(client.call(ListVms())) for _ in range(10)]
        await asyncio.sleep(0)
        daemon.kill()
        results = await asyncio.gather(*calls, seen, return_exceptions=True)
        assert [type(result) for result in results] == [ConnectionLost] * 11
        with pytest.raises(ConnectionFailure):
            await client.call(Ping())
        with pytest.raises(ConnectionFailure):
            client.stream(WatchEvents())
        daemon.start()
        with pytest.raises(ConnectionFailure):
            await client.call(Ping())  # the client does not reconnect on its own
        await client.connect()
        assert (await client.call(Ping(b"again"))).payload == b"again"
        await client.close()

    run(main())


def test_stopping_daemon_says_where_a_stream_resumes(daemon: DaemonProcess) -> None:
    async def main() -> None:
        async with Client(daemon.socket_path) as client:
            await client.call(CreateVm(name="a"))
            seen = aiter(client.stream(WatchEvents()))
            assert (await anext(seen)).seq == 1
            daemon.signal(signal.SIGTERM)
            with pytest.raises(Unavailable) as caught:
                await anext(seen)
            assert caught.value.details["resume_after"] == 1

    run(main())


def test_error_frame_before_close_is_raised(make_toy: Callable[..., ToyServer]) -> None:
    toy = make_toy(connections=1)

    async def main() -> None:
        async with Client(toy.path):
            with pytest.raises(ResourceExhausted, match="more than 1 connections"):
                await Client(toy.path).connect()
        await until(lambda: toy.server.connections() == 0)
        async with Client(toy.path) as client:
            assert (await client.call(Produce(2))).data == bytes(2)

    run(main())


def test_error_frame_is_read_after_epipe(make_toy: Callable[..., ToyServer]) -> None:
    toy = make_toy(max_frame_payload_bytes=64 * 1024)

    async def main() -> None:
        for _ in range(20):
            async with Client(toy.path) as client:
                with pytest.raises(FrameTooLarge):
                    await client.call(Swallow(bytes(8 << 20)))  # refused when its header is read
                with pytest.raises(ConnectionFailure):
                    await client.call(Produce(1))

    run(main())


def test_unread_error_frame_is_raised_when_a_write_fails(toy: ToyServer) -> None:
    async def main() -> None:
        async with Client(toy.path) as client:
            (session,) = toy.server._sessions
            toy.loop.call_soon_threadsafe(session.fail, ResourceExhausted("enough of you"))
            # Without yielding to our own loop, so that the write comes before any read.
            wait_until(lambda: toy.server.connections() == 0, "the end of the connection")
            with pytest.raises(ResourceExhausted, match="enough of you"):
                await client.call(Produce(1))
            with pytest.raises(ResourceExhausted, match="enough of you"):
                await client.call(Produce(1))

    run(main())


def test_closing_fails_open_requests(toy: ToyServer) -> None:
    async def main() -> None:
        client = Client(toy.path)
        await client.connect()
        call = asyncio.create_task(client.call(Hold()))
        seen = asyncio.ensure_future(anext(aiter(client.stream(Echo()))))
        await until(lambda: toy.holding)
        await client.close()
        assert [type(r) for r in await asyncio.gather(call, seen, return_exceptions=True)] == [ConnectionLost] * 2
        await until(lambda: not toy.holding)

    run(main())


def test_two_readers_of_one_stream_share_its_items(toy: ToyServer) -> None:
    async def main() -> None:
        async with Client(toy.path) as client, client.stream(Echo()) as echo:
            readers = [asyncio.ensure_future(anext(aiter(echo))) for _ in range(2)]
            await echo.send(b"a")
            await echo.send(b"b")
            done = await asyncio.gather(*readers)
            assert {item.data for item in done} == {b"a", b"b"}

    run(main())
