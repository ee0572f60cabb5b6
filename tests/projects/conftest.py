"""Fixtures of the tests of projects."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.daemon import DaemonProcess
from support.projects import Speaker, clear


@pytest.fixture
def nexus(shared: DaemonProcess) -> Iterator[Speaker]:
    """Speaks in the project default of the module's daemon; everything is deleted afterwards."""
    speaker = Speaker(shared)
    yield speaker
    clear(speaker.at(None))
    speaker.close()


@pytest.fixture
def own(daemon: DaemonProcess) -> Iterator[Speaker]:
    """Speaks in the project default of a daemon that only this test uses."""
    speaker = Speaker(daemon)
    yield speaker
    speaker.close()
