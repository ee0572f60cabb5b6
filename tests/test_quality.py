"""Lint, format and types, so that one command runs all checks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow  # mypy takes half a minute where it has no cache
@pytest.mark.parametrize(
    "command", [("mypy",), ("ruff", "check"), ("ruff", "format", "--check")], ids=lambda command: " ".join(command)
)
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
