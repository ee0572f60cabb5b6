"""The domain errors of requirements.

::

    NotFound            RequirementNotFound
    Conflict            RequirementAmbiguous, RequirementChanged, RequirementIdTaken
    InvalidArgument     RequirementCursorInvalid
    FailedPrecondition  RequirementElsewhere
"""

from __future__ import annotations

from nexus_protocol.errors import FailedPrecondition

from nexus.records.errors import RecordAmbiguous, RecordChanged, RecordCursorInvalid, RecordIdTaken, RecordNotFound

__all__ = [
    "RequirementAmbiguous",
    "RequirementChanged",
    "RequirementCursorInvalid",
    "RequirementElsewhere",
    "RequirementIdTaken",
    "RequirementNotFound",
]


class RequirementNotFound(RecordNotFound):
    """No requirement has this number or id."""

    type = "requirement.not_found"


class RequirementAmbiguous(RecordAmbiguous):
    """Several requirements have an id that begins so, or this number in their projects."""

    type = "requirement.ambiguous"


class RequirementIdTaken(RecordIdTaken):
    """A requirement with the id exists and differs from the request."""

    type = "requirement.id_taken"


class RequirementChanged(RecordChanged):
    """The requirement has another revision than the request expects."""

    type = "requirement.changed"


class RequirementCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by this list for these filters."""

    type = "requirement.cursor_invalid"


class RequirementElsewhere(FailedPrecondition):
    """The feature is in another project than the requirement; ``details.feature_id`` is its id."""

    type = "requirement.elsewhere"
