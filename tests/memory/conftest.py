"""Fixtures of the tests of the memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.daemon import DaemonProcess
from support.memory import Desk


@pytest.fixture
def desk(shared: DaemonProcess) -> Iterator[Desk]:
    """A project of its own in the shared daemon."""
    with Desk(shared) as made:
        yield made
