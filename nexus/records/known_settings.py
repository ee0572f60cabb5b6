"""The settings of projects that are known: their bounds, and what they are where a project has none."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["KNOWN_SETTINGS", "KnownSetting", "wrong_value"]


class KnownSetting(NamedTuple):
    """A setting of projects that the daemon knows: a whole number."""

    default: int
    lowest: int
    highest: int


_MOST = 1_000_000

KNOWN_SETTINGS: dict[str, KnownSetting] = {
    "max_parallel_agents": KnownSetting(4, 1, _MOST),
    "test_coverage_target": KnownSetting(80, 0, 100),
    "max_task_minutes": KnownSetting(30, 1, _MOST),
    "qa_max_iterations": KnownSetting(50, 1, _MOST),
    "checkpoint_interval_hours": KnownSetting(2, 1, _MOST),
}
"""By key; other keys are free."""


def wrong_value(key: str, value: object) -> str | None:
    """What a value of a known setting is to be, where it is not; None where it is, or where the key is free."""
    known = KNOWN_SETTINGS.get(key)
    if known is None or (type(value) is int and known.lowest <= value <= known.highest):
        return None
    return f"a whole number from {known.lowest} to {known.highest}"
