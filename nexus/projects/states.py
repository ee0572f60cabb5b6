"""The modes and the statuses of a project, and the one table of its moves."""

from __future__ import annotations

from nexus_protocol.command import WireEnum

__all__ = ["PROJECT_MOVES", "ProjectMode", "ProjectStatus"]


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


_BEFORE = frozenset({ProjectStatus.CREATED, ProjectStatus.PLANNING})
_OPEN = _BEFORE | {ProjectStatus.IN_PROGRESS}

PROJECT_MOVES: dict[str, tuple[frozenset[ProjectStatus], ProjectStatus]] = {
    "begin": (_BEFORE, ProjectStatus.IN_PROGRESS),
    "pause": (_OPEN, ProjectStatus.PAUSED),
    "resume": (frozenset(ProjectStatus) - _OPEN, ProjectStatus.IN_PROGRESS),
    "complete": (_OPEN | {ProjectStatus.PAUSED}, ProjectStatus.COMPLETED),
    "fail": (_OPEN | {ProjectStatus.PAUSED}, ProjectStatus.FAILED),
}
"""By move, the statuses that it is allowed in, and the one that it leads to. The first claim of a task is begin."""
