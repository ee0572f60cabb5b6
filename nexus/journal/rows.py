"""Journaled tables: each write to one of their rows is recorded with what the row was before and after it.

No other code writes these tables. From the images, any earlier state of a row can be told; docs/history.md says how.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from nexus_protocol.events import WRITTEN, declared_causes, event_kind

from nexus.journal.operation import Operation
from nexus.store import Transaction

__all__ = [
    "OWN_TABLES",
    "Event",
    "Image",
    "Rows",
    "Subject",
    "Written",
    "append_only",
    "append_only_tables",
    "is_part",
    "derived",
    "derived_tables",
    "journaled_tables",
    "record",
    "unheld_operation",
]

Event = tuple[str, dict[str, Any]]
"""The kind of an event, and its detail: any JSON without secrets."""

Image = dict[str, Any]
"""Columns and their values."""

OWN_TABLES = frozenset({"schema_meta", "journal", "operation", "request_key", "secret_value"})
"""The tables of the store and of the journal itself, which have no images."""

_encode_detail = msgspec.json.Encoder().encode
_encode_image = msgspec.msgpack.Encoder().encode
_EMPTY = (None, "", "{}", "[]")
"""Values of secret columns that are no secrets."""

_ROWS: dict[str, Rows] = {}
_DERIVED: dict[str, str] = {}
_APPEND_ONLY: dict[str, str] = {}

_INSERT = (
    "INSERT INTO journal (at, kind, subject_kind, subject_id, subject_name, project_id, actor, uid, pid, detail, "
    "operation_id, row_table, row_key, revision, before, after) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class Subject(NamedTuple):
    """What an event is about."""

    kind: str
    id: str
    name: str | None
    project_id: str | None
    """None: it is of no project."""


class Written(NamedTuple):
    """A write of one row, as ``Rows.record_many`` records it."""

    subject: Subject
    key: str
    before: Image | None
    after: Image | None
    event: Event
    revision: int | None


class Rows:
    """A journaled table: its ``columns`` and the column that is its ``key``.

    A change without an event of its own is recorded as ``<kind>.written``. Of ``secret`` columns an image has a
    reference to the table ``secret_value``; ``volatile`` ones are in no image, and a change of them alone is not
    recorded. ``joined`` is another table with exactly one row for each of this one: its name, and the column here with
    that row's id. Its columns are written as ``table.column``.
    """

    def __init__(
        self,
        name: str,
        columns: Iterable[str],
        *,
        kind: str,
        key: str = "id",
        secret: Collection[str] = (),
        volatile: Collection[str] = (),
        joined: tuple[str, str] | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.key = key
        self.columns = tuple(columns)
        self.secret = frozenset(secret)
        self.volatile = frozenset(volatile)
        self.joined = joined
        prefix = None if joined is None else f"{joined[0]}."
        self._own = [column for column in self.columns if prefix is None or not column.startswith(prefix)]
        self._other = [column for column in self.columns if prefix is not None and column.startswith(prefix)]
        _ROWS[name] = self

    # Each of these writes one row, without recording it. The result is for ``record``.

    def insert(self, tx: Transaction, values: Mapping[str, Any]) -> Image:
        """Insert a row; returns all its columns. Those without a value have the default of the schema.

        Raises:
            StoreConflict: a constraint refused the row.
        """
        row = dict(values)
        if self.joined is not None:
            table, column = self.joined
            row[column] = self._insert_into(tx, table, self._other, row, ("id",))["id"]
        return row | self._insert_into(tx, self.name, self._own, row, tuple(c for c in self._own if c not in row))

    def insert_whole(self, tx: Transaction, values: Sequence[Any]) -> Image:
        """Insert a row, given all columns in their order; returns those that are not NULL.

        Raises:
            StoreConflict: a constraint refused the row.
        """
        tx.execute(_insert_statement(self.name, self.columns, ()), values)
        return {column: value for column, value in zip(self.columns, values, strict=True) if value is not None}

    @staticmethod
    def _insert_into(
        tx: Transaction, table: str, columns: Sequence[str], row: Mapping[str, Any], returned: tuple[str, ...]
    ) -> Image:
        given = tuple(column for column in columns if column in row)
        sql = _insert_statement(table, given, returned)
        values = [row[column] for column in given]
        if not returned:
            tx.execute(sql, values)
            return {}
        found = tx.one(sql, values)
        assert found is not None
        return dict(zip(returned, found, strict=True))

    def read(self, tx: Transaction, key: Any, columns: Sequence[str]) -> Image | None:
        """Read columns of a row; None where there is none."""
        source = self.name
        if self.joined is not None and any(column in self._other for column in columns):
            table, column = self.joined
            source += f" JOIN {table} ON {table}.id = {self.name}.{column}"
        names = ", ".join(column if "." in column else f"{self.name}.{column}" for column in columns)
        row = tx.one(f"SELECT {names} FROM {source} WHERE {self.name}.{self.key} = ?", (key,))
        return None if row is None else dict(zip(columns, row, strict=True))

    def update(self, tx: Transaction, key: Any, values: Mapping[str, Any]) -> None:
        """Set columns of a row.

        Raises:
            StoreConflict: a constraint refused the change.
        """
        own = {column: value for column, value in values.items() if column not in self._other}
        if own:
            self._update(tx, self.name, own, f"{self.key} = ?", key)
        if len(own) != len(values):
            assert self.joined is not None
            table, column = self.joined
            other = {_plain(name): value for name, value in values.items() if name not in own}
            self._update(tx, table, other, f"id = (SELECT {column} FROM {self.name} WHERE {self.key} = ?)", key)

    @staticmethod
    def _update(tx: Transaction, table: str, values: Mapping[str, Any], condition: str, key: Any) -> None:
        assignments = ", ".join(f"{column} = ?" for column in values)
        tx.execute(f"UPDATE {table} SET {assignments} WHERE {condition}", (*values.values(), key))

    def delete(self, tx: Transaction, key: Any) -> Image | None:
        """Delete a row; returns all its columns, or None where there was none."""
        row = tx.one(f"DELETE FROM {self.name} WHERE {self.key} = ? RETURNING {', '.join(self._own)}", (key,))
        if row is None:
            return None
        image = dict(zip(self._own, row, strict=True))
        if self.joined is not None and self._other:
            table, column = self.joined
            names = ", ".join(_plain(each) for each in self._other)
            other = tx.one(f"DELETE FROM {table} WHERE id = ? RETURNING {names}", (image[column],))
            if other is not None:
                image |= dict(zip(self._other, other, strict=True))
        return image

    def record(
        self,
        tx: Transaction,
        operation: Operation,
        subject: Subject,
        key: Any,
        before: Image | None,
        after: Image | None,
        events: Sequence[Event] = (),
        revision: int | None = None,
    ) -> None:
        """Record a write that ``tx`` has made: its first event carries the images.

        Of two images only the columns of ``after`` that changed are kept, and ``before`` may have others; a single one
        is the whole row.
        """
        if before is not None and after is not None:
            changed = [column for column in after if after[column] != before[column]]
            before, after = {c: before[c] for c in changed}, {c: after[c] for c in changed}
        secrets: dict[bytes, Any] = {}
        images = [self._image(tx, image, secrets, whole=None in (before, after)) for image in (before, after)]
        if not any(images):
            _insert_events(tx, operation, subject, events)
            return
        (kind, detail), *others = events or ((self.kind + WRITTEN, {}),)
        packed = [None if image is None else _encode_image(image) for image in images]
        written = (self.name, str(key), revision, *packed)
        seq = _insert(tx, operation, subject, kind, detail, written, numbered=bool(secrets))
        for digest, value in secrets.items():
            tx.execute(
                "INSERT INTO secret_value (digest, value, seq) VALUES (?, ?, ?) "
                "ON CONFLICT (digest) DO UPDATE SET seq = excluded.seq",
                (digest, value, seq),
            )
        if others:
            _insert_events(tx, operation, subject, others)

    # Each of these writes many rows with one statement; none is for a table with a joined one.

    def insert_many(self, tx: Transaction, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows, given these columns of each, without recording it.

        Raises:
            StoreConflict: a constraint refused a row.
        """
        tx.execute_many(_insert_statement(self.name, tuple(columns), ()), rows)

    def update_many(self, tx: Transaction, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Set columns of rows, given these columns of each and then its key, without recording it.

        Raises:
            StoreConflict: a constraint refused a change.
        """
        assignments = ", ".join(f"{column} = ?" for column in columns)
        tx.execute_many(f"UPDATE {self.name} SET {assignments} WHERE {self.key} = ?", rows)

    def delete_many(self, tx: Transaction, keys: Iterable[str]) -> None:
        """Delete rows, without recording it.

        Raises:
            StoreConflict: another row refers to one of them.
        """
        tx.execute_many(f"DELETE FROM {self.name} WHERE {self.key} = ?", [(key,) for key in keys])

    def record_many(self, tx: Transaction, operation: Operation, written: Sequence[Written]) -> None:
        """Record writes that ``tx`` has made, each with its event; of two images all columns have changed."""
        if self.secret or not written:
            for each in written:
                self.record(tx, operation, each.subject, each.key, each.before, each.after, [each.event], each.revision)
            return
        caller = operation.caller
        id_ = operation.enter(tx, written[0].subject.project_id)
        hidden = self.volatile
        rows = []
        for subject, key, before, after, (kind, detail), revision in written:
            images = []
            for image in (before, after):
                if image is not None and None in (before, after):
                    image = {c: value for c, value in image.items() if value is not None and c not in hidden}
                elif image is not None and not hidden.isdisjoint(image):
                    image = {c: value for c, value in image.items() if c not in hidden}
                images.append(_encode_image(image) if image else None)
            if images == [None, None]:
                continue
            packed = _encode_detail(detail).decode() if detail else "{}"
            who = (caller.actor, caller.uid, caller.pid, packed, id_)
            rows.append((tx.now, kind, *subject, *who, self.name, key, revision, *images))
        for kind in {each.event[0] for each in written}:
            event_kind(kind)
        tx.mark_journal()
        tx.execute_many(_INSERT, rows)

    def _image(self, tx: Transaction, columns: Image | None, secrets: dict[bytes, Any], *, whole: bool) -> Image | None:
        """What is recorded of columns. A ``whole`` row is without those that are NULL."""
        if columns is None:
            return None
        if not self.secret and not self.volatile:
            return {column: value for column, value in columns.items() if value is not None} if whole else columns
        image: Image = {}
        for column, value in columns.items():
            if column in self.volatile or (whole and value is None):
                continue
            if column in self.secret and value not in _EMPTY:
                digest = tx.digest(_encode_image([self.name, column, value]))
                secrets[digest] = value
                value = {"secret": digest}
            image[column] = value
        return image


def derived(table: str, source: str) -> None:
    """Declare a table that holds nothing but what columns of journaled tables say, the ``source``: it has no images."""
    _DERIVED[table] = source


def derived_tables() -> dict[str, str]:
    """Every derived table that was declared so far, with its source."""
    return dict(_DERIVED)


def append_only(table: str, history: str) -> None:
    """Declare a table without images whose rows are added, or changed once ``history`` has what they were."""
    _APPEND_ONLY[table] = history


def append_only_tables() -> dict[str, str]:
    """Every append-only table that was declared so far, with what keeps the earlier states of its rows."""
    return dict(_APPEND_ONLY)


def journaled_tables() -> dict[str, Rows]:
    """Every journaled table that was declared so far, by name."""
    return dict(_ROWS)


def unheld_operation() -> str:
    """The SQL condition on a row of ``operation`` that no event is of it, and no record has its state by it."""
    held = (
        f" AND id NOT IN (SELECT operation_id FROM {rows.name} WHERE operation_id IS NOT NULL)"
        for rows in _ROWS.values()
        if "operation_id" in rows.columns
    )
    return "NOT EXISTS (SELECT 1 FROM journal WHERE journal.operation_id = operation.id)" + "".join(held)


def is_part(table: str = "operation") -> tuple[str, list[str]]:
    """The SQL condition on a row of ``operation`` that a client made it as a part of another, with its parameters.

    What the daemon itself began has a cause as well, and the name of one.
    """
    causes = [cause.name for cause in declared_causes()]
    return f"{table}.cause IS NOT NULL AND {table}.command NOT IN ({', '.join('?' * len(causes))})", causes


def record(tx: Transaction, operation: Operation, kind: str, subject: Subject, detail: dict[str, Any]) -> None:
    """Record an event that changed no row of a journaled table, such as a checkout of a repository."""
    _insert(tx, operation, subject, kind, detail, (None, None, None, None, None))


def _insert_events(tx: Transaction, operation: Operation, subject: Subject, events: Iterable[Event]) -> None:
    for kind, detail in events:
        record(tx, operation, kind, subject, detail)


def _insert(
    tx: Transaction,
    operation: Operation,
    subject: Subject,
    kind: str,
    detail: dict[str, Any],
    written: tuple[Any, ...],
    *,
    numbered: bool = False,
) -> int:
    """Insert a row of the journal; returns its number, if it is ``numbered``."""
    event_kind(kind)
    caller = operation.caller
    values = (
        tx.now,
        kind,
        *subject,
        caller.actor,
        caller.uid,
        caller.pid,
        _encode_detail(detail).decode(),
        operation.enter(tx, subject.project_id),
        *written,
    )
    tx.mark_journal()
    if not numbered:
        tx.execute(_INSERT, values)
        return 0
    row = tx.one(f"{_INSERT} RETURNING seq", values)
    assert row is not None
    return int(row[0])


@functools.cache  # tables are declared once, and their columns are given in few combinations
def _insert_statement(table: str, given: tuple[str, ...], returned: tuple[str, ...]) -> str:
    names = ", ".join(_plain(column) for column in given)
    sql = f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(given))})"
    return f"{sql} RETURNING {', '.join(returned)}" if returned else sql


def _plain(column: str) -> str:
    return column.rpartition(".")[2]
