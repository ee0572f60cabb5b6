"""What a schedule does when its time comes: the job and the schedule's row, in one transaction.

So a daemon that is killed at any moment has done both or neither, and the next one neither loses nor repeats a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nexus_protocol import NexusError

from nexus.jobs.records import After, Job, Schedule
from nexus.jobs.schedules.clock import Reading
from nexus.jobs.schedules.planning import Due, Passed, passed, replanned
from nexus.jobs.schedules.store import SCHEDULES, StoredSchedule, open_jobs_of, stored
from nexus.jobs.states import AfterCondition, JobStatus, Missed, Overlap
from nexus.jobs.store import JOBS, insert_after, new_places
from nexus.journal.operation import Operation
from nexus.journal.rows import Event
from nexus.runtime.inheritance import inherited_environment
from nexus.store import Transaction
from nexus.supervision.nodes import LOCAL

__all__ = ["fire", "plan_again", "submit"]

_REPLACED = 1000
"""The most jobs that one replaces; a later one replaces the rest."""


def fire(tx: Transaction, operation: Operation, schedule_id: str, reading: Reading) -> Job | None:
    """Act on the times of a schedule that have passed; returns the job that it submitted.

    Nothing happens where it is not due any more.
    """
    found = stored(tx, schedule_id)
    if found is None or found.schedule.paused:
        return None
    schedule = found.schedule
    try:
        times = passed(found, reading, f'cannot find the next time of schedule "{schedule.name}"')
    except NexusError as error:
        _fail(tx, operation, schedule, error)
        return None
    if times is None:
        return None
    others = open_jobs_of(tx, schedule.id, _REPLACED)
    refusal = _refusal(schedule, times, others)
    if refusal is not None:
        code, reason = refusal
        detail = {"at": times.at, "reason": reason, "code": code}
        _write(tx, operation, schedule, times, reason, [("schedule.skipped", detail)])
        return None
    job = submit(tx, operation, found, others if schedule.overlap is Overlap.REPLACE else ())
    detail = {"at": times.at, "job_id": job.id, "number": job.number, "missed": times.missed}
    last = {"last_job_id": job.id, "last_job_number": job.number}
    _write(tx, operation, schedule, times, None, [("schedule.fired", detail)], **last)
    return job


def _refusal(schedule: Schedule, times: Passed, others: list[tuple[str, int]]) -> tuple[str, str] | None:
    """Why no job is submitted, as a code and in words; ``others`` are its jobs that have not ended."""
    if times.missed and schedule.missed is Missed.SKIP:
        return "missed", "its time passed while the daemon was down or the machine asleep"
    if others and schedule.overlap is Overlap.SKIP:
        return "overlap", f"its job {others[-1][1]} has not ended"
    return None


def _write(
    tx: Transaction,
    operation: Operation,
    schedule: Schedule,
    times: Passed,
    reason: str | None,
    events: list[Event],
    **columns: Any,
) -> None:
    columns |= {"last_at": times.at, "reason": reason} | times.following._asdict()
    SCHEDULES.write(tx, operation, schedule.id, columns, events)


def _fail(tx: Transaction, operation: Operation, schedule: Schedule, error: NexusError) -> None:
    """Note that a schedule has no next time: it is looked for again when the daemon starts, or the zone changes."""
    events: list[Event] = [("schedule.failed", {"reason": error.message})]
    SCHEDULES.write(tx, operation, schedule.id, {**Due(None)._asdict(), "reason": error.message}, events)


def submit(
    tx: Transaction, operation: Operation, found: StoredSchedule, replaces: Iterable[tuple[str, int]] = ()
) -> Job:
    """Submit the job of a schedule; it begins once those that it ``replaces``, by id and number, have ended."""
    schedule = found.schedule
    after = [After(job_id, number, AfterCondition.ANY) for job_id, number in replaces]
    environment = found.environment
    if schedule.node != LOCAL:
        environment = (environment or {}) | (found.variables or {})
    elif found.variables:
        environment = (inherited_environment() if environment is None else environment) | found.variables
    job = JOBS.insert(
        tx,
        operation,
        {
            "project_id": schedule.project_id,
            "node_id": schedule.node,
            "schedule_id": schedule.id,
            "status": JobStatus.QUEUED,
            "tool": schedule.tool,
            "command": schedule.command,
            "argv": schedule.argv,
            "directory": schedule.directory,
            "environment": environment,
            "group": schedule.group,
            "priority": schedule.priority,
            **new_places(tx),
            "label": schedule.label,
            "tags": schedule.tags,
            "after": after,
            "waits_for": len(after),
            "timeout_ms": schedule.timeout_ms,
            "retries": schedule.retries,
            "retry_backoff_ms": schedule.retry_backoff_ms,
            "attempt": 1,
            "operation_id": operation.enter(tx, schedule.project_id),
        },
    )
    insert_after(tx, job.id, after)
    return job


def plan_again(tx: Transaction, operation: Operation, schedule_id: str, reading: Reading) -> None:
    """Find the next time of a schedule again, after the clock, the zone or the boot may have changed."""
    found = stored(tx, schedule_id)
    if found is None or found.schedule.paused:
        return
    try:
        due = replanned(found, reading, f'cannot find the next time of schedule "{found.schedule.name}"')
    except NexusError as error:
        if found.schedule.reason != error.message:
            _fail(tx, operation, found.schedule, error)
        return
    if due != (found.schedule.next_at, found.due_boot, found.due_clock):
        SCHEDULES.write(tx, operation, schedule_id, due._asdict())
