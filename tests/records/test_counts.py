"""The numbers of records by state, as GetSystemStatus tells them without counting."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from nexus_protocol import NexusError
from support.daemon import DaemonProcess
from support.raw import wait_until
from support.stores import Gate, look_at, make_store, running

from nexus.client import BlockingClient
from nexus.services.commands import AddService, RemoveService, StartService, StopService
from nexus.store import Reader, StoreConflict, Transaction
from nexus.store.base import OutcomeUnknown
from nexus.store.writer import _Job
from nexus.system.commands import GetSystemStatus
from nexus.vms.commands import CreateVm, DeleteVm


@pytest.fixture
def nexus(daemon: DaemonProcess) -> Iterator[BlockingClient]:
    """A client of a daemon without records."""
    with BlockingClient(daemon.socket_path) as client:
        yield client


def told(nexus: BlockingClient) -> dict[str, dict[str, int]]:
    return nexus.call(GetSystemStatus()).counts


def counted(daemon: DaemonProcess) -> dict[str, dict[str, int]]:
    with look_at(daemon.database) as database:
        return {
            "services": dict(database.execute("SELECT status, count(*) FROM service GROUP BY status")),
            "jobs": dict(database.execute("SELECT status, count(*) FROM jobs GROUP BY status")),
            "vms": dict(database.execute("SELECT state, count(*) FROM vms GROUP BY state")),
        }


def test_counts_follow_every_change(daemon: DaemonProcess, nexus: BlockingClient) -> None:
    assert told(nexus) == {"services": {}, "jobs": {}, "vms": {}}
    nexus.batch([CreateVm(f"vm-{number}") for number in range(20)])
    with pytest.raises(NexusError):
        nexus.batch([CreateVm("more"), CreateVm("vm-3")])
    nexus.call(DeleteVm("vm-7"))
    for name, program, window_ms in (("web", "exec sleep 100", 100), ("bad", "exit 3", 60_000), ("idle", "true", 100)):
        nexus.call(AddService(name, run_command=program, start_window_ms=window_ms))
    nexus.call(StartService("web"))
    with pytest.raises(NexusError):
        nexus.call(StartService("bad"))
    wait_until(lambda: counted(daemon)["services"].get("failed") == 1, "the failure")
    assert told(nexus) == {"services": {"running": 1, "failed": 1, "stopped": 1}, "jobs": {}, "vms": {"created": 19}}
    assert told(nexus) == counted(daemon)
    nexus.call(StopService("web"))
    nexus.call(RemoveService("idle"))
    assert told(nexus) == counted(daemon)
    assert told(nexus) == {"services": {"stopped": 1, "failed": 1}, "jobs": {}, "vms": {"created": 19}}


def test_counts_are_right_while_clients_write(daemon: DaemonProcess, nexus: BlockingClient) -> None:
    def work(number: int) -> None:
        chance = random.Random(number)
        mine: list[str] = []
        with BlockingClient(daemon.socket_path) as client:
            for step in range(120):
                if mine and chance.random() < 0.4:
                    client.call(DeleteVm(mine.pop()))
                else:
                    mine.append(client.call(CreateVm(f"w{number}-{step}")).id)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert set(told(nexus)["vms"]) <= {"created"}  # counted for the first time in the middle of the writes
    for thread in threads:
        thread.join()
    assert told(nexus) == counted(daemon)


def test_writes_of_one_group_are_counted_once(root: Path) -> None:
    """The count is made among other writes of one commit, some before it and some after it."""

    def add(tx: Transaction) -> None:
        (number,) = tx.all("SELECT count(*) FROM settings")[0]
        tx.execute("INSERT INTO settings (key, value, type) VALUES (?, '1', 'int')", (f"key{number}",))
        tx.count("setting", "set", 1)

    def fail(tx: Transaction) -> None:
        tx.count("setting", "set", 100)
        raise StoreConflict("refused")

    def count(reader: Reader) -> dict[str, int]:
        return {"set": reader.all("SELECT count(*) FROM settings")[0][0]}

    async def scenario() -> None:
        async with running(make_store(root)) as store:
            gate = Gate()
            writes = [asyncio.create_task(store.write(gate))]
            await gate.entered()
            writes += [asyncio.create_task(store.write(add)) for _ in range(3)]
            writes.append(asyncio.create_task(store.write(fail)))
            counts = asyncio.create_task(store.counted("setting", count))
            writes += [asyncio.create_task(store.write(add)) for _ in range(2)]
            await asyncio.sleep(0)  # each task has queued its write
            gate.open()
            await asyncio.gather(*writes, counts, return_exceptions=True)
            assert await store.counted("setting", count) == {"set": 5} == store.read(count)

    asyncio.run(scenario())


def test_counts_forgotten_while_they_are_made_are_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fails right behind the count, in the same turn of the event loop."""

    async def scenario() -> None:
        async with running(make_store(root)) as store:
            deliver = store._writer._deliver  # type: ignore[union-attr]

            def deliver_and_fail(jobs: list[_Job]) -> None:
                lost = _Job(lambda _tx: None, asyncio.get_running_loop().create_future(), 0)
                lost.error = OutcomeUnknown("cannot tell whether the change was made")
                deliver([*jobs, lost])

            monkeypatch.setattr(store._writer, "_deliver", deliver_and_fail)
            for _ in range(2):
                assert await store.counted("setting", lambda _reader: {"set": 3}) == {"set": 3}

    asyncio.run(scenario())
