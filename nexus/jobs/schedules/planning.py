"""When a schedule is due next, and which of its times have passed. It reads no clock, and changes no record.

With ``cron`` the wall clock decides. It may be set: a time that was acted on does not come again after the clock was
set back, unless it was set back so far that it was wrong before. With ``every_ms`` the boot clock decides, which is
never set and goes on while the machine is asleep; the wall clock only leads over to the next boot.
"""

from __future__ import annotations

from typing import NamedTuple

from nexus.jobs.schedules.clock import Reading
from nexus.jobs.schedules.store import StoredSchedule
from nexus.jobs.schedules.times import calendar

__all__ = ["LATE_MS", "LONGEST_HOLD_MS", "Due", "Passed", "first", "passed", "replanned"]

LATE_MS = 60_000
"""A time that is acted on later than this was missed. The ticker looks twice as often, also after a sleep."""
LONGEST_HOLD_MS = 2 * 86_400_000
"""How far a schedule holds still after the wall clock was set back; beyond that the earlier clock was wrong."""


class Due(NamedTuple):
    """When a schedule is due: the columns that say so."""

    next_at: int | None
    due_boot: str | None = None
    due_clock: int | None = None


class Passed(NamedTuple):
    """What has passed of a schedule's times."""

    at: int
    """The last of them, by the present wall clock."""
    late_ms: int
    following: Due

    @property
    def missed(self) -> bool:
        """Whether it is too late to be acted on as if it came now."""
        return self.late_ms > LATE_MS


def first(
    cron: str | None,
    every_ms: int | None,
    timezone: str | None,
    reading: Reading,
    *,
    last_at: int | None = None,
    cannot: str,
) -> Due:
    """The next time of a schedule; ``last_at`` is the one that it acted on last, ``cannot`` begins an error.

    Raises:
        ScheduleInvalid: the expression or the zone is none.
    """
    if every_ms is not None:
        return Due(reading.wall_ms + every_ms, reading.boot, reading.boot_ms + every_ms)
    wall = reading.wall_ms
    if last_at is not None and last_at - wall < LONGEST_HOLD_MS:
        wall = max(wall, last_at)
    return Due(calendar(cron or "", timezone, cannot).after(wall))


def replanned(stored: StoredSchedule, reading: Reading, cannot: str) -> Due:
    """The next time of an active schedule, after the clock, the zone or the boot may have changed.

    A time that has passed stays, for ``passed``.

    Raises:
        ScheduleInvalid: the zone is not known any more.
    """
    schedule = stored.schedule
    next_at = schedule.next_at
    if schedule.every_ms is None:
        if next_at is not None and next_at <= reading.wall_ms:
            return Due(next_at)
        return first(schedule.cron, None, schedule.timezone, reading, last_at=schedule.last_at, cannot=cannot)
    if stored.due_boot == reading.boot and stored.due_clock is not None:
        left = stored.due_clock - reading.boot_ms
    else:
        left = schedule.every_ms if next_at is None else min(next_at - reading.wall_ms, schedule.every_ms)
    return Due(reading.wall_ms + left, reading.boot, reading.boot_ms + left)


def passed(stored: StoredSchedule, reading: Reading, cannot: str) -> Passed | None:
    """What has passed of an active schedule's times; None where it is not due.

    Raises:
        ScheduleInvalid: the zone is not known any more.
    """
    schedule = stored.schedule
    if schedule.every_ms is not None:
        if stored.due_clock is None or stored.due_boot != reading.boot or stored.due_clock > reading.boot_ms:
            return None
        late = (reading.boot_ms - stored.due_clock) % schedule.every_ms
        left = schedule.every_ms - late
        following = Due(reading.wall_ms + left, reading.boot, reading.boot_ms + left)
        return Passed(reading.wall_ms - late, late, following)
    if schedule.next_at is None or schedule.next_at > reading.wall_ms:
        return None
    times = calendar(schedule.cron or "", schedule.timezone, cannot)
    at = times.latest(reading.wall_ms, schedule.next_at)
    return Passed(at, reading.wall_ms - at, Due(times.after(reading.wall_ms)))
