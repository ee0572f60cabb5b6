"""The commands of schedules, and the kinds of their events."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from nexus_protocol.command import Command, Effect, command
from nexus_protocol.events import cause, event

from nexus.jobs.commands import (
    Backoff,
    CommandLine,
    FullEnvironment,
    Group,
    JobTags,
    Label,
    NodeName,
    Priority,
    Retries,
    TimeLimit,
    Tool,
    WorkingDirectory,
)
from nexus.jobs.errors import (
    JobGroupNotFound,
    JobNodeNotFound,
    ScheduleAmbiguous,
    ScheduleChanged,
    ScheduleCursorInvalid,
    ScheduleIdTaken,
    ScheduleInvalid,
    ScheduleNameTaken,
    ScheduleNotFound,
)
from nexus.jobs.records import Job, Schedule, SchedulePage, ScheduleReference
from nexus.jobs.states import Missed, Overlap
from nexus.records.events import record_events
from nexus.records.fields import ClientId, Cursor, ManagedBy, Name, PageLimit, Revision, StateRevision, Tag, key
from nexus.records.processes import Environment

__all__ = [
    "CreateSchedule",
    "DeleteSchedule",
    "GetSchedule",
    "ListSchedules",
    "PauseSchedule",
    "ResumeSchedule",
    "TriggerSchedule",
    "UpdateSchedule",
]

_MAX_PAYLOAD = 6 * 1024 * 1024
"""Of the commands that carry an environment, in bytes."""

_LOOKUP_ERRORS = (ScheduleNotFound, ScheduleAmbiguous)
_CHANGE_ERRORS = (*_LOOKUP_ERRORS, ScheduleChanged)

_WHEN = {"cron": "five fields, or a word", "every_ms": "the time between two jobs"}
_AT = {"at": "the time of the schedule, in ms since 1970"}
_JOB = {"job_id": "the job", "number": "its number"}

record_events("schedule", "A schedule", created=_WHEN, deleted=_WHEN)
event(
    "schedule.fired",
    "The time of a schedule came, and it submitted a job.",
    **_AT,
    **_JOB,
    missed="whether times had passed while the daemon was down or the machine asleep",
)
event(
    "schedule.skipped",
    "The time of a schedule came, and brought no job.",
    **_AT,
    reason="a sentence for people",
    code="overlap: a job of it has not ended; missed: the time had passed before",
)
event("schedule.failed", "The times of a schedule cannot be found any more.", reason="a sentence for people")
event("schedule.triggered", "A client had a schedule submit a job.", **_JOB)
event("schedule.paused", "A schedule submits no further job.")
event("schedule.resumed", "A schedule submits jobs again.")

cause("schedule.due", "The time of a schedule came.")
cause("schedule.planned", "The clock or the time zone was changed, so the next times of schedules were found anew.")

Cron = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=256,
        pattern=r"^[0-9A-Za-z@*,/# \t-]+$(?!\n)",
        description="minute, hour, day of the month, month and day of the week, or @hourly, @daily, @weekly, @monthly "
        "or @yearly",
        extra={"metavar": "TIME"},
    ),
    key("cron"),
]
Every = Annotated[
    int,
    Meta(
        ge=100,
        le=315_360_000_000,
        description="time between two jobs, which counts on while the machine is asleep; a change of the wall clock "
        "does not change it",
    ),
    key("every"),
]
TimeZone = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=r"^[^\x00-\x1f\x7f]+$(?!\n)",
        description="time zone of cron, such as Europe/Berlin (default: that of the daemon)",
        extra={"metavar": "ZONE"},
    ),
    key("timezone"),
]
OverlapRule = Annotated[
    Overlap,
    Meta(
        description="if a job of it has not ended: skip submits none, queue submits one all the same, replace cancels "
        "it and begins the next once it has ended"
    ),
    key("overlap"),
]
MissedRule = Annotated[
    Missed,
    Meta(
        description="for times that passed while the daemon was down or the machine asleep: once submits one job for "
        "all of them, skip none"
    ),
    key("missed"),
]
Variables = Annotated[
    Environment,
    Meta(
        description="variables that its jobs have beside their environment",
        extra={"option": "--env", "metavar": "NAME=VALUE"},
    ),
    key("env"),
]
JobLabel = Annotated[Label, Meta(description="a text for people, which its jobs have")]
RunLine = Annotated[CommandLine, Meta(extra={"option": "--run"})]


@command(
    0x0318,
    Effect.CHANGE,
    errors=(ScheduleInvalid, ScheduleNameTaken, ScheduleIdTaken, JobGroupNotFound, JobNodeNotFound),
    max_payload=_MAX_PAYLOAD,
)
class CreateSchedule(Command[Schedule]):
    """Create a schedule, with ``cron`` or ``every_ms``: it submits a job whenever its time comes.

    The ``environment`` is all that its jobs get beside ``variables``, as with CreateJob, also where their ``node`` is
    another one.
    """

    name: Annotated[Name, Meta(extra={"metavar": "NAME"})]
    command: RunLine | None = None
    cron: Cron | None = None
    every_ms: Every | None = None
    timezone: TimeZone | None = None
    overlap: OverlapRule = Overlap.SKIP
    missed: MissedRule = Missed.ONCE
    tool: Tool | None = None
    directory: WorkingDirectory | None = None
    environment: FullEnvironment | None = None
    variables: Variables | None = None
    node: NodeName = "local"
    group: Group = "default"
    priority: Priority = 0
    label: JobLabel | None = None
    tags: JobTags | None = None
    timeout_ms: TimeLimit | None = None
    retries: Retries = 0
    retry_backoff_ms: Backoff = 1000
    managed_by: ManagedBy | None = None
    id: ClientId | None = None


@command(0x0319, Effect.READ, errors=(ScheduleCursorInvalid,), large_reply=True, all_projects=True)
class ListSchedules(Command[SchedulePage]):
    """List schedules by name.

    A page ends at ``limit`` schedules or 1 MiB, whichever comes first; ``next_cursor`` is set when more follow.
    """

    tag: Annotated[Tag, Meta(description="only schedules with this tag")] | None = None
    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(0x031A, Effect.READ, errors=_LOOKUP_ERRORS)
class GetSchedule(Command[Schedule]):
    """Get a schedule, with its next five times. Only with ``reveal`` the values of its variables are in the reply."""

    schedule: ScheduleReference
    reveal: Annotated[bool, Meta(description="show the values of its variables")] = False


@command(
    0x031B,
    Effect.CHANGE,
    errors=(*_CHANGE_ERRORS, ScheduleInvalid, ScheduleNameTaken, JobGroupNotFound, JobNodeNotFound),
    max_payload=_MAX_PAYLOAD,
)
class UpdateSchedule(Command[Schedule]):
    """Change a schedule; absent fields keep their values, and jobs that it has submitted are not changed.

    ``cron`` replaces ``every_ms``, and ``every_ms`` replaces ``cron``. ``clear`` takes ``timezone``, ``environment``,
    ``variables``, ``label``, ``tags``, ``timeout_ms`` and ``managed_by``, ``tool`` and ``directory`` for their
    defaults, and that of ``cron`` and ``every_ms`` that is replaced.
    """

    schedule: ScheduleReference
    name: Annotated[Name, Meta(description="a new name")] | None = None
    command: RunLine | None = None
    cron: Cron | None = None
    every_ms: Every | None = None
    timezone: TimeZone | None = None
    overlap: OverlapRule | None = None
    missed: MissedRule | None = None
    tool: Tool | None = None
    directory: WorkingDirectory | None = None
    environment: FullEnvironment | None = None
    variables: Variables | None = None
    node: NodeName | None = None
    group: Group | None = None
    priority: Priority | None = None
    label: JobLabel | None = None
    tags: JobTags | None = None
    timeout_ms: TimeLimit | None = None
    retries: Retries | None = None
    retry_backoff_ms: Backoff | None = None
    managed_by: ManagedBy | None = None
    clear: (
        Annotated[
            list[Annotated[str, Meta(max_length=64)]],
            Meta(max_length=16, description="fields to unset", extra={"option": "--clear", "metavar": "FIELD"}),
        ]
        | None
    ) = None
    if_revision: Revision | None = None


@command(0x031C, Effect.CHANGE, errors=_CHANGE_ERRORS)
class DeleteSchedule(Command[Schedule]):
    """Delete a schedule. The jobs that it has submitted stay, and go on."""

    schedule: ScheduleReference
    if_revision: Revision | None = None
    if_state_revision: StateRevision | None = None


@command(0x031D, Effect.CHANGE, errors=_LOOKUP_ERRORS)
class PauseSchedule(Command[Schedule]):
    """Let a schedule submit no further job. What it has submitted goes on."""

    schedule: ScheduleReference


@command(0x031E, Effect.CHANGE, errors=_LOOKUP_ERRORS)
class ResumeSchedule(Command[Schedule]):
    """Let a paused schedule submit jobs again: at its next time, or ``every_ms`` from now."""

    schedule: ScheduleReference


@command(0x031F, Effect.CHANGE, errors=_LOOKUP_ERRORS)
class TriggerSchedule(Command[Job]):
    """Submit the job of a schedule now, whatever its time, its other jobs and its pause are. Its times do not change.

    A request that may have been lost is repeated under a key, or it may submit two.
    """

    schedule: ScheduleReference
