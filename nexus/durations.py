"""Reads times as people type them, such as ``1h30m``. It knows no option and no setting."""

from __future__ import annotations

import re

__all__ = ["parse_duration"]

_DURATION_MS = {"ms": 1, "s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_duration(text: str) -> int:
    """Parse a time such as ``500ms``, ``1.5s``, ``2m`` or ``1h30m`` to milliseconds; a plain number is seconds.

    Raises:
        ValueError: the text is not a time; the message is for a person.
    """
    number, unit = r"(?:\d+(?:\.\d+)?)", r"(?:ms|s|min|m|h|d)"
    parts = re.findall(f"({number})({unit})", text)
    if re.fullmatch(number, text):
        parts = [(text, "s")]
    elif not re.fullmatch(f"(?:{number}{unit})+", text):
        raise ValueError(f"{text!r} is not a time such as 500ms, 5s, 2m or 1h")
    return round(sum(float(amount) * _DURATION_MS[unit] for amount, unit in parts))
