"""The times of a schedule with ``cron``: what an expression means, in a time zone. It reads no clock and no record.

The rules of summer time are those of Debian's cron, which ``cronsim`` has. An expression with numbers for minute and
hour means times of the day: one that does not exist when summer time begins is moved to the first minute that does, and
one that comes twice when it ends counts once. An expression whose minute or hour begins with a star means an interval,
which follows the clock: it has no times in the hour that is missing, and has them again in the hour that comes again.
"""

from __future__ import annotations

import functools
import re
from datetime import UTC, datetime, timedelta, tzinfo
from difflib import get_close_matches
from typing import Any, NamedTuple

from nexus_protocol import InvalidArgument

from nexus.jobs.errors import ScheduleInvalid

__all__ = ["WORDS", "Calendar", "calendar"]

WORDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
"""The words that stand for five fields."""

_FIELDS = 5
_REPEATED = 2000
"""The most times that may lie in an hour that comes twice, or fall on one minute."""
_FIELD_NAMES = {
    "minute": "the minute is 0 to 59",
    "hour": "the hour is 0 to 23",
    "day-of-month": "the day of the month is 1 to 31, or L for the last one",
    "month": "the month is 1 to 12, or JAN to DEC",
    "day-of-week": "the day of the week is 0 to 7, or SUN to SAT",
}


class _MachineZone(tzinfo):
    """The time zone of the machine, by the C library: it follows TZ and /etc/localtime, whatever form they have."""

    def utcoffset(self, at: datetime | None) -> timedelta | None:
        if at is None:
            return None
        naive = at.replace(tzinfo=None)
        # The timestamp of a naive time is by the local zone, and respects its fold (PEP 495).
        return naive - datetime.fromtimestamp(naive.timestamp(), UTC).replace(tzinfo=None)

    def dst(self, at: datetime | None) -> timedelta | None:
        return None

    def tzname(self, at: datetime | None) -> str | None:
        return None if at is None else at.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, at: datetime) -> datetime:
        return datetime.fromtimestamp(at.replace(tzinfo=UTC).timestamp()).replace(tzinfo=self)


_MACHINE = _MachineZone()


