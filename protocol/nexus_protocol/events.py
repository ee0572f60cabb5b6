"""The declarations of events and causes, beside those of commands: every kind that the journal may record.

A capability declares them in its ``commands.py``, where its commands are. COMMANDS.md is generated from them.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "WRITTEN",
    "Cause",
    "EventKind",
    "cause",
    "declared_cause",
    "declared_causes",
    "declared_events",
    "event",
    "event_kind",
]

WRITTEN = ".written"
"""The end of the kind of a row's change that is no event of its own."""


class EventKind(NamedTuple):
    """A kind of event: what it means, and the fields of its ``detail`` with their meanings."""

    kind: str
    meaning: str
    detail: dict[str, str]


class Cause(NamedTuple):
    """What begins an operation of the daemon's own."""

    name: str
    meaning: str


_EVENTS: dict[str, EventKind] = {}
_CAUSES: dict[str, Cause] = {}


def event(kind: str, meaning: str, **detail: str) -> str:
    """Declare a kind of event; returns its name.

    ``detail`` are the fields that an event's ``detail`` may have. A field ``fields`` stands for one field for each
    changed field of the record, named as that.

    Raises:
        ValueError: the kind is declared with another meaning.
    """
    declared = EventKind(kind, meaning, detail)
    if _EVENTS.setdefault(kind, declared) != declared:
        raise ValueError(f"the event {kind} is declared twice")
    return kind


def cause(name: str, meaning: str) -> str:
    """Declare a cause; returns its name.

    Raises:
        ValueError: the cause is declared with another meaning.
    """
    declared = Cause(name, meaning)
    if _CAUSES.setdefault(name, declared) != declared:
        raise ValueError(f"the cause {name} is declared twice")
    return name


def event_kind(kind: str) -> EventKind:
    """The declaration of a kind of event.

    Raises:
        ValueError: no such kind is declared.
    """
    try:
        return _EVENTS[kind]
    except KeyError:
        raise ValueError(f"the event {kind} is not declared") from None


def declared_cause(name: str) -> str:
    """Return the name of a cause.

    Raises:
        ValueError: no such cause is declared.
    """
    if name not in _CAUSES:
        raise ValueError(f"the cause {name} is not declared")
    return name


def declared_events() -> list[EventKind]:
    """Every kind of event declared so far, sorted by name."""
    return [_EVENTS[kind] for kind in sorted(_EVENTS)]


def declared_causes() -> list[Cause]:
    """Every cause declared so far, sorted by name."""
    return [_CAUSES[name] for name in sorted(_CAUSES)]
