"""The handlers of the commands on episodes."""

from __future__ import annotations

from typing import Any

import msgspec
from nexus_protocol import InvalidArgument

from nexus.capability import Context, handles
from nexus.journal.operation import Operation
from nexus.ledger.agents.store import agent_named
from nexus.ledger.leases.store import LEASES
from nexus.ledger.tasks.store import TASKS
from nexus.memory.episodes.commands import (
    CLEARABLE,
    CreateEpisode,
    DeleteEpisode,
    GetEpisode,
    ListEpisodes,
    PruneEpisodes,
    UpdateEpisode,
)
from nexus.memory.episodes.errors import EpisodeInvalid
from nexus.memory.episodes.records import Episode, EpisodesPruned
from nexus.memory.episodes.store import (
    COLLECTION,
    EPISODES,
    Conditions,
    delete,
    embedding_of,
    light,
    pruned,
    pruned_count,
    with_names,
)
from nexus.memory.manager import MemoryManager
from nexus.memory.vectors import store as vectors
from nexus.memory.vectors import validation
from nexus.records.contents import Contents, Held, contents, numbered
from nexus.records.handlers import check_cleared, check_metadata, lists
from nexus.store import Reader, Transaction

__all__ = ["create_episode", "delete_episode", "get_episode", "list_episodes", "prune_episodes", "update_episode"]

_DAY_MS = 86_400_000
_GIVEN = ("type", "content", "summary", "importance", "tags", "id")
_CHANGED = ("summary", "importance", "tags")


def _delete_all(tx: Transaction, operation: Operation, _project_id: str, held: list[Held]) -> None:
    for each in held:
        delete(tx, operation, EPISODES.get(tx, each.id), kept=False)


contents(Contents("episode", "episode", numbered(EPISODES), _delete_all))

list_episodes = lists(EPISODES, ListEpisodes, "episodes", {"task_id": "task", "agent_id": "agent"}, complete=light)


def _shown(reader: Reader, episode: Episode) -> Episode:
    return with_names(reader, [episode])[0]


@handles(CreateEpisode, size_bytes=lambda command: 4096 + 2 * len(command.content))
def create_episode(tx: Transaction, ctx: Context, command: CreateEpisode) -> Episode:
    cannot = "cannot create the episode"
    check_metadata(command, cannot)
    fields: dict[str, Any] = {name: getattr(command, name) for name in _GIVEN}
    fields |= {"context": command.episode_context, **_origin(tx, ctx, command, cannot)}
    embedding = None if command.embedding is None else validation.embedding(command.embedding)
    present = None if command.id is None else EPISODES.by_id(tx, command.id)
    if present is not None:
        return _repeated(tx, present, fields, embedding, cannot)
    episode = EPISODES.insert(tx, ctx.operation, fields | {"embedding": embedding})
    if embedding is not None:
        vectors.write(tx, episode.project_id, COLLECTION, episode.id, embedding)
    return _shown(tx, episode)


def _origin(tx: Transaction, ctx: Context, command: CreateEpisode, cannot: str) -> dict[str, str | None]:
    """The project, the task and the agent of a new episode: those that the request names, else those of its lease."""
    scope = ctx.scope(tx)
    task_id: str | None
    agent_id: str | None
    lease = None if ctx.request.lease is None else LEASES.by_id(tx, ctx.request.lease.id)
    held = None if lease is None or lease.resource_kind != "task" else TASKS.by_id(tx, lease.resource_id)
    if command.task is not None:
        task = TASKS.resolve(tx, command.task, scope)
        project_id, task_id = task.project_id, task.id
    else:
        project_id = scope.home(cannot)
        task_id = None if held is None or held.project_id != project_id else held.id
    if command.agent is not None:
        agent_id = agent_named(tx, command.agent).id
    else:
        agent_id = None if lease is None else lease.holder
    return {"project_id": project_id, "task_id": task_id, "agent_id": agent_id}


def _repeated(
    tx: Transaction, present: Episode, fields: dict[str, Any], embedding: bytes | None, cannot: str
) -> Episode:
    """The episode that the same request made before.

    Raises:
        EpisodeIdTaken: it differs from the request.
    """
    wanted = fields | {"tags": list(dict.fromkeys(fields["tags"] or []))}
    # What was not given may be empty or absent.
    differs = [name for name, value in wanted.items() if getattr(present, name) != value]
    same = not any(wanted[name] or getattr(present, name) for name in differs)
    if same and embedding_of(tx, present.id) == embedding:
        return _shown(tx, present)
    raise EPISODES.errors.id_taken(
        f"{cannot}: episode {present.number} has the id {present.id} and differs from this request",
        hint="To repeat a request, give the fields that the episode has now; for another one choose another id.",
        details={"id": present.id, "name": present.name},
    )


