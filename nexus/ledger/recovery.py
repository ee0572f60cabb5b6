"""What helps to go on with a task whose agent is gone: other capabilities say what they have for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from nexus.store import Reader

__all__ = ["What", "register"]

What = Literal["continue_point", "checkpoint"]
Give = Callable[[Reader, Any], dict[str, Any] | None]

_GIVERS: dict[What, Give] = {}


def register(what: What, give: Give) -> None:
    """Have ``give`` asked for what there is of a task; None where there is nothing."""
    _GIVERS[what] = give
