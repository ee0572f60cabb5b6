"""The domain errors of checkpoints.

::

    NotFound            CheckpointNotFound
    Conflict            CheckpointAmbiguous, CheckpointChanged, CheckpointIdTaken, CheckpointBusy
    InvalidArgument     CheckpointCursorInvalid
    FailedPrecondition  CheckpointDamaged, CheckpointElsewhere
"""

from __future__ import annotations

from nexus_protocol.errors import Conflict, FailedPrecondition

from nexus.records.errors import RecordAmbiguous, RecordChanged, RecordCursorInvalid, RecordIdTaken, RecordNotFound

__all__ = [
    "CheckpointAmbiguous",
    "CheckpointBusy",
    "CheckpointChanged",
    "CheckpointCursorInvalid",
    "CheckpointDamaged",
    "CheckpointElsewhere",
    "CheckpointIdTaken",
    "CheckpointNotFound",
]


class CheckpointNotFound(RecordNotFound):
    """No checkpoint has this number or id."""

    type = "checkpoint.not_found"


class CheckpointAmbiguous(RecordAmbiguous):
    """Several checkpoints have an id that begins so, or this number in their projects."""

    type = "checkpoint.ambiguous"


class CheckpointIdTaken(RecordIdTaken):
    """A checkpoint with the id exists and differs from the request."""

    type = "checkpoint.id_taken"


class CheckpointChanged(RecordChanged):
    """The checkpoint has another revision than the request expects."""

    type = "checkpoint.changed"


class CheckpointCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by this list for these filters."""

    type = "checkpoint.cursor_invalid"


class CheckpointBusy(Conflict):
    """The project changed too much while it was looked at; nothing was changed."""

    type = "checkpoint.busy"


class CheckpointDamaged(FailedPrecondition):
    """What the checkpoint keeps cannot be read."""

    type = "checkpoint.damaged"


class CheckpointElsewhere(FailedPrecondition):
    """The two checkpoints are of different projects."""

    type = "checkpoint.elsewhere"
