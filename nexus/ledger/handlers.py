"""The handlers of the ledger, by subject."""

from __future__ import annotations

from nexus.ledger.pages.handlers import (
    get_agent_pool,
    get_board,
    get_execution,
    get_project_overview,
    get_task_graph,
)

__all__ = ["get_agent_pool", "get_board", "get_execution", "get_project_overview", "get_task_graph"]
