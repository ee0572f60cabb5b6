"""All SQL of jobs and their groups that ``records.Table`` does not have. Only this module sets a job's status."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from nexus_protocol.command import SECRET, Record

from nexus.hints import command_line
from nexus.jobs.errors import (
    JobAmbiguous,
    JobChanged,
    JobCursorInvalid,
    JobGroupAmbiguous,
    JobGroupChanged,
    JobGroupCursorInvalid,
    JobGroupIdTaken,
    JobGroupNameTaken,
    JobGroupNotFound,
    JobIdTaken,
    JobNodeNotFound,
    JobNotFound,
    JobStatusWrong,
)
from nexus.jobs.records import After, Job, JobGroup
from nexus.jobs.states import ENDED, TRANSITIONS, AfterCondition, JobReason, JobStatus
from nexus.journal.operation import Operation
from nexus.journal.rows import Event, derived
from nexus.records.errors import RecordErrors, RecordNameTaken
from nexus.records.scope import reference_of
from nexus.records.table import Table, next_number
from nexus.store import Reader, Transaction

__all__ = [
    "end_of",
    "ALIVE",
    "DEFAULT_GROUP",
    "GROUPS",
    "JOBS",
    "StoredJob",
    "Waiting",
    "alive",
    "backoff_ms",
    "begins_later",
    "carried_leases",
    "borrowed_services",
    "change_status",
    "counts",
    "delete",
    "dependents",
    "ended_before",
    "ended_with_waiters",
    "expect_status",
    "first_place",
    "group_of",
    "insert_after",
    "is_paused",
    "last_place",
    "new_places",
    "next_due",
    "next_jobs_on",
    "node_ids",
    "node_of",
    "note_blocked",
    "numbers_and_statuses",
    "operation_of",
    "output_total",
    "oldest_outputs",
    "open_jobs",
    "place_before",
    "release_due",
    "runs_on",
    "settle",
    "stored",
    "under_lease",
    "unlink",
    "uses_of_group",
    "waiting_groups",
]

ALIVE = frozenset({JobStatus.EXECUTING, JobStatus.UNKNOWN})
"""The statuses in which a job has a process, or may have one."""
DEFAULT_GROUP = "default"
_STEP = 1 << 20
"""Between the places of two jobs that were submitted one after the other."""
_MAX_BACKOFF_MS = 3_600_000

derived("job_after", "the column after of jobs: what is not settled of it")


class _Private(Record):
    """The columns that only the daemon may read."""

    environment: Annotated[dict[str, str], SECRET] | None = None
    stdin_data: Annotated[bytes, SECRET] | None = None
    run_id: str | None = None
    operation_id: int | None = None


class StoredJob(NamedTuple):
    """A job with the columns that only the daemon may read."""

    job: Job
    environment: dict[str, str] | None
    """All that it gets; None: that of the daemon."""
    stdin_data: bytes | None
    run_id: str | None
    operation_id: int | None

    def __repr__(self) -> str:
        return f"StoredJob({self.job.id})"


JOBS = Table(
    Job,
    "jobs",
    kind="job",
    word="job",
    look="job inspect",
    errors=RecordErrors(JobNotFound, JobAmbiguous, RecordNameTaken, JobIdTaken, JobChanged, JobCursorInvalid),
    observed=(
        "status",
        "reason",
        "reason_code",
        "attempt",
        "pid",
        "exit_code",
        "exit_signal",
        "duration",
        "started_at",
        "completed_at",
        "unknown_since",
        "waits_for",
        "place",
    ),
    # No image has the environment and the standard input: they are to be gone once the job has ended.
    volatile=("stdout", "stderr", "output_bytes", "operation_id", "run_id", "not_before", "environment", "stdin_data"),
    order=("seq",),
    indexed=("status", "group", "conversation_id"),
    told=("tool", "group", "status"),
    columns={"group": "group_name"},
    private=_Private,
    state="status",
    unlisted=("stdout", "stderr"),
    searchable=True,
)

GROUPS = Table(
    JobGroup,
    "job_group",
    kind="job_group",
    word="job group",
    look="group inspect",
    errors=RecordErrors(
        JobGroupNotFound, JobGroupAmbiguous, JobGroupNameTaken, JobGroupIdTaken, JobGroupChanged, JobGroupCursorInvalid
    ),
    observed=("paused",),
    order=("name",),
    descending=False,
    told=("slots",),
)

_FIELDS = len(JOBS.columns)
_SELECT_STORED = JOBS.selecting(*JOBS.private)
_LIVE = ("pid", "unknown_since")
_OF_ATTEMPT = ("exit_code", "exit_signal", "stdout", "stderr", "output_bytes", "duration", "completed_at")
_UNSET_AT_END = ("environment", "stdin_data", "operation_id", "not_before")


def _stored(row: Sequence[Any]) -> StoredJob:
    private = {
        name: column.to_field(value) for (name, column), value in zip(JOBS.private.items(), row[_FIELDS:], strict=True)
    }
    return StoredJob(JOBS.decode(row[:_FIELDS]), **private)


def stored(reader: Reader, job_id: str) -> StoredJob | None:
    """The job with this id; None where there is none."""
    row = reader.one(f"{_SELECT_STORED} WHERE jobs.id = ?", (job_id,))
    return None if row is None else _stored(row)


def alive(reader: Reader) -> list[StoredJob]:
    """Every job that has a process, or may have one: for the start of the daemon."""
    return [
        _stored(row)
        for status in sorted(ALIVE)
        for row in reader.all(f"{_SELECT_STORED} WHERE status = ? ORDER BY created_at, jobs.id", (status.value,))
    ]


def operation_of(reader: Reader, job_id: str) -> int | None:
    """The operation of the last change of a job's status; None once it has ended."""
    row = reader.one("SELECT operation_id FROM jobs WHERE id = ?", (job_id,))
    return None if row is None else row[0]


