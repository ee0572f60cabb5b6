"""``nexusctl db``: the database of a running daemon through the daemon, that of a stopped one as a file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
from nexus_protocol.errors import Internal

from nexus.cli.output import Printer, confirm, format_time, hint, output_options, print_fields, printer
from nexus.cli.verbs import NounGroup, Number, verb
from nexus.system.commands import BackupDatabase, Health

__all__ = ["db"]

_database_option = click.option(
    "--db", "database", metavar="PATH", help="The database (default: as for nexusd; NEXUS_DATABASE)."
)


def _status(app: Any, _values: dict[str, Any], out: Printer) -> None:
    health = app.call_raw(Health())
    database = health.get("database")
    if database is None:
        raise Internal("cannot read the database", hint="See: nexusctl doctor")

    def sentence() -> None:
        print_fields(
            [
                ("Database", database["path"]),
                ("Size", f"{database['size_bytes']} bytes"),
                ("Schema", f"version {database['schema_version']}"),
                ("Journal", database["journal_mode"]),
                ("Tables", f"{database['table_count']} ({', '.join(database['tables'])})"),
            ]
        )
        click.echo("Migrations:")
        for migration in database["migrations"]:
            applied = format_time(migration.get("applied_at")) or "at an unknown time"
            click.echo(f"  {migration['version']:04d} {migration['name']:<16} {applied}")

    out.one(database, key="path", sentence=sentence)


def _backup(app: Any, values: dict[str, Any], out: Printer) -> None:
    path = values["path"]
    command = BackupDatabase(
        path=str(Path(path).absolute()) if path else None,
        **({"keep_days": values["keep_days"]} if values["keep_days"] is not None else {}),
    )
    backup = app.call_raw(command)

    def sentence() -> None:
        click.echo(f"Backed up to {backup['path']} ({backup['size_bytes']} bytes)")
        if backup["pruned"]:
            click.echo(f"Deleted {backup['pruned']} older backups")

    out.one(backup, key="path", sentence=sentence)


@click.command
@click.argument("backup", type=click.Path(path_type=Path))
@_database_option
@click.option("-y", "--yes", is_flag=True, help="Skip confirmation.")
@output_options
@click.pass_obj
def _restore(app: Any, backup: Path, database: str | None, yes: bool, output: str, no_header: bool) -> int:
    """Put a backup in the place of the database, while no daemon runs.

    The replaced database stays under a dated name beside it. Event numbers go on above the highest it had.
    """
    from nexus.store.offline import restore_database

    path = app.database_path(database)
    if not yes and not confirm(
        f"Replace {path} by {backup}?",
        "refusing to replace the database without confirmation",
        f"nexusctl db restore {shlex.quote(str(backup))} --yes",
    ):
        return 1
    restored = restore_database(path, backup)

    def sentence() -> None:
        click.echo(f"Restored {restored.path} (schema version {restored.schema_version})")
        if restored.set_aside:
            click.echo(f"The replaced database is {restored.set_aside}")
        hint("Start the daemon: nexusctl daemon start")

    printer(output, no_header).one(restored._asdict(), key="path", sentence=sentence)
    return 0


@click.command
@click.option("--to", "target", type=Number(1), required=True, metavar="N", help="The schema version to go to.")
@_database_option
@output_options
@click.pass_obj
def _migrate(app: Any, target: int, database: str | None, output: str, no_header: bool) -> None:
    """Take the database to another schema version, forward or back, while no daemon runs.

    A verified backup is made first. Going back drops what the older schema has no place for.
    """
    from nexus.paths import state_directory
    from nexus.store.offline import migrate_database

    path = app.database_path(database)
    backups = Path(state_directory(), "backups")
    before, after = migrate_database(path, backups, target)

    def sentence() -> None:
        if before == after:
            click.echo(f"The database is at schema version {after} already")
        else:
            click.echo(f"Migrated {path} from schema version {before} to {after}")
            click.echo(f"The database as it was is in {backups}")

    record = {"path": str(path), "from": before, "to": after}
    printer(output, no_header).one(record, key="path", sentence=sentence)


@click.command
@_database_option
@output_options
@click.pass_obj
def _check(app: Any, database: str | None, output: str, no_header: bool) -> int:
    """Read the whole database and tell whether it is sound; a running daemon does not mind."""
    from nexus.store.offline import check_database

    report = check_database(app.database_path(database))

    def sentence() -> None:
        click.echo(f"{report.path}: schema version {report.schema_version}, {'damaged' if report.problems else 'ok'}")
        for table, rows in report.tables.items():
            click.echo(f"  {table:<16} {rows} rows")
        for problem in report.problems:
            click.echo(f"  {problem}", err=True)
        if report.problems:
            hint("Put a backup in its place: nexusctl daemon stop; nexusctl db restore BACKUP")

    printer(output, no_header).one(report._asdict(), key="path", sentence=sentence)
    return 1 if report.problems else 0


def _make_backup() -> click.Command:
    path = click.Argument(["path"], required=False, metavar="[PATH]")
    return verb(BackupDatabase, _backup, parameters=[path], exclude=("path",))


db = NounGroup(
    "db",
    "Look after the database. status and backup ask the running daemon; restore and migrate need a stopped one.",
    {
        "status": ("Show the database's tables and migrations.", lambda: verb(Health, _status)),
        "backup": ("Copy the database while it is in use.", _make_backup),
        "restore": ("Put a backup in the place of the database.", lambda: _restore),
        "migrate": ("Take the database to another schema version.", lambda: _migrate),
        "check": ("Tell whether the database is sound.", lambda: _check),
    },
)
