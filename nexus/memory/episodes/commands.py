"""The commands of episodes, and the kinds of their events."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from nexus_protocol.command import UNRECORDED, Command, Effect, command
from nexus_protocol.events import event

from nexus.ledger.agents.errors import AgentAmbiguous, AgentNotFound
from nexus.ledger.agents.records import AgentReference
from nexus.ledger.tasks.errors import TaskAmbiguous, TaskNotFound
from nexus.ledger.tasks.records import TaskReference
from nexus.memory.episodes.errors import (
    EpisodeAmbiguous,
    EpisodeChanged,
    EpisodeCursorInvalid,
    EpisodeIdTaken,
    EpisodeInvalid,
    EpisodeNotFound,
)
from nexus.memory.episodes.records import Episode, EpisodePage, EpisodeReference, EpisodesPruned
from nexus.memory.episodes.states import EpisodeType
from nexus.memory.vectors.errors import VectorDimensionMismatch, VectorInvalid
from nexus.records.errors import QueryInvalid
from nexus.records.events import record_events
from nexus.records.fields import (
    ClientId,
    Cursor,
    Match,
    Metadata,
    PageLimit,
    Revision,
    StateRevision,
    Tag,
    Tags,
)

__all__ = [
    "CLEARABLE",
    "CreateEpisode",
    "DeleteEpisode",
    "GetEpisode",
    "ListEpisodes",
    "PruneEpisodes",
    "UpdateEpisode",
]

record_events(
    "episode",
    "An episode",
    created={"type": "what it tells", "task_id": "the id of its task", "agent_id": "the id of its agent"},
    deleted={"type": "what it tells"},
)
event("episode.pruned", "An episode was pruned.", type="what it tells", importance="how important it was")

_LOOKUP = (EpisodeNotFound, EpisodeAmbiguous)
_VECTOR = (VectorInvalid, VectorDimensionMismatch)
_REFERRED = (TaskNotFound, TaskAmbiguous, AgentNotFound, AgentAmbiguous)
_MAX_PAYLOAD = 1024 * 1024

_TEXT = r"^[^\x00]*$"
Type = Annotated[EpisodeType, Meta(description="what it tells")]
Content = Annotated[
    str,
    UNRECORDED,
    Meta(
        min_length=1,
        max_length=60_000,  # with the summary no more than the search index takes of a text
        pattern=_TEXT,
        description="the whole text, which never changes",
        extra={"metavar": "TEXT"},
    ),
]
Summary = Annotated[
    str, Meta(min_length=1, max_length=2000, pattern=_TEXT, description="the text in short", extra={"metavar": "TEXT"})
]
EpisodeContext = Annotated[
    Metadata,
    UNRECORDED,
    Meta(
        description="its context: free-form values, 16 KiB at most, nested 8 deep at most",
        extra={"option": "--context", "metavar": "NAME=VALUE"},
    ),
]
Importance = Annotated[
    float,
    Meta(ge=0, le=1e9, description="what is least important is pruned first", extra={"metavar": "NUMBER"}),
]
Embedding = Annotated[
    list[float],
    UNRECORDED,
    Meta(
        max_length=8192,
        description="its vector by a model of the caller: as many values as the others of the project have",
        extra={"option": None},
    ),
]
Days = Annotated[int, Meta(ge=0, le=100_000, extra={"metavar": "DAYS"})]

CLEARABLE = ("summary", "embedding")
"""The fields of an episode that an update can unset."""


@command(
    0x0588,
    Effect.CHANGE,
    errors=(EpisodeIdTaken, EpisodeInvalid, *_REFERRED, *_VECTOR),
    max_payload=_MAX_PAYLOAD,
    large_reply=True,
)
class CreateEpisode(Command[Episode]):
    """Create an episode.

    Under a lease on a task it is of that task and of the agent that holds it, unless the request names others. With an
    ``id`` chosen by the client, a request can be repeated after a lost reply: if an episode with this id and the same
    fields exists, it is returned.
    """

    type: Type
    content: Content
    summary: Summary | None = None
    episode_context: EpisodeContext | None = None
    task: Annotated[TaskReference, Meta(description="the task that it is of", extra={"option": "--task"})] | None = None
    agent: Annotated[AgentReference, Meta(description="the agent whose it is", extra={"option": "--agent"})] | None = (
        None
    )
    importance: Importance = 1.0
    tags: Tags | None = None
    embedding: Embedding | None = None
    id: ClientId | None = None


@command(0x0589, Effect.READ, errors=(EpisodeCursorInvalid, QueryInvalid), large_reply=True, all_projects=True)
class ListEpisodes(Command[EpisodePage]):
    """List episodes without their contents, newest first. It counts no access.

    A page ends at ``limit`` records or 1 MiB, whichever comes first; ``next_cursor`` is present when more follow.
    """

    type: Annotated[EpisodeType, Meta(description="only episodes that tell this")] | None = None
    task_id: (
        Annotated[TaskReference, Meta(description="only episodes of this task", extra={"option": "--task"})] | None
    ) = None
    agent_id: (
        Annotated[AgentReference, Meta(description="only episodes of this agent", extra={"option": "--agent"})] | None
    ) = None
    tag: Annotated[Tag, Meta(description="only episodes with this tag")] | None = None
    match: Match | None = None
    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(0x058A, Effect.READ, errors=_LOOKUP, large_reply=True)
class GetEpisode(Command[Episode]):
    """Get one episode with its content, and count the access.

    Accesses are written about a second later, many at a time: a daemon that is killed loses those of its last second.
    """

    episode: EpisodeReference
    embedding: Annotated[bool, Meta(description="with its embedding")] = False


@command(
    0x058B,
    Effect.CHANGE,
    errors=(*_LOOKUP, EpisodeChanged, EpisodeInvalid, *_VECTOR),
    max_payload=_MAX_PAYLOAD,
    large_reply=True,
)
class UpdateEpisode(Command[Episode]):
    """Change an episode; absent fields keep their values. Its content never changes."""

    episode: EpisodeReference
    summary: Summary | None = None
    episode_context: EpisodeContext | None = None
    importance: Importance | None = None
    tags: Tags | None = None
    embedding: Embedding | None = None
    clear: (
        Annotated[
            list[Annotated[str, Meta(max_length=32)]],
            Meta(
                max_length=5, description=f"fields to unset, of {' and '.join(CLEARABLE)}", extra={"metavar": "FIELD"}
            ),
        ]
        | None
    ) = None
    if_revision: Revision | None = None


@command(0x058C, Effect.CHANGE, errors=(*_LOOKUP, EpisodeChanged), large_reply=True)
class DeleteEpisode(Command[Episode]):
    """Delete an episode."""

    episode: EpisodeReference
    if_revision: Revision | None = None
    if_state_revision: StateRevision | None = None


@command(0x058D, Effect.CHANGE, errors=(EpisodeInvalid,), large_reply=True)
class PruneEpisodes(Command[EpisodesPruned]):
    """Delete the episodes of a project that meet all conditions given, of which one is needed.

    The least important are deleted first, then the oldest, then those that were accessed least.
    """

    keep: Annotated[int, Meta(ge=0, le=10_000_000, description="never the best of them, so many")] | None = None
    below: (
        Annotated[
            float, Meta(ge=0, description="only those that are less important than this", extra={"metavar": "NUMBER"})
        ]
        | None
    ) = None
    older_days: (
        Annotated[Days, Meta(description="only those that were made longer ago than this", extra={"option": "--older"})]
        | None
    ) = None
    unused_days: (
        Annotated[
            Days,
            Meta(description="only those that were not accessed for longer than this", extra={"option": "--unused"}),
        ]
        | None
    ) = None
    limit: Annotated[int, Meta(ge=1, le=200, description="how many at most, 1 to 200")] = 200
    dry_run: Annotated[bool, Meta(description="tell them, and delete none")] = False
