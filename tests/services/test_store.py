"""``change_state`` and its neighbours against a real store: transitions, columns, health, private columns, leases."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.operations import an_operation
from support.soak import SOAK
from support.stores import make_store, running

from nexus.records.scope import DEFAULT
from nexus.services import store
from nexus.services.commands import AddService
from nexus.services.dependencies import store as dependency_store
from nexus.services.errors import ServiceChanged
from nexus.services.records import Service
from nexus.services.states import TRANSITIONS, DependencyCondition, ServiceHealth, ServiceState, WhenLost
from nexus.store import StateStore, StoreConflict, Transaction

STARTING, RUNNING, STOPPING, STOPPED, FAILED = ServiceState


def with_store(root: Path, scenario: Callable[[StateStore], Awaitable[None]]) -> None:
    """Run a scenario in a loop with an open store."""

    async def run() -> None:
        async with running(make_store(root)) as opened:
            await scenario(opened)

    asyncio.run(run())


async def add(opened: StateStore, name: str) -> Service:
    return await opened.write(lambda tx: store.insert(tx, an_operation(), AddService(name=name), DEFAULT))


async def change(opened: StateStore, service: Service, state: ServiceState, **columns: Any) -> Service:
    return await opened.write(lambda tx: store.change_state(tx, an_operation(), service.id, state, **columns))


def test_change_state_allows_only_transitions_of_the_table(root: Path) -> None:
    paths: dict[ServiceState, list[ServiceState]] = {
        STOPPED: [], STARTING: [STARTING], RUNNING: [STARTING, RUNNING], STOPPING: [STARTING, STOPPING],
        FAILED: [FAILED],
    }  # fmt: skip

    async def scenario(opened: StateStore) -> None:
        for before in ServiceState:
            for after in ServiceState:
                service = await add(opened, f"{before}-{after}")
                for step in paths[before]:
                    await change(opened, service, step)
                if after is before or after in TRANSITIONS[before]:
                    assert (await change(opened, service, after)).state is after
                else:
                    with pytest.raises(ValueError, match=f"from {before} to {after}"):
                        await change(opened, service, after)
                    assert opened.read(lambda r, id=service.id: store.get(r, id)).state is before  # type: ignore[misc]

    with_store(root, scenario)


def test_every_state_can_be_left() -> None:
    assert set(TRANSITIONS) == set(ServiceState)
    for state, following in TRANSITIONS.items():
        assert following
        assert state not in following


def test_change_state_refuses_columns_that_are_not_of_a_run(root: Path) -> None:
    async def scenario(opened: StateStore) -> None:
        service = await add(opened, "a")
        for column in ("name", "status", "health", "environment", "id = 1; --"):
            with pytest.raises(ValueError, match="sets no"):
                await change(opened, service, STARTING, **{column: "x"})

    with_store(root, scenario)


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("state"), st.sampled_from(list(ServiceState)), st.booleans()),
        st.tuples(st.just("health"), st.sampled_from(list(ServiceHealth)), st.just(False)),
        st.tuples(st.just("run"), st.none(), st.just(False)),
    ),
    max_size=30,
)


@settings(max_examples=25 * SOAK, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_STEPS)
def test_health_belongs_to_one_run_and_inactive_services_have_no_run_columns(
    root: Path, steps: list[tuple[str, Any, bool]]
) -> None:
    async def scenario(opened: StateStore) -> None:
        number = len(opened.read(store.all_stored))
        service = await add(opened, f"s{number}")
        known = ServiceHealth.UNKNOWN
        for count, (what, value, explained) in enumerate(steps):
            before = service
            if what == "health":
                service = await opened.write(
                    lambda tx, value=value, id=service.id: store.set_health(tx, an_operation(), id, value, "m")  # type: ignore[misc]
                )
                known = value if before.state in (STARTING, RUNNING) else known
            elif what == "run" and service.state is STARTING:
                service = await change(opened, service, STARTING, run_id=f"r{count}", pid=count + 1)
                known = ServiceHealth.UNKNOWN
            elif what == "state" and (value is service.state or value in TRANSITIONS[service.state]):
                service = await change(opened, service, value, **({"reason": "because"} if explained else {}))
                if value is not before.state and (before.state, value) != (STARTING, RUNNING):
                    known = ServiceHealth.UNKNOWN
                if explained:
                    assert service.reason == "because"
                elif value is not before.state:
                    assert service.reason is None
            assert service.health is known
            if service.state in (STOPPED, FAILED):
                assert (service.pid, service.active_port, service.next_restart_at) == (None, None, None)
                assert service.health is ServiceHealth.UNKNOWN

    with_store(root, scenario)


def test_stored_service_has_the_private_columns(root: Path) -> None:
    async def scenario(opened: StateStore) -> None:
        a, b = await add(opened, "a"), await add(opened, "b")
        await opened.write(
            lambda tx: dependency_store.insert(
                tx,
                an_operation(),
                a,
                b,
                condition=DependencyCondition.HEALTHY,
                when_lost=WhenLost.STOP,
                tunnel_enabled=True,
            )
        )
        await change(
            opened, a, STARTING, wanted=True, run_id="r", start_environment={"A": "secret"}, restart_times=[1, 2],
            stopped_in_boot="b", restarts=2, next_restart_at=9, lost_dependencies=["b"],
        )  # fmt: skip
        stored = opened.read(lambda reader: store.stored(reader, "a", DEFAULT))
        assert (stored.wanted, stored.run_id, stored.restart_times, stored.stopped_in_boot) == (True, "r", [1, 2], "b")
        assert stored.start_environment == {"A": "secret"}
        assert "'secret'" not in repr(stored)
        assert (stored.service.restarts, stored.service.next_restart_at) == (2, 9)
        assert stored.service.lost_dependencies == ["b"]
        (edge,) = stored.dependencies
        assert (edge.dependency_id, edge.tunnel_port) == (b.id, None)
        await opened.write(lambda tx: dependency_store.set_tunnel(tx, an_operation(), edge.id, 4000, "t"))
        (listed,) = opened.read(lambda reader: dependency_store.listed(reader, service_id=a.id))
        assert (listed.tunnel_host, listed.tunnel_port) == ("127.0.0.1", 4000)
        unset = await change(opened, a, STARTING, wanted=None, restarts=None, restart_times=None, reason=None)
        assert unset.restarts == 0
        assert [each.wanted for each in opened.read(store.all_stored)] == [False, False]
        assert opened.read(store.SERVICES.count_by_state) == {"starting": 1, "stopped": 1}

    with_store(root, scenario)


def test_port_is_leased_to_one_service_and_released_when_it_stops(root: Path) -> None:
    async def scenario(opened: StateStore) -> None:
        a, b = await add(opened, "a"), await add(opened, "b")
        await change(opened, a, STARTING)
        await change(opened, b, STARTING)
        await change(opened, a, STARTING, active_port=4000)
        with pytest.raises(StoreConflict):
            await change(opened, b, STARTING, active_port=4000)
        await change(opened, a, STOPPED)
        await change(opened, b, STARTING, active_port=4000)

    with_store(root, scenario)


def test_service_whose_state_was_changed_meanwhile_is_not_deleted(root: Path) -> None:
    async def scenario(opened: StateStore) -> None:
        service = await add(opened, "web")
        await change(opened, service, FAILED, reason="x")
        with pytest.raises(ServiceChanged, match="state_revision is 1 and not 0"):
            await opened.write(
                lambda tx: store.delete(tx, an_operation(), service.id, service.revision, service.state_revision)
            )
        await opened.write(lambda tx: store.delete(tx, an_operation(), service.id, service.revision, 1))

    with_store(root, scenario)


def test_state_that_is_written_again_is_no_change(root: Path) -> None:
    async def scenario(opened: StateStore) -> None:
        service = await add(opened, "web")
        await change(opened, service, STARTING, run_id="run", active_port=None, restart_times=[1])
        changed = await change(opened, service, RUNNING, pid=5)
        assert changed.state_revision == 2
        assert await change(opened, service, RUNNING, pid=5, run_id="run", restart_times=[1]) == changed
        assert (await change(opened, service, RUNNING, pid=5, restart_times=[1, 2])).state_revision == 3
        for health, message, revision in (
            (ServiceHealth.UNKNOWN, None, 3), (ServiceHealth.UNKNOWN, "x", 4), (ServiceHealth.UNKNOWN, "x", 4),
            (ServiceHealth.HEALTHY, "x", 5), (ServiceHealth.HEALTHY, None, 6), (ServiceHealth.HEALTHY, None, 6),
        ):  # fmt: skip
            written = await opened.write(
                lambda tx, h=health, m=message: store.set_health(tx, an_operation(), service.id, h, m)
            )  # type: ignore[misc]
            assert (written.health, written.health_message, written.state_revision) == (health, message, revision)

    with_store(root, scenario)


def test_what_a_service_needs_is_found_along_its_dependencies(root: Path) -> None:
    async def scenario(opened: StateStore) -> None:
        services = {name: await add(opened, name) for name in "abcdef"}
        names = {name: service.id for name, service in services.items()}
        for service, dependency in ("ab", "bc", "ac", "cd", "ed"):

            def insert(tx: Transaction, service: str = service, dependency: str = dependency) -> None:
                dependency_store.insert(
                    tx, an_operation(), services[service], services[dependency], condition=DependencyCondition.STARTED,
                    when_lost=WhenLost.IGNORE, tunnel_enabled=False,
                )  # fmt: skip

            await opened.write(insert)
        for service, needed in (("a", "abcd"), ("b", "bcd"), ("c", "cd"), ("d", "d"), ("e", "de"), ("f", "f")):
            found = {
                other
                for other, id_ in names.items()
                if opened.read(lambda r, s=names[service], o=id_: dependency_store.needs(r, s, o))  # type: ignore[misc]
            }
            assert found == set(needed)

    with_store(root, scenario)
