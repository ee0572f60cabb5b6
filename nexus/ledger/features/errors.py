"""The domain errors of features and sub-features."""

from __future__ import annotations

from nexus.records.errors import RecordAmbiguous, RecordChanged, RecordCursorInvalid, RecordIdTaken, RecordNotFound

__all__ = [
    "FeatureAmbiguous",
    "FeatureChanged",
    "FeatureCursorInvalid",
    "FeatureIdTaken",
    "FeatureNotFound",
    "SubFeatureAmbiguous",
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


class SubFeatureNotFound(RecordNotFound):
    """No sub-feature has this number or id."""

    type = "sub_feature.not_found"


class SubFeatureAmbiguous(RecordAmbiguous):
    """Several sub-features have an id that begins so, or this number in their projects."""

    type = "sub_feature.ambiguous"
