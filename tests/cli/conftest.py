"""Fixtures for nexusctl."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Cli
from support.daemon import DaemonProcess, isolated_environment, short_directory


@pytest.fixture
def cli(daemon: DaemonProcess) -> Cli:
    """nexusctl beside a running daemon."""
    return Cli(daemon.environment)


@pytest.fixture(scope="module")
def shared() -> Iterator[Cli]:
    """nexusctl beside a daemon that all tests of a module share."""
    root = short_directory()
    daemon = DaemonProcess(root)
    try:
        yield Cli(daemon.start().environment)
    finally:
        daemon.close()
        shutil.rmtree(root)


@pytest.fixture
def lonely(root: Path) -> Iterator[Cli]:
    """nexusctl in fresh directories without a daemon; a daemon that a test starts is stopped at the end."""
    cli = Cli(isolated_environment(root))
    yield cli
    cli("daemon", "stop")
