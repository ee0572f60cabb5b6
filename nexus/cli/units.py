"""Reads times and sizes as they are typed. It knows no option."""

from __future__ import annotations

import re

from nexus.durations import parse_duration

__all__ = ["parse_duration", "parse_since", "parse_size"]

_SIZE_MIB = {"": 1, "M": 1, "G": 1024, "T": 1024 * 1024}


def parse_since(text: str, now_ms: int) -> int:
    """Parse a time to ms since 1970: ``5m`` ago, or a time as nexusctl prints it (UTC unless it names a zone).

    Raises:
        ValueError: the text is neither; the message is for a person.
    """
    try:
        return max(0, now_ms - parse_duration(text))
    except ValueError:
        pass
    from datetime import UTC, datetime

    try:
        at = datetime.fromisoformat(text.removesuffix(" UTC"))
    except ValueError:
        raise ValueError(f"{text!r} is neither a time ago such as 5m nor a time such as 2026-01-31T09:30:00") from None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(0, int(at.timestamp() * 1000))


def parse_size(text: str) -> int:
    """Parse a size such as ``256M`` or ``1G`` to MiB; a plain number is MiB.

    Raises:
        ValueError: the text is not a size; the message is for a person.
    """
    match = re.fullmatch(r"(\d+)([MGT]?)(?:i?B)?", text, re.IGNORECASE)
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 256M or 1G")
    return int(match[1]) * _SIZE_MIB[match[2].upper()]