def expect_status(job: Job, cannot: str, *allowed: JobStatus) -> None:
    """Refuse a change of a job in another status.

    Raises:
        JobStatusWrong: it has another one.
    """
    if job.status in allowed:
        return
    raise JobStatusWrong(
        f"{cannot}: it is {job.status}",
        hint=f"Look at it: {command_line('nexusctl', 'job', 'inspect', reference_of(job))}",
        details={"id": job.id, "number": job.number, "status": job.status.value},
    )


# The status


def change_status(
    tx: Transaction,
    operation: Operation,
    job_id: str,
    status: JobStatus,
    events: Sequence[Event] = (),
    **columns: Any,
) -> Job:
    """Set the status of a job, which may be the present one, with columns of its run, and return the job.

    A change of status unsets the reason unless it is given. Queued unsets what the last attempt left, and an end the
    environment, the standard input, the pid and the operation. A job that begins, or has ended, waits for no other.

    Raises:
        JobNotFound: there is no such job.
        ValueError: TRANSITIONS does not allow the change.
    """
    row = tx.one("SELECT status, project_id FROM jobs WHERE id = ?", (job_id,))
    if row is None:
        raise JOBS.not_found(job_id)
    before = JobStatus(row[0])
    changes: dict[str, Any] = {"unknown_since": None}
    if status is not before:
        if status not in TRANSITIONS[before]:
            raise ValueError(f"a job does not go from {before} to {status}")
        changes |= {"status": status, "reason": None, "reason_code": None}
    if status not in ALIVE:
        changes |= dict.fromkeys((*_LIVE, "run_id"))
    if status in ENDED:
        changes |= dict.fromkeys(_UNSET_AT_END) | {"completed_at": tx.now}
    else:
        changes["operation_id"] = operation.enter(tx, row[1])
    if status is JobStatus.QUEUED:
        changes["started_at"] = None
    if status is JobStatus.EXECUTING and before is not status:
        changes |= dict.fromkeys(_OF_ATTEMPT)
    if status in ENDED or status is JobStatus.EXECUTING:
        # What it waited for concerns it no more, also when it is queued again.
        tx.execute("DELETE FROM job_after WHERE job_id = ?", (job_id,))
        changes["waits_for"] = 0
    job = JOBS.write(tx, operation, job_id, changes | columns, events)
    assert job is not None
    return job


