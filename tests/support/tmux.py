"""tmux as the terminal emulator of tests: it shows what a person would see."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.cli import Cli
from support.raw import wait_until

__all__ = ["Tmux"]


class Tmux:
    """A server with a socket of its own, whose windows run ``nexusctl``; it is ended by ``close``."""

    def __init__(self, root: Path, cli: Cli) -> None:
        if shutil.which("tmux") is None:
            pytest.skip("tmux is not installed")
        self._socket = root / "tmux.sock"
        self._environment = cli.environment | {"TERM": "xterm-256color"}
        (root / "tmux.conf").write_text("set -g default-terminal screen-256color\n")
        self._config = root / "tmux.conf"

    def run(self, *words: str) -> str:
        """Run a command of tmux; returns its output."""
        return subprocess.run(
            ["tmux", "-S", str(self._socket), "-f", str(self._config), *words],
            env=self._environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout

    def open(self, name: str, rows: int, columns: int, *arguments: str) -> None:
        """Run ``nexusctl`` in a terminal of a size, which shows its exit code afterwards."""
        line = f"{shlex.join([sys.executable, '-m', 'nexus.cli.main', *arguments])}; echo exit code $?; exec sleep 1000"
        self.run("new-session", "-d", "-s", name, "-x", str(columns), "-y", str(rows), "sh", "-c", line)
        self.run("set-option", "-t", name, "status", "off")
        self.resize(name, rows, columns)

    def resize(self, name: str, rows: int, columns: int) -> None:
        """Give a terminal another size."""
        self.run("resize-window", "-t", name, "-x", str(columns), "-y", str(rows))

    def keys(self, name: str, *keys: str) -> None:
        """Press keys."""
        self.run("send-keys", "-t", name, *keys)

    def screen(self, name: str) -> list[str]:
        """The lines that a terminal shows."""
        return self.run("capture-pane", "-p", "-t", name).splitlines()

    def shows(self, name: str, text: str) -> list[str]:
        """Wait until a terminal shows a text; returns its lines."""
        last: list[str] = []

        def look() -> bool:
            last[:] = self.screen(name)
            return any(text in line for line in last)

        try:
            wait_until(look, f"{text!r} on the screen")
        except AssertionError as error:
            raise AssertionError(f"{error}: {last}") from None
        return last

    def fact(self, name: str, what: str) -> str:
        """What tmux knows of a terminal: ``cursor_flag``, ``alternate_on``, …"""
        return self.run("display-message", "-p", "-t", name, f"#{{{what}}}").strip()

    def close(self) -> None:
        """End the server with everything in its windows."""
        subprocess.run(
            ["tmux", "-S", str(self._socket), "kill-server"],
            env=self._environment | {"PATH": os.environ["PATH"]},
            capture_output=True,
            check=False,
            timeout=60,
        )
