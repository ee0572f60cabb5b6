"""Fixtures of the tests of the search."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.conversations import Conversations
from support.daemon import DaemonProcess


@pytest.fixture
def own(daemon: DaemonProcess) -> Iterator[Conversations]:
    """The conversations of a daemon that only this test uses."""
    conversations = Conversations(daemon)
    yield conversations
    conversations.close()


@pytest.fixture
def nexus(shared: DaemonProcess) -> Iterator[Conversations]:
    """The conversations of the module's daemon; afterwards all are deleted."""
    conversations = Conversations(shared)
    yield conversations
    conversations.clear()
    conversations.close()
