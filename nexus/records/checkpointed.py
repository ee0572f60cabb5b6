"""What checkpoints of projects hold: each capability says which of its tables, and what a restore means beside them.

The capability of checkpoints knows no record type; it reads, compares and writes the rows of these tables.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from nexus.journal.operation import Operation
from nexus.journal.rows import Rows
from nexus.records.table import DOC, Table
from nexus.store import Reader, Transaction

__all__ = [
    "ABSENT",
    "COUNTERS",
    "Changes",
    "Part",
    "Rowset",
    "Rules",
    "all_parts",
    "all_rules",
    "checkpoint_rules",
    "checkpointed",
]


class _Absent:
    """The value of a column that a checkpoint of an older version does not have."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Any = _Absent()
COUNTERS = frozenset({"revision", "state_revision", "updated_at"})
"""Columns that count changes: they only rise, and tell no difference."""


@dataclass(frozen=True, eq=False)
class Part:
    """A table whose rows of a project a checkpoint has. Its key is the column ``id``."""

    kind: str
    """What people call its rows, in counts and differences."""
    rows: Rows
    table: Table[Any] | None = None
    """That of the records; None for rows that belong to records of another part."""
    left_out: frozenset[str] = frozenset()
    """Volatile columns that are no part of a checkpoint: they are counted anew, or kept elsewhere."""
    parent: tuple[str, str] | None = None
    """Without a ``table``: the column with the id of the record that a row belongs to, and the kind of that."""
    deleted: tuple[str, ...] = ()
    """The columns that the event of a deletion tells."""
    texts: frozenset[str] = frozenset()
    """The columns that a search covers."""
    order: int = 0
    """Rows with a lower figure are made before, and deleted after."""

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns that a checkpoint has."""
        return tuple(each for each in self.rows.columns if each != DOC and each not in self.left_out)


class Rowset:
    """Rows of one part, by id."""

    __slots__ = ("columns", "places", "rows")

    def __init__(self, columns: Iterable[str], rows: dict[str, tuple[Any, ...]]) -> None:
        self.columns = tuple(columns)
        self.places = {column: place for place, column in enumerate(self.columns)}
        self.rows = rows

    def value(self, id_: str, column: str) -> Any:
        """A column of a row."""
        return self.rows[id_][self.places[column]]

    def put(self, id_: str, changes: Mapping[str, Any]) -> None:
        """Set columns of a row."""
        row = list(self.rows[id_])
        for column, value in changes.items():
            row[self.places[column]] = value
        self.rows[id_] = tuple(row)


class Changes(NamedTuple):
    """What a restore does to the rows of one part."""

    added: list[str]
    """Ids."""
    changed: dict[str, frozenset[str]]
    """By id, the columns that change."""
    removed: list[str]


class Rules(NamedTuple):
    """What a capability does in a restore beside the rows."""

    outside: Callable[[Reader, Mapping[str, Rowset]], Any] = lambda _reader, _wanted: None
    """What the rows to restore refer to outside of the project. A restore is planned anew where it has changed."""
    is_same: Callable[[Reader, Any], bool] = lambda _reader, _outside: True
    """Whether what is ``outside`` is still so."""
    adjust: Callable[[Mapping[str, Rowset], Any], None] = lambda _wanted, _outside: None
    """Change the rows to restore to what they can be at present, given what is ``outside``."""
    before: Callable[[Transaction, Operation, str, str], int] = lambda _tx, _operation, _project_id, _why: 0
    """End what holds records of the project, for a reason; returns how many ended."""
    refuse: Callable[[Transaction, str, Mapping[str, Changes], Mapping[str, Rowset]], None] = (
        lambda _tx, _cannot, _changes, _now: None
    )
    """Raises a ``RestoreRefused`` whose sentence begins with the text; ``_now`` are the rows before the restore."""
    deleting: Callable[[Transaction, Operation, str, Mapping[str, Changes], Mapping[str, Rowset]], None] = (
        lambda _tx, _operation, _project_id, _changes, _now: None
    )
    """Called while the rows that go are still there."""
    after: Callable[[Transaction, Operation, str, Mapping[str, Changes], Mapping[str, Rowset]], None] = (
        lambda _tx, _operation, _project_id, _changes, _wanted: None
    )
    """Write what is derived from the rows, which are there now."""
    pruned: Callable[[Transaction, str], None] = lambda _tx, _project_id: None
    """Called when a project has fewer checkpoints than before."""


_PARTS: dict[str, Part] = {}
_RULES: list[Rules] = []


def checkpointed(part: Part) -> None:
    """Declare a table whose rows checkpoints have."""
    _PARTS[part.kind] = part


def checkpoint_rules(rules: Rules) -> None:
    """Declare what else a restore does."""
    _RULES.append(rules)


def all_parts() -> list[Part]:
    """What was declared, in the order in which rows are made."""
    return sorted(_PARTS.values(), key=lambda part: part.order)


def all_rules() -> list[Rules]:
    """What was declared."""
    return list(_RULES)
