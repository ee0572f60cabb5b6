"""Handlers for create, get, list, update and delete, made from the declarations of a record type."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar, cast

import msgspec
from nexus_protocol import Command, InvalidArgument, encode_record

from nexus.capability import Context, handles
from nexus.records.errors import RecordNotFound
from nexus.records.fields import METADATA_BYTES, METADATA_DEPTH, metadata_fields
from nexus.records.links import linked
from nexus.records.matching import parse_words
from nexus.records.pages import decode_cursor, encode_cursor, read_page
from nexus.records.scope import ANYWHERE, Scope, handle
from nexus.records.table import Identified, Table, without_repeats
from nexus.store import Reader, Transaction

__all__ = [
    "MATCH_S",
    "check_cleared",
    "check_metadata",
    "check_values",
    "creates",
    "deletes",
    "gets",
    "lists",
    "updates",
]

R = TypeVar("R", bound=Identified)
T = TypeVar("T")

MATCH_S = 2.0
"""How long a list may look for words, for each hundred records."""

Check = Callable[[Transaction, Any, Any, str], None]
"""Called with the record, the command and the beginning of a sentence; raises a NexusError to refuse the change."""


def _accept(_tx: Transaction, _record: Any, _command: Any, _cannot: str) -> None:
    """Refuse nothing."""


def _scope(ctx: Context, reader: Reader, table: Table[Any]) -> Scope:
    """Where the request looks up names of these records: kinds without a project are found whatever it names."""
    return ctx.scope(reader) if table.has_project else ANYWHERE


def creates(
    table: Table[R],
    create: type[Command[R]],
    complete: Callable[[Transaction, Any], Mapping[str, Any]] = lambda _tx, _command: {},
) -> Any:
    """Make the handler of a Create command; ``complete`` gives the fields that the command does not have."""

    @handles(create)
    def handler(tx: Transaction, ctx: Context, command: Any) -> R:
        given = getattr(command, "name", None)
        cannot = f"cannot create the {table.word}" if given is None else f'cannot create {table.word} "{given}"'
        check_metadata(command, cannot)
        fields = msgspec.structs.asdict(command)
        if table.has_project:
            fields["project_id"] = ctx.scope(tx).home(cannot)
        return _repeated(tx, table, fields, cannot) or table.insert(
            tx, ctx.operation, fields | dict(complete(tx, command))
        )

    return handler


def _repeated(tx: Transaction, table: Table[R], fields: Mapping[str, Any], cannot: str) -> R | None:
    """The record that the same request, with these fields, made before.

    Raises:
        RecordIdTaken: a record has the id of the request and differs from it.
    """
    record = None if fields["id"] is None else table.by_id(tx, fields["id"])
    if record is None:
        return None
    wanted = without_repeats(fields)
    if all(_is_wanted(getattr(record, field), value) for field, value in wanted.items() if field != "id"):
        return record
    word = table.word
    raise table.errors.id_taken(
        f'{cannot}: {word} "{handle(record)}" has the id {record.id} and differs from this request',
        hint=f"To repeat a request, give the fields that the {word} has now; for another one choose another id.",
        details={"id": record.id, "name": handle(record)},
    )


def check_metadata(command: Any, cannot: str) -> None:
    """Check the bounds of free-form values; ``cannot`` begins the sentence.

    Raises:
        InvalidArgument: one is too large, or nested too deep.
    """
    kind: Any = type(command)
    for field in metadata_fields(kind):
        check_values(getattr(command, field), field, cannot)


def check_values(value: Mapping[str, Any] | None, field: str, cannot: str) -> None:
    """Check the bounds of free-form values of a field; ``cannot`` begins the sentence.

    Raises:
        InvalidArgument: they are too large, or nested too deep.
    """
    if not value:
        return
    if _depth(value) > METADATA_DEPTH:
        raise InvalidArgument(
            f"{cannot}: {field} is nested deeper than {METADATA_DEPTH} levels", details={"path": field}
        )
    if len(encode_record(value)) > METADATA_BYTES:
        raise InvalidArgument(f"{cannot}: {field} is larger than 16 KiB", details={"path": field})


def _depth(value: Any) -> int:
    """How deep lists and maps are nested; the decoder of requests has bounded it."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def _is_wanted(present: Any, wanted: Any) -> bool:
    return present in (None, [], {}) if wanted is None else present == wanted


def gets(table: Table[R], get: type[Command[R]]) -> Any:
    """Make the handler of a Get command, whose first field is the reference."""
    (reference, *_) = get.__struct_fields__

    @handles(get)
    def handler(ctx: Context, command: Any) -> R:
        return ctx.store.read(
            lambda reader: table.resolve(reader, getattr(command, reference), _scope(ctx, reader, table))
        )

    return handler


def updates(table: Table[R], update: type[Command[R]], check: Check = _accept) -> Any:
    """Make the handler of an Update command, whose first field is the reference. Its field ``clear``, where it has one,
    names optional fields to unset."""
    reference, *fields = update.__struct_fields__
    fields = [field for field in fields if not field.startswith("if_")]
    optional = {field.name for field in msgspec.structs.fields(cast("Any", table.record)) if field.default is None}
    clearable = [field for field in fields if field in optional]

    @handles(update)
    def handler(tx: Transaction, ctx: Context, command: Any) -> R:
        changes = {field: getattr(command, field) for field in fields if getattr(command, field) is not None}
        cleared = changes.pop("clear", None) or ()
        check_cleared(cleared, clearable, changes, f'cannot update {table.word} "{getattr(command, reference)}"')
        changes |= dict.fromkeys(cleared)
        if not changes:
            raise InvalidArgument(
                f'cannot update {table.word} "{getattr(command, reference)}": no field to change was given',
                hint=f"Give at least one of {', '.join(fields[:-1])} and {fields[-1]}.",
                details={"path": ""},
            )
        check_metadata(command, f'cannot update {table.word} "{getattr(command, reference)}"')
        record = table.resolve(tx, getattr(command, reference), _scope(ctx, tx, table))
        cannot = f'cannot update {table.word} "{handle(record)}"'
        table.expect(record, cannot, command.if_revision)
        check(tx, record, command, cannot)
        return table.update(tx, ctx.operation, record, changes)

    return handler


