"""The settings that the daemon knows, and the encoding of values as text with a type."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec
from nexus_protocol import InvalidArgument

from nexus.durations import parse_duration
from nexus.hints import command_line
from nexus.system.commands import SettingInvalid

__all__ = ["KNOWN", "OFF", "KnownSetting", "from_text", "time_of", "to_text", "validate"]

OFF = "off"
"""The value of a setting that takes a time, for never."""


class KnownSetting(NamedTuple):
    """A setting that the daemon uses: an integer within bounds, or a time."""

    default: int | str
    lowest: int
    highest: int
    doc: str
    is_time: bool = False
    """Whether it takes a time such as ``12h``, or ``off``; the bounds are in ms."""


_DAY_MS = 24 * 60 * 60 * 1000

KNOWN: dict[str, KnownSetting] = {
    "backup.every": KnownSetting(
        "1d",
        60_000,
        3650 * _DAY_MS,
        "how long after its newest backup the daemon makes another, if anything has changed: a time, or off",
        is_time=True,
    ),
    "backup.keep_days": KnownSetting(30, 1, 36_500, "how many days backups are kept"),
    "journal.keep_days": KnownSetting(30, 1, 36_500, "how many days events are kept"),
    "jobs.keep_days": KnownSetting(30, 1, 36_500, "how many days jobs are kept after their end"),
    "leases.keep_days": KnownSetting(30, 1, 36_500, "how many days leases are kept after their end"),
    "metrics.keep_days": KnownSetting(365, 1, 36_500, "how many days metrics are kept"),
    "jobs.max_output": KnownSetting(
        10 * 1024**3, 1024**2, 2**53, "how many bytes of output of ended jobs are kept; the oldest goes first"
    ),
}
"""Every setting that changes what the daemon does, with its default."""


def validate(key: str, value: Any) -> None:
    """Check a value for a key.

    Raises:
        SettingInvalid: the value is not valid for a known setting.
        InvalidArgument: the value cannot be stored in any setting.
    """
    known = KNOWN.get(key)
    if known is not None and known.is_time:
        if value != OFF and not known.lowest <= (_time_ms(value) or 0) <= known.highest:
            raise SettingInvalid(
                f"cannot set {key} to {_short(value)}: it takes a time such as 12h or 1d, from 1m to 3650d, or {OFF}",
                details={"path": "value", "lowest": known.lowest, "highest": known.highest},
            )
    elif known is not None and (
        isinstance(value, bool) or not isinstance(value, int) or not known.lowest <= value <= known.highest
    ):
        raise SettingInvalid(
            f"cannot set {key} to {_short(value)}: it takes a whole number from {known.lowest} to {known.highest}",
            details={"path": "value", "lowest": known.lowest, "highest": known.highest},
        )
    if value is None:
        raise InvalidArgument(
            f"cannot set {key} to nil",
            hint=f"To remove it: {command_line('nexusctl', 'settings', 'unset', key)}",
            details={"path": "value"},
        )
    if not _fits_json(value):
        raise InvalidArgument(
            f"cannot set {key}: JSON has no bytes and no infinite numbers or NaN", details={"path": "value"}
        )


def time_of(value: Any) -> int | None:
    """The ms of a valid value of a setting that takes a time; None for ``off``."""
    return None if value == OFF else _time_ms(value)


def _time_ms(value: Any) -> int | None:
    """The ms of a time: text, or a whole number of seconds; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    try:
        return parse_duration(str(value))
    except ValueError:
        return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _fits_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_fits_json(inner) for inner in value.values())
    if isinstance(value, list):
        return all(_fits_json(inner) for inner in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, bytes)


def to_text(value: Any) -> tuple[str, str]:
    """Encode a value as (text, type), as the table ``settings`` stores it."""
    if isinstance(value, bool):
        return ("true" if value else "false"), "bool"
    if isinstance(value, int):
        return str(value), "int"
    if isinstance(value, str):
        return value, "string"
    return msgspec.json.encode(value).decode(), "json"


def from_text(text: str, type_: str) -> Any:
    """Decode a value that ``to_text`` encoded."""
    if type_ == "bool":
        return text == "true"
    if type_ == "int":
        return int(text)
    if type_ == "string":
        return text
    return msgspec.json.decode(text)
