"""``nexusctl schedule``: the verbs of schedules, and how schedules are printed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from nexus.cli.output import Column, Printer, format_time, hint, reference
from nexus.cli.records import Noun, make_delete, make_inspect, make_list, name_of, names_starting
from nexus.cli.result import Result, Results
from nexus.cli.verbs import NounGroup, Values, completers, for_each, verb
from nexus.hints import command_line
from nexus.jobs.cli.directory import directory_of
from nexus.jobs.cli.shown import LOCAL, is_elsewhere
from nexus.jobs.records import Job, Schedule, SchedulePage
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

if TYPE_CHECKING:
    from nexus_protocol.command import Command

    from nexus.cli.app import App

__all__ = ["schedule"]

_SCHEDULE = Noun("schedule", "schedules", "schedule", SchedulePage.schedules)
_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000))


def _interval(ms: int) -> str:
    """A time as it is typed: ``90s``, ``1h30m``."""
    parts, left = "", ms
    for unit, size in _UNITS:
        if left >= size:
            parts += f"{left // size}{unit}"
            left %= size
    return f"{parts}{left}ms" if left else parts


def _when(one: Schedule) -> str:
    return f"every {_interval(one.every_ms)}" if one.every_ms is not None else one.cron or ""


def _state(one: Schedule) -> str:
    if one.paused:
        return "paused"
    return "active" if one.next_at is not None else "failed"


_COLUMNS: tuple[Column[Schedule], ...] = (
    Column("NAME", lambda one: one.name, 20),
    Column("WHEN", _when, 16),
    Column("NEXT", lambda one: format_time(one.next_at), 24),
    Column("LAST", lambda one: format_time(one.last_at), 24),
    Column("JOB", lambda one: one.last_job_number, 6),
    Column("STATE", _state, 8),
    Column("ZONE", lambda one: one.timezone, wide=True),
    Column("GROUP", lambda one: one.group, wide=True),
    Column("NODE", lambda one: one.node, wide=True),
    Column("COMMAND", lambda one: one.command, wide=True),
    Column("REASON", lambda one: one.reason, wide=True),
    Column("ID", lambda one: one.id, wide=True),
)


def _local(at_ms: int, timezone: str | None) -> str:
    """A time in the zone of the schedule, or in that of this machine."""
    if timezone is None:
        return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(at_ms / 1000))
    from datetime import datetime
    from zoneinfo import ZoneInfo

    try:
        return datetime.fromtimestamp(at_ms / 1000, ZoneInfo(timezone)).strftime("%Y-%m-%d %H:%M:%S %Z")
    except (LookupError, ValueError, OSError):  # the daemon knows it
        return format_time(at_ms) or ""


def _variables(one: Schedule) -> list[str]:
    """The names of its variables, with the values where they were asked for."""
    return one.variable_names if one.variables is None else [f"{name}={one.variables[name]}" for name in one.variables]


def _lines(one: Schedule) -> list[tuple[str, object]]:
    times = [_local(at_ms, one.timezone) for at_ms in one.next_times]
    return [
        ("Name", one.name),
        ("ID", one.id),
        ("Project", None if one.project == "default" else one.project),
        ("When", _when(one)),
        ("Time zone", one.timezone),
        ("State", _state(one)),
        ("Reason", one.reason),
        ("Next", times[0] if times else None),
        *[("Then", text) for text in times[1:]],
        ("Last", None if one.last_at is None else _local(one.last_at, one.timezone)),
        ("Last job", one.last_job_number),
        ("Overlap", one.overlap),
        ("Missed", one.missed),
        ("Command", one.command),
        ("Tool", one.tool),
        ("Directory", one.directory or None),
        ("Node", None if one.node == LOCAL else one.node),
        ("Variables", ", ".join(_variables(one)) or None),
        ("Group", one.group),
        ("Priority", one.priority or None),
        ("Time limit", None if one.timeout_ms is None else _interval(one.timeout_ms)),
        ("Retries", one.retries or None),
        ("Label", one.label),
        ("Tags", ", ".join(one.tags) or None),
        ("Created", format_time(one.created_at)),
    ]


def _use_words(values: Values) -> None:
    """Set the command to the words after ``--``, if there are any.

    Raises:
        UsageError: ``--run`` is given too.
    """
    words = values.every("words", str)
    values.drop("words")
    if words and values.given("command"):
        raise click.UsageError("give the command either with --run or after --, not both")
    if words:
        values.put("command", words)


def _environment() -> dict[str, str]:
    """The environment of this process; what is not UTF-8 in it is left out, which the daemon could not keep."""
    found = {}
    for name, value in os.environ.items():
        try:
            (name + value).encode()
        except UnicodeEncodeError:
            continue
        found[name] = value
    return found


def _create(app: App, values: Values, out: Printer) -> None:
    _use_words(values)
    if not values.given("command"):
        raise click.UsageError("give the command: --run LINE, or words after --")
    if values.given("cron") == values.given("every_ms"):
        raise click.UsageError("give either --cron TIME or --every TIME")
    elsewhere, given = is_elsewhere(values), values.text("directory")
    if given is not None:
        values.put("directory", directory_of(app, given, elsewhere=elsewhere))
    elif not elsewhere and app.host is None:
        values.put("directory", os.getcwd())  # noqa: PTH109

    def sentence(one: Schedule) -> None:
        next_at = "" if one.next_at is None else f" (next: {_local(one.next_at, one.timezone)})"
        click.echo(f'Created schedule "{one.name}"{next_at}')
        hint(f"Run it now: {command_line('nexusctl', 'schedule', 'trigger', reference(one))}")

    environment: dict[str, str] | None = {} if elsewhere else None
    if not elsewhere and app.host is None:  # elsewhere this one is that of another machine
        environment = _environment()
    out.one(app.fetch(values.build(CreateSchedule, environment=environment)), name=name_of, sentence=sentence)


def _update(app: App, values: Values, out: Printer) -> None:
    _use_words(values)
    take = values.flag("take_env")
    values.drop("take_env")
    if take and app.host is not None:
        raise click.UsageError("--take-env takes the environment of this machine, which means nothing on another host")
    if take:
        values.put("environment", _environment())
    if not values.any_given(lambda name: name != "schedule" and name[:3] != "if_"):
        raise click.UsageError("nothing to change: give at least one option")
    given = values.text("directory")
    if given is not None:
        elsewhere = is_elsewhere(values)
        if not (elsewhere or values.given("node") or given.startswith("/")):
            elsewhere = app.call(GetSchedule(values.word("schedule"))).node != LOCAL
        values.put("directory", directory_of(app, given, elsewhere=elsewhere))
    result = app.fetch(values.build(UpdateSchedule))
    out.one(result, name=name_of, sentence=lambda one: click.echo(f'Updated schedule "{one.name}"'))


_CREATE_HELP = """Create a schedule: it submits a job whenever its time comes.

