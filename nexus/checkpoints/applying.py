"""Writes the rows of a restore, each kind with a few statements, and records every one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from nexus_protocol.events import WRITTEN

from nexus.checkpoints.store import write_tags
from nexus.journal.operation import Operation
from nexus.journal.rows import Event, Image, Subject, Written
from nexus.records.checkpointed import ABSENT, Changes, Part, Rowset
from nexus.records.table import DOC, next_number
from nexus.store import Transaction

__all__ = ["add", "change", "make_room", "nothing", "remove"]

_tags = msgspec.json.Decoder(list[str]).decode


class _Subjects:
    """What the events of rows are about."""

    def __init__(self, part: Part, project_id: str, rows: Mapping[str, Rowset]) -> None:
        self._project_id = project_id
        self._rows = rows[part.kind]
        self._kind = part.rows.kind
        self._parent = None if part.parent is None else (part.parent[0], rows[part.parent[1]])

    def of(self, id_: str) -> Subject:
        rows, own = self._rows, id_
        if self._parent is not None:
            column, rows = self._parent[0], self._parent[1]
            own = self._rows.value(id_, column)
        number = rows.value(own, "number") if own in rows.rows else None
        return Subject(self._kind, own, None if number is None else str(number), self._project_id)


def _written(part: Part) -> Event:
    return part.rows.kind + WRITTEN, {}


def make_room(tx: Transaction, part: Part, changes: Changes, now: Rowset, wanted: Rowset) -> None:
    """Take numbers away, for the time of the restore, from rows that go or get another one, if others are to have them.

    A plan that was read from files may have given the number of a deleted record again.
    """
    if "number" not in now.places:
        return
    renumbered = [id_ for id_, columns in changes.changed.items() if "number" in columns]
    needed = {wanted.value(id_, "number") for id_ in (*changes.added, *renumbered)}
    if not needed:
        return
    held = [(now.value(id_, "number"), id_) for id_ in (*changes.removed, *renumbered)]
    part.rows.update_many(tx, ("number",), [(-number, id_) for number, id_ in held if number in needed])


def add(
    tx: Transaction,
    operation: Operation,
    part: Part,
    project_id: str,
    ids: list[str],
    wanted: Mapping[str, Rowset],
    revisions: Mapping[str, tuple[int, int]],
) -> range:
    """Insert rows as they were, with revisions above all that they had; returns their numbers for the search."""
    if not ids:
        return range(0)
    rows, subjects = wanted[part.kind], _Subjects(part, project_id, wanted)
    table = part.table
    columns = list(part.columns)
    is_searchable = DOC in part.rows.columns
    doc = first = next_number(tx, "", DOC, len(ids)) if is_searchable else 0
    values, written = [], []
    partial: list[tuple[str, Image]] = []
    for id_ in ids:
        image = dict(zip(columns, rows.rows[id_], strict=True))
        if table is not None:
            highest = revisions.get(id_, (0, 0))
            image["revision"] = max(image["revision"], highest[0]) + 1
            if table.observed:
                image["state_revision"] = max(image["state_revision"], highest[1]) + 1
            image["updated_at"] = max(tx.now, image["created_at"])
        if is_searchable:
            image[DOC] = doc
            doc += 1
        if ABSENT in image.values():
            partial.append((id_, {column: value for column, value in image.items() if value is not ABSENT}))
            continue
        values.append(tuple(image.values()))
        written.append(Written(subjects.of(id_), id_, None, image, _created(part, image), image.get("revision")))
    part.rows.insert_many(tx, [*columns, DOC] if is_searchable else columns, values)
    for id_, image in partial:  # the schema knows what the other columns are
        whole = part.rows.insert(tx, image)
        written.append(Written(subjects.of(id_), id_, None, whole, _created(part, whole), whole.get("revision")))
    part.rows.record_many(tx, operation, written)
    if table is not None:
        tagged = [(each.key, tag) for each in written for tag in _tags_of(each.after)]
        write_tags(tx, table.kind, (), tagged)
        _count(tx, part, (each.after for each in written), 1)
    return range(first, doc)


def _created(part: Part, image: Image) -> Event:
    if part.table is None:
        return _written(part)
    return f"{part.table.kind}.created", {field: image.get(field) for field in part.table.told}


def _tags_of(image: Image | None) -> list[str]:
    text = None if image is None else image.get("tags")
    return [] if text in (None, "[]") else list(dict.fromkeys(_tags(text)))


def _count(tx: Transaction, part: Part, images: Iterable[Image | None], by: int) -> None:
    """Note how many more or fewer records are in each state."""
    assert part.table is not None
    column = part.table.state
    for state, number in Counter(image.get(column) for image in images if image is not None).items():
        if state is not None:
            tx.count(part.table.kind, str(state), by * number)


def change(
    tx: Transaction,
    operation: Operation,
    part: Part,
    project_id: str,
    changes: Mapping[str, frozenset[str]],
    now: Mapping[str, Rowset],
    wanted: Mapping[str, Rowset],
) -> None:
    """Set columns of rows to what they were; their revisions rise."""
    if not changes:
        return
    subjects = _Subjects(part, project_id, wanted)
    present, rows = now[part.kind], wanted[part.kind]
    groups: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
    written = []
    told = _written(part)
    for id_, columns in changes.items():
        before_row, after_row = present.rows[id_], rows.rows[id_]
        places = present.places
        before = {column: before_row[places[column]] for column in part.columns if column in columns}
        after = {column: after_row[places[column]] for column in before}
        revision = None
        if part.table is not None:
            revision = before_row[places["revision"]]
            if not (part.table.observed | part.table.volatile).issuperset(columns):
                at = max(tx.now, before_row[places["created_at"]])
                for column, value in (("revision", revision + 1), ("updated_at", at)):
                    before[column], after[column] = before_row[places[column]], value
                revision += 1
                if before["updated_at"] == at:
                    del before["updated_at"], after["updated_at"]
            if not part.table.observed.isdisjoint(columns):
                counter = before_row[places["state_revision"]]
                before["state_revision"], after["state_revision"] = counter, counter + 1
        groups.setdefault(tuple(after), []).append((*after.values(), id_))
        written.append(Written(subjects.of(id_), id_, before, after, told, revision))
    for names, values in groups.items():
        part.rows.update_many(tx, names, values)
    part.rows.record_many(tx, operation, written)
    if part.table is not None:
        retagged = [each for each in written if each.after is not None and "tags" in each.after]
        if retagged:
            pairs = [(each.key, tag) for each in retagged for tag in _tags_of(each.after)]
            write_tags(tx, part.table.kind, [each.key for each in retagged], pairs)
        moved = [each for each in written if each.after is not None and part.table.state in each.after]
        _count(tx, part, (each.before for each in moved), -1)
        _count(tx, part, (each.after for each in moved), 1)


def remove(
    tx: Transaction, operation: Operation, part: Part, project_id: str, ids: list[str], now: Mapping[str, Rowset]
) -> None:
    """Delete rows."""
    if not ids:
        return
    rows, subjects = now[part.kind], _Subjects(part, project_id, now)
    written = []
    for id_ in ids:
        image = dict(zip(rows.columns, rows.rows[id_], strict=True))
        event = _written(part)
        if part.table is not None:
            event = (f"{part.table.kind}.deleted", {column: image.get(column) for column in part.deleted})
        written.append(Written(subjects.of(id_), id_, image, None, event, image.get("revision")))
    part.rows.delete_many(tx, ids)
    part.rows.record_many(tx, operation, written)
    if part.table is not None:
        if "tags" in rows.places:
            write_tags(tx, part.table.kind, ids, ())
        _count(tx, part, (each.before for each in written), -1)


def nothing(changes: Mapping[str, Changes]) -> bool:
    """Whether nothing is to be done."""
    return not any(any(each) for each in changes.values())
