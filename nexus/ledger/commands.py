"""The commands of the ledger, by subject."""

from __future__ import annotations

from nexus.ledger.pages.commands import GetAgentPool, GetBoard, GetExecution, GetProjectOverview, GetTaskGraph

__all__ = ["GetAgentPool", "GetBoard", "GetExecution", "GetProjectOverview", "GetTaskGraph"]
