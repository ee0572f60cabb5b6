"""``nexusctl db backups``, ``gc`` and ``sql``: the files beside the database, and questions to it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from nexus.cli.db import database_option
from nexus.cli.output import (
    Column,
    Printer,
    format_size,
    format_time,
    hint,
    output_options,
    printer,
    write_exact,
)
from nexus.cli.result import Result, Results, made
from nexus.cli.verbs import Duration, Number
from nexus.conversations.commands import SweepBlobs
from nexus.conversations.records import SweptBlobs

if TYPE_CHECKING:
    from nexus.cli.app import App
    from nexus.store.backup_folder import ListedBackup

__all__ = ["backups", "gc", "sql"]

_QUERY_S = 60.0


def _database(app: App, database: str | None) -> Path:
    """The database that is named, else that of the running daemon, else the configured one."""
    path: Path = app.database_path(database)
    if database is None:
        path = app.daemon_database() or path
    return path


@click.command
@database_option
@output_options
@click.pass_obj
def backups(app: App, database: str | None, output: str, no_header: bool) -> int:
    """List the backups in the state folder, newest first, also those that were made before a migration."""
    from nexus.paths import state_directory
    from nexus.store.backup_folder import list_backups
    from nexus.store.sqlite import database_file

    directory = Path(state_directory(), "backups")
    found = list_backups(directory, database_file(app.database_path(database)).stem)

    def kind(backup: ListedBackup) -> str:
        if backup.before_version is not None:
            return f"before version {backup.before_version}"
        return "with files" if backup.with_files else "database"

    columns: tuple[Column[ListedBackup], ...] = (
        Column("TIME", lambda backup: format_time(backup.at), 23),
        Column("KIND", kind, 17),
        Column("SIZE", lambda backup: format_size(backup.size_bytes), 10),
        Column("SCHEMA", lambda backup: "unreadable" if backup.schema_version is None else backup.schema_version),
        Column("PATH", lambda backup: backup.path),
    )
    results = Results.of([made(each, each._asdict()) for each in found])
    printer(output, no_header).many(
        results, columns, name=lambda backup: backup.path, nothing=f"No backups found in {directory}."
    )
    return 0


@click.command
@click.option("--dry-run", is_flag=True, help="Count only, and delete nothing.")
@click.option(
    "--grace",
    type=Duration(0, 366 * 86_400_000),
    default="1d",
    metavar="TIME",
    help="How long a blob is kept after it was stored or named (default: 1d).",
)
@database_option
@output_options
@click.pass_obj
def gc(app: App, dry_run: bool, grace: int, database: str | None, output: str, no_header: bool) -> int:
    """Delete the blobs that no message names, and what unfinished writes have left.

    The running daemon does it, which also does so by itself once a day; without one, nexusctl does. The output of jobs
    and services needs no such verb: the daemon deletes it with their records, and at its start what no record knows.
    """
    if database is None and app.daemon_pid() is not None:
        swept: Result[SweptBlobs] = app.fetch(SweepBlobs(dry_run=dry_run, grace_ms=grace))
    else:
        from nexus.capabilities import file_sets
        from nexus.store.maintenance import sweep_files

        done = sweep_files(app.database_path(database), file_sets(), grace, dry_run=dry_run)
        record = SweptBlobs(*done)
        swept = made(record, {name: getattr(record, name) for name in record.__struct_fields__})

    def sentence(swept: SweptBlobs) -> None:
        verb = "Would delete" if dry_run else "Deleted"
        rest = f", {swept.temporary} of them unfinished or of no record" if swept.temporary else ""
        click.echo(
            f"{verb} {swept.count} blob{'' if swept.count == 1 else 's'} ({format_size(swept.size_bytes)}){rest}"
        )

    printer(output, no_header).one(swept, name=lambda swept: swept.count, sentence=sentence)
    return 0


class _Row(NamedTuple):
    values: tuple[Any, ...]


@click.command
@click.argument("statement")
@database_option
@click.option("--limit", type=Number(1, 1_000_000), default=1000, help="The most rows to print (default: 1000).")
@click.option("--no-header", is_flag=True, help="Leave out the names of the columns.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "jsonl", "csv"]),
    default="table",
    help="How to print (default: table).",
)
@click.pass_obj
def sql(app: App, statement: str, database: str | None, limit: int, no_header: bool, output: str) -> int:
    """Answer one SQL statement that reads, also while the daemon runs. With - it is read from standard input.

    A statement that writes is refused, and one that takes longer than a minute is ended, or after --timeout. Columns
    that may hold a secret, such as environments, read as NULL.

    \b
        nexusctl db sql 'SELECT kind, count(*) FROM journal GROUP BY kind' -o csv
    """
    from nexus.store.query import query

    if statement == "-":
        statement = sys.stdin.read()
    path = _database(app, database)
    answer = query(path, statement, limit=limit, timeout_s=app.timeout_s or _QUERY_S)
    if output == "csv":
        _print_csv(answer.columns, answer.rows, no_header)
    else:
        rows = [
            made(_Row(row), {name: _plain(value) for name, value in zip(answer.columns, row, strict=True)})
            for row in answer.rows
        ]
        columns: list[Column[_Row]] = [
            Column(name, lambda row, at=at: _shown(row.values[at]))  # type: ignore[misc]
            for at, name in enumerate(answer.columns)
        ]
        Printer(output, no_header).many(Results.of(rows), columns, name=str, nothing="No rows.")
    if answer.secret:
        hint(f"Read as NULL, because they may hold secrets: {', '.join(answer.secret)}")
    if answer.more:
        hint(f"There are more than {limit} rows. Print more: --limit N")
    return 0


def _plain(value: Any) -> Any:
    """A value as JSON has it: bytes as SQL writes them, infinite numbers as text."""
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return str(value) if isinstance(value, float) and value - value != 0 else value


def _shown(value: Any) -> Any:
    return "NULL" if value is None else _plain(value)


def _print_csv(columns: list[str], rows: list[tuple[Any, ...]], no_header: bool) -> None:
    """As RFC 4180, with LF; NULL is an empty field."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not no_header:
        writer.writerow(columns)
    writer.writerows([["" if value is None else _plain(value) for value in row] for row in rows])
    write_exact(text.getvalue())
