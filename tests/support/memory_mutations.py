"""Random commands on what the memory has, for ``support.mutations``: by number, so that some find a record."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from nexus.memory.continue_points.commands import CreateContinuePoint, DeleteContinuePoint
from nexus.memory.episodes.commands import CreateEpisode, DeleteEpisode, PruneEpisodes, UpdateEpisode
from nexus.memory.episodes.states import EpisodeType

__all__ = ["MEMORY_MAKERS"]


class _Pool(Protocol):
    """Where the values of commands come from."""

    chance: Random

    def words(self) -> str:
        """Some text."""


def _number(pool: _Pool) -> str:
    return str(pool.chance.randint(1, 6))


def _embedding(pool: _Pool) -> list[float] | None:
    # Of two dimensions, so that some are refused.
    return [1.0, pool.chance.random()] if pool.chance.random() < 0.6 else [1.0] if pool.chance.random() < 0.2 else None


def _create_episode(pool: _Pool) -> CreateEpisode:
    task = _number(pool) if pool.chance.random() < 0.3 else None
    return CreateEpisode(
        pool.chance.choice(list(EpisodeType)),
        pool.words(),
        task=task,
        importance=pool.chance.random(),
        tags=["a", "b"],
        embedding=_embedding(pool),
    )


MEMORY_MAKERS: dict[str, tuple[int, Callable[[Any], Any]]] = {
    "CreateContinuePoint": (4, lambda pool: CreateContinuePoint("wrote it", _number(pool), next_steps=["test it"])),
    "DeleteContinuePoint": (1, lambda pool: DeleteContinuePoint(_number(pool))),
    "CreateEpisode": (5, _create_episode),
    "UpdateEpisode": (3, lambda pool: UpdateEpisode(_number(pool), summary="in short", embedding=_embedding(pool))),
    "DeleteEpisode": (1, lambda pool: DeleteEpisode(_number(pool))),
    "PruneEpisodes": (1, lambda pool: PruneEpisodes(keep=3, below=0.5)),
}
"""For each command how often it is made, and how."""
