"""A record type's table: the codec of its rows, and the few statements that every record type needs.

It is no mapper: it knows no relations, composes no conditions and creates no schema. What does not fit is plain SQL in
the ``store.py`` of the capability.
"""

from __future__ import annotations

import inspect
import types
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, Generic, NamedTuple, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from nexus_protocol import Record
from nexus_protocol.command import secret_fields

from nexus import journal
from nexus.caller import Caller
from nexus.hints import command_line
from nexus.records.errors import RecordErrors, RecordNotFound
from nexus.store import Reader, Row, StoreConflict, Transaction, find_row

__all__ = ["Column", "Identified", "Table", "columns_of", "without_repeats"]


class Identified(Protocol):
    """What every record with a table has."""

    @property
    def id(self) -> str:
        """A UUID in lower case."""

    @property
    def name(self) -> str:
        """Unique among the records of its kind."""

    @property
    def created_at(self) -> int:
        """Milliseconds since 1970."""

    @property
    def revision(self) -> int:
        """Counts the changes of its configuration, from 1."""

    @property
    def state_revision(self) -> int:
        """Counts the changes of its state, from 0."""


R = TypeVar("R", bound=Identified)

_RARE = 1000
_INT64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder().decode


class Column(NamedTuple):
    """How the values of one field are kept in a column."""

    name: str
    is_plain: bool
    """Whether the column's value encodes as the field's does: that of an enumeration, of numbers, of text."""
    encode: Callable[[Any], Any] | None
    """From the field's value to the column's, neither of them None; None where they are the same."""
    decode: Callable[[Any], Any] | None

    def to_column(self, value: Any) -> Any:
        """The column's value for one of the field, which may be None."""
        return value if value is None or self.encode is None else self.encode(value)

    def to_field(self, value: Any) -> Any:
        """The field's value for one of the column, which may be None."""
        return value if value is None or self.decode is None else self.decode(value)


def columns_of(record: type[Record], names: Mapping[str, str] | None = None) -> dict[str, Column]:
    """Derive the columns of a record from the types of its fields.

    An enumeration is kept by its value, a bool as 0 or 1, lists, maps and unions with them as JSON. ``names`` are the
    columns of fields that have another name there.
    """
    hints = get_type_hints(record)
    named = names or {}
    return {field: _column(named.get(field, field), hints[field]) for field in record.__struct_fields__}


