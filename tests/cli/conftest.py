"""Fixtures for nexusctl."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Cli
from support.daemon import DaemonProcess, isolated_environment


@pytest.fixture
def cli(daemon: DaemonProcess) -> Cli:
    """nexusctl beside a running daemon."""
    return Cli(daemon.environment)


@pytest.fixture
def lonely(root: Path) -> Iterator[Cli]:
    """nexusctl in fresh folders without a daemon; one that it starts is stopped in the end."""
    cli = Cli(isolated_environment(root))
    yield cli
    cli("daemon", "stop")
