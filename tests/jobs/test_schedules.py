"""The ticker by a clock that is set: summer time, sleep, set clocks, other boots, overlap, full disks, crowds."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.daemon import short_directory
from support.schedules import DAY, HOUR, MINUTE, World, at, shown, world
from support.stores import make_store

from nexus.jobs.errors import ScheduleInvalid
from nexus.jobs.schedules.commands import (
    DeleteSchedule,
    GetSchedule,
    PauseSchedule,
    ResumeSchedule,
    TriggerSchedule,
    UpdateSchedule,
)
from nexus.jobs.schedules.planning import LATE_MS, LONGEST_HOLD_MS
from nexus.jobs.states import JobReason, JobStatus, Missed, Overlap
from nexus.store import DiskFull
from nexus.store.sqlite import SqliteStore

BERLIN = "Europe/Berlin"
Scenario = Callable[[World], Coroutine[Any, Any, None]]


def play(root: Path, scenario: Scenario, now: str = "2026-06-01 10:00") -> None:
    async def run() -> None:
        async with world(root, now) as made:
            await scenario(made)

    asyncio.run(run())


# Times by the wall clock


@pytest.mark.parametrize(
    ("day", "acted"),
    [("2026-03-28", ["2026-03-29 03:00 +0200"]), ("2026-10-24", ["2026-10-25 02:30 +0200"])],
    ids=["summer time begins", "summer time ends"],
)
def test_a_time_comes_once_on_a_day_with_a_change_of_summer_time(root: Path, day: str, acted: list[str]) -> None:
    async def scenario(made: World) -> None:
        await made.create(cron="30 2 * * *", timezone=BERLIN)
        assert [shown(each, BERLIN) for each in await made.pass_by(DAY, 5 * MINUTE)] == acted
        assert [each["missed"] for each in made.events("schedule.fired")] == [False]

    play(root, scenario, f"{day} 12:00")


def test_each_hour_of_a_day_of_25_hours_comes(root: Path) -> None:
    async def scenario(made: World) -> None:
        await made.create(cron="@hourly", timezone=BERLIN)
        assert len(await made.pass_by(25 * HOUR, 10 * MINUTE)) == 25

    play(root, scenario, "2026-10-24 21:50")


def test_a_time_is_acted_on_by_one_look_and_by_no_earlier_one(root: Path) -> None:
    async def scenario(made: World) -> None:
        schedule = await made.create(cron="5 10 * * *", timezone="UTC")
        assert schedule.next_at == at("2026-06-01 10:05")
        made.clock.go(5 * MINUTE - 1)
        assert await made.look() == []
        assert await made.ticker.look() == 0.001
        made.clock.go(1)
        assert await made.look() == [1]
        assert await made.look() == []
        (job,) = made.jobs()
        schedule = made.get()
        assert (schedule.last_at, schedule.next_at) == (at("2026-06-01 10:05"), at("2026-06-02 10:05"))
        assert (schedule.last_job_id, schedule.last_job_number, job.schedule_id) == (job.id, 1, schedule.id)
        assert made.events("schedule.fired") == [
            {"at": schedule.last_at, "job_id": job.id, "number": 1, "missed": False}
        ]
        assert made.submitted == 1
        assert await made.ticker.look() == DAY / 1000

    play(root, scenario)


@pytest.mark.parametrize(("missed", "jobs"), [(Missed.ONCE, [1]), (Missed.SKIP, [])])
def test_times_that_passed_in_sleep_are_caught_up_once_or_skipped(root: Path, missed: Missed, jobs: list[int]) -> None:
    async def scenario(made: World) -> None:
        await made.create(cron="@hourly", timezone="UTC", missed=missed)
        made.clock.go(3 * DAY + 30 * MINUTE)
        assert await made.look() == jobs
        schedule = made.get()
        assert (schedule.last_at, schedule.next_at) == (at("2026-06-04 10:00"), at("2026-06-04 11:00"))
        if jobs:
            assert [each["missed"] for each in made.events("schedule.fired")] == [True]
        else:
            assert schedule.reason == "its time passed while the daemon was down or the machine asleep"
            assert [each["code"] for each in made.events("schedule.skipped")] == ["missed"]
        made.clock.go(30 * MINUTE)
        assert await made.look() == [len(jobs) + 1]
        assert made.get().reason is None

    play(root, scenario)


def test_a_daemon_that_is_restarted_over_a_time_acts_on_it_even_if_missed_ones_are_skipped(root: Path) -> None:
    async def scenario(made: World) -> None:
        await made.create(cron="@hourly", timezone="UTC", missed=Missed.SKIP)
        made.clock.go(HOUR + LATE_MS)
        made.restart()
        assert await made.look() == [1]
        made.clock.go(HOUR + 1)
        made.restart()
        assert await made.look() == []

    play(root, scenario)


def test_a_clock_that_is_set_back_brings_no_time_twice(root: Path) -> None:
    async def scenario(made: World) -> None:
        await made.create(cron="@hourly", timezone="UTC")
        assert len(await made.pass_by(3 * HOUR)) == 3
        for back in (1, 10 * MINUTE, DAY):
            made.clock.set(-back)
            made.restart()
            assert await made.look() == []
            assert await made.pass_by(back, max(back // 20, 1)) == []
        assert len(await made.pass_by(HOUR)) == 1

    play(root, scenario)


def test_a_clock_that_was_far_ahead_does_not_hold_a_schedule(root: Path) -> None:
    async def scenario(made: World) -> None:
        await made.create(cron="@hourly", timezone="UTC")
        await made.create("new", cron="@hourly", timezone="UTC")
        await made.call(PauseSchedule("new"))
        made.clock.set(3650 * DAY)
        assert await made.look() == [1]
        await made.call(ResumeSchedule("new"))
        made.clock.set(-3650 * DAY)
        assert await made.look() == []
        assert [made.get(name).next_at for name in ("a", "new")] == [at("2026-06-01 11:00")] * 2
        assert len(await made.pass_by(HOUR)) == 2

    play(root, scenario)


def test_the_bound_of_holding_still(root: Path) -> None:
    async def scenario(made: World) -> None:
        await made.create(cron="@hourly", timezone="UTC")
        await made.pass_by(HOUR)
        made.clock.set(-LONGEST_HOLD_MS + 1)
        await made.look()
        assert made.get().next_at == at("2026-06-01 12:00")
        made.clock.set(-1)
        made.restart()
        await made.look()
        assert made.get().next_at == at("2026-05-30 12:00")

    play(root, scenario)


def test_a_clock_that_is_set_forward_by_a_day_has_missed_times(root: Path) -> None:
    async def scenario(made: World) -> None:
        await made.create("once", cron="@hourly", timezone="UTC")
        await made.create("skip", cron="@hourly", timezone="UTC", missed=Missed.SKIP)
        made.clock.go(30 * MINUTE)
        made.clock.set(DAY)
        assert await made.look() == [1]
        assert (made.get("once").reason, made.get("skip").last_job_number) == (None, None)
        assert len(await made.pass_by(HOUR)) == 2

    play(root, scenario)


def test_the_times_follow_the_zone_of_the_machine(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(made: World) -> None:
        await made.create(cron="0 12 * * *")
        await made.create("named", cron="0 12 * * *", timezone="UTC")
        assert made.get().next_at == at("2026-06-01 12:00")
        await made.look()
        zone("Asia/Tokyo")
        await made.look()
        assert made.get().next_at == at("2026-06-01 12:00"), "nothing says that the zone has changed"
        made.clock.zone_mark = "another one"
        await made.look()
        assert made.get().next_at == at("2026-06-02 12:00", "Asia/Tokyo")
        assert made.get("named").next_at == at("2026-06-01 12:00")
        zone("Europe/Berlin")
        made.restart()
        await made.look()
        assert made.get().next_at == at("2026-06-01 12:00", BERLIN) + DAY  # it is noon in Berlin already

    def zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    zone("UTC")
    try:
        play(root, scenario)
    finally:
        monkeypatch.undo()
        time.tzset()


# Intervals


def test_an_interval_is_counted_by_the_boot_clock(root: Path) -> None:
    async def scenario(made: World) -> None:
        await made.create(every_ms=10 * MINUTE)
        made.clock.go(5 * MINUTE)
        for change in (DAY, -2 * DAY, 3 * DAY):
            made.clock.set(change)
            assert await made.look() == []
            assert made.get().next_at == made.clock.wall_ms + 5 * MINUTE
        assert await made.ticker.look() == 5 * MINUTE / 1000
        made.clock.go(5 * MINUTE)
        assert await made.look() == [1]
        made.clock.set(-DAY)
        assert await made.look() == []
        assert len(await made.pass_by(HOUR)) == 6

    play(root, scenario)


@pytest.mark.parametrize(("missed", "jobs"), [(Missed.ONCE, [1]), (Missed.SKIP, [])])
def test_an_interval_goes_on_in_sleep_and_keeps_its_rhythm(root: Path, missed: Missed, jobs: list[int]) -> None:
    async def scenario(made: World) -> None:
        await made.create(every_ms=HOUR, missed=missed)
        made.clock.go(5 * HOUR + 30 * MINUTE)
        assert await made.look() == jobs
        assert made.get().next_at == at("2026-06-01 16:00")
        made.clock.go(30 * MINUTE)
        assert len(await made.look()) == 1

    play(root, scenario)


def test_an_interval_goes_on_over_a_restart_of_the_daemon(root: Path) -> None:
    async def scenario(made: World) -> None:
        await made.create(every_ms=HOUR)
        made.clock.go(20 * MINUTE)
        made.clock.set(-7 * DAY)
        made.restart()
        assert await made.look() == []
        made.clock.go(40 * MINUTE - 1)
        assert await made.look() == []
        made.clock.go(1)
        assert await made.look() == [1]

    play(root, scenario)


@pytest.mark.parametrize(
    ("set_ms", "down_ms", "left_ms"),
    [
        (0, 10 * MINUTE, 30 * MINUTE),  # 20 minutes had passed
        (0, 40 * MINUTE, 0),
        (0, 30 * DAY, 0),
        (-DAY, 10 * MINUTE, 60 * MINUTE),  # it never waits for longer than the interval
        (3650 * DAY, 0, 0),
    ],
)
def test_the_wall_clock_leads_over_to_the_next_boot(root: Path, set_ms: int, down_ms: int, left_ms: int) -> None:
    async def scenario(made: World) -> None:
        await made.create(every_ms=HOUR)
        made.clock.go(20 * MINUTE)
        await made.look()
        made.clock.reboot(down_ms)
        made.clock.set(set_ms)
        made.restart()
        if left_ms:
            assert await made.look() == []
            assert made.get().next_at == made.clock.wall_ms + left_ms
            made.clock.go(left_ms - 1)
            assert await made.look() == []
            made.clock.go(1)
        assert await made.look() == [1]
        assert await made.look() == []

    play(root, scenario)


Step = st.one_of(
    st.tuples(st.just("go"), st.integers(1, 3 * HOUR)),
    st.tuples(st.just("set"), st.integers(-2 * DAY, 2 * DAY)),
    st.tuples(st.just("restart"), st.just(0)),
    st.tuples(st.just("reboot"), st.integers(0, DAY)),
)


@settings(max_examples=40)
@given(st.lists(Step, max_size=15), st.sampled_from([{"cron": "*/20 * * * *"}, {"cron": "@daily"}, {"every_ms": HOUR}]))
def test_whatever_the_clocks_do_no_time_is_acted_on_twice(steps: list[tuple[str, int]], when: dict[str, Any]) -> None:
    async def scenario(made: World) -> None:
        await made.create(timezone="UTC" if "cron" in when else None, **when)
        boot_at: list[tuple[str, int]] = []
        for word, ms in steps:
            if word == "restart":
                made.restart()
            else:
                getattr(made.clock, word)(ms)
            if await made.look():
                boot_at.append((made.clock.boot, made.clock.boot_ms))
            assert await made.look() == []
            next_at = made.get().next_at
            assert next_at is not None
            assert next_at > made.clock.wall_ms
            if "every_ms" in when:
                assert next_at <= made.clock.wall_ms + HOUR + 1000, "a clock that is set by less is not noticed"
        if "cron" in when:
            acted = [each["at"] for each in made.events("schedule.fired")]
            far_back = [each for each in steps if each[0] == "set" and each[1] < 0]
            if sum(each[1] for each in far_back) > -LONGEST_HOLD_MS:
                assert len(set(acted)) == len(acted)
        else:
            # In one boot, two are an interval apart, or the first was late by less than one.
            for (boot, before), (same, after) in itertools.pairwise(boot_at):
                assert boot != same or after > before

    root = short_directory()
    try:
        play(root, scenario)
    finally:
        shutil.rmtree(root)


# Overlap


def test_overlap_skip_submits_none_and_says_why(root: Path) -> None:
    async def scenario(made: World) -> None:
        await made.create(every_ms=MINUTE)
        made.clock.go(MINUTE)
        await made.ticker.look()
        made.clock.go(MINUTE)
        await made.ticker.look()
        assert [job.number for job in made.jobs()] == [1]
        schedule = made.get()
        assert schedule.reason == "its job 1 has not ended"
        assert schedule.last_at == made.clock.wall_ms
        assert made.events("schedule.skipped") == [
            {"at": schedule.last_at, "reason": schedule.reason, "code": "overlap"}
        ]
        await made.end(1)
        made.clock.go(MINUTE)
        await made.ticker.look()
        assert [job.number for job in made.jobs()] == [1, 2]
        assert made.get().reason is None

    play(root, scenario)


def test_overlap_skip_counts_a_job_that_a_client_triggered(root: Path) -> None:
    async def scenario(made: World) -> None:
        await made.create(every_ms=MINUTE)
        await made.call(TriggerSchedule("a"))
        await made.call(TriggerSchedule("a"))
        await made.end(2)
        made.clock.go(MINUTE)
        await made.ticker.look()
        assert made.get().reason == "its job 1 has not ended"

    play(root, scenario)


def test_overlap_queue_submits_all_the_same(root: Path) -> None:
    async def scenario(made: World) -> None:
        await made.create(every_ms=MINUTE, overlap=Overlap.QUEUE)
        for _ in range(3):
            made.clock.go(MINUTE)
            await made.ticker.look()
        assert [(job.number, job.status, job.waits_for) for job in made.jobs()] == [
            (number, JobStatus.QUEUED, 0) for number in (1, 2, 3)
        ]

    play(root, scenario)


async def settled(made: World) -> None:
    """Wait until no job is being replaced."""
    while made.ticker._cancelling:
        await asyncio.wait(made.ticker._cancelling.values())


def test_overlap_replace_begins_once_the_last_job_has_ended(root: Path) -> None:
    async def scenario(made: World) -> None:
        made.ends_cancelled = False
        await made.create(every_ms=MINUTE, overlap=Overlap.REPLACE)
        for _ in range(3):
            made.clock.go(MINUTE)
            await made.ticker.look()
        first, second, third = made.jobs()
        assert [each.number for each in third.after] == [1, 2]
        assert (second.waits_for, third.waits_for) == (1, 2)
        await asyncio.sleep(0)
        assert made.cancelled == [1, 2]
        await made.end(1, JobStatus.CANCELLED)
        await made.end(2, JobStatus.CANCELLED)
        assert [job.waits_for for job in made.jobs()][2] == 0
        assert (first.after, made.jobs()[2].status) == ([], JobStatus.QUEUED)

    play(root, scenario)


def test_a_daemon_that_was_killed_before_it_replaced_does_so_after_its_start(root: Path) -> None:
    async def scenario(made: World) -> None:
        made.ends_cancelled = False
        await made.create(every_ms=MINUTE, overlap=Overlap.REPLACE)
        for _ in range(2):
            made.clock.go(MINUTE)
            await made.ticker.look()
        await made.ticker.close()
        made.cancelled.clear()
        made.ends_cancelled = True
        made.restart()
        await made.ticker.look()
        await settled(made)
        assert made.cancelled == [1]
        assert [(job.status, job.waits_for) for job in made.jobs()] == [(JobStatus.CANCELLED, 0), (JobStatus.QUEUED, 0)]

    play(root, scenario)


def test_a_job_that_is_being_cancelled_already_keeps_its_grace_time(root: Path) -> None:
    async def scenario(made: World) -> None:
        await made.create(every_ms=MINUTE, overlap=Overlap.REPLACE)
        made.clock.go(MINUTE)
        await made.ticker.look()
        await made.execute(1, reason_code=JobReason.CANCELLING)
        made.clock.go(MINUTE)
        await made.ticker.look()
        await settled(made)
        assert made.cancelled == []
        await made.execute(1, reason_code=None)
        await made.ticker.look()
        await settled(made)
        assert made.cancelled == [1]

    play(root, scenario)


def test_the_jobs_of_a_long_queue_are_replaced(root: Path) -> None:
    async def scenario(made: World) -> None:
        await made.create(every_ms=MINUTE, overlap=Overlap.QUEUE)
        for _ in range(30):
            made.clock.go(MINUTE)
            await made.ticker.look()
        await made.call(UpdateSchedule("a", overlap=Overlap.REPLACE))
        made.clock.go(MINUTE)
        await made.ticker.look()
        await settled(made)
        assert sorted(made.cancelled) == list(range(1, 31))
        assert [job.number for job in made.jobs() if job.status is JobStatus.QUEUED and not job.waits_for] == [31]

    play(root, scenario)


# Trouble


class _Failing:
    """Makes writes fail."""

    def __init__(self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], bool]) -> None:
        self.count = 0
        write = store.write

        async def failing(fn: Any, **options: Any) -> Any:
            self.count += 1
            if fails(self.count):
                raise DiskFull("cannot write: the disk is full")
            return await write(fn, **options)

        monkeypatch.setattr(store, "write", failing)


def test_a_full_disk_holds_up_times_and_loses_none(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(made: World) -> None:
        for number in range(10):
            await made.create(f"s{number}", every_ms=HOUR)
        await made.look()
        made.clock.go(HOUR)
        full = True
        with monkeypatch.context() as patched:
            _Failing(made.store, patched, lambda count: full and count % 3 != 0)
            for _ in range(3):
                with pytest.raises(DiskFull):
                    await made.ticker.look()
            assert 0 < made.submitted <= 3
            full = False
            await made.ticker.look()
        assert len(made.jobs()) == 10
        assert len(made.events("schedule.fired")) == 10

    play(root, scenario)


def test_the_ticker_tries_again_after_a_full_disk_without_a_word_each_second(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from nexus.jobs.schedules import ticker

    async def scenario(made: World) -> None:
        monkeypatch.setattr(ticker, "_RETRY_S", 0.001)
        await made.create(every_ms=HOUR)
        made.clock.go(HOUR)
        failing = _Failing(made.store, monkeypatch, lambda count: count < 5)
        made.ticker._context.boot._reconciled.set()
        submitted = asyncio.Event()
        monkeypatch.setattr(made.ticker, "_submitted", submitted.set)
        made.ticker.start()
        await submitted.wait()
        assert failing.count >= 5
        assert [record.message for record in caplog.records if "schedules" in record.message] == [
            "schedules cannot go on, trying again each second: cannot write: the disk is full"
        ]

    play(root, scenario)


def test_a_schedule_whose_zone_is_gone_fails_alone(root: Path) -> None:
    async def scenario(made: World) -> None:
        await made.create(cron="@hourly", timezone=BERLIN)
        await made.create("b", cron="@hourly", timezone="UTC")
        await made.store.write(lambda tx: tx.execute("UPDATE schedules SET timezone = 'Mars/X' WHERE name = 'a'"))
        made.clock.go(HOUR)
        assert await made.look() == [1]
        failed = made.get()
        assert (failed.next_at, failed.last_at) == (None, None)
        assert failed.reason == 'cannot find the next time of schedule "a": there is no time zone "Mars/X"'
        assert made.events("schedule.failed") == [{"reason": failed.reason}]
        made.restart()
        assert await made.look() == []
        assert len(made.events("schedule.failed")) == 1
        await made.store.write(lambda tx: tx.execute("UPDATE schedules SET timezone = 'UTC' WHERE name = 'a'"))
        made.restart()
        await made.look()
        assert made.get().next_at == at("2026-06-01 12:00")

    play(root, scenario)


def test_a_bug_in_one_schedule_does_not_keep_the_others(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from nexus.jobs.schedules import firing

    async def scenario(made: World) -> None:
        for number in range(120):
            await made.create(f"s{number}", every_ms=HOUR)
        broken = {made.get(f"s{number}").id for number in range(60)}
        real = firing.stored

        def stored(tx: Any, id_: str) -> Any:
            if id_ in broken:
                raise RuntimeError("a bug")
            return real(tx, id_)

        await made.look()
        with monkeypatch.context() as patched:
            patched.setattr(firing, "stored", stored)
            made.clock.go(HOUR)
            assert len(await made.look()) == 60
        assert "a bug" in caplog.text
        assert len(await made.look()) == 60

    play(root, scenario)


def test_a_thousand_schedules_at_once_go_in_steps_between_which_others_write(root: Path) -> None:
    async def scenario(made: World) -> None:
        for number in range(1000):
            await made.create(f"s{number}", cron="@hourly", timezone="UTC")
        await made.look()
        made.clock.go(HOUR)
        task = asyncio.create_task(made.ticker.look())
        seen = []
        while not task.done():
            await made.store.write(lambda tx: tx.one("SELECT 1"))
            seen.append(len(made.store.read(lambda reader: reader.all("SELECT 1 FROM jobs"))))
        await task
        assert len(made.jobs()) == 1000
        between = [count for count in seen if 0 < count < 1000]
        assert len(set(between)) >= 10, "other writes were committed between the steps"

    play(root, scenario)


def test_a_write_that_was_lost_with_the_daemon_is_made_by_the_next_one(root: Path) -> None:
    """The job and the schedule are written together: whenever the daemon is killed, both are there or none."""

    class Killed(Exception):
        pass

    async def scenario(made: World) -> None:
        await made.create(every_ms=HOUR)
        made.clock.go(HOUR)
        write = made.store.write

        async def killed_before(fn: Any, **options: Any) -> Any:
            def change(tx: Any) -> Any:
                fn(tx)
                raise Killed

            return await write(change, **options)

        with contextlib.ExitStack() as stack:
            patched = stack.enter_context(pytest.MonkeyPatch.context())
            patched.setattr(made.store, "write", killed_before)
            await made.ticker.look()
        assert made.jobs() == []
        made.restart()
        assert await made.look() == [1]
        made.restart()
        assert await made.look() == []

    play(root, scenario)


# Commands that meet the ticker


def test_a_paused_schedule_has_no_time_until_it_is_resumed(root: Path) -> None:
    async def scenario(made: World) -> None:
        for name, when in (("a", {"cron": "@hourly", "timezone": "UTC"}), ("b", {"every_ms": HOUR})):
            await made.create(name, **when)
            paused = await made.call(PauseSchedule(name))
            assert (paused.paused, paused.next_at) == (True, None)
            assert (await made.call(PauseSchedule(name))).state_revision == paused.state_revision
        assert await made.ticker.look() is None
        assert not made.ticker.is_waiting
        made.clock.go(DAY + 30 * MINUTE)
        made.restart()
        assert await made.look() == []
        assert (await made.call(GetSchedule("a"))).next_times == []
        resumed = [await made.call(ResumeSchedule(name)) for name in ("a", "b")]
        assert [each.next_at for each in resumed] == [at("2026-06-02 11:00"), at("2026-06-02 11:30")]
        assert await made.look() == [], "what passed in the pause is not missed"
        assert made.ticker.is_waiting

    play(root, scenario)


def test_a_new_time_takes_effect_at_once(root: Path) -> None:
    async def scenario(made: World) -> None:
        await made.create(every_ms=HOUR)
        made.clock.go(30 * MINUTE)
        changed = await made.call(UpdateSchedule("a", cron="0 12 * * *", timezone="UTC"))
        assert (changed.every_ms, changed.next_at) == (None, at("2026-06-01 12:00"))
        made.clock.go(30 * MINUTE)
        assert await made.look() == []
        changed = await made.call(UpdateSchedule("a", every_ms=MINUTE))
        assert (changed.cron, changed.timezone, changed.next_at) == (None, None, made.clock.wall_ms + MINUTE)
        other = await made.call(UpdateSchedule("a", priority=3))
        assert other.next_at == changed.next_at
        made.clock.go(MINUTE)
        assert await made.look() == [1]
        paused = await made.call(PauseSchedule("a"))
        assert (await made.call(UpdateSchedule("a", every_ms=HOUR))).next_at is paused.next_at is None

    play(root, scenario)


def test_the_next_five_times(root: Path) -> None:
    async def scenario(made: World) -> None:
        await made.create(cron="0 9 * * 1-5", timezone=BERLIN)
        found = await made.call(GetSchedule("a"))
        days = [shown(each, BERLIN)[8:16] for each in found.next_times]
        assert days == ["02 09:00", "03 09:00", "04 09:00", "05 09:00", "08 09:00"]
        await made.create("b", every_ms=HOUR)
        found = await made.call(GetSchedule("b"))
        assert found.next_times == [made.clock.wall_ms + number * HOUR for number in range(1, 6)]

    play(root, scenario)


def test_a_schedule_that_is_deleted_while_it_is_due_submits_nothing(root: Path) -> None:
    async def scenario(made: World) -> None:
        await made.create(every_ms=HOUR)
        made.clock.go(HOUR)
        look = asyncio.create_task(made.ticker.look())
        await made.call(DeleteSchedule("a"))
        await look
        assert len(made.jobs()) <= 1
        assert await made.look() == []
        assert await made.ticker.look() is None

    play(root, scenario)


def test_a_day_that_never_comes_is_refused_and_nothing_is_written(root: Path) -> None:
    async def scenario(made: World) -> None:
        with pytest.raises(ScheduleInvalid, match="never comes"):
            await made.create(cron="0 0 31 2 *")
        await made.create(cron="@daily")
        with pytest.raises(ScheduleInvalid, match="never comes"):
            await made.call(UpdateSchedule("a", cron="0 0 31 2 *"))
        assert made.get().cron == "@daily"

    play(root, scenario)


def test_schedules_are_found_by_their_indexes(root: Path) -> None:
    store = make_store(root)
    store.init()
    plans = {
        "SELECT min(next_at) FROM schedules WHERE next_at IS NOT NULL AND every_ms IS NULL": "idx_schedules_next",
        "SELECT next_at, id FROM schedules WHERE next_at IS NOT NULL AND every_ms IS NULL AND next_at <= 5 "
        "AND (next_at, id) > (1, '') ORDER BY next_at, id LIMIT 5": "idx_schedules_next",
        "SELECT min(due_clock) FROM schedules WHERE due_clock IS NOT NULL": "idx_schedules_due",
        "SELECT due_clock, id FROM schedules WHERE due_clock IS NOT NULL AND due_clock <= 5 "
        "AND (due_clock, id) > (1, '') ORDER BY due_clock, id LIMIT 5": "idx_schedules_due",
        "SELECT id, number FROM jobs WHERE schedule_id = 'a' AND completed_at IS NULL ORDER BY number LIMIT 5": (
            "idx_jobs_schedule"
        ),
    }
    try:
        for query, index in plans.items():
            plan = store.read(lambda reader, q=query: reader.all(f"EXPLAIN QUERY PLAN {q}"))  # type: ignore[misc]
            assert index in str(plan), query
            assert "TEMP B-TREE" not in str(plan), query
    finally:
        asyncio.run(store.close())
