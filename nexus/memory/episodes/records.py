"""The records of episodes."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field
from nexus_protocol.command import UNRECORDED, Record

from nexus.memory.episodes.states import EpisodeType
from nexus.records.fields import Reference

__all__ = ["Episode", "EpisodePage", "EpisodeReference", "EpisodesPruned"]

EpisodeReference = Annotated[
    Reference,
    Meta(
        description="the number of the episode in its project, as 12 or #12, else its id or a unique prefix of it; "
        "PROJECT/12 is that in another project",
        extra={"completes": "episode", "metavar": "EPISODE"},
    ),
]


class Episode(Record, kw_only=True):
    """What was learned. Optional fields are present only if they are set."""

    id: str
    number: int
    """It identifies the episode in its project, and is given once."""
    project_id: str
    project: str
    """The name of its project."""
    type: EpisodeType
    content: Annotated[str, UNRECORDED] | None = None
    """The whole text, which never changes; lists leave it out."""
    excerpt: Annotated[str, UNRECORDED] | None = None
    """Of lists: the beginning of the content, in one line."""
    summary: str | None = None
    context: Annotated[dict[str, Any], UNRECORDED] = field(default_factory=dict)
    task_id: str | None = None
    task_number: int | None = None
    """The number of that task, where it is still there."""
    agent_id: str | None = None
    agent: str | None = None
    """The name of that agent, where it is still there."""
    importance: float = 1.0
    """What is least important is pruned first."""
    tags: list[str] = field(default_factory=list)
    dimension: int | None = None
    """How many values its embedding has; absent without one."""
    embedding: Annotated[list[float], UNRECORDED] | None = None
    """Present only where it was asked for."""
    access_count: int = 0
    """How often it was got or recalled."""
    last_accessed_at: int | None = None
    created_at: int
    updated_at: int
    revision: int
    """Counts its changes, from 1. An access is none."""
    state_revision: int
    """Stays 0: it has no state that the daemon keeps."""

    @property
    def name(self) -> str:
        """How sentences and references name it: by its number."""
        return str(self.number)


class EpisodePage(Record):
    """One page of episodes, newest first, and the cursor of the next page."""

    episodes: list[Episode]
    next_cursor: str | None = None


class EpisodesPruned(Record, kw_only=True):
    """The episodes that were pruned, or would be, in the order of their pruning."""

    episodes: list[Episode]
    """Without their contents."""
    matching: int
    """How many meet the conditions, with these."""
    pruned: bool
    """Whether they were deleted."""
    more: bool = False
    """Whether more of them meet the conditions than the limit of the request."""
