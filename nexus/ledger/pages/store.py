"""The SQL of the pages."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from nexus.ledger.pages.records import (
    AgentPool,
    Board,
    BoardBy,
    BoardColumn,
    Card,
    DependencyGraph,
    Execution,
    FeatureProgress,
    Overview,
    PoolAgent,
    UsageBucket,
)
from nexus.ledger.states import AgentStatus, AgentType, FeatureStatus, MoscowPriority, TaskStatus, TaskType
from nexus.records.project_settings import project_setting
from nexus.store import Reader

__all__ = ["agent_pool", "board", "execution", "overview", "task_graph"]

_HOUR_MS = 3_600_000
_FEATURES_SHOWN = 50
_FEATURE_COLUMNS = 200
_POOL = 1000
_CARD = (
    "t.id, t.number, t.name, t.status, t.type, t.priority, agents.name, t.open_dependencies, t.qa_iterations, "
    "t.claimed_at, t.estimated_minutes, t.reason, t.depends_on"
)
_FROM = "tasks AS t LEFT JOIN agents ON agents.id = t.assigned_agent"


def _project(reader: Reader, project_id: str) -> tuple[str, str, int]:
    """The name and status of a project, and how long a claim may take, in ms."""
    row = reader.one("SELECT name, status FROM projects WHERE id = ?", (project_id,))
    assert row is not None
    return row[0], row[1], project_setting(reader, project_id, "max_task_minutes") * 60_000


def _cards(rows: Iterable[Any], now: int, longest_ms: int) -> list[Card]:
    return [
        Card(
            id=row[0],
            number=row[1],
            name=row[2],
            status=TaskStatus(row[3]),
            type=TaskType(row[4]),
            priority=row[5],
            agent=row[6],
            open_dependencies=row[7],
            qa_iterations=row[8],
            claimed_at=row[9],
            estimated_minutes=row[10],
            reason=row[11],
            overdue=row[3] == TaskStatus.IN_PROGRESS and row[9] is not None and now - row[9] > longest_ms,
        )
        for row in rows
    ]


def _counts(reader: Reader, project_id: str) -> dict[str, int]:
    return dict(reader.all("SELECT status, count(*) FROM tasks WHERE project_id = ? GROUP BY status", (project_id,)))


def _ready_count(reader: Reader, project_id: str) -> int:
    # In groups, so that the index of what is ready is read and not every task that waits.
    return sum(
        count
        for (count,) in reader.all(
            "SELECT count(*) FROM ready_tasks WHERE project_id = ? GROUP BY priority", (project_id,)
        )
    )


def _percentage(completed: int, of: int) -> int:
    return 0 if of == 0 else min(100, completed * 100 // of)


def _progress(rows: Iterable[Any]) -> list[FeatureProgress]:
    return [
        FeatureProgress(
            id=row[0],
            number=row[1],
            name=row[2],
            status=FeatureStatus(row[3]),
            priority=MoscowPriority(row[4]),
            tasks=row[7],
            completed=row[6],
            percentage=_percentage(row[6], max(row[5], row[7])),
        )
        for row in rows
    ]


_FEATURES = (
    "SELECT features.id, number, name, status, priority, estimated_tasks, completed_tasks, "
    "(SELECT count(*) FROM tasks WHERE tasks.feature_id = features.id) FROM features WHERE project_id = ?"
)


def overview(reader: Reader, project_id: str, now: int) -> Overview:
    """A project at a glance at the time ``now`` (ms since 1970)."""
    name, status, longest_ms = _project(reader, project_id)
    tasks = _counts(reader, project_id)
    features = reader.all(
        f"{_FEATURES} ORDER BY status = 'done', number LIMIT ?",
        (project_id, _FEATURES_SHOWN),
    )
    (feature_count,) = reader.one("SELECT count(*) FROM features WHERE project_id = ?", (project_id,)) or (0,)
    (overdue,) = reader.one(
        "SELECT count(*) FROM tasks WHERE project_id = ? AND status = 'in_progress' AND claimed_at < ?",
        (project_id, now - longest_ms),
    ) or (0,)
    requirements, validated = reader.one(
        "SELECT count(*), coalesce(sum(validated), 0) FROM requirements WHERE project_id = ?", (project_id,)
    ) or (0, 0)
    first = now // _HOUR_MS * _HOUR_MS - 23 * _HOUR_MS
    hours: dict[int, float] = dict(
        reader.all(
            "SELECT (timestamp - ?) / ?, sum(value) FROM metrics "
            "WHERE project_id = ? AND type = 'token_usage' AND timestamp >= ? GROUP BY 1",
            (first, _HOUR_MS, project_id, first),
        )
    )
    (tokens,) = reader.one(
        "SELECT coalesce(sum(value), 0) FROM metrics WHERE project_id = ? AND type = 'token_usage'", (project_id,)
    ) or (0,)
    return Overview(
        project=name,
        status=status,
        tasks=tasks,
        ready=_ready_count(reader, project_id),
        overdue=overdue,
        percentage=_percentage(tasks.get(TaskStatus.COMPLETED, 0), sum(tasks.values())),
        features=_progress(features),
        feature_count=feature_count,
        agents=dict(reader.all("SELECT status, count(*) FROM agents GROUP BY status")),
        sessions=dict(
            reader.all("SELECT status, count(*) FROM sessions WHERE project_id = ? GROUP BY status", (project_id,))
        ),
        requirements=requirements,
        validated=validated,
        tokens=int(tokens),
        usage=[UsageBucket(first + hour * _HOUR_MS, int(hours.get(hour, 0))) for hour in range(24)],
    )


def _of_status(reader: Reader, project_id: str, status: TaskStatus, limit: int) -> list[Any]:
    return reader.all(
        f"SELECT {_CARD} FROM {_FROM} WHERE t.project_id = ? AND t.status = ? ORDER BY t.number LIMIT ?",
        (project_id, status.value, limit),
    )


def board(reader: Reader, project_id: str, by: BoardBy, limit: int, now: int) -> Board:
    """The tasks of a project in columns of at most ``limit`` cards."""
    name, _status, longest_ms = _project(reader, project_id)
    if by is BoardBy.STATUS:
        counts = _counts(reader, project_id)
        columns = [
            BoardColumn(
                name=status.value,
                count=counts.get(status.value, 0),
                cards=_cards(_of_status(reader, project_id, status, limit), now, longest_ms),
            )
            for status in TaskStatus
        ]
        return Board(name, by, columns)
    found = _progress(reader.all(f"{_FEATURES} ORDER BY number LIMIT ?", (project_id, _FEATURE_COLUMNS)))
    of_feature = (
        f"SELECT {_CARD} FROM {_FROM} WHERE t.project_id = ? AND t.feature_id = ? "
        "ORDER BY t.status = 'completed', t.number LIMIT ?"
    )
    columns = [
        BoardColumn(
            name=each.name,
            number=each.number,
            count=each.tasks,
            completed=each.completed,
            cards=_cards(reader.all(of_feature, (project_id, each.id, limit)), now, longest_ms),
        )
        for each in found
    ]
    count, completed = reader.one(
        "SELECT count(*), coalesce(sum(status = 'completed'), 0) FROM tasks "
        "WHERE project_id = ? AND feature_id IS NULL",
        (project_id,),
    ) or (0, 0)
    if count:
        without = reader.all(
            f"SELECT {_CARD} FROM {_FROM} WHERE t.project_id = ? AND t.feature_id IS NULL "
            "ORDER BY t.status = 'completed', t.number LIMIT ?",
            (project_id, limit),
        )
        columns.append(BoardColumn(name="", count=count, completed=completed, cards=_cards(without, now, longest_ms)))
    return Board(name, by, columns)


def execution(reader: Reader, project_id: str, limit: int, now: int) -> Execution:
    """What is worked on, what can be begun, and what is in the way."""
    name, status, longest_ms = _project(reader, project_id)

    def of(wanted: TaskStatus) -> list[Card]:
        return _cards(_of_status(reader, project_id, wanted, limit), now, longest_ms)

    ready = reader.all(
        f"SELECT {_CARD} FROM ready_tasks AS t LEFT JOIN agents ON agents.id = t.assigned_agent "
        "WHERE t.project_id = ? ORDER BY t.priority, t.number LIMIT ?",
        (project_id, limit),
    )
    return Execution(
        project=name,
        status=status,
        working=of(TaskStatus.IN_PROGRESS),
        in_review=of(TaskStatus.IN_REVIEW),
        ready=_cards(ready, now, longest_ms),
        blocked=of(TaskStatus.BLOCKED),
        failed=of(TaskStatus.FAILED),
        counts=_counts(reader, project_id),
        ready_count=_ready_count(reader, project_id),
    )


def task_graph(reader: Reader, project_id: str, limit: int, now: int, *, completed: bool) -> DependencyGraph:
    """Tasks with the numbers of those that they wait for, by number."""
    name, _status, longest_ms = _project(reader, project_id)
    shown = "" if completed else "AND t.status <> 'completed' "
    rows = reader.all(
        f"SELECT {_CARD} FROM {_FROM} WHERE t.project_id = ? {shown}ORDER BY t.number LIMIT ?",
        (project_id, limit + 1),
    )
    wanted = {id_ for row in rows for id_ in json.loads(row[12])}
    numbers = {row[0]: row[1] for row in rows}
    for id_ in wanted - numbers.keys():
        found = reader.one("SELECT number, project_id, status FROM tasks WHERE id = ?", (id_,))
        if found is not None and (completed or found[2] != TaskStatus.COMPLETED):
            numbers[id_] = found[0] if found[1] == project_id else -found[0]
    cards = _cards(rows[:limit], now, longest_ms)
    for card, row in zip(cards, rows, strict=False):
        card.depends_on.extend(sorted(numbers[id_] for id_ in json.loads(row[12]) if id_ in numbers))
    return DependencyGraph(name, cards, len(rows) > limit)


def agent_pool(reader: Reader) -> AgentPool:
    """The agents by name, with their tasks."""
    rows = reader.all(
        "SELECT agents.id, agents.name, agents.type, agents.status, model_provider || '/' || model_name, "
        "projects.name, tasks.number, tasks.name, tasks.claimed_at, tokens_used, tasks_completed, tasks_failed, "
        "last_activity_at, agents.reason FROM agents "
        "LEFT JOIN tasks ON tasks.id = agents.current_task_id LEFT JOIN projects ON projects.id = tasks.project_id "
        "WHERE agents.status <> 'terminated' ORDER BY agents.name LIMIT ?",
        (_POOL,),
    )
    agents = [
        PoolAgent(
            id=row[0],
            name=row[1],
            type=AgentType(row[2]),
            status=AgentStatus(row[3]),
            model=row[4],
            project=row[5],
            task_number=row[6],
            task_name=row[7],
            claimed_at=row[8],
            tokens_used=row[9],
            tasks_completed=row[10],
            tasks_failed=row[11],
            last_activity_at=row[12],
            reason=row[13],
        )
        for row in rows
    ]
    return AgentPool(agents, dict(reader.all("SELECT status, count(*) FROM agents GROUP BY status")))
