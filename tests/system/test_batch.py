"""Several changes in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import Raw
from nexus_protocol import Command, InvalidArgument, NexusError, ResourceExhausted, UnknownCommand, encode_command
from support.daemon import DaemonProcess
from support.plugins import PluginFolder
from support.raw import RawClient, pack

from nexus.client import BlockingClient, Client
from nexus.journal.commands import WatchEvents
from nexus.plugins.commands import PluginVetoed
from nexus.services.commands import (
    AddDependency,
    AddService,
    GetServiceStatus,
    ListServices,
    RemoveService,
    StartService,
    UpdateConfig,
    UpdateService,
)
from nexus.services.errors import ServiceNotFound
from nexus.system.commands import (
    Batch,
    BatchedCommand,
    DeleteSetting,
    GetSetting,
    GetSystemStatus,
    ListSettings,
    Ping,
    SetSetting,
)
from nexus.vms.commands import CreateVm, DeleteVm, GetVm, ListVms, UpdateVm, Vm, VmNameTaken, VmNotFound


@pytest.fixture
def client(shared: DaemonProcess) -> Iterator[RawClient]:
    """A connection to the shared daemon, which has no records before and after."""
    with RawClient(shared.socket_path) as client:
        yield client
        for vm in client.call(ListVms()).vms:
            client.call(DeleteVm(vm.id))
        for setting in client.call(ListSettings()).settings:
            if setting.is_set:
                client.call(DeleteSetting(setting.key))


def refused(client: RawClient, *commands: Command[object]) -> NexusError:
    error = client.call_error(Batch.of(commands))
    assert client.call(ListVms()).vms == []
    return error


def test_batch_gives_the_reply_of_each_command(client: RawClient) -> None:
    done = client.call(Batch.of([CreateVm("a"), SetSetting("a.b", [1]), CreateVm("b", vcpu_count=2)]))
    assert [result["name"] for result in done.results if "name" in result] == ["a", "b"]
    assert done.results[1]["value"] == [1]
    assert client.call(GetVm("b")).vcpu_count == 2
    assert client.call(GetSetting("a.b")).value == [1]


def test_command_of_a_batch_sees_what_earlier_ones_changed(client: RawClient) -> None:
    done = client.call(Batch.of([CreateVm("a"), UpdateVm("a", name="b"), CreateVm("a"), DeleteVm("b")]))
    assert [result["name"] for result in done.results] == ["a", "b", "a", "b"]
    assert [vm.name for vm in client.call(ListVms()).vms] == ["a"]
    stream = client.begin(WatchEvents(kinds=["vm.*"], follow=False))
    events = [event["kind"] for event in client.items(stream) if "kind" in event]
    assert events[-4:] == ["vm.created", "vm.updated", "vm.created", "vm.deleted"]


def test_error_of_one_command_undoes_the_whole_batch(client: RawClient) -> None:
    error = refused(client, CreateVm("a"), CreateVm("b"), CreateVm("a"), CreateVm("c"))
    assert isinstance(error, VmNameTaken)
    assert error.details["index"] == 2
    assert error.details["name"] == "a"
    assert error.message == 'cannot create VM "a": VM name "a" already exists (command 3 of 4 in the batch)'
    assert isinstance(refused(client, CreateVm("a"), DeleteVm("nothing")), VmNotFound)


def test_batch_of_one_command_has_its_plain_error(client: RawClient) -> None:
    error = refused(client, DeleteVm("nothing"))
    assert (error.message, error.details["index"]) == ('VM "nothing" not found', 0)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (Ping(), "cannot carry out Ping in a batch: its effect is read"),
        (StartService("web"), "cannot carry out StartService in a batch: its effect is act"),
        (WatchEvents(), "cannot carry out WatchEvents in a batch: its effect is read"),
        (Batch.of([CreateVm("b")]), "cannot carry out Batch in a batch: a batch cannot be a part of another"),
    ],
)
def test_only_changes_can_be_in_a_batch(client: RawClient, command: Command[object], reason: str) -> None:
    error = refused(client, CreateVm("a"), command)
    assert isinstance(error, InvalidArgument)
    assert error.message == f"{reason} (command 2 of 2 in the batch)"
    assert error.details == {"path": "code", "index": 1}


def test_unknown_code_in_a_batch_is_told(client: RawClient) -> None:
    commands = [BatchedCommand(256, Raw(pack({"name": "a"}))), BatchedCommand(9999, Raw(b"\x80"))]
    error = client.call_error(Batch(commands))
    assert isinstance(error, UnknownCommand)
    assert error.details == {"index": 1}
    assert client.call(ListVms()).vms == []


def test_commands_of_a_batch_are_decoded_strictly(client: RawClient) -> None:
    for payload, path in (({"name": "a", "colour": 1}, "colour"), ({"name": ""}, "name"), ({}, "name"), ([1], "")):
        error = client.call_error(Batch([BatchedCommand(256, Raw(pack(payload)))]))
        assert isinstance(error, InvalidArgument)
        assert (error.details["path"], error.details["index"]) == (path, 0)


def test_each_payload_of_a_batch_is_within_its_own_limit(client: RawClient) -> None:
    error = refused(client, CreateVm("a"), SetSetting("a.b", "x" * 60_000))
    assert isinstance(error, InvalidArgument)
    assert error.details == {"path": "payload", "limit": 16_384, "index": 1}


@pytest.mark.parametrize("count", [0, 1001])
def test_batch_has_1_to_1000_commands(client: RawClient, count: int) -> None:
    error = client.call_error(Batch.of(CreateVm(f"vm-{number}") for number in range(count)))
    assert isinstance(error, InvalidArgument)
    assert error.details["path"] == "commands"


def test_batch_with_unknown_fields_or_without_a_payload_is_refused(client: RawClient) -> None:
    for item in ({"code": 256}, {"code": 256, "payload": {"name": "a"}, "more": 1}, {"payload": {}}, 256):
        assert isinstance(client.error(client.begin_raw(54, pack({"commands": [item]}))), InvalidArgument)


def test_batch_whose_replies_exceed_a_frame_changes_nothing(client: RawClient) -> None:
    client.call(AddService("huge", run_command=["x" * 16_000] * 60))
    error = client.call_error(Batch.of(UpdateService("huge", start_window_ms=number) for number in range(1, 101)))
    assert isinstance(error, ResourceExhausted)
    assert error.details["index"] == 17
    service = client.call(GetServiceStatus("huge")).service
    assert (service.revision, service.start_window_ms) == (1, 1000)
    assert len(client.call(Batch.of(UpdateService("huge", start_window_ms=number) for number in range(1, 17))).results)
    client.call(RemoveService("huge"))


@pytest.mark.parametrize("last", [DeleteVm("nothing"), DeleteVm("")], ids=["refused", "invalid"])
def test_failed_batches_are_not_kept_in_memory(client: RawClient, last: Command[object]) -> None:
    commands = [SetSetting(f"a.{number}", "x" * 16_300) for number in range(999)]
    payload = encode_command(Batch.of([*commands, last]))
    assert len(payload) > 15 * 1024 * 1024

    def fail(times: int) -> int:
        for _ in range(times):
            assert client.error(client.begin_raw(54, payload)).details["index"] == 999
        return client.call(GetSystemStatus()).memory_rss_bytes

    first = fail(3)
    assert fail(20) - first < 8 * len(payload)


def test_services_of_a_batch_are_known_to_the_supervisor(client: RawClient) -> None:
    client.call(
        Batch.of(
            [
                AddService("db", run_command=["sleep", "100"], start_window_ms=0),
                AddService("web", run_command=["sleep", "100"], start_window_ms=0),
                AddDependency("web", "db"),
                UpdateConfig("web", run_command=["sleep", "200"]),
            ]
        )
    )
    assert client.call(StartService("web")).service.state == "running"
    assert [service.state for service in client.call(ListServices()).services] == ["running", "running"]


def test_batch_of_both_clients_gives_records(shared: DaemonProcess, client: RawClient) -> None:
    with BlockingClient(shared.socket_path) as blocking:
        first, setting = blocking.batch([CreateVm("a"), SetSetting("a.b", 1)])
        assert isinstance(first, Vm)
        assert setting.value == 1
        with pytest.raises(ServiceNotFound) as raised:
            blocking.batch([CreateVm("b"), UpdateConfig("nothing", run_command="true")])
        assert raised.value.details["index"] == 1

    async def scenario() -> None:
        async with Client(shared.socket_path) as nexus:
            (vm,) = await nexus.batch([UpdateVm("a", vcpu_count=3)])
            assert vm.vcpu_count == 3

    asyncio.run(scenario())
    assert [vm.name for vm in client.call(ListVms()).vms] == ["a"]


def test_plugin_that_refuses_one_command_stops_the_batch(root: Path, make_daemon: Callable[..., DaemonProcess]) -> None:
    PluginFolder(root / "config" / "nexus" / "plugins").python(
        "guard",
        """
    @hookimpl
    def pre_command(command, fields, origin):
        assert command != "Batch"
        if fields.get("name") == "forbidden":
            return Veto("not that one")
    """,
    )
    daemon = make_daemon().start()
    with RawClient(daemon.socket_path) as client:
        error = refused(client, *(CreateVm(f"vm-{number}") for number in range(99)), CreateVm("forbidden"))
        assert isinstance(error, PluginVetoed)
        assert error.details["index"] == 99
        assert len(client.call(Batch.of([CreateVm("a"), CreateVm("b")])).results) == 2
