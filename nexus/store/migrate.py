"""Numbered migrations: reads them, and applies or reverts them, each in one transaction with its own record.

A migration is ``migrations/NNNN_name.sql`` with an ``up`` and a ``down`` part. Each part runs statement by statement
in one transaction that also stores the new version in ``schema_meta``, so a crash leaves the schema before or after a
step, never within one. A part ``refuse down`` between them has queries: each row that one gives is a reason not to go
back, as a clause for the error message. These queries run before the first step, on the schema that is there, and again
within their own step: they must be valid on every later schema too.

A new database gets the newest schema from ``schema.sql``, in one transaction: what all migrations make, without the
tables that they change on the way. tests/data/schemas/freeze.py writes that file, and a test holds both equal.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from pathlib import Path
from typing import NamedTuple

from nexus.store.base import AppliedMigration, InitError

__all__ = [
    "Migration",
    "applied_migrations",
    "available_migrations",
    "migrate",
    "refuse_to_revert",
    "split_statements",
    "stored_version",
    "target_version",
    "version_number",
]

_HISTORY = 8
"""The version from which on the journal has images. What a migration does to the rows has none."""
_NAMED_REASONS = 20
"""How many reasons an error message names; it counts the others."""
_DIRECTORY = Path(__file__).parent / "migrations"
_NEWEST = Path(__file__).parent / "schema.sql"


class Migration(NamedTuple):
    """One step of the schema."""

    version: int
    name: str
    up: tuple[str, ...]
    down: tuple[str, ...]
    refuse_down: tuple[str, ...] = ()
    """Queries whose rows are reasons not to go down."""


def available_migrations(directory: Path = _DIRECTORY) -> list[Migration]:
    """Read the migrations of a directory, sorted by version.

    Raises:
        InitError: a number is missing or repeated, or a file lacks a part.
    """
    found: list[Migration] = []
    for path in _files(directory):
        number, _, name = path.stem.partition("_")
        _head, up_mark, rest = path.read_text(encoding="utf-8").partition("-- migrate: up\n")
        up, down_mark, down = rest.partition("-- migrate: down\n")
        up, _, refuse_down = up.partition("-- migrate: refuse down\n")
        if not up_mark or not down_mark or not split_statements(up):
            raise InitError(f"cannot use migration {path.name}: it needs an up part and a down part")
        found.append(Migration(int(number), name, *(split_statements(part) for part in (up, down, refuse_down))))
    for expected, migration in enumerate(found, start=1):
        if migration.version != expected:
            raise InitError(f"cannot use the migrations: number {expected} is missing or {migration.version} repeats")
    return found


def target_version() -> int:
    """Return the schema version that this program works with."""
    return len(_files(_DIRECTORY))


def _files(directory: Path) -> list[Path]:
    return sorted(directory.glob("[0-9][0-9][0-9][0-9]_*.sql"))


def split_statements(script: str) -> tuple[str, ...]:
    """Split an SQL script into statements. ``executescript`` cannot be used: it commits the open transaction."""
    statements: list[str] = []
    pending = ""
    for line in script.splitlines(keepends=True):
        if not pending and (not line.strip() or line.lstrip().startswith("--")):
            continue
        pending += line
        if sqlite3.complete_statement(pending):
            statements.append(pending.strip())
            pending = ""
    if pending.strip():
        raise InitError(f"cannot use a migration: a statement is not finished: {pending.strip()[:60]}")
    return tuple(statements)


def stored_version(connection: sqlite3.Connection) -> str | None:
    """Return the raw schema version; None when the database has no ``schema_meta`` with our columns."""
    columns = connection.execute(
        "SELECT count(*) FROM pragma_table_info('schema_meta') WHERE name IN ('key', 'value')"
    ).fetchone()[0]
    if columns != 2:
        return None
    row = connection.execute("SELECT value FROM schema_meta WHERE key = 'version'").fetchone()
    return str(row[0]) if row else ""


def version_number(raw: str | None) -> int:
    """Convert the result of ``stored_version`` to a number; 0 when it is not one."""
    if not raw or not raw.isascii() or not raw.isdigit():
        return 0
    return int(raw[:18])  # 18 digits fit into 64 bits, and are above every version


def applied_migrations(rows: list[tuple[str, str]]) -> list[AppliedMigration]:
    """Decode the ``migration:`` rows of ``schema_meta``."""
    found = []
    for key, value in rows:
        record = json.loads(value)
        found.append(AppliedMigration(int(key.removeprefix("migration:")), record["name"], record.get("applied_at")))
    return sorted(found)


def migrate(connection: sqlite3.Connection, current: int, target: int, *, by_steps: bool = False) -> None:
    """Migrate the schema from version ``current`` to ``target``, up or down, in one transaction for each step.

    A new database, whose version is 0, gets the newest schema in one step, unless ``by_steps`` is set. ``connection``
    must be in autocommit mode with no transaction open. ``refuse_to_revert`` finds most reasons against going down
    before anything is changed.

    Raises:
        InitError: a step failed, or the rows prevent it; the schema is as the previous step left it.
    """
    if current == target:
        return
    if current == 0 and target == target_version() and not by_steps:
        _create(connection, target)
        return
    migrations = available_migrations()
    if not 1 <= target <= len(migrations):
        raise InitError(f"cannot migrate to version {target}: the versions are 1 to {len(migrations)}")
    if target >= current:
        steps = [(m, m.up, m.version) for m in migrations[current:target]]
    else:
        steps = [(m, m.down, m.version - 1) for m in reversed(migrations[target:current])]
    for migration, statements, version in steps:
        barrier = (current, target) if 0 < current < target == version >= _HISTORY else None
        _step(connection, migration, statements, version, barrier)


def _create(connection: sqlite3.Connection, version: int) -> None:
    """Make the newest schema at once, with the record of each migration."""
    at = int(time.time() * 1000)
    named = (path.stem.partition("_") for path in _files(_DIRECTORY))
    rows = [(f"migration:{number}", json.dumps({"name": name, "applied_at": at})) for number, _, name in named]
    script = _NEWEST.read_text(encoding="utf-8")
    try:
        # The transaction begins within the script: executescript ends one that is open.
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}")
        connection.executemany("INSERT INTO schema_meta (key, value) VALUES (?, ?)", [("version", str(version)), *rows])
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise InitError(
            f"cannot create the schema: {error}", hint="The database is as it was, without a schema."
        ) from error


def _step(
    connection: sqlite3.Connection,
    migration: Migration,
    statements: tuple[str, ...],
    version: int,
    barrier: tuple[int, int] | None,
) -> None:
    """Apply one step; with ``barrier``, the versions before and after all steps, the journal tells the migration."""
    record = json.dumps({"name": migration.name, "applied_at": int(time.time() * 1000)})
    key = f"migration:{migration.version:04d}"
    try:
        connection.execute("BEGIN IMMEDIATE")
        if version < migration.version:
            _refuse_down(connection, migration, "The database is as it was before this step.")
        for statement in statements:
            connection.execute(statement)
        connection.execute("INSERT OR REPLACE INTO schema_meta (key, value) VALUES ('version', ?)", (str(version),))
        if version == migration.version:
            connection.execute("INSERT OR REPLACE INTO schema_meta (key, value) VALUES (?, ?)", (key, record))
        else:
            connection.execute("DELETE FROM schema_meta WHERE key = ?", (key,))
        if barrier is not None:
            before, after = barrier
            connection.execute(
                "INSERT INTO journal (at, kind, subject_kind, subject_id, uid, pid, detail) "
                "VALUES (?, 'schema.migrated', 'schema', ?, ?, ?, ?)",
                (
                    int(time.time() * 1000),
                    str(after),
                    os.getuid(),
                    os.getpid(),
                    json.dumps({"from": before, "to": after}),
                ),
            )
        violation = connection.execute("PRAGMA foreign_key_check").fetchone()
        if violation is not None:
            raise sqlite3.IntegrityError(f"table {violation[0]} would refer to rows that do not exist")
        connection.execute("COMMIT")
    except InitError:
        connection.execute("ROLLBACK")
        raise
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise InitError(
            f"cannot apply migration {migration.version} ({migration.name}): {error}",
            hint="The database is as it was before this step. The backup made before it is in the backups folder.",
        ) from error


def refuse_to_revert(connection: sqlite3.Connection, current: int, target: int) -> None:
    """Refuse a migration down to ``target`` where the older schema cannot hold the rows. It only reads.

    Raises:
        InitError: there are such rows; the message names the records.
    """
    for migration in reversed(available_migrations()[max(target, 0) : current]):
        _refuse_down(connection, migration, "The database is unchanged.")


def _refuse_down(connection: sqlite3.Connection, migration: Migration, effect: str) -> None:
    """Refuse to revert one migration; ``effect`` is a sentence of the hint, about the state of the database.

    Raises:
        InitError: its queries give reasons.
    """
    reasons = [reason for query in migration.refuse_down for (reason,) in connection.execute(query)]
    if not reasons:
        return
    named = "; ".join(reasons[:_NAMED_REASONS])
    more = f"; and {len(reasons) - _NAMED_REASONS} more" if len(reasons) > _NAMED_REASONS else ""
    raise InitError(
        f"cannot revert migration {migration.version} ({migration.name}): {named}{more}",
        hint=f"{effect} Start the daemon, change or delete these records, and migrate again.",
    )
