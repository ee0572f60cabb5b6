"""The handlers of the pages. Each reads beside the event loop: what it counts grows with the project."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from nexus.capability import Context, handles
from nexus.ledger import recovery
from nexus.ledger.pages import store
from nexus.ledger.pages.commands import GetAgentPool, GetBoard, GetExecution, GetProjectOverview, GetTaskGraph
from nexus.ledger.pages.records import AgentPool, Board, Card, DependencyGraph, Execution, Overview
from nexus.store import Reader

__all__ = ["get_agent_pool", "get_board", "get_execution", "get_project_overview", "get_task_graph"]

T = TypeVar("T")

_LIMIT_S = 5.0


def _now() -> int:
    return time.time_ns() // 1_000_000


async def _of_project(ctx: Context, page: str, read: Callable[[Reader, str], T]) -> T:
    return await ctx.store.scan(
        lambda reader: read(reader, ctx.scope(reader).home(f"cannot show the {page}")), limit_s=_LIMIT_S
    )


@handles(GetProjectOverview)
async def get_project_overview(ctx: Context, _command: GetProjectOverview) -> Overview:
    return await _of_project(ctx, "overview", lambda reader, project: store.overview(reader, project, _now()))


@handles(GetBoard)
async def get_board(ctx: Context, command: GetBoard) -> Board:
    return await _of_project(
        ctx, "board", lambda reader, project: store.board(reader, project, command.by, command.limit, _now())
    )


@handles(GetExecution)
async def get_execution(ctx: Context, command: GetExecution) -> Execution:
    return await _of_project(ctx, "execution", lambda reader, project: _execution(reader, project, command.limit))


def _execution(reader: Reader, project_id: str, limit: int) -> Execution:
    """The execution of a project, with where the work on each task was left."""
    page = store.execution(reader, project_id, limit, _now())
    lists = {
        name: [_with_point(reader, project_id, card) for card in getattr(page, name)]
        for name in ("working", "in_review", "ready", "blocked", "failed")
    }
    checkpoint = recovery.newest("checkpoint", reader, recovery.Place("", project_id))
    return msgspec.structs.replace(page, **lists, checkpoint=checkpoint)


def _with_point(reader: Reader, project_id: str, card: Card) -> Card:
    point = recovery.newest("continue_point", reader, recovery.Place(card.id, project_id))
    return card if point is None else msgspec.structs.replace(card, continue_point=point)


@handles(GetTaskGraph)
async def get_task_graph(ctx: Context, command: GetTaskGraph) -> DependencyGraph:
    return await _of_project(
        ctx,
        "graph",
        lambda reader, project: store.task_graph(reader, project, command.limit, _now(), completed=command.completed),
    )


@handles(GetAgentPool)
async def get_agent_pool(ctx: Context, _command: GetAgentPool) -> AgentPool:
    return await ctx.store.scan(store.agent_pool, limit_s=_LIMIT_S)
