"""A hub with many dependents, against a real store: what they read when it changes, and how many act at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from nexus_protocol import NexusError
from support.operations import an_operation
from support.stores import make_store, running

from nexus.caller import Caller
from nexus.capability import ManagerContext
from nexus.journal.operation import Operation
from nexus.records.scope import DEFAULT
from nexus.services import store
from nexus.services.commands import AddService
from nexus.services.dependencies import store as dependency_store
from nexus.services.dependencies.announcer import Announcer, Change
from nexus.services.dependencies.tracker import DependencyTracker, Missing
from nexus.services.records import Service
from nexus.services.states import DependencyCondition, ServiceState, WhenLost
from nexus.store import Reader, StateStore, Transaction

COUNT = 200
PAGES = COUNT // 64 + 2
"""Reads of the ids of all dependents, the last of which finds none."""


class CountingStore:
    """A store that counts its reads and writes."""

    def __init__(self, opened: StateStore) -> None:
        self.opened = opened
        self.reads = 0
        self.writes = 0

    def read(self, fn: Callable[[Reader], Any], *, snapshot: bool = False) -> Any:
        self.reads += 1
        return self.opened.read(fn, snapshot=snapshot)

    async def write(self, fn: Callable[[Transaction], Any], *, size_bytes: int = 256) -> Any:
        self.writes += 1
        return await self.opened.write(fn, size_bytes=size_bytes)


class HubPeer:
    """The handle of the hub as its dependents see it."""

    blocked: str | None = None
    alive = True
    stopping = False

    def ensure(self, operation: Operation) -> bool:
        return True


class Dependent:
    """A dependent whose task is called by the test."""

    def __init__(self, manager: ManagerContext, service: Service, peer: HubPeer) -> None:
        self.service = service
        self.tracker = DependencyTracker(manager, service.id, lambda _: peer)
        self.woken = False
        self.errors: list[NexusError] = []

    def notice(self, changes: Sequence[Change]) -> bool:
        woken = self.tracker.notice(changes)
        self.woken = self.woken or woken
        return woken

    def missing(self) -> Missing | None:
        return self.tracker.missing(an_operation(), self.errors.append)


class World:
    """A hub that is up and its dependents."""

    def __init__(self, opened: StateStore) -> None:
        self.store = CountingStore(opened)
        boot = SimpleNamespace(id="boot", at=0)
        context = SimpleNamespace(store=self.store, boot=boot, caller=Caller(0, 0, "nexusd"))
        self.manager = cast("ManagerContext", context)
        self.peer = HubPeer()
        self.dependents: dict[str, Dependent] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.announcer = Announcer(self.manager, self.dependents.get, self._spawn)
        self.hub: Service

    def _spawn(self, work: Any) -> None:
        self.tasks.append(asyncio.create_task(work))

    async def make(self) -> None:
        def insert(tx: Transaction) -> None:
            self.hub = store.insert(tx, an_operation(), AddService(name="hub"), DEFAULT)
            for number in range(COUNT):
                service = store.insert(tx, an_operation(), AddService(name=f"d{number:03}"), DEFAULT)
                dependency_store.insert(
                    tx, an_operation(), service, self.hub, condition=DependencyCondition.STARTED,
                    when_lost=WhenLost.IGNORE, tunnel_enabled=False,
                )  # fmt: skip
                self.dependents[service.id] = Dependent(self.manager, service, self.peer)

        await self.store.opened.write(insert)
        await self.to(ServiceState.STARTING, ServiceState.RUNNING)

    async def to(self, *states: ServiceState) -> None:
        """Take the hub through states, each of which is announced as its handle does."""
        for state in states:
            await self.store.opened.write(
                lambda tx, state=state: store.change_state(tx, an_operation(), self.hub.id, state)  # type: ignore[misc]
            )
            self.announcer.changed(self.hub.id)

    async def told(self) -> None:
        """Wait until every dependent is told, and count from here."""
        while self.tasks:
            await self.tasks.pop()

    def count_anew(self) -> None:
        self.store.reads = self.store.writes = 0
        for dependent in self.dependents.values():
            dependent.woken = False

    @property
    def woken(self) -> int:
        return sum(dependent.woken for dependent in self.dependents.values())


def with_world(root: Path, scenario: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        async with running(make_store(root)) as opened:
            world = World(opened)
            await world.make()
            await world.told()
            world.count_anew()
            await scenario(world)

    asyncio.run(run())


def test_changed_configuration_of_a_hub_wakes_no_dependent_and_is_read_once(root: Path) -> None:
    async def scenario(world: World) -> None:
        for dependent in world.dependents.values():
            dependent.tracker.look(dependent.service)
            assert not dependent.tracker.due
        world.count_anew()
        await world.store.opened.write(
            lambda tx: store.update(tx, an_operation(), world.hub, {"tags": ["new"]}, {"fields": ["tags"]})
        )
        world.announcer.changed(world.hub.id)
        await world.told()
        assert (world.woken, world.store.reads, world.store.writes) == (0, 1 + PAGES, 0)

    with_world(root, scenario)


def test_lost_hub_is_looked_at_without_reads_some_at_a_time(root: Path) -> None:
    async def scenario(world: World) -> None:
        for dependent in world.dependents.values():
            dependent.tracker.look(dependent.service)
        world.count_anew()
        await world.to(ServiceState.STOPPING)
        woken = []
        write = world.store.write

        async def fence(fn: Callable[[Transaction], Any], *, size_bytes: int = 256) -> Any:
            woken.append(world.woken)
            return await write(fn, size_bytes=size_bytes)

        world.store.write = fence  # type: ignore[method-assign]
        await world.told()
        assert world.woken == COUNT
        assert all(after - before <= 12 for before, after in zip([0, *woken], [*woken, COUNT], strict=True))
        for dependent in world.dependents.values():
            observed = dependent.tracker.look(dependent.service)
            assert (observed.lost, [kind for kind, _ in observed.events]) == (["hub"], ["service.dependency_lost"])
        # The last read is of the operation that led to the loss, by the first of them.
        assert world.store.reads == 1 + PAGES + 1

    with_world(root, scenario)


def test_short_loss_of_a_hub_is_told_to_each_dependent_in_its_order(root: Path) -> None:
    async def scenario(world: World) -> None:
        for dependent in world.dependents.values():
            dependent.tracker.look(dependent.service)
        await world.to(ServiceState.STOPPING, ServiceState.STARTING, ServiceState.RUNNING)
        await world.told()
        for dependent in world.dependents.values():
            observed = dependent.tracker.look(dependent.service)
            kinds = [kind for kind, _ in observed.events]
            assert (observed.lost, kinds) == ([], ["service.dependency_lost", "service.dependency_back"])
            assert not dependent.tracker.due

    with_world(root, scenario)


def test_row_from_before_the_last_look_is_no_loss(root: Path) -> None:
    async def scenario(world: World) -> None:
        await world.to(ServiceState.STOPPING, ServiceState.STARTING, ServiceState.RUNNING)
        for dependent in world.dependents.values():
            # The run begins, and looks, while earlier rows are still to be told.
            assert dependent.tracker.look(dependent.service).events == []
        world.count_anew()
        await world.told()
        assert world.woken == 0

    with_world(root, scenario)


def test_waiting_dependents_look_again_without_reads_until_the_hub_is_up(root: Path) -> None:
    async def scenario(world: World) -> None:
        await world.to(ServiceState.STOPPING)
        await world.told()
        for dependent in world.dependents.values():
            assert dependent.missing() is not None
        world.count_anew()
        await world.to(ServiceState.STARTING)
        await world.told()
        assert world.woken == COUNT
        for dependent in world.dependents.values():
            missing = dependent.missing()
            assert missing is not None
            assert missing.reason.text == 'waits for "hub" to be up'
        assert world.store.reads == 1 + PAGES
        await world.to(ServiceState.RUNNING)
        await world.told()
        world.count_anew()
        for dependent in world.dependents.values():
            assert dependent.missing() is None
            assert dependent.errors == []
        assert world.store.reads == COUNT, "before its start each one reads the records themselves, once"

    with_world(root, scenario)
