"""The handlers of the commands on schedules."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from nexus.capability import Context, handles
from nexus.jobs import store as jobs_store
from nexus.jobs.errors import ScheduleIdTaken, ScheduleInvalid
from nexus.jobs.manager import JobManager
from nexus.jobs.records import Job, Schedule
from nexus.jobs.schedules.commands import (
    CreateSchedule,
    DeleteSchedule,
    GetSchedule,
    ListSchedules,
    PauseSchedule,
    ResumeSchedule,
    TriggerSchedule,
    UpdateSchedule,
)
from nexus.jobs.schedules.firing import submit
from nexus.jobs.schedules.planning import Due, first
from nexus.jobs.schedules.store import SCHEDULES, StoredSchedule, names_and_pauses, stored
from nexus.jobs.schedules.times import calendar
from nexus.jobs.validation import check_directory, check_times, command_fields
from nexus.journal.operation import Operation
from nexus.records.contents import Contents, Held, contents
from nexus.records.handlers import deletes, lists
from nexus.store import Reader, Transaction
from nexus.supervision.nodes import LOCAL

__all__ = [
    "create_schedule",
    "delete_schedule",
    "get_schedule",
    "list_schedules",
    "pause_schedule",
    "resume_schedule",
    "trigger_schedule",
    "update_schedule",
]

_SHOWN = 5
_SECRET = ("environment", "variables")
_CLEARABLE: dict[str, Any] = {
    "cron": None,
    "every_ms": None,
    "timezone": None,
    "environment": None,
    "variables": None,
    "label": None,
    "tags": [],
    "timeout_ms": None,
    "managed_by": None,
    "tool": None,
    "directory": None,
}
"""What ``clear`` takes, with the value of a field that is unset."""


def _manager(ctx: Context) -> JobManager:
    return ctx.daemon.manager(JobManager)


def _look(ctx: Context, _reply: Any) -> None:
    _manager(ctx).schedules.wake()


def _wake(ctx: Context, _reply: Any) -> None:
    _manager(ctx).wake()


def _held(reader: Reader, project_id: str, after: str = "", limit: int = -1) -> list[Held]:
    rows = names_and_pauses(reader, project_id, after, limit)
    return [Held("schedule", id_, name, "paused" if paused else "active", runs=False) for id_, name, paused in rows]


def _delete_all(tx: Transaction, operation: Operation, _project_id: str, held: list[Held]) -> None:
    for each in held:
        SCHEDULES.delete(tx, operation, SCHEDULES.get(tx, each.id), SCHEDULES.told)


contents(Contents("schedule", "schedule", _held, _delete_all))


def _size(command: Any) -> int:
    variables = {**(command.environment or {}), **(command.variables or {})}
    return 1024 + sum(len(name) + len(value) for name, value in variables.items())


def _due(ctx: Context, fields: Mapping[str, Any], last_at: int | None, cannot: str) -> Due:
    """The next time of a schedule with these fields.

    Raises:
        ScheduleInvalid: it has none.
    """
    when = fields["cron"], fields["every_ms"], fields["timezone"]
    check_times(*when, cannot)
    return first(*when, _manager(ctx).schedules.clock.read(), last_at=last_at, cannot=cannot)


def _home(node: str) -> str:
    """The home directory; on another node it is known there."""
    return "" if node != LOCAL else os.path.expanduser("~")  # noqa: PTH111


@handles(CreateSchedule, after=_look, size_bytes=_size)
def create_schedule(tx: Transaction, ctx: Context, command: CreateSchedule) -> Schedule:
    cannot = f'cannot create schedule "{command.name}"'
    project_id = ctx.scope(tx).home(cannot)
    if command.command is None:
        raise ScheduleInvalid(f"{cannot}: it has no command", details={"path": "command"})
    check_directory(command.directory or "", cannot, elsewhere=command.node != LOCAL, error=ScheduleInvalid)
    fields = msgspec.structs.asdict(command) | command_fields(command.command, command.tool, ScheduleInvalid)
    fields |= {
        "project_id": project_id,
        "group": jobs_store.group_of(tx, command.group, cannot),
        "directory": command.directory or _home(command.node),
        "node": jobs_store.node_of(tx, command.node, cannot),
        "tags": list(dict.fromkeys(command.tags or [])),
        "variable_names": sorted(command.variables or ()),
        "paused": False,
    }
    found = None if command.id is None else stored(tx, command.id)
    if found is not None:
        return _repeated(found, fields)
    fields |= _due(ctx, fields, None, cannot)._asdict()
    return SCHEDULES.insert(tx, ctx.operation, fields)


def _repeated(found: StoredSchedule, fields: Mapping[str, Any]) -> Schedule:
    """The schedule that the same request made before.

    Raises:
        ScheduleIdTaken: it differs from the request.
    """
    schedule = found.schedule
    present = {
        name: getattr(found if name in _SECRET else schedule, name)
        for name in fields
        if name in _SECRET or name in SCHEDULES.columns
    }
    if all((value or None) == (fields[name] or None) for name, value in present.items() if name != "paused"):
        return schedule
    raise ScheduleIdTaken(
        f'cannot create schedule "{fields["name"]}": schedule "{schedule.name}" has the id {schedule.id} and differs '
        "from this request",
        hint="To repeat a request, give the fields that the schedule has; for another one choose another id.",
        details={"id": schedule.id, "name": schedule.name},
    )


list_schedules = lists(SCHEDULES, ListSchedules, "schedules")
delete_schedule = deletes(SCHEDULES, DeleteSchedule, told=SCHEDULES.told)


def _resolve(reader: Reader, ctx: Context, reference: str) -> StoredSchedule:
    found = stored(reader, SCHEDULES.resolve(reader, reference, ctx.scope(reader)).id)
    assert found is not None
    return found


@handles(GetSchedule)
def get_schedule(ctx: Context, command: GetSchedule) -> Schedule:
    found = ctx.store.read(lambda reader: _resolve(reader, ctx, command.schedule), snapshot=True)
    variables = (found.variables or {}) if command.reveal else None
    return msgspec.structs.replace(found.schedule, next_times=_next_times(found.schedule), variables=variables)


def _next_times(schedule: Schedule) -> list[int]:
    """The next five times of a schedule that is not paused."""
    if schedule.next_at is None:
        return []
    if schedule.every_ms is not None:
        return [schedule.next_at + number * schedule.every_ms for number in range(_SHOWN)]
    times = calendar(schedule.cron or "", schedule.timezone, "")
    return [schedule.next_at, *times.following(schedule.next_at, _SHOWN - 1)]


def _changes(command: UpdateSchedule, cannot: str) -> dict[str, Any]:
    """The fields that an update sets and unsets.

    Raises:
        ScheduleInvalid: there is none, or one is set and unset, or cannot be unset.
    """
    changes: dict[str, Any] = {
        name: value
        for name in command.__struct_fields__
        if name not in ("schedule", "clear", "if_revision") and (value := getattr(command, name)) is not None
    }
    for name in command.clear or ():
        if name not in _CLEARABLE or name in changes:
            raise ScheduleInvalid(
                f"{cannot}: it has no optional field {name} that is not set by this request", details={"path": "clear"}
            )
        changes[name] = _CLEARABLE[name]
    if not changes:
        raise ScheduleInvalid(f"{cannot}: no field to change was given", details={"path": ""})
    if "cron" in changes and "every_ms" not in changes:
        changes["every_ms"] = None
    elif "every_ms" in changes and "cron" not in changes:
        changes["cron"] = None
    if changes.get("every_ms") is not None and "timezone" not in changes:
        changes["timezone"] = None
    return changes


@handles(UpdateSchedule, after=_look, size_bytes=_size)
def update_schedule(tx: Transaction, ctx: Context, command: UpdateSchedule) -> Schedule:
    found = _resolve(tx, ctx, command.schedule)
    schedule = found.schedule
    cannot = f'cannot update schedule "{schedule.name}"'
    SCHEDULES.expect(schedule, cannot, command.if_revision)
    changes = _changes(command, cannot)
    if "group" in changes:
        jobs_store.group_of(tx, changes["group"], cannot)
    if "node" in changes:
        jobs_store.node_of(tx, changes["node"], cannot)
    if "command" in changes or "tool" in changes:
        given = changes.get("command", schedule.command if schedule.argv is None else schedule.argv)
        tool = changes.get("tool") or (None if "tool" in changes or "command" in changes else schedule.tool)
        changes |= command_fields(given, tool, ScheduleInvalid)
    node = changes.get("node", schedule.node)
    if ("directory" in changes or "node" in changes) and not changes.get("directory", schedule.directory):
        changes["directory"] = _home(node)
    directory = changes.get("directory", schedule.directory)
    check_directory(directory, cannot, elsewhere=node != LOCAL, error=ScheduleInvalid)
    if "tags" in changes:
        changes["tags"] = list(dict.fromkeys(changes["tags"]))
    if "variables" in changes:
        changes["variable_names"] = sorted(changes["variables"] or ())
    if changes.get("name", schedule.name) != schedule.name:
        SCHEDULES.refuse_taken_name(tx, changes["name"], schedule.project_id, cannot)
    changed = {
        name: value for name, value in changes.items() if value != getattr(found if name in _SECRET else schedule, name)
    }
    if not changed:
        return schedule
    when = {name: changed.get(name, getattr(schedule, name)) for name in ("cron", "every_ms", "timezone")}
    columns = dict(changed)
    if not when.keys().isdisjoint(changed):
        due = _due(ctx, when, schedule.last_at, cannot)
        columns |= {} if schedule.paused else due._asdict()
    detail = {
        name: {"changed": True}
        if name in ("command", "argv", *_SECRET)
        else {"from": getattr(schedule, name), "to": value}
        for name, value in changed.items()
    }
    written = SCHEDULES.write(tx, ctx.operation, schedule.id, columns, [("schedule.updated", detail)])
    assert written is not None
    return written


@handles(PauseSchedule)
def pause_schedule(tx: Transaction, ctx: Context, command: PauseSchedule) -> Schedule:
    schedule = _resolve(tx, ctx, command.schedule).schedule
    if schedule.paused:
        return schedule
    columns = {"paused": True, **Due(None)._asdict()}
    written = SCHEDULES.write(tx, ctx.operation, schedule.id, columns, [("schedule.paused", {})])
    assert written is not None
    return written


@handles(ResumeSchedule, after=_look)
def resume_schedule(tx: Transaction, ctx: Context, command: ResumeSchedule) -> Schedule:
    schedule = _resolve(tx, ctx, command.schedule).schedule
    if not schedule.paused:
        return schedule
    due = _due(ctx, msgspec.structs.asdict(schedule), schedule.last_at, f'cannot resume schedule "{schedule.name}"')
    columns = {"paused": False, "reason": None, **due._asdict()}
    written = SCHEDULES.write(tx, ctx.operation, schedule.id, columns, [("schedule.resumed", {})])
    assert written is not None
    return written


@handles(TriggerSchedule, after=_wake, size_bytes=lambda _command: 4096)
def trigger_schedule(tx: Transaction, ctx: Context, command: TriggerSchedule) -> Job:
    found = _resolve(tx, ctx, command.schedule)
    job = submit(tx, ctx.operation, found)
    event = ("schedule.triggered", {"job_id": job.id, "number": job.number})
    columns = {"last_job_id": job.id, "last_job_number": job.number}
    SCHEDULES.write(tx, ctx.operation, found.schedule.id, columns, [event])
    return job
