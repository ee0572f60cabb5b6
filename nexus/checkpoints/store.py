"""All SQL of checkpoints that ``records.Table`` does not have, and that of the rows that they keep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from nexus_protocol.command import Record

from nexus.checkpoints.errors import (
    CheckpointAmbiguous,
    CheckpointChanged,
    CheckpointCursorInvalid,
    CheckpointIdTaken,
    CheckpointNotFound,
)
from nexus.checkpoints.records import Checkpoint
from nexus.records.checkpointed import Part, Rowset, all_parts
from nexus.records.errors import RecordErrors, RecordNameTaken
from nexus.records.table import DOC, Table
from nexus.store import Reader, Transaction

__all__ = [
    "CHECKPOINTS",
    "Due",
    "Kept",
    "changed_keys",
    "changes_since",
    "count_rows",
    "deleted_revisions",
    "docs_of",
    "head_of",
    "live_leases",
    "newest",
    "old_automatic",
    "position",
    "read_keys",
    "read_rows",
    "root_of",
    "state_of",
    "worked_on",
    "write_tags",
]

_AT_ONCE = 500
_decode_image = msgspec.msgpack.Decoder(dict[str, Any]).decode


class Kept(Record):
    """What only the daemon reads of a checkpoint."""

    state: bytes | None = None


CHECKPOINTS = Table(
    Checkpoint,
    "checkpoints",
    kind="checkpoint",
    word="checkpoint",
    look="checkpoint inspect",
    errors=RecordErrors(
        CheckpointNotFound,
        CheckpointAmbiguous,
        RecordNameTaken,
        CheckpointIdTaken,
        CheckpointChanged,
        CheckpointCursorInvalid,
    ),
    volatile=("state",),
    order=("number", "id"),
    indexed=("automatic",),
    told=("name", "automatic", "restored_from"),
    private=Kept,
)


class Due(NamedTuple):
    """A project that is worked on."""

    project_id: str
    since: int
    """When the first of its tasks in progress was claimed."""


def state_of(reader: Reader, checkpoint_id: str) -> bytes:
    """What a checkpoint keeps."""
    row = reader.one("SELECT state FROM checkpoints WHERE id = ?", (checkpoint_id,))
    return b"" if row is None else bytes(row[0])


def head_of(reader: Reader, checkpoint_id: str) -> bytes:
    """The first bytes of what a checkpoint keeps."""
    row = reader.one("SELECT substr(state, 1, 512) FROM checkpoints WHERE id = ?", (checkpoint_id,))
    return b"" if row is None else bytes(row[0])


def newest(reader: Reader, project_id: str) -> Checkpoint | None:
    """The checkpoint of a project that was made last."""
    found = CHECKPOINTS.page(reader, None, 1, project_id=project_id)
    return found[0] if found else None


def old_automatic(reader: Reader, project_id: str) -> list[tuple[str, int]]:
    """The ids and times of a project's checkpoints that were made by the clock, newest first."""
    return reader.all(
        "SELECT id, created_at FROM checkpoints WHERE project_id = ? AND automatic = 1 ORDER BY number DESC",
        (project_id,),
    )


def root_of(reader: Reader, project_id: str) -> str | None:
    """The folder of a project, if it has one."""
    row = reader.one("SELECT root_path FROM projects WHERE id = ?", (project_id,))
    return None if row is None else row[0]


def worked_on(reader: Reader) -> list[Due]:
    """The projects that have tasks in progress."""
    rows = reader.all(
        "SELECT project_id, min(coalesce(claimed_at, created_at)) FROM tasks WHERE status = 'in_progress' "
        "GROUP BY project_id ORDER BY project_id"
    )
    return [Due(*row) for row in rows]


# Rows


def _selecting(part: Part) -> str:
    return f"SELECT {', '.join(part.columns)} FROM {part.rows.name}"


def _of_project(part: Part) -> str:
    if part.parent is None:
        return "project_id = ?"
    column, kind = part.parent
    (parent,) = (each for each in all_parts() if each.kind == kind)
    return f"{column} IN (SELECT id FROM {parent.rows.name} WHERE project_id = ?)"


