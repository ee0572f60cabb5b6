"""A record type's table: the codec of its rows, and the few statements that every record type needs.

It is no mapper: it knows no relations, composes no conditions and creates no schema. What does not fit is plain SQL in
the ``store.py`` of the capability.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, Generic, NamedTuple, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from nexus_protocol import Record
from nexus_protocol.command import unrecorded_fields

from nexus.hints import command_line
from nexus.journal.operation import Operation
from nexus.journal.rows import Event, Image, Rows, Subject, derived
from nexus.records.errors import RecordErrors, RecordNotFound
from nexus.records.lookup import find_row
from nexus.records.scope import Scope, handle, project_name, qualified, reference_of
from nexus.store import Reader, Row, StoreConflict, Transaction
from nexus.store.fulltext import Words, matching_docs

__all__ = ["DOC", "Column", "Identified", "Table", "columns_of", "keep_number", "next_number", "without_repeats"]


class Identified(Protocol):
    """What every record with a table has."""

    @property
    def id(self) -> str:
        """A UUID in lower case."""

    @property
    def name(self) -> str:
        """Unique among the records of its kind, in its project if these have one; of a numbered kind, its number."""

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

derived("tag", "the column tags of the records")
derived("record_number", "the column number of the records: the highest that was given")

DOC = "doc"
"""The kind under which the numbers of all searchable records are counted, whatever their project is."""
_RARE = 1000
_INT64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_JSON_STARTS = ("[", '"')
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


def columns_of(
    record: type[Record],
    names: Mapping[str, str] | None = None,
    text_or_list: Collection[str] = (),
    without: Collection[str] = (),
) -> dict[str, Column]:
    """Derive the columns of a record from the types of its fields.

    An enumeration is kept by its value, a bool as 0 or 1, lists, maps and unions with them as JSON. ``names`` are the
    columns of fields that have another name there. ``text_or_list`` are fields that were text and are text or a list
    now: their columns keep a text as it is, as rows of older versions have it, and only a list as JSON. The fields of
    ``without`` have none.
    """
    hints = _hints_of(record)
    named = names or {}
    return {
        field: Column(named.get(field, field), False, _encode_text_or_list, _decode_text_or_list)
        if field in text_or_list
        else _column(named.get(field, field), hints[field])
        for field in record.__struct_fields__
        if field not in without
    }


@functools.cache
def _hints_of(record: type[Any]) -> dict[str, Any]:
    return get_type_hints(record)


def _encode_text_or_list(value: str | list[str]) -> str:
    if isinstance(value, str) and not value.startswith(_JSON_STARTS):
        return value
    return _encode_json(value).decode()  # also a text that would be read as JSON


def _decode_text_or_list(text: str) -> Any:
    if text.startswith(_JSON_STARTS):
        with contextlib.suppress(msgspec.DecodeError):  # of an older version
            return _decode_json(text)
    return text


def _defaults_of(record: type[Record], columns: Mapping[str, Column]) -> Image:
    """The columns of the fields that have a default, with it."""
    found: Image = {}
    for info in msgspec.structs.fields(record):
        if info.name not in columns:
            continue
        if info.default is not msgspec.NODEFAULT:
            found[columns[info.name].name] = columns[info.name].to_column(info.default)
        elif info.default_factory is not msgspec.NODEFAULT:
            found[columns[info.name].name] = columns[info.name].to_column(info.default_factory())
    return found


def next_number(tx: Transaction, project_id: str, kind: str, count: int = 1) -> int:
    """The first of the next ``count`` numbers of a kind of records in a project, from 1; none is given twice."""
    # Without RETURNING: before a statement that has it, FTS5 writes what it has gathered of the transaction.
    named = "WHERE project_id = ? AND kind = ?"
    if not tx.execute(f"UPDATE record_number SET last = last + ? {named}", (count, project_id, kind)):
        tx.execute("INSERT INTO record_number (project_id, kind, last) VALUES (?, ?, ?)", (project_id, kind, count))
    row = tx.one(f"SELECT last FROM record_number {named}", (project_id, kind))
    assert row is not None
    return int(row[0]) - count + 1


def keep_number(tx: Transaction, project_id: str, kind: str, number: int) -> None:
    """Give no number up to this one to a further record."""
    row = tx.one("SELECT last FROM record_number WHERE project_id = ? AND kind = ?", (project_id, kind))
    last = 0 if row is None else int(row[0])
    if number > last:
        next_number(tx, project_id, kind, number - last)


def without_repeats(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values of fields as a record has them: no tag twice."""
    return {**values, "tags": list(dict.fromkeys(values["tags"]))} if values.get("tags") else values


