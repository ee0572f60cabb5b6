"""The commands that read what the pages of a project show."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from nexus_protocol.command import Command, Effect, command

from nexus.ledger.pages.records import AgentPool, Board, BoardBy, DependencyGraph, Execution, Overview
from nexus.records.errors import ProjectNotFound

__all__ = ["GetAgentPool", "GetBoard", "GetExecution", "GetProjectOverview", "GetTaskGraph"]

Cards = Annotated[int, Meta(ge=1, le=1000, description="tasks of each column or list, 1 to 1000")]


@command(0x050A, Effect.READ, errors=(ProjectNotFound,), large_reply=True)
class GetProjectOverview(Command[Overview]):
    """Get a project at a glance: its tasks by status, its features, the pool of agents, and the usage of a day."""


@command(0x050B, Effect.READ, errors=(ProjectNotFound,), large_reply=True)
class GetBoard(Command[Board]):
    """Get the tasks of a project in columns, by status or by feature."""

    by: Annotated[BoardBy, Meta(description="what has a column: each status, or each feature")] = BoardBy.STATUS
    limit: Cards = 10


@command(0x050C, Effect.READ, errors=(ProjectNotFound,), large_reply=True)
class GetExecution(Command[Execution]):
    """Get what is worked on in a project, what can be begun, and what is in the way."""

    limit: Cards = 20


@command(0x050D, Effect.READ, large_reply=True, in_project=False)
class GetAgentPool(Command[AgentPool]):
    """Get the agents with their current tasks; terminated ones are counted alone."""


@command(0x050E, Effect.READ, errors=(ProjectNotFound,), large_reply=True)
class GetTaskGraph(Command[DependencyGraph]):
    """Get the tasks of a project that are not completed, with what they wait for."""

    completed: Annotated[bool, Meta(description="completed ones too")] = False
    limit: Annotated[int, Meta(ge=1, le=5000, description="tasks, 1 to 5000")] = 1000
