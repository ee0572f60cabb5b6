"""Compares the rows of a checkpoint with others, and plans a restore beside the writer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from nexus.checkpoints import store
from nexus.checkpoints.errors import CheckpointDamaged
from nexus.checkpoints.making import Overlay, Taken, take
from nexus.checkpoints.records import Checkpoint, FieldChange, RowChange
from nexus.checkpoints.state import State, StateDamaged, decode
from nexus.checkpoints.states import Difference
from nexus.hints import command_line
from nexus.records.checkpointed import ABSENT, COUNTERS, Changes, Part, Rowset, all_parts, all_rules
from nexus.store import Reader

__all__ = ["Plan", "amended", "count", "described", "difference", "differences", "make_plan", "overlaid", "read_state"]

_CUT = 200
_NAMES = ("name", "title", "summary", "description", "text", "content", "last_action")
_to_json = msgspec.json.Encoder().encode
_from_json = msgspec.json.Decoder().decode


def read_state(reader: Reader, checkpoint: Checkpoint, cannot: str) -> State:
    """What a checkpoint keeps; ``cannot`` begins the sentence of the error.

    Raises:
        CheckpointDamaged: it cannot be read.
    """
    try:
        return decode(store.state_of(reader, checkpoint.id), all_parts())
    except StateDamaged as error:
        raise CheckpointDamaged(
            f"{cannot}: what it keeps is damaged: {error}",
            hint=f"Look for another one: {command_line('nexusctl', 'checkpoint', 'list')}",
            details={"id": checkpoint.id, "number": checkpoint.number},
        ) from None


# Differences


def _columns(part: Part, now: tuple[Any, ...], wanted: tuple[Any, ...], places: Mapping[str, int]) -> frozenset[str]:
    return frozenset(
        column
        for column, place in places.items()
        if now[place] != wanted[place] and column not in COUNTERS and ABSENT not in (now[place], wanted[place])
    )


def difference(part: Part, now: Rowset, wanted: Rowset, only: Iterable[str] | None = None) -> Changes:
    """What makes rows of a part the wanted ones; with ``only`` of these ids alone."""
    changes = Changes([], {}, [])
    for id_ in wanted.rows if only is None else only:
        row, present = wanted.rows.get(id_), now.rows.get(id_)
        if row is None:
            continue
        if present is None:
            changes.added.append(id_)
        elif present != row and (columns := _columns(part, present, row, now.places)):
            changes.changed[id_] = columns
    changes.removed.extend(
        id_ for id_ in (now.rows if only is None else only) if id_ in now.rows and id_ not in wanted.rows
    )
    return changes


def differences(now: Mapping[str, Rowset], wanted: Mapping[str, Rowset]) -> dict[str, Changes]:
    """What makes rows the wanted ones, by kind."""
    return {part.kind: difference(part, now[part.kind], wanted[part.kind]) for part in all_parts()}


def count(changes: Mapping[str, Changes]) -> dict[str, dict[str, int]]:
    """How many rows of each kind differ, and how; kinds and ways without any are left out."""
    found = {}
    for kind, each in changes.items():
        counts = zip(Difference, (len(each.added), len(each.changed), len(each.removed)), strict=True)
        if some := {way.value: count for way, count in counts if count}:
            found[kind] = some
    return found


def described(
    now: Mapping[str, Rowset], wanted: Mapping[str, Rowset], changes: Mapping[str, Changes], limit: int
) -> tuple[list[RowChange], int]:
    """The first differences, column by column, and how many more there are."""
    found: list[RowChange] = []
    total = 0
    for part in all_parts():
        of, before, after = changes[part.kind], now[part.kind], wanted[part.kind]
        total += len(of.added) + len(of.changed) + len(of.removed)
        for way, ids, rows in (
            (Difference.ADDED, of.added, wanted),
            (Difference.CHANGED, of.changed, wanted),
            (Difference.REMOVED, of.removed, now),
        ):
            for id_ in list(ids)[: limit - len(found)]:
                columns = of.changed.get(id_, ()) if way is Difference.CHANGED else ()
                fields = [
                    FieldChange(
                        field=column,
                        before=_shown(part, column, before.value(id_, column)),
                        after=_shown(part, column, after.value(id_, column)),
                    )
                    for column in part.columns
                    if column in columns
                ]
                found.append(_row_change(part, way, id_, rows, fields))
    return found, total - len(found)


def _row_change(
    part: Part, way: Difference, id_: str, rows: Mapping[str, Rowset], fields: list[FieldChange]
) -> RowChange:
    own = rows[part.kind]
    number = name = None
    if part.parent is not None:
        column, kind = part.parent
        of = own.value(id_, column)
        if of in rows[kind].rows:
            number = rows[kind].value(of, "number")
    elif "number" in own.places:
        number = own.value(id_, "number")
    for column in _NAMES:
        if column in own.places and isinstance(text := own.value(id_, column), str) and text:
            name = _cut(" ".join(text[: 2 * _CUT].split()))
            break
    return RowChange(kind=part.kind, change=way, id=id_, number=number, name=name, fields=fields)


def _cut(text: str) -> str:
    return text if len(text) <= _CUT else text[: _CUT - 1] + "…"


def _shown(part: Part, column: str, value: Any) -> Any:
    """A column's value for people and programs: what is kept as JSON as it is, if it is short."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if not isinstance(value, str):
        return value
    if part.table is not None and column in part.table.columns and value[:1] in ("[", "{") and len(value) <= _CUT:
        try:
            return _from_json(value)
        except msgspec.DecodeError:
            return value
    return _cut(value)


