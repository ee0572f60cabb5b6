"""Lint, format and types, so that one command runs all checks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.typing_check import mypy

ROOT = Path(__file__).resolve().parents[1]


def test_wait_for_is_not_used_in_the_daemon() -> None:
    """In Python 3.11 it loses a cancellation that comes with the result; asyncio.timeout does not."""
    files = [path for path in (ROOT / "nexus").rglob("*.py") if path.parts[-2] not in ("client", "cli")]
    assert [path for path in files if re.search(r"\basyncio\.wait_for\(", path.read_text("utf-8"))] == []


@pytest.mark.slow  # mypy takes half a minute where it has no cache
def test_source_has_no_wrong_type() -> None:
    result = mypy()
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("command", [("ruff", "check"), ("ruff", "format", "--check")], ids=" ".join)
def test_source_passes(command: tuple[str, ...]) -> None:
    result = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
