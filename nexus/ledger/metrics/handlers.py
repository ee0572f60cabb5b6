"""The handlers of the commands on metrics."""

from __future__ import annotations

import functools

from nexus.capability import Context, handles
from nexus.journal.operation import Operation
from nexus.journal.rows import Subject, record
from nexus.ledger.agents.errors import AgentNotFound
from nexus.ledger.agents.store import agent_named
from nexus.ledger.metrics.commands import ListMetrics, RecordMetric, SumMetrics
from nexus.ledger.metrics.errors import MetricCursorInvalid, MetricInvalid, MetricSourceTaken, MetricTaskNotFound
from nexus.ledger.metrics.records import Metric, MetricPage, MetricSums
from nexus.ledger.metrics.store import (
    Wanted,
    add,
    by_source,
    count_of_project,
    delete_of_project,
    metric_by_id,
    page,
    sums,
    task_row,
)
from nexus.records.contents import Contents, Held, contents
from nexus.records.handlers import check_metadata
from nexus.records.pages import decode_cursor, encode_cursor, read_page
from nexus.records.scope import Scope
from nexus.store import Reader, Transaction

__all__ = ["list_metrics", "record_metric", "sum_metrics"]

_HIGHEST = 1e15
_SUM_S = 5.0
"""How long a sum may take."""


def _held(reader: Reader, project_id: str, after: str = "", limit: int = -1) -> list[Held]:
    """The metrics of a project as one: there may be millions, and none has a name."""
    count = 0 if after or limit == 0 else count_of_project(reader, project_id)
    return [Held("metrics", project_id, "metrics", "kept", runs=False)] if count else []


def _delete(tx: Transaction, operation: Operation, project_id: str, _held: list[Held]) -> None:
    delete_of_project(tx, operation, project_id)


contents(Contents("metrics", "series of metrics", _held, _delete))


@handles(RecordMetric)
def record_metric(tx: Transaction, ctx: Context, command: RecordMetric) -> Metric:
    cannot = "cannot record the metric"
    if not 0 <= command.value <= _HIGHEST:  # not a number is neither
        raise MetricInvalid(
            f"{cannot}: {command.value} is not a number from 0 to {_HIGHEST:g}", details={"path": "value"}
        )
    check_metadata(command, cannot)
    scope = ctx.scope(tx)
    task_id: str | None = None
    if command.task is None:
        project_id = scope.home(cannot)
    else:
        found = task_row(tx, command.task, scope)
        if found is None:
            raise MetricTaskNotFound(f'{cannot}: task "{command.task}" not found', details={"task": command.task})
        task_id, project_id = found
    fields = {
        "project_id": project_id,
        "type": command.type,
        "value": float(command.value),
        "agent_id": None if command.agent is None else agent_named(tx, command.agent).id,
        "task_id": task_id,
        "metadata": command.metadata or {},
    }
    present = None if command.source is None else by_source(tx, command.source)
    if present is not None:
        if all(getattr(present, name) == value for name, value in fields.items()):
            return present
        raise MetricSourceTaken(
            f'{cannot}: another one was made from "{command.source}"',
            hint="To repeat a request, give the fields that the metric has; for another one give another source.",
            details={"id": present.id, "source": command.source},
        )
    id_ = add(tx, ctx.operation, source=command.source, timestamp=command.timestamp, **fields)  # type: ignore[arg-type]
    assert id_ is not None
    made = metric_by_id(tx, id_)
    detail = {"type": made.type.value, "value": made.value}
    detail |= {name: value for name in ("agent_id", "task_id") if (value := getattr(made, name)) is not None}
    record(tx, ctx.operation, "metric.recorded", Subject("metric", id_, None, project_id), detail)
    return made


def _wanted(reader: Reader, scope: Scope, command: ListMetrics | SumMetrics) -> Wanted:
    """What a request asks for. Of an agent or a task that is there no more, the id is the reference."""
    agent_id, task_id = command.agent, None
    if command.agent is not None:
        try:
            agent_id = agent_named(reader, command.agent).id
        except AgentNotFound:
            agent_id = command.agent
    if command.task is not None:
        found = task_row(reader, command.task, scope)
        task_id = command.task if found is None else found[0]
    return Wanted(scope.project_id, command.type, agent_id, task_id, command.since_at, command.until_at)


@handles(ListMetrics)
async def list_metrics(ctx: Context, command: ListMetrics) -> MetricPage:
    scope = await ctx.store.fetch(ctx.scope)
    if scope.is_nowhere:
        return MetricPage([])
    wanted = await ctx.store.fetch(lambda reader: _wanted(reader, scope, command))
    bound = ("metric", wanted.project_id, command.type, command.agent, command.task, wanted.since_at, wanted.until_at)
    after: tuple[int, str] | None = None
    if command.cursor is not None:
        hint = "Give the same filters as for the first page, or list from the start."
        after = decode_cursor(command.cursor, bound, tuple[int, str], MetricCursorInvalid, hint)
    metrics, last = await read_page(
        lambda after, count: ctx.store.fetch(functools.partial(page, wanted=wanted, after=after, count=count)),
        lambda metric: (metric.timestamp, metric.id),
        wanted.fits,
        after,
        command.limit,
    )
    return MetricPage(metrics, None if last is None else encode_cursor(bound, last))


@handles(SumMetrics)
async def sum_metrics(ctx: Context, command: SumMetrics) -> MetricSums:
    scope = await ctx.store.fetch(ctx.scope)
    if scope.is_nowhere:
        return MetricSums([])
    wanted = await ctx.store.fetch(lambda reader: _wanted(reader, scope, command))
    found = await ctx.store.scan(
        lambda reader: sums(reader, wanted, command.by, command.bucket, command.limit + 1), limit_s=_SUM_S
    )
    return MetricSums(found[: command.limit], len(found) > command.limit)
