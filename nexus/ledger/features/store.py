"""All SQL of features that ``records.Table`` does not have."""

from __future__ import annotations

from nexus.journal.operation import Operation
from nexus.ledger.features.errors import (
    FeatureAmbiguous,
    FeatureChanged,
    FeatureCursorInvalid,
    FeatureIdTaken,
    FeatureNotFound,
    SubFeatureAmbiguous,
    SubFeatureNotFound,
)
from nexus.ledger.features.records import Feature, SubFeature
from nexus.records.errors import RecordErrors, RecordNameTaken
from nexus.records.events import record_events
from nexus.records.table import Table
from nexus.store import Transaction

__all__ = ["FEATURES", "SUB_FEATURES", "count_completed"]

record_events("feature", "A feature", created={"name": "its name"}, deleted={"name": "its name"})

FEATURES = Table(
    Feature,
    "features",
    kind="feature",
    word="feature",
    look="feature inspect",
    errors=RecordErrors(
        FeatureNotFound, FeatureAmbiguous, RecordNameTaken, FeatureIdTaken, FeatureChanged, FeatureCursorInvalid
    ),
    observed=("status", "completed_tasks"),
    order=("number", "id"),
    descending=False,
    indexed=("status", "priority"),
    told=("name",),
    state="status",
    searchable=True,
)
SUB_FEATURES = Table(
    SubFeature,
    "sub_features",
    kind="sub_feature",
    word="sub-feature",
    look="sub-feature inspect",
    errors=RecordErrors(
        SubFeatureNotFound, SubFeatureAmbiguous, RecordNameTaken, FeatureIdTaken, FeatureChanged, FeatureCursorInvalid
    ),
    observed=("status",),
    order=("number", "id"),
    descending=False,
    told=("name",),
    state="status",
)


def count_completed(tx: Transaction, operation: Operation, feature_id: str, by: int) -> None:
    """Count so many more completed tasks of a feature."""
    feature = FEATURES.by_id(tx, feature_id)
    if feature is not None:
        FEATURES.write(tx, operation, feature_id, {"completed_tasks": feature.completed_tasks + by})
