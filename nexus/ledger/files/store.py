"""The SQL by which the plan of a project is read as a whole, and what is asked before a record is added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from nexus.ledger.agents.store import AGENTS
from nexus.ledger.features.store import FEATURES, SUB_FEATURES
from nexus.ledger.files.records import (
    PLAN_KINDS,
    PlanAgent,
    PlanComment,
    PlanMetric,
    PlanNote,
    PlanTask,
)
from nexus.ledger.metrics.store import Wanted, page
from nexus.ledger.requirements.store import REQUIREMENTS
from nexus.ledger.sessions.store import SESSIONS
from nexus.ledger.tasks.store import TASKS
from nexus.records.table import Table
from nexus.store import Reader

__all__ = [
    "FIGURES",
    "NUMBERED",
    "Position",
    "agent_ids",
    "agent_names",
    "changed_since",
    "feature_of",
    "has_agent",
    "last_change",
    "number_is_taken",
    "numbers_of",
    "page_of",
    "place_of",
    "size_of",
    "subject_row",
]

NUMBERED: dict[str, Table[Any]] = {
    "features": FEATURES,
    "sub_features": SUB_FEATURES,
    "tasks": TASKS,
    "requirements": REQUIREMENTS,
    "sessions": SESSIONS,
}
"""The kinds of records with a number, by the field of a plan."""
FIGURES = ("sessions", "metrics")
"""The kinds that are no part of what is planned."""


class Position(NamedTuple):
    """Where a page begins: after a record of a kind."""

    kind: str
    number: int
    """The number of a numbered record, or the time of a metric."""
    id: str


def last_change(reader: Reader) -> int:
    """The number of the last event."""
    row = reader.one("SELECT max(seq) FROM journal")
    return 0 if row is None or row[0] is None else int(row[0])


def changed_since(reader: Reader, project_id: str, seq: int) -> bool:
    """Whether anything of a project was changed after an event."""
    return reader.one("SELECT 1 FROM journal WHERE seq > ? AND project_id = ? LIMIT 1", (seq, project_id)) is not None


def numbers_of(reader: Reader, project_id: str) -> dict[str, int]:
    """By kind of the plan, the highest number that was given in a project."""
    kinds = {table.kind: kind for kind, table in NUMBERED.items()}
    rows = reader.all("SELECT kind, last FROM record_number WHERE project_id = ? ORDER BY kind", (project_id,))
    return {kinds[kind]: last for kind, last in rows if kind in kinds}


def agent_names(reader: Reader) -> dict[str, str]:
    """The names of all agents by id."""
    return dict(reader.all("SELECT id, name FROM agents"))


def agent_ids(reader: Reader) -> dict[str, str]:
    """The ids of all agents by name."""
    return dict(reader.all("SELECT name, id FROM agents"))


def page_of(reader: Reader, project_id: str, at: Position, count: int, agents: Mapping[str, str]) -> list[Any]:
    """At most ``count`` records of a kind in the form of a plan, each with its position."""
    if at.kind in NUMBERED:
        table = NUMBERED[at.kind]
        rows = reader.all(
            f"{table.select} WHERE {table.name}.project_id = ? AND {table.name}.number > ? "
            f"ORDER BY {table.name}.number LIMIT ?",
            (project_id, at.number, count),
        )
        found = map(table.decode, rows)
        return [(Position(at.kind, one.number, one.id), _as_plan(at.kind, one, agents)) for one in found]
    if at.kind in ("notes", "comments"):
        return _texts(reader, project_id, at, count, agents)
    if at.kind == "metrics":
        after = (at.number, at.id) if at.id else None
        return [
            (
                Position(at.kind, each.timestamp, each.id),
                PlanMetric(
                    id=each.id,
                    agent=_name(agents, each.agent_id),
                    task_id=each.task_id,
                    type=each.type,
                    value=each.value,
                    metadata=each.metadata,
                    source=each.source,
                    timestamp=each.timestamp,
                ),
            )
            for each in page(reader, Wanted(project_id), after, count)
        ]
    return _agents(reader, project_id, at, count)


def _name(agents: Mapping[str, str], agent_id: str | None) -> str | None:
    """The name of an agent; the id of one that is there no more."""
    return None if agent_id is None else agents.get(agent_id, agent_id)


def _as_plan(kind: str, record: Any, agents: Mapping[str, str]) -> Any:
    of = PLAN_KINDS[kind]
    values = {name: getattr(record, name) for name in of.__struct_fields__}
    if of is PlanTask:
        values["assigned_agent"] = _name(agents, record.assigned_agent)
    if kind == "sessions":
        values["data"] = record.data or {}
    return of(**values)


def _texts(reader: Reader, project_id: str, at: Position, count: int, agents: Mapping[str, str]) -> list[Any]:
    table, has_kind = ("task_note", True) if at.kind == "notes" else ("task_comment", False)
    kind = f"{table}.kind" if has_kind else "NULL"
    rows = reader.all(
        f"SELECT {table}.id, {table}.task_id, {kind}, {table}.text, {table}.at, {table}.agent_id, {table}.actor "
        f"FROM {table} JOIN tasks ON tasks.id = {table}.task_id WHERE tasks.project_id = ? AND {table}.id > ? "
        f"ORDER BY {table}.id LIMIT ?",
        (project_id, at.id, count),
    )
    found: list[Any] = []
    for id_, task_id, of_kind, text, when, agent_id, actor in rows:
        values = {"id": id_, "task_id": task_id, "text": text, "at": when, "actor": actor}
        values["agent"] = _name(agents, agent_id)
        record = PlanNote(kind=of_kind, **values) if has_kind else PlanComment(**values)
        found.append((Position(at.kind, 0, id_), record))
    return found


def _agents(reader: Reader, project_id: str, at: Position, count: int) -> list[Any]:
    """The agents that records of a project refer to, by name."""
    rows = reader.all(
        f"{AGENTS.select} WHERE agents.name > ? AND agents.id IN ("
        "SELECT assigned_agent FROM tasks WHERE project_id = ? AND assigned_agent IS NOT NULL "
        "UNION SELECT task_note.agent_id FROM task_note JOIN tasks ON tasks.id = task_note.task_id "
        "WHERE tasks.project_id = ? UNION SELECT task_comment.agent_id FROM task_comment "
        "JOIN tasks ON tasks.id = task_comment.task_id WHERE tasks.project_id = ? "
        "UNION SELECT agent_id FROM metrics WHERE project_id = ? AND agent_id IS NOT NULL) "
        "ORDER BY agents.name LIMIT ?",
        (at.id, *[project_id] * 4, count),
    )
    return [
        (
            Position(at.kind, 0, agent.name),
            PlanAgent(
                name=agent.name,
                type=agent.type,
                model_provider=agent.model_provider,
                model_name=agent.model_name,
            ),
        )
        for agent in map(AGENTS.decode, rows)
    ]


# Before a record is added


def place_of(reader: Reader, kind: str, id_: str) -> str | None:
    """The id of the project that has a record; None where there is none."""
    if kind in ("notes", "comments"):
        table = "task_note" if kind == "notes" else "task_comment"
        sql = f"SELECT tasks.project_id FROM {table} JOIN tasks ON tasks.id = {table}.task_id WHERE {table}.id = ?"
    else:
        sql = f"SELECT project_id FROM {'metrics' if kind == 'metrics' else NUMBERED[kind].name} WHERE id = ?"
    row = reader.one(sql, (id_,))
    return None if row is None else str(row[0])


def number_is_taken(reader: Reader, kind: str, project_id: str, number: int) -> bool:
    """Whether a record of a project has a number."""
    sql = f"SELECT 1 FROM {NUMBERED[kind].name} WHERE project_id = ? AND number = ?"
    return reader.one(sql, (project_id, number)) is not None


def subject_row(reader: Reader, task_id: str) -> Sequence[Any] | None:
    """The project and the number of a task."""
    return reader.one("SELECT project_id, number FROM tasks WHERE id = ?", (task_id,))


def has_agent(reader: Reader, name: str) -> bool:
    """Whether an agent has a name."""
    return reader.one("SELECT 1 FROM agents WHERE name = ?", (name,)) is not None


def feature_of(reader: Reader, sub_feature_id: str) -> str | None:
    """The id of the feature that a sub-feature is a part of."""
    row = reader.one("SELECT feature_id FROM sub_features WHERE id = ?", (sub_feature_id,))
    return None if row is None else str(row[0])


def size_of(record: Any) -> int:
    """How many bytes a record takes in a reply."""
    return len(msgspec.msgpack.encode(record))
