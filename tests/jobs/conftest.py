"""Fixtures of the tests of jobs and schedules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.daemon import DaemonProcess
from support.jobs import Jobs
from support.projects import Speaker


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


@pytest.fixture
def nexus(shared: DaemonProcess) -> Iterator[Speaker]:
    """Speaks in the project default of the module's daemon."""
    speaker = Speaker(shared)
    yield speaker
    speaker.close()
