"""When something that ended is started again: exponential backoff within a limit of restarts per window. Pure rules."""

from __future__ import annotations

import random
from typing import NamedTuple

__all__ = ["RestartLimits", "Retry", "plan_restart"]

_JITTER = 0.2
_REMEMBERED = 64
"""Restarts that are remembered beyond the limit: the next wait depends on how many there were."""


class RestartLimits(NamedTuple):
    """How fast and how often a policy restarts."""

    backoff_ms: int
    """Before the first restart of a series; it doubles with each further one."""
    backoff_max_ms: int
    limit: int
    """Restarts within the window; 0 is no limit."""
    window_ms: int


class Retry(NamedTuple):
    """A restart to come, or (``at`` is None) the refusal of one more."""

    at: int | None
    """When, in ms of the clock that the plan was made with."""
    times: list[int]
    """The restarts so far that still count."""
    recent: int
    """How many of them were within the window."""


def plan_restart(limits: RestartLimits, times: list[int], ended_at: int, now: int, up_ms: int) -> Retry:
    """When an object that ended at ``ended_at``, after it was up for ``up_ms``, is started again.

    The wait doubles with each restart of the series, is never shorter than the policy says, and is up to a fifth
    longer, so that objects that ended together do not come back together. A run longer than the window ends the series.
    """
    if up_ms > limits.window_ms:
        times = []
    times = times[-max(limits.limit, _REMEMBERED) :]
    # A restart time in the future was written before the clock was set back.
    recent = sum(1 for at in times if now - limits.window_ms < at <= now)
    if limits.limit and recent >= limits.limit:
        return Retry(None, times, recent)
    wait_ms = min(limits.backoff_ms << min(len(times), 32), limits.backoff_max_ms)
    return Retry(max(now, ended_at + int(wait_ms * (1 + random.random() * _JITTER)) + 1), times, recent)
