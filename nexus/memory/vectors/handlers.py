"""The handlers of the commands on vectors, and what a project has of them."""

from __future__ import annotations

import asyncio
import functools
from typing import NoReturn

import msgspec

from nexus.capability import Context, encode_each, handles
from nexus.journal.operation import Operation
from nexus.journal.rows import Subject, record
from nexus.memory.manager import MemoryManager
from nexus.memory.recall.store import task_id
from nexus.memory.vectors.commands import ListVectorCollections, ResetVectors, SearchVectors
from nexus.memory.vectors.errors import VectorFilterInvalid, VectorTaskNotFound
from nexus.memory.vectors.records import VectorCollection, VectorCollections, VectorHit, VectorResult, VectorsReset
from nexus.memory.vectors.searching import nearest, remembered
from nexus.memory.vectors.states import Collection, MatrixState
from nexus.memory.vectors.store import (
    clear,
    collection_row,
    collections_of,
    count_embeddings,
    delete_of_project,
)
from nexus.records.contents import Contents, Held, contents
from nexus.records.scope import Scope
from nexus.store import Reader, Transaction

__all__ = ["list_vector_collections", "reset_vectors", "search_vectors"]

_RESET_STEP = 250
"""Embeddings removed in one step, which limits how long the writes of clients wait for it."""
_COUNT_S = 5.0
_FILTERS = {
    Collection.EPISODES: ("type", "task"),
    Collection.CHUNKS: ("type", "file", "language"),
}
_TYPES = {
    Collection.EPISODES: ("code_generation", "error_fix", "review_feedback", "decision", "research"),
    Collection.CHUNKS: ("function", "class", "method", "module", "interface", "type", "comment", "other"),
}


# Projects


def _held(reader: Reader, project_id: str, after: str = "", limit: int = -1) -> list[Held]:
    """The collections with embeddings as one: it has no name, and there is nothing to see of it."""
    has = (
        not after
        and limit != 0
        and any(
            (row := collection_row(reader, project_id, each.value)) is not None and row.has_embeddings
            for each in Collection
        )
    )
    return [Held("vectors", project_id, "vectors", "kept", runs=False)] if has else []


def _delete(tx: Transaction, operation: Operation, project_id: str, _held: list[Held]) -> None:
    names = [each.value for each in Collection if collection_row(tx, project_id, each.value) is not None]
    delete_of_project(tx, project_id)
    record(tx, operation, "vectors.deleted", Subject("vectors", project_id, None, project_id), {"collections": names})


def _deleted(ctx: Context, project_ids: list[str]) -> None:
    for project_id in project_ids:
        ctx.daemon.manager(MemoryManager).forget(project_id)


contents(Contents("vectors", "set of embeddings", _held, _delete, _deleted, needed_by=90))


# Commands


@handles(ListVectorCollections)
async def list_vector_collections(ctx: Context, _command: ListVectorCollections) -> VectorCollections:
    index = ctx.daemon.manager(MemoryManager).index
    scope = await ctx.store.fetch(ctx.scope)
    engine = index.next_engine()
    if scope.is_nowhere:
        return VectorCollections([], engine)
    found: list[VectorCollection] = []
    for project_id, project, name in await ctx.store.fetch(
        functools.partial(collections_of, project_id=scope.project_id)
    ):
        embedded, without = await ctx.store.scan(
            functools.partial(count_embeddings, project_id=project_id, collection=name), limit_s=_COUNT_S
        )
        row = await ctx.store.fetch(
            functools.partial(collection_row, project_id=project_id, collection=name), snapshot=True
        )
        state = await index.matrix(name, project_id)
        generation = 0 if row is None else row.generation
        if state is None:
            matrix = MatrixState.MISSING
        else:
            matrix = MatrixState.CURRENT if state.generation == generation else MatrixState.BEHIND
        found.append(
            VectorCollection(
                project_id=project_id,
                project=project,
                collection=Collection(name),
                dimension=None if row is None or not row.has_embeddings else row.dimension,
                generation=generation,
                embedded=embedded,
                without=without,
                matrix=matrix,
            )
        )
    return VectorCollections(found, engine)


@handles(ResetVectors)
async def reset_vectors(ctx: Context, command: ResetVectors) -> VectorsReset:
    cannot = "cannot reset the vectors"
    project_id = (await ctx.store.fetch(ctx.scope)).home(cannot)
    removed, first = 0, True
    while step := await ctx.store.write(
        functools.partial(
            clear,
            operation=ctx.operation,
            project_id=project_id,
            collection=command.collection.value,
            limit=_RESET_STEP,
            first=first,
        )
    ):
        removed, first = removed + step, False
        await asyncio.sleep(0)  # let the writes of clients pass
    return VectorsReset(command.collection, removed)


@handles(SearchVectors)
async def search_vectors(ctx: Context, command: SearchVectors) -> VectorResult:
    scope = await ctx.store.fetch(ctx.scope)
    project_id = scope.home("cannot search vectors")
    filters = await _filters(ctx, scope, command)
    index = ctx.daemon.manager(MemoryManager).index
    found = await nearest(ctx, index, project_id, command.collection, command.query, command.limit, filters)
    if found is None:
        return VectorResult([])
    shown = await remembered(ctx, [(command.collection, id_) for id_, _score in found.hits])
    hits = (
        VectorHit(score=score, **msgspec.structs.asdict(each))
        for id_, score in found.hits
        if (each := shown.get((command.collection, id_))) is not None
    )
    return VectorResult(await encode_each(hits), found.engine)


async def _filters(ctx: Context, scope: Scope, command: SearchVectors) -> dict[str, str]:
    """The filters, with the id of the task.

    Raises:
        VectorFilterInvalid: one is none of the collection, or no type of it.
        VectorTaskNotFound, VectorTaskAmbiguous: no task has the reference, or several have.
    """
    collection = command.collection
    names = ("type", "file", "language", "task")
    given: dict[str, str] = {name: value for name in names if (value := getattr(command, name)) is not None}
    for name in given:
        if name not in _FILTERS[collection]:
            known = " and ".join(_FILTERS[collection])
            _refuse(name, f"{collection.value} have no {name}; their filters are {known}")
    if command.type is not None and command.type not in _TYPES[collection]:
        known = ", ".join(_TYPES[collection])
        _refuse("type", f'"{command.type}" is no type of {collection.value}; these are {known}')
    if (reference := given.pop("task", None)) is not None:
        task = await ctx.store.fetch(lambda reader: task_id(reader, reference, scope))
        if task is None:
            raise VectorTaskNotFound(
                f'cannot search vectors: task "{reference}" not found', details={"task": reference}
            )
        given["task_id"] = task
    return given


def _refuse(name: str, problem: str) -> NoReturn:
    raise VectorFilterInvalid(f"cannot search vectors: {problem}", details={"path": name})