def read_rows(reader: Reader, part: Part, project_id: str) -> Rowset:
    """The rows of a project."""
    # In the order in which they were made: indexes are written in theirs then.
    order = " ORDER BY number" if "number" in part.columns else ""
    rows = reader.all(f"{_selecting(part)} WHERE {_of_project(part)}{order}", (project_id,))
    place = part.columns.index(part.rows.key)
    return Rowset(part.columns, {row[place]: row for row in rows})


def read_keys(reader: Reader, part: Part, keys: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Those of the rows with these ids that are there, in any project."""
    found: dict[str, tuple[Any, ...]] = {}
    place = part.columns.index(part.rows.key)
    for some in _slices(keys):
        marks = ", ".join("?" * len(some))
        rows = reader.all(f"{_selecting(part)} WHERE {part.rows.key} IN ({marks})", some)
        found.update((row[place], row) for row in rows)
    return found


def docs_of(reader: Reader, part: Part, keys: Sequence[str]) -> list[int]:
    """The numbers by which a search knows rows with these ids."""
    found: list[int] = []
    for some in _slices(keys):
        marks = ", ".join("?" * len(some))
        sql = f"SELECT {DOC} FROM {part.rows.name} WHERE {part.rows.key} IN ({marks})"
        found += (row[0] for row in reader.all(sql, some))
    return found


def count_rows(reader: Reader, part: Part, project_id: str) -> int:
    """How many rows a project has."""
    row = reader.one(f"SELECT count(*) FROM {part.rows.name} WHERE {_of_project(part)}", (project_id,))
    assert row is not None
    return int(row[0])


def _slices(keys: Iterable[str]) -> Iterator[list[str]]:
    every = list(keys)
    for start in range(0, len(every), _AT_ONCE):
        yield every[start : start + _AT_ONCE]


def live_leases(reader: Reader, project_id: str) -> int:
    """How many live leases there are on tasks of a project."""
    row = reader.one(
        "SELECT count(*) FROM lease WHERE project_id = ? AND state = 'live' AND resource_kind = 'task'", (project_id,)
    )
    assert row is not None
    return int(row[0])


# The journal


def position(reader: Reader) -> int:
    """The number of the last event."""
    row = reader.one("SELECT max(seq) FROM journal")
    return 0 if row is None or row[0] is None else int(row[0])


def _tables() -> tuple[str, list[str]]:
    names = [part.rows.name for part in all_parts()]
    return ", ".join("?" * len(names)), names


def changed_keys(tx: Transaction, project_id: str, since: int, limit: int) -> list[tuple[str, str]]:
    """The tables and keys of at most ``limit`` rows that were written after an event."""
    marks, names = _tables()
    return tx.all(
        f"SELECT row_table, row_key FROM journal WHERE seq > ? AND project_id = ? AND row_table IN ({marks}) "
        "GROUP BY row_table, row_key LIMIT ?",
        (since, project_id, *names, limit),
    )


def changes_since(reader: Reader, project_id: str, since: int) -> bool:
    """Whether rows of a project were written after an event."""
    marks, names = _tables()
    sql = f"SELECT 1 FROM journal WHERE seq > ? AND project_id = ? AND row_table IN ({marks}) LIMIT 1"
    return reader.one(sql, (since, project_id, *names)) is not None


def deleted_revisions(reader: Reader, project_id: str, since: int) -> dict[str, tuple[int, int]]:
    """By id, the highest revisions of the records that were deleted after an event."""
    marks, names = _tables()
    rows = reader.all(
        f"SELECT row_key, before FROM journal WHERE seq > ? AND project_id = ? AND row_table IN ({marks}) "
        "AND after IS NULL AND before IS NOT NULL ORDER BY seq",
        (since, project_id, *names),
    )
    found = {}
    for key, packed in rows:
        image = _decode_image(packed)
        if "revision" in image:
            found[key] = (image["revision"], image.get("state_revision", 0))
    return found


# Tags


def write_tags(tx: Transaction, kind: str, forgotten: Iterable[str], tags: Iterable[tuple[str, str]]) -> None:
    """Delete the rows by which some records are found by their tags, and write others: ids with a tag each."""
    tx.execute_many("DELETE FROM tag WHERE kind = ? AND record_id = ?", [(kind, id_) for id_ in forgotten])
    rows = [(kind, id_, tag) for id_, tag in tags]
    tx.execute_many("INSERT INTO tag (kind, record_id, tag) VALUES (?, ?, ?)", rows)
