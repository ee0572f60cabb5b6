"""Requests that are repeated under their key have one effect: at once, after errors, kills and restarts."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from msgspec import Raw
from nexus_protocol import Command, NexusError, decode_map, encode_frame
from nexus_protocol.codec import encode_command
from nexus_protocol.context import encode_context
from support.daemon import DaemonProcess
from support.live_services import Services
from support.raw import RawClient, connect, wait_until
from support.stores import contents

from nexus.journal.commands import GetOperation, ListOperations, WatchEvents
from nexus.services.commands import (
    AddService,
    RemoveService,
    RestartService,
    StartService,
    StopService,
    UpdateService,
)
from nexus.system.commands import BackupDatabase, Batch, BatchedCommand, SetSetting
from nexus.vms.commands import CreateVm, DeleteVm, ListVms, UpdateVm


@pytest.fixture
def client(daemon: DaemonProcess) -> Iterator[RawClient]:
    """A client of a daemon without records."""
    with connect(daemon) as client:
        yield client


@pytest.fixture
def services(daemon: DaemonProcess) -> Iterator[Services]:
    """The services of a daemon without records."""
    services = Services(daemon)
    yield services
    services.close()


def keyed(client: RawClient, key: str, command: Command[Any]) -> Any:
    """Send a request under a key; returns its reply, or the error."""
    return outcome(client, client.begin(command, encode_context(key=key)))


def outcome(client: RawClient, sequence: int) -> Any:
    """The reply of a request, or its error."""
    try:
        return decode_map(client.payload(sequence))
    except NexusError as error:
        return error


def kinds(client: RawClient) -> list[str]:
    return [item["kind"] for item in client.items(client.begin(WatchEvents(follow=False)))]


def operations_of(client: RawClient, key: str) -> list[int]:
    return [each.id for each in client.call(ListOperations()).operations if each.key == key]


def test_change_is_made_once_and_answered_twice(client: RawClient, daemon: DaemonProcess) -> None:
    first = keyed(client, "k", CreateVm("a"))
    assert keyed(client, "k", CreateVm("a")) == first
    client.call(UpdateVm("a", mem_size_mib=512))
    assert keyed(client, "k", CreateVm("a", vcpu_count=1)) == first, "a field at its default is the same request"
    daemon.stop()
    daemon.start()
    with connect(daemon) as again:
        assert keyed(again, "k", CreateVm("a")) == first
        assert [vm.name for vm in again.call(ListVms()).vms] == ["a"]
        assert kinds(again) == ["vm.created", "vm.updated"]
        assert len(operations_of(again, "k")) == 1


def test_other_request_under_the_key_is_refused(client: RawClient) -> None:
    made = keyed(client, "k", CreateVm("a"))
    (operation,) = operations_of(client, "k")
    for command in (CreateVm("b"), CreateVm("a", mem_size_mib=129), DeleteVm("a"), UpdateVm("a", name="b")):
        error = keyed(client, "k", command)
        assert (error.code, error.type) == ("conflict", "request.key_reused")
        assert error.details == {"key": "k", "operation": operation}
        assert f"nexusctl op show {operation}" in error.hint
    assert keyed(client, "k", CreateVm("a")) == made
    assert [vm.name for vm in client.call(ListVms()).vms] == ["a"]


def test_request_that_differs_in_a_secret_alone_is_another_one(client: RawClient) -> None:
    keyed(client, "s", SetSetting("token", "one"))
    keyed(client, "e", AddService("a", environment={"TOKEN": "one"}))
    for key, other in (
        ("s", SetSetting("token", "two")),
        ("e", AddService("a", environment={"TOKEN": "two"})),
        ("e", AddService("a", environment={"TOKEN": "one"}, run_command="x")),
    ):
        assert keyed(client, key, other).type == "request.key_reused"


def test_reply_with_secrets_is_not_kept_and_the_operation_is_named(client: RawClient) -> None:
    keyed(client, "s", SetSetting("token", "one"))
    keyed(client, "r", AddService("a", run_command="run --token one"))
    kept = keyed(client, "e", AddService("b", environment={"TOKEN": "one"}))
    assert keyed(client, "e", AddService("b", environment={"TOKEN": "one"})) == kept, "the reply has the name alone"
    for key, command in (("s", SetSetting("token", "one")), ("r", AddService("a", run_command="run --token one"))):
        error = keyed(client, key, command)
        assert (error.code, error.type) == ("failed_precondition", "request.reply_gone")
        assert client.call(GetOperation(error.details["operation"])).operation.key == key
    assert kinds(client) == ["setting.set", "service.added", "service.added"]


def test_error_is_not_remembered(client: RawClient) -> None:
    client.call(CreateVm("a"))
    for _ in range(2):
        assert keyed(client, "k", CreateVm("a")).type == "vm.name_taken"
    assert operations_of(client, "k") == []
    client.call(DeleteVm("a"))
    made = keyed(client, "k", CreateVm("a"))
    assert keyed(client, "k", CreateVm("a")) == made


def test_request_that_changes_nothing_keeps_its_reply(client: RawClient) -> None:
    client.call(CreateVm("a"))
    first = keyed(client, "k", UpdateVm("a", mem_size_mib=128))
    client.call(UpdateVm("a", mem_size_mib=256))
    assert keyed(client, "k", UpdateVm("a", mem_size_mib=128)) == first
    (operation,) = operations_of(client, "k")
    detail = client.call(GetOperation(operation))
    assert (detail.operation.command, detail.operation.args, detail.changes) == (
        "UpdateVm",
        {"vm": "a", "mem_size_mib": 128},
        [],
    )


def test_batch_has_one_key_and_its_encoding_does_not_matter(client: RawClient, daemon: DaemonProcess) -> None:
    def batch(*payloads: dict[str, Any]) -> Batch:
        return Batch([BatchedCommand(CreateVm.info.code, Raw(msgpack.packb(each))) for each in payloads])

    first = keyed(client, "k", batch({"name": "a", "mem_size_mib": 64}, {"name": "b"}))
    assert keyed(client, "k", batch({"mem_size_mib": 64, "name": "a"}, {"name": "b", "vcpu_count": 1})) == first
    assert keyed(client, "k", batch({"name": "a", "mem_size_mib": 64})).type == "request.key_reused"
    assert {vm.name for vm in client.call(ListVms()).vms} == {"a", "b"}
    (operation,) = operations_of(client, "k")
    assert client.call(GetOperation(operation)).operation.args == {"commands": {"CreateVm": 2}}
    large = [SetSetting(f"s{number}", "x" * 15_000) for number in range(2)]
    assert "results" in keyed(client, "secret", Batch.of(large))
    assert keyed(client, "secret", Batch.of(large)).type == "request.reply_gone"


def test_same_key_from_many_clients_at_once_has_one_effect(daemon: DaemonProcess) -> None:
    replies: list[Any] = []
    barrier = threading.Barrier(8)

    def send() -> None:
        with connect(daemon) as own:
            barrier.wait(30)
            replies.append(keyed(own, "k", CreateVm("a")))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(replies) == 8
    assert all(reply == replies[0] for reply in replies)
    with connect(daemon) as client:
        assert kinds(client) == ["vm.created"]


def test_start_that_waits_is_waited_for_by_its_repetition(services: Services, root: Path) -> None:
    ready = root / "ready"
    services.add("web", f"touch {root}/begun; sleep 1000", health_exec=f"test -e {ready}", health_interval_ms=100)
    start = StartService("web", wait=True)
    with connect(services.daemon) as other, connect(services.daemon) as third:
        sequences = [(each, each.begin(start, encode_context(key="k"))) for each in (services.client, other)]
        wait_until((root / "begun").exists, "the process")
        error = keyed(third, "k", StartService("web"))
        assert error.type == "request.key_reused"
        ready.touch()
        replies = [outcome(each, sequence) for each, sequence in sequences]
        again = keyed(third, "k", start)
    assert replies[0]["started"] == ["web"]
    assert replies[1] == replies[0]
    assert again.type == "request.reply_gone", "the record has its run command, which is not kept"
    assert services.kinds("web") == ["added", "starting", "started", "healthy"]


def test_stop_and_backup_are_answered_with_the_first_reply(services: Services, root: Path) -> None:
    services.client.call(AddService("web", run_command=None))
    stopped = keyed(services.client, "stop", StopService("web"))
    assert keyed(services.client, "stop", StopService("web")) == stopped
    copy = root / "copy.db"
    backed_up = keyed(services.client, "backup", BackupDatabase(str(copy)))
    copy.unlink()
    assert keyed(services.client, "backup", BackupDatabase(str(copy))) == backed_up
    assert not copy.exists()


def test_act_whose_end_no_daemon_saw_is_repeated_or_refused_as_it_declares(services: Services) -> None:
    services.add("web", start_window_ms=60_000)
    services.client.begin(StartService("web"), encode_context(key="start"))
    services.wait_event("web", "starting")
    services.kill_daemon()
    (first,) = operations_of(services.client, "start")
    again = services.client.begin(StartService("web"), encode_context(key="start"))
    wait_until(lambda: services.status("web").service.pid is not None, "the process")
    pid = services.status("web").service.pid
    services.client.call(StopService("web"))
    with pytest.raises(NexusError, match="stopped meanwhile"):
        services.client.payload(again)
    assert pid is not None
    services.update("web", start_window_ms=20)
    services.start("web")

    services.update("web", start_window_ms=60_000)
    services.client.begin(RestartService("web"), encode_context(key="restart"))
    wait_until(lambda: services.kinds("web").count("stopping") == 2, "the restart")
    wait_until(lambda: services.kinds("web")[-1] == "starting", "the second process")
    services.kill_daemon()
    for _ in range(2):
        error = keyed(services.client, "restart", RestartService("web"))
        assert (error.code, error.type) == ("unavailable", "request.outcome_unknown")
        detail = services.client.call(GetOperation(error.details["operation"]))
        assert detail.operation.command == "RestartService"
        assert [change.kind for change in detail.changes][:2] == ["service.stopping", "service.starting"]
    assert first in [each.id for each in services.client.call(ListOperations(subject="web")).operations]


def test_act_that_failed_is_carried_out_again(services: Services, root: Path) -> None:
    services.add("web", f"test -e {root}/ok && exec sleep 1000", start_window_ms=60_000)
    for _ in range(2):
        assert keyed(services.client, "k", StartService("web")).type == "service.start_failed"
    (root / "ok").touch()
    services.update("web", start_window_ms=20)
    assert keyed(services.client, "k", StartService("web"))["started"] == ["web"]
    assert keyed(services.client, "k", StartService("web")).type == "request.reply_gone"
    assert keyed(services.client, "r", RemoveService("web")).type == "service.running"
    removed = keyed(services.client, "r", RemoveService("web", stop=True))
    assert removed["name"] == "web"
    assert keyed(services.client, "r", RemoveService("web", stop=True)).type == "request.reply_gone"


def test_update_under_a_key_after_a_kill_has_one_effect(make_daemon: Callable[..., DaemonProcess]) -> None:
    """A kill at any moment between the request, its commit and its reply."""
    daemon = make_daemon()
    daemon.start()
    with connect(daemon) as client:
        client.call(AddService("web"))
    chance = random.Random(7)
    for number in range(12):
        command: Command[Any] = (
            CreateVm(f"vm-{number}") if number % 2 else UpdateService("web", tags=[f"t{number}"], port=number)
        )
        key = f"k{number}"
        with connect(daemon) as client:
            client.send_bytes(
                encode_frame(command.info.code, 9, encode_context(key=key) + encode_command(command), flags=1)
            )
            threading.Event().wait(chance.random() * 0.003)
            daemon.kill()
        daemon.start()
        with connect(daemon) as client:
            first = keyed(client, key, command)
            assert keyed(client, key, command) == first
            assert len(operations_of(client, key)) == 1
    daemon.stop()
    journal = contents(daemon.database)["journal"]
    assert [row["subject_name"] for row in journal if row["kind"] == "vm.created"] == [
        f"vm-{number}" for number in range(1, 12, 2)
    ]
    assert len([row for row in journal if row["kind"] == "service.updated"]) == 6
