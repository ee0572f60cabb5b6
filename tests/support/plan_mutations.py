"""Commands on features, requirements and sessions for ``support.mutations``: by number, so that some find a record."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from nexus.checkpoints.commands import (
    CreateCheckpoint,
    DeleteCheckpoint,
    RestoreCheckpoint,
    UpdateCheckpoint,
)
from nexus.ledger.features.commands import (
    CreateFeature,
    CreateSubFeature,
    DeleteFeature,
    DeleteSubFeature,
    SyncFeatures,
    UpdateFeature,
    UpdateSubFeature,
)
from nexus.ledger.files.commands import WritePlan
from nexus.ledger.files.records import PlanComment, PlanFeature, PlanNote, PlanRequirement, PlanTask
from nexus.ledger.requirements.commands import (
    CreateRequirement,
    DeleteRequirement,
    LinkRequirement,
    UnlinkRequirement,
    UpdateRequirement,
    ValidateRequirement,
)
from nexus.ledger.sessions.commands import (
    CancelSession,
    CompleteSession,
    DeleteSession,
    PauseSession,
    ResumeSession,
    StartSession,
    UpdateSession,
)
from nexus.ledger.states import FeatureStatus, RequirementCategory, SessionType, TaskStatus

__all__ = ["PLAN"]


class _Pool(Protocol):
    """Where the values of commands come from."""

    chance: Random

    def words(self) -> str:
        """Some text."""


def _number(pool: _Pool) -> str:
    return str(pool.chance.randint(1, 5))


def _status(pool: _Pool) -> FeatureStatus:
    return pool.chance.choice(list(FeatureStatus))


def _create_requirement(pool: _Pool) -> CreateRequirement:
    features = [_number(pool)] if pool.chance.random() < 0.4 else []
    return CreateRequirement(RequirementCategory.TECHNICAL, pool.words(), features=features, tags=["a", "b"])


def _id(pool: _Pool) -> str:
    """One of few, so that some are there already, be it in another project."""
    return f"6f1c0f7e-2f0c-4b60-9a63-{pool.chance.randint(0, 20):012x}"


def _write_plan(pool: _Pool) -> WritePlan:
    feature, task, other = _id(pool), _id(pool), _id(pool)
    status = pool.chance.choice(list(TaskStatus))
    return WritePlan(
        features=[PlanFeature(id=feature, name="read", number=pool.chance.randint(1, 9))],
        tasks=[
            PlanTask(id=task, name="one", feature_id=feature, status=status, tags=["a"], number=2),
            *([PlanTask(id=other, name="two", depends_on=[task])] if other != task else []),
        ],
        notes=[PlanNote(id=_id(pool), task_id=task, text=pool.words()[:9000])],
        comments=[PlanComment(id=_id(pool), task_id=task, text=pool.words()[:9000])],
        requirements=[
            PlanRequirement(
                id=_id(pool),
                category=RequirementCategory.TECHNICAL,
                description=pool.words(),
                linked_features=[feature],
            )
        ],
        numbers={"tasks": pool.chance.randint(0, 9)},
    )


PLAN: dict[str, tuple[int, Callable[[Any], Any]]] = {
    "CreateFeature": (5, lambda pool: CreateFeature("feature", description=pool.words(), tags=["a"])),
    "UpdateFeature": (3, lambda pool: UpdateFeature(_number(pool), status=_status(pool), tags=["b"])),
    "DeleteFeature": (2, lambda pool: DeleteFeature(_number(pool), cascade=pool.chance.random() < 0.7)),
    "SyncFeatures": (1, lambda pool: SyncFeatures(apply=True)),
    "CreateSubFeature": (3, lambda pool: CreateSubFeature(_number(pool), "part", description=pool.words())),
    "UpdateSubFeature": (1, lambda pool: UpdateSubFeature(_number(pool), status=_status(pool))),
    "DeleteSubFeature": (1, lambda pool: DeleteSubFeature(_number(pool), cascade=True)),
    "CreateRequirement": (4, _create_requirement),
    "UpdateRequirement": (2, lambda pool: UpdateRequirement(_number(pool), description=pool.words())),
    "DeleteRequirement": (1, lambda pool: DeleteRequirement(_number(pool))),
    "LinkRequirement": (3, lambda pool: LinkRequirement(_number(pool), [_number(pool), _number(pool)])),
    "UnlinkRequirement": (1, lambda pool: UnlinkRequirement(_number(pool), [_number(pool)])),
    "ValidateRequirement": (1, lambda pool: ValidateRequirement(_number(pool), pool.chance.random() < 0.5)),
    "WritePlan": (2, _write_plan),
    "StartSession": (3, lambda pool: StartSession(SessionType.INTERVIEW, data={"text": pool.words()})),
    "UpdateSession": (2, lambda pool: UpdateSession(_number(pool), data={"more": pool.words()})),
    "PauseSession": (1, lambda pool: PauseSession(_number(pool))),
    "ResumeSession": (1, lambda pool: ResumeSession(_number(pool))),
    "CompleteSession": (1, lambda pool: CompleteSession(_number(pool))),
    "CancelSession": (1, lambda pool: CancelSession(_number(pool))),
    "DeleteSession": (1, lambda pool: DeleteSession(_number(pool))),
    "CreateCheckpoint": (2, lambda pool: CreateCheckpoint(reason=pool.words())),
    "UpdateCheckpoint": (1, lambda pool: UpdateCheckpoint(_number(pool), name="other")),
    "DeleteCheckpoint": (1, lambda pool: DeleteCheckpoint(_number(pool))),
    "RestoreCheckpoint": (1, lambda pool: RestoreCheckpoint(_number(pool))),
}
"""For each command how often it is made, and how."""