# The plan of a restore


class Plan(NamedTuple):
    """What a restore is to do, as far as it could be told beside the writer."""

    checkpoint: Checkpoint
    taken: Taken
    """What is there."""
    wanted: dict[str, Rowset]
    """What is to be there."""
    outside: list[Any]
    changes: dict[str, Changes]
    revisions: dict[str, tuple[int, int]]
    """The last revisions of records that were deleted since the checkpoint."""
    leases: int


def make_plan(reader: Reader, checkpoint: Checkpoint) -> Plan:
    """Read both states and compare them. It may take long, and belongs into ``StateStore.scan``.

    Raises:
        CheckpointDamaged: what the checkpoint keeps cannot be read.
    """
    state = read_state(reader, checkpoint, f'cannot restore checkpoint "{checkpoint.number}"')
    project_id = checkpoint.project_id
    taken = take(reader, project_id)
    outside = []
    for rules in all_rules():
        outside.append(rules.outside(reader, state.rows))
        rules.adjust(state.rows, outside[-1])
    changes = differences(taken.rows, state.rows)
    revisions = {}
    if any(each.added for each in changes.values()):
        revisions = store.deleted_revisions(reader, project_id, state.position)
    return Plan(checkpoint, taken, state.rows, outside, changes, revisions, store.live_leases(reader, project_id))


def overlaid(rows: Mapping[str, Rowset], overlay: Overlay) -> dict[str, Rowset]:
    """Rows with those that were written since."""
    found = dict(rows)
    for kind, written in overlay.items():
        every = dict(rows[kind].rows)
        for id_, row in written.items():
            if row is None:
                every.pop(id_, None)
            else:
                every[id_] = row
        found[kind] = Rowset(rows[kind].columns, every)
    return found


def amended(
    changes: Mapping[str, Changes], overlay: Overlay, now: Mapping[str, Rowset], wanted: Mapping[str, Rowset]
) -> dict[str, Changes]:
    """What a restore is to do, given what was written since it was planned, and all that is there ``now``."""
    found = dict(changes)
    for part in all_parts():
        written = overlay.get(part.kind)
        if not written:
            continue
        of = changes[part.kind]
        anew = difference(part, now[part.kind], wanted[part.kind], written)
        found[part.kind] = Changes(
            [*(id_ for id_ in of.added if id_ not in written), *anew.added],
            {id_: columns for id_, columns in of.changed.items() if id_ not in written} | anew.changed,
            [*(id_ for id_ in of.removed if id_ not in written), *anew.removed],
        )
    return found
