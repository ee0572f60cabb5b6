"""The SQL of features and sub-features, and of the tasks that tell how far these are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from nexus.journal.operation import Operation
from nexus.ledger.features.errors import (
    FeatureAmbiguous,
    FeatureChanged,
    FeatureCursorInvalid,
    FeatureIdTaken,
    FeatureNotFound,
    SubFeatureAmbiguous,
    SubFeatureChanged,
    SubFeatureCursorInvalid,
    SubFeatureIdTaken,
    SubFeatureNotFound,
)
from nexus.ledger.features.records import Feature, FeatureKind, SubFeature
from nexus.ledger.states import FeatureStatus, TaskStatus
from nexus.records.errors import RecordErrors, RecordNameTaken
from nexus.records.table import Table
from nexus.store import Reader, Transaction

__all__ = [
    "FEATURES",
    "SUB_FEATURES",
    "Counted",
    "count_completed",
    "sub_features_of",
    "task_counts",
    "with_progress",
]

FEATURES = Table(
    Feature,
    "features",
    kind="feature",
    word="feature",
    look="feature inspect",
    errors=RecordErrors(
        FeatureNotFound, FeatureAmbiguous, RecordNameTaken, FeatureIdTaken, FeatureChanged, FeatureCursorInvalid
    ),
    observed=("completed_tasks",),
    order=("number", "id"),
    descending=False,
    indexed=("status", "priority"),
    told=("name", "priority"),
    state="status",
    computed=("tasks", "percentage"),
    searchable=True,
)
SUB_FEATURES = Table(
    SubFeature,
    "sub_features",
    kind="sub_feature",
    word="sub-feature",
    look="sub-feature inspect",
    errors=RecordErrors(
        SubFeatureNotFound,
        SubFeatureAmbiguous,
        RecordNameTaken,
        SubFeatureIdTaken,
        SubFeatureChanged,
        SubFeatureCursorInvalid,
    ),
    order=("number", "id"),
    descending=False,
    indexed=("status",),
    told=("name", "feature_id"),
    state="status",
)
_AT_ONCE = 500


class Counted(NamedTuple):
    """A feature or a sub-feature with the statuses of its tasks."""

    kind: FeatureKind
    id: str
    number: int
    name: str
    status: FeatureStatus
    tasks: dict[str, int]
    """By status, how many it has."""

    def proposed(self) -> FeatureStatus | None:
        """The status that its tasks speak for; None where they speak for none."""
        present = {TaskStatus(status) for status in self.tasks}
        if TaskStatus.IN_PROGRESS in present:
            return FeatureStatus.IN_PROGRESS
        if present == {TaskStatus.COMPLETED}:
            return FeatureStatus.DONE
        if present and present <= {TaskStatus.COMPLETED, TaskStatus.IN_REVIEW}:
            return FeatureStatus.AI_REVIEW
        return None


def count_completed(tx: Transaction, operation: Operation, feature_id: str, by: int) -> None:
    """Count ``by`` more completed tasks of a feature, or fewer where it is negative; the event of the task tells it."""
    feature = FEATURES.by_id(tx, feature_id)
    if feature is not None:
        FEATURES.write(tx, operation, feature_id, {"completed_tasks": max(feature.completed_tasks + by, 0)})


def with_progress(reader: Reader, features: Sequence[Feature]) -> list[Feature]:
    """The features with the number of their tasks, and the percentage of those that are completed."""
    counts: dict[str, int] = {}
    for start in range(0, len(features), _AT_ONCE):
        ids = [feature.id for feature in features[start : start + _AT_ONCE]]
        counts |= dict(
            reader.all(
                f"SELECT feature_id, count(*) FROM tasks WHERE feature_id IN ({', '.join('?' * len(ids))}) "
                "GROUP BY feature_id",
                ids,
            )
        )
    return [_with_progress(feature, counts.get(feature.id, 0)) for feature in features]


def _with_progress(feature: Feature, tasks: int) -> Feature:
    planned = max(feature.estimated_tasks, tasks)
    percentage = 100 * min(feature.completed_tasks, planned) // planned if planned else 0
    return msgspec.structs.replace(feature, tasks=tasks, percentage=percentage)


def sub_features_of(reader: Reader, feature_id: str) -> list[SubFeature]:
    """The sub-features of a feature, by number."""
    rows = reader.all(
        f"{SUB_FEATURES.select} WHERE sub_features.feature_id = ? ORDER BY sub_features.number", [feature_id]
    )
    return [SUB_FEATURES.decode(row) for row in rows]


def task_counts(reader: Reader, project_id: str, feature_id: str | None = None) -> list[Counted]:
    """The features of a project that have tasks, by number, then the sub-features; or one feature and its own."""
    found: dict[str, Counted] = {}
    for kind, table, column, key in (
        (FeatureKind.FEATURE, "features", "feature_id", "id"),
        (FeatureKind.SUB_FEATURE, "sub_features", "sub_feature_id", "feature_id"),
    ):
        only = "" if feature_id is None else f" AND {table}.{key} = ?"
        rows = reader.all(
            f"SELECT {table}.id, {table}.number, {table}.name, {table}.status, tasks.status, count(*) "
            f"FROM {table} JOIN tasks ON tasks.{column} = {table}.id WHERE {table}.project_id = ?{only} "
            f"GROUP BY {table}.id, {table}.number, {table}.name, {table}.status, tasks.status "
            f"ORDER BY {table}.number",
            [project_id, *([] if feature_id is None else [feature_id])],
        )
        for id_, number, name, status, of_tasks, count in rows:
            one = found.setdefault(id_, Counted(kind, id_, number, name, FeatureStatus(status), {}))
            one.tasks[of_tasks] = count
    return list(found.values())
