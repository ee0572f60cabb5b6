"""The two clocks that schedules are measured by, as one object that tests can replace."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import NamedTuple

from nexus.runtime.status import boot_clock_ms, now_ms

__all__ = ["Clock", "Reading", "zone_mark"]

_LOCAL_ZONE = "/etc/localtime"


class Reading(NamedTuple):
    """Both clocks at one moment."""

    wall_ms: int
    """Since 1970; a person or a time server may set it."""
    boot_ms: int
    """Since the boot, also while the machine is asleep (CLOCK_BOOTTIME). It is never set."""
    boot: str
    """The boot that ``boot_ms`` belongs to."""

    @property
    def offset_ms(self) -> int:
        """What the wall clock is ahead; it changes only where that is set."""
        return self.wall_ms - self.boot_ms


class Clock:
    """The clocks of this machine. ``boot`` is the identity of the boot."""

    def __init__(self, boot: str, wall: Callable[[], int] = now_ms, since_boot: Callable[[], int] = boot_clock_ms):
        self._boot = boot
        self._wall = wall
        self._since_boot = since_boot

    def read(self) -> Reading:
        """Read both clocks."""
        return Reading(self._wall(), self._since_boot(), self._boot)

    def zone(self) -> object:
        """Read the machine's time zone again, and return what differs after a change of it."""
        return zone_mark()


def zone_mark() -> tuple[str | None, int, int]:
    """What differs once the time zone of the machine is another one; the C library reads it again as well."""
    time.tzset()
    with contextlib.suppress(OSError):
        found = os.stat(_LOCAL_ZONE)  # noqa: PTH116
        return os.environ.get("TZ"), found.st_ino, found.st_mtime_ns
    return os.environ.get("TZ"), 0, 0
