"""The modes and the statuses of a project."""

from __future__ import annotations

from nexus_protocol.command import WireEnum

__all__ = ["ProjectMode", "ProjectStatus"]


class ProjectMode(WireEnum):
    """genesis: the project begins from nothing; evolution: it continues what is there."""

    GENESIS = "genesis"
    EVOLUTION = "evolution"


class ProjectStatus(WireEnum):
    """How far a project is."""

    CREATED = "created"
    PLANNING = "planning"
    IN_PROGRESS = "in_progress"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
