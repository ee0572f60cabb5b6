"""``task prime`` and ``task watch``: what an agent is told of the ledger, and of its own task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from nexus.cli.output import Printer, end_with_reader, format_time
from nexus.cli.result import made
from nexus.cli.verbs import Values, shell_complete, verb
from nexus.hints import command_line
from nexus.journal.commands import Event, WatchEvents
from nexus.ledger.leases.commands import GetLease
from nexus.ledger.pages.commands import GetExecution
from nexus.ledger.tasks.commands import GetTask
from nexus.ledger.tasks.records import Task

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["make_prime", "make_watch"]

_SHOWN = 10
_NOTES = 5

_TEXT = """# The ledger of project "{project}"

What is to be done stands in the ledger of this project, which `nexusctl` reads and changes. Tasks have numbers: `12`.

## Commands

- What can be begun now, the best first: nexusctl task ready
- What a task waits for: nexusctl task why 12
- All of a task: nexusctl task inspect 12
- Begin a task, without a number the best one; evaluate what it prints: nexusctl task claim 12 --agent NAME
- Keep what you find out: nexusctl task note 12 TEXT
- Write down further work instead of doing it now: nexusctl task create NAME --depends-on 12
- Hand the work over for its review: nexusctl task submit 12
- Say that it is done, where no review is wanted: nexusctl task complete 12
- Say that it cannot go on: nexusctl task block 12 --reason TEXT
- Say that it cannot be done: nexusctl task fail 12 --reason TEXT
- Read what others change in your task: nexusctl task watch --no-follow
- Look for anything: nexusctl search WORDS

With `-o json` each of them answers a program.

## Rules

- Work on a task only while you hold its lease. It is in NEXUS_LEASE, which each call of nexusctl presents.
- Each change that you make renews the lease. One that is not renewed in time is over, and the task is another's.
- After an error `lease.stale` stop at once: nothing that you write counts any more.
- Do not take over, approve or revoke: that is for people, and is refused to agents in jobs and services.
- A task of type checkpoint is decided by a person.
- One of type tdd needs a note with `--kind red`, then one with `--kind green`.
- End each task with submit, complete, block or fail; do not leave it to expire.
"""


class _Guide(NamedTuple):
    """The text for an agent."""

    text: str


def make_prime() -> click.Command:
    """``task prime``."""

    def run(app: App, values: Values, out: Printer) -> None:
        text = _prime(app, values.text("given"))
        out.one(made(_Guide(text), {"text": text}), name=lambda guide: guide.text, sentence=lambda guide: _say(text))

    given = click.Argument(["given"], metavar="[TASK]", required=False, shell_complete=shell_complete("task"))
    return verb(GetTask, run, parameters=[given], exclude=("task",), help=_PRIME_HELP)


_PRIME_HELP = """Print what an agent needs to know of the ledger, in Markdown: commands, rules, and what is ready.

It is for the AGENTS.md of a repository, or for the first words to an agent.

With a task, or with the lease of one in NEXUS_LEASE, also that task.

\b
    nexusctl task prime 12
"""


def _say(text: str) -> None:
    click.echo(text, nl=False)


def _own_task(app: App, given: str | None) -> Task | None:
    """The task that is given, else the one that the lease of this run is on."""
    if given is not None:
        return app.call(GetTask(given))
    held = app.lease()
    if held is None:
        return None
    lease = app.call(GetLease(held.id))
    return app.call(GetTask(lease.resource_id)) if lease.resource_kind == "task" else None


def _prime(app: App, given: str | None) -> str:
    task = _own_task(app, given)
    page = app.call(GetExecution(limit=_SHOWN), project=None if task is None else task.project_id)
    lines = ["", "## Now", ""]
    counts = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in sorted(page.counts.items()))
    lines.append(f"Tasks: {counts or 'none'}. Ready: {page.ready_count}" + (":" if page.ready else "."))
    lines += [f"- #{card.number} (priority {card.priority}) {card.name}" for card in page.ready]
    if page.ready_count > len(page.ready):
        lines.append(f"- and {page.ready_count - len(page.ready)} more")
    if task is not None:
        lines += ["", f"## Your task: #{task.number} {task.name}", ""]
        lines.append(f"It is {task.status.replace('_', ' ')}, of type {task.type}, {task.estimated_minutes} minutes.")
        if task.worktree_path or task.branch_name:
            lines.append(f"Folder: {task.worktree_path or '-'}, branch: {task.branch_name or '-'}.")
        if task.qa_iterations:
            lines.append(f"It was rejected {task.qa_iterations} times" + (f": {task.reason}" if task.reason else "."))
        if task.description:
            lines += ["", *task.description.splitlines()[:_NOTES]]
            if len(task.description.splitlines()) > _NOTES:
                lines.append(f"All of it: {command_line('nexusctl', 'task', 'inspect', task.number)}")
        lines += [f"- {note.kind}: {' '.join(note.text.split())[:200]}" for note in task.notes[-_NOTES:]]
    return _TEXT.format(project=page.project) + "\n".join(lines) + "\n"


def make_watch() -> click.Command:
    """``task watch``."""

    def run(app: App, values: Values, out: Printer) -> None:
        follow = values.flag("follow")
        if out.output == "json":
            raise click.UsageError("events have no end: use -o jsonl")
        task = _own_task(app, values.text("given"))
        if task is None:
            raise click.UsageError("name a task, or run it under a lease, in NEXUS_LEASE or by --lease")
        kinds = ["task.*"] if values.flag("all") else ["task.edited"]
        command = WatchEvents(after=values.number("after"), kinds=kinds, subject=task.id, follow=follow)
        if follow:
            end_with_reader(app.connect())
        with app.connect().stream(command, project=task.project_id) as stream:
            for event in stream:
                if event.kind is not None:
                    out.line(made(event, _plain(event)), _line(event), name=lambda event: event.seq)

    options = [
        click.Argument(["given"], metavar="[TASK]", required=False, shell_complete=shell_complete("task")),
        click.Option(["--all"], is_flag=True, help="Also its moves and notes, and what its holder does."),
        click.Option(["--follow/--no-follow"], default=True, help="Continue with new events (default: yes)."),
    ]
    exclude = ("kinds", "subject", "follow")
    return verb(WatchEvents, run, parameters=options, exclude=exclude, help=_WATCH_HELP)


_WATCH_HELP = """Tell what others change in a task while it is leased, one line for each change, until Ctrl-C.

Without a task it is that of the lease in NEXUS_LEASE.

\b
    nexusctl task watch --no-follow -o jsonl
"""


def _plain(event: Event) -> dict[str, Any]:
    return {name: value for name in event.__struct_fields__ if (value := getattr(event, name)) is not None}


def _line(event: Event) -> str:
    detail = event.detail or {}
    by = event.actor or f"uid {event.uid}"
    what = ", ".join(map(str, detail.get("changed", ()))) or str(detail.get("move", ""))
    kind = (event.kind or "").removeprefix("task.")
    return f"{event.seq} {format_time(event.at)} {kind}{' ' if what else ''}{what} by {by}"
