"""The commands of checkpoints, and the kinds of their events."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from nexus_protocol.command import Command, Effect, Repeat, command
from nexus_protocol.events import cause, event

from nexus.checkpoints.errors import (
    CheckpointAmbiguous,
    CheckpointBusy,
    CheckpointChanged,
    CheckpointCursorInvalid,
    CheckpointDamaged,
    CheckpointElsewhere,
    CheckpointNotFound,
)
from nexus.checkpoints.records import (
    Checkpoint,
    CheckpointDiff,
    CheckpointPage,
    CheckpointReference,
    CheckpointState,
    RestoredCheckpoint,
)
from nexus.records.errors import LeaseNeedsPerson, RestoreRefused
from nexus.records.events import record_events
from nexus.records.fields import Cursor, PageLimit, Revision, StateRevision

__all__ = [
    "AUTOMATIC",
    "CreateCheckpoint",
    "DeleteCheckpoint",
    "DiffCheckpoints",
    "GetCheckpoint",
    "GetCheckpointState",
    "ListCheckpoints",
    "RestoreCheckpoint",
    "UpdateCheckpoint",
]

record_events(
    "checkpoint",
    "A checkpoint",
    created={
        "name": "its name",
        "automatic": "whether the daemon made it by the clock",
        "restored_from": "the checkpoint before whose restore it was made",
    },
    deleted={"name": "its name", "automatic": "whether the daemon made it by the clock"},
)
event(
    "checkpoint.restored",
    "The plan of a project was made what a checkpoint has. What was changed is told row by row.",
    before="the id of the checkpoint of what was there",
    counts="how many rows of each kind were added, changed and removed",
    leases="how many live leases were revoked",
)
AUTOMATIC = cause("checkpoint.automatic", "It is time for a checkpoint of a project that is worked on.")

_LOOKUP = (CheckpointNotFound, CheckpointAmbiguous)

Name = Annotated[
    str,
    Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)", description="what people call it"),
]
Reason = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=4096,
        pattern=r"^[^\x00]*$",
        description="what it is for",
        extra={"metavar": "TEXT"},
    ),
]
Shown = Annotated[int, Meta(ge=0, le=1000, description="changes to show, 0 to 1000")]


@command(0x05C0, Effect.ACT, errors=(CheckpointBusy,), repeat=Repeat.REFUSE)
class CreateCheckpoint(Command[Checkpoint]):
    """Keep the plan of the project as it is: features, tasks, notes, requirements, sessions and what is remembered."""

    name: Name | None = None
    reason: Reason | None = None


@command(0x05C1, Effect.READ, errors=(CheckpointCursorInvalid,), large_reply=True, all_projects=True)
class ListCheckpoints(Command[CheckpointPage]):
    """List checkpoints, newest first.

    A page ends at ``limit`` records or 1 MiB, whichever comes first; ``next_cursor`` is present when more follow.
    """

    automatic: Annotated[bool, Meta(description="only those made by the clock, or only others")] | None = None
    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(0x05C2, Effect.READ, errors=_LOOKUP)
class GetCheckpoint(Command[Checkpoint]):
    """Get one checkpoint, without what it keeps."""

    checkpoint: CheckpointReference


@command(0x05C3, Effect.READ, errors=(*_LOOKUP, CheckpointDamaged), large_reply=True)
class GetCheckpointState(Command[CheckpointState]):
    """Get a part of what a checkpoint keeps: its rows, by kind.

    A part ends at ``limit`` rows or 1 MiB, whichever comes first; ``next`` is present when more follow.
    """

    checkpoint: CheckpointReference
    start: Annotated[int, Meta(ge=0, le=2**53, description="how many rows to pass over")] = 0
    limit: PageLimit = 1000


@command(0x05C4, Effect.CHANGE, errors=(*_LOOKUP, CheckpointChanged))
class UpdateCheckpoint(Command[Checkpoint]):
    """Change the name or the reason of a checkpoint; absent fields keep their values."""

    checkpoint: CheckpointReference
    name: Name | None = None
    reason: Reason | None = None
    if_revision: Revision | None = None


@command(0x05C5, Effect.CHANGE, errors=(*_LOOKUP, CheckpointChanged))
class DeleteCheckpoint(Command[Checkpoint]):
    """Delete a checkpoint. The plan of the project stays what it is."""

    checkpoint: CheckpointReference
    if_revision: Revision | None = None
    if_state_revision: StateRevision | None = None


@command(0x05C6, Effect.READ, errors=(*_LOOKUP, CheckpointDamaged, CheckpointElsewhere), large_reply=True)
class DiffCheckpoints(Command[CheckpointDiff]):
    """Tell what differs between a checkpoint and another one, or the present."""

    before: CheckpointReference
    after: CheckpointReference | None = None
    limit: Shown = 100


@command(
    0x05C7,
    Effect.ACT,
    errors=(*_LOOKUP, CheckpointDamaged, CheckpointBusy, RestoreRefused, LeaseNeedsPerson),
    repeat=Repeat.AGAIN,
    large_reply=True,
)
class RestoreCheckpoint(Command[RestoredCheckpoint]):
    """Make the plan of a project what a checkpoint has, after a checkpoint of what is there.

    Records that were made since are deleted, deleted ones come back with their ids and numbers, and live leases on
    tasks of the project are revoked: a task that was in progress is pending. It is one transaction.
    """

    checkpoint: CheckpointReference
    dry_run: Annotated[bool, Meta(description="only tell what it would change")] = False
    limit: Shown = 20
