"""Random commands on agents, metrics and the statuses of projects, for ``support.mutations``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nexus_protocol import Command

from nexus.ledger.agents.commands import (
    CreateAgent,
    DeleteAgent,
    PauseAgent,
    ReportAgentError,
    ResumeAgent,
    TerminateAgent,
    UpdateAgent,
)
from nexus.ledger.metrics.commands import RecordMetric
from nexus.ledger.states import AgentType, MetricType
from nexus.projects.commands import CompleteProject, FailProject, PauseProject, ResumeProject

if TYPE_CHECKING:
    from support.mutations import Pool

__all__ = ["AGENT_MAKERS"]


def _agent(pool: Pool) -> str:
    return f"a{pool.chance.randrange(3)}"


def _record_metric(pool: Pool) -> Command[Any]:
    source = pool.chance.choice([None, f"run {pool.chance.randrange(3)}"])
    agent = pool.chance.choice([None, _agent(pool)])
    return RecordMetric(pool.chance.choice(list(MetricType)), 1.0, agent=agent, source=source)


AGENT_MAKERS: dict[str, tuple[int, Callable[[Pool], Command[Any]]]] = {
    "CreateAgent": (4, lambda pool: CreateAgent(_agent(pool), pool.chance.choice(list(AgentType)), tags=["x"])),
    "UpdateAgent": (2, lambda pool: UpdateAgent(_agent(pool), max_tokens=pool.chance.randint(1, 9))),
    "DeleteAgent": (1, lambda pool: DeleteAgent(_agent(pool))),
    "PauseAgent": (2, lambda pool: PauseAgent(_agent(pool), reason="waits")),
    "ResumeAgent": (2, lambda pool: ResumeAgent(_agent(pool))),
    "ReportAgentError": (1, lambda pool: ReportAgentError(_agent(pool), "no answer")),
    "TerminateAgent": (1, lambda pool: TerminateAgent(_agent(pool), force=pool.chance.random() < 0.5)),
    "RecordMetric": (4, _record_metric),
    "PauseProject": (1, lambda pool: PauseProject(pool.project())),
    "ResumeProject": (1, lambda pool: ResumeProject(pool.project())),
    "CompleteProject": (1, lambda pool: CompleteProject(pool.project())),
    "FailProject": (1, lambda pool: FailProject(pool.project(), reason="not wanted")),
}
"""For each command how often it is made, and how."""
