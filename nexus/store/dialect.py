"""What the SQL of this store's database can do beyond the standard, as text for the statements of ``store.py`` files.

A store of another database has a module with the same names. Every other statement outside ``nexus.store`` is in the
part of SQL that SQLite and PostgreSQL share; tests/test_architecture.py holds it.
"""

from __future__ import annotations

__all__ = ["contains_text", "differs", "highest_number", "like_pattern", "matches_pattern"]


def matches_pattern(column: str) -> str:
    """The condition that a text matches a pattern, which is its one parameter, made by ``like_pattern``."""
    return f"{column} GLOB ?"


def like_pattern(pattern: str) -> str:
    """The parameter of ``matches_pattern`` for a pattern in which ``*`` and ``?`` are wildcards, and nothing else."""
    return pattern.replace("[", "[[]")


def highest_number(table: str) -> str:
    """The highest number that the key of a table ever had, also of rows that were deleted; 0 without any."""
    return f"coalesce((SELECT seq FROM sqlite_sequence WHERE name = '{table}'), 0)"


def differs(column: str) -> str:
    """The condition that a column is not its one parameter, where NULL is a value as any other."""
    return f"{column} IS NOT ?"


def contains_text(column: str) -> str:
    """The condition that a text has its one parameter in it, as it stands; it is not met where there is no text."""
    return f"instr({column}, ?) > 0"
