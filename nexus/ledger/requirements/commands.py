"""The commands of requirements, and the kinds of their events."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from nexus_protocol.command import Command, Effect, command

from nexus.ledger.features.errors import FeatureAmbiguous, FeatureNotFound
from nexus.ledger.features.records import FeatureReference
from nexus.ledger.requirements.errors import (
    RequirementAmbiguous,
    RequirementChanged,
    RequirementCursorInvalid,
    RequirementElsewhere,
    RequirementIdTaken,
    RequirementNotFound,
)
from nexus.ledger.requirements.records import Requirement, RequirementPage, RequirementReference
from nexus.ledger.states import RequirementCategory, RequirementPriority
from nexus.records.errors import QueryInvalid
from nexus.records.events import record_events
from nexus.records.fields import ClientId, Cursor, Match, PageLimit, Revision, StateRevision, Tag, Tags

__all__ = [
    "CreateRequirement",
    "DeleteRequirement",
    "GetRequirement",
    "LinkRequirement",
    "ListRequirements",
    "UnlinkRequirement",
    "UpdateRequirement",
    "ValidateRequirement",
]

record_events(
    "requirement",
    "A requirement",
    created={"category": "what it is about", "priority": "how important it is"},
    deleted={"category": "what it is about"},
)

_LOOKUP = (RequirementNotFound, RequirementAmbiguous)
_FEATURE = (FeatureNotFound, FeatureAmbiguous)

_TEXT = r"^[^\x00]*$"
Category = Annotated[RequirementCategory, Meta(description="what it is about")]
Description = Annotated[
    str, Meta(min_length=1, max_length=32_768, pattern=_TEXT, description="what is required", extra={"metavar": "TEXT"})
]
Priority = Annotated[RequirementPriority, Meta(description="how important it is")]
Source = Annotated[str, Meta(max_length=1000, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)", description="where it comes from")]
Text = Annotated[str, Meta(min_length=1, max_length=4096, pattern=_TEXT)]
UserStories = Annotated[
    list[Text],
    Meta(max_length=100, description="a user story of it", extra={"option": "--user-story", "metavar": "TEXT"}),
]
Criteria = Annotated[
    list[Text],
    Meta(max_length=100, description="when it is met", extra={"option": "--criterion", "metavar": "TEXT"}),
]
Confidence = Annotated[
    float, Meta(ge=0, le=1, description="how certain its author is of it, from 0 to 1", extra={"metavar": "NUMBER"})
]
Features = Annotated[
    list[FeatureReference], Meta(min_length=1, max_length=100, description="the features", extra={"metavar": "FEATURE"})
]


@command(0x0550, Effect.CHANGE, errors=(RequirementIdTaken, RequirementElsewhere, *_FEATURE), max_payload=1024 * 1024)
class CreateRequirement(Command[Requirement]):
    """Create a requirement, which is not validated yet.

    With an ``id`` chosen by the client, a request can be repeated after a lost reply: if a requirement with this id
    and the same fields exists, it is returned.
    """

    category: Category
    description: Description
    priority: Priority = RequirementPriority.MEDIUM
    source: Source | None = None
    user_stories: UserStories | None = None
    acceptance_criteria: Criteria | None = None
    features: (
        Annotated[
            list[FeatureReference],
            Meta(
                max_length=100,
                description="a feature that meets it",
                extra={"option": "--feature", "metavar": "FEATURE"},
            ),
        ]
        | None
    ) = None
    confidence: Confidence = 1.0
    tags: Tags | None = None
    id: ClientId | None = None


@command(0x0551, Effect.READ, errors=(RequirementCursorInvalid, QueryInvalid), large_reply=True, all_projects=True)
class ListRequirements(Command[RequirementPage]):
    """List requirements, by number.

    A page ends at ``limit`` records or 1 MiB, whichever comes first; ``next_cursor`` is present when more follow.
    """

    category: Annotated[RequirementCategory, Meta(description="only requirements of this category")] | None = None
    priority: Annotated[RequirementPriority, Meta(description="only requirements of this priority")] | None = None
    validated: Annotated[bool, Meta(description="only validated ones, or only others")] | None = None
    feature: (
        Annotated[
            FeatureReference, Meta(description="only requirements that are linked to it", extra={"metavar": "FEATURE"})
        ]
        | None
    ) = None
    tag: Annotated[Tag, Meta(description="only requirements with this tag")] | None = None
    match: Match | None = None
    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(0x0552, Effect.READ, errors=_LOOKUP, large_reply=True)
class GetRequirement(Command[Requirement]):
    """Get one requirement."""

    requirement: RequirementReference


@command(0x0553, Effect.CHANGE, errors=(*_LOOKUP, RequirementChanged), max_payload=1024 * 1024)
class UpdateRequirement(Command[Requirement]):
    """Change a requirement; absent fields keep their values."""

    requirement: RequirementReference
    category: Category | None = None
    description: Description | None = None
    priority: Priority | None = None
    source: Source | None = None
    user_stories: UserStories | None = None
    acceptance_criteria: Criteria | None = None
    confidence: Confidence | None = None
    tags: Tags | None = None
    clear: (
        Annotated[
            list[Annotated[str, Meta(max_length=32)]],
            Meta(max_length=1, description="fields to unset: source", extra={"metavar": "FIELD"}),
        ]
        | None
    ) = None
    if_revision: Revision | None = None


@command(0x0554, Effect.CHANGE, errors=(*_LOOKUP, RequirementChanged))
class DeleteRequirement(Command[Requirement]):
    """Delete a requirement. Its features stay."""

    requirement: RequirementReference
    if_revision: Revision | None = None
    if_state_revision: StateRevision | None = None


@command(0x0555, Effect.CHANGE, errors=(*_LOOKUP, *_FEATURE, RequirementChanged, RequirementElsewhere))
class LinkRequirement(Command[Requirement]):
    """Link features to a requirement: they meet it. One that is linked already stays so."""

    requirement: RequirementReference
    features: Features
    if_revision: Revision | None = None


@command(0x0556, Effect.CHANGE, errors=(*_LOOKUP, *_FEATURE, RequirementChanged))
class UnlinkRequirement(Command[Requirement]):
    """Unlink features from a requirement. For one that is not linked nothing changes."""

    requirement: RequirementReference
    features: Features
    if_revision: Revision | None = None


@command(0x0557, Effect.CHANGE, errors=(*_LOOKUP, RequirementChanged))
class ValidateRequirement(Command[Requirement]):
    """Say that a person has confirmed a requirement, or take that back."""

    requirement: RequirementReference
    validated: Annotated[bool, Meta(description="whether it is confirmed")] = True
    if_revision: Revision | None = None
