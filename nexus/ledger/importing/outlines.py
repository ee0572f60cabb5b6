"""Turns what was read of another tracker into the records of a plan, whose ids are those of the source each time."""

from __future__ import annotations

import uuid
from collections import Counter
from typing import Any, NamedTuple

from nexus.ledger.files.records import PlanComment, PlanFeature, PlanTask
from nexus.ledger.importing.parsed import Outline
from nexus.ledger.importing.plan_file import Plan
from nexus.ledger.states import TaskStatus

__all__ = ["Converted", "converted", "record_id"]


class Converted(NamedTuple):
    """A plan, and in words what has no place in it, with how often."""

    plan: Plan
    told: dict[str, int]


def record_id(project_id: str, source: str, kind: str, id_: str) -> str:
    """The id of a record in the project, by the id that it has in its source."""
    return str(uuid.uuid5(uuid.UUID(project_id), f"{source}:{kind}:{id_}"))


def converted(outline: Outline, project_id: str) -> Converted:
    """The plan of an outline in a project."""
    source = outline.format.value
    told = Counter(outline.skipped)

    def id_of(kind: str, id_: str) -> str:
        return record_id(project_id, source, kind, id_)

    features = [
        PlanFeature(
            id=id_of("feature", each.source_id),
            name=each.name,
            description=each.description,
            status=each.status,
            tags=list(each.tags),
            metadata={"source": source, "source_id": each.source_id},
        )
        for each in outline.features
    ]
    tasks: list[PlanTask] = []
    comments: list[PlanComment] = []
    for task in outline.tasks:
        metadata = {"source": source, "source_id": task.source_id}
        if task.parent is not None:
            metadata["parent"] = task.parent
            told["part of another task: its metadata tells which"] += 1
        if task.status is TaskStatus.IN_PROGRESS:
            told["in progress without an agent here: queued"] += 1
        is_over = task.status in (TaskStatus.BLOCKED, TaskStatus.FAILED)
        if task.reason is not None and not is_over:
            metadata["reason"] = task.reason
        id_ = id_of("task", task.source_id)
        tasks.append(
            PlanTask(
                id=id_,
                name=task.name,
                description=task.description,
                status=TaskStatus.QUEUED if task.status is TaskStatus.IN_PROGRESS else task.status,
                reason=(task.reason or f"{task.status} in {source}") if is_over else None,
                kind=task.kind,
                priority=task.priority,
                tags=list(task.tags),
                metadata=metadata,
                depends_on=[id_of("task", each) for each in task.depends_on],
                feature_id=None if task.feature is None else id_of("feature", task.feature),
            )
        )
        seen: Counter[tuple[str, str]] = Counter()
        for comment in task.comments:
            what = (comment.author, comment.text)
            seen[what] += 1
            key = f"{task.source_id}\n{comment.author}\n{comment.text}\n{seen[what]}"
            comments.append(
                PlanComment(
                    id=id_of("comment", key),
                    task_id=id_,
                    text=comment.text,
                    at=comment.at,
                    actor=comment.author or None,
                )
            )
    records: dict[str, list[Any]] = {"features": features, "tasks": tasks, "comments": comments}
    return Converted(Plan({}, records), {words: count for words, count in told.items() if count})
