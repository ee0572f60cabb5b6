"""The verbs of tasks about where their work is: ``task save``, ``task resume``, and what other verbs say of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from nexus.cli.output import Printer, format_duration, hint, of_project, print_fields, reference
from nexus.cli.verbs import Values, verb
from nexus.hints import command_line
from nexus.memory.continue_points.commands import CreateContinuePoint, GetResumePoint
from nexus.memory.continue_points.records import ContinuePoint, ResumePoint

if TYPE_CHECKING:
    from nexus.cli.app import App
    from nexus.ledger.tasks.records import Recovery

__all__ = ["left_lines", "make_resume", "make_save"]

_SHOWN = 120


def _ago(at_ms: int) -> str:
    ago_ms = time.time_ns() // 1_000_000 - at_ms
    return f"{format_duration(ago_ms if ago_ms > 0 else 0)} ago"


def _line(text: str) -> str:
    return " ".join(text.split())


def _place(point: dict[str, Any]) -> str | None:
    """Where a continue point is: its file, its line and its function."""
    file, line, function = (point.get(name) for name in ("file", "line", "function_name"))
    place = file if file is None or line is None else f"{file}:{line}"
    if function is None:
        return place
    return f"in {function}" if place is None else f"{place}, in {function}"


def _named(checkpoint: dict[str, Any]) -> str:
    """What a checkpoint is called, and how old it is."""
    name = f' "{checkpoint["name"]}"' if checkpoint.get("name") else ""
    age = f" ({_ago(checkpoint['created_at'])})" if "created_at" in checkpoint else ""
    return f"{checkpoint.get('number')}{name}{age}"


def left_lines(left: Recovery | None) -> list[str]:
    """Sentences about where the work on a task was left."""
    lines = []
    if left is not None and (point := left.continue_point) is not None:
        action = _line(str(point.get("last_action", "")))
        action = action if len(action) <= _SHOWN else action[: _SHOWN - 1] + "…"
        age = f", {_ago(point['saved_at'])}" if "saved_at" in point else ""
        place = _place(point)
        at = "" if place is None else f" ({place})"
        lines.append(f"Its newest continue point is {point.get('number')}{age}: {action}{at}")
    if left is not None and left.checkpoint is not None:
        lines.append(f"The newest checkpoint of its project is {_named(left.checkpoint)}")
    return lines


def make_save() -> click.Command:
    """``task save``."""

    def run(app: App, values: Values, out: Printer) -> None:
        out.one(app.fetch(values.build(CreateContinuePoint)), name=lambda point: point.number, sentence=_saved)

    task = click.Argument(["task"], metavar="[TASK]", required=False)
    action = click.Option(["--action", "last_action"], required=True, metavar="TEXT", help="What was done last.")
    return verb(
        CreateContinuePoint, run, parameters=[task, action], exclude=("task", "last_action", "id"), help=_SAVE_HELP
    )


_SAVE_HELP = """Save where the work on a task is, by default of the task of the lease.

\b
    nexusctl task save --action "wrote the parser" --file src/parser.py --line 80 --next "test it"
"""


def _saved(point: ContinuePoint) -> None:
    task = point.task_id if point.task_number is None else point.task_number
    click.echo(f"Saved continue point {point.number} of task {task}{of_project(point)}")


def make_resume() -> click.Command:
    """``task resume``."""

    def run(app: App, values: Values, out: Printer) -> None:
        out.one(app.fetch(values.build(GetResumePoint)), name=lambda found: found.number, sentence=_resume)

    task = click.Argument(["task"], metavar="[TASK]", required=False)
    return verb(
        GetResumePoint,
        run,
        parameters=[task],
        exclude=("task",),
        help="Show where the work on a task was left, by default of the task of the lease.",
    )


def _resume(found: ResumePoint) -> None:
    by = "" if found.agent is None else f', agent "{found.agent}"'
    click.echo(f'Task {found.number} "{found.name}"{of_project(found)} is {found.status.replace("_", " ")}{by}.')
    point = found.continue_point
    lines: list[tuple[str, object]] = []
    if point is not None:
        place = _place({"file": point.file, "line": point.line, "function_name": point.function_name})
        lines += [
            ("Last action", _line(point.last_action)),
            ("At", place),
            *((f"Next step {at}", _line(step)) for at, step in enumerate(point.next_steps, 1)),
            ("Saved", f"{_ago(point.saved_at)}, as continue point {point.number}"),
            ("Rejects", point.iteration_count or None),
        ]
    lines += [
        ("Worktree", found.worktree_path),
        ("Branch", found.branch_name),
        ("Checkpoint", None if found.checkpoint is None else _named(found.checkpoint)),
    ]
    if any(value is not None for _name, value in lines):
        print_fields(lines)
    if point is None:
        line = command_line("nexusctl", "task", "save", reference(found), "--action", "TEXT")
        hint(f"It has no continue point. Save where its work is: {line}")
