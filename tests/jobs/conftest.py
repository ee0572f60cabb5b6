"""Fixtures of the tests of jobs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.daemon import DaemonProcess
from support.jobs import Jobs


@pytest.fixture
def own(daemon: DaemonProcess) -> Iterator[Jobs]:
    """The jobs of a daemon that only this test uses."""
    jobs = Jobs(daemon)
    yield jobs
    jobs.close()


@pytest.fixture
def jobs(shared: DaemonProcess) -> Iterator[Jobs]:
    """The jobs of the daemon of the module; afterwards every job and every group is deleted."""
    jobs = Jobs(shared)
    yield jobs
    jobs.clear()
    jobs.close()
