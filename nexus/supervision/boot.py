"""The boot of the machine: its identity, when it was, and whether the records are of an earlier one."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from pathlib import Path

from nexus.runtime.status import boot_clock_ms, boot_id, boot_time_s, now_ms, process_start

__all__ = ["Boot", "this_boot"]

_log = logging.getLogger("nexus.supervision")

_CLOCK_SLACK_S = 5


@functools.cache
def this_boot() -> str:
    """The id of this boot of the machine, or of the container; it is read once, since no process sees another one."""
    return _read_boot(process_start(1))


def _read_boot(first: int | None) -> str:
    return boot_id() if first is None else f"{boot_id()}/{first}"


class Boot:
    """This boot of the machine; in a container, whose kernel goes on, the start of its first process.

    ``directory`` holds the note of the boot that the records were last reconciled in.
    """

    def __init__(self, directory: Path) -> None:
        first = process_start(1)
        self.id = _read_boot(first)
        self.at = _boot_at(first)
        """The time of the boot, in ms by the present clock, minus five seconds of tolerance for clock changes."""
        self._file = directory / "boot"
        self.is_new = self._noted() not in (None, self.id)
        """Whether the records are of an earlier boot, so that no process of theirs can run."""
        self._reconciled = asyncio.Event()
        self._clock_file = directory / "clock"
        self._wall_ms, self._clock_ms = self._noted_clock() or (now_ms(), boot_clock_ms())
        """The wall clock and the boot clock when a daemon first noted them in this boot."""

    def _noted_clock(self) -> tuple[int, int] | None:
        try:
            id_, wall, clock = self._clock_file.read_text(encoding="ascii").rsplit(" ", 2)
            return (int(wall), int(clock)) if id_ == self.id else None
        except (OSError, ValueError):
            return None

    def trusted_now_ms(self) -> int:
        """The wall clock in ms, or less if it was set forward in this boot: what deletes old records asks this one."""
        return min(now_ms(), self._wall_ms + boot_clock_ms() - self._clock_ms)

    def _noted(self) -> str | None:
        try:
            return self._file.read_text(encoding="ascii")
        except (OSError, ValueError):
            return None

    def note(self) -> None:
        """Write that every record is reconciled with this boot. A daemon killed before repeats the reconciliation."""
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file.write_text(self.id, encoding="ascii")
            self._clock_file.write_text(f"{self.id} {self._wall_ms} {self._clock_ms}", encoding="ascii")
        except OSError as error:
            _log.warning("cannot write %s: %s", self._file, error.strerror)
        self._reconciled.set()

    async def reconciled(self) -> None:
        """Wait until every record is of this boot: what starts by itself starts after that."""
        await self._reconciled.wait()


def _boot_at(first: int | None) -> int:
    booted_s = boot_time_s()
    if booted_s is None:
        return 0
    after_s = (first or 0) // os.sysconf("SC_CLK_TCK")
    return (booted_s + after_s - _CLOCK_SLACK_S) * 1000
