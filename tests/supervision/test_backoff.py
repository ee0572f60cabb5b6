"""The backoff between restarts, and the limit of restarts within a window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nexus.supervision.backoff import RestartLimits, plan_restart

LIMITS = RestartLimits(backoff_ms=1000, backoff_max_ms=30_000, limit=5, window_ms=60_000)


@given(
    count=st.integers(0, 200),
    backoff=st.integers(10, 86_400_000),
    most=st.integers(10, 86_400_000),
    ended=st.integers(0, 10_000_000),
    late=st.integers(0, 10_000_000),
)
def test_restart_is_never_earlier_than_the_backoff(count: int, backoff: int, most: int, ended: int, late: int) -> None:
    limits = LIMITS._replace(backoff_ms=backoff, backoff_max_ms=max(backoff, most), limit=0)
    plan = plan_restart(limits, list(range(count)), ended, ended + late, 0)
    assert plan.at is not None
    wait_ms = min(backoff * 2 ** len(plan.times), max(backoff, most))
    assert plan.at >= max(ended + wait_ms, ended + late)
    assert plan.at <= max(ended + wait_ms * 1.2 + 1, ended + late)
    assert len(plan.times) <= max(limits.limit, 64)


@given(times=st.lists(st.integers(0, 120_000)).map(sorted), limit=st.integers(1, 10))
def test_restarts_above_the_limit_within_the_window_are_refused(times: list[int], limit: int) -> None:
    plan = plan_restart(LIMITS._replace(limit=limit), times, 120_000, 120_000, 0)
    recent = sum(1 for at in times[-max(limit, 64) :] if at > 60_000)
    assert (plan.at is None) == (recent >= limit)
    assert plan.recent == recent


def test_restart_times_in_the_future_after_a_clock_change_are_not_counted() -> None:
    hour_ms = 3_600_000
    times = [hour_ms - minutes * 60_000 for minutes in (50, 40, 30, 20, 10, 0)]
    now = times[0] + 60_000
    plan = plan_restart(LIMITS._replace(limit=5), times, now, now, 0)
    assert plan.recent == 0
    assert plan.at is not None


def test_run_longer_than_the_window_ends_the_series() -> None:
    plan = plan_restart(LIMITS, [1, 2, 3, 4, 5], 100_000, 100_000, 60_001)
    assert plan.times == []
    assert plan.at is not None
    assert 101_000 <= plan.at <= 101_201
