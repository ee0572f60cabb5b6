"""The settings of projects that the daemon knows: what is checked of them, and what is in force."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from nexus_protocol import InvalidArgument

from nexus.records.known_settings import KNOWN_SETTINGS, wrong_value
from nexus.store import Reader

__all__ = ["check_settings", "project_setting"]


def check_settings(settings: Mapping[str, Any] | None, cannot: str) -> None:
    """Check the known keys among the settings of a project; ``cannot`` begins the sentence.

    Raises:
        InvalidArgument: a value is no whole number within its bounds.
    """
    for key, known in KNOWN_SETTINGS.items():
        if settings is None or key not in settings:
            continue
        value = settings[key]
        wanted = wrong_value(key, value)
        if wanted is not None:
            raise InvalidArgument(
                f"{cannot}: the setting {key} is {wanted}, and not {msgspec.json.encode(value).decode()[:100]}",
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
