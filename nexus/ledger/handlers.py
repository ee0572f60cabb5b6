"""The handlers of the ledger, which its subjects have."""

from __future__ import annotations

from nexus.ledger.agents.handlers import (
    create_agent,
    delete_agent,
    get_agent,
    list_agents,
    pause_agent,
    report_agent_error,
    resume_agent,
    terminate_agent,
    update_agent,
)
from nexus.ledger.metrics.handlers import list_metrics, record_metric, sum_metrics

__all__ = [
    "create_agent",
    "delete_agent",
    "get_agent",
    "list_agents",
    "list_metrics",
    "pause_agent",
    "record_metric",
    "report_agent_error",
    "resume_agent",
    "sum_metrics",
    "terminate_agent",
    "update_agent",
]
