"""Many clients at once: every name and CID is given once, and exactly one of several conflicting requests succeeds."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import random
import sqlite3
import uuid

import pytest
from nexus_protocol import NexusError, decode_reply
from support.daemon import DaemonProcess
from support.raw import RawClient

from nexus.journal.commands import WatchEvents
from nexus.vms.commands import CreateVm, DeleteVm, GetVm, UpdateVm, Vm, VmNameTaken, VmNotFound

CLIENTS = 50
VMS = 200


def _create_all(daemon: DaemonProcess, names: list[str]) -> dict[str, Vm | NexusError]:
    outcome: dict[str, Vm | NexusError] = {}
    with RawClient(daemon.socket_path, timeout=120) as client:
        sequences = client.begin_many(CreateVm(name=name) for name in names)
        for name, sequence in zip(names, sequences, strict=True):
            try:
                outcome[name] = decode_reply(Vm, client.payload(sequence))
            except NexusError as error:
                outcome[name] = error
    return outcome


@pytest.mark.slow
def test_50_clients_create_200_vms_each_and_one_wins_each_shared_name(daemon: DaemonProcess) -> None:
    rng = random.Random(7)
    # Half of each client's names are its own, the other half are shared by all clients.
    wanted = []
    for number in range(CLIENTS):
        names = [f"own-{number}-{i}" for i in range(VMS // 2)] + [f"shared-{i}" for i in range(VMS // 2)]
        rng.shuffle(names)
        wanted.append(names)
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        outcomes = list(pool.map(lambda names: _create_all(daemon, names), wanted))
    winners: collections.Counter[str] = collections.Counter()
    created: list[Vm] = []
    for outcome in outcomes:
        for name, result in outcome.items():
            if isinstance(result, Vm):
                winners[name] += 1
                created.append(result)
            else:
                assert isinstance(result, VmNameTaken), result
    assert set(winners.values()) == {1}
    assert len(winners) == CLIENTS * VMS // 2 + VMS // 2
    assert len({vm.cid for vm in created}) == len({vm.id for vm in created}) == len(created)
    assert {vm.cid for vm in created} == set(range(3, 3 + len(created)))
    assert daemon.stop() == 0
    with contextlib.closing(sqlite3.connect(daemon.database)) as connection:
        rows = connection.execute("SELECT id, name, cid FROM vms").fetchall()
        assert sorted(rows) == sorted((vm.id, vm.name, vm.cid) for vm in created)
        assert connection.execute("SELECT count(*) FROM journal WHERE kind = 'vm.created'").fetchone() == (len(rows),)


def test_create_repeated_by_many_clients_makes_one_vm_and_one_event(daemon: DaemonProcess) -> None:
    request = CreateVm(name="only", vcpu_count=2, id=str(uuid.uuid4()))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(daemon.socket_path)) for _ in range(20)]
        sequences = [client.begin_many([request] * 10) for client in clients]
        replies = [client.result(s) for client, own in zip(clients, sequences, strict=True) for s in own]
        assert all(reply == replies[0] for reply in replies)
        watch = clients[0].begin(WatchEvents(follow=False))
        assert [event["kind"] for event in clients[0].items(watch)] == ["vm.created"]


def test_one_of_many_concurrent_deletes_succeeds(daemon: DaemonProcess) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(daemon.socket_path)) for _ in range(20)]
        clients[0].call(CreateVm(name="gone"))
        sequences = [client.begin(DeleteVm("gone")) for client in clients]
        winners = 0
        for client, sequence in zip(clients, sequences, strict=True):
            try:
                client.payload(sequence)
                winners += 1
            except VmNotFound:
                pass
        assert winners == 1


def test_one_of_many_concurrent_renames_to_one_name_succeeds(daemon: DaemonProcess) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(daemon.socket_path)) for _ in range(10)]
        for number, client in enumerate(clients):
            client.call(CreateVm(name=f"vm-{number}"))
        sequences = [client.begin(UpdateVm(f"vm-{number}", name="best")) for number, client in enumerate(clients)]
        winners = []
        for number, (client, sequence) in enumerate(zip(clients, sequences, strict=True)):
            try:
                client.payload(sequence)
                winners.append(number)
            except VmNameTaken:
                assert client.call(GetVm(f"vm-{number}")).name == f"vm-{number}"
        assert len(winners) == 1


def test_client_reads_what_another_client_wrote(daemon: DaemonProcess) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(daemon.socket_path)) for _ in range(4)]
        for number in range(50):
            for writer, client in enumerate(clients):
                vm = client.call(CreateVm(name=f"vm-{writer}-{number}"))
                assert clients[(writer + 1) % 4].call(GetVm(vm.name)) == vm
