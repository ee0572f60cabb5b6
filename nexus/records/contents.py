"""What projects hold: each capability says which of its records a project has, and how they go with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from nexus.capability import Context
from nexus.journal.operation import Operation
from nexus.records.table import Table
from nexus.store import Reader, Transaction

__all__ = ["Contents", "Held", "HeldRecords", "all_contents", "contents", "held_by", "numbered"]


class Held(NamedTuple):
    """A record of a project."""

    kind: str
    id: str
    name: str
    state: str
    runs: bool
    """Whether it has processes, or may get one."""


class HeldRecords(Protocol):
    """The records of one kind in a project, by name."""

    def __call__(self, reader: Reader, project_id: str, after: str = "", limit: int = -1) -> list[Held]:
        """At most ``limit`` (-1: all) after a name."""


class Contents(NamedTuple):
    """The records of one kind in projects."""

    kind: str
    word: str
    """What sentences call one record, whose plural ends with an s."""
    held: HeldRecords
    delete: Callable[[Transaction, Operation, str, list[Held]], None]
    """Delete these records of a project, none of which runs, with an event for each; what they need goes last."""
    after: Callable[[Context, list[str]], None] | None = None
    """Called in the event loop with their ids once they are deleted."""
    needed_by: int = 0
    """Kinds with a lower figure may need records of this one, and are deleted before."""


_CONTENTS: dict[str, Contents] = {}


def contents(of: Contents) -> None:
    """Declare what projects hold of a kind."""
    _CONTENTS[of.kind] = of


def numbered(table: Table[Any]) -> HeldRecords:
    """The records of a kind that have numbers and no processes."""

    def held(reader: Reader, project_id: str, after: str = "", limit: int = -1) -> list[Held]:
        rows = table.numbers(reader, project_id, int(after or 0), limit)
        return [Held(table.kind, id_, str(number), "there", runs=False) for id_, number in rows]

    return held


def all_contents() -> list[Contents]:
    """What was declared of every kind, in the order in which they are deleted."""
    return sorted(_CONTENTS.values(), key=lambda of: of.needed_by)


def held_by(reader: Reader, project_id: str) -> list[tuple[Contents, list[Held]]]:
    """What a project holds, by kind; kinds of which it has none are left out."""
    found = ((each, each.held(reader, project_id)) for each in all_contents())
    return [(each, records) for each, records in found if records]
