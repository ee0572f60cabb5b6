"""Random commands on chunks, for ``support.mutations``: over a few ids, so that some are there."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from nexus.memory.chunks.commands import DeleteChunks, IndexChunks, SetChunkEmbeddings
from nexus.memory.chunks.records import ChunkEmbedding, MovedChunk, NewChunk
from nexus.memory.chunks.states import ChunkType

__all__ = ["CHUNK_MAKERS"]


class _Pool(Protocol):
    """Where the values of commands come from."""

    chance: Random


def _id(pool: _Pool) -> str:
    return f"00000000-0000-4000-8000-0000000c{pool.chance.randrange(8):04x}"


def _new(pool: _Pool) -> NewChunk:
    number = pool.chance.randrange(4)
    return NewChunk(
        id=_id(pool),
        file=f"src/f{pool.chance.randrange(3)}.py",
        start_line=1 + number,
        end_line=9,
        content=f"def f{number}(): ...",
        symbols=[f"A.f{number}", "Ä::b"],
        chunk_type=ChunkType.FUNCTION,
        language="python",
        hash=f"{number:064x}",
        like=_id(pool) if pool.chance.random() < 0.5 else None,
    )


def _index(pool: _Pool) -> IndexChunks:
    return IndexChunks(
        [_new(pool)] if pool.chance.random() < 0.8 else [],
        [MovedChunk(_id(pool), f"src/g{pool.chance.randrange(3)}.py", 1, 5)] if pool.chance.random() < 0.5 else [],
        [_id(pool)] if pool.chance.random() < 0.3 else [],
    )


def _embed(pool: _Pool) -> SetChunkEmbeddings:
    return SetChunkEmbeddings([ChunkEmbedding(_id(pool), [1.0, pool.chance.random()])])


CHUNK_MAKERS: dict[str, tuple[int, Callable[[Any], Any]]] = {
    "IndexChunks": (5, _index),
    "SetChunkEmbeddings": (2, _embed),
    "DeleteChunks": (1, lambda pool: DeleteChunks("src", limit=2)),
}
