"""``nexusctl db``: maintains the database, through the daemon while it runs, or as a file while it does not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from nexus_protocol.errors import FailedPrecondition, Internal

from nexus.cli.output import Printer, confirm, format_size, format_time, hint, output_options, print_fields, printer
from nexus.cli.result import made
from nexus.cli.verbs import NounGroup, Number, Values, verb, verb_of
from nexus.hints import command_line
from nexus.search.commands import RebuildSearchIndex
from nexus.system.commands import Backup, BackupDatabase, Database, Health, HealthReport

if TYPE_CHECKING:
    from nexus.cli.app import App
    from nexus.store.maintenance import CheckReport, Restored

__all__ = ["count_words", "database_option", "db", "examine"]

_UNREADABLE = ("SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_READONLY", "SQLITE_AUTH")
"""Names of SQLite errors for an intact file that this user may not open."""

_FILE_WORDS = {"blobs": "blob", "job-logs": "job log", "service-logs": "service log"}


def count_words(number: int, name: str) -> str:
    """How a sentence counts files of a kind, such as ``2 blobs``."""
    return f"{number} {_FILE_WORDS.get(name, name)}{'' if number == 1 else 's'}"


database_option = click.option(
    "--db", "database", metavar="PATH", help="The database (default: as for nexusd; NEXUS_DATABASE)."
)


def _status(app: App, command: Health, out: Printer) -> None:
    health = app.fetch(command)
    if health.record.database is None:
        raise Internal("cannot read the database", hint="See: nexusctl doctor")

    def sentence(database: Database) -> None:
        print_fields(
            [
                ("Database", database.path),
                ("Size", f"{database.size_bytes} bytes"),
                ("Schema", f"version {database.schema_version}"),
                ("Journal", database.journal_mode),
                ("Tables", f"{database.table_count} ({', '.join(database.tables)})"),
            ]
        )
        click.echo("Migrations:")
        for migration in database.migrations:
            applied = format_time(migration.get("applied_at")) or "at an unknown time"
            click.echo(f"  {migration['version']:04d} {migration['name']:<16} {applied}")

    out.one(health.part(HealthReport.database), name=lambda database: database.path, sentence=sentence)


def _backup(app: App, values: Values, out: Printer) -> None:
    path = values.text("path")
    command = values.build(BackupDatabase, path=str(Path(path).absolute()) if path else None)

    def sentence(backup: Backup) -> None:
        click.echo(f"Backed up to {backup.path} ({backup.size_bytes} bytes)")
        files = ", ".join(
            f"{count_words(each.count, each.name)} ({format_size(each.size_bytes)})"
            for each in backup.files
            if each.count
        )
        if files:
            click.echo(f"{'It has' if backup.with_files else 'It leaves out'} {files}")
        if backup.pruned:
            click.echo(f"Deleted {backup.pruned} older backup{'s' if backup.pruned > 1 else ''}")
        for each in backup.files:
            for number, state in ((each.missing, "missing"), (each.damaged, "damaged")):
                if number:
                    click.echo(f"{state.capitalize()}: {count_words(number, each.name)}", err=True)
        if files and not backup.with_files:
            hint("To back them up as well: nexusctl db backup --with-files")

    out.one(app.fetch(command), name=lambda backup: backup.path, sentence=sentence)


def _database_option_words(database: str | None) -> list[str]:
    """The ``--db`` option that makes a suggested command use the same database."""
    return ["--db", database] if database else []


def _operand(path: Path) -> str:
    """The path as a word that no program takes for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def _refuse_ambiguous_database(app: App, path: Path, action: str) -> None:
    """Refuse a default database that is not the one that the running daemon uses."""
    used = app.daemon_database()
    if used is not None and used.resolve() != path.resolve():
        raise FailedPrecondition(
            f"cannot {action}: which one? The running daemon uses {used}, and not {path}",
            hint="Stop it first: nexusctl daemon stop\nor name the database: --db PATH",
        )


