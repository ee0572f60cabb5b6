"""Fixtures of the tests of services."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.daemon import DaemonProcess
from support.live_services import Services


@pytest.fixture
def services(daemon: DaemonProcess) -> Iterator[Services]:
    """The services of a daemon of this test's own."""
    services = Services(daemon)
    yield services
    services.close()
