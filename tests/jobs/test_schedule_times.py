"""The times of cron expressions: words, refusals, zones, and both changes of summer time."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.schedules import DAY, HOUR, MINUTE, at, shown

from nexus.jobs.errors import ScheduleInvalid
from nexus.jobs.schedules.times import WORDS, calendar

BERLIN = "Europe/Berlin"


def times(cron: str, start: str, count: int, zone: str = BERLIN) -> list[str]:
    found = calendar(cron, zone, "cannot").following(at(start, zone), count)
    return [shown(each, zone) for each in found]


def refused(cron: str, zone: str | None = None) -> ScheduleInvalid:
    with pytest.raises(ScheduleInvalid) as caught:
        calendar(cron, zone, "cannot create it")
    assert caught.value.message.startswith("cannot create it: ")
    return caught.value


# Summer time


def test_a_time_that_is_skipped_in_spring_is_moved_to_the_first_minute_there_is() -> None:
    assert times("30 2 * * *", "2026-03-28 12:00", 2) == ["2026-03-29 03:00 +0200", "2026-03-30 02:30 +0200"]


def test_a_time_that_comes_twice_in_autumn_counts_once() -> None:
    assert times("30 2 * * *", "2026-10-24 12:00", 2) == ["2026-10-25 02:30 +0200", "2026-10-26 02:30 +0100"]


def test_in_the_hour_that_comes_again_a_time_of_its_first_pass_is_over() -> None:
    first_pass = at("2026-10-25 00:30")  # 02:30 +0200
    for minutes in range(0, 90, 7):
        assert shown(calendar("30 2 * * *", BERLIN, "").after(first_pass + minutes * MINUTE) or 0, BERLIN) == (
            "2026-10-26 02:30 +0100"
        )


def test_several_times_of_the_missing_hour_are_one() -> None:
    assert times("0-59/10 2 * * *", "2026-03-28 12:00", 2) == ["2026-03-29 03:00 +0200", "2026-03-30 02:00 +0200"]


def test_an_interval_follows_the_clock() -> None:
    assert times("*/30 * * * *", "2026-03-29 01:00", 3) == [
        "2026-03-29 01:30 +0100",
        "2026-03-29 03:00 +0200",
        "2026-03-29 03:30 +0200",
    ]
    assert times("*/30 2 * * *", "2026-10-24 12:00", 5) == [
        "2026-10-25 02:00 +0200",
        "2026-10-25 02:30 +0200",
        "2026-10-25 02:00 +0100",
        "2026-10-25 02:30 +0100",
        "2026-10-26 02:00 +0100",
    ]


def test_a_midnight_that_does_not_exist_is_moved() -> None:
    assert times("@daily", "2026-04-23 12:00", 2, "Africa/Cairo") == [
        "2026-04-24 01:00 +0300",
        "2026-04-25 00:00 +0300",
    ]


@pytest.fixture
def machine_in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("machine_in_berlin")
@pytest.mark.parametrize("cron", ["30 2 * * *", "*/30 * * * *", "*/20 2 * * *", "@daily", "0 3 * * 0"])
def test_the_zone_of_the_machine_may_have_no_name(cron: str) -> None:
    for start in ("2026-03-28 12:00", "2026-10-24 12:00"):
        named = calendar(cron, BERLIN, "").following(at(start), 60)
        assert calendar(cron, None, "").following(at(start), 60) == named


# The last time before another


CRONS = st.sampled_from(
    ["* * * * *", "30 2 * * *", "*/20 2 * * *", "0 */6 * * 1-5", "15 3 1,15 * *", "59 23 L * *", "0 0 29 2 *"]
)
SPAN = st.integers(at("2026-01-01 00:00") // MINUTE, at("2027-01-01 00:00") // MINUTE)


@given(CRONS, SPAN, st.integers(0, 59_999), st.integers(1, 3 * DAY))
def test_the_latest_time_is_the_last_of_those_that_passed(cron: str, minute: int, ms: int, span_ms: int) -> None:
    found = calendar(cron, BERLIN, "")
    since = found.after(minute * MINUTE)
    assert since is not None
    now = since + ms + span_ms
    latest = found.latest(now, since)
    assert since <= latest <= now
    following = found.after(latest)
    in_repeated_hour = shown(now, BERLIN)[:16] in _REPEATED
    assert in_repeated_hour or (following is not None and following > now)


_REPEATED = {f"2026-10-25 02:{minute:02}" for minute in range(60)}
"""Here an earlier time may be given, if more than one has passed; the next one is right all the same."""


@given(CRONS, SPAN)
def test_times_only_go_forward(cron: str, minute: int) -> None:
    found = calendar(cron, BERLIN, "").following(minute * MINUTE, 6)
    assert found == sorted(set(found))
    assert all(each > minute * MINUTE for each in found)


def test_a_year_of_minutes_is_passed_over_at_once() -> None:
    every_minute = calendar("* * * * *", BERLIN, "")
    assert every_minute.latest(at("2036-06-01 10:00") + 1, at("2026-06-01 10:00")) == at("2036-06-01 10:00")


# What is refused


@pytest.mark.parametrize("word", WORDS)
def test_words_stand_for_five_fields(word: str) -> None:
    start = at("2026-06-01 10:30")
    assert calendar(word.upper(), "UTC", "").following(start, 3) == calendar(WORDS[word], "UTC", "").following(start, 3)


@pytest.mark.parametrize(
    "cron", ["0 0 31 2 *", "0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 */30 * 1#2", "0 0 31 FEB *", "0 0 30 2 */2"]
)
def test_a_day_that_never_comes_is_refused(cron: str) -> None:
    error = refused(cron)
    assert error.message == f'cannot create it: the day of "{cron}" never comes'
    assert error.details == {"path": "cron"}


def test_a_rare_day_comes() -> None:
    assert times("0 0 29 2 *", "2026-06-01 00:00", 2, "UTC") == ["2028-02-29 00:00 +0000", "2032-02-29 00:00 +0000"]
    assert times("0 0 29 2 */7", "2033-01-01 00:00", 1, "UTC") == ["2060-02-29 00:00 +0000"]
    assert times("0 0 30 2 1", "2026-06-01 00:00", 1, "UTC") == ["2027-02-01 00:00 +0000"]  # or a Monday


def test_reboot_is_no_time_and_autostart_is() -> None:
    error = refused("@reboot")
    assert error.message == "cannot create it: @reboot is no time"
    assert "autostart" in (error.hint or "")


@pytest.mark.parametrize(
    ("cron", "problem"),
    [
        ("@dialy", "@dialy is no word for a time (did you mean @daily?)"),
        ("@", "@ is no word for a time"),
        ("* * * *", "has 4 fields, and a time has 5"),
        ("0 * * * * *", "has 6 fields, and a time has 5"),
        ("noon", "has 1 field, and"),
        ("60 * * * *", "the minute is 0 to 59"),
        ("* 24 * * *", "the hour is 0 to 23"),
        ("* * 0 * *", "the day of the month is 1 to 31"),
        ("* * 32 * *", "the day of the month is 1 to 31"),
        ("* * * 13 *", "the month is 1 to 12"),
        ("* * * * 8", "the day of the week is 0 to 7"),
        ("* * * * MON#6", "the day of the week is 0 to 7"),
        ("*/0 * * * *", "the minute is 0 to 59"),
        ("5-1 * * * *", "the minute is 0 to 59"),
        (", * * * *", "the minute is 0 to 59"),
        ("1/2/3 * * * *", "the minute is 0 to 59"),
        ("* * ² * *", "the day of the month is 1 to 31"),
        ("* * * * ²L", "the day of the week is 0 to 7"),
        (f"{'9' * 5000} * * * *", "a field is a number"),
    ],
)
def test_what_is_no_time_is_refused(cron: str, problem: str) -> None:
    assert problem in refused(cron).message


@given(st.text("0123456789*,-/#LW@ MONJAN", max_size=40))
def test_any_text_has_times_or_is_refused(text: str) -> None:
    try:
        found = calendar(text, "UTC", "cannot")
    except ScheduleInvalid:
        return
    assert found.after(at("2026-01-01 00:00")) is not None
    assert found.latest(at("2026-01-01 00:00"), 0) <= at("2026-01-01 00:00")


@pytest.mark.parametrize(
    ("zone", "hint"),
    [
        ("Berlin", "Did you mean Europe/Berlin?"),
        ("europe/berlin", "Did you mean Europe/Berlin?"),
        ("new york", "Did you mean America/New_York?"),
        ("../../etc/passwd", "Give a name such as Europe/Berlin or UTC."),
        ("Europe", "Did you mean"),
        ("zone.tab", "Give a name such as"),
        ("", "Give a name such as"),
        ("\0", "Give a name such as"),
    ],
)
def test_an_unknown_zone_is_refused_with_a_near_one(zone: str, hint: str) -> None:
    error = refused("@daily", zone)
    assert error.message == f'cannot create it: there is no time zone "{zone}"'
    assert hint in (error.hint or "")
    assert error.details == {"path": "timezone"}


def test_hours_are_of_the_zone() -> None:
    assert at("2026-06-01 00:00", "UTC") - at("2026-06-01 00:00", "Asia/Tokyo") == HOUR * 9
    assert times("0 9 * * 1-5", "2026-06-05 12:00", 1, "Asia/Tokyo") == ["2026-06-08 09:00 +0900"]
