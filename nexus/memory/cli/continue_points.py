"""``nexusctl continue-point``: where the work on tasks was left. ``task save`` makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nexus.cli.output import Column, format_time
from nexus.cli.records import Noun, make_delete, make_inspect, make_list, names_starting
from nexus.cli.verbs import NounGroup, completers
from nexus.memory.continue_points.commands import DeleteContinuePoint, GetContinuePoint, ListContinuePoints
from nexus.memory.continue_points.records import ContinuePoint, ContinuePointPage

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["continue_point"]

_POINT = Noun("continue point", "continue points", "continue-point", ContinuePointPage.continue_points)
_PAGE = 1000
_SHOWN = 80


def _line(text: str) -> str:
    return " ".join(text.split())


def _place(one: ContinuePoint) -> str | None:
    return one.file if one.file is None or one.line is None else f"{one.file}:{one.line}"


def _task(one: ContinuePoint) -> str:
    return one.task_id if one.task_number is None else str(one.task_number)


_COLUMNS: tuple[Column[ContinuePoint], ...] = (
    Column("NUMBER", lambda one: one.number, 6),
    Column("TASK", _task, 4),
    Column("SAVED", lambda one: format_time(one.saved_at), 23),
    Column("AGENT", lambda one: one.agent or one.agent_id, 10),
    Column("LAST ACTION", lambda one: _line(one.last_action)[:_SHOWN], 20),
    Column("AT", _place, wide=True),
    Column("NEXT STEPS", lambda one: len(one.next_steps) or None, wide=True),
    Column("ID", lambda one: one.id, wide=True),
)


def _lines(one: ContinuePoint) -> list[tuple[str, object]]:
    return [
        ("Number", one.number),
        ("ID", one.id),
        ("Project", one.project),
        ("Task", _task(one)),
        ("Agent", one.agent or one.agent_id),
        ("Rejects", one.iteration_count or None),
        ("Saved", format_time(one.saved_at)),
        ("Last action", _line(one.last_action)),
        ("At", _place(one)),
        ("Function", one.function_name),
        *(("Next step", _line(step)) for step in one.next_steps),
    ]


def _complete(app: App, incomplete: str) -> list[str]:
    return names_starting(app, ListContinuePoints(limit=_PAGE), _POINT, incomplete)


completers["continue-point"] = _complete

continue_point = NounGroup(
    "continue-point",
    "See where the work on tasks was left.",
    {
        "list": ("List continue points, newest first.", lambda: make_list(ListContinuePoints, _POINT, _COLUMNS)),
        "inspect": ("Show continue points.", lambda: make_inspect(GetContinuePoint, _POINT, _lines)),
        "delete": ("Delete continue points.", lambda: make_delete(GetContinuePoint, DeleteContinuePoint, _POINT)),
    },
    {
        **dict.fromkeys(("create", "add", "new", "save"), ": task save makes one"),
        **dict.fromkeys(("show", "get", "info"), " (did you mean 'inspect'?)"),
        **dict.fromkeys(("rm", "remove"), " (did you mean 'delete'?)"),
        **dict.fromkeys(("resume", "continue"), ": task resume shows where a task was left"),
        "ls": " (did you mean 'list'?)",
    },
)