@handles(GetEpisode)
async def get_episode(ctx: Context, command: GetEpisode) -> Episode:
    def read(reader: Reader) -> Episode:
        episode = _shown(reader, EPISODES.resolve(reader, command.episode, ctx.scope(reader)))
        if not command.embedding or episode.dimension is None:
            return episode
        packed = embedding_of(reader, episode.id)
        return msgspec.structs.replace(episode, embedding=None if packed is None else list(validation.values(packed)))

    episode = await ctx.store.fetch(read, snapshot=True)
    accesses = ctx.daemon.manager(MemoryManager).accesses
    accesses.count([episode.id])
    count, at = accesses.unwritten(episode.id)
    return msgspec.structs.replace(episode, access_count=episode.access_count + count, last_accessed_at=at)


def _named(tx: Transaction, ctx: Context, command: UpdateEpisode | DeleteEpisode, verb: str) -> tuple[Episode, str]:
    """The episode of a command, and the beginning of a sentence about it."""
    episode = EPISODES.resolve(tx, command.episode, ctx.scope(tx))
    cannot = f"cannot {verb} episode {episode.number}"
    EPISODES.expect(episode, cannot, command.if_revision, getattr(command, "if_state_revision", None))
    return episode, cannot


@handles(UpdateEpisode, size_bytes=lambda _command: 16_384)
def update_episode(tx: Transaction, ctx: Context, command: UpdateEpisode) -> Episode:
    episode, cannot = _named(tx, ctx, command, "update")
    check_metadata(command, cannot)
    changes: dict[str, Any] = {name: value for name in _CHANGED if (value := getattr(command, name)) is not None}
    if command.episode_context is not None:
        changes["context"] = command.episode_context
    cleared = set(command.clear or ())
    given = [name for name in CLEARABLE if getattr(command, name) is not None]
    check_cleared(cleared, CLEARABLE, given, cannot, EpisodeInvalid)
    if "summary" in cleared:
        changes["summary"] = None
    if not changes and command.embedding is None and "embedding" not in cleared:
        raise InvalidArgument(
            f"{cannot}: no field to change was given",
            hint=f"Give at least one of {', '.join(_CHANGED)}, episode_context, embedding and clear.",
            details={"path": ""},
        )
    updated = EPISODES.update(tx, ctx.operation, episode, changes)
    if command.embedding is not None or "embedding" in cleared:
        embedding = None if command.embedding is None else validation.embedding(command.embedding)
        updated = _embed(tx, ctx.operation, updated, embedding)
    return _shown(tx, updated)


def _embed(tx: Transaction, operation: Operation, episode: Episode, embedding: bytes | None) -> Episode:
    """Set the embedding of an episode; the history tells that it changed, and not to what."""
    if embedding_of(tx, episode.id) == embedding:
        return episode
    events = [("episode.updated", {"embedding": {"changed": True}})]
    changed = EPISODES.write(tx, operation, episode.id, {"embedding": embedding}, events, configured=True)
    assert changed is not None
    vectors.write(tx, episode.project_id, COLLECTION, episode.id, embedding)
    return changed


@handles(DeleteEpisode)
def delete_episode(tx: Transaction, ctx: Context, command: DeleteEpisode) -> Episode:
    episode, _cannot = _named(tx, ctx, command, "delete")
    shown = _shown(tx, episode)
    delete(tx, ctx.operation, episode)
    return shown


@handles(PruneEpisodes, size_bytes=lambda command: 4096 * command.limit)
def prune_episodes(tx: Transaction, ctx: Context, command: PruneEpisodes) -> EpisodesPruned:
    cannot = "cannot prune episodes"
    project_id = ctx.scope(tx).home(cannot)
    if (command.keep, command.below, command.older_days, command.unused_days) == (None,) * 4:
        raise EpisodeInvalid(
            f"{cannot}: no condition was given",
            hint="Give at least one of keep, below, older_days and unused_days.",
            details={"path": ""},
        )
    now_ms = ctx.daemon.trusted_now_ms()
    wanted = Conditions(
        project_id,
        command.keep,
        command.below,
        None if command.older_days is None else now_ms - command.older_days * _DAY_MS,
        None if command.unused_days is None else now_ms - command.unused_days * _DAY_MS,
    )
    matching = pruned_count(tx, wanted)
    found = pruned(tx, wanted, command.limit)
    told = light(tx, found)
    if not command.dry_run:
        for episode in found:
            delete(tx, ctx.operation, episode, event="pruned")
    return EpisodesPruned(episodes=told, matching=matching, pruned=not command.dry_run, more=matching > len(found))