def check_cleared(
    cleared: Collection[str],
    clearable: Sequence[str],
    changes: Collection[str],
    cannot: str,
    error: type[InvalidArgument] = InvalidArgument,
) -> None:
    """Refuse to unset fields that cannot be unset, or that the request sets: those of ``changes``.

    Raises:
        InvalidArgument: it would; as ``error``.
    """
    unknown = sorted(set(cleared).difference(clearable))
    if unknown:
        raise error(
            f"{cannot}: {unknown[0]} cannot be unset",
            hint=f"Give some of {', '.join(clearable)}.",
            details={"path": "clear"},
        )
    if not set(changes).isdisjoint(cleared):
        raise error(f"{cannot}: it sets and clears the same field", details={"path": "clear"})


def deletes(
    table: Table[R],
    delete: type[Command[R]],
    check: Check = _accept,
    told: tuple[str, ...] = (),
) -> Any:
    """Make the handler of a Delete command, whose first field is the reference. ``told`` are the event's fields."""
    (reference, *_) = delete.__struct_fields__

    @handles(delete)
    def handler(tx: Transaction, ctx: Context, command: Any) -> R:
        record = table.resolve(tx, getattr(command, reference), _scope(ctx, tx, table))
        cannot = f'cannot delete {table.word} "{handle(record)}"'
        table.expect(record, cannot, command.if_revision, command.if_state_revision)
        check(tx, record, command, cannot)
        table.delete(tx, ctx.operation, record, told)
        return record

    return handler


def _linked_id(reader: Reader, kind: str, reference: str, scope: Scope) -> str:
    """The id of the record that a filter names; of one that is not there no record is."""
    try:
        return linked(reader, kind, reference, scope)[kind]
    except RecordNotFound:
        return reference


async def _read(ctx: Context, fn: Callable[[Reader], T], *, may_be_long: bool) -> T:
    """Read by an index; what words find may be much, and is read beside the event loop."""
    return await (ctx.store.scan(fn, limit_s=MATCH_S) if may_be_long else ctx.store.fetch(fn))


def lists(
    table: Table[R],
    list_: type[Command[Any]],
    field: str,
    links: Mapping[str, str] | None = None,
    *,
    complete: Callable[[Reader, list[R]], list[R]] | None = None,
) -> Any:
    """Make the handler of a List command, whose page has its records in ``field``.

    The fields of the command beside ``limit`` and ``cursor`` are filters: ``tag`` for a tag, ``match`` for words that
    the search finds, any other for equality.
    ``links`` are filters that refer to records of another kind, with that kind. ``complete`` sets what is computed.
    """
    filters = [name for name in list_.__struct_fields__ if name not in ("limit", "cursor")]
    page = list_.info.reply
    again = f"Give the same {' and '.join(filters)} as for the first page" if filters else "Give one of this list"
    hint = f"{again}, or list from the start."

    @handles(list_)
    async def handler(ctx: Context, command: Any) -> Any:
        wanted = {name: getattr(command, name) for name in filters if getattr(command, name) is not None}
        scope = await ctx.store.fetch(lambda reader: _scope(ctx, reader, table))
        if scope.is_nowhere:
            return page(**{field: []})
        project_id = scope.project_id
        for name in [name for name in links or () if name in wanted]:
            wanted[name] = await ctx.store.fetch(
                lambda reader, name=name: _linked_id(reader, links[name], wanted[name], scope)  # type: ignore[misc, index]
            )
        bound = (table.kind, project_id, *(getattr(command, name) for name in filters))
        after = None
        if command.cursor is not None:
            after = decode_cursor(command.cursor, bound, table.position_type, table.errors.cursor_invalid, hint)
        match = None if (text := wanted.pop("match", None)) is None else parse_words(text, "match")
        # One filter in SQL, by its index. A page that passes over too many records for the others ends with a cursor.
        where: tuple[str, Any] | None = None
        tag = wanted.pop("tag", None)
        linked_by = next((name for name in table.found_by if name in wanted), None)
        if linked_by is not None:
            where = (linked_by, wanted.pop(linked_by))
        elif tag is not None and await ctx.store.fetch(lambda reader: table.is_rare(reader, tag)):
            where, tag = ("tag", tag), None
        else:
            where = next(((name, wanted.pop(name)) for name in table.indexed if name in wanted), None)

        def fits(record: Any) -> bool:
            return all(getattr(record, name) == value for name, value in wanted.items()) and (
                tag is None or tag in record.tags
            )

        def page_of(reader: Reader, after: Any, count: int) -> list[R]:
            found = table.page(reader, after=after, count=count, where=where, project_id=project_id, match=match)
            return found if complete is None else complete(reader, found)

        records, last = await read_page(
            lambda after, count: _read(
                ctx,
                functools.partial(page_of, after=after, count=count),
                may_be_long=match is not None,
            ),
            table.position,
            fits if wanted or tag is not None else None,
            after,
            command.limit,
        )
        return page(**{field: records, "next_cursor": None if last is None else encode_cursor(bound, last)})

    return handler
