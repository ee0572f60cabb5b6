"""The handlers of the commands on jobs; those of groups are in ``groups``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import msgspec
from nexus_protocol import DeadlineExceeded, Empty

from nexus.attaching import attach, send_input
from nexus.capability import Context, Stream, handles
from nexus.hints import command_line
from nexus.jobs import store
from nexus.jobs.commands import (
    AttachJob,
    CancelJob,
    CreateJob,
    DeleteJob,
    EnqueueJob,
    GetJob,
    GetJobOutput,
    ListJobs,
    MoveJob,
    PruneJobs,
    RetryJob,
    SendJobInput,
    StartJob,
    StashJob,
    UpdateJob,
    WaitJobs,
)
from nexus.jobs.errors import JobIdTaken, JobInvalid, JobNeeded, JobStatusWrong
from nexus.jobs.groups import (
    create_job_group,
    delete_job_group,
    get_job_group,
    list_job_groups,
    pause_job_group,
    resume_job_group,
    update_job_group,
)
from nexus.jobs.manager import JobManager
from nexus.jobs.records import After, Job, JobsPruned, JobsWaited
from nexus.jobs.schedules.handlers import (
    create_schedule,
    delete_schedule,
    get_schedule,
    list_schedules,
    pause_schedule,
    resume_schedule,
    trigger_schedule,
    update_schedule,
)
from nexus.jobs.states import ENDED, AfterCondition, JobStatus
from nexus.jobs.store import ALIVE, GROUPS, JOBS, expect_status
from nexus.jobs.validation import check_directory, command_fields
from nexus.journal.operation import Operation
from nexus.records.contents import Contents, Held, contents
from nexus.records.errors import RecordAmbiguous, RecordNotFound
from nexus.records.handlers import check_metadata, gets, lists
from nexus.records.links import Link, Target, link, linked, target
from nexus.records.processes import LogEnd, LogPiece, StopSignal, TerminalEnd, TerminalOutput
from nexus.records.scope import Scope, reference_of
from nexus.store import Reader, Transaction
from nexus.streams import Following, daemon_stopping
from nexus.supervision.nodes import LOCAL
from nexus.tasks import cancel_and_wait

__all__ = [
    "COUNTED",
    "attach_job",
    "cancel_job",
    "create_job",
    "create_job_group",
    "create_schedule",
    "delete_job",
    "delete_job_group",
    "delete_schedule",
    "enqueue_job",
    "get_job",
    "get_job_group",
    "get_job_output",
    "get_schedule",
    "list_job_groups",
    "list_jobs",
    "list_schedules",
    "move_job",
    "pause_job_group",
    "pause_schedule",
    "prune_jobs",
    "resume_job_group",
    "resume_schedule",
    "retry_job",
    "send_job_input",
    "start_job",
    "stash_job",
    "trigger_schedule",
    "update_job",
    "update_job_group",
    "update_schedule",
    "wait_jobs",
]

COUNTED = JOBS

_WAITING = (JobStatus.QUEUED, JobStatus.STASHED)
_PRUNED_AT_ONCE = 1000
_SHOWN = 1000
_MAX_WAITED = 50_000
_CONFIGURED = ("command", "tool", "directory", "group", "priority", "timeout_ms", "retries", "retry_backoff_ms")
"""The fields of an update that only a job which waits takes."""
_SAME = (
    "tool",
    "command",
    "argv",
    "directory",
    "node_id",
    "group",
    "priority",
    "label",
    "tags",
    "metadata",
    "timeout_ms",
    "retries",
    "retry_backoff_ms",
    "tty",
    "stdin_open",
    "stdin_path",
    "stop_signal",
    "stop_grace_ms",
    "memory_limit_mib",
    "cpu_limit_percent",
    "log_limit_mib",
    "service_id",
    "conversation_id",
    "message_id",
)
"""What a new attempt has of the job that it repeats."""


def _manager(ctx: Context) -> JobManager:
    return ctx.daemon.manager(JobManager)


def _wake(ctx: Context, _reply: Any) -> None:
    _manager(ctx).wake()


def _held(reader: Reader, project_id: str, after: str = "", limit: int = -1) -> list[Held]:
    rows = store.numbers_and_statuses(reader, project_id, int(after or 0), limit)
    return [Held("job", id_, str(number), status, runs=JobStatus(status) not in ENDED) for id_, number, status in rows]


def _delete_all(tx: Transaction, operation: Operation, _project_id: str, held: list[Held]) -> None:
    for each in held:
        store.delete(tx, operation, JOBS.get(tx, each.id))


target(Target("job", lambda reader, reference, scope: {"job": JOBS.resolve(reader, reference, scope).id}))
link(Link("conversation", lambda tx, operation, id_, limit: store.unlink(tx, operation, "conversation_id", id_, limit)))
link(Link("message", lambda tx, operation, id_, limit: store.unlink(tx, operation, "message_id", id_, limit)))
contents(Contents("job", "job", _held, _delete_all, after=lambda ctx, ids: _manager(ctx).deleted(ids)))


# Submitting


def _after(
    tx: Transaction, scope: Scope, references: Sequence[str], cannot: str, repeated: Job | None = None
) -> list[After]:
    """The jobs that a job is to follow; ``repeated`` is the one that the same request may have made before.

    Raises:
        JobStatusWrong: one has ended, and not as it was to.
    """
    found: dict[str, After] = {}
    for reference in references:
        name, colon, condition = reference.rpartition(":")
        if not colon:
            name, condition = reference, AfterCondition.COMPLETED.value
        if condition not in list(AfterCondition):
            raise JobInvalid(
                f"{cannot}: {reference} has neither :completed nor :any at its end", details={"path": "after"}
            )
        job = JOBS.find(tx, name, scope)
        if job is None and repeated is not None:
            # It may have been deleted since then.
            known = [each for each in repeated.after if name in (each.job_id, str(each.number), f"#{each.number}")]
            found |= {each.job_id: After(each.job_id, each.number, AfterCondition(condition)) for each in known}
            continue
        job = job or JOBS.resolve(tx, name, scope)
        after = After(job.id, job.number, AfterCondition(condition))
        if (
            after.condition is AfterCondition.COMPLETED
            and job.status in ENDED - {JobStatus.COMPLETED}
            and repeated is None
        ):
            raise JobStatusWrong(
                f"{cannot}: job {job.number}, which it is to follow, is {job.status}",
                hint=f"To begin it however that one ended: --after {job.number}:any",
                details={"id": job.id, "number": job.number, "status": job.status.value},
            )
        found[job.id] = after
    return list(found.values())


@handles(CreateJob, after=_wake, size_bytes=lambda command: 4096 + len(command.stdin_data or b""))
def create_job(tx: Transaction, ctx: Context, command: CreateJob) -> Job:
    cannot = "cannot submit the job"
    check_metadata(command, cannot)
    scope = ctx.scope(tx)
    project_id = scope.home(cannot)
    if command.node != LOCAL:
        _refuse_elsewhere(command, cannot)
    check_directory(command.directory or "", cannot, elsewhere=command.node != LOCAL)
    if command.stdin_data is not None and command.stdin_path is not None:
        raise JobInvalid(f"{cannot}: it has a standard input, and a file for it", details={"path": "stdin_path"})
    if (command.tty or command.stdin_open) and (command.stdin_data is not None or command.stdin_path is not None):
        raise JobInvalid(
            f"{cannot}: what has a terminal or an open standard input has no other one", details={"path": "stdin_path"}
        )
    fields: dict[str, Any] = {
        name: getattr(command, name)
        for name in command.__struct_fields__
        if name in JOBS.columns or name in JOBS.private
    } | command_fields(command.command, command.tool)
    existing = None if command.id is None else JOBS.by_id(tx, command.id)
    # An interactive shell ignores SIGTERM, and ends with its terminal.
    fields["stop_signal"] = command.stop_signal or (StopSignal.SIGHUP if command.tty else StopSignal.SIGTERM)
    if existing is None:
        fields["group"] = store.group_of(tx, command.group, cannot)
    fields |= _links(tx, scope, command, cannot, existing)
    fields["tags"] = list(dict.fromkeys(command.tags or []))
    fields["metadata"] = command.metadata or {}
    if command.service is not None:
        fields["service_id"] = _service_of(tx, ctx, command.service, scope, existing)
    fields["directory"] = command.directory or (
        "" if command.service or command.node != LOCAL else os.path.expanduser("~")  # noqa: PTH111
    )
    node_id = command.node if existing is not None else store.node_of(tx, command.node, cannot)
    after = _after(tx, scope, command.after or (), cannot, existing)
    fields |= {"after": after, "project_id": project_id, "node_id": node_id}
    if existing is not None:
        return _repeated(existing, fields)
    fields |= {
        "waits_for": sum(
            (job := JOBS.by_id(tx, each.job_id)) is not None and job.status not in ENDED for each in after
        ),
        "status": JobStatus.STASHED if command.stashed else JobStatus.QUEUED,
        **store.new_places(tx),
        "attempt": 1,
        "not_before": None if command.delay_ms is None else tx.now + command.delay_ms,
    }
    job = JOBS.insert(tx, ctx.operation, fields | {"operation_id": ctx.operation.enter(tx, project_id)} | _carried(ctx))
    store.insert_after(tx, job.id, after)
    return job


def _carried(ctx: Context) -> dict[str, Any]:
    """The lease of the request, which its job carries."""
    lease = ctx.request.lease
    return {} if lease is None else {"lease_id": lease.id, "epoch": lease.epoch}


def _links(
    tx: Transaction, scope: Scope, command: CreateJob, cannot: str, repeated: Job | None
) -> dict[str, str | None]:
    """The ids of the conversation and the message of a job; they may be gone where the request is repeated."""
    found: dict[str, str | None] = {"conversation_id": None, "message_id": None}
    for kind, reference in (("message", command.message_id), ("conversation", command.conversation_id)):
        if reference is None:
            continue
        try:
            ids = linked(tx, kind, reference, scope)
        except (RecordNotFound, RecordAmbiguous) as error:
            if repeated is not None:
                return {name: getattr(repeated, name) for name in found}
            raise JobInvalid(f"{cannot}: {error.message}", hint=error.hint, details={"path": f"{kind}_id"}) from None
        if found["conversation_id"] not in (None, ids["conversation"]):
            raise JobInvalid(
                f"{cannot}: message {command.message_id} is not of conversation {command.conversation_id}",
                details={"path": "message_id"},
            )
        found |= {f"{name}_id": id_ for name, id_ in ids.items()}
    return found


def _refuse_elsewhere(command: CreateJob, cannot: str) -> None:
    """Refuse what a job on another node cannot have.

    Raises:
        JobInvalid: the request has some of it.
    """
    for field, what in (
        ("tty", "has no terminal"),
        ("stdin_open", "has no open standard input"),
        ("service", "is no one-off of a service"),
        ("memory_limit_mib", "has no memory limit"),
        ("cpu_limit_percent", "has no CPU limit"),
    ):
        if getattr(command, field):
            raise JobInvalid(
                f"{cannot}: a job on another node {what}",
                hint="Leave it out, or run the job on the node local.",
                details={"path": field},
            )


def _service_of(tx: Transaction, ctx: Context, reference: str, scope: Scope, repeated: Job | None) -> str | None:
    """The service that a job is a one-off of; it may be gone where the request is repeated."""
    try:
        return _manager(ctx).environments.of("service").find(tx, reference, scope)
    except RecordNotFound:
        if repeated is None:
            raise
        return repeated.service_id


def _repeated(existing: Job, fields: dict[str, Any]) -> Job:
    """The job that the same request made before.

    Raises:
        JobIdTaken: it differs from the request.
    """
    same = (*_SAME, "project_id", "after")
    if all((getattr(existing, name) or None) == (fields.get(name) or None) for name in same if name in fields):
        return existing
    raise JobIdTaken(
        f"cannot submit the job: job {existing.number} has the id {existing.id} and differs from this request",
        hint="To repeat a request, give the fields that the job has; for another one choose another id.",
        details={"id": existing.id, "number": existing.number},
    )


get_job = gets(JOBS, GetJob)
list_jobs = lists(JOBS, ListJobs, "jobs", links={"conversation_id": "conversation"})


def _resolve(tx: Reader, ctx: Context, reference: str) -> Job:
    return JOBS.resolve(tx, reference, ctx.scope(tx))


# Changing what waits


@handles(UpdateJob, after=_wake)
def update_job(tx: Transaction, ctx: Context, command: UpdateJob) -> Job:
    job = _resolve(tx, ctx, command.job)
    cannot = f"cannot update job {job.number}"
    check_metadata(command, cannot)
    JOBS.expect(job, cannot, command.if_revision)
    changes: dict[str, Any] = {
        name: value
        for name in command.__struct_fields__
        if name not in ("job", "if_revision") and (value := getattr(command, name)) is not None
    }
    if not changes:
        raise JobInvalid(f"{cannot}: no field to change was given", details={"path": ""})
    if any(name in changes for name in _CONFIGURED):
        expect_status(job, cannot, *_WAITING)
    check_directory(changes.get("directory", ""), cannot, elsewhere=job.node_id != LOCAL)
    if "group" in changes:
        store.group_of(tx, changes["group"], cannot)
    if "command" in changes or "tool" in changes:
        given = changes.get("command", job.command if job.argv is None else job.argv)
        tool = changes.get("tool")
        changes |= command_fields(given, tool or (None if "command" in changes else job.tool))
    return JOBS.update(tx, ctx.operation, job, changes)


def _deleted(ctx: Context, job: Job) -> None:
    _manager(ctx).deleted([job.id])


@handles(DeleteJob, after=_deleted)
def delete_job(tx: Transaction, ctx: Context, command: DeleteJob) -> Job:
    job = _resolve(tx, ctx, command.job)
    cannot = f"cannot delete job {job.number}"
    JOBS.expect(job, cannot, command.if_revision, command.if_state_revision)
    if job.status in ALIVE:
        raise JobStatusWrong(
            f"{cannot}: it is {job.status}, cancel it first",
            hint=f"Cancel it: {command_line('nexusctl', 'job', 'cancel', reference_of(job))}",
            details={"id": job.id, "number": job.number, "status": job.status.value},
        )
    waiting = [] if job.status in ENDED else store.dependents(tx, job.id, 10)
    if waiting:
        numbers = ", ".join(map(str, waiting))
        raise JobNeeded(
            f"{cannot}: {'jobs' if len(waiting) > 1 else 'job'} {numbers} wait{'s' * (len(waiting) == 1)} for it",
            hint="Cancel or delete what waits for it first.",
            details={"id": job.id, "number": job.number, "dependents": waiting},
        )
    store.delete(tx, ctx.operation, job)
    return job


@handles(MoveJob, after=_wake)
def move_job(tx: Transaction, ctx: Context, command: MoveJob) -> Job:
    job = _resolve(tx, ctx, command.job)
    cannot = f"cannot move job {job.number}"
    expect_status(job, cannot, *_WAITING)
    if command.before is not None:
        if command.last:
            raise JobInvalid(f"{cannot}: it cannot be both last and before another", details={"path": "last"})
        other = _resolve(tx, ctx, command.before)
        expect_status(other, f"{cannot} before job {other.number}", *_WAITING)
        if (other.group, other.priority) != (job.group, job.priority):
            wanted = ("--group", other.group, "--priority", str(other.priority))
            change = command_line("nexusctl", "job", "update", reference_of(job), *wanted)
            raise JobInvalid(
                f"{cannot} before job {other.number}: that one has another group or another priority",
                hint=f"Change it first: {change}",
                details={"path": "before"},
            )
        if other.id == job.id:
            return job
        place = store.place_before(tx, ctx.operation, other)
    else:
        place = store.last_place(tx) if command.last else store.first_place(tx, job.group, job.priority)
    moved = JOBS.write(tx, ctx.operation, job.id, {"place": place}, [("job.moved", {})])
    assert moved is not None
    return moved


@handles(StashJob)
def stash_job(tx: Transaction, ctx: Context, command: StashJob) -> Job:
    job = _resolve(tx, ctx, command.job)
    if job.status is JobStatus.STASHED:
        return job
    expect_status(job, f"cannot stash job {job.number}", JobStatus.QUEUED)
    return store.change_status(tx, ctx.operation, job.id, JobStatus.STASHED, [("job.stashed", {})])


@handles(EnqueueJob, after=_wake)
def enqueue_job(tx: Transaction, ctx: Context, command: EnqueueJob) -> Job:
    job = _resolve(tx, ctx, command.job)
    expect_status(job, f"cannot enqueue job {job.number}", *_WAITING)
    not_before = None if command.delay_ms is None else tx.now + command.delay_ms
    if job.status is JobStatus.QUEUED and job.not_before == not_before:
        return job
    return store.change_status(
        tx, ctx.operation, job.id, JobStatus.QUEUED, [("job.enqueued", {})], not_before=not_before
    )


@handles(RetryJob, after=_wake)
def retry_job(tx: Transaction, ctx: Context, command: RetryJob) -> Job:
    job = _resolve(tx, ctx, command.job)
    cannot = f"cannot retry job {job.number}"
    JOBS.expect(job, cannot, None, command.if_state_revision)
    expect_status(job, cannot, *sorted(ENDED))
    store.group_of(tx, job.group, cannot)
    store.node_of(tx, job.node_id, cannot)
    if command.in_place:
        return store.change_status(
            tx,
            ctx.operation,
            job.id,
            JobStatus.QUEUED,
            [("job.requeued", {"reason": "retried on demand"})],
            attempt=job.attempt + 1,
            environment=command.environment,
            place=store.last_place(tx),
            completed_at=None,
        )
    fields = {name: getattr(job, name) for name in _SAME}
    fields |= {
        "project_id": job.project_id,
        "status": JobStatus.QUEUED,
        "attempt": job.attempt + 1,
        "retry_of": job.id,
        "environment": command.environment,
        **store.new_places(tx),
        "operation_id": ctx.operation.enter(tx, job.project_id),
    }
    return JOBS.insert(tx, ctx.operation, fields | _carried(ctx))


def _pruned(ctx: Context, reply: JobsPruned) -> None:
    _manager(ctx).deleted(reply.ids)


@handles(PruneJobs, after=_pruned, size_bytes=lambda _command: 512 * _PRUNED_AT_ONCE)
def prune_jobs(tx: Transaction, ctx: Context, command: PruneJobs) -> JobsPruned:
    project_id = ctx.scope(tx).home("cannot prune jobs")
    before = tx.now + 1 if command.before_at is None else command.before_at
    jobs = store.ended_before(tx, before, project_id, command.successful, _PRUNED_AT_ONCE + 1)
    for job in jobs[:_PRUNED_AT_ONCE]:
        store.delete(tx, ctx.operation, job)
    ids = [job.id for job in jobs[:_PRUNED_AT_ONCE]]
    return JobsPruned(len(ids), len(jobs) > _PRUNED_AT_ONCE, ids)


# Processes


@handles(CancelJob)
async def cancel_job(ctx: Context, command: CancelJob) -> Job:
    job = ctx.store.read(lambda reader: _resolve(reader, ctx, command.job))
    JOBS.expect(job, f"cannot cancel job {job.number}", None, command.if_state_revision)
    if job.status in ENDED:
        return job
    return await _manager(ctx).cancel(job, ctx.operation, now=command.now, abandon=command.abandon)


@handles(StartJob)
async def start_job(ctx: Context, command: StartJob) -> Job:
    job = ctx.store.read(lambda reader: _resolve(reader, ctx, command.job))
    if job.status not in ALIVE:
        expect_status(job, f"cannot start job {job.number}", *_WAITING)
        await _manager(ctx).begin_now(job, ctx.operation)
    return ctx.store.read(lambda reader: JOBS.get(reader, job.id))


@handles(GetJobOutput)
async def get_job_output(ctx: Context, command: GetJobOutput, stream: Stream[LogPiece]) -> LogEnd:
    job = ctx.store.read(lambda reader: _resolve(reader, ctx, command.job))
    following = Following(
        stream,
        lambda: daemon_stopping(
            "The job goes on; once the daemon runs again, continue with the cursor of the last item."
        ),
    )
    await following.send_all(_manager(ctx).output(job, command))
    return LogEnd()


@handles(AttachJob)
async def attach_job(ctx: Context, command: AttachJob, stream: Stream[TerminalOutput]) -> TerminalEnd:
    job = ctx.store.read(lambda reader: _resolve(reader, ctx, command.job))
    run = await _manager(ctx).run_of(job, wait=True)
    return await attach(run, command, stream, f"job {job.number}")


@handles(SendJobInput)
async def send_job_input(ctx: Context, command: SendJobInput) -> Empty:
    job = ctx.store.read(lambda reader: _resolve(reader, ctx, command.job))
    run = await _manager(ctx).run_of(job, wait=False)
    await send_input(run, command.data, command.eof, f"job {job.number}")
    return Empty()


@handles(WaitJobs)
async def wait_jobs(ctx: Context, command: WaitJobs) -> JobsWaited:
    def find(reader: Reader) -> list[str]:
        scope = ctx.scope(reader)
        if command.jobs is not None:
            return [JOBS.resolve(reader, reference, scope).id for reference in command.jobs]
        group = None
        if command.group is not None:
            group = GROUPS.resolve(reader, command.group, scope).name
        elif scope.is_nowhere:
            return []
        return store.open_jobs(reader, group, None if group is not None else scope.project_id, _MAX_WAITED)

    ids = await ctx.store.fetch(find, snapshot=True)
    waiting = asyncio.create_task(_manager(ctx).wait(ids))
    stopping = asyncio.create_task(ctx.daemon.stopping.wait())
    try:
        await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise daemon_stopping("The jobs go on; once the daemon runs again, wait for them again.")
        waiting.result()
    except asyncio.CancelledError:
        if not ctx.timed_out:
            raise
        raise DeadlineExceeded(
            f"cannot wait any longer: jobs have not ended within {command.timeout_ms} ms",
            hint="They go on; see them: nexusctl job list",
        ) from None
    finally:
        await cancel_and_wait(waiting, stopping)
    found: list[Job] = []
    for job_id in ids:
        job = ctx.store.read(lambda reader, id_=job_id: JOBS.by_id(reader, id_))  # type: ignore[misc]
        if job is not None and (command.jobs is not None or job.status is not JobStatus.COMPLETED):
            found.append(msgspec.structs.replace(job, stdout=None, stderr=None))
            if len(found) == _SHOWN:
                break
        await asyncio.sleep(0)
    return JobsWaited(found)