@click.command
@click.argument("backup", type=click.Path(path_type=Path))
@database_option
@click.option("-y", "--yes", is_flag=True, help="Skip confirmation.")
@output_options
@click.pass_obj
def _restore(app: App, backup: Path, database: str | None, yes: bool, output: str, no_header: bool) -> int:
    """Replace the database with a backup, while no daemon runs.

    A backup with files brings the blobs of messages and the output of jobs and services back, too. The replaced
    database is kept beside it under a dated name, with what it refers to. Event numbers continue above its highest.
    """
    from nexus.capabilities import file_sets
    from nexus.store.backup import no_file
    from nexus.store.base import InitError
    from nexus.store.maintenance import refuse_if_used, restore_database
    from nexus.store.restore_files import verify_backup

    path = app.database_path(database)
    if database is None:
        _refuse_ambiguous_database(app, path, "restore the database")
    if not backup.is_file():
        raise InitError(f"cannot restore {backup}: {no_file(backup)}", hint=f"Backups are in {path.parent}/backups")
    refuse_if_used(path, "restore the database")
    if not yes:
        verify_backup(backup.absolute())
    if not yes and not confirm(
        f"Replace {path} with {backup}?",
        "refusing to replace the database without confirmation",
        command_line("nexusctl", "db", "restore", _operand(backup), *_database_option_words(database), "--yes"),
    ):
        return 1
    restored = restore_database(path, backup, file_sets())

    def sentence(restored: Restored) -> None:
        click.echo(f"Restored {restored.path} (schema version {restored.schema_version})")
        if restored.set_aside:
            click.echo(f"The replaced database is {restored.set_aside}")
        for name, number in (restored.missing or {}).items():
            click.echo(f"Missing or damaged: {count_words(number, name)} that records refer to", err=True)
        if restored.missing:
            hint("See which: nexusctl db check")
        for note in restored.notes:
            click.echo(note.sentence)
        hint("\n".join(["Start the daemon: nexusctl daemon start", *(note.hint for note in restored.notes)]))

    plain = restored._asdict() | {"notes": [note.sentence for note in restored.notes]}
    printer(output, no_header).one(made(restored, plain), name=lambda restored: restored.path, sentence=sentence)
    return 0


@click.command
@click.option("--to", "target", type=Number(1), required=True, metavar="N", help="The schema version to go to.")
@database_option
@click.option("-y", "--yes", is_flag=True, help="Skip confirmation (needed to go back).")
@output_options
@click.pass_obj
def _migrate(app: App, target: int, database: str | None, yes: bool, output: str, no_header: bool) -> int:
    """Migrate the database to another schema version, forward or back, while no daemon runs.

    A verified backup is made first. Going back drops the tables and columns that the older schema does not have.
    """
    from nexus.paths import state_directory
    from nexus.store.maintenance import migrate_database, plan_migration

    path = app.database_path(database)
    if database is None:
        _refuse_ambiguous_database(app, path, "migrate the database")
    plan = plan_migration(path, target)
    if target < plan.current and not yes:
        drops = ", ".join(f"{table} ({rows} rows)" for table, rows in plan.drops.items())
        change = f"from schema version {plan.current} back to {target}" + (f", which drops {drops}" if drops else "")
        if not confirm(
            f"Migrate {path} {change}?",
            f"refusing to migrate without confirmation: {path} would go {change}",
            command_line("nexusctl", "db", "migrate", "--to", target, *_database_option_words(database), "--yes"),
        ):
            return 1
    backups = Path(state_directory(), "backups")
    older = set(backups.glob("*.db"))
    before, after = migrate_database(path, backups, target)
    backup = max(set(backups.glob(f"{path.resolve().stem}-before-v{target}-*.db")) - older, default=None)

    def sentence(path: Path) -> None:
        if before == after:
            click.echo(f"The database is already at schema version {after}")
        else:
            click.echo(f"Migrated {path} from schema version {before} to {after}")
            click.echo(f"Backup of the old database: {backup}")

    plain = {"path": str(path), "from": before, "to": after} | ({"backup": str(backup)} if backup else {})
    printer(output, no_header).one(made(path, plain), name=str, sentence=sentence)
    return 0


@click.command
@database_option
@click.option("--deep", is_flag=True, help="Read the content of every blob, too.")
@output_options
@click.pass_obj
def _check(app: App, database: str | None, deep: bool, output: str, no_header: bool) -> int:
    """Check the integrity of the whole database, and that the blobs of messages are there.

    This works while the daemon runs. Without --db it checks the database of the running daemon.
    """
    path = app.database_path(database)
    if database is None:
        path = app.daemon_database() or path
    report, state, remedy = examine(path, database, deep=deep)

    def sentence(report: CheckReport) -> None:
        click.echo(f"{report.path}: schema version {report.schema_version}, {state}")
        width = max(map(len, report.tables), default=0)
        for table, rows in report.tables.items():
            click.echo(f"  {table:<{width}}  {rows} rows")
        for name, counts in report.files.items():
            if counts["files"]:
                click.echo(f"{count_words(counts['files'], name)}, {format_size(counts['size_bytes'])}")
        for problem in (*report.problems, *report.file_problems):
            click.echo(f"  {problem}", err=True)
        if remedy:
            hint(remedy)

    printer(output, no_header).one(made(report, report._asdict()), name=lambda report: report.path, sentence=sentence)
    return 1 if report.problems or report.file_problems or report.behind else 0


