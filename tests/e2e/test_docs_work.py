"""docs/work.md is true: its console blocks line by line, and its Python."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from support.console import matches, steps_of
from support.daemon import DaemonProcess, isolated_environment
from support.services import end_runs

PAGE = (Path(__file__).parents[2] / "docs" / "work.md").read_text(encoding="utf-8")


def test_console_blocks_print_what_they_show(root: Path) -> None:
    programs = Path(sys.executable).parent
    environment = isolated_environment(root)
    environment["PATH"] = f"{programs}:{environment['PATH']}"

    folder = root / "work"  # what the page runs must find nothing to build
    folder.mkdir()

    def run(command: str) -> subprocess.CompletedProcess[str]:
        words = ["/bin/sh", "-c", command]
        return subprocess.run(
            words, env=environment, cwd=folder, capture_output=True, text=True, timeout=60, check=False
        )

    assert run("nexusctl daemon start").returncode == 0
    try:
        steps = list(steps_of(PAGE))
        assert len(steps) > 8
        for step in steps:
            done = run(step.command)
            printed = [line for line in done.stdout.splitlines() if line]
            assert done.returncode == 0, (step.command, done.stderr)
            assert len(printed) == len(step.expected), (step.command, printed, done.stderr)
            for expected, line in zip(step.expected, printed, strict=True):
                assert matches(expected, line), (step.command, expected, line)
    finally:
        run("nexusctl daemon stop")
        end_runs(root)


def test_python_examples_run(daemon: DaemonProcess) -> None:
    examples = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert examples
    printed = []
    for example in examples:
        done = subprocess.run(
            [sys.executable, "-c", example],
            env=daemon.environment | {"NEXUS_SOCKET": str(daemon.socket_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed += done.stdout.splitlines()
    assert printed[:2] == ["failed 2 ['one', 'one']", "completed 1 ['two']"]
