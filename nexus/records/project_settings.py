"""The settings of projects that the daemon knows: their bounds, and what they are where a project has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from nexus_protocol import InvalidArgument

from nexus.store import Reader

__all__ = ["KNOWN_SETTINGS", "KnownSetting", "check_settings", "project_setting"]


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


def check_settings(settings: Mapping[str, Any] | None, cannot: str) -> None:
    """Check the known keys among the settings of a project; ``cannot`` begins the sentence.

    Raises:
        InvalidArgument: a value is no whole number within its bounds.
    """
    for key, known in KNOWN_SETTINGS.items():
        if settings is None or key not in settings:
            continue
        value = settings[key]
        if type(value) is not int or not known.lowest <= value <= known.highest:
            raise InvalidArgument(
                f"{cannot}: the setting {key} is a whole number from {known.lowest} to {known.highest}, and not "
                f"{msgspec.json.encode(value).decode()[:100]}",
                hint=f"Without it, {known.default} is in force.",
                details={"path": f"settings.{key}"},
            )


def project_setting(reader: Reader, project_id: str, key: str) -> int:
    """The value of a known setting of a project that exists, or the default.

    Raises:
        KeyError: no such setting is known.
    """
    known = KNOWN_SETTINGS[key]
    row = reader.one("SELECT settings FROM projects WHERE id = ?", (project_id,))
    value = None if row is None or row[0] is None else msgspec.json.decode(row[0]).get(key)
    # An older version took any value.
    return value if type(value) is int and known.lowest <= value <= known.highest else known.default