def delete(tx: Transaction, operation: Operation, job: Job) -> None:
    """Delete a job that has no process. What waits for it goes on or is cancelled, as if it were still there."""
    tx.execute("DELETE FROM job_after WHERE job_id = ?", (job.id,))
    if job.status is JobStatus.COMPLETED:
        tx.execute("UPDATE job_after SET condition = ? WHERE after_id = ?", (AfterCondition.ANY.value, job.id))
    JOBS.delete(tx, operation, job, ("status",))


def borrowed_services(reader: Reader) -> set[str]:
    """The ids of the services whose environments running one-offs have."""
    rows = reader.all(
        "SELECT DISTINCT service_id FROM jobs WHERE service_id IS NOT NULL AND status IN ('executing', 'unknown')"
    )
    return {row[0] for row in rows}


def unlink(tx: Transaction, operation: Operation, field: str, id_: str, limit: int) -> int:
    """Unset the message of at most ``limit`` jobs that name it, or their conversation with its message.

    ``field`` is ``conversation_id`` or ``message_id``. Returns how many there were.
    """
    unset = {"message_id": None} if field == "message_id" else {"conversation_id": None, "message_id": None}
    rows = tx.all(f"SELECT id FROM jobs WHERE {field} = ? LIMIT ?", (id_, limit))
    for (job_id,) in rows:
        JOBS.write(tx, operation, job_id, unset, [("job.unlinked", {})])
    return len(rows)


# What waits


def new_places(tx: Transaction) -> dict[str, int]:
    """The fields with the places of a job that is submitted now: in the order of all jobs, and in its queue."""
    seq = next_number(tx, "", "job.place")
    return {"seq": seq, "place": seq * _STEP}


def last_place(tx: Transaction) -> int:
    """The place of a job that is submitted now: after all others."""
    return next_number(tx, "", "job.place") * _STEP


def first_place(reader: Reader, group: str, priority: int) -> int:
    """A place before all waiting jobs of a group and priority."""
    row = reader.one(
        "SELECT min(place) FROM jobs WHERE group_name = ? AND priority = ? AND status IN ('queued', 'stashed')",
        (group, priority),
    )
    return (row[0] if row is not None and row[0] is not None else 0) - _STEP


