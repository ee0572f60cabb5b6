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
from nexus.ledger.metrics.commands import ListMetrics, RecordMetric, SumMetrics

__all__ = [
    "CreateAgent",
    "DeleteAgent",
    "GetAgent",
    "ListAgents",
    "ListMetrics",
    "PauseAgent",
    "RecordMetric",
    "ReportAgentError",
    "ResumeAgent",
    "SumMetrics",
    "TerminateAgent",
    "UpdateAgent",
]
