"""The domain errors of the plan as a whole.

::

    Conflict         PlanIdTaken
    InvalidArgument  PlanCursorInvalid, PlanInvalid
"""

from __future__ import annotations

from nexus_protocol.errors import InvalidArgument

from nexus.records.errors import RecordCursorInvalid, RecordIdTaken

__all__ = ["PlanCursorInvalid", "PlanIdTaken", "PlanInvalid"]


class PlanInvalid(InvalidArgument):
    """A record of the plan refers to what is not there, or tasks would wait for each other."""

    type = "plan.invalid"


class PlanIdTaken(RecordIdTaken):
    """Another project has a record with this id; ``details.project`` is its name."""

    type = "plan.id_taken"


class PlanCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by ReadPlan for this project."""

    type = "plan.cursor_invalid"