def place_before(tx: Transaction, operation: Operation, job: Job) -> int:
    """A place just before a waiting job; where there is none, the jobs before it are moved to make one."""
    rows = tx.all(
        "SELECT id, place FROM jobs WHERE group_name = ? AND priority = ? AND place < ? "
        "AND status IN ('queued', 'stashed') ORDER BY place DESC",
        (job.group, job.priority, job.place),
    )
    if not rows:
        return job.place - _STEP
    if job.place - rows[0][1] >= 2:
        return int((job.place + rows[0][1]) // 2)
    # The room for one place was halved twenty times. Those before it go down as far as the first gap.
    for index, (id_, place) in enumerate(rows):
        JOBS.write(tx, operation, id_, {"place": place - _STEP})
        following = rows[index + 1][1] if index + 1 < len(rows) else None
        if following is None or following < place - _STEP:
            break
    return job.place - 1


def next_jobs_on(reader: Reader, group: str, node_id: str, limit: int) -> list[str]:
    """The ids of the next jobs of a group on a node."""
    rows = reader.all(
        "SELECT id FROM jobs WHERE status = 'queued' AND group_name = ? AND node_id = ? AND waits_for = 0 "
        "AND not_before IS NULL ORDER BY priority DESC, place LIMIT ?",
        (group, node_id, limit),
    )
    return [row[0] for row in rows]


def node_ids(reader: Reader) -> list[str]:
    """The nodes, this machine among them."""
    return [row[0] for row in reader.all("SELECT id FROM nodes ORDER BY id")]


def node_of(reader: Reader, name: str, cannot: str) -> str:
    """The id of the node with this name.

    Raises:
        JobNodeNotFound: there is none.
    """
    row = reader.one("SELECT id FROM nodes WHERE name = ?", (name,))
    if row is None:
        raise JobNodeNotFound(
            f'{cannot}: node "{name}" not found',
            hint=f"Add it: {command_line('nexusctl', 'node', 'add', name)}",
            details={"node": name},
        )
    return str(row[0])


def runs_on(reader: Reader, node_id: str) -> set[str]:
    """The ids of the runs that jobs have on a node, or may have."""
    rows = reader.all(
        "SELECT run_id FROM jobs WHERE status IN ('executing', 'unknown') AND node_id = ? AND run_id IS NOT NULL",
        (node_id,),
    )
    return {row[0] for row in rows}


def note_blocked(tx: Transaction, operation: Operation, blocked: Mapping[str, tuple[str, str]]) -> None:
    """Write why queued jobs do not begin: by id, the code and the sentence."""
    for job_id, (code, text) in blocked.items():
        job = JOBS.by_id(tx, job_id)
        if job is not None and job.status is JobStatus.QUEUED:
            JOBS.write(tx, operation, job_id, {"reason_code": JobReason(code), "reason": text})


def waiting_groups(reader: Reader) -> list[tuple[str, int | None]]:
    """The groups that are not paused, with their slots."""
    return reader.all("SELECT name, slots FROM job_group WHERE paused = 0 ORDER BY name")


def is_paused(reader: Reader, group: str) -> bool:
    """Whether no job of a group begins."""
    return reader.one("SELECT 1 FROM job_group WHERE name = ? AND paused = 1", (group,)) is not None


def next_due(reader: Reader) -> int | None:
    """When the next delayed job may begin (ms); None without one."""
    row = reader.one("SELECT min(not_before) FROM jobs WHERE status = 'queued' AND not_before IS NOT NULL")
    return None if row is None else row[0]


def begins_later(reader: Reader) -> bool:
    """Whether a job waits that begins by itself: for its time, or for a slot."""
    groups = waiting_groups(reader)
    ready = "status = 'queued' AND group_name = ? AND waits_for = 0 AND not_before IS NULL"
    return bool(groups and next_due(reader) is not None) or any(
        reader.one(f"SELECT 1 FROM jobs WHERE {ready} LIMIT 1", (group,)) for group, _ in groups
    )


def release_due(tx: Transaction, operation: Operation, limit: int) -> int:
    """Let delayed jobs begin whose time has come; returns how many were found."""
    rows = tx.all(
        "SELECT id FROM jobs WHERE status = 'queued' AND not_before IS NOT NULL AND not_before <= ? LIMIT ?",
        (tx.now, limit),
    )
    for (id_,) in rows:
        JOBS.write(tx, operation, id_, {"not_before": None})
    return len(rows)


def group_of(reader: Reader, name: str, cannot: str) -> str:
    """Return the name of a group that exists.

    Raises:
        JobGroupNotFound: there is none.
    """
    if reader.one("SELECT 1 FROM job_group WHERE name = ?", (name,)) is None:
        raise JobGroupNotFound(
            f'{cannot}: job group "{name}" not found',
            hint=f"Create it: {command_line('nexusctl', 'group', 'create', name)}",
            details={"job_group": name},
        )
    return name


def counts(reader: Reader) -> dict[str, dict[str, int]]:
    """How many jobs of each group are queued and executing."""
    found: dict[str, dict[str, int]] = {}
    for group, status, count in reader.all(
        "SELECT group_name, status, count(*) FROM jobs WHERE status IN ('queued', 'executing') "
        "GROUP BY group_name, status"
    ):
        found.setdefault(group, {})[status] = count
    return found


def open_jobs(reader: Reader, group: str | None, project_id: str | None, limit: int) -> list[str]:
    """The ids of jobs that have not ended, of a group and of a project, or of all."""
    conditions, parameters = ["status IN ('queued', 'stashed', 'executing', 'unknown')"], []
    for column, value in (("group_name", group), ("project_id", project_id)):
        if value is not None:
            conditions.append(f"{column} = ?")
            parameters.append(value)
    rows = reader.all(f"SELECT id FROM jobs WHERE {' AND '.join(conditions)} LIMIT ?", (*parameters, limit))
    return [row[0] for row in rows]


def end_of(reader: Reader, job_id: str) -> str | None:
    """How the job with this id has ended, in words; None: it has not."""
    job = JOBS.by_id(reader, job_id)
    if job is None:
        return "its job was deleted"
    if job.completed_at is None:
        return None
    exit_ = "" if job.exit_code is None else f" with exit code {job.exit_code}"
    why = "" if job.reason is None or job.exit_code is not None else f": {job.reason}"
    return f"job {job.number} has ended{exit_} ({job.status.value}){why}"


def carried_leases(reader: Reader) -> set[str]:
    """The leases of all jobs that have not ended."""
    rows = reader.all("SELECT DISTINCT lease_id FROM jobs WHERE lease_id IS NOT NULL AND completed_at IS NULL")
    return {row[0] for row in rows}


def under_lease(reader: Reader, lease_id: str) -> list[Job]:
    """The jobs that were submitted under a lease and have not ended, newest first: so no other begins meanwhile."""
    rows = reader.all(
        f"{JOBS.select} WHERE jobs.lease_id = ? AND jobs.completed_at IS NULL ORDER BY jobs.seq DESC", (lease_id,)
    )
    return [JOBS.decode(row) for row in rows]


def numbers_and_statuses(reader: Reader, project_id: str, after: int, limit: int) -> list[tuple[str, int, str]]:
    """The id, number and status of jobs of a project, by number: at most ``limit`` (-1: all) after a number."""
    return reader.all(
        "SELECT id, number, status FROM jobs WHERE project_id = ? AND number > ? ORDER BY number LIMIT ?",
        (project_id, after, limit),
    )


def uses_of_group(reader: Reader, group: str) -> tuple[int, int]:
    """How many jobs of a group have not ended, and how many schedules submit jobs to it."""
    row = reader.one(
        "SELECT (SELECT count(*) FROM jobs WHERE group_name = ? "
        "AND status IN ('queued', 'stashed', 'executing', 'unknown')), "
        "(SELECT count(*) FROM schedules WHERE group_name = ?)",
        (group, group),
    )
    return (0, 0) if row is None else (row[0], row[1])


# Jobs that wait for others


class Waiting(NamedTuple):
    """What settling what jobs wait for has changed."""

    cancelled: list[str]
    """Jobs that were cancelled because one that they waited for did not complete."""
    released: bool
    """Whether a job may begin now."""
    more: bool
    """Whether more jobs wait for this one."""


def insert_after(tx: Transaction, job_id: str, after: Iterable[After]) -> None:
    """Keep what a new job waits for, as far as it is not settled."""
    for each in after:
        row = tx.one("SELECT status FROM jobs WHERE id = ?", (each.job_id,))
        if row is None or JobStatus(row[0]) in ENDED:
            continue
        tx.execute(
            "INSERT INTO job_after (job_id, after_id, condition) VALUES (?, ?, ?)",
            (job_id, each.job_id, each.condition.value),
        )


def dependents(reader: Reader, job_id: str, limit: int) -> list[int]:
    """The numbers of some jobs that wait for this one."""
    rows = reader.all(
        "SELECT jobs.number FROM job_after JOIN jobs ON jobs.id = job_after.job_id WHERE after_id = ? "
        "ORDER BY jobs.number LIMIT ?",
        (job_id, limit),
    )
    return [row[0] for row in rows]


def ended_with_waiters(reader: Reader) -> list[str]:
    """The jobs that have ended, or were deleted then, and that others still wait for.

    A daemon ended before it settled them.
    """
    rows = reader.all(
        "SELECT DISTINCT after_id FROM job_after LEFT JOIN jobs ON jobs.id = after_id "
        "WHERE jobs.id IS NULL OR jobs.status IN ('completed', 'failed', 'cancelled')"
    )
    return [row[0] for row in rows]


def settle(tx: Transaction, operation: Operation, ended_id: str, limit: int) -> Waiting:
    """Let jobs go on that waited for one that has ended, or cancel them because it did not complete."""
    ended = JOBS.by_id(tx, ended_id)
    rows = tx.all(
        "SELECT job_id, condition FROM job_after WHERE after_id = ? ORDER BY job_id LIMIT ?", (ended_id, limit + 1)
    )
    if ended is not None and ended.status not in ENDED:
        return Waiting([], False, False)  # it was retried meanwhile
    cancelled: list[str] = []
    released = False
    for job_id, condition in rows[:limit]:
        tx.execute("DELETE FROM job_after WHERE job_id = ? AND after_id = ?", (job_id, ended_id))
        job = JOBS.by_id(tx, job_id)
        if job is None or job.status not in (JobStatus.QUEUED, JobStatus.STASHED):
            continue
        if condition == AfterCondition.ANY.value or (ended is not None and ended.status is JobStatus.COMPLETED):
            JOBS.write(tx, operation, job_id, {"waits_for": max(job.waits_for - 1, 0)})
            released = released or job.waits_for <= 1
            continue
        number = "a job that was deleted" if ended is None else f"job {ended.number}, which {_ended(ended)}"
        reason = f"it was to follow {number}"
        change_status(
            tx,
            operation,
            job_id,
            JobStatus.CANCELLED,
            [("job.cancelled", {"reason": reason})],
            reason=reason,
            reason_code=JobReason.AFTER_FAILED,
        )
        cancelled.append(job_id)
    return Waiting(cancelled, released, len(rows) > limit)


def _ended(job: Job) -> str:
    return "was cancelled" if job.status is JobStatus.CANCELLED else "failed"


def backoff_ms(job: Job) -> int:
    """How long the next attempt of a failed job waits."""
    return min(job.retry_backoff_ms << min(job.attempt - 1, 32), max(_MAX_BACKOFF_MS, job.retry_backoff_ms))


# What has ended


def ended_before(reader: Reader, before: int, project_id: str | None, successful: bool, limit: int) -> list[Job]:
    """Jobs that ended before a time (ms), oldest first."""
    conditions, parameters = ["completed_at IS NOT NULL", "completed_at < ?"], [before]
    conditions.append("status = 'completed'" if successful else "status IN ('completed', 'failed', 'cancelled')")
    if project_id is not None:
        conditions.append("project_id = ?")
        parameters.append(project_id)  # type: ignore[arg-type]
    rows = reader.all(
        f"{JOBS.select} WHERE {' AND '.join(conditions)} ORDER BY completed_at LIMIT ?", (*parameters, limit)
    )
    return [JOBS.decode(row) for row in rows]


def output_total(reader: Reader) -> int:
    """How many bytes of output of ended jobs are kept."""
    row = reader.one("SELECT sum(output_bytes) FROM jobs WHERE output_bytes > 0 AND completed_at IS NOT NULL")
    return 0 if row is None or row[0] is None else int(row[0])


def oldest_outputs(reader: Reader, limit: int) -> list[tuple[str, int]]:
    """The ended jobs whose output is kept, with its size, oldest first."""
    return reader.all(
        "SELECT id, output_bytes FROM jobs WHERE output_bytes > 0 AND completed_at IS NOT NULL "
        "ORDER BY completed_at LIMIT ?",
        (limit,),
    )
