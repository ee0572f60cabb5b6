"""A real daemon whose wall clock a test can set: forward, and back. The clock of the boot goes on as it does."""

from __future__ import annotations

import sys
from pathlib import Path

from support.daemon import DaemonProcess

__all__ = ["ClockedDaemon"]

_PROGRAM = """
import sys, time

path, plain, plain_ns = sys.argv.pop(1), time.time, time.time_ns

def offset_s():
    with open(path) as file:
        return int(file.read() or 0)

time.time = lambda: plain() + offset_s()
time.time_ns = lambda: plain_ns() + offset_s() * 1_000_000_000

from nexus.jobs import queue

queue._LONGEST_WAIT_S = 0.05  # how soon it sees that the clock was set
from nexus.daemon.main import main
main()
"""


class ClockedDaemon(DaemonProcess):
    """``nexusd`` with a wall clock that is ``set_clock`` seconds off."""

    @property
    def _offset(self) -> Path:
        return self.root / "clock-offset"

    def command(self) -> list[str]:
        if not self._offset.exists():
            self._offset.write_text("0")
        return [sys.executable, "-c", _PROGRAM, str(self._offset), *self.arguments]

    def set_clock(self, seconds: int) -> None:
        """Set the wall clock, as seconds from the true time."""
        new = self._offset.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self._offset)