def _column(name: str, hint: Any) -> Column:
    kinds = [kind for kind in _alternatives(hint) if kind is not types.NoneType]
    origins = [get_origin(kind) or kind for kind in kinds]
    if any(origin in (list, dict) for origin in origins):
        # What holds records is decoded as such, so that it equals what was written.
        decode = msgspec.json.Decoder(kinds[0]).decode if _holds_records(kinds) else _decode_json
        return Column(name, False, lambda value: _encode_json(value).decode(), decode)
    if len(origins) == 1 and isinstance(origins[0], type):
        kind = origins[0]
        if issubclass(kind, Enum):
            members = {member.value: member for member in kind}
            # By members too: one of a WireEnum equals its text.
            texts = {value: member.value for value, member in members.items()} | {m: m.value for m in kind}
            return Column(name, True, texts.__getitem__, members.__getitem__)
        if kind is bool:
            return Column(name, False, int, bool)
        if kind in (int, str, bytes, float):
            return Column(name, True, None, None)
    raise TypeError(f"{name}: no column can hold {hint}")


def _holds_records(kinds: Sequence[Any]) -> bool:
    inner = [inner for kind in kinds for inner in get_args(kind)]
    return len(kinds) == 1 and any(isinstance(kind, type) and issubclass(kind, msgspec.Struct) for kind in inner)


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

    Records that have a ``number`` instead of a name are counted in their project from 1; no number is given twice.
    ``state`` is the field with the state, by which the status of the daemon counts. ``unlisted`` fields may be large:
    lists leave them out.

    ``columns`` are those of fields whose column has another name, or is in the one other table that is ``joined``:
    its name, and the column with the id of its row. ``text_or_list`` are the fields that ``columns_of`` keeps so. A
    record with a ``project_id`` has the name of that project in ``project``, which is read with it and is no
    column. ``private`` is a record of columns that only the daemon reads, and ``others`` are columns that neither
    has: an insert leaves them to the default of the schema. ``computed`` fields have no column of the record: what
    is read has their defaults, and a handler sets them. A ``searchable`` record has a number in the column ``doc``,
    which no other record of any table has, by which a search index knows it.
    ``found_by`` are names of filters for which another table has rows: its name, the column with the id of a
    record, and that with the value. ``visible`` is a condition in SQL:
    rows that do not meet it are read as if they were not there. ``called`` is the column of the name; records
    without names have the id there. What a write changed is recorded in the journal, without the values of secret
    and unrecorded fields.
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
        joined: tuple[str, str] | None = None,
        private: type[Record] | None = None,
        others: tuple[str, ...] = (),
        text_or_list: tuple[str, ...] = (),
        state: str = "state",
        unlisted: tuple[str, ...] = (),
        computed: Collection[str] = (),
        searchable: bool = False,
        found_by: Mapping[str, tuple[str, str, str]] | None = None,
        visible: str | None = None,
        called: str = "name",
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
        self.has_project = "project_id" in struct.__struct_fields__
        """Whether names are unique in a project, and not over all records."""
        self.is_numbered = "number" in struct.__struct_fields__
        self.state = state
        self.columns = columns_of(struct, columns, text_or_list, computed)
        self.computed = frozenset(computed)
        self.found_by = found_by or {}
        if self.has_project:
            of_project = f"(SELECT projects.name FROM projects WHERE projects.id = {name}.project_id)"
            self.columns["project"] = self.columns["project"]._replace(name=of_project)
            self._project = list(self.columns).index("project")
        self.private = {} if private is None else columns_of(private)
        self._has_others = bool(self.private or others)
        self._all = self.private | self.columns
        self._secret = unrecorded_fields(struct) | (frozenset() if private is None else unrecorded_fields(private))
        decoders = [(i, c.decode, c.is_plain) for i, c in enumerate(self.columns.values()) if c.decode is not None]
        self._decoders = [(i, decode) for i, decode, _ in decoders]
        self._page_decoders = [(i, decode) for i, decode, is_plain in decoders if not is_plain]
        self._encoders = [(i, c.encode) for i, c in enumerate(self.columns.values()) if c.encode is not None]
        self._prefix = f"{name}."
        names = [column.name for column in self.columns.values()]
        qualified = [text if "." in text else self._prefix + text for text in names]
        self._searchable = searchable
        self._called = called
        self._qualified = qualified
        self._source = name if visible is None else f"(SELECT * FROM {name} WHERE {visible}) AS {name}"
        if joined is not None:
            self._source += f" JOIN {joined[0]} ON {joined[0]}.id = {name}.{joined[1]}"
        self.select = self.selecting()
        listed = ["NULL" if field in unlisted else q for field, q in zip(self.columns, qualified, strict=True)]
        self._select_page = f"SELECT {', '.join(listed)} FROM {self._source}"
        own = [column.name for field, column in self.columns.items() if not (self.has_project and field == "project")]
        self.rows = Rows(
            name,
            (
                *own,
                *(column.name for column in self.private.values()),
                *others,
                *(["doc"] if searchable else []),
            ),
            kind=kind,
            secret=[self._all[field].name for field in self._secret & self._all.keys()],
            volatile=[*(self._all[field].name for field in volatile), *(["doc"] if searchable else [])],
            joined=joined,
        )
        direction, self._beyond = (" DESC", "<") if descending else ("", ">")
        ordered = [self._prefix + self.columns[field].name for field in order]
        self._order = ", ".join(ordered)
        self._order_by = ", ".join(text + direction for text in ordered)
        hints = _hints_of(record)
        types_ = tuple(_INT64 if hints[field] is int else hints[field] for field in order)
        self.position_type: Any = tuple.__class_getitem__(types_)
        """The type of what ``position`` gives, for the decoder of a cursor."""

    # Derived when they are first used: a daemon uses few of its tables soon after its start.

    @functools.cached_property
    def _by_name(self) -> bool:
        return _takes_only_keywords(self.record)  # type: ignore[arg-type]

    @functools.cached_property
    def _defaults(self) -> Image:
        return _defaults_of(self.record, self.columns)  # type: ignore[arg-type]

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

    def find(self, reader: Reader, reference: str, scope: Scope) -> R | None:
        """The record with exactly this id, else this name, else the only one whose id has this prefix (4 characters).

        ``P/NAME`` is the name in the project P, and any other name is that in the scope.

        Raises:
            RecordAmbiguous: several ids have this prefix.
        """
        row = self.find_row(reader, self.select, reference, scope)
        return None if row is None else self.decode(row)

    def resolve(self, reader: Reader, reference: str, scope: Scope) -> R:
        """Like ``find``, for a record that must exist.

        Raises:
            RecordNotFound: there is none.
            RecordAmbiguous: several ids have this prefix.
        """
        record = self.find(reader, reference, scope)
        if record is None:
            raise self.not_found(reference, scope)
        return record

    def numbers(self, reader: Reader, project_id: str, after: int, limit: int) -> list[tuple[str, int]]:
        """The ids and numbers of a project's records, by number: at most ``limit`` (-1: all) after a number."""
        return reader.all(
            f"SELECT id, number FROM {self.name} WHERE project_id = ? AND number > ? ORDER BY number LIMIT ?",
            (project_id, after, limit),
        )

    def by_id(self, reader: Reader, id_: str) -> R | None:
        """The record with this id, in any project."""
        row = reader.one(f"{self.select} WHERE {self._prefix}id = ?", (id_,))
        return None if row is None else self.decode(row)

    def get(self, reader: Reader, id_: str) -> R:
        """Like ``by_id``, for a record that must exist.

        Raises:
            RecordNotFound: there is none.
        """
        record = self.by_id(reader, id_)
        if record is None:
            raise self.not_found(id_)
        return record

    def find_row(self, reader: Reader, select: str, reference: str, scope: Scope) -> Row | None:
        """``find`` with a query of the caller's own, whose first columns are the id and the name."""
        return find_row(
            reader,
            select,
            reference,
            scope if self.has_project else None,
            word=self.word,
            ambiguous=self.errors.ambiguous,
            table=self._prefix,
            numbered=self.is_numbered,
            named=self._called,
        )

    def not_found(self, reference: str, scope: Scope | None = None) -> RecordNotFound:
        """The error for a reference that names no record."""
        message = f'{self.word} "{reference}" not found'
        hint: str | None = None
        if scope is not None and scope.is_nowhere and self.has_project and "/" not in reference:
            if scope.changes:
                return scope.no_project(message)
            hint = scope.hint()
        return self.errors.not_found(message, hint=hint, details={self.kind: reference})

    def position(self, record: R) -> tuple[Any, ...]:
        """The values by which a list has this record in its place."""
        return tuple(getattr(record, field) for field in self.order)

    def page(
        self,
        reader: Reader,
        after: tuple[Any, ...] | None,
        count: int,
        where: tuple[str, Any] | None = None,
        project_id: str | None = None,
        match: Words | None = None,
    ) -> list[R]:
        """At most ``count`` records after a position, in the order of the table: of one project, or of all.

        ``where`` is one of the ``indexed`` fields, a name in ``found_by``, or ``tag``, with its value. ``match`` are
        words that a search finds in a ``searchable`` record: a page with them belongs into ``StateStore.scan``.
        Enumerations of these records are plain text, which encodes and compares as they do.
        """
        conditions: list[str] = []
        parameters: list[Any] = []
        select = self._select_page
        field, value = where or (None, None)
        if field == "tag":
            select += f" JOIN tag ON tag.kind = ? AND tag.tag = ? AND tag.record_id = {self._prefix}id"
            parameters += [self.kind, value]
        if field is not None and field in self.found_by:
            table, own, other = self.found_by[field]
            select += f" JOIN {table} ON {table}.{other} = ? AND {table}.{own} = {self._prefix}id"
            parameters.append(value)
        if project_id is not None:
            conditions.append(f"{self._prefix}project_id = ?")
            parameters.append(project_id)
        if field is not None and field != "tag" and field not in self.found_by:
            conditions.append(f"{self._prefix}{self.columns[field].name} = ?")
            parameters.append(self.encode(field, value))
        if match is not None:
            condition, words = matching_docs(f"{self._prefix}{DOC}", match)
            conditions.append(condition)
            parameters += words
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
        column = self.columns[self.state].name
        return dict(reader.all(f"SELECT {column}, count(*) FROM {self.name} GROUP BY {column}"))

    # Writing

    def insert(
        self,
        tx: Transaction,
        operation: Operation,
        values: Mapping[str, Any],
        *,
        event: str = "created",
        detail: dict[str, Any] | None = None,
    ) -> R:
        """Insert a record, with its event. What ``values`` lacks of id, number, times and revisions is made here.

        A number that is given has no other record of the project. Fields without a value have the default of the
        record or of the schema. ``detail`` is that of the event, by default the fields ``told``.

        Raises:
            RecordNameTaken: another record has the name.
            StoreConflict: another constraint refused the record.
        """
        given = {name: value for name, value in without_repeats(values).items() if value is not None}
        made = {"id": str(uuid.uuid4()), "created_at": tx.now, "updated_at": tx.now, "revision": 1, "state_revision": 0}
        fields: dict[str, Any] = made | given
        if self.has_project:
            fields["project"] = project_name(tx, fields["project_id"])
        if "number" in given:
            keep_number(tx, fields["project_id"], self.kind, given["number"])
        elif self.is_numbered:
            fields["number"] = next_number(tx, fields["project_id"], self.kind)
        try:
            record, row = (self._insert_with_others if self._has_others else self._insert_whole)(tx, fields)
        except StoreConflict:
            if self.is_numbered:
                raise
            # The common case needs one statement; the cause is looked up only when there is a conflict.
            cannot = f'cannot create {self.word} "{given["name"]}"'
            self.refuse_taken_name(tx, given["name"], fields.get("project_id"), cannot)
            raise
        self.write_tags(tx, record.id, getattr(record, "tags", ()))
        self._count(tx, getattr(record, self.state, None), 1)
        if detail is None:
            detail = {field: getattr(record, field) for field in self.told}
        self._record(tx, operation, record, None, row, [(f"{self.kind}.{event}", detail)])
        return record

    def _insert_whole(self, tx: Transaction, fields: Mapping[str, Any]) -> tuple[R, Image]:
        """Insert a row whose columns are all of the record."""
        record: Any = self.record(**fields)
        values = list(msgspec.structs.astuple(record))
        if self.computed:
            values = [getattr(record, field) for field in self.columns]
        for index, encode in self._encoders:
            if values[index] is not None:
                values[index] = encode(values[index])
        if self.has_project:
            del values[self._project]
        if self._searchable:
            values.append(next_number(tx, "", DOC))
        return record, self.rows.insert_whole(tx, values)

    def _insert_with_others(self, tx: Transaction, fields: Mapping[str, Any]) -> tuple[R, Image]:
        """Insert a row that has more columns than the record; those without a value have the schema's default."""
        given = {self._all[field].name: self.encode(field, value) for field, value in fields.items()}
        project = given.pop(self.columns["project"].name) if self.has_project else None
        if self._searchable:
            given["doc"] = next_number(tx, "", DOC)
        row = self.rows.insert(tx, {**self._defaults, **given})
        return self.decode([row.get(column.name, project) for column in self.columns.values()]), row

    def update(
        self,
        tx: Transaction,
        operation: Operation,
        record: R,
        changes: Mapping[str, Any],
        *,
        event: str = "updated",
        detail: dict[str, Any] | None = None,
    ) -> R:
        """Set fields to new values, with the event of the change; returns the new record. Equal values are no change.

        Raises:
            RecordNameTaken: another record has the new name.
        """
        changes = without_repeats(changes)
        changed = {field: value for field, value in changes.items() if value != getattr(record, field)}
        if not changed:
            return record
        if "name" in changed and not self.is_numbered:
            project_id = getattr(record, "project_id", None)
            self.refuse_taken_name(tx, changed["name"], project_id, f'cannot update {self.word} "{record.name}"')
        if detail is None:
            detail = {
                field: self._told(field, record, new) for field, new in changed.items() if field not in self.volatile
            }
        events = [] if self.volatile.issuperset(changed) else [(f"{self.kind}.{event}", detail)]
        return self.write(tx, operation, record.id, changed, events) or record

    def write(
        self,
        tx: Transaction,
        operation: Operation,
        id_: str,
        changes: Mapping[str, Any],
        events: Sequence[Event] = (),
        *,
        configured: bool = False,
    ) -> R | None:
        """Set fields, private ones too; returns the record, or None where there is none. Equal values are not written.

        The events are recorded in any case. ``configured`` raises the revision also where no column of the
        configuration changes.
        """
        columns = {self._all[field].name: self.encode(field, value) for field, value in changes.items()}
        needed = dict.fromkeys((*columns, "revision", "state_revision", "created_at", "updated_at"))
        present = self.rows.read(tx, id_, tuple(needed))
        if present is None:
            return None
        values = {column: value for column, value in columns.items() if value != present[column]}
        changed = {field for field in changes if self._all[field].name in values}
        values |= self._counted(tx, present, changed, configured=configured)
        if values:
            self.rows.update(tx, id_, values)
        if "tags" in changed:
            self.write_tags(tx, id_, changes["tags"])
        if self.state in changed:
            column = self.columns[self.state].name
            self._count(tx, present[column], -1)
            self._count(tx, values[column], 1)
        row = tx.one(f"{self.select} WHERE {self._prefix}id = ?", (id_,))
        assert row is not None
        record = self.decode(row)
        self._record(tx, operation, record, present, values, events)
        return record

    def delete(
        self,
        tx: Transaction,
        operation: Operation,
        record: R,
        told: tuple[str, ...] = (),
        *,
        event: str = "deleted",
    ) -> None:
        """Delete a record, with its event, which tells the fields ``told``."""
        self.write_tags(tx, record.id, ())
        self._count(tx, getattr(record, self.state, None), -1)
        before = self.rows.delete(tx, record.id)
        detail = {field: getattr(record, field) for field in told}
        self._record(tx, operation, record, before, None, [(f"{self.kind}.{event}", detail)])

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
                hint="Look at it, and try again: " + command_line("nexusctl", *self.look, reference_of(record)),
                details={
                    "id": record.id,
                    "name": handle(record),
                    "revision": record.revision,
                    "state_revision": record.state_revision,
                },
            )

    def _count(self, tx: Transaction, state: Any, by: int) -> None:
        if state is not None:
            tx.count(self.kind, str(state), by)

    def _counted(self, tx: Transaction, present: Image, changed: Collection[str], *, configured: bool) -> Image:
        """The counters of a row that a change of these fields raises, with the time of the change."""
        counters: Image = {}
        if configured or not (self.observed | self.volatile).issuperset(changed):
            counters = {"revision": present["revision"] + 1, "updated_at": max(tx.now, present["created_at"])}
        if not self.observed.isdisjoint(changed):
            counters["state_revision"] = present["state_revision"] + 1
        return counters

    def encode(self, field: str, value: Any) -> Any:
        """The value of the field's column."""
        return self._all[field].to_column(value)

    def _told(self, field: str, before: R, new: Any) -> dict[str, Any]:
        return {"changed": True} if field in self._secret else {"from": getattr(before, field), "to": new}

    def refuse_taken_name(self, tx: Transaction, name: str, project_id: str | None, cannot: str) -> None:
        """Refuse a name that a record has, in the same project if these records have one.

        Raises:
            RecordNameTaken: one has it.
        """
        inside, parameters = (" AND project_id = ?", (name, project_id)) if self.has_project else ("", (name,))
        row = tx.one(f"SELECT id FROM {self.name} WHERE name = ?{inside}", parameters)
        if row is not None:
            look = qualified(project_name(tx, project_id), name) if project_id is not None else name
            raise self.errors.name_taken(
                f'{cannot}: {self.word} name "{name}" already exists',
                hint="Choose another name, or look at it: " + command_line("nexusctl", *self.look, look),
                details={"name": name, "id": row[0]},
            )

    def _record(
        self,
        tx: Transaction,
        operation: Operation,
        record: R,
        before: Image | None,
        after: Image | None,
        events: Sequence[Event],
    ) -> None:
        # A project is of its own scope, as what is told of it.
        project_id = getattr(record, "project_id", record.id if self.kind == "project" else None)
        subject = Subject(self.kind, record.id, handle(record), project_id)
        self.rows.record(tx, operation, subject, record.id, before, after, events, record.revision)
