"""``nexusctl metric``: values that are measured, and their sums."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nexus.cli.output import Column, Printer, format_time, hint
from nexus.cli.records import print_list
from nexus.cli.result import Results
from nexus.cli.verbs import NounGroup, Number, Values, since, verb
from nexus.ledger.metrics.commands import ListMetrics, RecordMetric, SumMetrics
from nexus.ledger.metrics.records import Metric, MetricPage, MetricSum, MetricSums

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["metric"]

_PAGE = 10_000
_SHOWN = 50
_BARS = 60
"""How many bars are drawn at most; the oldest are left out."""
_HOUR_MS = 3_600_000
_STEPS_MS = {"hour": _HOUR_MS, "day": 24 * _HOUR_MS, "week": 7 * 24 * _HOUR_MS}


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else f"{value:.2f}"


_COLUMNS: tuple[Column[Metric], ...] = (
    Column("TIME", lambda metric: format_time(metric.timestamp), 23),
    Column("TYPE", lambda metric: metric.type, 13),
    Column("VALUE", lambda metric: _number(metric.value), 12),
    Column("AGENT", lambda metric: metric.agent_id, 36),
    Column("TASK", lambda metric: metric.task_id, 36),
    Column("SOURCE", lambda metric: metric.source, wide=True),
    Column("ID", lambda metric: metric.id, wide=True),
)
_SUM_COLUMNS: tuple[Column[MetricSum], ...] = (
    Column("TYPE", lambda each: each.type, 13),
    Column("SUM", lambda each: _number(each.sum), 14),
    Column("COUNT", lambda each: each.count, 8),
    Column("MEAN", lambda each: _number(each.sum / each.count), 12),
    Column("LOWEST", lambda each: _number(each.lowest), wide=True),
    Column("HIGHEST", lambda each: _number(each.highest), wide=True),
)


def _times() -> list[click.Parameter]:
    kinds = (("since", "Only those of then or later"), ("until", "Only those before then"))
    return [
        click.Option(
            [f"--{name}", f"{name}_at"],
            type=since,
            metavar="TIME",
            help=f"{text}: a time ago such as 2h, or a time in UTC.",
        )
        for name, text in kinds
    ]


def _make_record() -> click.Command:
    def sentence(metric: Metric) -> None:
        click.echo(f"Recorded {metric.type} {_number(metric.value)}")

    def run(app: App, values: Values, out: Printer) -> None:
        out.one(app.fetch(values.build(RecordMetric)), name=lambda metric: metric.id, sentence=sentence)

    at = click.Option(["--at", "timestamp"], type=since, metavar="TIME", help="When it was measured (default: now).")
    return verb(RecordMetric, run, parameters=[at], exclude=("timestamp",), help=_RECORD_HELP)


_RECORD_HELP = """Record a value that was measured: tokens, minutes of a task, or its rejects.

\b
    nexusctl metric record token_usage 1834 --agent ada --task 12
"""


def _make_list() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        limit = left = values.number("limit") or _SHOWN
        pages: list[Results[Metric]] = []
        cursor: str | None = None
        while left > 0:
            page = app.fetch(values.build(ListMetrics, limit=min(_PAGE, left), cursor=cursor))
            pages.append(page.rows(MetricPage.metrics))
            left -= len(pages[-1])
            cursor = page.plain.get("next_cursor")
            if cursor is None:
                break
        print_list(
            app, Results.joined(pages), _COLUMNS, out, name=lambda metric: metric.id, nothing="No metrics found."
        )
        if cursor is not None:
            hint(f"Older metrics are not shown: give a --limit above {limit}.")

    limit = click.Option(["--limit"], type=Number(1), default=_SHOWN, help=f"Maximum number (default: {_SHOWN}).")
    return verb(ListMetrics, run, parameters=[*_times(), limit], exclude=("since_at", "until_at", "limit", "cursor"))


def _make_sum() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        result = app.fetch(values.build(SumMetrics))
        by, per = values.text("by"), values.text("bucket")
        columns = list(_SUM_COLUMNS)
        if by == "agent":
            columns.insert(0, Column("AGENT", lambda each: each.agent or each.agent_id, 20))
        elif by == "task":
            columns.insert(0, Column("TASK", lambda each: each.task_id if each.task is None else f"#{each.task}", 20))
        if per is not None:
            columns.insert(0, Column("FROM", lambda each: format_time(each.begins_at), 23))
        print_list(
            app,
            result.rows(MetricSums.sums),
            columns,
            out,
            name=lambda each: each.agent_id or each.task_id or each.type,
            nothing="No metrics found.",
        )
        if per is not None and out.for_person:
            _print_bars(result.record.sums, per)
        if result.plain.get("more"):
            hint("There are more sums: give a higher --limit, or --since.")

    return verb(SumMetrics, run, parameters=_times(), exclude=("since_at", "until_at"), help=_SUM_HELP)


def _print_bars(sums: list[MetricSum], per: str) -> None:
    """Draw the sums of each type, agent or task over time, the newest at the right; a blank is no metric."""
    from nexus.cli.pages import sparkline

    step = _STEPS_MS[per]
    series: dict[str, dict[int, float]] = {}
    for each in sums:
        of = each.agent or each.agent_id or (each.task_id if each.task is None else f"#{each.task}")
        series.setdefault(f"{each.type} {of}" if of else each.type, {})[each.begins_at or 0] = each.sum
    begins = [begin for values in series.values() for begin in values]
    if not begins:
        return
    last = max(begins)
    first = max(min(begins), last - (_BARS - 1) * step)
    width = max(map(len, series))
    click.echo()
    for name, values in sorted(series.items()):
        bars = sparkline([values.get(at, 0.0) for at in range(first, last + step, step)])
        click.echo(f"{name:<{width}}  {bars}".rstrip())


_SUM_HELP = """Sum metrics, those of each type alone: by agent, by task, and by time in UTC.

Sums by time are drawn as bars as well.

\b
    nexusctl metric sum --type token_usage --by agent --per day --since 7d
"""

metric = NounGroup(
    "metric",
    "Record and sum what is measured.",
    {
        "record": ("Record a value that was measured.", _make_record),
        "list": ("List metrics, newest first.", _make_list),
        "sum": ("Sum metrics by agent, task and time.", _make_sum),
    },
    {
        **dict.fromkeys(("add", "create", "new"), " (did you mean 'record'?)"),
        **dict.fromkeys(("ls", "show"), " (did you mean 'list'?)"),
        **dict.fromkeys(("total", "stats", "usage", "aggregate"), " (did you mean 'sum'?)"),
    },
)
