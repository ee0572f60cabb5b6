"""Replays the images of a journal against the rows, from a new database and back, and checks what belongs to them.

It reads the database with statements of its own; from the daemon it takes only the declarations of the journaled tables
and of the kinds of events. Every function returns sentences, one for each disagreement.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from nexus_protocol.command import Effect
from nexus_protocol.events import declared_causes, declared_events, event_kind

from nexus.checkpoints.store import CHECKPOINTS
from nexus.conversations.import_store import SOURCES
from nexus.conversations.store import CONVERSATIONS
from nexus.daemon.dispatch import load_capabilities
from nexus.jobs.schedules.store import SCHEDULES
from nexus.jobs.store import GROUPS, JOBS
from nexus.journal.rows import Rows, derived_tables, journaled_tables
from nexus.ledger.agents.store import AGENTS
from nexus.ledger.features.store import FEATURES, SUB_FEATURES
from nexus.ledger.leases.store import LEASES
from nexus.ledger.requirements.store import REQUIREMENTS
from nexus.ledger.sessions.store import SESSIONS
from nexus.ledger.tasks.store import TASKS
from nexus.memory.continue_points.store import CONTINUE_POINTS
from nexus.memory.episodes.store import EPISODES
from nexus.nodes.store import NODES
from nexus.projects.store import PROJECTS
from nexus.services.store import DECLARED, SERVICES
from nexus.vms.store import VMS

__all__ = ["BARRIER", "MADE", "Change", "Secret", "State", "changes", "check", "present", "restored_row"]

BARRIER = "schema.migrated"
"""The kind of the row at which a replay ends: a program changed rows without images there."""
_WITHOUT_OPERATION = (BARRIER, "database.restored")
"""Kinds that a program writes while no daemon runs."""
_EMPTY = (None, "", "{}", "[]")

Row = dict[str, Any]
State = dict[tuple[str, str], Row]
"""By table and key: the columns of each row that are not NULL, without the volatile ones."""


MADE: State = {
    ("projects", "00000000-0000-4000-8000-000000000000"): {
        "id": "00000000-0000-4000-8000-000000000000",
        "name": "default",
        "mode": "genesis",
        "status": "created",
        "settings": "{}",
        "created_at": 0,
        "updated_at": 0,
        "revision": 1,
        "state_revision": 0,
    },
    ("job_group", "00000000-0000-4000-8000-000000000300"): {
        "id": "00000000-0000-4000-8000-000000000300",
        "name": "default",
        "paused": 0,
        "created_at": 0,
        "updated_at": 0,
        "revision": 1,
        "state_revision": 0,
    },
    ("nodes", "local"): {
        "id": "local",
        "name": "local",
        "hostname": "localhost",
        "status": "online",
        "drained": 0,
        "capabilities": "{}",
        "created_at": 0,
        "updated_at": 0,
        "revision": 1,
        "state_revision": 0,
    },
}
"""The rows of a new database, which no journal tells."""


class Secret(NamedTuple):
    """The value of a secret column, so that it equals no plain one."""

    value: Any


class Change(NamedTuple):
    """A row of the journal."""

    seq: int
    kind: str
    operation: int | None
    table: str | None
    key: str | None
    revision: int | None
    before: Row | None
    after: Row | None
    detail: Row


load_capabilities()  # imports every module that declares a table


def present(database: sqlite3.Connection) -> State:
    """The rows of every journaled table."""
    found: State = {}
    for name, table in journaled_tables().items():
        columns = [column for column in table.columns if column not in table.volatile]
        source = name
        if table.joined is not None:
            other, column = table.joined
            source += f" JOIN {other} ON {other}.id = {name}.{column}"
        names = ", ".join(column if "." in column else f"{name}.{column}" for column in columns)
        for values in database.execute(f"SELECT {names} FROM {source}"):
            row = {
                column: Secret(value) if column in table.secret and value not in _EMPTY else value
                for column, value in zip(columns, values, strict=True)
                if value is not None
            }
            found[name, str(row[table.key])] = row
    return found


def changes(database: sqlite3.Connection) -> list[Change]:
    """Every row of the journal, oldest first, with the secrets of its images."""
    secrets = dict(database.execute("SELECT digest, value FROM secret_value"))
    rows = database.execute(
        "SELECT seq, kind, operation_id, row_table, row_key, revision, before, after, detail FROM journal ORDER BY seq"
    )
    return [Change(*row[:6], _image(row[6], secrets), _image(row[7], secrets), json.loads(row[8])) for row in rows]


def _image(packed: bytes | None, secrets: Mapping[bytes, Any]) -> Row | None:
    if packed is None:
        return None
    image = msgspec.msgpack.decode(packed, type=dict[str, Any])
    for column, value in image.items():
        if isinstance(value, dict):
            assert value.keys() == {"secret"}, f"{column} has {value}"
            digest = value["secret"]
            image[column] = Secret(secrets[digest]) if digest in secrets else Secret(_Missing())
    return image


class _Missing:
    """The value of a secret that is not in ``secret_value``."""


def restored_row(change: Change) -> Row:
    """The row that a deletion removed, as it can be inserted again: without references to secrets."""
    assert change.before is not None
    return {column: value.value if isinstance(value, Secret) else value for column, value in change.before.items()}


# The replay


def check(database: sqlite3.Connection, *, complete: bool = True) -> list[str]:
    """Replay both ways, and check operations, causes, keys, secrets, derived tables and details.

    ``complete`` says that the journal holds every event since the database was made, by this version.
    """
    journal, rows = changes(database), present(database)
    problems = [f"integrity: {row[0]}" for row in database.execute("PRAGMA integrity_check") if row[0] != "ok"]
    problems += [f"foreign key: {row}" for row in database.execute("PRAGMA foreign_key_check")]
    problems += _of_joined(database)
    problems += _of_images(journal)
    if complete:
        state = _made()
        problems += _forward(journal, state)
        problems += [f"forward: {text}" for text in _difference(state, rows)]
    state = {key: dict(row) for key, row in rows.items()}
    stopped, found = _backward(journal, state)
    problems += found
    if complete:
        if stopped is not None:
            problems.append(f"a journal of this version alone has a barrier: event {stopped}")
        problems += [f"backward: {text}" for text in _difference(state, _made())]
    problems += _of_operations(database, journal)
    problems += _of_derived(database)
    problems += _of_details(journal)
    problems += _of_projects(database, journal, complete=complete)
    return problems


def _made() -> State:
    return {key: dict(row) for key, row in MADE.items()}


def _forward(journal: list[Change], state: State) -> Iterator[str]:
    for change in journal:
        if change.table is not None:
            yield from _apply(change, state, change.before, change.after, "forward")


def _backward(journal: list[Change], state: State) -> tuple[int | None, list[str]]:
    """Undo every change up to a barrier; returns its number, and what disagreed."""
    problems: list[str] = []
    for change in reversed(journal):
        if change.kind == BARRIER:
            return change.seq, problems
        if change.table is not None:
            problems += _apply(change, state, change.after, change.before, "backward")
    return None, problems


def _apply(change: Change, state: State, old: Row | None, new: Row | None, way: str) -> Iterator[str]:
    """Take a row from ``old`` to ``new``: strictly, so that it has to be ``old`` exactly."""
    key = (str(change.table), str(change.key))
    where = f"{way}: event {change.seq} ({change.kind}) of {change.table} {change.key}"
    row = state.get(key)
    if old is None:
        if row is not None:
            yield f"{where}: there is such a row already"
        state[key] = dict(new or {})
        return
    if row is None:
        yield f"{where}: there is no such row"
        row = {}
    whole = new is None
    columns = row.keys() | old.keys() if whole else old.keys()
    for column in sorted(columns):
        if row.get(column) != old.get(column):
            yield f"{where}: {column} is {row.get(column)!r}, the image has {old.get(column)!r}"
    if new is None:
        state.pop(key, None)
        return
    state[key] = {column: value for column, value in {**row, **new}.items() if value is not None}


def _difference(found: State, expected: State) -> Iterator[str]:
    for key in sorted(found.keys() | expected.keys()):
        one, other = found.get(key), expected.get(key)
        if one is None or other is None:
            yield f"the row {key} is {'missing' if one is None else 'too many'}"
            continue
        for column in sorted(one.keys() | other.keys()):
            if one.get(column) != other.get(column):
                yield f"{column} of {key} is {one.get(column)!r} and should be {other.get(column)!r}"


# What belongs to it


def _of_joined(database: sqlite3.Connection) -> Iterator[str]:
    """Each row of a joined table belongs to one row of the table that it is joined to."""
    for name, table in journaled_tables().items():
        if table.joined is not None:
            other, column = table.joined
            (alone,) = database.execute(
                f"SELECT count(*) FROM {other} WHERE id NOT IN (SELECT {column} FROM {name})"
            ).fetchone()
            if alone:
                yield f"{alone} rows of {other} belong to no row of {name}"


def _of_images(journal: list[Change]) -> Iterator[str]:
    tables = journaled_tables()
    for change in journal:
        where = f"event {change.seq} ({change.kind})"
        images = [image for image in (change.before, change.after) if image is not None]
        if (change.table is None) != (not images) or (change.table is None) != (change.key is None):
            yield f"{where} has images without a row, or a row without images"
        if change.table is None:
            continue
        table = tables.get(change.table)
        if table is None:
            yield f"{where} is of {change.table}, which is no journaled table"
            continue
        if len(images) == 2 and images[0].keys() != images[1].keys():
            yield f"{where} has images of different columns"
        if len(images) == 2 and any(images[0][column] == images[1].get(column, images) for column in images[0]):
            yield f"{where} has a column that did not change"
        for image in images:
            yield from (f"{where}: {text}" for text in _of_image(table, image, whole=len(images) == 1))


def _of_image(table: Rows, image: Row, *, whole: bool) -> Iterator[str]:
    if not image:
        yield "it is empty"
    for column, value in image.items():
        if column not in table.columns:
            yield f"{column} is no column"
        if column in table.volatile:
            yield f"{column} is volatile"
        if whole and value is None:
            yield f"{column} of a whole row is NULL"
        if isinstance(value, Secret):
            if column not in table.secret:
                yield f"{column} is a reference, and not secret"
            if isinstance(value.value, _Missing):
                yield f"the value of {column} is not in secret_value"
        elif column in table.secret and value not in _EMPTY:
            yield f"{column} is secret, and shown"


def _of_operations(database: sqlite3.Connection, journal: list[Change]) -> Iterator[str]:
    operations = {
        id_: (command, cause)
        for id_, command, cause in database.execute("SELECT id, command, cause FROM operation ORDER BY id")
    }
    (pruned,) = database.execute(
        "SELECT coalesce((SELECT CAST(value AS INTEGER) FROM schema_meta WHERE key = 'operation_pruned_id'), 0)"
    ).fetchone()
    barrier = max((change.seq for change in journal if change.kind == BARRIER), default=0)
    for change in journal:
        if change.operation is None:
            if change.seq > barrier and change.kind not in _WITHOUT_OPERATION:
                yield f"event {change.seq} ({change.kind}) has no operation"
        elif change.operation not in operations:
            yield f"event {change.seq} ({change.kind}) is of operation {change.operation}, which does not exist"
    known = {info.name for info in load_capabilities().commands()} | {cause.name for cause in declared_causes()}
    for id_, (command, cause) in operations.items():
        if command not in known and any(change.operation == id_ for change in journal):
            # Only one that BeginOperation began has another name, and it changes nothing itself.
            yield f"operation {id_} is a {command}, which is neither a command nor a cause, and has events"
        if cause is not None and (cause >= id_ or not (cause in operations or cause <= pruned)):
            yield f"operation {id_} was caused by {cause}, which does not exist"
    for key, id_ in database.execute("SELECT key, operation_id FROM request_key"):
        if id_ not in operations:
            yield f"the key {key} is of operation {id_}, which does not exist"
    effects = {info.name: info.effect for info in load_capabilities().commands()}
    for key, command, count in database.execute(
        "SELECT key, command, count(*) FROM operation WHERE key IS NOT NULL GROUP BY key, command"
    ):
        if count > 1 and effects.get(command) == Effect.CHANGE:
            yield f"the key {key} has {count} operations: {command} was carried out more than once"
    for name, id_ in database.execute("SELECT name, operation_id FROM service WHERE operation_id IS NOT NULL"):
        if id_ not in operations:
            yield f"the state of {name} is of operation {id_}, which does not exist"
    for number, id_ in database.execute("SELECT number, operation_id FROM jobs WHERE operation_id IS NOT NULL"):
        if id_ not in operations:
            yield f"the state of job {number} is of operation {id_}, which does not exist"


def _of_derived(database: sqlite3.Connection) -> Iterator[str]:
    known = {
        *("tag", "port_lease", "record_number", "job_after", "conversation_origins"),
        *("requirement_feature", "task_dependency", "fence"),
        *("kept_embedding", "vector_change", "vector_collection"),
        *("code_chunks", "chunk_symbol"),
    }
    assert set(derived_tables()) == known, "a derived table that is not checked"
    for (id_,) in database.execute(
        "SELECT id FROM lease WHERE epoch > coalesce((SELECT epoch FROM fence WHERE fence.resource_kind = "
        "lease.resource_kind AND fence.resource_id = lease.resource_id), 0)"
    ):
        yield f"the epoch of lease {id_} is above the fence of what it is on"
    for collection, table in (("episodes", "episodes"), ("chunks", "code_chunks")):
        for id_, size, dimension in database.execute(
            f"SELECT id, length(embedding), dimension FROM {table} LEFT JOIN vector_collection ON "
            f"vector_collection.project_id = {table}.project_id AND collection = ? "
            "WHERE embedding IS NOT NULL AND length(embedding) IS NOT 4 * dimension",
            (collection,),
        ):
            yield f"the embedding of {table} {id_} has {size} bytes, and its collection the dimension {dimension}"
    for row in database.execute(
        "SELECT * FROM vector_change WHERE generation > coalesce((SELECT generation FROM vector_collection WHERE "
        "vector_collection.project_id = vector_change.project_id AND "
        "vector_collection.collection = vector_change.collection), 0)"
    ):
        yield f"the change of a vector is above the generation of its collection: {row}"
    tags = {
        (table.kind, row[0], tag)
        for name, table in journaled_tables().items()
        if "tags" in table.columns
        for row in database.execute(f"SELECT {table.key}, tags FROM {name}")
        for tag in json.loads(row[1])
    }
    for number, deleted in database.execute(
        "SELECT number, deleted FROM conversation_sources WHERE deleted <> (SELECT count(*) FROM conversation_origins "
        "WHERE file_id = conversation_sources.id AND conversation_origins.deleted = 1)"
    ):
        yield f"conversation source {number} has not {deleted} conversations that were deleted"
    yield from _sets("tag", set(database.execute("SELECT kind, record_id, tag FROM tag")), tags)
    ports = set(database.execute("SELECT active_port, 'service', id, 'run' FROM service WHERE active_port > 0"))
    ports |= set(
        database.execute(
            "SELECT tunnel_port, 'dependency', CAST(id AS TEXT), 'tunnel' FROM service_dependency "
            "WHERE tunnel_port IS NOT NULL"
        )
    )
    leases = set(database.execute("SELECT port, owner_kind, owner, purpose FROM port_lease"))
    yield from _sets("port_lease", leases, ports)
    linked = {
        (requirement, feature)
        for requirement, features in database.execute("SELECT id, linked_features FROM requirements")
        for feature in json.loads(features)
    }
    yield from _sets(
        "requirement_feature",
        set(database.execute("SELECT requirement_id, feature_id FROM requirement_feature")),
        linked,
    )
    embedded = set(
        database.execute("SELECT project_id, length(embedding) / 4 FROM episodes WHERE embedding IS NOT NULL")
    )
    collections = database.execute("SELECT project_id, dimension FROM vector_collection WHERE collection = 'episodes'")
    yield from (f"vector_collection lacks {row}, which an episode has" for row in sorted(embedded - set(collections)))
    symbols = {
        (id_, symbol, project, symbol.replace("::", ".").rpartition(".")[2].casefold())
        for id_, project, text in database.execute("SELECT id, project_id, symbols FROM code_chunks")
        for symbol in json.loads(text)
    }
    found = set(database.execute("SELECT chunk_id, symbol, project_id, folded FROM chunk_symbol"))
    yield from _sets("chunk_symbol", found, symbols)
    yield from _of_tasks(database)
    yield from _of_numbers(database)
    yield from _of_waiting_jobs(database)
    yield from _of_messages(database)


def _of_tasks(database: sqlite3.Connection) -> Iterator[str]:
    """What is counted and derived of tasks is what their rows say, and a claim has a lease."""
    tasks = database.execute(
        "SELECT id, number, status, depends_on, open_dependencies, feature_id FROM tasks"
    ).fetchall()
    completed = {task for task, _number, status, *_others in tasks if status == "completed"}
    waits = {(task, on) for task, _number, _status, text, *_others in tasks for on in json.loads(text)}
    rows = set(database.execute("SELECT task_id, depends_on_id FROM task_dependency"))
    yield from _sets("task_dependency", rows, waits)
    for task, number, _status, text, count, _feature in tasks:
        still_open = sum(on not in completed for on in json.loads(text))
        if count != still_open:
            yield f"task {number} ({task}) waits for {still_open} tasks and not for {count}"
    for feature, number, count in database.execute("SELECT id, number, completed_tasks FROM features"):
        there = sum(status == "completed" and of == feature for _task, _number, status, _text, _open, of in tasks)
        if count != there:
            yield f"feature {number} has {there} completed tasks and not {count}"
    held = {id_ for (id_,) in database.execute("SELECT resource_id FROM lease WHERE state = 'live'")}
    for task, number, status, *_others in tasks:
        if status == "in_progress" and task not in held:
            yield f"task {number} ({task}) is in progress without a live lease"
        if status in ("pending", "queued", "completed", "failed") and task in held:
            yield f"task {number} ({task}) is {status} and has a live lease"


def _of_numbers(database: sqlite3.Connection) -> Iterator[str]:
    """No number is given twice: the counter is never below a number that a record has."""
    counters = {(project, kind): last for project, kind, last in database.execute("SELECT * FROM record_number")}
    for project, highest in database.execute("SELECT project_id, max(number) FROM jobs GROUP BY project_id"):
        if counters.get((project, "job"), 0) < highest:
            yield f"record_number has another number than the job {highest} of {project}"
    for kind, table in (
        ("feature", "features"),
        ("sub_feature", "sub_features"),
        ("task", "tasks"),
        ("requirement", "requirements"),
        ("session", "sessions"),
        ("checkpoint", "checkpoints"),
        ("continue_point", "continue_points"),
        ("episode", "episodes"),
    ):
        for project, highest in database.execute(f"SELECT project_id, max(number) FROM {table} GROUP BY project_id"):
            if counters.get((project, kind), 0) < highest:
                yield f"record_number has another number than the {kind} {highest} of {project}"
    for project, highest in database.execute(
        "SELECT project_id, max(number) FROM conversations WHERE project_id IS NOT NULL GROUP BY project_id"
    ):
        if counters.get((project, "conversation"), 0) < highest:
            yield f"record_number has another number than the conversation {highest} of {project}"
    for table, kind in (
        ("features", "feature"),
        ("sub_features", "sub_feature"),
        ("requirements", "requirement"),
        ("sessions", "session"),
    ):
        for project, highest in database.execute(f"SELECT project_id, max(number) FROM {table} GROUP BY project_id"):
            if counters.get((project, kind), 0) < highest:
                yield f"record_number has another number than the {kind} {highest} of {project}"
    docs = [
        (doc, table)
        for table in (
            *("conversations", "messages", "jobs", "service", "vms", "features", "tasks", "requirements"),
            "episodes",
            "code_chunks",
        )
        for (doc,) in database.execute(f"SELECT doc FROM {table}")
    ]
    yield from (f"{table} has a row without a doc" for doc, table in docs if doc is None)
    numbers = [doc for doc, _table in docs if doc is not None]
    if len(numbers) != len(set(numbers)) or max(numbers, default=0) > counters.get(("", "doc"), 0):
        yield "a doc was given twice, or not by its counter"


def _of_messages(database: sqlite3.Connection) -> Iterator[str]:
    """Conversations count their messages, and no number of a message is above the last one that was given."""
    for id_, messages, last, tokens, count, highest, sum_ in database.execute(
        "SELECT c.id, c.messages, c.last_number, c.tokens, count(m.id), coalesce(max(m.number), 0), "
        "coalesce(sum(m.tokens), 0) FROM conversations AS c LEFT JOIN messages AS m ON m.conversation_id = c.id "
        "WHERE c.hidden IS NULL GROUP BY c.id"
    ):
        if (messages, tokens) != (count, sum_) or highest > last:
            yield f"the conversation {id_} counts {messages} messages with {tokens} tokens and has {count} with {sum_}"


def _of_waiting_jobs(database: sqlite3.Connection) -> Iterator[str]:
    """What a job waits for is what its column names, and is counted."""
    waiting: dict[str, set[str]] = {}
    for job, after in database.execute("SELECT job_id, after_id FROM job_after"):
        waiting.setdefault(job, set()).add(after)
    for job, after, count, status in database.execute("SELECT id, after, waits_for, status FROM jobs"):
        named = {each["job_id"] for each in json.loads(after)}
        found = waiting.pop(job, set())
        if not found <= named:
            yield f"job_after has what job {job} does not name: {sorted(found - named)}"
        if status in ("queued", "stashed") and len(found) != count:
            yield f"job {job} waits for {count} jobs, and job_after has {len(found)}"
    yield from (f"job_after has the job {job}, which does not exist" for job in waiting)


def _sets(table: str, found: set[Any], expected: set[Any]) -> Iterator[str]:
    yield from (f"{table} has {row}, which no row says" for row in sorted(found - expected))
    yield from (f"{table} lacks {row}" for row in sorted(expected - found))


def _places(database: sqlite3.Connection, journal: list[Change]) -> dict[int, str | None]:
    """By the number of each event, the project of its row. Ids may be used again; a hidden row is of no project."""
    rows = {(name, key): row["project_id"] for (name, key), row in present(database).items() if "project_id" in row}
    found: dict[int, str | None] = {}
    for change in reversed(journal):
        row = (str(change.table), str(change.key))
        after = rows.get(row)
        if change.before is None and change.after is not None:
            rows.pop(row, None)
        elif change.before is not None and (change.after is None or "project_id" in change.before):
            rows[row] = change.before.get("project_id")
        found[change.seq] = after or rows.get(row)
    return found


def _of_projects(database: sqlite3.Connection, journal: list[Change], *, complete: bool) -> Iterator[str]:
    """Each event is of the project of its row, which existed then, and both ends of a dependency are in one."""
    barrier = max((change.seq for change in journal if change.kind == BARRIER), default=0)
    journal = [change for change in journal if change.seq > barrier]
    projects = dict(database.execute("SELECT seq, project_id FROM journal"))
    places = _places(database, journal)
    exists = {key for _, key in _made()}
    for change in journal:
        project, where = projects[change.seq], f"event {change.seq} ({change.kind})"
        if change.table == "projects":
            exists.add(str(change.key))
            if project != change.key:
                yield f"{where} is of the project {project}, and about {change.key}"
        moved = ((change.before or {}).get("project_id"), (change.after or {}).get("project_id"))
        if None not in moved:  # what is hidden is of no project
            yield f"{where} moves a record from one project to another"
        of_row = places.get(change.seq)
        if of_row is not None and of_row != project:
            yield f"{where} is of the project {project}, and its row of {of_row}"
        if complete and project is not None and project not in exists:
            yield f"{where} is of the project {project}, which did not exist"
        if change.table == "projects" and change.after is None:
            exists.discard(str(change.key))
    yield from (
        f"the dependency {id_} is from one project to another"
        for (id_,) in database.execute(
            "SELECT d.id FROM service_dependency AS d JOIN service AS a ON a.id = d.service_id "
            "JOIN service AS b ON b.id = d.dependent_service_id WHERE a.project_id != b.project_id"
        )
    )


def _of_details(journal: list[Change]) -> Iterator[str]:
    """Each event's detail has declared fields alone; ``fields`` stands for the names of the record's fields."""
    declared = {kind.kind for kind in declared_events()}
    fields = _fields_of_records()
    for change in journal:
        if change.kind not in declared:
            yield f"event {change.seq} is of the kind {change.kind}, which is not declared"
            continue
        allowed = event_kind(change.kind).detail.keys() - {"fields"}
        if "fields" in event_kind(change.kind).detail:
            allowed |= fields[change.kind.partition(".")[0]]
        if change.detail.keys() - allowed:
            yield f"event {change.seq} ({change.kind}) has undeclared fields: {sorted(change.detail.keys() - allowed)}"


def _fields_of_records() -> dict[str, set[str]]:
    return {
        "service": {*SERVICES.columns, *DECLARED},
        "vm": set(VMS.columns),
        "conversation_source": set(SOURCES.columns),
        "project": set(PROJECTS.columns),
        "job": set(JOBS.columns),
        "job_group": set(GROUPS.columns),
        "schedule": {*SCHEDULES.columns, *SCHEDULES.private},
        "conversation": set(CONVERSATIONS.columns),
        "node": set(NODES.columns),
        "agent": set(AGENTS.columns),
        "feature": set(FEATURES.columns),
        "sub_feature": set(SUB_FEATURES.columns),
        "requirement": set(REQUIREMENTS.columns),
        "session": set(SESSIONS.columns),
        "task": set(TASKS.columns),
        "checkpoint": set(CHECKPOINTS.columns),
        "lease": set(LEASES.columns),
        "continue_point": set(CONTINUE_POINTS.columns),
        "episode": {*EPISODES.columns, "embedding"},
    }