--cron has five fields, or is @hourly, @daily, @weekly, @monthly or @yearly; --every is the time between two jobs. The
command is words after --, which are run without a shell, or a line for the shell (--run). Its jobs have the environment
and the directory of this command line; --env NAME=VALUE adds to it. With --node they have the environment of a login
there, and --dir is a directory there, by default the home directory.

\b
    nexusctl schedule create backup --cron '30 2 * * *' --timezone Europe/Berlin -- ./backup --all
    nexusctl schedule create poll --every 10m --overlap replace --run 'git fetch && make test'
"""

_UPDATE_HELP = """Change the given fields of a schedule; --clear FIELD unsets a field.

--cron and --every replace each other. Jobs that it has submitted are not changed.
"""


def _make_create() -> click.Command:
    return verb(CreateSchedule, _create, exclude=("environment",), help=_CREATE_HELP, words="words")


def _make_update() -> click.Command:
    take = click.Option(["--take-env"], is_flag=True, help="Give its jobs the environment of this command line.")
    return verb(UpdateSchedule, _update, parameters=[take], exclude=("environment",), help=_UPDATE_HELP, words="words")


def _make_each(
    command: type[Command[Any]], sentence: Callable[[Any], str], result_name: Callable[[Any], object]
) -> click.Command:
    """A verb that sends a command for each named schedule."""

    def run(app: App, values: Values, out: Printer) -> int:
        names = values.every("schedule", str)
        found: list[Result[Any]] = []
        many = out.output == "json" and len(names) > 1

        def one(name: str) -> None:
            result = app.fetch(command(name))
            found.append(result)
            if not many:
                out.one(result, name=result_name, sentence=lambda record: click.echo(sentence(record)))

        code = for_each(names, one)
        if many:
            out.many(Results.of(found), (), name=result_name, nothing=_SCHEDULE.nothing())
        return code

    return verb(command, run, variadic=True)


def _resumed(one: Schedule) -> str:
    next_at = "" if one.next_at is None else f" (next: {_local(one.next_at, one.timezone)})"
    return f'Resumed schedule "{one.name}"{next_at}'


def _submitted(job: Job) -> str:
    return f"Submitted job {job.number}"


def _complete(app: App, incomplete: str) -> list[str]:
    return names_starting(app, ListSchedules(limit=10_000), _SCHEDULE, incomplete)


completers["schedule"] = _complete

schedule = NounGroup(
    "schedule",
    "Run jobs by the clock.",
    {
        "create": ("Create a schedule.", _make_create),
        "list": ("List schedules by name.", lambda: make_list(ListSchedules, _SCHEDULE, _COLUMNS)),
        "inspect": ("Show schedules with their next times.", lambda: make_inspect(GetSchedule, _SCHEDULE, _lines)),
        "update": ("Change a schedule.", _make_update),
        "delete": ("Delete schedules; their jobs stay.", lambda: make_delete(GetSchedule, DeleteSchedule, _SCHEDULE)),
        "pause": (
            "Let schedules submit no further job.",
            lambda: _make_each(PauseSchedule, lambda one: f'Paused schedule "{one.name}"', name_of),
        ),
        "resume": ("Let paused schedules submit jobs again.", lambda: _make_each(ResumeSchedule, _resumed, name_of)),
        "trigger": (
            "Submit the job of a schedule now.",
            lambda: _make_each(TriggerSchedule, _submitted, lambda job: job.number),
        ),
    },
    {
        **dict.fromkeys(("rm", "remove"), " (did you mean 'delete'?)"),
        **dict.fromkeys(("show", "get", "info", "status"), " (did you mean 'inspect'?)"),
        "ls": " (did you mean 'list'?)",
        **dict.fromkeys(("rename", "edit"), " (did you mean 'update'?)"),
        **dict.fromkeys(("add", "new"), " (did you mean 'create'?)"),
        **dict.fromkeys(("stop", "disable"), " (did you mean 'pause'?)"),
        **dict.fromkeys(("enable", "unpause", "start"), " (did you mean 'resume'?)"),
        "run": " (did you mean 'trigger'?)",
    },
)
