"""The table of continue points, and the SQL of them that ``records.Table`` does not have."""

from __future__ import annotations

import msgspec

from nexus.journal.operation import Operation
from nexus.memory.continue_points.errors import (
    ContinuePointAmbiguous,
    ContinuePointChanged,
    ContinuePointCursorInvalid,
    ContinuePointIdTaken,
    ContinuePointNotFound,
)
from nexus.memory.continue_points.records import ContinuePoint
from nexus.memory.names_store import agent_names, task_numbers
from nexus.records.errors import RecordErrors, RecordNameTaken
from nexus.records.table import Table
from nexus.store import Reader, Transaction

__all__ = ["CONTINUE_POINTS", "delete", "delete_of_task", "drop_old", "newest", "with_names"]

CONTINUE_POINTS = Table(
    ContinuePoint,
    "continue_points",
    kind="continue_point",
    word="continue point",
    look="continue-point inspect",
    errors=RecordErrors(
        ContinuePointNotFound,
        ContinuePointAmbiguous,
        RecordNameTaken,
        ContinuePointIdTaken,
        ContinuePointChanged,
        ContinuePointCursorInvalid,
    ),
    order=("number", "id"),
    indexed=("task_id", "agent_id"),
    told=("task_id", "agent_id"),
    computed=("task_number", "agent"),
)
_OF_TASK = f"{CONTINUE_POINTS.select} WHERE continue_points.project_id = ? AND continue_points.task_id = ?"
_AT_ONCE = 200


def newest(reader: Reader, project_id: str, task_id: str) -> ContinuePoint | None:
    """The newest continue point of a task. Numbers tell the order, since clocks may be set back."""
    row = reader.one(f"{_OF_TASK} ORDER BY continue_points.number DESC LIMIT 1", (project_id, task_id))
    return None if row is None else CONTINUE_POINTS.decode(row)


def drop_old(tx: Transaction, operation: Operation, project_id: str, task_id: str, keep: int) -> None:
    """Delete the continue points of a task but its newest ones."""
    rows = tx.all(
        f"{_OF_TASK} ORDER BY continue_points.number DESC LIMIT {_AT_ONCE} OFFSET ?", (project_id, task_id, keep)
    )
    for row in rows:
        delete(tx, operation, CONTINUE_POINTS.decode(row))


def delete(tx: Transaction, operation: Operation, point: ContinuePoint) -> None:
    """Delete a continue point."""
    CONTINUE_POINTS.delete(tx, operation, point, ("task_id",))


def delete_of_task(tx: Transaction, operation: Operation, task_id: str, limit: int) -> int:
    """Delete at most ``limit`` continue points of a task; returns how many there were."""
    rows = tx.all(
        f"{CONTINUE_POINTS.select} WHERE continue_points.task_id = ? ORDER BY continue_points.number LIMIT ?",
        (task_id, limit),
    )
    for row in rows:
        delete(tx, operation, CONTINUE_POINTS.decode(row))
    return len(rows)


def with_names(reader: Reader, points: list[ContinuePoint]) -> list[ContinuePoint]:
    """Continue points with the numbers of their tasks and the names of their agents."""
    numbers = task_numbers(reader, (point.task_id for point in points))
    names = agent_names(reader, (point.agent_id for point in points))
    return [
        msgspec.structs.replace(point, task_number=numbers.get(point.task_id), agent=names.get(point.agent_id))
        for point in points
    ]
