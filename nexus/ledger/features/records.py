"""The records of features and sub-features."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field
from nexus_protocol.command import Record

from nexus.ledger.states import Complexity, FeatureStatus, MoscowPriority
from nexus.records.fields import Reference

__all__ = ["Feature", "FeatureReference", "SubFeature", "SubFeatureReference"]

FeatureReference = Annotated[
    Reference,
    Meta(description="the number of the feature in its project, as 12 or #12, else its id or a unique prefix of it"),
]
SubFeatureReference = Annotated[
    Reference,
    Meta(description="the number of the sub-feature in its project, as 12 or #12, else its id or a prefix of it"),
]


class Feature(Record, kw_only=True):
    """A feature of a project."""

    id: str
    number: int
    project_id: str
    project: str
    name: str
    description: str | None = None
    priority: MoscowPriority = MoscowPriority.SHOULD
    status: FeatureStatus = FeatureStatus.BACKLOG
    complexity: Complexity = Complexity.SIMPLE
    tags: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    estimated_tasks: int = 0
    completed_tasks: int = 0
    created_at: int
    updated_at: int
    revision: int
    state_revision: int


class SubFeature(Record, kw_only=True):
    """A part of a feature."""

    id: str
    number: int
    project_id: str
    project: str
    feature_id: str
    name: str
    description: str | None = None
    status: FeatureStatus = FeatureStatus.BACKLOG
    created_at: int
    updated_at: int
    revision: int
    state_revision: int
