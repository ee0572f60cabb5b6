"""Fixtures of the tests of jobs and schedules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.daemon import DaemonProcess
from support.projects import Speaker


@pytest.fixture
def nexus(shared: DaemonProcess) -> Iterator[Speaker]:
    """Speaks in the project default of the module's daemon."""
    speaker = Speaker(shared)
    yield speaker
    speaker.close()
