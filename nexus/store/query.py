"""Answers one SQL statement from a database that is in use: it only reads, and only for a while.

SQLite's authorizer decides what a statement may do when it is prepared (sqlite3_set_authorizer). A column that may hold
a secret reads as NULL, also within expressions.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nexus_protocol.errors import Cancelled, DeadlineExceeded, InvalidArgument

from nexus.store.backup import no_file, readable
from nexus.store.base import DatabaseDamaged, InitError, StoreError
from nexus.store.connection import connect

__all__ = ["SECRET_COLUMNS", "Answer", "QueryRefused", "query"]

SECRET_COLUMNS = frozenset(
    {
        ("jobs", "environment"),
        ("jobs", "stdin_data"),
        ("schedules", "environment"),
        ("schedules", "variables"),
        ("secret_value", "value"),
        ("service", "environment"),
        ("service", "start_environment"),
    }
)
"""The columns whose values no list and no ``inspect`` shows."""

_STEPS = 10_000
"""Instructions of SQLite's machine between two looks at the clock: some 0.1 ms."""
_READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_PRAGMAS = frozenset(
    {
        *("table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list"),
        *("database_list", "collation_list", "function_list", "compile_options", "schema_version", "user_version"),
        *("data_version", "page_count", "page_size", "freelist_count", "journal_mode", "encoding"),
    }
)
"""Those that only read; none of them may be given a value, but for a name."""
_NAMED = frozenset({name for name in _PRAGMAS if name.endswith(("_info", "_xinfo", "index_list", "foreign_key_list"))})
_FORBIDDEN_FUNCTIONS = frozenset({"load_extension", "fts3_tokenizer", "writefile", "readfile", "edit"})
_FORBIDDEN_TABLES = frozenset({"sqlite_dbpage", "sqlite_dbdata", "sqlite_dbptr"})
"""They read pages of the file, past what is decided of columns."""
_ACTIONS = {
    sqlite3.SQLITE_INSERT: "inserts",
    sqlite3.SQLITE_UPDATE: "updates",
    sqlite3.SQLITE_DELETE: "deletes",
    sqlite3.SQLITE_ATTACH: "attaches a database",
    sqlite3.SQLITE_DETACH: "detaches a database",
    sqlite3.SQLITE_PRAGMA: "uses a pragma that is not among those that read",
    sqlite3.SQLITE_FUNCTION: "calls a function that reaches outside of the database",
    sqlite3.SQLITE_TRANSACTION: "begins or ends a transaction",
    sqlite3.SQLITE_SAVEPOINT: "begins or ends a transaction",
    sqlite3.SQLITE_READ: "reads the pages of the file",
}


class QueryRefused(StoreError, InvalidArgument):
    """The statement is not one that can be answered."""

    type = "store.query_refused"


class Answer(NamedTuple):
    """The rows of a statement."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    more: bool
    """Whether it has more rows than were asked for."""
    secret: list[str]
    """The columns that it read as NULL, as TABLE.COLUMN."""


class _Guard:
    """Decides what a statement may do, and notes what it may not."""

    def __init__(self) -> None:
        self.refused: str | None = None
        self.secret: set[str] = set()

    def __call__(self, action: int, first: str | None, second: str | None, _base: str | None, _by: str | None) -> int:
        if action == sqlite3.SQLITE_READ and first not in _FORBIDDEN_TABLES:
            if (str(first).lower(), str(second).lower()) in SECRET_COLUMNS:
                self.secret.add(f"{first}.{second}")
                return sqlite3.SQLITE_IGNORE
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION and str(second).lower() in _FORBIDDEN_FUNCTIONS:
            return self._deny(action)
        if action in _READS or (action == sqlite3.SQLITE_UPDATE and first == "sqlite_master"):
            # SQLite asks this before it makes a table-valued function known; a statement cannot update that table.
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_PRAGMA and first in _PRAGMAS and (second is None or first in _NAMED):
            return sqlite3.SQLITE_OK
        return self._deny(action)

    def _deny(self, action: int) -> int:
        self.refused = self.refused or _ACTIONS.get(action, "changes the schema")
        return sqlite3.SQLITE_DENY


def query(path: Path, statement: str, *, limit: int, timeout_s: float) -> Answer:
    """Run one statement on the database ``path``, which may be in use; returns at most ``limit`` rows.

    Raises:
        QueryRefused: it is no statement that reads.
        DeadlineExceeded: it took longer than ``timeout_s``.
        Cancelled: it was interrupted.
        InitError: the database cannot be opened.
        DatabaseDamaged: it cannot be read.
    """
    path = path.absolute()
    if not path.is_file():
        raise InitError(f"cannot read {path}: {no_file(path)}", hint="Name the database: --db PATH")
    ends_at = time.monotonic() + timeout_s
    guard = _Guard()
    try:
        connection = connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5, isolation_level=None)
        with contextlib.closing(connection):
            connection.execute("PRAGMA query_only = ON")
            connection.text_factory = readable
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            connection.set_authorizer(guard)
            connection.set_progress_handler(lambda: time.monotonic() > ends_at, _STEPS)
            try:
                cursor = connection.execute(statement)
                rows = cursor.fetchmany(limit + 1) if cursor.description else []
                columns = _unique([column[0] for column in cursor.description or ()])
            except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
                raise _refusal(error, guard, time.monotonic() > ends_at, timeout_s, path) from error
            finally:
                # While the connection has an authorizer, closing it is refused nothing; it is removed for clarity.
                connection.set_authorizer(None)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise DatabaseDamaged(f"cannot read {path}: {error}", hint="Check it: nexusctl db check") from error
    if not columns:
        raise QueryRefused("cannot run the statement: it is empty")
    return Answer(columns, rows[:limit], len(rows) > limit, sorted(guard.secret))


def _refusal(
    error: Exception, guard: _Guard, over: bool, timeout_s: float, path: Path
) -> QueryRefused | DeadlineExceeded | Cancelled | DatabaseDamaged:
    code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
    if guard.refused is not None:
        return QueryRefused(
            f"cannot run the statement: db sql only reads, and the statement {guard.refused}",
            hint="Change records with the other verbs: nexusctl --help",
        )
    if code == sqlite3.SQLITE_INTERRUPT:
        if over:
            return DeadlineExceeded(
                f"cannot run the statement within {timeout_s:g} s", hint="Give it more time: --timeout SECONDS"
            )
        return Cancelled("cannot run the statement: it was interrupted")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return DatabaseDamaged(f"cannot read {path}: {error}", hint="Check it: nexusctl db check")
    return QueryRefused(f"cannot run the statement: {error}")


def _unique(names: Sequence[str]) -> list[str]:
    """The names of columns, those that come again with a number."""
    found: list[str] = []
    for name in names:
        number, unique = 2, name
        while unique in found:
            unique, number = f"{name}_{number}", number + 1
        found.append(unique)
    return found
