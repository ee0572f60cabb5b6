"""docs/memory.md is true: its console blocks about continue points and episodes line by line, and its Python."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from support.console import matches, steps_of
from support.daemon import DaemonProcess

PAGE = (Path(__file__).parents[2] / "docs" / "memory.md").read_text(encoding="utf-8")
OWN = "".join(re.findall(r"^## (?:Continue points|Episodes)\n.*?(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))


def test_console_blocks_print_what_they_show(daemon: DaemonProcess) -> None:
    programs = Path(sys.executable).parent
    environment = daemon.environment | {"PATH": f"{programs}:{daemon.environment.get('PATH', '/usr/bin:/bin')}"}
    steps = list(steps_of(OWN))
    assert len(steps) > 8
    for step in steps:
        done = subprocess.run(
            ["/bin/sh", "-c", step.command],
            env=environment, cwd=daemon.root, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        printed = [line for line in done.stdout.splitlines() if line]
        assert done.returncode == 0, (step.command, done.stderr)
        assert len(printed) == len(step.expected), (step.command, printed, done.stderr)
        for expected, line in zip(step.expected, printed, strict=True):
            assert matches(expected, line), (step.command, expected, line)


def test_python_examples_run(daemon: DaemonProcess) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", OWN, re.DOTALL | re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-c", example],
        env=daemon.environment | {"NEXUS_SOCKET": str(daemon.socket_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "Read each file once. 32 32\n"), done.stderr
