"""Fixtures of the tests of services."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.daemon import DaemonProcess
from support.live_services import Services
from support.raw import RawClient

from nexus.services.commands import ListDependencies, ListServices, RemoveDependency, RemoveService


@pytest.fixture
def services(daemon: DaemonProcess) -> Iterator[Services]:
    """The services of a daemon that only this test uses."""
    services = Services(daemon)
    yield services
    services.close()


@pytest.fixture
def client(shared: DaemonProcess) -> Iterator[RawClient]:
    """A connection to the daemon of the module; afterwards every service is removed."""
    with RawClient(shared.socket_path) as client:
        yield client
        for edge in client.call(ListDependencies()).dependencies:
            client.call(RemoveDependency(edge.service_id, edge.dependency_id))
        for service in client.call(ListServices(limit=10_000)).services:
            client.call(RemoveService(service.id))