class Calendar(NamedTuple):
    """The times that an expression has in a zone."""

    expression: str
    zone: tzinfo

    def after(self, at_ms: int) -> int | None:
        """The first time after another one (ms since 1970); None if there is none within fifty years."""
        times = self._times(datetime.fromtimestamp(at_ms // 1000, self.zone))
        for _ in range(_REPEATED):
            found = next(times, None)
            if found is None:
                return None
            # The times of an hour that comes twice are given by its first pass.
            if (found_ms := int(found.timestamp()) * 1000) > at_ms:
                return found_ms
        return None

    def latest(self, at_ms: int, since_ms: int) -> int:
        """The last time up to a moment, where ``since_ms`` is an earlier one: however many lie between them."""
        found = next(self._times(datetime.fromtimestamp(at_ms // 1000 + 1, self.zone), reverse=True), None)
        found_ms = since_ms if found is None else int(found.timestamp()) * 1000
        return found_ms if since_ms <= found_ms <= at_ms else since_ms

    def following(self, at_ms: int, count: int) -> list[int]:
        """The first ``count`` times after another one, fewer if it has no more within fifty years."""
        found: list[int] = []
        while len(found) < count and (time_ms := self.after(found[-1] if found else at_ms)) is not None:
            found.append(time_ms)
        return found

    def _times(self, at: datetime, *, reverse: bool = False) -> Any:
        from cronsim import CronSim

        return CronSim(self.expression, at, reverse=reverse)


def calendar(cron: str, timezone: str | None, cannot: str) -> Calendar:
    """The times of five fields or a word, in a zone with this name, by default that of the machine.

    ``cannot`` begins the sentence of an error.

    Raises:
        ScheduleInvalid: the expression or the zone is none.
    """
    zone = _MACHINE if timezone is None else _zone(timezone, cannot)
    words = cron.split()
    if len(words) == 1 and words[0].startswith("@"):
        return Calendar(_expression_of(words[0].lower(), cannot), zone)
    if len(words) != _FIELDS:
        raise ScheduleInvalid(
            f'{cannot}: "{cron}" has {len(words)} field{"s" * (len(words) != 1)}, and a time has {_FIELDS}: minute, '
            "hour, day of the month, month and day of the week",
            hint=f'Every day at half past two: "30 2 * * *". Words: {", ".join(WORDS)}.',
            details={"path": "cron"},
        )
    expression = " ".join(words)
    _check_fields(words, cannot, cron)
    return Calendar(expression, zone)


def _expression_of(word: str, cannot: str) -> str:
    if word in WORDS:
        return WORDS[word]
    if word == "@reboot":
        raise ScheduleInvalid(
            f"{cannot}: @reboot is no time",
            hint="For a program that runs once the daemon has started, add a service with autostart: "
            "nexusctl service add NAME --autostart --type oneshot -- COMMAND",
            details={"path": "cron"},
        )
    near = get_close_matches(word, WORDS, 1)
    raise ScheduleInvalid(
        f"{cannot}: {word} is no word for a time" + (f" (did you mean {near[0]}?)" if near else ""),
        hint=f"Words: {', '.join(WORDS)}.",
        details={"path": "cron"},
    )


def _check_fields(words: list[str], cannot: str, cron: str) -> None:
    """Refuse fields that mean nothing, and days that never come.

    Raises:
        ScheduleInvalid: as it says.
    """
    from cronsim import CronSim, CronSimError

    epoch = datetime(2000, 1, 1, tzinfo=UTC)

    def parse(fields: list[str]) -> str | None:
        """What is wrong with the fields; None for nothing."""
        try:
            CronSim(" ".join(fields), epoch)
        except (CronSimError, ValueError, AssertionError) as error:
            return str(error).removeprefix("Bad ") or "field"
        return None

    wrong = parse(words)
    if wrong is None:
        if next(CronSim(" ".join(words), epoch), None) is None:  # within fifty years
            raise _never(cannot, cron)
        return
    if wrong == "day-of-month" and parse([*words[:3], "*", words[4]]) is None:
        raise _never(cannot, cron)  # the days are some, but in none of the months
    rule = _FIELD_NAMES.get(wrong, "a field is a number, a list, a range or a step")
    raise ScheduleInvalid(
        f'{cannot}: "{cron}" is no time: {rule}',
        hint='A field is *, a number, a list 1,15, a range 1-5, or a step */10 of these. Such as "0 9 * * 1-5".',
        details={"path": "cron"},
    )


def _never(cannot: str, cron: str) -> InvalidArgument:
    return ScheduleInvalid(
        f'{cannot}: the day of "{cron}" never comes',
        hint="Look at the day of the month, the months and the day of the week together. The last day of a month is L.",
        details={"path": "cron"},
    )


def _zone(name: str, cannot: str) -> tzinfo:
    from zoneinfo import ZoneInfo

    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_+/-]*", name) is not None:
        try:
            return ZoneInfo(name)
        except (LookupError, ValueError, OSError):
            pass
    known = _zone_names()
    lower = {zone.lower(): zone for zone in known}
    near = [lower[each] for each in get_close_matches(name.lower(), lower, 1)] or [
        zone for zone in known if zone.lower().rpartition("/")[2] == name.lower().replace(" ", "_")
    ][:1]
    hint = f"Did you mean {near[0]}?" if near else "Give a name such as Europe/Berlin or UTC."
    if not known:
        hint = "This machine knows no time zones by name: install its package tzdata."
    raise ScheduleInvalid(f'{cannot}: there is no time zone "{name}"', hint=hint, details={"path": "timezone"})


@functools.cache
def _zone_names() -> list[str]:
    from zoneinfo import available_timezones

    return sorted(available_timezones())
