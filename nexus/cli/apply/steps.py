"""The steps of a plan and their outcomes: what sections make, and what is ordered, printed and carried out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from nexus_protocol.command import Command
from nexus_protocol.errors import NexusError

if TYPE_CHECKING:
    from nexus.cli.result import Result

__all__ = ["Change", "Outcome", "Phase", "Record", "Step", "differences"]

Record = tuple[str, str]
"""The kind and the name of a record."""


class Change(NamedTuple):
    """A field that changes. Each variable is a change of its own, ``environment.NAME``, without its values."""

    field: str
    before: Any = None
    after: Any = None
    secret: str | None = None
    """For a variable: set, changed or removed."""


class Phase(IntEnum):
    """When a step is carried out: the steps of all sections in one phase go before those of the next."""

    DISCONNECT = 0
    """Removes a connection between records: first, so that a reversed one never closes a circle on the way."""
    REMOVE = 1
    """Removes a record. The sections are in reverse order."""
    RECORD = 2
    """Creates or updates a record."""
    CONNECT = 3
    """Connects two records."""
    RUN = 4
    """Starts or restarts what a record stands for."""


class Step(NamedTuple):
    """One step of a plan."""

    action: str
    """create, update or remove; or a word of the section's own, such as connect or start."""
    kind: str
    """The kind of the record, such as service or vm; or project."""
    name: str
    id: str = ""
    changes: tuple[Change, ...] = ()
    other: str = ""
    """The name of another record of the same kind that it connects."""
    text: str = ""
    """How a person reads it below its record, where it is neither create, update nor remove."""
    detail: Mapping[str, Any] = {}
    """What a program reads of it beside that."""
    phase: Phase = Phase.RECORD
    command: Command[Any] | None = None
    """What carries it out; None for a step about the project."""
    together: bool = False
    """Of a run: consecutive ones are sent at the same time, because the daemon orders them itself."""

    def __repr__(self) -> str:
        # Without the command: it has the values of variables.
        return f"Step({self.action} {self.kind} {self.name!r}, {self.other!r}, {self.changes!r})"

    @property
    def record(self) -> Record:
        """The record that it is about."""
        return self.kind, self.name

    @property
    def records(self) -> tuple[Record, ...]:
        """The records that it needs: that which it is about, and that which it connects to."""
        return (self.record, (self.kind, self.other)) if self.other else (self.record,)


class Outcome(NamedTuple):
    """The outcome of a step."""

    step: Step
    result: str
    """done, failed or skipped."""
    reply: Result[Any] | None = None
    """Of a step that is done."""
    error: NexusError | None = None
    because: str = ""
    """For a skipped step: the name of the record that failed."""


def differences(
    before: Mapping[str, Any], after: Mapping[str, Any], secret_maps: Iterable[str] = ()
) -> tuple[Change, ...]:
    """The fields that differ; of the maps in ``secret_maps`` only the names whose values do."""
    changes = []
    for field, value in after.items():
        if field in secret_maps:
            old, new = before[field] or {}, value or {}
            for name in sorted({*old, *new}):
                if old.get(name) != new.get(name):
                    secret = "set" if name not in old else "removed" if name not in new else "changed"
                    changes.append(Change(f"{field}.{name}", secret=secret))
        elif before[field] != value:
            changes.append(Change(field, before[field], value))
    return tuple(changes)
