"""The pages of a project: overview, board, execution, the graph of tasks and the pool of agents, at any width.

With ``--watch`` a page is drawn again when an event of the ledger comes, at most twice a second.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from nexus_protocol import Command, NexusError

from nexus.cli.output import Column, Printer, colour_wanted, format_duration
from nexus.cli.result import Result
from nexus.cli.verbs import Values, verb
from nexus.client.errors import ConnectionLost
from nexus.journal.commands import JournalAhead, WatchEvents
from nexus.ledger.pages.commands import GetAgentPool, GetBoard, GetExecution, GetProjectOverview, GetTaskGraph
from nexus.ledger.pages.records import AgentPool, Board, Card, DependencyGraph, Execution, Overview, PoolAgent
from nexus.terminal import columns_of, painted, shortened

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["make_board", "make_execution", "make_graph", "make_overview", "make_pool", "sparkline"]

R = TypeVar("R")
C = TypeVar("C", bound=Command[Any])

_BARS = "▁▂▃▄▅▆▇█"
_COLUMN = 24
"""The narrowest column of a board; below that the columns stand one below the other."""
_REDRAW_S = 0.5
_AGES_S = 10.0
_KINDS = [
    *("task.*", "feature.*", "sub_feature.*", "agent.*", "lease.*", "session.*", "requirement.*", "project.*"),
    *("continue_point.*", "checkpoint.*"),
]
_COLOURS = {
    "in_progress": "cyan",
    "in_review": "magenta",
    "completed": "green",
    "failed": "red",
    "blocked": "yellow",
    "working": "cyan",
    "error": "red",
}


def sparkline(values: Sequence[float]) -> str:
    """Bars as high as the values, the highest of them full; a blank where there is nothing."""
    highest = max(values, default=0)
    if highest <= 0:
        return " " * len(values)
    return "".join(" " if value <= 0 else _BARS[min(7, int(value / highest * 7.999))] for value in values)


def _width() -> int:
    return max(20, shutil.get_terminal_size((100, 24)).columns)


def _colour(status: str) -> str | None:
    return _COLOURS.get(status) if colour_wanted() else None


def _show(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def _bar(percentage: int, width: int) -> str:
    full = percentage * width // 100
    return "█" * full + "░" * (width - full)


def _of(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in sorted(counts.items())) or "none"


def _mark(card: Card) -> str:
    """What is to be said of a task beside its name."""
    marks = []
    if card.agent is not None and card.status in ("in_progress", "in_review"):
        marks.append(f"@{card.agent}")
    if card.status == "in_progress" and card.claimed_at is not None:
        age = format_duration(max(0, time.time_ns() // 1_000_000 - card.claimed_at))
        marks.append(f"{age} overdue" if card.overdue else age)
    if card.open_dependencies:
        marks.append(f"waits for {card.open_dependencies}")
    if card.qa_iterations:
        marks.append(f"rejected {card.qa_iterations}x")
    if card.reason is not None and card.status in ("blocked", "failed"):
        marks.append(card.reason)
    if card.continue_point is not None:
        marks.append(f"continue point {card.continue_point.get('number')}")
    return ", ".join(marks)


def _card_line(card: Card, width: int) -> str:
    mark = _mark(card)
    text = f"#{card.number} {card.name}" + (f" ({mark})" if mark else "")
    return painted(shortened(text, width), _colour(card.status)) if colour_wanted() else shortened(text, width)


def _overview(page: Overview) -> None:
    width = _width()
    total = sum(page.tasks.values())
    bar = max(10, min(40, width - 30))
    _show(
        [
            f"Project:      {page.project} ({page.status})",
            f"Tasks:        {total} ({_of(page.tasks)})" if total else "Tasks:        none",
            f"              {_bar(page.percentage, bar)} {page.percentage} %",
            f"Ready:        {page.ready}" + (f", overdue: {page.overdue}" if page.overdue else ""),
            f"Agents:       {_of(page.agents)}",
            f"Requirements: {page.requirements}" + (f" ({page.validated} validated)" if page.requirements else ""),
            f"Sessions:     {_of(page.sessions)}",
            f"Tokens:       {page.tokens:,}".replace(",", " "),
            f"Last 24 h:    {sparkline([each.tokens for each in page.usage])}".rstrip(),
        ]
    )
    if page.features:
        name = max(10, width - 42)
        click.echo("\nFEATURE" + " " * max(1, name - 1) + "STATUS        TASKS")
        for each in page.features:
            text = shortened(f"#{each.number} {each.name}", name + 5)
            pad = " " * (name + 6 - columns_of(text))
            click.echo(f"{text}{pad}{each.status:<13} {each.completed}/{each.tasks} {each.percentage} %")
    if page.feature_count > len(page.features):
        click.echo(f"… and {page.feature_count - len(page.features)} more features")


def _board(page: Board) -> None:
    width = _width()
    shown = [column for column in page.columns if column.count or page.by == "status"]
    if not any(column.count for column in shown):
        click.echo(f'Project "{page.project}" has no tasks.')
        return
    heads = [
        (f"#{column.number} {column.name}" if column.number else column.name or "no feature")
        + (f" {column.completed}/{column.count}" if page.by == "feature" else f" {column.count}")
        for column in shown
    ]
    per_row = max(1, min(len(shown), width // _COLUMN))
    for start in range(0, len(shown), per_row):
        part = shown[start : start + per_row]
        cell = (width - (len(part) - 1)) // len(part)
        columns = [
            [heads[start + index].upper(), *(f"#{card.number} {card.name}" for card in column.cards)]
            + ([f"… {column.count - len(column.cards)} more"] if column.count > len(column.cards) else [])
            for index, column in enumerate(part)
        ]
        cards = [[None, *column.cards, None] for column in part]
        if start:
            click.echo()
        for row in range(max(map(len, columns))):
            texts = []
            for index, column in enumerate(columns):
                text = shortened(column[row], cell) if row < len(column) else ""
                padded = text + " " * (cell - columns_of(text))
                card = cards[index][row] if row < len(cards[index]) else None
                texts.append(padded if card is None or not colour_wanted() else painted(padded, _colour(card.status)))
            click.echo("|".join(texts).rstrip())


def _execution(page: Execution) -> None:
    width = _width()
    click.echo(f"Project: {page.project} ({page.status})")
    if page.checkpoint is not None:
        name = f' "{page.checkpoint["name"]}"' if page.checkpoint.get("name") else ""
        click.echo(shortened(f"Newest checkpoint: {page.checkpoint.get('number')}{name}", width))
    sections = (
        ("Working", page.working, page.counts.get("in_progress", 0)),
        ("In review", page.in_review, page.counts.get("in_review", 0)),
        ("Ready", page.ready, page.ready_count),
        ("Blocked", page.blocked, page.counts.get("blocked", 0)),
        ("Failed", page.failed, page.counts.get("failed", 0)),
    )
    for heading, cards, count in sections:
        click.echo(f"\n{heading}: {count}")
        for card in cards:
            click.echo("  " + _card_line(card, width - 2))
        if count > len(cards):
            click.echo(f"  … {count - len(cards)} more")


def _graph(page: DependencyGraph) -> None:
    """A tree: each task below what it waits for, the first time whole, later by its number alone."""
    width = _width()
    if not page.tasks:
        click.echo(f'Project "{page.project}" has no such tasks.')
        return
    by_number = {card.number: card for card in page.tasks}
    waiting: dict[int, list[int]] = {}
    for card in page.tasks:
        for number in card.depends_on:
            waiting.setdefault(number, []).append(card.number)
    drawn: set[int] = set()
    roots = [card.number for card in page.tasks if not any(number in by_number for number in card.depends_on)]
    # A stack and no recursion: a chain may be as long as the list.
    stack = [(number, 0) for number in reversed(roots)]
    while stack:
        number, depth = stack.pop()
        card = by_number[number]
        indent = "  " * min(depth, 20) + ("└ " if depth else "")
        if number in drawn:
            click.echo(shortened(f"{indent}#{number} (above)", width))
            continue
        drawn.add(number)
        others = [each for each in card.depends_on if len(card.depends_on) > 1]
        after = f" [after {', '.join(_number(each) for each in others)}]" if others else ""
        click.echo(shortened(f"{indent}#{number} {card.name} ({card.status}){after}", width))
        stack += [(each, depth + 1) for each in reversed(waiting.get(number, [])) if each in by_number]
    if page.truncated:
        click.echo(f"… more than {len(page.tasks)} tasks; see more with --limit")


def _number(number: int) -> str:
    return f"#{number}" if number > 0 else f"#{-number} of another project"


def _dot(page: DependencyGraph) -> None:
    click.echo("digraph tasks {\n  rankdir=LR;\n  node [shape=box];")
    for card in page.tasks:
        label = f"#{card.number} {card.name}\\n{card.status}".replace('"', '\\"')
        click.echo(f'  t{card.number} [label="{label}"];')
    known = {card.number for card in page.tasks}
    for card in page.tasks:
        for number in card.depends_on:
            if number in known:
                click.echo(f"  t{number} -> t{card.number};")
    click.echo("}")


def _task_of(agent: PoolAgent) -> str | None:
    return None if agent.task_number is None else f"{agent.project}/{agent.task_number} {agent.task_name}"


def _age(at: int | None) -> str | None:
    return None if at is None else format_duration(max(0, time.time_ns() // 1_000_000 - at))


_POOL: tuple[Column[PoolAgent], ...] = (
    Column("NAME", lambda agent: agent.name, 16),
    Column("TYPE", lambda agent: agent.type, 8),
    Column("STATUS", lambda agent: agent.status, 10, colour=lambda agent: _COLOURS.get(agent.status)),
    Column("TASK", lambda agent: shortened(_task_of(agent) or "", 40) or None, 20),
    Column("SINCE", lambda agent: _age(agent.claimed_at), 8),
    Column("TOKENS", lambda agent: agent.tokens_used, 9),
    Column("DONE", lambda agent: agent.tasks_completed, 5),
    Column("FAILED", lambda agent: agent.tasks_failed, 6, wide=True),
    Column("MODEL", lambda agent: agent.model, wide=True),
    Column("SEEN", lambda agent: _age(agent.last_activity_at), wide=True),
    Column("REASON", lambda agent: agent.reason, wide=True),
)


# --watch


def _newest(app: App) -> int:
    """The number of the newest event."""
    try:
        with app.connect().stream(WatchEvents(after=2**63 - 1, follow=False)) as stream:
            list(stream)
    except JournalAhead as error:
        return int(error.details["newest_seq"])
    return 0


def _watch(app: App, draw: Callable[[], None]) -> None:
    """Draw a page, and again whenever an event of the ledger comes, until Ctrl-C or the end of the daemon.

    Raises:
        ConnectionLost: the daemon is gone.
    """
    events: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
    command, other = WatchEvents(after=_newest(app), kinds=_KINDS), app.connect_again()

    def listen() -> None:
        try:
            with other.stream(command) as stream:
                for event in stream:
                    if event.kind is not None:
                        events.put(None)
            events.put(ConnectionLost("the daemon ended the stream of events"))
        except (NexusError, OSError) as error:
            events.put(error)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        click.clear()
        draw()
        # A claim's age grows without an event.
        with contextlib.suppress(queue.Empty):
            error = events.get(timeout=_AGES_S)
            time.sleep(_REDRAW_S)
            while error is None and not events.empty():
                error = events.get()
            if error is not None:
                raise error


def _page(
    command: type[C],
    fetch: Callable[[App, Values], Result[R]],
    print_page: Callable[[R], None],
    help: str,
    parameters: Sequence[click.Parameter] = (),
) -> click.Command:
    """The verb of a page that is one record."""

    def run(app: App, values: Values, out: Printer) -> int:
        def draw() -> None:
            out.one(fetch(app, values), name=lambda page: getattr(page, "project", ""), sentence=print_page)

        if values.flag("watch"):
            if not out.for_person:
                raise click.UsageError("--watch draws for a person; for a program: nexusctl events -o jsonl")
            _watch(app, draw)
        draw()
        return 0

    watch = click.Option(["-w", "--watch"], is_flag=True, help="Draw it again when something changes.")
    return verb(command, run, parameters=[*parameters, watch], help=help)


def make_overview() -> click.Command:
    """``project overview``."""
    return _page(
        GetProjectOverview,
        lambda app, values: app.fetch(values.build(GetProjectOverview)),
        _overview,
        "Show a project at a glance: tasks, features, agents and the tokens of a day.",
    )


def make_board() -> click.Command:
    """``project board``."""
    return _page(
        GetBoard, lambda app, values: app.fetch(values.build(GetBoard)), _board, "Show tasks in columns of a board."
    )


def make_execution() -> click.Command:
    """``project execution``."""
    return _page(
        GetExecution,
        lambda app, values: app.fetch(values.build(GetExecution)),
        _execution,
        "Show what is worked on, what can be begun, and what is in the way.",
    )


def make_graph() -> click.Command:
    """``task graph``."""

    def run(app: App, values: Values, out: Printer) -> int:
        result = app.fetch(values.build(GetTaskGraph))
        out.one(result, name=lambda page: page.project, sentence=_dot if values.flag("dot") else _graph)
        return 0

    dot = click.Option(["--dot"], is_flag=True, help="Print it in the language of Graphviz.")
    return verb(GetTaskGraph, run, parameters=[dot], help="Draw what tasks wait for.")


def make_pool() -> click.Command:
    """``agent pool``."""

    def run(app: App, values: Values, out: Printer) -> int:
        def draw() -> None:
            agents = app.fetch(GetAgentPool()).rows(AgentPool.agents)
            out.many(agents, _POOL, name=lambda agent: agent.name, nothing="No agents found.")

        if values.flag("watch"):
            _watch(app, draw)
        draw()
        return 0

    watch = click.Option(["-w", "--watch"], is_flag=True, help="Draw it again when something changes.")
    return verb(GetAgentPool, run, parameters=[watch], help="Show the agents with their current tasks.")
