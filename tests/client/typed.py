"""Types that a type checker infers for the clients. A test checks this file with mypy; it is never run."""

from __future__ import annotations

from typing import Any, assert_type

from nexus.client import BlockingClient, Client
from nexus.journal.commands import Event, WatchEvents, WatchEventsResult
from nexus.system.commands import Health, HealthReport, Ping, Pong
from nexus.vms.commands import CreateVm, ListVms, Vm, VmPage


async def in_asyncio(client: Client) -> None:
    assert_type(await client.call(CreateVm(name="web")), Vm)
    assert_type(await client.call(ListVms()), VmPage)
    assert_type(await client.call(ListVms(), why="w"), VmPage)
    assert_type(await client.call(CreateVm(name="b"), why="w", key="k"), Vm)
    assert_type((await client.call(ListVms())).vms, list[Vm])
    assert_type(await client.call(Ping()), Pong)
    assert_type(await client.request(42), bytes)
    async with client.stream(WatchEvents()) as events:
        async for event in events:
            assert_type(event, Event)
        assert_type(events.result, WatchEventsResult)


def blocking(client: BlockingClient) -> None:
    assert_type(client.call(CreateVm(name="web")), Vm)
    assert_type(client.call(ListVms()), VmPage)
    assert_type(client.call(CreateVm(name="b"), why="w", key="k"), Vm)
    assert_type(client.call(Health(), timeout_s=1), HealthReport)
    assert_type(client.call_raw(Health()), dict[str, Any])
    with client.stream(WatchEvents()) as events:
        for event in events:
            assert_type(event, Event)
        assert_type(events.result, WatchEventsResult)


def refused(client: BlockingClient) -> None:
    client.call("CreateVm")  # type: ignore[arg-type]
    client.stream(Ping())  # type: ignore[arg-type]
    CreateVm(nam="web")  # type: ignore[call-arg]
    CreateVm(name=3)  # type: ignore[arg-type]
