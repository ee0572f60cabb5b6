"""The records of features and sub-features, and the annotated types that records and commands share."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field
from nexus_protocol.command import Record, WireEnum

from nexus.ledger.states import Complexity, FeatureStatus, MoscowPriority
from nexus.records.fields import Reference

__all__ = [
    "Feature",
    "FeatureDeleted",
    "FeatureKind",
    "FeaturePage",
    "FeatureReference",
    "StatusProposal",
    "SubFeature",
    "SubFeatureDeleted",
    "SubFeaturePage",
    "SubFeatureReference",
    "SyncedFeatures",
]

FeatureReference = Annotated[
    Reference,
    Meta(
        description="the number of the feature in its project, as 12 or #12, else its id or a unique prefix of it; "
        "PROJECT/12 is that in another project",
        extra={"completes": "feature", "metavar": "FEATURE"},
    ),
]
SubFeatureReference = Annotated[
    Reference,
    Meta(
        description="the number of the sub-feature in its project, as 12 or #12, else its id or a unique prefix of "
        "it; PROJECT/12 is that in another project",
        extra={"completes": "sub-feature", "metavar": "SUB_FEATURE"},
    ),
]


class FeatureKind(WireEnum):
    """Which of the two kinds of features a record is of."""

    FEATURE = "feature"
    SUB_FEATURE = "sub_feature"


class Feature(Record, kw_only=True):
    """A feature. Optional fields are present only if they are set."""

    id: str
    number: int
    """It identifies the feature in its project, and is given once."""
    project_id: str
    project: str
    """The name of its project."""
    name: str
    """What people read; several features may have the same."""
    description: str | None = None
    priority: MoscowPriority = MoscowPriority.SHOULD
    status: FeatureStatus = FeatureStatus.BACKLOG
    complexity: Complexity = Complexity.SIMPLE
    tags: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    estimated_tasks: int = 0
    """How many tasks it is planned to need."""
    completed_tasks: int = 0
    """How many of its tasks are completed."""
    tasks: int = 0
    """How many tasks it has."""
    percentage: int = 0
    """``completed_tasks`` of ``estimated_tasks``, or of ``tasks`` if these are more; rounded down."""
    created_at: int
    updated_at: int
    revision: int
    """Counts the changes of its configuration, its status included, from 1."""
    state_revision: int
    """Counts the changes of ``completed_tasks``, from 0."""


class FeaturePage(Record):
    """One page of features, by number, and the cursor of the next page."""

    features: list[Feature]
    next_cursor: str | None = None


class SubFeature(Record, kw_only=True):
    """A part of a feature. Optional fields are present only if they are set."""

    id: str
    number: int
    """It identifies the sub-feature in its project, and is given once."""
    project_id: str
    project: str
    """The name of its project."""
    feature_id: str
    name: str
    """What people read; several sub-features may have the same."""
    description: str | None = None
    status: FeatureStatus = FeatureStatus.BACKLOG
    created_at: int
    updated_at: int
    revision: int
    """Counts the changes of its configuration, its status included, from 1."""
    state_revision: int
    """Stays 0: it has no state that the daemon keeps."""


class SubFeaturePage(Record):
    """One page of sub-features, by number, and the cursor of the next page."""

    sub_features: list[SubFeature]
    next_cursor: str | None = None


class FeatureDeleted(Record):
    """The deleted feature, and what was deleted with it."""

    feature: Feature
    sub_features: int = 0
    tasks: int = 0
    requirements: int = 0
    """How many requirements were linked to it, and are not any more."""


class SubFeatureDeleted(Record):
    """The deleted sub-feature, and what was deleted with it."""

    sub_feature: SubFeature
    tasks: int = 0


class StatusProposal(Record):
    """The status that the tasks of a feature or a sub-feature speak for; it has another one."""

    kind: FeatureKind
    id: str
    number: int
    name: str
    status: FeatureStatus
    """What it had."""
    proposed: FeatureStatus
    tasks: dict[str, int]
    """By status, how many tasks it has."""


class SyncedFeatures(Record):
    """What was proposed: features by number, then sub-features by number."""

    proposals: list[StatusProposal]
    applied: bool
    """Whether the statuses were set."""
