"""``nexusctl db``: the database of a running daemon through the daemon, that of a stopped one as a file."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from nexus_protocol.errors import FailedPrecondition, Internal

from nexus.cli.find_daemon import daemon_database
from nexus.cli.output import Printer, confirm, format_time, hint, output_options, print_fields, printer
from nexus.cli.verbs import NounGroup, Number, verb
from nexus.system.commands import BackupDatabase, Health

if TYPE_CHECKING:
    from nexus.store.maintenance import CheckReport

__all__ = ["db", "examine"]

_UNREADABLE = ("SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_READONLY", "SQLITE_AUTH")
"""What SQLite says of a sound file that we may not use."""

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
            click.echo(f"Deleted {backup['pruned']} older backup{'s' if backup['pruned'] > 1 else ''}")

    out.one(backup, key="path", sentence=sentence)


def _database_words(database: str | None) -> str:
    """The option for a command line that is to be about the same database."""
    return f" --db {shlex.quote(database)}" if database else ""


def _refuse_another(app: Any, path: Path, doing: str) -> None:
    """Refuse to touch what nobody named, where the running daemon uses another database."""
    used = daemon_database(app)
    if used is not None and used.resolve() != path.resolve():
        raise FailedPrecondition(
            f"cannot {doing}: which one? The running daemon uses {used}, and not {path}",
            hint="Stop it first: nexusctl daemon stop; or name the database: --db PATH",
        )


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
    from nexus.store.backup import verify_database
    from nexus.store.base import InitError
    from nexus.store.maintenance import refuse_if_used, restore_database

    path = app.database_path(database)
    if database is None:
        _refuse_another(app, path, "restore the database")
    if not backup.is_file():
        raise InitError(f"cannot restore {backup}: there is no such file", hint=f"Backups are in {path.parent}/backups")
    refuse_if_used(path, "restore the database")
    if not yes:
        verify_database(backup.absolute())
    if not yes and not confirm(
        f"Replace {path} by {backup}?",
        "refusing to replace the database without confirmation",
        f"nexusctl db restore {shlex.quote(str(backup))}{_database_words(database)} --yes",
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
@click.option("-y", "--yes", is_flag=True, help="Skip the confirmation that going back needs.")
@output_options
@click.pass_obj
def _migrate(app: Any, target: int, database: str | None, yes: bool, output: str, no_header: bool) -> int:
    """Take the database to another schema version, forward or back, while no daemon runs.

    A verified backup is made first. Going back drops what the older schema has no place for.
    """
    from nexus.paths import state_directory
    from nexus.store.maintenance import migrate_database, plan_migration

    path = app.database_path(database)
    if database is None:
        _refuse_another(app, path, "migrate the database")
    plan = plan_migration(path, target)
    if target < plan.current and not yes:
        drops = ", ".join(f"{table} ({rows} rows)" for table, rows in plan.drops.items())
        what = f"from schema version {plan.current} back to {target}" + (f", which drops {drops}" if drops else "")
        if not confirm(
            f"Take {path} {what}?",
            f"refusing to migrate without confirmation: {path} would go {what}",
            f"nexusctl db migrate --to {target}{_database_words(database)} --yes",
        ):
            return 1
    backups = Path(state_directory(), "backups")
    older = set(backups.glob("*.db"))
    before, after = migrate_database(path, backups, target)
    backup = max(set(backups.glob(f"{path.resolve().stem}-before-v{target}-*.db")) - older, default=None)

    def sentence() -> None:
        if before == after:
            click.echo(f"The database is at schema version {after} already")
        else:
            click.echo(f"Migrated {path} from schema version {before} to {after}")
            click.echo(f"The database as it was: {backup}")

    record = {"path": str(path), "from": before, "to": after} | ({"backup": str(backup)} if backup else {})
    printer(output, no_header).one(record, key="path", sentence=sentence)
    return 0


@click.command
@_database_option
@output_options
@click.pass_obj
def _check(app: Any, database: str | None, output: str, no_header: bool) -> int:
    """Read the whole database and tell whether it is sound; a running daemon does not mind.

    Without --db it is the running daemon's own.
    """
    path = app.database_path(database)
    if database is None:
        path = daemon_database(app) or path
    report, state, remedy = examine(path, database)

    def sentence() -> None:
        click.echo(f"{report.path}: schema version {report.schema_version}, {state}")
        width = max(map(len, report.tables), default=0)
        for table, rows in report.tables.items():
            click.echo(f"  {table:<{width}}  {rows} rows")
        for problem in report.problems:
            click.echo(f"  {problem}", err=True)
        if remedy:
            hint(remedy)

    printer(output, no_header).one(report._asdict(), key="path", sentence=sentence)
    return 1 if report.problems else 0


def examine(path: Path, database: str | None = None) -> tuple[CheckReport, str, str | None]:
    """Read a whole database: the report, its verdict in a few words, and what mends it.

    ``database`` is how it was named on the line, for the commands in the remedy.

    Raises:
        InitError: it cannot be read at all; the hint says what to do.
    """
    from nexus.store.base import DatabaseDamaged, InitError
    from nexus.store.maintenance import check_database
    from nexus.store.migrate import target_version

    restore = f"Put a backup in its place: nexusctl daemon stop; nexusctl db restore BACKUP{_database_words(database)}"
    permissions = f"Look at the permissions: ls -ld {shlex.quote(str(path.parent))} {shlex.quote(str(path))}"
    try:
        if path.is_dir():
            raise InitError(f"cannot check {path}: it is a folder", hint="Give the file in it: --db PATH")
        if path.exists() and not os.access(path, os.R_OK):
            raise PermissionError
        report = check_database(path)
    except PermissionError:
        raise InitError(f"cannot check {path}: permission denied", hint=permissions) from None
    except DatabaseDamaged as error:
        if getattr(error.__cause__, "sqlite_errorname", "").startswith(_UNREADABLE):
            raise InitError(error.message, hint=permissions) from error
        raise DatabaseDamaged(error.message, hint=restore) from error
    if report.schema_version > target_version():
        return report, "newer than this program", "Run the newer nexusd that it belongs to."
    if not report.schema_version:
        return report, "not a database of Nexus", "Name the right one: --db PATH, or NEXUS_DATABASE."
    if report.problems:
        return report, "damaged", restore
    return report, "ok", None


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
