"""``nexusctl op``: lists operations, and shows what one of them changed, what led to it and what it led to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from nexus.cli.output import Column, Printer, format_time, hint, print_fields, printable
from nexus.cli.result import Result, Results
from nexus.cli.verbs import NounGroup, Number, Values, since, verb
from nexus.hints import command_line
from nexus.journal.commands import Change, GetOperation, ListOperations, Operation, OperationDetail, OperationPage

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["op"]

_SHOWN = 50
"""The default of ``op list --limit``."""
_PAGE = 1000
_VALUE_CHARACTERS = 200
"""Of one value for a person; ``-o json`` has all of it."""


def _by(operation: Operation) -> str:
    return operation.actor or f"uid {operation.uid}"


def _subjects(operation: Operation) -> str:
    names = operation.subjects
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


_COLUMNS: tuple[Column[Operation], ...] = (
    Column("ID", lambda operation: operation.id, 6),
    Column("TIME", lambda operation: format_time(operation.at), 23),
    Column("COMMAND", lambda operation: operation.command, 16),
    Column("SUBJECT", _subjects, 20),
    Column("BY", _by, 12),
    Column("PROJECT", lambda operation: operation.project, 12, wide=True),
    Column("CAUSE", lambda operation: operation.cause, 6),
    Column("WHY", lambda operation: operation.why),
    Column("KEY", lambda operation: operation.key, wide=True),
    Column("PID", lambda operation: operation.pid, wide=True),
)
_PROJECT: Column[Operation] = Column("PROJECT", lambda operation: operation.project, 12)


def _make_list() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        limit = values.number("limit") or _SHOWN
        pages: list[Results[Operation]] = []
        left = limit
        cursor: str | None = None
        while True:
            count = min(left, _PAGE)
            # --actor is a global option, which has no other use for a list.
            command = values.build(ListOperations, actor=app.actor_option, limit=count, cursor=cursor)
            page = app.fetch(command)
            pages.append(page.rows(OperationPage.operations))
            left -= len(pages[-1])
            cursor = page.plain.get("next_cursor")
            if cursor is None or left <= 0:
                break
        found = Results.joined(pages)
        columns = (_COLUMNS[0], _PROJECT, *_COLUMNS[1:]) if app.all_projects else _COLUMNS
        out.many(found, columns, name=lambda operation: operation.id, nothing="No operations found.")
        if not found:
            app.hint_missing_project()
        if cursor is not None:
            hint(f"Older operations are not shown: give a --limit above {limit}.")

    parameters = [
        click.Option(["--actor"], metavar="NAME", help="Only those of this actor."),
        click.Option(
            ["--since", "since_at"],
            type=since,
            metavar="TIME",
            help="Only those begun since then: a time ago such as 2h, or a time in UTC.",
        ),
        click.Option(["--limit"], type=Number(1), default=_SHOWN, help=f"Maximum number (default: {_SHOWN})."),
    ]
    return verb(
        ListOperations, run, parameters=parameters, exclude=("actor", "since_at", "limit", "cursor"), help=_LIST_HELP
    )


_LIST_HELP = """List operations, newest first: the requests that changed something, and the daemon's own causes.

\b
    nexusctl op list --subject api --since 2h
    nexusctl op list --command 'process.*'
"""


def _make_show() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        id_ = values.number("id")
        assert id_ is not None
        detail = app.fetch(GetOperation(id_, limit=_PAGE))
        parts = [detail.rows(OperationDetail.changes)]
        cursor = detail.plain.get("next_cursor")
        while cursor is not None:
            more = app.fetch(GetOperation(id_, limit=_PAGE, cursor=cursor))
            parts.append(more.rows(OperationDetail.changes))
            cursor = more.plain.get("next_cursor")
        changes = Results.joined(parts)
        plain = {name: value for name, value in detail.plain.items() if name != "next_cursor"}
        out.one(
            Result(plain | {"changes": changes.plain}, lambda: detail.record),
            name=lambda detail: detail.operation.id,
            sentence=lambda detail: _print(detail, changes.records),
        )

    return verb(GetOperation, run, exclude=("limit", "cursor"), help=_SHOW_HELP)


_SHOW_HELP = """Show one operation: what it changed, column by column, what led to it and what it led to.

\b
    nexusctl op show 42
"""


def _print(detail: OperationDetail, changes: Sequence[Change]) -> None:
    operation, cause = detail.operation, detail.cause
    led_from = operation.cause
    print_fields(
        [
            ("Operation", operation.id),
            ("Command", operation.command),
            *[(f"  {name}", _value(value)) for name, value in operation.args.items()],
            ("Time", format_time(operation.at)),
            ("By", f"{_by(operation)} (uid {operation.uid}, pid {operation.pid})"),
            ("Project", operation.project),
            ("Why", operation.why),
            ("Key", operation.key),
            ("Lease", None if operation.lease_id is None else f"{operation.lease_id}, epoch {operation.epoch}"),
            ("Cause", _one_line(cause) if cause else f"{led_from}, which is no longer kept" if led_from else None),
            *[("Led to", _one_line(caused)) for caused in detail.caused],
        ]
    )
    if not changes and not detail.caused:
        click.echo("It changed no record.")
    for change in changes:
        subject = change.subject_name or change.subject_id
        click.echo()
        click.echo(printable(f"{change.kind}  {change.subject_kind} {subject}"))
        before, after = change.before, change.after
        for column in dict.fromkeys((*(before or ()), *(after or ()))):
            if before is None or after is None:
                whole = after if before is None else before
                assert whole is not None
                click.echo(printable(f"  {'+' if before is None else '-'} {column}: {_value(whole[column], column)}"))
            else:
                click.echo(
                    printable(f"  {column}: {_value(before.get(column), column)} → {_value(after.get(column), column)}")
                )
        for column in change.secret:
            click.echo(printable(f"  {column}: a secret, which was changed"))
    if any(change.detail for change in changes):
        hint("What each event tells is in: " + command_line("nexusctl", "op", "show", operation.id, "-o", "json"))


def _one_line(operation: Operation) -> str:
    words = [str(operation.id), operation.command, _subjects(operation), f"by {_by(operation)}"]
    return " ".join(word for word in words if word)


def _value(value: object, column: str = "") -> str:
    if value is None:
        return "-"
    if column.endswith("_at") and isinstance(value, int):
        return format_time(value) or ""
    text = value if isinstance(value, str) else _json(value)
    if len(text) <= _VALUE_CHARACTERS:
        return text
    return f"{text[:_VALUE_CHARACTERS]}… ({len(text)} characters)"


def _json(value: object) -> str:
    import msgspec

    return msgspec.json.encode(value).decode()


op = NounGroup(
    "op",
    "Show operations: what was done, by whom and why.",
    {
        "list": ("List operations, newest first.", _make_list),
        "show": ("Show one operation with all that it changed.", _make_show),
    },
    {"ls": " (did you mean 'list'?)"} | dict.fromkeys(("inspect", "get"), " (did you mean 'show'?)"),
)
