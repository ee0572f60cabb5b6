"""All SQL of metrics."""

from __future__ import annotations

import heapq
import itertools
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from nexus.journal.operation import Operation
from nexus.journal.rows import Subject, append_only, record
from nexus.ledger.agents.store import count_tokens
from nexus.ledger.metrics.errors import MetricTaskAmbiguous
from nexus.ledger.metrics.records import Metric, MetricSum
from nexus.ledger.metrics.states import MetricBucket, MetricGroup
from nexus.ledger.states import MetricType
from nexus.records.lookup import find_row
from nexus.records.scope import Scope
from nexus.records.usage import Usage, on_usage
from nexus.store import Reader, Row, Transaction

__all__ = [
    "Wanted",
    "add",
    "by_source",
    "count_of_project",
    "delete_of_project",
    "metric_by_id",
    "page",
    "prune",
    "sums",
    "task_row",
]

append_only("metrics", "itself")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_COLUMNS = (
    "metrics.id, metrics.project_id, (SELECT projects.name FROM projects WHERE projects.id = metrics.project_id), "
    "metrics.agent_id, metrics.task_id, metrics.type, metrics.value, metrics.metadata, metrics.source, "
    "metrics.timestamp"
)
_SELECT = f"SELECT {_COLUMNS} FROM metrics"
_BEGINS = {
    MetricBucket.HOUR: f"timestamp - timestamp % {_HOUR_MS}",
    MetricBucket.DAY: f"timestamp - timestamp % {_DAY_MS}",
    # 1970 began on a Thursday.
    MetricBucket.WEEK: f"timestamp - (timestamp + {3 * _DAY_MS}) % {7 * _DAY_MS}",
}
_GROUPS = {MetricGroup.AGENT: "agent_id", MetricGroup.TASK: "task_id"}


class Wanted(NamedTuple):
    """Which metrics are asked for; None: all."""

    project_id: str | None = None
    type: MetricType | None = None
    agent_id: str | None = None
    task_id: str | None = None
    since_at: int | None = None
    until_at: int | None = None

    def fits(self, metric: Metric) -> bool:
        """Whether a metric is one of these, whatever its time is."""
        return all(
            getattr(self, name) in (None, getattr(metric, name))
            for name in ("project_id", "type", "agent_id", "task_id")
        )


def _metric(row: Row) -> Metric:
    id_, project_id, project, agent_id, task_id, type_, value, metadata, source, timestamp = row
    return Metric(
        id=id_,
        project_id=project_id,
        project=project,
        agent_id=agent_id,
        task_id=task_id,
        type=MetricType(type_),
        value=value,
        metadata=_decode(metadata),
        source=source,
        timestamp=timestamp,
    )


# Writing


def add(
    tx: Transaction,
    operation: Operation,
    *,
    project_id: str,
    type: MetricType,
    value: float,
    agent_id: str | None = None,
    task_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    source: str | None = None,
    timestamp: int | None = None,
    id_: str | None = None,
) -> str | None:
    """Add a metric, whose value is finite and not negative; returns its id. None where its ``source`` has one already.

    Tokens are added to those of the agent. It has no event: what it was made from has one.
    """
    if not 0 <= value < float("inf"):
        raise ValueError(f"a metric cannot be {value}")
    if source is not None and by_source(tx, source) is not None:
        return None
    operation.enter(tx, project_id)
    id_ = id_ or str(uuid.uuid4())
    tx.execute(
        "INSERT INTO metrics (id, project_id, agent_id, task_id, type, value, metadata, source, timestamp) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(id_, project_id, agent_id, task_id, type.value, float(value)),
            _encode(metadata or {}).decode(),
            source,
            tx.now if timestamp is None else timestamp,
        ),
    )
    if agent_id is not None and type is MetricType.TOKEN_USAGE:
        count_tokens(tx, agent_id, int(value))
    return id_


def _count_usage(tx: Transaction, operation: Operation, usage: Usage) -> None:
    """The tokens of what was written under a lease are those of its holder, and of its task."""
    metadata = {"conversation_id": usage.conversation_id}
    agent_id = task_id = None
    if operation.lease is not None and not usage.imported:
        agent_id, task_id = _holder_and_task(tx, operation.lease.id)
    add(
        tx,
        operation,
        project_id=usage.project_id,
        agent_id=agent_id,
        task_id=task_id,
        type=MetricType.TOKEN_USAGE,
        value=usage.tokens,
        metadata=metadata if usage.model is None else metadata | {"model": usage.model},
        source=usage.source,
        timestamp=usage.at,
    )


on_usage(_count_usage)


def _holder_and_task(reader: Reader, lease_id: str) -> tuple[str | None, str | None]:
    """The agent that holds a lease, and the task that it is on, as far as they are there."""
    row = reader.one(
        "SELECT agents.id, tasks.id FROM lease LEFT JOIN agents ON agents.id = lease.holder "
        "LEFT JOIN tasks ON tasks.id = lease.resource_id AND lease.resource_kind = 'task' WHERE lease.id = ?",
        (lease_id,),
    )
    return (None, None) if row is None else (row[0], row[1])


def prune(tx: Transaction, operation: Operation, before_at: int, limit: int) -> int:
    """Delete at most ``limit`` metrics of before a time, the oldest first; returns how many there were."""
    deleted = tx.execute(
        "DELETE FROM metrics WHERE id IN (SELECT id FROM metrics WHERE timestamp < ? ORDER BY timestamp LIMIT ?)",
        (before_at, limit),
    )
    if deleted:
        operation.enter(tx)
    return deleted


