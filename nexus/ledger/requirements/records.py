"""The records of requirements."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field
from nexus_protocol.command import Record

from nexus.ledger.states import RequirementCategory, RequirementPriority
from nexus.records.fields import Reference

__all__ = ["Requirement", "RequirementPage", "RequirementReference"]

RequirementReference = Annotated[
    Reference,
    Meta(
        description="the number of the requirement in its project, as 12 or #12, else its id or a unique prefix of "
        "it; PROJECT/12 is that in another project",
        extra={"completes": "requirement", "metavar": "REQUIREMENT"},
    ),
]


class Requirement(Record, kw_only=True):
    """A requirement. Optional fields are present only if they are set."""

    id: str
    number: int
    """It identifies the requirement in its project, and is given once."""
    project_id: str
    project: str
    """The name of its project."""
    category: RequirementCategory
    description: str
    priority: RequirementPriority = RequirementPriority.MEDIUM
    source: str | None = None
    """Where it comes from."""
    user_stories: list[str] = field(default_factory=list)
    acceptance_criteria: list[str] = field(default_factory=list)
    linked_features: list[str] = field(default_factory=list)
    """The ids of the features that meet it, in the order in which they were linked."""
    validated: bool = False
    """Whether a person has confirmed it."""
    confidence: float = 1.0
    """How certain its author is of it, from 0 to 1."""
    tags: list[str] = field(default_factory=list)
    created_at: int
    updated_at: int
    revision: int
    """Counts the changes of its configuration, from 1."""
    state_revision: int
    """Stays 0: it has no state that the daemon keeps."""
    names: dict[str, str] = field(default_factory=dict)
    """Of GetRequirement, for people: what the linked features are called, by id, as ``#3 Sign in``."""

    @property
    def name(self) -> str:
        """How sentences and references name it: by its number."""
        return str(self.number)


class RequirementPage(Record):
    """One page of requirements, by number, and the cursor of the next page."""

    requirements: list[Requirement]
    next_cursor: str | None = None
