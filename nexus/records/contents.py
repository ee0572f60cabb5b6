"""What projects hold: each capability says which of its records a project has, and how they go with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from nexus.capability import Context
from nexus.journal.operation import Operation
from nexus.store import Reader, Transaction

__all__ = ["Contents", "Held", "contents", "contents_of", "held_by"]


class Held(NamedTuple):
    """A record of a project."""

    kind: str
    id: str
    name: str
    state: str
    runs: bool
    """Whether it has processes, or may get one."""


class Contents(NamedTuple):
    """The records of one kind in projects."""

    kind: str
    word: str
    """What sentences call one record, whose plural ends with an s."""
    held: Callable[[Reader, str], Iterable[Held]]
    """All records of a project, by name."""
    delete: Callable[[Transaction, Operation, str, list[Held]], None]
    """Delete these records of a project, none of which runs, with an event for each; what they need goes last."""
    after: Callable[[Context, list[Held]], None] = lambda _ctx, _held: None
    """Called in the event loop once they are deleted."""


_CONTENTS: dict[str, Contents] = {}


def contents(of: Contents) -> None:
    """Declare what projects hold of a kind."""
    _CONTENTS[of.kind] = of


def contents_of(kind: str) -> Contents:
    """What was declared of a kind."""
    return _CONTENTS[kind]


def held_by(reader: Reader, project_id: str) -> list[tuple[Contents, list[Held]]]:
    """What a project holds, by kind; kinds of which it has none are left out."""
    found = ((each, list(each.held(reader, project_id))) for each in _CONTENTS.values())
    return [(each, records) for each, records in found if records]