def count_of_project(reader: Reader, project_id: str) -> int:
    """How many metrics a project has."""
    row = reader.one("SELECT count(*) FROM metrics WHERE project_id = ?", (project_id,))
    return 0 if row is None else int(row[0])


def delete_of_project(tx: Transaction, operation: Operation, project_id: str) -> None:
    """Delete the metrics of a project, with one event."""
    deleted = tx.execute("DELETE FROM metrics WHERE project_id = ?", (project_id,))
    subject = Subject("metrics", project_id, None, project_id)
    record(tx, operation, "metrics.deleted", subject, {"metrics": deleted})


# Reading


def metric_by_id(reader: Reader, id_: str) -> Metric:
    """The metric with an id, which is there."""
    row = reader.one(f"{_SELECT} WHERE metrics.id = ?", (id_,))
    assert row is not None
    return _metric(row)


def by_source(reader: Reader, source: str) -> Metric | None:
    """The metric that was made from a source."""
    row = reader.one(f"{_SELECT} WHERE metrics.source = ?", (source,))
    return None if row is None else _metric(row)


def task_row(reader: Reader, reference: str, scope: Scope) -> tuple[str, str] | None:
    """The ids of a task and its project, by the id or the number of the task.

    Raises:
        MetricTaskAmbiguous: several tasks are meant.
    """
    row = find_row(
        reader,
        "SELECT tasks.id, tasks.number, tasks.project_id FROM tasks",
        reference,
        scope,
        word="task",
        ambiguous=MetricTaskAmbiguous,
        table="tasks.",
        numbered=True,
    )
    return None if row is None else (row[0], row[2])


def page(reader: Reader, wanted: Wanted, after: tuple[int, str] | None, count: int) -> list[Metric]:
    """At most ``count`` metrics after a position, newest first. Not all filters are applied: see ``Wanted.fits``."""
    name, value = _indexed(wanted)
    conditions, parameters = _times(wanted)
    if after is not None:
        conditions.append("(metrics.timestamp, metrics.id) < (?, ?)")
        parameters += after
    if name is None:
        return [_metric(row) for row in _newest(reader, conditions, parameters, count)]
    # An index has the times of each type in order; together these are in order too.
    conditions = [f"metrics.{name} = ?", "metrics.type = ?", *conditions]
    types = list(MetricType) if wanted.type is None else [wanted.type]
    found = [_newest(reader, conditions, [value, each.value, *parameters], count) for each in types]
    merged = heapq.merge(*found, key=lambda row: (row[-1], row[0]), reverse=True)
    return [_metric(row) for row in itertools.islice(merged, count)]


def _newest(reader: Reader, conditions: Sequence[str], parameters: Sequence[Any], count: int) -> list[Row]:
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    order = "ORDER BY metrics.timestamp DESC, metrics.id DESC LIMIT ?"
    return reader.all(f"{_SELECT}{where} {order}", (*parameters, count))


def _indexed(wanted: Wanted) -> tuple[str | None, str | None]:
    """The filter that finds the fewest, with its value."""
    for name in ("task_id", "agent_id", "project_id"):
        value = getattr(wanted, name)
        if value is not None:
            return name, value
    return None, None


def _times(wanted: Wanted) -> tuple[list[str], list[Any]]:
    conditions: list[str] = []
    parameters: list[Any] = []
    for condition, value in (("metrics.timestamp >= ?", wanted.since_at), ("metrics.timestamp < ?", wanted.until_at)):
        if value is not None:
            conditions.append(condition)
            parameters.append(value)
    return conditions, parameters


def sums(reader: Reader, wanted: Wanted, by: MetricGroup, bucket: MetricBucket | None, limit: int) -> list[MetricSum]:
    """At most ``limit`` sums of metrics, by time, then by type; it may take long."""
    conditions, parameters = _times(wanted)
    for name in ("project_id", "type", "agent_id", "task_id"):
        value = getattr(wanted, name)
        if value is not None:
            conditions.append(f"metrics.{name} = ?")
            parameters.append(value.value if isinstance(value, MetricType) else value)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    keys = {"type": "type"}
    if bucket is not None:
        keys = {"begins_at": _BEGINS[bucket], **keys}
    if by in _GROUPS:
        keys["of"] = _GROUPS[by]
    columns = ", ".join(f"{expression} AS {key}_key" for key, expression in keys.items())
    grouped = ", ".join(f"{key}_key" for key in keys)
    inner = (
        f"SELECT {columns}, count(*) AS metric_count, sum(value) AS metric_sum, min(value) AS lowest, "
        f"max(value) AS highest FROM metrics{where} GROUP BY {grouped} ORDER BY {grouped} LIMIT ?"
    )
    name, join = {
        MetricGroup.AGENT: ("agents.name", " LEFT JOIN agents ON agents.id = found.of_key"),
        MetricGroup.TASK: ("tasks.number", " LEFT JOIN tasks ON tasks.id = found.of_key"),
    }.get(by, ("NULL", ""))
    order = ", ".join(f"found.{key}_key" for key in keys)
    rows = reader.all(f"SELECT found.*, {name} FROM ({inner}) AS found{join} ORDER BY {order}", (*parameters, limit))
    return [_sum(dict(zip(keys, row, strict=False)), row[len(keys) :], by) for row in rows]


def _sum(keys: Mapping[str, Any], values: Sequence[Any], by: MetricGroup) -> MetricSum:
    count, total, lowest, highest, name = values
    of = {f"{by.value}_id": keys["of"], by.value: name} if "of" in keys else {}
    return MetricSum(
        type=MetricType(keys["type"]),
        begins_at=keys.get("begins_at"),
        count=count,
        sum=total,
        lowest=lowest,
        highest=highest,
        **of,
    )
