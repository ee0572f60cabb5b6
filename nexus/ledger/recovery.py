"""Where the work on a task was left: other capabilities say what they have of it, and the ledger tells it.

It knows none of them. What is told are plain maps with a ``number`` each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

from nexus.ledger.tasks.records import Recovery
from nexus.store import Reader

__all__ = ["Place", "Recoverable", "newest", "recovery_of", "register", "told"]

What = Literal["continue_point", "checkpoint"]


class Recoverable(Protocol):
    """What is to be known of a task; of a whole project ``id`` is empty."""

    @property
    def id(self) -> str:
        """The id of the task."""

    @property
    def project_id(self) -> str:
        """The id of its project."""

    @property
    def started_at(self) -> int | None:
        """When it was claimed first; None where its work has not begun."""


class Place(NamedTuple):
    """A task, or a project, of which nothing else is at hand."""

    id: str
    project_id: str
    started_at: int | None = None


Newest = Callable[[Reader, Recoverable], dict[str, Any] | None]

_NEWEST: dict[What, Newest] = {}


def register(what: What, function: Newest) -> None:
    """Have ``function`` tell the newest continue point of a task, or the newest checkpoint of its project."""
    _NEWEST[what] = function


def recovery_of(reader: Reader, task: Recoverable) -> Recovery | None:
    """Where the work on a task was left; None where it has not begun, or nothing is known of it."""
    point = newest("continue_point", reader, task)
    begun = point is not None or task.started_at is not None
    checkpoint = newest("checkpoint", reader, task) if begun else None
    return None if point is None and checkpoint is None else Recovery(point, checkpoint)


def newest(what: What, reader: Reader, task: Recoverable) -> dict[str, Any] | None:
    """The newest continue point of a task, or the newest checkpoint of its project; None without one."""
    function = _NEWEST.get(what)
    return None if function is None else function(reader, task)


def told(reader: Reader, task: Recoverable) -> dict[str, int]:
    """What an event says of it: the numbers."""
    left = recovery_of(reader, task)
    if left is None:
        return {}
    found = {"continue_point": left.continue_point, "checkpoint": left.checkpoint}
    return {what: each["number"] for what, each in found.items() if each is not None}
