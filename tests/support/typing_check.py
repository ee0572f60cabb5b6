"""Runs of mypy, one at a time: several that write one cache at once make it unreadable, and mypy ends by an error."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

__all__ = ["mypy"]

_ROOT = Path(__file__).resolve().parents[2]


def mypy(*paths: Path) -> subprocess.CompletedProcess[str]:
    """Check files, or without any the packages that the project's configuration names; the test workers take turns."""
    configuration = _ROOT / "pyproject.toml"
    command = [sys.executable, "-m", "mypy", "--config-file", str(configuration), *map(str, paths)]
    with configuration.open() as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        return subprocess.run(
            command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240, check=False
        )
