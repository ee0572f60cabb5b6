"""The records of checkpoints."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field
from nexus_protocol.command import Record

from nexus.checkpoints.states import Difference
from nexus.records.fields import Reference

__all__ = [
    "Checkpoint",
    "CheckpointDiff",
    "CheckpointPage",
    "CheckpointReference",
    "CheckpointState",
    "FieldChange",
    "RestoredCheckpoint",
    "RowChange",
]

CheckpointReference = Annotated[
    Reference,
    Meta(
        description="the number of the checkpoint in its project, as 12 or #12, else its id or a unique prefix of it; "
        "PROJECT/12 is that in another project",
        extra={"completes": "checkpoint", "metavar": "CHECKPOINT"},
    ),
]


class Checkpoint(Record, kw_only=True):
    """A checkpoint, without what it keeps. Optional fields are present only if they are set."""

    id: str
    number: int
    """It identifies the checkpoint in its project, and is given once."""
    project_id: str
    project: str
    """The name of its project."""
    name: str
    """What people read; several checkpoints may have the same."""
    reason: str | None = None
    automatic: bool = False
    """Whether the daemon made it by the clock; such ones are deleted when they are old."""
    size: int
    """How many bytes it keeps, compressed."""
    counts: dict[str, int] = field(default_factory=dict)
    """How many rows of each kind it keeps; kinds without any are left out."""
    git_commit: str | None = None
    """The commit that was checked out in the folder of the project. A restore does not touch it."""
    restored_from: str | None = None
    """The id of the checkpoint before whose restore this one was made."""
    created_at: int
    updated_at: int
    revision: int
    """Counts the changes of its name and its reason, from 1."""
    state_revision: int
    """Stays 0: it has no state that the daemon keeps."""


class CheckpointPage(Record):
    """One page of checkpoints, newest first, and the cursor of the next page."""

    checkpoints: list[Checkpoint]
    next_cursor: str | None = None


class CheckpointState(Record):
    """A part of what a checkpoint keeps."""

    rows: list[dict[str, Any]]
    """Each with its ``kind``, and its columns as ``row``."""
    next: int | None = None
    """Where the next part starts; absent at the end."""


class FieldChange(Record, kw_only=True):
    """A column that differs. Values longer than 200 characters are cut; NULL is left out."""

    field: str
    before: Any = None
    after: Any = None


class RowChange(Record, kw_only=True):
    """A row that differs."""

    kind: str
    change: Difference
    id: str
    number: int | None = None
    """Of the record, or of the one that it belongs to."""
    name: str | None = None
    """What people read of it."""
    fields: list[FieldChange] = field(default_factory=list)
    """Of one that changed: what differs. Counters of changes do not count."""


class CheckpointDiff(Record, kw_only=True):
    """What differs between a checkpoint and a later one, or the present."""

    before: Checkpoint
    after: Checkpoint | None = None
    """Absent: the present."""
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """By kind of row, how many were added, changed and removed."""
    changes: list[RowChange] = field(default_factory=list)
    more: int = 0
    """How many changes are not shown."""


class RestoredCheckpoint(Record, kw_only=True):
    """What a restore did, or with ``dry_run`` would do."""

    checkpoint: Checkpoint
    before: Checkpoint | None = None
    """The checkpoint of what was there: its restore undoes this one. Absent where nothing was changed."""
    dry_run: bool = False
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """By kind of row, how many were added, changed and removed by the restore."""
    changes: list[RowChange] = field(default_factory=list)
    """With ``dry_run``, the first of them."""
    more: int = 0
    """How many changes are not shown."""
    leases: int = 0
    """How many live leases on tasks of the project were revoked."""
