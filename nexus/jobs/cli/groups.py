"""``nexusctl group``: the groups of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nexus.cli.output import Column, Printer, format_time
from nexus.cli.records import (
    Noun,
    make_create,
    make_delete,
    make_inspect,
    make_switch,
    make_update,
    name_of,
    names_starting,
    print_list,
)
from nexus.cli.result import Results
from nexus.cli.verbs import NounGroup, Number, Values, completers, verb
from nexus.jobs.commands import (
    CreateJobGroup,
    DeleteJobGroup,
    GetJobGroup,
    ListJobGroups,
    PauseJobGroup,
    ResumeJobGroup,
    UpdateJobGroup,
)
from nexus.jobs.records import JobGroup, JobGroupPage

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["group"]

_GROUP = Noun("job group", "job groups", "group", JobGroupPage.groups)
_PAGE = 1000


def _slots(group: JobGroup) -> str:
    return "one per core" if group.slots is None else str(group.slots)


def _told(group: JobGroup) -> str:
    return f"slots: {_slots(group)}"


def _lines(group: JobGroup) -> list[tuple[str, object]]:
    return [
        ("Name", group.name),
        ("ID", group.id),
        ("Slots", _slots(group)),
        ("State", "paused" if group.paused else "active"),
        ("From", group.managed_by),
        ("Created", format_time(group.created_at or None)),
    ]


def _make_list() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        pages: list[Results[JobGroup]] = []
        counts: dict[str, dict[str, int]] = {}
        limit, cursor = values.number("limit"), None
        while limit is None or sum(map(len, pages)) < limit:
            left = _PAGE if limit is None else min(_PAGE, limit - sum(map(len, pages)))
            page = app.fetch(ListJobGroups(limit=left, cursor=cursor))
            pages.append(page.rows(JobGroupPage.groups))
            counts |= page.plain.get("counts", {})
            cursor = page.plain.get("next_cursor")
            if cursor is None:
                break
        columns: tuple[Column[JobGroup], ...] = (
            Column("NAME", lambda group: group.name, 16),
            Column("SLOTS", _slots, 12),
            Column("QUEUED", lambda group: counts.get(group.name, {}).get("queued", 0), 8),
            Column("EXECUTING", lambda group: counts.get(group.name, {}).get("executing", 0), 10),
            Column("STATE", lambda group: "paused" if group.paused else "active", 8),
            Column("FROM", lambda group: group.managed_by, wide=True),
            Column("ID", lambda group: group.id, wide=True),
        )
        print_list(app, Results.joined(pages), columns, out, name=name_of, nothing=_GROUP.nothing())

    limit = click.Option(["--limit"], type=Number(1), help="Maximum number of job groups (default: all).")
    return verb(ListJobGroups, run, parameters=[limit], exclude=("cursor", "limit"))


def _complete(app: App, incomplete: str) -> list[str]:
    return names_starting(app, ListJobGroups(limit=_PAGE), _GROUP, incomplete)


completers["group"] = _complete

group = NounGroup(
    "group",
    "Manage the groups of jobs.",
    {
        "create": ("Create a group.", lambda: make_create(CreateJobGroup, _GROUP, told=_told)),
        "list": ("List the groups, with how many of their jobs wait and run.", _make_list),
        "inspect": ("Show group details.", lambda: make_inspect(GetJobGroup, _GROUP, _lines)),
        "update": ("Change a group.", lambda: make_update(UpdateJobGroup, _GROUP)),
        "delete": ("Delete groups.", lambda: make_delete(GetJobGroup, DeleteJobGroup, _GROUP)),
        "pause": ("Let no further job of groups begin.", lambda: make_switch(PauseJobGroup, _GROUP, "Paused")),
        "resume": ("Let jobs of paused groups begin again.", lambda: make_switch(ResumeJobGroup, _GROUP, "Resumed")),
    },
    {
        **dict.fromkeys(("rm", "remove"), " (did you mean 'delete'?)"),
        **dict.fromkeys(("show", "get", "info"), " (did you mean 'inspect'?)"),
        "ls": " (did you mean 'list'?)",
        "add": " (did you mean 'create'?)",
        **dict.fromkeys(("stop", "hold"), " (did you mean 'pause'?)"),
        **dict.fromkeys(("start", "unpause"), " (did you mean 'resume'?)"),
    },
)
