"""Makes checkpoints: the rows of a project are read and compressed beside the writer, and completed in its transaction.

The read is of one moment; what is written between that and the transaction follows in a second, small stream, so that
a checkpoint has what its own transaction sees.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from nexus.checkpoints import store
from nexus.checkpoints.commit import commit_of
from nexus.checkpoints.errors import CheckpointBusy
from nexus.checkpoints.records import Checkpoint
from nexus.checkpoints.state import encode
from nexus.checkpoints.store import CHECKPOINTS
from nexus.journal.operation import Operation
from nexus.records.checkpointed import Rowset, all_parts, all_rules
from nexus.store import Reader, StateStore, Transaction

__all__ = ["ATTEMPTS", "READ_S", "Stale", "Taken", "busy", "insert", "keep", "prune", "take", "written_since"]

T = TypeVar("T")

READ_S = 60.0
"""How long the rows of a project may be read."""
ATTEMPTS = 5
_MOST_CHANGED = 2000
"""Rows that may change between the read and the transaction: so many are read again there in some milliseconds."""
_KEPT_AUTOMATIC = 24
_DAY_MS = 86_400_000


class Stale(Exception):
    """More has changed since the read than a transaction is to read again."""


class Taken(NamedTuple):
    """The rows of a project at one moment."""

    position: int
    """The number of the last event then."""
    rows: dict[str, Rowset]
    data: bytes
    """The same, encoded."""


def take(reader: Reader, project_id: str) -> Taken:
    """Read the rows of a project and encode them. It may take long, and belongs into ``StateStore.scan``."""
    at = store.position(reader)
    rows = {part.kind: store.read_rows(reader, part, project_id) for part in all_parts()}
    data = encode(at, {kind: (every.columns, every.rows.values()) for kind, every in rows.items()}, {})
    return Taken(at, rows, data)


Overlay = dict[str, dict[str, tuple[Any, ...] | None]]
"""By kind and id, rows that were written; None is gone."""


def written_since(tx: Transaction, project_id: str, position: int) -> Overlay:
    """The rows of a project that were written after an event, as they are now.

    Raises:
        Stale: there are too many.
    """
    keys = store.changed_keys(tx, project_id, position, _MOST_CHANGED + 1)
    if len(keys) > _MOST_CHANGED:
        raise Stale
    by_table: dict[str, list[str]] = {}
    for table, key in keys:
        by_table.setdefault(table, []).append(key)
    found: Overlay = {}
    for part in all_parts():
        if part.rows.name not in by_table:
            continue
        wanted = by_table[part.rows.name]
        there = store.read_keys(tx, part, wanted)
        if part.table is not None:
            place = part.columns.index("project_id")
            there = {id_: row for id_, row in there.items() if row[place] == project_id}
        found[part.kind] = {id_: there.get(id_) for id_ in wanted}
    return found


def insert(
    tx: Transaction, operation: Operation, project_id: str, taken: Taken, overlay: Overlay, fields: Mapping[str, Any]
) -> Checkpoint:
    """Insert the checkpoint of what a project has, given what was written since it was read."""
    data = taken.data
    counts = {kind: len(every.rows) for kind, every in taken.rows.items()}
    if overlay:
        present = {
            kind: (taken.rows[kind].columns, [row for row in rows.values() if row is not None])
            for kind, rows in overlay.items()
        }
        gone = {kind: [id_ for id_, row in rows.items() if row is None] for kind, rows in overlay.items()}
        data += encode(taken.position, present, gone)
        for kind, rows in overlay.items():
            there = taken.rows[kind].rows
            counts[kind] += sum((row is not None) - (id_ in there) for id_, row in rows.items())
    values = {"project_id": project_id, "state": data, "size": len(data), **fields}
    values["counts"] = {kind: count for kind, count in counts.items() if count}
    return CHECKPOINTS.insert(tx, operation, values)


async def keep(
    database: StateStore,
    operation: Operation,
    project_id: str,
    *,
    name: str,
    reason: str | None = None,
    automatic: bool = False,
) -> Checkpoint:
    """Make a checkpoint of a project; one that is ``automatic`` takes the place of old ones.

    Raises:
        CheckpointBusy: the project changes too fast.
    """
    root = await database.fetch(lambda reader: store.root_of(reader, project_id))
    fields = {"name": name, "reason": reason, "automatic": automatic, "git_commit": await commit_of(root)}

    def write(tx: Transaction, taken: Taken) -> Checkpoint:
        overlay = written_since(tx, project_id, taken.position)
        made = insert(tx, operation, project_id, taken, overlay, fields)
        if automatic:
            prune(tx, operation, project_id)
        return made

    for attempt in range(ATTEMPTS):
        taken = await database.scan(lambda reader: take(reader, project_id), limit_s=READ_S)
        try:
            return await database.write(lambda tx, taken=taken: write(tx, taken), size_bytes=len(taken.data))  # type: ignore[misc]
        except Stale:
            await asyncio.sleep(0.05 * attempt)
    raise busy("cannot create a checkpoint")


def busy(cannot: str) -> CheckpointBusy:
    """The error for a project that changes too fast; ``cannot`` begins the sentence."""
    return CheckpointBusy(f"{cannot}: more of the project changes at present than can be followed", hint="Try again.")


def prune(tx: Transaction, operation: Operation, project_id: str) -> None:
    """Delete old checkpoints that were made by the clock: of those before the last 24, all but the last of each day."""
    days: set[int] = set()
    gone = []
    for place, (id_, created_at) in enumerate(store.old_automatic(tx, project_id)):
        day = created_at // _DAY_MS
        if place >= _KEPT_AUTOMATIC and day in days:
            gone.append(id_)
        days.add(day)
    for id_ in gone:
        CHECKPOINTS.delete(tx, operation, CHECKPOINTS.get(tx, id_), ("name", "automatic"))
    if gone:
        for rules in all_rules():
            rules.pruned(tx, project_id)
