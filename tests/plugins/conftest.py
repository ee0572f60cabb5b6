"""Fixtures of the plugins' tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.daemon import DaemonProcess
from support.plugins import PluginFolder


@pytest.fixture
def folder(root: Path) -> PluginFolder:
    """The folder where a daemon in ``root`` looks for plugins."""
    (root / "config").mkdir(mode=0o700, exist_ok=True)
    return PluginFolder(root / "config" / "nexus" / "plugins")


@pytest.fixture
def start(make_daemon: Callable[..., DaemonProcess]) -> Callable[..., DaemonProcess]:
    """Starts a daemon with this ``timeout_ms`` for plugins; other options become environment variables."""

    def run(*arguments: str, timeout_ms: int = 5000, **options: str) -> DaemonProcess:
        config = f"[plugins]\ntimeout_ms = {timeout_ms}\n"
        return make_daemon(*arguments, config=config, environment=options).start()

    return run
