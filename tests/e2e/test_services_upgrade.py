"""An upgrade of the daemon while services run: the next version migrates the database and adopts them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.raw import wait_until
from support.services import ServiceWorld
from support.stores import contents

from nexus.services.commands import AddDependency, StartService, StopService
from nexus.services.states import ServiceState
from nexus.store.maintenance import migrate_database

OLDEST_WITH_SERVICES = 4


@pytest.fixture
def world(root: Path) -> Iterator[ServiceWorld]:
    """A running daemon; it and all processes of its services are ended after the test."""
    with ServiceWorld(root) as world:
        world.daemon.start()
        yield world


def test_services_running_on_schema_4_are_adopted_and_none_is_restarted(world: ServiceWorld) -> None:
    world.puppet("db", port=0)
    world.puppet("api", port=0, restart="always")
    world.call(AddDependency(service="api", dependency="db", tunnel_enabled=True))
    world.call(StartService(service="api", environment={"FROM": "start"}))
    before = world.services()
    (tunnel,) = contents(world.daemon.database)["service_dependency"]
    world.daemon.kill()

    migrate_database(world.daemon.database, world.root / "backups", OLDEST_WITH_SERVICES)
    old = contents(world.daemon.database)
    assert "port_lease" not in old
    assert "reason_code" not in old["service"][0]
    world.daemon.start()

    after = world.services()
    for name in ("db", "api"):
        assert (after[name].state, after[name].restarts) == (ServiceState.RUNNING, 0)
        assert (after[name].pid, after[name].active_port) == (before[name].pid, before[name].active_port)
        assert len(world.runs()[name]) == 1
    leased = {row["port"] for row in contents(world.daemon.database)["port_lease"]}
    assert leased == {before["db"].active_port, before["api"].active_port, tunnel["tunnel_port"]}

    # What the old daemon began goes on: the tunnel, the policy, a stop in order.
    world.order("api", "exit 3")
    api = world.wait_for(
        "api", lambda service: service.restarts == 1 and service.state is ServiceState.RUNNING, "is restarted"
    )
    assert (api.active_port, api.reason_code) == (before["api"].active_port, "restarted")
    assert world.call(StopService(service="db", cascade=True)).stopped == ["api", "db"]
    wait_until(lambda: not any(world.runs().values()), "every run to end")
    assert [row["purpose"] for row in contents(world.daemon.database)["port_lease"]] == ["tunnel"]
