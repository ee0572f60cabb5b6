"""The records of jobs, groups and schedules, and the annotated types that records and commands share."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field
from nexus_protocol.command import SECRET, UNRECORDED, Record

from nexus.jobs.states import AfterCondition, JobReason, JobStatus, Missed, Overlap
from nexus.records.fields import Reference
from nexus.records.processes import StopSignal

__all__ = [
    "After",
    "Job",
    "JobGroup",
    "JobGroupPage",
    "JobPage",
    "JobsPruned",
    "JobsWaited",
    "Schedule",
    "SchedulePage",
]

JobReference = Annotated[
    Reference,
    Meta(
        description="the number of the job in its project, as 12 or #12, else its id or a unique prefix of it; "
        "PROJECT/12 is that in another project",
        extra={"completes": "job", "metavar": "JOB"},
    ),
]
GroupReference = Annotated[Reference, Meta(extra={"completes": "group", "metavar": "GROUP"})]
ScheduleReference = Annotated[Reference, Meta(extra={"completes": "schedule"})]


class After(Record):
    """A job that another one waits for."""

    job_id: str
    number: int
    condition: AfterCondition = AfterCondition.COMPLETED


class Job(Record, kw_only=True):
    """A job: its configuration, then its state. Optional fields are absent when they are not set.

    Lists leave out ``stdout`` and ``stderr``. The environment is given to the job, and to no client.
    """

    id: str
    number: int
    """It identifies the job in its project, and is given once."""
    seq: int
    """The order of submission over all projects."""
    project_id: str
    project: str
    """The name of its project."""
    status: JobStatus
    tool: str
    """What it is for: bash, git, docker or any other word. The command of ``bash`` is a line for the shell."""
    command: Annotated[str, UNRECORDED]
    """The command as a line."""
    argv: Annotated[list[str], UNRECORDED] | None = None
    """The words of the command where it is run without a shell."""
    directory: str
    node_id: str
    """Where it runs; ``local`` is the daemon's own machine."""
    group: str
    priority: int
    """Jobs with a higher one begin first."""
    place: int
    """The order among jobs of one priority, the lowest first."""
    label: str | None = None
    tags: list[str] = field(default_factory=list)
    metadata: Annotated[dict[str, Any], UNRECORDED] = field(default_factory=dict)
    after: list[After] = field(default_factory=list)
    """The jobs that must end before it begins."""
    waits_for: int = 0
    """How many of them have not ended."""
    not_before: int | None = None
    """When it may begin (ms since 1970)."""
    timeout_ms: int | None = None
    retries: int = 0
    """How many further attempts follow one that failed."""
    retry_backoff_ms: int
    """Wait before the first of them; doubled for each further one, up to an hour."""
    tty: bool = False
    """Whether it has a terminal."""
    stdin_open: bool = False
    """Whether clients may write to its standard input."""
    stdin_path: str | None = None
    """The file that is its standard input."""
    stop_signal: StopSignal
    stop_grace_ms: int
    """Time from the stop signal to SIGKILL."""
    memory_limit_mib: int | None = None
    cpu_limit_percent: int | None = None
    """100 is one core."""
    log_limit_mib: int
    service_id: str | None = None
    """The service that it is a one-off of: it has its environment, tunnels and limits."""
    schedule_id: str | None = None
    """The schedule that submitted it."""
    conversation_id: str | None = None
    message_id: str | None = None
    retry_of: str | None = None
    """The job that this one is a new attempt of."""

    reason: str | None = None
    """Why it is in its status, in words."""
    reason_code: JobReason | None = None
    attempt: int
    """Counts the attempts, from 1."""
    pid: int | None = None
    exit_code: int | None = None
    exit_signal: int | None = None
    stdout: str | None = None
    """The end of its standard output, 64 KiB at most, once it has ended."""
    stderr: str | None = None
    output_bytes: int | None = None
    """How much output is kept, once it has ended; 0: its log was deleted."""
    duration: int | None = None
    """How long its last attempt took, in ms."""
    created_at: int
    updated_at: int
    started_at: int | None = None
    completed_at: int | None = None
    """When it ended, however that was."""
    unknown_since: int | None = None
    """Since when its run cannot be looked at."""
    space_id: str | None = None
    lease_id: str | None = None
    """The lease that it was submitted under."""
    epoch: int | None = None
    """The epoch of that lease."""
    revision: int
    """Counts the changes of its configuration, from 1."""
    state_revision: int
    """Counts the changes of its state, from 0."""

    @property
    def name(self) -> str:
        """How sentences and references name it: by its number."""
        return str(self.number)


class JobPage(Record):
    """A page of a list of jobs, newest first."""

    jobs: list[Job]
    next_cursor: str | None = None


class JobsWaited(Record):
    """How the jobs of a wait ended, without their output."""

    jobs: list[Job]


class JobsPruned(Record):
    """How many jobs were deleted."""

    count: int
    more: bool = False
    """Whether the request has to be repeated for the rest."""
    ids: list[str] = field(default_factory=list)


class JobGroup(Record, kw_only=True):
    """A group: a queue of jobs of all projects, with a number of slots."""

    id: str
    name: str
    slots: int | None = None
    """How many jobs of it run at once on each node; absent: one for each core of the node."""
    paused: bool
    """Whether no job of it begins."""
    managed_by: str | None = None
    created_at: int
    updated_at: int
    revision: int
    state_revision: int


class JobGroupPage(Record):
    """A page of a list of groups, by name."""

    groups: list[JobGroup]
    next_cursor: str | None = None
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """By the name of a group and a status, queued or executing, how many jobs there are."""


class Schedule(Record, kw_only=True):
    """A schedule: when it submits a job, and which one."""

    id: str
    name: str
    project_id: str
    project: str
    cron: str | None = None
    """Five fields, or a word such as ``@daily``."""
    every_ms: int | None = None
    """The time between two jobs, which a change of the wall clock does not change."""
    timezone: str | None = None
    """The zone of ``cron``; absent: that of the daemon."""
    overlap: Overlap
    missed: Missed
    paused: bool
    tool: str
    command: Annotated[str, UNRECORDED]
    argv: Annotated[list[str], UNRECORDED] | None = None
    directory: str
    node: str
    """Where its jobs run."""
    group: str
    priority: int
    label: str | None = None
    tags: list[str] = field(default_factory=list)
    timeout_ms: int | None = None
    retries: int
    retry_backoff_ms: int
    variable_names: list[str] = field(default_factory=list)
    """Of the variables that its jobs have beside their environment."""
    variables: Annotated[dict[str, str], SECRET] | None = None
    """Their values, only where GetSchedule is asked to reveal them."""
    managed_by: str | None = None
    next_at: int | None = None
    """When it submits the next job; absent while it is paused."""
    next_times: list[int] = field(default_factory=list)
    """When it submits the next five, only in the reply of GetSchedule."""
    last_at: int | None = None
    """The time that it acted on last."""
    last_job_id: str | None = None
    last_job_number: int | None = None
    reason: str | None = None
    """Why the last time brought no job."""
    created_at: int
    updated_at: int
    revision: int
    state_revision: int


class SchedulePage(Record):
    """A page of a list of schedules, by name."""

    schedules: list[Schedule]
    next_cursor: str | None = None


JobEnvironment = Annotated[
    dict[
        Annotated[str, Meta(min_length=1, max_length=1024, pattern=r"^[^=\x00]+$")],
        Annotated[str, Meta(max_length=131_072, pattern=r"^[^\x00]*$")],
    ],
    Meta(max_length=4096),
    SECRET,
]
"""A whole environment, as a shell may have it."""
