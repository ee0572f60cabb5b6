"""The handlers of the commands on groups of jobs."""

from __future__ import annotations

from typing import Any

from nexus.capability import Context, handles
from nexus.hints import command_line
from nexus.jobs import store
from nexus.jobs.commands import (
    CreateJobGroup,
    DeleteJobGroup,
    GetJobGroup,
    ListJobGroups,
    PauseJobGroup,
    ResumeJobGroup,
    UpdateJobGroup,
)
from nexus.jobs.errors import JobGroupFixed, JobGroupInUse, JobInvalid
from nexus.jobs.manager import JobManager
from nexus.jobs.records import JobGroup, JobGroupPage
from nexus.jobs.store import DEFAULT_GROUP, GROUPS
from nexus.records.handlers import creates, gets, lists
from nexus.records.scope import ANYWHERE
from nexus.store import Transaction

__all__ = [
    "create_job_group",
    "delete_job_group",
    "get_job_group",
    "list_job_groups",
    "pause_job_group",
    "resume_job_group",
    "update_job_group",
]

_CLEARABLE = ("slots", "managed_by")

create_job_group = creates(GROUPS, CreateJobGroup, lambda _tx, _command: {"paused": False})
get_job_group = gets(GROUPS, GetJobGroup)
_list = lists(GROUPS, ListJobGroups, "groups").__nexus_handler__.fn


@handles(ListJobGroups)
async def list_job_groups(ctx: Context, command: ListJobGroups) -> JobGroupPage:
    page: JobGroupPage = await _list(ctx, command)
    return JobGroupPage(page.groups, page.next_cursor, await ctx.store.fetch(store.counts))


def _wake(ctx: Context, _reply: Any) -> None:
    ctx.daemon.manager(JobManager).wake()


@handles(UpdateJobGroup, after=_wake)
def update_job_group(tx: Transaction, ctx: Context, command: UpdateJobGroup) -> JobGroup:
    group = GROUPS.resolve(tx, command.group, ANYWHERE)
    cannot = f'cannot update job group "{group.name}"'
    GROUPS.expect(group, cannot, command.if_revision)
    changes: dict[str, Any] = {
        name: value for name in ("name", "slots", "managed_by") if (value := getattr(command, name)) is not None
    }
    for name in command.clear or ():
        if name not in _CLEARABLE or name in changes:
            raise JobInvalid(
                f"{cannot}: it has no optional field {name} that is not set by this request", details={"path": "clear"}
            )
        changes[name] = None
    if not changes:
        raise JobInvalid(f"{cannot}: no field to change was given", details={"path": ""})
    if changes.get("name", group.name) != group.name:
        _refuse_use(tx, group, cannot)
    return GROUPS.update(tx, ctx.operation, group, changes)


def _refuse_use(tx: Transaction, group: JobGroup, cannot: str) -> None:
    """Refuse what needs a group that nothing names.

    Raises:
        JobGroupFixed: it is the group default.
        JobGroupInUse: jobs that have not ended, or schedules, name it.
    """
    details = {"id": group.id, "name": group.name}
    if group.name == DEFAULT_GROUP:
        raise JobGroupFixed(f"{cannot}: it always exists under this name", details=details)
    jobs, schedules = store.uses_of_group(tx, group.name)
    if jobs or schedules:
        words = [
            f"{count} {word}{'s' * (count > 1)}" for count, word in ((jobs, "job"), (schedules, "schedule")) if count
        ]
        raise JobGroupInUse(
            f"{cannot}: {' and '.join(words)} of it {'have' if jobs + schedules > 1 else 'has'} not ended",
            hint=f"See them: {command_line('nexusctl', '-A', 'job', 'list', '--group', group.name)}",
            details=details | {"jobs": jobs, "schedules": schedules},
        )


@handles(DeleteJobGroup)
def delete_job_group(tx: Transaction, ctx: Context, command: DeleteJobGroup) -> JobGroup:
    group = GROUPS.resolve(tx, command.group, ANYWHERE)
    cannot = f'cannot delete job group "{group.name}"'
    GROUPS.expect(group, cannot, command.if_revision, command.if_state_revision)
    _refuse_use(tx, group, cannot)
    GROUPS.delete(tx, ctx.operation, group, ("slots",))
    return group


def _pause(tx: Transaction, ctx: Context, reference: str, paused: bool) -> JobGroup:
    group = GROUPS.resolve(tx, reference, ANYWHERE)
    if group.paused is paused:
        return group
    event = "paused" if paused else "resumed"
    changed = GROUPS.write(tx, ctx.operation, group.id, {"paused": paused}, [(f"job_group.{event}", {})])
    assert changed is not None
    return changed


@handles(PauseJobGroup)
def pause_job_group(tx: Transaction, ctx: Context, command: PauseJobGroup) -> JobGroup:
    return _pause(tx, ctx, command.group, True)


@handles(ResumeJobGroup, after=_wake)
def resume_job_group(tx: Transaction, ctx: Context, command: ResumeJobGroup) -> JobGroup:
    return _pause(tx, ctx, command.group, False)