def without_repeats(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values of fields as a record has them: no tag twice."""
    return {**values, "tags": list(dict.fromkeys(values["tags"]))} if values.get("tags") else values


def _column(name: str, hint: Any) -> Column:
    kinds = [kind for kind in _alternatives(hint) if kind is not types.NoneType]
    origins = [get_origin(kind) or kind for kind in kinds]
    if any(origin in (list, dict) for origin in origins):
        return Column(name, False, lambda value: _encode_json(value).decode(), _decode_json)
    if len(origins) == 1 and isinstance(origins[0], type):
        kind = origins[0]
        if issubclass(kind, Enum):
            members = {member.value: member for member in kind}
            return Column(name, True, lambda value: members[value].value, members.__getitem__)
        if kind is bool:
            return Column(name, False, int, bool)
        if kind in (int, str, bytes, float):
            return Column(name, True, None, None)
    raise TypeError(f"{name}: no column can hold {hint}")


def _takes_only_keywords(record: type[Record]) -> bool:
    parameters = inspect.signature(record).parameters.values()
    return any(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in parameters)


def _alternatives(hint: Any) -> Sequence[Any]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


class Table(Generic[R]):
    """The table ``name`` of the records of type ``record``.

    ``kind`` is the kind in journal events, error types and tags, ``word`` how sentences call one record, and ``look``
    the words of nexusctl that show one. ``observed`` fields tell the state of the world: a change of one raises
    ``state_revision``; a change of a ``volatile`` one, such as a heartbeat, raises nothing and has no event; a change
    of any other raises ``revision`` and ``updated_at``.

    ``order`` are the fields by which lists are sorted, all in one direction; ``indexed`` fields have an index that
    continues with these, so that a list finds the records with one value of it. A record with ``tags`` is also found by
    its rows in the table ``tag``. ``told`` are the fields in the event of a creation.

    ``columns`` are those of fields whose column has another name, or is in another table of ``source``, the tables to
    read from. Only reading knows other tables.
    """

    def __init__(
        self,
        record: type[R],
        name: str,
        *,
        kind: str,
        word: str,
        look: str,
        errors: RecordErrors,
        observed: Collection[str] = (),
        volatile: Collection[str] = (),
        order: tuple[str, ...] = ("created_at", "id"),
        descending: bool = True,
        indexed: tuple[str, ...] = (),
        told: tuple[str, ...] = (),
        columns: Mapping[str, str] | None = None,
        source: str | None = None,
    ) -> None:
        struct: Any = record
        self.record = record
        self.name = name
        self.kind = kind
        self.word = word
        self.look = look.split()
        self.errors = errors
        self.observed = frozenset(observed)
        self.volatile = frozenset(volatile)
        self.order = order
        self.indexed = indexed
        self.told = told
        self.columns = columns_of(struct, columns)
        self._secret = secret_fields(struct)
        self._by_name = _takes_only_keywords(struct)
        decoders = [(i, c.decode, c.is_plain) for i, c in enumerate(self.columns.values()) if c.decode is not None]
        self._decoders = [(i, decode) for i, decode, _ in decoders]
        self._page_decoders = [(i, decode) for i, decode, is_plain in decoders if not is_plain]
        self._encoders = [(i, c.encode) for i, c in enumerate(self.columns.values()) if c.encode is not None]
        names = [column.name for column in self.columns.values()]
        self._prefix = f"{name}."
        qualified = [text if "." in text else self._prefix + text for text in names]
        self._qualified, self._source = qualified, source or name
        self.select = self.selecting()
        self._insert = f"INSERT INTO {name} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        direction, self._beyond = (" DESC", "<") if descending else ("", ">")
        ordered = [self._prefix + self.columns[field].name for field in order]
        self._order = ", ".join(ordered)
        self._order_by = ", ".join(text + direction for text in ordered)
        hints = get_type_hints(record)
        types_ = tuple(_INT64 if hints[field] is int else hints[field] for field in order)
        self.position_type: Any = tuple.__class_getitem__(types_)
        """The type of what ``position`` gives, for the decoder of a cursor."""

    # Reading

    def selecting(self, *others: str) -> str:
        """The query for all records, without conditions, with other columns of the table after those of the fields."""
        names = [*self._qualified, *(self._prefix + other for other in others)]
        return f"SELECT {', '.join(names)} FROM {self._source}"

    def decode(self, row: Sequence[Any]) -> R:
        """Make a record from the columns of ``select``."""
        return self._decode(row, self._decoders)

    def _decode(self, row: Sequence[Any], decoders: Sequence[tuple[int, Callable[[Any], Any]]]) -> R:
        if decoders:
            values = list(row)
            for index, decode in decoders:
                if values[index] is not None:
                    values[index] = decode(values[index])
            row = values
        return self.record(**dict(zip(self.columns, row, strict=True))) if self._by_name else self.record(*row)

    def _row(self, record: R) -> list[Any]:
        struct: Any = record
        row = list(msgspec.structs.astuple(struct))
        for index, encode in self._encoders:
            if row[index] is not None:
                row[index] = encode(row[index])
        return row

    def find(self, reader: Reader, reference: str) -> R | None:
        """The record with exactly this id, else this name, else the only one whose id has this prefix (4 characters).

        Raises:
            RecordAmbiguous: several ids have this prefix.
        """
        row = self.find_row(reader, self.select, reference)
        return None if row is None else self.decode(row)

    def resolve(self, reader: Reader, reference: str) -> R:
        """Like ``find``, for a record that must exist.

        Raises:
            RecordNotFound: there is none.
            RecordAmbiguous: several ids have this prefix.
        """
        record = self.find(reader, reference)
        if record is None:
            raise self.not_found(reference)
        return record

    def find_row(self, reader: Reader, select: str, reference: str) -> Row | None:
        """``find`` with a query of the caller's own, whose first columns are the id and the name."""
        return find_row(reader, select, reference, word=self.word, ambiguous=self.errors.ambiguous, table=self._prefix)

    def not_found(self, reference: str) -> RecordNotFound:
        """The error for a reference that names no record."""
        return self.errors.not_found(f'{self.word} "{reference}" not found', details={self.kind: reference})

    def position(self, record: R) -> tuple[Any, ...]:
        """The values by which a list has this record in its place."""
        return tuple(getattr(record, field) for field in self.order)

    def page(
        self, reader: Reader, after: tuple[Any, ...] | None, count: int, where: tuple[str, Any] | None = None
    ) -> list[R]:
        """At most ``count`` records after a position, in the order of the table.

        ``where`` is one of the ``indexed`` fields, or ``tag``, with its value. Enumerations of these records are plain
        text, which encodes and compares as they do.
        """
        conditions: list[str] = []
        parameters: list[Any] = []
        select = self.select
        if where is not None and where[0] == "tag":
            select += f" JOIN tag ON tag.kind = ? AND tag.tag = ? AND tag.record_id = {self._prefix}id"
            parameters += [self.kind, where[1]]
        elif where is not None:
            field, value = where
            conditions.append(f"{self._prefix}{self.columns[field].name} = ?")
            parameters.append(self.encode(field, value))
        if after is not None:
            conditions.append(f"({self._order}) {self._beyond} ({', '.join('?' * len(after))})")
            parameters += after
        text = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        rows = reader.all(f"{select}{text} ORDER BY {self._order_by} LIMIT ?", (*parameters, count))
        if self._page_decoders or self._by_name:
            return [self._decode(row, self._page_decoders) for row in rows]
        return [self.record(*row) for row in rows]

    def is_rare(self, reader: Reader, tag: str) -> bool:
        """Whether so few records have a tag that they are to be found by it, and sorted for each page."""
        row = reader.one(
            f"SELECT count(*) FROM (SELECT 1 FROM tag WHERE kind = ? AND tag = ? LIMIT {_RARE + 1}) AS found",
            (self.kind, tag),
        )
        return row is not None and row[0] <= _RARE

    def count_by_state(self, reader: Reader) -> dict[str, int]:
        """The number of records in each state; states without records are left out."""
        column = self.columns["state"].name
        return dict(reader.all(f"SELECT {column}, count(*) FROM {self.name} GROUP BY {column}"))

    # Writing

    def insert(self, tx: Transaction, caller: Caller, values: Mapping[str, Any]) -> R:
        """Insert a record, with its event. ``id`` and the times are made here, unless ``values`` has an ``id``.

        Raises:
            RecordNameTaken: another record has the name.
            StoreConflict: another constraint refused the record.
        """
        given = {name: value for name, value in without_repeats(values).items() if value is not None}
        made = {"id": str(uuid.uuid4()), "created_at": tx.now, "updated_at": tx.now, "revision": 1, "state_revision": 0}
        record = self.record(**made | given)
        try:
            tx.execute(self._insert, self._row(record))
        except StoreConflict:
            # The common case needs one statement; the cause is looked up only when there is a conflict.
            self.refuse_taken_name(tx, record.name, f'cannot create {self.word} "{record.name}"')
            raise
        self.write_tags(tx, record.id, getattr(record, "tags", ()))
        self._count(tx, record, 1)
        self._record(tx, caller, "created", record, {field: getattr(record, field) for field in self.told})
        return record

    def update(self, tx: Transaction, caller: Caller, record: R, changes: Mapping[str, Any]) -> R:
        """Set fields to new values, with the event of the change; returns the new record. Equal values are no change.

        Raises:
            RecordNameTaken: another record has the new name.
        """
        changes = without_repeats(changes)
        changed = {field: value for field, value in changes.items() if value != getattr(record, field)}
        if not changed:
            return record
        if "name" in changed:
            self.refuse_taken_name(tx, changed["name"], f'cannot update {self.word} "{record.name}"')
        counters = self._counted(tx, record, changed)
        new: R = msgspec.structs.replace(record, **changed, **counters)  # type: ignore[type-var]
        assignments = ", ".join(f"{self.columns[field].name} = ?" for field in (*changed, *counters))
        values = [self.encode(field, getattr(new, field)) for field in (*changed, *counters)]
        tx.execute(f"UPDATE {self.name} SET {assignments} WHERE id = ?", (*values, record.id))
        if "tags" in changed:
            self.write_tags(tx, record.id, changed["tags"])
        if "state" in changed:
            self._count(tx, record, -1)
            self._count(tx, new, 1)
        if counters:
            told = {field: self._change(field, record, new) for field in changed if field not in self.volatile}
            self._record(tx, caller, "updated", new, told)
        return new

    def delete(self, tx: Transaction, caller: Caller, record: R, told: tuple[str, ...] = ()) -> None:
        """Delete a record, with its event, which tells the fields ``told``."""
        self.write_tags(tx, record.id, ())
        self._count(tx, record, -1)
        tx.execute(f"DELETE FROM {self.name} WHERE id = ?", (record.id,))
        self._record(tx, caller, "deleted", record, {field: getattr(record, field) for field in told})

    def write_tags(self, tx: Transaction, record_id: str, tags: Collection[str]) -> None:
        """Write the rows by which a record is found by its tags; nothing where the record type has none."""
        if "tags" not in self.columns:
            return
        tx.execute("DELETE FROM tag WHERE kind = ? AND record_id = ?", (self.kind, record_id))
        for tag in dict.fromkeys(tags):
            tx.execute("INSERT INTO tag (kind, record_id, tag) VALUES (?, ?, ?)", (self.kind, record_id, tag))

    def expect(self, record: R, cannot: str, revision: int | None, state_revision: int | None = None) -> None:
        """Refuse a change of a record that has another revision than the request expects; None expects nothing.

        Raises:
            RecordChanged: it has another one.
        """
        for word, present, expected in (
            ("revision", record.revision, revision),
            ("state_revision", record.state_revision, state_revision),
        ):
            if expected in (None, present):
                continue
            raise self.errors.changed(
                f"{cannot}: its {word} is {present} and not {expected}",
                hint="Look at it, and try again: " + command_line("nexusctl", *self.look, record.name),
                details={
                    "id": record.id,
                    "name": record.name,
                    "revision": record.revision,
                    "state_revision": record.state_revision,
                },
            )

    def _count(self, tx: Transaction, record: R, by: int) -> None:
        state = getattr(record, "state", None)
        if state is not None:
            tx.count(self.kind, str(state), by)

    def _counted(self, tx: Transaction, record: R, changed: Collection[str]) -> dict[str, int]:
        counters: dict[str, int] = {}
        if not (self.observed | self.volatile).issuperset(changed):
            counters = {"revision": record.revision + 1, "updated_at": max(tx.now, record.created_at)}
        if not self.observed.isdisjoint(changed):
            counters["state_revision"] = record.state_revision + 1
        return counters

    def encode(self, field: str, value: Any) -> Any:
        """The value of the field's column."""
        return self.columns[field].to_column(value)

    def _change(self, field: str, before: R, after: R) -> dict[str, Any]:
        if field in self._secret:
            return {"changed": True}
        return {"from": getattr(before, field), "to": getattr(after, field)}

    def refuse_taken_name(self, tx: Transaction, name: str, cannot: str) -> None:
        """Refuse a name that a record has.

        Raises:
            RecordNameTaken: one has it.
        """
        row = tx.one(f"SELECT id FROM {self.name} WHERE name = ?", (name,))
        if row is not None:
            raise self.errors.name_taken(
                f'{cannot}: {self.word} name "{name}" already exists',
                hint="Choose another name, or look at it: " + command_line("nexusctl", *self.look, name),
                details={"name": name, "id": row[0]},
            )

    def _record(self, tx: Transaction, caller: Caller, what: str, record: R, detail: dict[str, Any]) -> None:
        journal.record(tx, caller, f"{self.kind}.{what}", self.kind, record.id, record.name, detail)
