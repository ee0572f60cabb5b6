"""The SQL that reads operations, and what each of them changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from nexus.journal.commands import Change, Operation
from nexus.journal.rows import is_part
from nexus.journal.store import about_subject, in_scope
from nexus.records.scope import Scope
from nexus.store import Reader
from nexus.store.dialect import like_pattern, matches_pattern

__all__ = ["WINDOW", "Wanted", "bounds", "caused_by", "changes_of", "find_operation", "list_operations"]

WINDOW = 500
"""The numbers of operations searched in one step, which limits its time whatever the filter."""
_EVENTS = 5000
"""The events searched in one step for those of a subject, where one operation has no more."""
_SUBJECTS = 10
_SUBJECT_EVENTS = 50
"""The events in which the subjects of an operation are looked for: one operation may have thousands."""
_CAUSED = 100

_COLUMNS = "id, at, command, uid, pid, actor, args, why, key, cause, project_id, lease_id, epoch"
_decode_map = msgspec.msgpack.Decoder(dict[str, Any]).decode
_decode_detail = msgspec.json.Decoder(dict[str, Any]).decode


class Wanted(NamedTuple):
    """The filter of a list: an operation must satisfy all conditions."""

    actor: str | None = None
    command: str | None = None
    subject: str | None = None
    since_at: int | None = None
    project_id: str | None = None
    root: str | None = None
    """The folder without a project that the request speaks in."""
    parts: bool = True
    """Whether parts of larger operations satisfy it."""


def find_operation(reader: Reader, id_: int) -> Operation | None:
    """The operation with this number."""
    row = reader.one(f"SELECT {_COLUMNS} FROM operation WHERE id = ?", (id_,))
    return None if row is None else _operation(reader, row)


def bounds(reader: Reader) -> tuple[int, int]:
    """The lowest and the highest number of an operation; (1, 0) without any."""
    row = reader.one("SELECT (SELECT min(id) FROM operation), (SELECT max(id) FROM operation)")
    return (1, 0) if row is None or row[0] is None else (row[0], row[1])


def list_operations(reader: Reader, below: int, wanted: Wanted, limit: int) -> tuple[list[Operation], int]:
    """At most ``limit`` operations of a window of numbers below ``below``, newest first, and where the window begins.

    It ends at the next operation: numbers have gaps, a wide one where a damaged database was replaced.
    """
    row = reader.one("SELECT max(id) FROM operation WHERE id < ?", (below,))
    if row is None or row[0] is None:
        return [], 0
    start = row[0] + 1 - WINDOW
    conditions = ["id < ?", "id >= ?"]
    parameters: list[Any] = [below, start]
    values: list[tuple[str, Any]] = [
        ("actor = ?", wanted.actor),
        ("at >= ?", wanted.since_at),
    ]
    if wanted.command is not None:
        values.append((matches_pattern("command"), like_pattern(wanted.command)))
    for condition, value in values:
        if value is not None:
            conditions.append(condition)
            parameters.append(value)
    if not wanted.parts:
        part, causes = is_part()
        conditions.append(f"NOT ({part})")
        parameters += causes
    scope = Scope(wanted.project_id, wanted.root)
    if wanted.subject is None:
        inside, values_inside = in_scope(scope)
        conditions.append(inside)
        parameters += values_inside
    else:
        about, names = about_subject(wanted.subject, scope)
        conditions.append(f"EXISTS (SELECT 1 FROM journal WHERE operation_id = operation.id AND {about})")
        parameters += names
        # Operations with many events make the window narrower, else one step would read the events of all.
        far = reader.one(
            "SELECT operation_id FROM journal WHERE operation_id < ? ORDER BY operation_id DESC LIMIT 1 "
            f"OFFSET {_EVENTS}",
            (below,),
        )
        if far is not None:
            start = parameters[1] = max(start, far[0])
    rows = reader.all(
        f"SELECT {_COLUMNS} FROM operation WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?",
        (*parameters, limit),
    )
    return [_operation(reader, row) for row in rows], start


def caused_by(reader: Reader, id_: int) -> list[Operation]:
    """The first hundred operations that one led to, oldest first."""
    rows = reader.all(f"SELECT {_COLUMNS} FROM operation WHERE cause = ? ORDER BY id LIMIT {_CAUSED}", (id_,))
    return [_operation(reader, row) for row in rows]


def changes_of(reader: Reader, id_: int, after: int, count: int) -> list[Change]:
    """At most ``count`` events of an operation with numbers above ``after``, oldest first."""
    rows = reader.all(
        "SELECT seq, at, kind, subject_kind, subject_id, subject_name, detail, row_table, row_key, revision, before, "
        "after FROM journal WHERE operation_id = ? AND seq > ? ORDER BY seq LIMIT ?",
        (id_, after, count),
    )
    return [_change(row) for row in rows]


def _operation(reader: Reader, row: Sequence[Any]) -> Operation:
    args = row[6]
    subjects = reader.all(
        f"SELECT subject_name, subject_id FROM journal WHERE operation_id = ? ORDER BY seq LIMIT {_SUBJECT_EVENTS}",
        (row[0],),
    )
    if not subjects:
        subjects = reader.all(
            "SELECT subject_name, subject_id FROM journal WHERE operation_id IN "
            f"(SELECT id FROM operation WHERE cause = ? ORDER BY id LIMIT {_SUBJECTS}) "
            f"ORDER BY seq LIMIT {_SUBJECT_EVENTS}",
            (row[0],),
        )
    names = list(dict.fromkeys(name or id_ for name, id_ in subjects))[:_SUBJECTS]
    project_id = row[10]
    project = None
    if project_id is not None:
        found = reader.one("SELECT name FROM projects WHERE id = ?", (project_id,))
        project = None if found is None else found[0]
    return Operation(
        *(*row[:6], _decode_map(args) if args else {}, *row[7:10], names, project_id, project, *row[11:13])
    )


def _change(row: Sequence[Any]) -> Change:
    before, hidden_before = _shown(row[10])
    after, hidden_after = _shown(row[11])
    hidden = sorted(hidden_before | hidden_after)
    return Change(*(*row[:6], _decode_detail(row[6]), *row[7:10], before, after, hidden))


def _shown(packed: bytes | None) -> tuple[dict[str, Any] | None, set[str]]:
    """An image without its secrets, and the names of these."""
    if packed is None:
        return None, set()
    image = _decode_map(packed)
    hidden = {column for column, value in image.items() if isinstance(value, dict)}
    return {column: value for column, value in image.items() if column not in hidden}, hidden
