"""The sections ``groups`` and ``schedules`` of ``nexus.toml``.

Groups belong to the daemon, so a file creates and changes them, and removes none. Schedules belong to the project.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from nexus_protocol.errors import InvalidArgument, NexusError

from nexus.cli.apply.keys import GIVEN_PATH, Keys
from nexus.cli.apply.reader import Reader
from nexus.cli.apply.sections import Fields, PlainSection
from nexus.cli.records import Noun
from nexus.jobs.commands import (
    CreateJobGroup,
    DeleteJobGroup,
    GetJobGroup,
    ListJobGroups,
    UpdateJobGroup,
)
from nexus.jobs.records import JobGroup, JobGroupPage, Schedule, SchedulePage
from nexus.jobs.schedules.commands import (
    CreateSchedule,
    DeleteSchedule,
    GetSchedule,
    ListSchedules,
    UpdateSchedule,
)
from nexus.jobs.validation import check_times, command_fields, default_tool

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["GROUPS", "SCHEDULES", "SECTIONS"]


class _Groups(PlainSection[JobGroup]):
    of_daemon = True
    named_by = (("schedules", "group"),)

    def export(self, observed: Mapping[str, JobGroup]) -> dict[str, Any]:
        """The group default is left out while it is as it was made."""
        tables = super().export(observed)
        return {name: table for name, table in tables.items() if table or name != "default"}


_KEYS_ELSEWHERE = Keys(CreateSchedule, kinds={"directory": GIVEN_PATH})
"""Of a schedule whose jobs run on another node: its directory is one there."""


class _Schedules(PlainSection[Schedule]):
    def read(self, reader: Reader, at: tuple[str, ...], value: Any) -> Fields:
        table = reader.table(at, value)
        before = reader.problems
        elsewhere = table.get("node", "local") != "local"
        keys = _KEYS_ELSEWHERE if elsewhere else self.keys
        directory = None if elsewhere else reader.folder  # elsewhere the home directory there
        fields = self.keys.defaults() | {"directory": directory} | reader.fields(at, keys, table)
        command = reader.check(at, self.keys, fields)
        if not isinstance(command, CreateSchedule) or reader.problems > before:
            return fields
        if command.command is None:
            reader.wrong((*at, "run"), "is missing: a line for the shell, or a list of words")
            return fields
        fields["tool"] = command.tool or default_tool(command.command)
        try:
            check_times(command.cron, command.every_ms, command.timezone, "")
            command_fields(command.command, command.tool)
        except InvalidArgument as error:
            hint = f" ({error.hint[:1].lower()}{error.hint[1:].rstrip('.')})" if error.hint else ""
            reader.wrong((*at, *self.keys.path(error.details["path"])), error.message.removeprefix(": ") + hint)
        return fields

    def observe(self, app: App, wanted: Iterable[str] | None) -> Mapping[str, Schedule]:
        """The schedules of the project, those that are compared with the values of their variables."""
        schedules = dict(super().observe(app, wanted))
        asked = set(schedules if wanted is None else wanted)
        secret = [one.id for name, one in schedules.items() if one.variable_names and name in asked]
        for _place, reply in app.fetch_all([GetSchedule(id_, reveal=True) for id_ in secret]) if secret else ():
            if isinstance(reply, NexusError):
                raise reply
            schedules[reply.record.name] = reply.record
        return schedules

    def fields_there(self, observed: Mapping[str, Schedule], name: str) -> Fields:
        schedule = observed[name]
        return {
            **super().fields_there(observed, name),
            "command": schedule.command if schedule.argv is None else schedule.argv,
            "directory": schedule.directory or None,
            "variables": dict(schedule.variables or {}) or None,
            "tags": sorted(schedule.tags) or None,
        }

    def export(self, observed: Mapping[str, Schedule]) -> dict[str, Any]:
        tables = {}
        for name in observed:
            fields = dict(self.fields_there(observed, name))
            if fields["tool"] == default_tool(fields["command"]):
                fields["tool"] = None
            tables[name] = self.keys.table(fields)
        return tables


GROUPS = _Groups(
    "groups",
    "job_group",
    Noun("job group", "job groups", "group", JobGroupPage.groups),
    "job groups",
    Keys(CreateJobGroup),
    list_=ListJobGroups,
    get=GetJobGroup,
    update=UpdateJobGroup,
    remove=DeleteJobGroup,
)
SCHEDULES = _Schedules(
    "schedules",
    "schedule",
    Noun("schedule", "schedules", "schedule", SchedulePage.schedules),
    "schedules",
    Keys(CreateSchedule),
    list_=ListSchedules,
    get=GetSchedule,
    update=UpdateSchedule,
    remove=DeleteSchedule,
    after=("groups", "nodes"),
)
SECTIONS = (GROUPS, SCHEDULES)
