"""The commands of features and sub-features, and the kinds of their events."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from nexus_protocol.command import Command, Effect, command

from nexus.ledger.features.errors import (
    FeatureAmbiguous,
    FeatureChanged,
    FeatureCursorInvalid,
    FeatureIdTaken,
    FeatureNotEmpty,
    FeatureNotFound,
    SubFeatureAmbiguous,
    SubFeatureChanged,
    SubFeatureCursorInvalid,
    SubFeatureIdTaken,
    SubFeatureNotEmpty,
    SubFeatureNotFound,
)
from nexus.ledger.features.records import (
    Feature,
    FeatureDeleted,
    FeaturePage,
    FeatureReference,
    SubFeature,
    SubFeatureDeleted,
    SubFeaturePage,
    SubFeatureReference,
    SyncedFeatures,
)
from nexus.ledger.states import Complexity, FeatureStatus, MoscowPriority
from nexus.records.errors import QueryInvalid
from nexus.records.events import record_events
from nexus.records.fields import ClientId, Cursor, Match, Metadata, PageLimit, Revision, StateRevision, Tag, Tags

__all__ = [
    "CreateFeature",
    "CreateSubFeature",
    "DeleteFeature",
    "DeleteSubFeature",
    "GetFeature",
    "GetSubFeature",
    "ListFeatures",
    "ListSubFeatures",
    "SyncFeatures",
    "UpdateFeature",
    "UpdateSubFeature",
]

record_events(
    "feature",
    "A feature",
    created={"name": "its name", "priority": "how much it is needed"},
    deleted={"name": "its name"},
)
record_events(
    "sub_feature",
    "A sub-feature",
    created={"name": "its name", "feature_id": "its feature"},
    deleted={"name": "its name", "feature_id": "its feature"},
)

_LOOKUP = (FeatureNotFound, FeatureAmbiguous)
_SUB_LOOKUP = (SubFeatureNotFound, SubFeatureAmbiguous)

Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)",
        description="what people read, 1 to 200 characters on one line",
        extra={"metavar": "NAME"},
    ),
]
Description = Annotated[str, Meta(max_length=32_768, description="what it is about")]
Priority = Annotated[MoscowPriority, Meta(description="how much it is needed")]
Status = Annotated[FeatureStatus, Meta(description="how far it is")]
Complex = Annotated[Complexity, Meta(description="how complex it is")]
Estimated = Annotated[int, Meta(ge=0, le=1_000_000, description="how many tasks it is planned to need")]


@command(0x0510, Effect.CHANGE, errors=(FeatureIdTaken,))
class CreateFeature(Command[Feature]):
    """Create a feature.

    With an ``id`` chosen by the client, a request can be repeated after a lost reply: if a feature with this id and
    the same fields exists, it is returned.
    """

    name: Name
    description: Description | None = None
    priority: Priority = MoscowPriority.SHOULD
    status: Status = FeatureStatus.BACKLOG
    complexity: Complex = Complexity.SIMPLE
    estimated_tasks: Estimated = 0
    tags: Tags | None = None
    metadata: Metadata | None = None
    id: ClientId | None = None


@command(0x0511, Effect.READ, errors=(FeatureCursorInvalid, QueryInvalid), large_reply=True, all_projects=True)
class ListFeatures(Command[FeaturePage]):
    """List features, by number.

    A page ends at ``limit`` records or 1 MiB, whichever comes first; ``next_cursor`` is present when more follow.
    """

    status: Annotated[FeatureStatus, Meta(description="only features in this status")] | None = None
    priority: Annotated[MoscowPriority, Meta(description="only features of this priority")] | None = None
    complexity: Annotated[Complexity, Meta(description="only features that are so complex")] | None = None
    tag: Annotated[Tag, Meta(description="only features with this tag")] | None = None
    match: Match | None = None
    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(0x0512, Effect.READ, errors=_LOOKUP)
class GetFeature(Command[Feature]):
    """Get one feature."""

    feature: FeatureReference


@command(0x0513, Effect.CHANGE, errors=(*_LOOKUP, FeatureChanged))
class UpdateFeature(Command[Feature]):
    """Change a feature, or move it to another status; absent fields keep their values."""

    feature: FeatureReference
    name: Name | None = None
    description: Description | None = None
    priority: Priority | None = None
    status: Status | None = None
    complexity: Complex | None = None
    estimated_tasks: Estimated | None = None
    tags: Tags | None = None
    metadata: Metadata | None = None
    clear: (
        Annotated[
            list[Annotated[str, Meta(max_length=32)]],
            Meta(max_length=1, description="fields to unset: description", extra={"metavar": "FIELD"}),
        ]
        | None
    ) = None
    if_revision: Revision | None = None


@command(0x0514, Effect.CHANGE, errors=(*_LOOKUP, FeatureChanged, FeatureNotEmpty))
class DeleteFeature(Command[FeatureDeleted]):
    """Delete a feature, and take it out of the requirements that are linked to it.

    One that has sub-features or tasks is deleted with ``cascade``, which deletes these too, each with an event.
    """

    feature: FeatureReference
    cascade: Annotated[bool, Meta(description="delete its sub-features and tasks too")] = False
    if_revision: Revision | None = None
    if_state_revision: StateRevision | None = None


@command(0x0515, Effect.CHANGE, errors=_LOOKUP, large_reply=True)
class SyncFeatures(Command[SyncedFeatures]):
    """Propose for features and sub-features the status that their tasks speak for; with ``apply`` set it.

    One with a task that is in progress is in progress itself. If all tasks are completed it is done, and if the others
    are in review it is in ai_review. For any other nothing is proposed.
    """

    feature: Annotated[FeatureReference, Meta(description="only this feature and its sub-features")] | None = None
    apply: Annotated[bool, Meta(description="set the statuses")] = False


@command(0x0518, Effect.CHANGE, errors=(*_LOOKUP, SubFeatureIdTaken))
class CreateSubFeature(Command[SubFeature]):
    """Create a sub-feature, in the project of its feature.

    With an ``id`` chosen by the client, a request can be repeated after a lost reply: if a sub-feature with this id
    and the same fields exists, it is returned.
    """

    feature_id: FeatureReference
    name: Name
    description: Description | None = None
    status: Status = FeatureStatus.BACKLOG
    id: ClientId | None = None


@command(0x0519, Effect.READ, errors=(SubFeatureCursorInvalid,), large_reply=True, all_projects=True)
class ListSubFeatures(Command[SubFeaturePage]):
    """List sub-features, by number.

    A page ends at ``limit`` records or 1 MiB, whichever comes first; ``next_cursor`` is present when more follow.
    """

    feature_id: (
        Annotated[
            FeatureReference, Meta(description="only sub-features of this feature", extra={"option": "--feature"})
        ]
        | None
    ) = None
    status: Annotated[FeatureStatus, Meta(description="only sub-features in this status")] | None = None
    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(0x051A, Effect.READ, errors=_SUB_LOOKUP)
class GetSubFeature(Command[SubFeature]):
    """Get one sub-feature."""

    sub_feature: SubFeatureReference


@command(0x051B, Effect.CHANGE, errors=(*_SUB_LOOKUP, SubFeatureChanged))
class UpdateSubFeature(Command[SubFeature]):
    """Change a sub-feature, or move it to another status; absent fields keep their values."""

    sub_feature: SubFeatureReference
    name: Name | None = None
    description: Description | None = None
    status: Status | None = None
    clear: (
        Annotated[
            list[Annotated[str, Meta(max_length=32)]],
            Meta(max_length=1, description="fields to unset: description", extra={"metavar": "FIELD"}),
        ]
        | None
    ) = None
    if_revision: Revision | None = None


@command(0x051C, Effect.CHANGE, errors=(*_SUB_LOOKUP, SubFeatureChanged, SubFeatureNotEmpty))
class DeleteSubFeature(Command[SubFeatureDeleted]):
    """Delete a sub-feature. One that has tasks is deleted with ``cascade``, which deletes these too."""

    sub_feature: SubFeatureReference
    cascade: Annotated[bool, Meta(description="delete its tasks too")] = False
    if_revision: Revision | None = None
    if_state_revision: StateRevision | None = None
