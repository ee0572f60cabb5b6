"""The Python of docs/memory.md about vectors is true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from support.daemon import DaemonProcess
from support.remembered import Memory

PAGE = (Path(__file__).parents[2] / "docs" / "memory.md").read_text(encoding="utf-8")


def letters(text: str) -> list[float]:
    return [1.0 + text.lower().count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"]


def test_example_searches_by_vectors_and_by_both(daemon: DaemonProcess) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (example,) = [each for each in blocks if "SearchVectors" in each]
    run = [sys.executable, "-c", example]
    empty = subprocess.run(run, env=daemon.environment, capture_output=True, text=True, timeout=60, check=False)
    assert (empty.stdout, empty.stderr) == ("by text alone: there are no embeddings\n", "")
    memory = Memory(daemon.database)
    memory.chunk("net.py", "def connect(): ...", letters("why was the connection reset"), symbols=["connect"])
    memory.episode("The connection reset was a timeout.", letters("zzz"))
    memory.close()
    done = subprocess.run(run, env=daemon.environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    near, *found = done.stdout.splitlines()
    assert near.endswith("net.py:3-9 ['connect']")
    assert found == ["1 The connection reset was a timeout. 1 1", "net.py:3-9 def connect(): ... None 1"]
