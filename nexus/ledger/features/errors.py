"""The domain errors of features and sub-features.

::

    NotFound            FeatureNotFound, SubFeatureNotFound
    Conflict            FeatureAmbiguous, FeatureChanged, FeatureIdTaken,
                        SubFeatureAmbiguous, SubFeatureChanged, SubFeatureIdTaken
    InvalidArgument     FeatureCursorInvalid, SubFeatureCursorInvalid
    FailedPrecondition  FeatureNotEmpty, SubFeatureNotEmpty
"""

from __future__ import annotations

from nexus_protocol.errors import FailedPrecondition

from nexus.records.errors import RecordAmbiguous, RecordChanged, RecordCursorInvalid, RecordIdTaken, RecordNotFound

__all__ = [
    "FeatureAmbiguous",
    "FeatureChanged",
    "FeatureCursorInvalid",
    "FeatureIdTaken",
    "FeatureNotEmpty",
    "FeatureNotFound",
    "SubFeatureAmbiguous",
    "SubFeatureChanged",
    "SubFeatureCursorInvalid",
    "SubFeatureIdTaken",
    "SubFeatureNotEmpty",
    "SubFeatureNotFound",
]


class FeatureNotFound(RecordNotFound):
    """No feature has this number or id."""

    type = "feature.not_found"


class FeatureAmbiguous(RecordAmbiguous):
    """Several features have an id that begins so, or this number in their projects."""

    type = "feature.ambiguous"


class FeatureIdTaken(RecordIdTaken):
    """A feature with the id exists and differs from the request."""

    type = "feature.id_taken"


class FeatureChanged(RecordChanged):
    """The feature has another revision than the request expects."""

    type = "feature.changed"


class FeatureCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by this list for these filters."""

    type = "feature.cursor_invalid"


class FeatureNotEmpty(FailedPrecondition):
    """The feature has sub-features or tasks; ``details`` has some of their numbers and names."""

    type = "feature.not_empty"


class SubFeatureNotFound(RecordNotFound):
    """No sub-feature has this number or id."""

    type = "sub_feature.not_found"


class SubFeatureAmbiguous(RecordAmbiguous):
    """Several sub-features have an id that begins so, or this number in their projects."""

    type = "sub_feature.ambiguous"


class SubFeatureIdTaken(RecordIdTaken):
    """A sub-feature with the id exists and differs from the request."""

    type = "sub_feature.id_taken"


class SubFeatureChanged(RecordChanged):
    """The sub-feature has another revision than the request expects."""

    type = "sub_feature.changed"


class SubFeatureCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by this list for these filters."""

    type = "sub_feature.cursor_invalid"


class SubFeatureNotEmpty(FailedPrecondition):
    """The sub-feature has tasks; ``details`` has some of their numbers and names."""

    type = "sub_feature.not_empty"
