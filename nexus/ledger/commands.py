"""The commands of the ledger, which its subjects declare."""

from __future__ import annotations

from nexus.ledger.agents.commands import (
    CreateAgent,
    DeleteAgent,
    GetAgent,
    ListAgents,
    PauseAgent,
    ReportAgentError,
    ResumeAgent,
    TerminateAgent,
    UpdateAgent,
)

__all__ = [
    "CreateAgent",
    "DeleteAgent",
    "GetAgent",
    "ListAgents",
    "PauseAgent",
    "ReportAgentError",
    "ResumeAgent",
    "TerminateAgent",
    "UpdateAgent",
]