@click.command
@database_option
@output_options
@click.pass_obj
def _reindex(app: App, database: str | None, output: str, no_header: bool) -> None:
    """Make the search index again from all texts.

    The running daemon does it in small steps beside its other work; without one the database is changed directly.
    """
    path = app.database_path(database)
    used = app.daemon_database()
    if used is not None and (database is None or used.resolve() == path.resolve()):
        path, docs = used, app.call(RebuildSearchIndex()).docs
    else:
        from nexus.store.maintenance import reindex_database

        docs = reindex_database(path)
    printer(output, no_header).one(
        made(path, {"path": str(path), "docs": docs}),
        name=str,
        sentence=lambda path: click.echo(f"Rebuilt the search index of {path} ({docs} texts)"),
    )


def examine(path: Path, database: str | None = None, *, deep: bool = False) -> tuple[CheckReport, str, str | None]:
    """Check a whole database; returns the report, the state in a few words, and a remedy if one is needed.

    ``database`` is the value of ``--db``, for the commands in the remedy. With ``deep`` the blobs are read.

    Raises:
        InitError: the file cannot be read; the hint says what to do.
    """
    from nexus.capabilities import file_sets
    from nexus.store.base import DatabaseDamaged, InitError
    from nexus.store.maintenance import check_database
    from nexus.store.migrate import target_version

    restore = (
        "Replace it with a backup: nexusctl daemon stop; "
        f"{command_line('nexusctl', 'db', 'restore', 'BACKUP', *_database_option_words(database))}"
    )
    permissions = f"Check the permissions: {command_line('ls', '-ld', path.parent, path)}"
    try:
        if path.is_dir():
            raise InitError(f"cannot check {path}: it is a directory", hint="Name the file in it: --db PATH")
        if path.exists() and not os.access(path, os.R_OK):
            raise PermissionError
        report = check_database(path, file_sets(), deep=deep)
    except PermissionError:
        raise InitError(f"cannot check {path}: permission denied", hint=permissions) from None
    except DatabaseDamaged as error:
        if getattr(error.__cause__, "sqlite_errorname", "").startswith(_UNREADABLE):
            raise InitError(error.message, hint=permissions) from error
        raise DatabaseDamaged(error.message, hint=restore) from error
    if report.schema_version > target_version():
        return report, "newer than this program", "Run the newer version of nexusd that created it."
    if not report.schema_version:
        return report, "not a database of Nexus", "Name the database of Nexus: --db PATH, or NEXUS_DATABASE."
    if report.problems:
        return report, "damaged", restore
    if report.behind is not None:
        remedy = command_line("nexusctl", "db", "reindex", *_database_option_words(database))
        return report, f"the search index is behind: {report.behind}", f"Rebuild it: {remedy}"
    if report.file_problems:
        return report, "intact, but files are missing or damaged", "Restore a backup that has them, if there is one."
    return report, "ok", None


def _make_backup() -> click.Command:
    path = click.Argument(["path"], required=False, metavar="[PATH]")
    return verb(BackupDatabase, _backup, parameters=[path], exclude=("path",))


def _of_files(name: str) -> Callable[[], click.Command]:
    """What builds a verb of ``db_files``, which is imported when it is used."""

    def build() -> click.Command:
        from importlib import import_module

        command: click.Command = getattr(import_module("nexus.cli.db_files"), name)
        return command

    return build


db = NounGroup(
    "db",
    "Maintain the database. status and backup ask the running daemon; restore and migrate need a stopped one.",
    {
        "status": ("Show the database's tables and migrations.", lambda: verb_of(Health, _status)),
        "backup": ("Copy the database while it is in use.", _make_backup),
        "backups": ("List the backups, newest first.", _of_files("backups")),
        "restore": ("Replace the database with a backup.", lambda: _restore),
        "migrate": ("Migrate the database to another schema version.", lambda: _migrate),
        "check": ("Check the integrity of the database and its files.", lambda: _check),
        "gc": ("Delete files that no record refers to.", _of_files("gc")),
        "sql": ("Answer one SQL statement that reads.", _of_files("sql")),
        "reindex": ("Make the search index again.", lambda: _reindex),
    },
)
