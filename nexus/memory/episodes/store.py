"""The table of episodes, and the SQL of them that ``records.Table`` does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
from nexus_protocol.command import UNRECORDED, Record

from nexus.journal.operation import Operation
from nexus.journal.rows import derived
from nexus.memory.episodes.errors import (
    EpisodeAmbiguous,
    EpisodeChanged,
    EpisodeCursorInvalid,
    EpisodeIdTaken,
    EpisodeNotFound,
)
from nexus.memory.episodes.records import Episode
from nexus.memory.names_store import agent_names, task_numbers
from nexus.memory.vectors import store as vectors
from nexus.memory.vectors.states import VALUE_BYTES
from nexus.records.errors import RecordErrors, RecordNameTaken
from nexus.records.table import Table
from nexus.store import Reader, Transaction

__all__ = [
    "COLLECTION",
    "EPISODES",
    "Conditions",
    "count_accesses",
    "delete",
    "embedding_of",
    "light",
    "pruned",
    "pruned_count",
    "with_names",
]

COLLECTION = "episodes"
"""Where the embeddings of episodes are."""


class _Embedded(Record):
    """What only the daemon reads."""

    embedding: Annotated[bytes, UNRECORDED] | None = None


EPISODES = Table(
    Episode,
    "episodes",
    kind="episode",
    word="episode",
    look="episode inspect",
    errors=RecordErrors(
        EpisodeNotFound,
        EpisodeAmbiguous,
        RecordNameTaken,
        EpisodeIdTaken,
        EpisodeChanged,
        EpisodeCursorInvalid,
    ),
    volatile=("embedding", "access_count", "last_accessed_at"),
    order=("number", "id"),
    indexed=("type", "task_id", "agent_id"),
    told=("type", "task_id", "agent_id"),
    private=_Embedded,
    unlisted=("content",),
    computed=("excerpt", "task_number", "agent", "dimension", "embedding"),
    searchable=True,
)
derived("kept_embedding", "the embeddings of deleted episodes that a checkpoint has")

_EXCERPT = 200
# What is pruned first.
_ORDER = "importance, created_at, access_count, id"
_LOOKED_AT = f"project_id, last_accessed_at, {_ORDER}"


# Reading


def embedding_of(reader: Reader, episode_id: str) -> bytes | None:
    """The embedding of an episode."""
    row = reader.one("SELECT embedding FROM episodes WHERE id = ?", (episode_id,))
    return None if row is None else row[0]


def with_names(reader: Reader, episodes: list[Episode]) -> list[Episode]:
    """Episodes with the numbers of their tasks, the names of their agents, and the dimensions of their embeddings."""
    numbers = task_numbers(reader, (each.task_id for each in episodes))
    names = agent_names(reader, (each.agent_id for each in episodes))
    sizes = _beside(reader, episodes, "length(embedding)")
    return [
        msgspec.structs.replace(
            each,
            task_number=numbers.get(each.task_id),
            agent=names.get(each.agent_id),
            dimension=None if (size := sizes.get(each.id)) is None else size // VALUE_BYTES,
        )
        for each in episodes
    ]


def light(reader: Reader, episodes: list[Episode]) -> list[Episode]:
    """Episodes as lists have them: with an excerpt in the place of the content."""
    begins = _beside(reader, episodes, f"substr(content, 1, {_EXCERPT + 1})")
    return [
        msgspec.structs.replace(each, content=None, excerpt=_excerpt(begins.get(each.id, "")))
        for each in with_names(reader, episodes)
    ]


def _excerpt(text: str) -> str:
    cut = text if len(text) <= _EXCERPT else text[:_EXCERPT] + "…"
    return " ".join(cut.split())


def _beside(reader: Reader, episodes: list[Episode], column: str) -> dict[str, Any]:
    """What is not in the records of episodes, by id."""
    if not episodes:
        return {}
    rows = reader.all(
        f"SELECT id, {column} FROM episodes WHERE id IN ({', '.join('?' * len(episodes))})",
        [each.id for each in episodes],
    )
    return dict(rows)


# Pruning


class Conditions(NamedTuple):
    """Which episodes of a project are to be pruned; None asks nothing."""

    project_id: str
    keep: int | None = None
    below: float | None = None
    made_before: int | None = None
    unused_since: int | None = None


def _where(reader: Reader, wanted: Conditions) -> tuple[str, list[Any]]:
    """The table and the conditions of a query for them, with its parameters."""
    source, parameters = "episodes", []
    if wanted.keep is not None:
        row = reader.one("SELECT count(*) FROM episodes WHERE project_id = ?", (wanted.project_id,))
        assert row is not None
        beyond = row[0] - wanted.keep if row[0] > wanted.keep else 0
        source = f"(SELECT {_LOOKED_AT} FROM episodes WHERE project_id = ? ORDER BY {_ORDER} LIMIT ?) AS episodes"
        parameters += [wanted.project_id, beyond]
    conditions = ["episodes.project_id = ?"]
    parameters.append(wanted.project_id)
    for condition, value in (
        ("episodes.importance < ?", wanted.below),
        ("episodes.created_at < ?", wanted.made_before),
        ("coalesce(episodes.last_accessed_at, episodes.created_at) < ?", wanted.unused_since),
    ):
        if value is not None:
            conditions.append(condition)
            parameters.append(value)
    return f"{source} WHERE {' AND '.join(conditions)}", parameters


def pruned_count(reader: Reader, wanted: Conditions) -> int:
    """How many episodes are to be pruned."""
    where, parameters = _where(reader, wanted)
    row = reader.one(f"SELECT count(*) FROM {where}", parameters)
    assert row is not None
    count: int = row[0]
    return count


def pruned(reader: Reader, wanted: Conditions, limit: int) -> list[Episode]:
    """At most ``limit`` of the episodes that are to be pruned, in their order, without contents."""
    where, parameters = _where(reader, wanted)
    ids = reader.all(f"SELECT id FROM {where} ORDER BY {_ORDER} LIMIT ?", (*parameters, limit))
    # One after the other, so that no more than one content is in memory.
    return [msgspec.structs.replace(EPISODES.get(reader, id_), content=None) for (id_,) in ids]


# Writing


def delete(
    tx: Transaction, operation: Operation, episode: Episode, *, event: str = "deleted", kept: bool = True
) -> None:
    """Delete an episode; its embedding is kept, unless told otherwise, where the project has checkpoints."""
    told = ("type", "importance") if event == "pruned" else ("type",)
    if kept:
        tx.execute(
            "INSERT INTO kept_embedding (episode_id, project_id, embedding, deleted_at) "
            "SELECT id, project_id, embedding, ? FROM episodes WHERE id = ? AND embedding IS NOT NULL "
            "AND EXISTS (SELECT 1 FROM checkpoints WHERE checkpoints.project_id = episodes.project_id) "
            "ON CONFLICT (episode_id) DO UPDATE SET embedding = excluded.embedding, deleted_at = excluded.deleted_at",
            (tx.now, episode.id),
        )
    if embedding_of(tx, episode.id) is not None:
        vectors.forget(tx, episode.project_id, COLLECTION, [episode.id])
    EPISODES.delete(tx, operation, episode, told, event=event)


def count_accesses(tx: Transaction, counted: Mapping[str, tuple[int, int]]) -> None:
    """Add to the accesses of episodes, by id: how many, and when the last one was. Those that are gone are passed over.

    Such a change is in no image, and raises nothing.
    """
    for id_, (count, at) in counted.items():
        row = EPISODES.rows.read(tx, id_, ("access_count", "last_accessed_at"))
        if row is not None:
            last = row["last_accessed_at"]
            values = {"access_count": row["access_count"] + count, "last_accessed_at": at}
            if last is not None and last > at:
                del values["last_accessed_at"]
            EPISODES.rows.update(tx, id_, values)
