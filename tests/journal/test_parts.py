"""An operation that is made of several requests: begun by its own command, and named as their cause."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from nexus_protocol.context import ProjectRoot
from nexus_protocol.errors import InvalidArgument, NexusError
from support.daemon import DaemonProcess

from nexus.client import BlockingClient, Client
from nexus.journal.commands import BeginOperation, GetOperation, ListOperations
from nexus.projects.commands import CreateProject
from nexus.services.commands import AddService, StopService
from nexus.system.commands import Batch, Ping, SetSetting
from nexus.vms.commands import CreateVm, ListVms


@pytest.fixture
def client(daemon: DaemonProcess) -> Iterator[BlockingClient]:
    with BlockingClient(daemon.socket_path, project="default") as connected:
        yield connected


def commands(client: BlockingClient, **filters: object) -> list[str]:
    return [one.command for one in client.call(ListOperations(**filters)).operations]  # type: ignore[arg-type]


def test_parts_are_listed_under_the_whole(client: BlockingClient) -> None:
    begun = client.call(BeginOperation("apply", {"file": "nexus.toml", "prune": True}), why="a try").operation
    client.call(CreateVm("box"), cause=begun)
    client.batch([AddService("api"), SetSetting("k", 1)], cause=begun)
    client.call(CreateVm("other"))
    assert commands(client) == ["CreateVm", "apply"]
    assert commands(client, parts=True) == ["CreateVm", "Batch", "CreateVm", "apply"]
    assert commands(client, command="Batch") == ["Batch"]
    assert commands(client, subject="box") == ["CreateVm"]
    detail = client.call(GetOperation(begun))
    assert (detail.operation.args, detail.operation.why) == ({"file": "nexus.toml", "prune": True}, "a try")
    assert [one.command for one in detail.caused] == ["CreateVm", "Batch"]
    assert detail.operation.subjects == ["box", "api", "k"]
    assert (detail.changes, detail.cause) == ([], None)
    part = client.call(GetOperation(detail.caused[0].id))
    assert part.cause is not None
    assert part.cause.id == part.operation.cause == begun


def test_both_clients_send_the_cause(daemon: DaemonProcess) -> None:
    async def run() -> None:
        async with Client(daemon.socket_path) as client:
            begun = (await client.call(BeginOperation("work"))).operation
            await client.call(CreateVm("one"), cause=begun)
            await client.batch([CreateVm("two"), CreateVm("three")], cause=begun)
            detail = await client.call(GetOperation(begun))
            assert [one.command for one in detail.caused] == ["CreateVm", "Batch"]

    asyncio.run(run())


def test_calls_have_the_cause_each(client: BlockingClient) -> None:
    begun = client.call(BeginOperation("work")).operation
    for _index, reply in client.calls([CreateVm("one"), CreateVm("two")], cause=begun):
        assert not isinstance(reply, NexusError)
    assert len(client.call(GetOperation(begun)).caused) == 2


def test_whole_is_of_the_project_of_its_first_part(client: BlockingClient) -> None:
    begun = client.call(BeginOperation("apply"), project=ProjectRoot("/none")).operation
    assert client.call(GetOperation(begun)).operation.project is None
    project = client.call(CreateProject("shop"), cause=begun)
    other = client.call(CreateProject("other"))
    client.call(CreateVm("box"), cause=begun, project=other.id)
    operation = client.call(GetOperation(begun)).operation
    assert (operation.project_id, operation.project) == (project.id, "shop")
    named = client.call(BeginOperation("apply"), project="shop").operation
    client.call(CreateVm("box2"), cause=named, project=other.id)
    assert client.call(GetOperation(named)).operation.project == "shop"


@pytest.mark.parametrize(
    "name", ["CreateVm", "Batch", "BeginOperation", "process.exited", "retention", "", "a b", "1a"]
)
def test_name_of_a_command_or_a_cause_is_refused(client: BlockingClient, name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.call(BeginOperation(name))
    assert caught.value.details["path"] == "command"
    assert commands(client) == []


def test_cause_that_is_no_operation_is_refused(client: BlockingClient) -> None:
    for command in (CreateVm("box"), StopService("none"), Batch.of([CreateVm("box")])):
        with pytest.raises(InvalidArgument) as caught:
            client.call(command, cause=999)
        assert caught.value.details == {"path": "context.cause"}
        assert caught.value.message == "cannot accept context.cause: operation 999 not found"
    assert client.call(ListVms()).vms == []
    for wrong in (0, -1, 2**63, True, 1.5):
        with pytest.raises(InvalidArgument):
            client.call(CreateVm("box"), cause=wrong)  # type: ignore[arg-type]


def test_what_changes_nothing_has_no_cause(client: BlockingClient) -> None:
    begun = client.call(BeginOperation("work")).operation
    with pytest.raises(InvalidArgument) as caught:
        client.call(Ping(), cause=begun)
    assert caught.value.details == {"path": "context.cause"}


def test_batch_begins_no_operation(client: BlockingClient) -> None:
    with pytest.raises(InvalidArgument, match="in a batch"):
        client.batch([BeginOperation("work"), CreateVm("box")])
    assert client.call(ListVms()).vms == []
    assert commands(client) == []


def test_whole_under_a_key_is_begun_once(client: BlockingClient) -> None:
    first, second = (client.call(BeginOperation("work", {"n": 1}), key="k").operation for _ in range(2))
    assert first == second
    inner = client.call(BeginOperation("inner"), cause=first).operation
    client.call(CreateVm("box"), cause=inner)
    assert commands(client) == ["work"]
    assert [one.id for one in client.call(GetOperation(first)).caused] == [inner]
