"""The domain errors of continue points.

::

    NotFound            ContinuePointNotFound
    Conflict            ContinuePointAmbiguous, ContinuePointChanged, ContinuePointIdTaken
    InvalidArgument     ContinuePointCursorInvalid, ContinuePointInvalid
"""

from __future__ import annotations

from nexus_protocol.errors import InvalidArgument

from nexus.records.errors import RecordAmbiguous, RecordChanged, RecordCursorInvalid, RecordIdTaken, RecordNotFound

__all__ = [
    "ContinuePointAmbiguous",
    "ContinuePointChanged",
    "ContinuePointCursorInvalid",
    "ContinuePointIdTaken",
    "ContinuePointInvalid",
    "ContinuePointNotFound",
]


class ContinuePointNotFound(RecordNotFound):
    """No continue point has this number or id."""

    type = "continue_point.not_found"


class ContinuePointAmbiguous(RecordAmbiguous):
    """Several continue points have an id that begins so, or this number in their projects."""

    type = "continue_point.ambiguous"


class ContinuePointIdTaken(RecordIdTaken):
    """A continue point with the id exists and differs from the request."""

    type = "continue_point.id_taken"


class ContinuePointChanged(RecordChanged):
    """The continue point has another revision than the request expects."""

    type = "continue_point.changed"


class ContinuePointCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by this list for these filters."""

    type = "continue_point.cursor_invalid"


class ContinuePointInvalid(InvalidArgument):
    """No task is named, and the request is not made under a lease on one."""

    type = "continue_point.invalid"
