"""All SQL of schedules that ``records.Table`` does not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from nexus_protocol.command import SECRET, Record

from nexus.jobs.errors import (
    ScheduleAmbiguous,
    ScheduleChanged,
    ScheduleCursorInvalid,
    ScheduleIdTaken,
    ScheduleNameTaken,
    ScheduleNotFound,
)
from nexus.jobs.records import Schedule
from nexus.records.errors import RecordErrors
from nexus.records.table import Table
from nexus.store import Reader

__all__ = [
    "SCHEDULES",
    "StoredSchedule",
    "active",
    "due_by_clock",
    "due_by_interval",
    "names_and_pauses",
    "next_by_clock",
    "next_by_interval",
    "open_jobs_of",
    "replaced_jobs",
    "stored",
]


class _Private(Record):
    """The columns that only the daemon may read."""

    environment: Annotated[dict[str, str], SECRET] | None = None
    variables: Annotated[dict[str, str], SECRET] | None = None
    due_boot: str | None = None
    due_clock: int | None = None


class StoredSchedule(NamedTuple):
    """A schedule with the columns that only the daemon may read."""

    schedule: Schedule
    environment: dict[str, str] | None
    """Of its jobs; None: that of the daemon."""
    variables: dict[str, str] | None
    """What its jobs have beside that."""
    due_boot: str | None
    """Of ``every_ms``: the boot in which the next time is due."""
    due_clock: int | None
    """And the time since that boot, in ms."""

    def __repr__(self) -> str:
        return f"StoredSchedule({self.schedule.id})"


SCHEDULES = Table(
    Schedule,
    "schedules",
    kind="schedule",
    word="schedule",
    look="schedule inspect",
    errors=RecordErrors(
        ScheduleNotFound, ScheduleAmbiguous, ScheduleNameTaken, ScheduleIdTaken, ScheduleChanged, ScheduleCursorInvalid
    ),
    observed=("paused", "next_at", "last_at", "last_job_id", "last_job_number", "reason"),
    volatile=("due_boot", "due_clock"),
    order=("name", "id"),
    descending=False,
    told=("cron", "every_ms"),
    columns={"group": "group_name", "node": "node_id"},
    private=_Private,
    computed=("variables", "next_times"),
)

_FIELDS = len(SCHEDULES.columns)
_SELECT_STORED = SCHEDULES.selecting(*SCHEDULES.private)


def _stored(row: Sequence[Any]) -> StoredSchedule:
    columns = zip(SCHEDULES.private.items(), row[_FIELDS:], strict=True)
    private = {name: column.to_field(value) for (name, column), value in columns}
    return StoredSchedule(SCHEDULES.decode(row[:_FIELDS]), **private)


def stored(reader: Reader, schedule_id: str) -> StoredSchedule | None:
    """The schedule with this id; None where there is none."""
    row = reader.one(f"{_SELECT_STORED} WHERE schedules.id = ?", (schedule_id,))
    return None if row is None else _stored(row)


def active(reader: Reader, after: str, limit: int) -> list[str]:
    """The ids of schedules that are not paused, in the order of the ids: at most ``limit`` after one."""
    rows = reader.all("SELECT id FROM schedules WHERE paused = 0 AND id > ? ORDER BY id LIMIT ?", (after, limit))
    return [row[0] for row in rows]


def next_by_clock(reader: Reader) -> int | None:
    """The next time by the wall clock (ms); None without one."""
    row = reader.one("SELECT min(next_at) FROM schedules WHERE next_at IS NOT NULL AND every_ms IS NULL")
    return None if row is None else row[0]


def next_by_interval(reader: Reader) -> int | None:
    """The next time since the boot (ms); None without one."""
    row = reader.one("SELECT min(due_clock) FROM schedules WHERE due_clock IS NOT NULL")
    return None if row is None else row[0]


def due_by_clock(reader: Reader, wall_ms: int, after: tuple[int, str], limit: int) -> list[tuple[int, str]]:
    """The times by the wall clock that have come, with the ids of their schedules: at most ``limit`` after one."""
    return reader.all(
        "SELECT next_at, id FROM schedules WHERE next_at IS NOT NULL AND every_ms IS NULL AND next_at <= ? "
        "AND (next_at, id) > (?, ?) ORDER BY next_at, id LIMIT ?",
        (wall_ms, *after, limit),
    )


def due_by_interval(reader: Reader, boot_ms: int, after: tuple[int, str], limit: int) -> list[tuple[int, str]]:
    """As ``due_by_clock``, the times since the boot."""
    return reader.all(
        "SELECT due_clock, id FROM schedules WHERE due_clock IS NOT NULL AND due_clock <= ? "
        "AND (due_clock, id) > (?, ?) ORDER BY due_clock, id LIMIT ?",
        (boot_ms, *after, limit),
    )


def open_jobs_of(reader: Reader, schedule_id: str, limit: int) -> list[tuple[str, int]]:
    """The ids and numbers of the jobs of a schedule that have not ended, oldest first."""
    return reader.all(
        "SELECT id, number FROM jobs WHERE schedule_id = ? AND completed_at IS NULL ORDER BY number LIMIT ?",
        (schedule_id, limit),
    )


def replaced_jobs(reader: Reader) -> list[str]:
    """The ids of jobs that have not ended, and that a later job of their schedule replaces.

    Of the jobs that schedules submit, only one that replaces others waits for any.
    """
    rows = reader.all(
        "SELECT DISTINCT job_after.after_id FROM jobs JOIN job_after ON job_after.job_id = jobs.id "
        "JOIN jobs AS other ON other.id = job_after.after_id "
        "WHERE jobs.schedule_id IS NOT NULL AND jobs.completed_at IS NULL AND other.completed_at IS NULL "
        "ORDER BY job_after.after_id"
    )
    return [row[0] for row in rows]


def names_and_pauses(reader: Reader, project_id: str, after: str = "", limit: int = -1) -> list[tuple[str, str, int]]:
    """The id and name of schedules of a project, and whether they are paused, by name: at most ``limit`` (-1: all)."""
    return reader.all(
        "SELECT id, name, paused FROM schedules WHERE project_id = ? AND name > ? ORDER BY name LIMIT ?",
        (project_id, after, limit),
    )
