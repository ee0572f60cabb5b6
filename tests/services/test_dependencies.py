"""Dependencies through a real daemon: cycles, repeated requests, tunnel names, lists, concurrent requests."""

from __future__ import annotations

import itertools

import pytest
from support.daemon import DaemonProcess
from support.raw import RawClient

from nexus.graph import find_cycle
from nexus.journal.commands import WatchEvents
from nexus.services.commands import (
    AddDependency,
    AddService,
    GetConfig,
    ListDependencies,
    RemoveDependency,
    UpdateService,
)
from nexus.services.errors import (
    ServiceCycle,
    ServiceDependencyExists,
    ServiceDependencyNotFound,
    ServiceNotFound,
    ServiceTunnelNameTaken,
)
from nexus.services.states import DependencyCondition, ServiceHealth, ServiceState, WhenLost


def add(client: RawClient, *names: str) -> None:
    for name in names:
        client.call(AddService(name=name))


def edges(client: RawClient, service: str | None = None, **options: bool) -> list[tuple[str, str]]:
    found = client.call(ListDependencies(service, **options)).dependencies
    return [(each.service, each.dependency) for each in found]


def test_dependency_reply_has_condition_state_and_health(client: RawClient) -> None:
    add(client, "api", "db")
    made = client.call(AddDependency("api", "db", DependencyCondition.HEALTHY, True, WhenLost.RESTART))
    assert (made.service, made.dependency, made.condition) == ("api", "db", DependencyCondition.HEALTHY)
    assert (made.tunnel_enabled, made.when_lost) == (True, WhenLost.RESTART)
    assert (made.state, made.health) == (ServiceState.STOPPED, ServiceHealth.UNKNOWN)
    assert (made.tunnel_host, made.tunnel_port) == (None, None), "there is a tunnel once the service runs"
    assert client.call(ListDependencies("api")).dependencies == [made]
    assert client.call(RemoveDependency("api", "db")) == made
    assert edges(client) == []


def test_repeated_dependency_writes_no_event_and_other_settings_are_refused(client: RawClient) -> None:
    add(client, "api", "db")
    made = client.call(AddDependency("api", "db"))
    before = len(list(client.items(client.begin(WatchEvents(follow=False)))))
    assert client.call(AddDependency("api", "db")) == made
    assert len(list(client.items(client.begin(WatchEvents(follow=False))))) == before
    for command in (
        AddDependency("api", "db", condition=DependencyCondition.COMPLETED),
        AddDependency("api", "db", when_lost=WhenLost.STOP),
        AddDependency("api", "db", tunnel_enabled=True),
    ):
        error = client.call_error(command)
        assert isinstance(error, ServiceDependencyExists)
        assert "dependency remove api db" in str(error.hint)


def test_unknown_service_or_dependency_is_not_found(client: RawClient) -> None:
    add(client, "api", "db")
    assert isinstance(client.call_error(AddDependency("api", "none")), ServiceNotFound)
    assert isinstance(client.call_error(AddDependency("none", "db")), ServiceNotFound)
    error = client.call_error(RemoveDependency("api", "db"))
    assert isinstance(error, ServiceDependencyNotFound)
    assert error.message == 'cannot remove the dependency of "api" on "db": there is none'


def test_cycle_is_refused_and_the_error_lists_its_names(client: RawClient) -> None:
    add(client, "api", "db", "disk")
    client.call(AddDependency("api", "db"))
    client.call(AddDependency("db", "disk"))
    error = client.call_error(AddDependency("disk", "api"))
    assert isinstance(error, ServiceCycle)
    assert error.message == (
        'cannot make service "disk" depend on "api": that would be a cycle: disk → api → db → disk'
    )
    assert error.details == {"cycle": ["disk", "api", "db", "disk"]}
    assert "dependency remove api db" in str(error.hint)
    itself = client.call_error(AddDependency("api", "api"))
    assert isinstance(itself, ServiceCycle)
    assert itself.details == {"cycle": ["api", "api"]}
    assert edges(client) == [("api", "db"), ("db", "disk")]


def test_list_dependencies_forward_reverse_and_recursive(client: RawClient) -> None:
    add(client, "web", "api", "db", "disk", "other")
    for service, dependency in (("web", "api"), ("api", "db"), ("web", "db"), ("db", "disk"), ("other", "disk")):
        client.call(AddDependency(service, dependency))
    assert edges(client) == [("api", "db"), ("db", "disk"), ("other", "disk"), ("web", "api"), ("web", "db")]
    assert edges(client, "web") == [("web", "api"), ("web", "db")]
    assert edges(client, "web", recursive=True) == [("api", "db"), ("db", "disk"), ("web", "api"), ("web", "db")]
    assert edges(client, "disk") == []
    assert edges(client, "disk", reverse=True) == [("db", "disk"), ("other", "disk")]
    assert edges(client, "db", reverse=True, recursive=True) == [("api", "db"), ("web", "api"), ("web", "db")]


def test_list_without_a_service_has_all_dependencies(client: RawClient) -> None:
    add(client, *(f"s{n:02}" for n in range(32)))
    wanted = [(f"s{a:02}", f"s{b:02}") for a, b in itertools.combinations(range(32), 2)]
    for sequence in client.begin_many(AddDependency(*pair) for pair in wanted):
        client.payload(sequence)
    assert edges(client) == wanted


# Tunnels


def test_tunnels_with_the_same_variables_are_refused(client: RawClient) -> None:
    add(client, "api", "db-1", "db.1", "db_2")
    client.call(AddDependency("api", "db-1", tunnel_enabled=True))
    client.call(AddDependency("api", "db_2", tunnel_enabled=True))
    error = client.call_error(AddDependency("api", "db.1", tunnel_enabled=True))
    assert isinstance(error, ServiceTunnelNameTaken)
    assert "NEXUS_DB_1_HOST" in error.message
    assert error.hint
    for name in ("DB.1", "db_1"):
        renamed = client.call_error(UpdateService("db_2", name=name))
        assert isinstance(renamed, ServiceTunnelNameTaken), name
    client.call(UpdateService("db-1", name="DB-1"))  # its own old name is no conflict
    client.call(AddDependency("api", "db.1"))  # without a tunnel there are no variables
    variables = {
        v.name: v.value for v in client.call(GetConfig("api", resolved=True)).variables if v.source == "tunnel"
    }
    assert variables == {
        "NEXUS_DB_1_HOST": "127.0.0.1", "NEXUS_DB_1_PORT": None,
        "NEXUS_DB_2_HOST": "127.0.0.1", "NEXUS_DB_2_PORT": None,
    }  # fmt: skip


# Concurrency


@pytest.mark.parametrize("size", [2, 5])
def test_concurrent_dependencies_never_close_a_cycle(shared: DaemonProcess, client: RawClient, size: int) -> None:
    names = [f"s{n}" for n in range(size)]
    add(client, *names)
    clients = [RawClient(shared.socket_path) for _ in range(4)]
    try:
        for _ in range(5):
            sequences = [
                (each, each.begin(AddDependency(names[n], names[(n + 1) % size])))
                for n in range(size)
                for each in clients
            ]
            refused = 0
            for each, sequence in sequences:
                try:
                    each.payload(sequence)
                except ServiceCycle:
                    refused += 1
            assert refused >= 1
            graph: dict[str, list[str]] = {}
            for service, dependency in edges(client):
                graph.setdefault(service, []).append(dependency)
            assert sum(map(len, graph.values())) == size - 1
            assert all(find_cycle(graph, name) is None for name in names)
            for service, dependency in edges(client):
                client.call(RemoveDependency(service, dependency))
    finally:
        for each in clients:
            each.close()
